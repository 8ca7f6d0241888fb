//! What a client gets and what it leaves behind: options, addresses, routes, the way out
//! (protocol §11).
//!
//! ```text
//!  Ready -> name -> file in client-config-dir -> addresses -> client-connect -> learn-address
//!        -> Serve -> Negotiated: peer and routes for the data plane
//! ```

use std::net::IpAddr;
use std::time::Instant;

use ringway_dataplane::command::{Command, PeerConfig, Roles};
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::tun::DeviceKind;

use super::client::{Client, Stage};
use super::client_files::ClientFiles;
use super::scripts::{Deferred, Waiting, command, log_failure};
use super::{Server, now, settings};
use crate::config::client_config::{self, Kind};
use crate::config::options::Options;
use crate::config::server::{ClientConfig, ServerOptions};
use crate::driver::setup;
use crate::host::env::IfconfigEnd;
use crate::host::script::Hook;
use crate::host::server_scripts::{
    ClientConnect, ConnectState, ConnectVerdict, DeferredConnect, HookCall, HookFailure,
    LearnAddress, LearnOperation, Next, SessionTotals, Stage as HookStage, VirtualAddress,
    VirtualAddress6, client_disconnect, learn_address_delete,
};
use crate::log;
use crate::proto::negotiate::Negotiated;
use crate::proto::peer_info::{extensions, iv_proto};
use crate::proto::tunnel::{self, Serve};
use crate::server::addresses::{Network, pool_layout};
use crate::server::limits::{CommonNames, PeerIds};
use crate::server::pool::AddressPool;
use crate::server::pool_file::PoolFile;
use crate::server::push::{PushInput, migration, push_list};
use crate::server::routes::{Address, Change, Forgotten, Question, Routes, of_client};

/// How long `client-disconnect` and the like may take: nobody's time bounds them.
const FAREWELL_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Who has what.
pub(super) struct State {
    pub(super) ids: PeerIds,
    pub(super) names: CommonNames,
    pub(super) routes: Routes,
    pub(super) files: ClientFiles,
    network: Network,
    pool: Option<AddressPool>,
    pool_file: Option<PoolFile>,
    pool_saved: Option<Instant>,
}

impl State {
    /// # Errors
    /// The pool cannot be made, or its file cannot be used, or there is no `client-config-dir`.
    pub(super) fn new(options: &Options, settings: &ServerOptions) -> Result<Self, String> {
        let network = Network {
            device: options.dev_type,
            topology: options.topology,
            ifconfig: options.ifconfig,
            ifconfig_ipv6: options.ifconfig_ipv6,
            pool_netmask: settings.ifconfig_pool.and_then(|pool| pool.netmask),
        };
        let layout = pool_layout(settings, &network);
        let mut pool = AddressPool::new(&layout).map_err(|error| error.to_string())?;
        let mut pool_file = None;
        if let (Some(persist), Some(pool)) = (&settings.ifconfig_pool_persist, &mut pool) {
            let opened = PoolFile::open(persist, pool, now().unix);
            let (file, warnings) = opened.map_err(|error| {
                format!(
                    "ifconfig-pool-persist '{}': {error}",
                    persist.path.display()
                )
            })?;
            for warning in warnings {
                log::warn!("ifconfig-pool-persist: {warning}");
            }
            pool_file = Some(file);
        }
        let files = ClientFiles::new(options, settings)?;
        if let Some(pool) = &mut pool {
            files.reserve(options, pool);
        }
        let own = options.ifconfig.map(|i| IpAddr::V4(i.local));
        let own_v6 = options.ifconfig_ipv6.map(|i| IpAddr::V6(i.local));
        Ok(State {
            ids: PeerIds::new(settings.max_clients),
            names: CommonNames::new(settings.duplicate_cn),
            routes: Routes::new(own.into_iter().chain(own_v6)),
            files,
            network,
            pool,
            pool_file,
            pool_saved: None,
        })
    }

    /// Writes the pool's file, if there is something new.
    pub(super) fn save_pool(&mut self) {
        self.pool_saved = Some(Instant::now());
        if let (Some(pool), Some(file)) = (&self.pool, &mut self.pool_file)
            && let Err(error) = file.save(pool)
        {
            log::warn!("ifconfig-pool-persist '{}': {error}", file.path().display());
        }
    }

