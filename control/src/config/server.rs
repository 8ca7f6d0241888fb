//! What a server is told besides what every peer is told, and what it is told of one client.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::Cipher;

use super::options::{Inactive, Script};
use super::position::{Position, Source};
use crate::tls::VerifyClientCert;

/// Options of `mode server`; `server`, `server-ipv6` and `server-bridge` are already written out
/// into the options they stand for (protocol §11).
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOptions {
    /// Addresses handed out, first to last; with topology net30 they are cut into blocks of four
    /// from the first on.
    pub ifconfig_pool: Option<Pool>,
    /// IPv6 addresses handed out: the first one and the prefix length of its network.
    pub ifconfig_ipv6_pool: Option<(Ipv6Addr, u8)>,
    /// Addresses outside of this network and netmask are warned of.
    pub ifconfig_push_constraint: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Where it is remembered who had which address.
    pub ifconfig_pool_persist: Option<PoolPersist>,
    /// `server-bridge` without arguments: clients ask a DHCP server on the bridge.
    pub bridge_dhcp: bool,
    /// Options for every client, without the word `push`, in the order stock servers send them:
    /// the `push` lines of the file, then what `server-ipv6`, `server` or `server-bridge`,
    /// `keepalive` and `tcp-nodelay` stand for (route-gateway, topology, ping, ping-restart
    /// included).
    pub push: Vec<String>,
    /// Directory with a file for each client.
    pub client_config_dir: Option<PathBuf>,
    /// Clients without a file are refused.
    pub ccd_exclusive: bool,
    /// `ringway-push-update`: seconds between two looks at the file of a connected client.
    pub push_update: Option<u32>,
    /// Clients reach each other inside the daemon.
    pub client_to_client: bool,
    /// Several clients may have one common name.
    pub duplicate_cn: bool,
    /// Most clients at a time; their peer-ids are 0 to one less.
    pub max_clients: u32,
    /// Most routes of one client (`iroute`, and addresses learned on a tap device).
    pub max_routes_per_client: u32,
    /// New clients in so many seconds.
    pub connect_freq: Option<Rate>,
    /// Answers to first packets in so many seconds.
    pub connect_freq_initial: Rate,
    /// Packets that may wait for one TCP client.
    pub tcp_queue_limit: u32,
    /// The user name takes the place of the common name.
    pub username_as_common_name: bool,
    /// Whether clients need a certificate.
    pub verify_client_cert: VerifyClientCert,
    /// `compress migrate`: clients that still ask for compression are told to stop, and are spoken
    /// to with their framing.
    pub compress_migrate: bool,
    /// Disconnect clients whose options string does not fit.
    pub opt_verify: bool,
    /// Who decides about user names and passwords.
    pub auth_user_pass_verify: Option<(Script, AuthVia)>,
    /// Clients may do without a user name.
    pub auth_user_pass_optional: bool,
    /// Hand out tokens that stand for the password.
    pub auth_gen_token: Option<AuthGenToken>,
    /// The key they are signed with; a random one when there is none.
    pub auth_gen_token_secret: Option<Source>,
    /// When a client is authenticated, before it gets its options.
    pub client_connect: Option<Script>,
    /// When a client is gone.
    pub client_disconnect: Option<Script>,
    /// When an address is learned, moves or is forgotten.
    pub learn_address: Option<Script>,
    /// For each certificate of a client.
    pub tls_verify: Option<Script>,
    /// Where that script finds the certificate.
    pub tls_export_cert: Option<ExportFolder>,
    /// For the metadata in a client's key.
    pub tls_crypt_v2_verify: Option<Script>,
    /// Oldest client key taken, in days (`tls-crypt-v2-max-age`).
    pub tls_crypt_v2_max_age: Option<u64>,
    /// When a client answers a question.
    pub client_crresponse: Option<Script>,
    /// Forget learned addresses not used for `.0` seconds, looked at every `.1` seconds.
    pub stale_routes_check: Option<(u64, u64)>,
    /// Directory for files shared with scripts.
    pub tmp_dir: PathBuf,
    /// Frames carry and get VLAN tags.
    pub vlan_tagging: bool,
    /// Which frames the device takes.
    pub vlan_accept: VlanAccept,
    /// VLAN of the device's untagged frames.
    pub vlan_pvid: u16,
    /// Where connections go that do not speak this protocol.
    pub port_share: Option<PortShare>,
    /// Every place to listen at, in file order; at least one.
    pub listen: Vec<Listen>,
}

impl Default for ServerOptions {
    /// The values of a server without any option besides `mode server`.
    fn default() -> Self {
        ServerOptions {
            ifconfig_pool: None,
            ifconfig_ipv6_pool: None,
            ifconfig_push_constraint: None,
            ifconfig_pool_persist: None,
            bridge_dhcp: false,
            push: Vec::new(),
            client_config_dir: None,
            ccd_exclusive: false,
            push_update: None,
            client_to_client: false,
            duplicate_cn: false,
            max_clients: 1024,
            max_routes_per_client: 256,
            connect_freq: None,
            connect_freq_initial: Rate {
                n: 100,
                seconds: 10,
            },
            tcp_queue_limit: 64,
            username_as_common_name: false,
            verify_client_cert: VerifyClientCert::Require,
            compress_migrate: false,
            opt_verify: false,
            auth_user_pass_verify: None,
            auth_user_pass_optional: false,
            auth_gen_token: None,
            auth_gen_token_secret: None,
            client_connect: None,
            client_disconnect: None,
            learn_address: None,
            tls_verify: None,
            tls_export_cert: None,
            tls_crypt_v2_verify: None,
            tls_crypt_v2_max_age: None,
            client_crresponse: None,
            stale_routes_check: None,
            tmp_dir: std::env::temp_dir(),
            vlan_tagging: false,
            vlan_accept: VlanAccept::All,
            vlan_pvid: DEFAULT_VLAN,
            port_share: None,
            listen: vec![Listen::default()],
        }
    }
}

