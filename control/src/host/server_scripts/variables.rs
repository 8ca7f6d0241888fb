//! Variables that only a server's scripts have.

use std::net::{Ipv4Addr, Ipv6Addr};

use time::{OffsetDateTime, UtcOffset};

use crate::host::env::{IfconfigEnd, ScriptEnv};

/// What `ifconfig` gives a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The server's address behind it (topologies net30 and p2p), or the netmask.
    pub end: IfconfigEnd,
}

/// What `ifconfig-ipv6` gives a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualAddress6 {
    /// The client's address.
    pub client: Ipv6Addr,
    /// Prefix length.
    pub netbits: u8,
    /// The server's address.
    pub server: Ipv6Addr,
}

/// What a session amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTotals {
    /// Bytes from the client, as its packets arrived.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// Seconds since its first packet.
    pub duration: u64,
}

impl ScriptEnv {
    /// `ifconfig_pool_remote_ip`, the client's address, with `ifconfig_pool_netmask` or
    /// `ifconfig_pool_local_ip`; and `ifconfig_pool_remote_ip6`, `ifconfig_pool_local_ip6` and
    /// `ifconfig_pool_ip6_netbits`. What a client has not is removed.
    pub fn set_virtual_address(&mut self, v4: Option<VirtualAddress>, v6: Option<VirtualAddress6>) {
        for name in [
            "remote_ip",
            "netmask",
            "local_ip",
            "remote_ip6",
            "local_ip6",
            "ip6_netbits",
        ] {
            self.unset(&format!("ifconfig_pool_{name}"));
        }
        if let Some(v4) = v4 {
            self.set("ifconfig_pool_remote_ip", v4.client);
            match v4.end {
                IfconfigEnd::Netmask(mask) => self.set("ifconfig_pool_netmask", mask),
                IfconfigEnd::Remote(server) => self.set("ifconfig_pool_local_ip", server),
            }
        }
        if let Some(v6) = v6 {
            self.set("ifconfig_pool_remote_ip6", v6.client);
            self.set("ifconfig_pool_local_ip6", v6.server);
            self.set("ifconfig_pool_ip6_netbits", v6.netbits);
        }
    }

    /// `time_unix` and `time_ascii` (local time): when the client's first packet came, in seconds
    /// since 1970.
    pub fn set_connected_at(&mut self, unix: i64) {
        self.set("time_unix", unix);
        let Ok(time) = OffsetDateTime::from_unix_timestamp(unix) else {
            return;
        };
        let offset = UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC);
        let time = time.to_offset(offset);
        self.set(
            "time_ascii",
            format_args!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
                time.year(),
                u8::from(time.month()),
                time.day(),
                time.hour(),
                time.minute(),
                time.second()
            ),
        );
    }

    /// `bytes_received`, `bytes_sent` and `time_duration`.
    pub fn set_session_totals(&mut self, totals: SessionTotals) {
        self.set("bytes_received", totals.bytes_received);
        self.set("bytes_sent", totals.bytes_sent);
        self.set("time_duration", totals.duration);
    }

    /// `session_id` and `session_state` of `auth-gen-token`.
    pub fn set_auth_session(&mut self, id: &str, state: &str) {
        self.set("session_id", id);
        self.set("session_state", state);
    }
}