    /// Writes the pool's file when its time has come.
    pub(super) fn save_pool_if_due(&mut self, now: Instant) {
        let Some(seconds) = self.pool_file.as_ref().and_then(PoolFile::interval) else {
            return;
        };
        let interval = std::time::Duration::from_secs(seconds);
        if self.pool_saved.is_none_or(|last| now >= last + interval) {
            self.save_pool();
        }
    }
}

impl Server<'_> {
    /// The client is authenticated: everything it gets is decided now.
    pub(super) fn configure(&mut self, client: &mut Client) {
        // It has begun a new session, and gets what it had.
        if client.hooks.is_admitted() {
            self.serve(client);
            return;
        }
        // Or what it would have had: that is still being decided.
        if client.stage == Stage::Configuring {
            return;
        }
        client.stage = Stage::Configuring;
        client.env.set_connected_at(client.since_unix as i64);
        let name = client.common_name.clone();
        for other in self.state.names.enter(&name, client.handle) {
            log::notice!(
                "MULTI: new connection by client '{name}' will cause previous active sessions \
                 by this client to be dropped; --duplicate-cn allows several"
            );
            self.close(other, "duplicate-cn");
        }
        client.named = true;
        // Before it is read: what is written meanwhile is found later.
        client.source = self.source(&name);
        match self.state.files.of(&name) {
            Ok(config) => client.config = config,
            Err(text) => {
                log::warn!("{} client is rejected: {text}", client.label());
                self.refuse(client);
                return;
            }
        }
        if client.config.disable {
            log::notice!(
                "{} client has been rejected due to 'disable' directive",
                client.label()
            );
            self.refuse(client);
            return;
        }
        if !self.assign(client) {
            return;
        }
        let next = client.hooks.begin(HookStage::Connect);
        self.go_on_connecting(client, next);
    }

    /// Gives the client its addresses; false if it is refused for want of one.
    fn assign(&mut self, client: &mut Client) -> bool {
        let before = std::mem::take(&mut client.addresses);
        before.release(self.state.pool.as_mut(), now().unix);
        let name = Some(client.common_name.as_str());
        let name = name.filter(|name| !self.settings.duplicate_cn && !name.is_empty());
        let assigned = self
            .state
            .network
            .assign(self.state.pool.as_mut(), &client.config, name);
        match assigned {
            Ok(addresses) => client.addresses = addresses,
            Err(error) => {
                log::warn!("{} MULTI: {error}", client.label());
                self.refuse(client);
                return false;
            }
        }
        if let Some((network, mask)) = self.settings.ifconfig_push_constraint
            && let Some(v4) = client.addresses.v4
            && v4.local & mask != network
        {
            // No more than that: such configurations have always worked.
            log::warn!(
                "{} MULTI ERROR: primary virtual IP {} violates tunnel network/netmask \
                 constraint ({network}/{mask})",
                client.label(),
                v4.local
            );
        }
        let v4 = client.addresses.v4.map(|v4| VirtualAddress {
            client: v4.local,
            end: match self.state.network.has_netmask() {
                true => IfconfigEnd::Netmask(v4.remote_netmask),
                false => IfconfigEnd::Remote(v4.remote_netmask),
            },
        });
        let v6 = client.addresses.v6.map(|v6| VirtualAddress6 {
            client: v6.local,
            netbits: v6.bits,
            server: v6.remote,
        });
        client.env.set_virtual_address(v4, v6);
        true
    }

    // ---- client-connect ------------------------------------------------------------------------

    fn go_on_connecting(&mut self, client: &mut Client, next: Next) {
        match next {
            Next::Run(HookCall::LearnAddress(index, count)) => self.learn(client, index, count),
            Next::Run(_) => {
                if let Err(failure) = self.call_client_connect(client) {
                    self.connect_judged(client, ConnectVerdict::Refused(failure));
                }
            }
            Next::Passed if client.hooks.is_admitted() => self.serve(client),
            Next::Passed => self.begin_learning(client),
            Next::Refused | Next::OutOfOrder => self.refuse(client),
        }
    }

    fn call_client_connect(&mut self, client: &mut Client) -> Result<(), HookFailure> {
        let settings = self.settings.clone();
        let Some(script) = &settings.client_connect else {
            return Ok(());
        };
        let label = client.label();
        let lane = self.lane(client);
        let shared = self.client_call(client, &label, Some(&lane));
        let prepared = ClientConnect::prepare(&shared, &command(script))?;
        let hook = prepared.hook;
        self.run_script(client, Hook::ClientConnect, prepared.job, |job| {
            Waiting::Connect(job, hook)
        })
    }

    /// Scripts that tell of a client's coming and going run in order: for each name, or where several
    /// clients may have one name, or this has none, for each client.
    fn lane(&self, client: &Client) -> String {
        match self.settings.duplicate_cn || client.common_name.is_empty() {
            false => client.common_name.clone(),
            true => format!("{}#{}", client.common_name, client.handle.0),
        }
    }

    /// The script's word.
    pub(super) fn connect_judged(&mut self, client: &mut Client, verdict: ConnectVerdict) {
        match verdict {
            ConnectVerdict::Accepted(text) => self.take_options(client, &text),
            ConnectVerdict::Refused(failure) => {
                log_failure(&failure);
                let next = client.hooks.failed(HookCall::ClientConnect);
                self.go_on_connecting(client, next);
            }
            ConnectVerdict::Deferred(connect) => self.look_for_connect(client, connect),
        }
    }

    pub(super) fn look_for_connect(&mut self, client: &mut Client, mut connect: DeferredConnect) {
        match connect.check() {
            ConnectState::Pending => {
                let at = Instant::now() + connect.pause();
                client.deferred.push(Deferred::Connect(at, connect));
            }
            ConnectState::Accepted(text) => self.take_options(client, &text),
            ConnectState::Refused(failure) => {
                self.connect_judged(client, ConnectVerdict::Refused(failure));
            }
        }
    }

    fn take_options(&mut self, client: &mut Client, text: &str) {
        let name = format!("client-connect of {}", client.label());
        match client_config::parse(&name, text.as_bytes(), Kind::Connect) {
            Ok((config, warnings)) => {
                for warning in warnings {
                    log::warn!("{warning}");
                }
                if let Some(source) = &mut client.source {
                    source.note_connect(&config);
                }
                let moved = config.ifconfig_push.is_some() || config.ifconfig_ipv6_push.is_some();
                client.config.apply(config);
                if client.config.disable {
                    log::notice!(
                        "{} client has been rejected due to 'disable' directive",
                        client.label()
                    );
                    let next = client.hooks.failed(HookCall::ClientConnect);
                    self.go_on_connecting(client, next);
                    return;
                }
                if moved && !self.assign(client) {
                    return;
                }
                let next = client.hooks.passed(HookCall::ClientConnect);
                self.go_on_connecting(client, next);
            }
            Err(error) => {
                log::warn!("{} client is rejected: {error}", client.label());
                let next = client.hooks.failed(HookCall::ClientConnect);
                self.go_on_connecting(client, next);
            }
        }
    }

    // ---- addresses -----------------------------------------------------------------------------

    fn begin_learning(&mut self, client: &mut Client) {
        if let Some(name) = client.config.override_username.clone()
            && !self.rename(client, name)
        {
            self.refuse(client);
            return;
        }
        client.wanted = match self.state.network.device {
            DeviceKind::Tun => of_client(&client.addresses, &client.config),
            // On a tap device addresses are learned from frames.
            DeviceKind::Tap => Vec::new(),
        };
        let limit = client.config.max_routes_per_client;
        let limit = limit.unwrap_or(self.settings.max_routes_per_client);
        self.state.routes.add_client(client.handle, limit);
        let next = client
            .hooks
            .begin(HookStage::Addresses(client.wanted.len()));
        if next == Next::Passed {
            for address in std::mem::take(&mut client.wanted) {
                self.take_address(client, address);
            }
        }
        self.go_on_connecting(client, next);
    }

    /// Asks `learn-address` about one of the client's addresses.
    fn learn(&mut self, client: &mut Client, index: usize, count: usize) {
        let call = HookCall::LearnAddress(index, count);
        let settings = self.settings.clone();
        let (Some(&address), Some(script)) = (client.wanted.get(index), &settings.learn_address)
        else {
            return;
        };
        let operation = match self.state.routes.judge(client.handle, address) {
            Ok(Some(Question::Update(_))) => LearnOperation::Update,
            Ok(_) => LearnOperation::Add,
            Err(refusal) => {
                log::warn!("{} {address}: {refusal}", client.label());
                let next = client.hooks.failed(call);
                self.go_on_connecting(client, next);
                return;
            }
        };
        let label = client.label();
        let name = Some(client.common_name.as_str());
        let shared = self.client_call(client, &label, None);
        let prepared = LearnAddress::prepare(&shared, &command(script), operation, address, name);
        let hook = prepared.hook;
        let ran = self.run_script(client, Hook::LearnAddress, prepared.job, |job| {
            Waiting::Learn(job, call, hook, address)
        });
        if let Err(failure) = ran {
            self.address_judged(client, call, address, Err(failure));
        }
    }

    /// The script's word on an address.
    pub(super) fn address_judged(
        &mut self,
        client: &mut Client,
        call: HookCall,
        address: Address,
        verdict: Result<(), HookFailure>,
    ) {
        let next = match verdict {
            Ok(()) => {
                self.take_address(client, address);
                client.hooks.passed(call)
            }
            Err(failure) => {
                log_failure(&failure);
                client.hooks.failed(call)
            }
        };
        self.go_on_connecting(client, next);
    }

    pub(super) fn take_address(&mut self, client: &mut Client, address: Address) {
        match self.state.routes.learn(client.handle, address, now().unix) {
            Ok(learned) => {
                if let Some(older) = learned.lost_by {
                    log::notice!(
                        "{} takes {address} over from {}",
                        client.label(),
                        self.label(older)
                    );
                }
                client.changes.extend(learned.changes);
                log::info!("MULTI: Learn: {address} -> {}", client.label());
            }
            Err(refusal) => log::warn!("{} {address}: {refusal}", client.label()),
        }
    }

    // ---- options and keys ----------------------------------------------------------------------

    /// Tells the client its options.
    fn serve(&mut self, client: &mut Client) {
        let connection = &self.options.connections[0];
        let mut push = self.push_list(client, &client.config);
        let mtu = u32::from(connection.tun_mtu);
        if let Some(largest) = client.peer_info.iv_mtu.filter(|largest| *largest < mtu) {
            log::warn!(
                "{} the client takes a tun-mtu of up to {largest}, the server has {mtu}: \
                 add tun-mtu-max {mtu} to the client's configuration",
                client.label()
            );
        }
        let mut preferences = setup::preferences(&self.options);
        if let Some(ciphers) = &client.config.data_ciphers {
            preferences.data_ciphers.clone_from(ciphers);
        }
        preferences.fallback = client.config.data_ciphers_fallback.or(preferences.fallback);
        preferences.framing = client.config.compress.unwrap_or(preferences.framing);
        if self.settings.compress_migrate && client.compresses {
            let (line, framing) = migration(&client.peer_info);
            push.push(line.to_owned());
            preferences.framing = framing;
        }
        let serve = Serve {
            preferences,
            features: iv_proto::SERVER,
            peer_id: Some(client.peer_id),
            push,
            tokens: self.token_lines(client),
            tun_mtu: Some(mtu),
            username: client.username.clone(),
            extensions: extensions::OWN,
        };
        client
            .tunnel
            .handle_command(now(), tunnel::Command::Serve(Box::new(serve)));
    }

    /// What the client is pushed with this configuration.
    pub(super) fn push_list(&self, client: &Client, config: &ClientConfig) -> Vec<String> {
        push_list(&PushInput {
            for_all: &self.settings.push,
            client: config,
            addresses: &client.addresses,
            device: self.state.network.device,
        })
    }

    /// The client is not to come in, or not to stay.
    pub(super) fn refuse(&mut self, client: &mut Client) {
        client
            .tunnel
            .handle_command(now(), tunnel::Command::Refuse(None));
    }

    /// The client and the server agree: the data plane may serve it.
    pub(super) fn set_peer(&mut self, client: &mut Client, negotiated: Negotiated) {
        log::notice!(
            "{} Data Channel: cipher '{}', peer-id: {}{}",
            client.label(),
            negotiated.cipher.name(),
            client.peer_id,
            setup::features_text(&negotiated)
        );
        if !negotiated.cipher.is_aead() && negotiated.cipher != Cipher::None {
            log::info!(in Data, "AES-CBC with HMAC by {}", ringway_dataplane::cipher::cbc_backend());
        }
        let connection = &self.options.connections[0];
        let shape = setup::wire_shape(
            &negotiated,
            connection,
            client.endpoint,
            self.options.dev_type,
        );
        let (mss_v4, mss_v6) = shape.mss(setup::mssfix(connection.mssfix));
        let config = PeerConfig {
            endpoint: client.endpoint,
            // As OpenVPN's servers do for every peer with a peer-id.
            float: negotiated.peer_id.is_some(),
            listener: client.listener,
            tx_peer_id: negotiated.peer_id,
            // One that knows DATA_V1 only is told by its address alone.
            rx_peer_id: negotiated.peer_id,
            framing: negotiated.framing,
            fragment: setup::fragment(&shape, connection),
            mss_v4,
            mss_v6,
            segment_to: 0,
            replay_window: self.options.replay_window.packets,
            replay_time: self.options.replay_window.seconds,
            passtos: self.options.passtos,
            guard_recursion: false,
            block_ipv6: self.options.block_ipv6,
            roles: Roles::default(),
            stats: client.stats.clone(),
        };
        client.negotiated = Some(negotiated);
        self.command(Command::SetPeer(client.handle, Box::new(config)));
        self.set_port(client);
        for change in std::mem::take(&mut client.changes) {
            self.change_route(change);
        }
        if client.stage != Stage::Up {
            client.stage = Stage::Up;
            let timers = settings::keepalive(&self.options, &client.config);
            client.keepalive.reconfigure(timers, Instant::now());
            let shown: Vec<String> = client
                .addresses
                .own()
                .map(|address| address.to_string())
                .collect();
            log::notice!(
                "{} client connected, virtual address {}",
                client.label(),
                shown.join(", ")
            );
        }
    }

    pub(super) fn change_route(&mut self, change: Change) {
        self.command(match change {
            Change::Add(peer, prefix) => Command::AddRoute(peer, prefix),
            Change::Remove(peer, prefix) => Command::RemoveRoute(peer, prefix),
        });
    }

    /// Tells `learn-address` that the client has an address no more.
    pub(super) fn tell_forgotten(&mut self, client: &Client, forgotten: Forgotten) {
        let settings = self.settings.clone();
        let Some(script) = &settings.learn_address else {
            return;
        };
        let label = client.label();
        let mut shared = self.client_call(client, &label, None);
        shared.env = &self.program.env;
        shared.deadline = Some(Instant::now() + FAREWELL_LIMIT);
        let job = learn_address_delete(&shared, &command(script), forgotten.address);
        self.tell_script(job);
    }

    // ---- the way out ---------------------------------------------------------------------------

    /// Everything a client had is given back, and whoever wants to know is told.
    pub(super) fn disconnect(&mut self, mut client: Client) {
        let now = now();
        self.forget_scripts(&mut client);
        self.status.control.add(&client.tunnel.counters());
        let label = client.label();
        let settings = self.settings.clone();
        for forgotten in self.state.routes.remove_client(client.handle) {
            self.tell_forgotten(&client, forgotten);
        }
        if client.named {
            self.state.names.leave(&client.common_name, client.handle);
        }
        self.state.ids.release(client.peer_id, now.instant);
        client.addresses.release(self.state.pool.as_mut(), now.unix);
        if client.hooks.gone()
            && let Some(script) = &settings.client_disconnect
        {
            let (bytes_received, bytes_sent) = client.bytes();
            let totals = SessionTotals {
                bytes_received,
                bytes_sent,
                duration: now.unix.saturating_sub(client.since_unix),
            };
            let lane = self.lane(&client);
            let mut shared = self.client_call(&client, &label, Some(&lane));
            shared.deadline = Some(now.instant + FAREWELL_LIMIT);
            let job = client_disconnect(&shared, &command(script), totals);
            self.tell_script(job);
        }
    }
}