impl ServerOptions {
    /// Every script with its option.
    pub fn scripts(&self) -> impl Iterator<Item = (&'static str, &Script)> {
        let login = self
            .auth_user_pass_verify
            .as_ref()
            .map(|(script, _)| script);
        [
            ("auth-user-pass-verify", login),
            ("client-connect", self.client_connect.as_ref()),
            ("client-disconnect", self.client_disconnect.as_ref()),
            ("learn-address", self.learn_address.as_ref()),
            ("tls-verify", self.tls_verify.as_ref()),
            ("tls-crypt-v2-verify", self.tls_crypt_v2_verify.as_ref()),
            ("client-crresponse", self.client_crresponse.as_ref()),
        ]
        .into_iter()
        .filter_map(|(name, script)| script.map(|script| (name, script)))
    }
}

/// `vlan-pvid` of the device and of clients without one of their own.
pub const DEFAULT_VLAN: u16 = 1;

/// `ifconfig-pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// First address.
    pub start: Ipv4Addr,
    /// Last address.
    pub end: Ipv4Addr,
    /// Netmask to push; that of `ifconfig` when `None`.
    pub netmask: Option<Ipv4Addr>,
}

/// `ifconfig-pool-persist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPersist {
    /// The file.
    pub path: PathBuf,
    /// Seconds between writes; 0 never writes.
    pub seconds: u64,
}

/// `n` of something in `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub n: u32,
    /// In how many seconds.
    pub seconds: u32,
}

/// `tls-export-cert`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportFolder {
    /// The folder; with `chroot` it is inside.
    pub path: PathBuf,
    /// Where it is named.
    pub position: Position,
}

/// How a script gets a user name and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthVia {
    /// In the environment.
    Env,
    /// In a file named by its last argument.
    File,
}

/// `auth-gen-token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthGenToken {
    /// Seconds a token lives in all; 0 for ever.
    pub lifetime: u64,
    /// Seconds after which a token is renewed.
    pub renewal: u64,
    /// The script decides about tokens too.
    pub external_auth: bool,
}

/// `vlan-accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanAccept {
    /// Tagged and untagged frames.
    All,
    /// Only tagged ones.
    Tagged,
    /// Only untagged ones.
    Untagged,
}

/// `port-share`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortShare {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Where a file for each connection tells who it is from.
    pub dir: Option<PathBuf>,
}

/// A place to listen at (`local`, `port` and `proto`, or one `local host port proto` each).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Name or address; `None` is every address.
    pub local: Option<String>,
    /// Port.
    pub port: u16,
    /// TCP instead of UDP.
    pub tcp: bool,
    /// Which addresses may be used.
    pub family: super::options::Family,
}

impl Default for Listen {
    /// Every address, the usual port, UDP.
    fn default() -> Self {
        Listen {
            local: None,
            port: super::options::DEFAULT_PORT,
            tcp: false,
            family: super::options::Family::Any,
        }
    }
}

/// What one client is told, from its file or a script, over what holds for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientConfig {
    /// Options to push, after those for all; in order, without the word `push`.
    pub push: Vec<String>,
    /// Nothing of what is for all is pushed (but what the tunnel needs).
    pub push_reset: bool,
    /// Beginnings of options that are not pushed.
    pub push_remove: Vec<String>,
    /// Networks behind the client: address and prefix length.
    pub iroute: Vec<(Ipv4Addr, u8)>,
    /// Networks behind the client: address and prefix length.
    pub iroute_ipv6: Vec<(Ipv6Addr, u8)>,
    /// Its address, and the peer's address or netmask.
    pub ifconfig_push: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The client's address as the server sees it (`ifconfig-push local mask alias`).
    pub ifconfig_push_alias: Option<Ipv4Addr>,
    /// Its IPv6 address, prefix length, and the server's.
    pub ifconfig_ipv6_push: Option<(Ipv6Addr, u8, Option<Ipv6Addr>)>,
    /// The client is refused.
    pub disable: bool,
    /// `data-ciphers` for this client.
    pub data_ciphers: Option<Vec<Cipher>>,
    /// `data-ciphers-fallback`, or `cipher`.
    pub data_ciphers_fallback: Option<Cipher>,
    /// `ping`
    pub ping: Option<u64>,
    /// `ping-restart`; at most one of this and `ping_exit` is set.
    pub ping_restart: Option<u64>,
    /// `ping-exit`
    pub ping_exit: Option<u64>,
    /// `inactive`; 0 seconds switch it off for this client.
    pub inactive: Option<Inactive>,
    /// `session-timeout`
    pub session_timeout: Option<u64>,
    /// `max-routes-per-client`
    pub max_routes_per_client: Option<u32>,
    /// `compress` and `comp-lzo`
    pub compress: Option<Framing>,
    /// VLAN of the client's frames.
    pub vlan_pvid: Option<u16>,
    /// The user name it is known by from now on.
    pub override_username: Option<String>,
}
