//! The switch of a TAP server (protocol §11): clients and the device are its ports.
//!
//! ```text
//!   from the device    group address -----------> every client of the VLAN
//!                      known address -----------> the client it is behind
//!                      unknown address ---------> nobody
//!   from a client      learn the source address; it may be refused, and the frame with it
//!                      then, with client-to-client:
//!                      group address -----------> the device and every other client of the VLAN
//!                      behind another client ---> that client, not the device
//!                      anything else -----------> the device
//! ```
//!
//! Each worker has a switch that knows all addresses. A client is heard by one worker only, which tells
//! the others of each address at most once a second, so that what did not arrive is soon made good.

use super::mac_table::{Learned, MacTable, Station};
use super::routes::Way;
use super::vlan::{self, DevicePort, ToDevice};
use crate::command::{PeerHandle, Port};
use crate::error::DropReason;
use crate::frame::Frame;

/// Addresses that a switch has room for: 256 clients with as many as `max-routes-per-client` lets them
/// have. It takes 6 MiB for each worker of a TAP server.
const STATIONS: usize = 65_536;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Switch {
    table: MacTable,
    client_to_client: bool,
    ask_first: bool,
    /// With `vlan-tagging`, how the device takes part in it.
    device: Option<DevicePort>,
}

/// What others must hear of a frame's source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    Nothing,
    /// The other workers: it is still there.
    Heard,
    /// Everybody: it is new, or was behind another peer.
    Learned {
        /// An address of the same peer that was forgotten for it.
        replaced: Option<Station>,
    },
}

/// Which clients a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receivers {
    /// This one.
    Peer(PeerHandle),
    /// All of the VLAN.
    Everyone,
    /// Nobody is there.
    Nobody,
}

impl Switch {
    pub(crate) fn new(client_to_client: bool, ask_first: bool, device: Option<DevicePort>) -> Self {
        Switch {
            table: MacTable::new(STATIONS),
            client_to_client,
            ask_first,
            device,
        }
    }

    /// New addresses are not used before the control thread admits them.
    pub(crate) fn asks_first(&self) -> bool {
        self.ask_first
    }

    /// How the device takes part in VLANs, if there are any.
    #[inline]
    pub(crate) fn device(&self) -> Option<DevicePort> {
        self.device
    }

    /// Lets a peer have addresses.
    pub(crate) fn set_port(&mut self, peer: PeerHandle, port: Port) {
        self.table.set_peer(peer, port.stations as usize);
    }

    /// Forgets a peer and its addresses.
    pub(crate) fn remove_peer(&mut self, peer: PeerHandle) {
        self.table.remove_peer(peer, |_| ());
    }

    /// Who sent a frame of a client of this VLAN.
    ///
    /// # Errors
    /// [`DropReason::Vlan`] for a VLAN of the client's own choice.
    #[inline]
    pub(crate) fn source(&self, vlan: u16, frame: &[u8]) -> Result<Station, DropReason> {
        let parsed = Frame::parse(frame).ok_or(DropReason::BadPayload)?;
        if self.device.is_some() && !vlan::from_client(frame) {
            return Err(DropReason::Vlan);
        }
        Ok(Station {
            vlan,
            mac: parsed.source(),
        })
    }

    /// Takes in that this peer sent a frame from `station`.
    ///
    /// # Errors
    /// [`DropReason::InnerSource`]: the peer may not have the address.
    #[inline]
    pub(crate) fn learn(
        &mut self,
        now: u32,
        station: Station,
        peer: PeerHandle,
    ) -> Result<News, DropReason> {
        let learned = match self.ask_first {
            true => self.table.ask(now, station, peer),
            false => self.table.learn(now, station, peer),
        };
        match learned {
            Learned::Known => Ok(News::Nothing),
            Learned::Heard => Ok(News::Heard),
            Learned::New { replaced } | Learned::Moved { replaced, .. } => {
                Ok(News::Learned { replaced })
            }
            Learned::Refused(_) => Err(DropReason::InnerSource),
        }
    }

    /// Takes in what another worker has heard.
    pub(crate) fn hear(&mut self, now: u32, station: Station, peer: PeerHandle) {
        // One that is still to be admitted is learned when it is.
        if !self.ask_first || self.table.find(station) == Some(peer) {
            self.table.learn(now, station, peer);
        }
    }

    /// The control thread lets a peer have an address that was asked for.
    pub(crate) fn admit(&mut self, now: u32, station: Station, peer: PeerHandle) {
        self.table.admit(now, station, peer);
    }

    /// Forgets what was learned of an address, because nobody could be told.
    pub(crate) fn forget(&mut self, station: Station, peer: PeerHandle) {
        match self.table.find(station) {
            Some(owner) if owner != peer => self.table.take_back(station, peer),
            _ => drop(self.table.forget(station)),
        }
    }

    /// Forgets what has been silent for `age` seconds, and `gone` was told; what it refuses stays.
    pub(crate) fn expire(
        &mut self,
        now: u32,
        age: u32,
        mut gone: impl FnMut(PeerHandle, Station) -> bool,
    ) {
        self.table
            .expire(now, age, |known| gone(known.peer, known.station));
    }

    /// Where a frame from a peer goes, which may send it, and what the device gets to see of it.
    ///
    /// # Errors
    /// [`DropReason::Vlan`] when it is for the device, which does not take its VLAN.
    #[inline]
    pub(crate) fn way(
        &self,
        peer: PeerHandle,
        vlan: u16,
        frame: &[u8],
    ) -> Result<(Way, ToDevice), DropReason> {
        let way = match self.client_to_client {
            false => Way::Device,
            true => match self.receivers(vlan, frame) {
                Receivers::Everyone => Way::Both,
                Receivers::Peer(other) if other != peer => Way::Peer,
                Receivers::Peer(_) | Receivers::Nobody => Way::Device,
            },
        };
        let Some(device) = self.device.filter(|_| way != Way::Peer) else {
            return Ok((way, ToDevice::Plain));
        };
        match (device.to_device(vlan, frame), way) {
            (Some(action), _) => Ok((way, action)),
            (None, Way::Both) => Ok((Way::Peer, ToDevice::Plain)),
            (None, _) => Err(DropReason::Vlan),
        }
    }

    /// Which clients a frame of this VLAN goes to.
    #[inline]
    pub(crate) fn receivers(&self, vlan: u16, frame: &[u8]) -> Receivers {
        let Some(frame) = Frame::parse(frame) else {
            return Receivers::Nobody;
        };
        let mac = frame.destination();
        if mac.is_group() {
            return Receivers::Everyone;
        }
        match self.table.find(Station { vlan, mac }) {
            Some(peer) => Receivers::Peer(peer),
            None => Receivers::Nobody,
        }
    }
}
