//! Hardware addresses behind the clients of a TAP server: the data plane learns them from frames,
//! `learn-address` may object, the status file shows them (protocol §11).
//!
//! ```text
//!   workers: Learned -> learn-address, if there is one -> table of owners, AdmitStation
//!   every so often: ForgetStations -> Forgotten -> table of owners, learn-address delete
//! ```

use std::time::{Duration, Instant};

use ringway_dataplane::command::{Command, Forwarding, PeerHandle, Port};
use ringway_dataplane::forward::mac_table::Station;
use ringway_dataplane::forward::vlan::{self, Accept, DevicePort};
use ringway_dataplane::tun::DeviceKind;

use super::Server;
use super::client::Client;
use super::scripts::{Waiting, command, log_failure};
use crate::config::options::Options;
use crate::config::server::{ServerOptions, VlanAccept};
use crate::host::script::Hook;
use crate::host::server_scripts::{HookFailure, LearnAddress, LearnOperation};
use crate::log;
use crate::server::routes::{Address, Question};

/// How frames are switched.
pub(super) fn forwarding(settings: &ServerOptions) -> Forwarding {
    Forwarding::Switched {
        client_to_client: settings.client_to_client,
        ask_first: settings.learn_address.is_some(),
        vlan: settings.vlan_tagging.then_some(DevicePort {
            accept: match settings.vlan_accept {
                VlanAccept::All => Accept::All,
                VlanAccept::Tagged => Accept::Tagged,
                VlanAccept::Untagged => Accept::Untagged,
            },
            pvid: settings.vlan_pvid,
        }),
    }
}

/// When learned addresses are next looked at (`stale-routes-check`).
#[derive(Default)]
pub(super) struct StaleCheck {
    next: Option<Instant>,
}

impl StaleCheck {
    /// The age in seconds from which on addresses are to be forgotten, when it is time to look.
    fn due(&mut self, options: &Options, settings: &ServerOptions, now: Instant) -> Option<u32> {
        let (age, interval) = settings.stale_routes_check?;
        if options.dev_type != DeviceKind::Tap || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let first = self.next.is_none();
        self.next = Some(now + Duration::from_secs(interval.max(1)));
        (!first).then(|| u32::try_from(age).unwrap_or(u32::MAX))
    }
}

fn address(station: Station) -> Address {
    Address::Mac(station.mac.0, station.vlan)
}

impl Server<'_> {
    /// What the switch is to know of a client.
    pub(super) fn set_port(&mut self, client: &Client) {
        if self.options.dev_type != DeviceKind::Tap {
            return;
        }
        let own = client.config.vlan_pvid;
        let limit = client.config.max_routes_per_client;
        let port = Port {
            vlan: match self.settings.vlan_tagging {
                true => own.unwrap_or(self.settings.vlan_pvid),
                false => vlan::NONE,
            },
            stations: limit.unwrap_or(self.settings.max_routes_per_client),
        };
        self.command(Command::SetPort(client.handle, port));
    }

    /// A client sent a frame from an address that was not its own, and lost another for it.
    pub(super) fn station_learned(
        &mut self,
        peer: PeerHandle,
        station: Station,
        replaced: Option<Station>,
    ) {
        if let Some(replaced) = replaced {
            self.station_forgotten(peer, replaced);
        }
        self.with_client(peer, |server, client| {
            // One that has made room is not asked about any more: else a client with ever new
            // addresses would fill the queue of everybody's scripts.
            server.forget_scripts_if(client, |waiting| {
                matches!(waiting, Waiting::Station(_, _, asked) if Some(*asked) == replaced)
            });
            let asked = |waiting: &Waiting| matches!(waiting, Waiting::Station(_, _, asked) if *asked == station);
            if client.waiting.iter().any(asked) {
                return;
            }
            if server.settings.learn_address.is_none() {
                server.take_address(client, address(station));
            } else if let Err(failure) = server.ask_for_station(client, station) {
                log_failure(&failure);
            }
        });
    }

    /// Asks `learn-address` about an address.
    fn ask_for_station(
        &mut self,
        client: &mut Client,
        station: Station,
    ) -> Result<(), HookFailure> {
        let settings = self.settings.clone();
        let Some(script) = &settings.learn_address else {
            return Ok(());
        };
        let address = address(station);
        let operation = match self.state.routes.judge(client.handle, address) {
            Ok(Some(Question::Update(_))) => LearnOperation::Update,
            Ok(Some(Question::Add)) => LearnOperation::Add,
            Ok(None) => {
                self.admit_station(client, station);
                return Ok(());
            }
            Err(refusal) => {
                log::warn!("{} {address}: {refusal}", client.label());
                return Ok(());
            }
        };
        let label = client.label();
        let name = Some(client.common_name.as_str());
        let shared = self.client_call(client, &label, None);
        let prepared = LearnAddress::prepare(&shared, &command(script), operation, address, name);
        let hook = prepared.hook;
        self.run_script(client, Hook::LearnAddress, prepared.job, |job| {
            Waiting::Station(job, hook, station)
        })
    }

    /// The script's word on an address.
    pub(super) fn station_judged(
        &mut self,
        client: &mut Client,
        station: Station,
        verdict: Result<(), HookFailure>,
    ) {
        match verdict {
            Ok(()) => self.admit_station(client, station),
            Err(failure) => log_failure(&failure),
        }
    }

    fn admit_station(&mut self, client: &mut Client, station: Station) {
        self.take_address(client, address(station));
        self.command(Command::AdmitStation(client.handle, station));
    }

    /// A client has an address no more.
    pub(super) fn station_forgotten(&mut self, peer: PeerHandle, station: Station) {
        let Some(forgotten) = self.state.routes.unlearn(peer, address(station)) else {
            return;
        };
        self.with_client(peer, |server, client| {
            server.tell_forgotten(client, forgotten);
        });
    }

    /// `stale-routes-check`
    pub(super) fn check_stale_stations(&mut self, now: Instant) {
        let (options, settings) = (&self.options, &self.settings);
        if let Some(age) = self.stale_check.due(options, settings, now) {
            self.command(Command::ForgetStations(age));
        }
    }
}
