//! The checked configuration: what a configuration file and a command line mean, with every
//! default filled in.
//!
//! A field carries the name of its option with `_` for `-`. Options that may differ from one
//! `remote` to the next are in [`Connection`]; after loading there is at least one. Times are
//! whole seconds, sizes bytes.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ringway_dataplane::frame::Mac;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{Cipher, Digest};
use ringway_dataplane::tun::DeviceKind;

use super::position::{Position, Secret, Source};
use super::proxy::Proxy;
pub use super::routes::{
    Ifconfig, IfconfigIpv6, PullFilter, PullFilterAction, RedirectGateway, Route, RouteAddr,
    RouteGateway, RouteIpv6, Topology,
};
use super::server::ServerOptions;
use crate::proto::TlsRole;

/// Everything a run is told by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The file the configuration came from, as it was named.
    pub config: Option<String>,

    // Role
    /// `client` was given (it implies `pull`, `tls-client` and `nobind`).
    pub client: bool,
    /// Ask the server for options and apply them.
    pub pull: bool,
    /// `tls-client` or `tls-server`.
    pub tls_role: TlsRole,
    /// What a server is told besides (`mode server`); `None` is one peer.
    pub server: Option<Box<ServerOptions>>,

    // Transport
    /// The places to connect to, in file order; one without `remote` when none is named (wait for
    /// the peer). Never empty.
    pub connections: Vec<Connection>,
    /// Shuffle `connections` at start.
    pub remote_random: bool,
    /// Prepend six random bytes in hex and a dot to the name of a remote before resolving it.
    pub remote_random_hostname: bool,
    /// How long to retry a failed resolution; `None` is `infinite`.
    pub resolv_retry: Option<u64>,
    /// Wait before the next attempt: first and longest pause.
    pub connect_retry: ConnectRetry,
    /// Give up after this many rounds through `connections`; `None` never does.
    pub connect_retry_max: Option<u32>,
    /// Answer from the address a datagram was sent to.
    pub multihome: bool,
    /// `SO_SNDBUF`; `None` leaves it.
    pub sndbuf: Option<u32>,
    /// `SO_RCVBUF`; `None` leaves it.
    pub rcvbuf: Option<u32>,
    /// `SO_MARK` of the socket.
    pub mark: Option<u32>,
    /// `SO_BINDTODEVICE` of the socket.
    pub bind_dev: Option<String>,
    /// Copy the inner TOS or traffic class outward.
    pub passtos: bool,
    /// Path MTU discovery of the socket; `None` leaves it.
    pub mtu_disc: Option<MtuDisc>,
    /// Let inner packets to the peer's own outer address pass.
    pub allow_recursive_routing: bool,
    /// What SIGUSR1 is turned into.
    pub remap_usr1: Option<RemapSignal>,
    /// Keep the resolved remote address over a soft restart.
    pub persist_remote_ip: bool,
    /// Keep the local address over a soft restart.
    pub persist_local_ip: bool,
    /// Keep key files in memory over a soft restart (always the case).
    pub persist_key: bool,

    // TLS
    /// Certificate authorities, PEM.
    pub ca: Option<Source>,
    /// A directory of certificate authorities.
    pub capath: Option<Source>,
    /// Own certificate, PEM, the leaf first.
    pub cert: Option<Source>,
    /// Own private key, PEM.
    pub key: Option<Source>,
    /// Further certificates for the own chain, PEM.
    pub extra_certs: Option<Source>,
    /// The private key is encrypted; where its passphrase comes from.
    pub askpass: Option<Credentials>,
    /// What the peer's certificate must be for: `client` or `server`.
    pub remote_cert_tls: Option<TlsRole>,
    /// Key usage masks, one of which must be contained in the peer's. Empty: not checked.
    pub remote_cert_ku: Vec<u16>,
    /// Extended key usage the peer must have: a name or a dotted OID.
    pub remote_cert_eku: Option<String>,
    /// Name the peer's certificate must carry.
    pub verify_x509_name: Option<VerifyX509Name>,
    /// Certificate fields the peer's common name is made of, joined by `_`.
    pub x509_username_field: Vec<String>,
    /// SHA-256 fingerprints of acceptable peer certificates. Empty: not checked.
    pub peer_fingerprint: Vec<[u8; 32]>,
    /// Digests of certificates that may sign the peer's. Empty: not checked.
    pub verify_hash: Vec<CertHash>,
    /// What the obsolete `nsCertType` extension of the peer must say.
    pub ns_cert_type: Option<TlsRole>,
    /// Revocation lists.
    pub crl_verify: Option<CrlVerify>,
    /// Lowest TLS version.
    pub tls_version_min: TlsVersion,
    /// Highest TLS version.
    pub tls_version_max: TlsVersion,
    /// TLS 1.2 suites, names as written. Empty: the default.
    pub tls_cipher: Vec<String>,
    /// TLS 1.3 suites, names as written. Empty: the default.
    pub tls_ciphersuites: Vec<String>,
    /// Key exchange groups, names as written. Empty: the default.
    pub tls_groups: Vec<String>,
    /// How strong certificates must be.
    pub tls_cert_profile: CertProfile,
    /// Log in with user name and password.
    pub auth_user_pass: Option<Credentials>,
    /// Forget passwords after each use.
    pub auth_nocache: bool,
    /// What to do when the server refuses the login.
    pub auth_retry: AuthRetry,
    /// A question whose answer is sent with the password.
    pub static_challenge: Option<StaticChallenge>,
    /// A session token to log in with instead of the password (usually pushed).
    pub auth_token: Option<Secret>,
    /// The user name that goes with it, in base64 (usually pushed).
    pub auth_token_user: Option<String>,
    /// Largest control packet, UDP payload.
    pub max_packet_size: u16,

    // Keys and negotiation
    /// Acceptable data ciphers, preferred first. Never empty.
    pub data_ciphers: Vec<Cipher>,
    /// The cipher to assume of a peer that does not negotiate.
    pub data_ciphers_fallback: Option<Cipher>,
    /// `cipher` as written; speaks only through the options string and the fallback rules.
    pub cipher: Option<Cipher>,
    /// HMAC digest, for CBC ciphers and `tls-auth`.
    pub auth: Digest,
    /// Send the long form of the peer information.
    pub push_peer_info: bool,
    /// Do not compare the options string with the peer's.
    pub disable_occ: bool,
    /// `compress` or `comp-lzo`: the framing of data packets.
    pub compress: Framing,
    /// Replay protection.
    pub replay_window: ReplayWindow,
    /// Do not log replays.
    pub mute_replay_warnings: bool,

    // Rekey
    /// Rekey after this time; 0 never.
    pub reneg_sec: u64,
    /// Earliest random rekey time; `None` derives it from the role.
    pub reneg_sec_min: Option<u64>,
    /// Rekey after this many bytes; 0 by the cipher's own limit.
    pub reneg_bytes: u64,
    /// Rekey after this many packets; 0 by the packet id limit only.
    pub reneg_pkts: u64,
    /// How long an old key stays good for receiving after a rekey.
    pub tran_window: u64,
    /// How long a handshake may take.
    pub hand_window: u64,
    /// First retransmission of a control packet.
    pub tls_timeout: u64,
    /// Refuse a new session of the peer while one is up.
    pub single_session: bool,
    /// End the program when a handshake fails.
    pub tls_exit: bool,

    // Liveness
    /// Send a ping after this time without sending anything; 0 never.
    pub ping: u64,
    /// Restart after this time without hearing anything; 0 never. At most one of this and
    /// `ping_exit` is set.
    pub ping_restart: u64,
    /// Exit after this time without hearing anything; 0 never.
    pub ping_exit: u64,
    /// Count that time only with a known peer address.
    pub ping_timer_rem: bool,
    /// Exit when there is too little traffic.
    pub inactive: Option<Inactive>,
    /// End a session after this time; 0 never.
    pub session_timeout: u64,

    // Interface
    /// Device name: `tun`, `tapX` or any name with `dev-type`; empty when there is no `dev`.
    pub dev: String,
    /// IP packets or Ethernet frames: `dev-type`, or how the name begins.
    pub dev_type: DeviceKind,
    /// Hardware address of a tap device; `None` leaves the kernel's choice.
    pub lladdr: Option<Mac>,
    /// Device node, e.g. `/dev/net/tun`.
    pub dev_node: Option<PathBuf>,
    /// Keep the device open over a soft restart.
    pub persist_tun: bool,
    /// Length of the device's send queue; `None` leaves it.
    pub txqueuelen: Option<u32>,
    /// What `ifconfig` means on a tun device; see [`Options::has_subnet`].
    pub topology: Topology,
    /// IPv4 addresses of the tunnel.
    pub ifconfig: Option<Ifconfig>,
    /// IPv6 addresses of the tunnel.
    pub ifconfig_ipv6: Option<IfconfigIpv6>,
    /// Leave addresses to scripts.
    pub ifconfig_noexec: bool,
    /// Do not compare the addresses with the peer's.
    pub ifconfig_nowarn: bool,
    /// Answer IPv6 packets from inside with "unreachable".
    pub block_ipv6: bool,

    // Routes
    /// IPv4 routes.
    pub route: Vec<Route>,
    /// IPv6 routes.
    pub route_ipv6: Vec<RouteIpv6>,
    /// Gateway of routes that name none.
    pub route_gateway: Option<RouteGateway>,
    /// Gateway of IPv6 routes that name none.
    pub route_ipv6_gateway: Option<Ipv6Addr>,
    /// Metric of routes that name none.
    pub route_metric: Option<u32>,
    /// Seconds between the tunnel being up and the routes; `None` adds them at once.
    pub route_delay: Option<u64>,
    /// Ignore pushed routes and DNS settings.
    pub route_nopull: bool,
    /// Leave routes to scripts.
    pub route_noexec: bool,
    /// Accept host names in pushed `ifconfig` and `route`.
    pub allow_pull_fqdn: bool,
    /// Filters on pushed options, in order; the first match decides.
    pub pull_filter: Vec<PullFilter>,
    /// Send all traffic into the tunnel.
    pub redirect_gateway: Option<RedirectGateway>,
    /// `dhcp-option` lines without their first word, for scripts (`foreign_option_N`).
    pub dhcp_option: Vec<String>,
    /// `dns` lines without their first word, for scripts.
    pub dns: Vec<String>,

    // Scripts
    /// What may be run.
    pub script_security: u8,
    /// Variables for scripts, in order; `UV_` and `IV_` ones also go into the peer information.
    pub setenv: Vec<(String, String)>,
    /// After the device is open.
    pub up: Option<Script>,
    /// After the device is closed (before, with `down_pre`).
    pub down: Option<Script>,
    /// After routes are added.
    pub route_up: Option<Script>,
    /// Before routes are removed.
    pub route_pre_down: Option<Script>,
    /// When the peer's address is known or changes.
    pub ipchange: Option<Script>,
    /// Open the device and run `up` only when the peer is connected.
    pub up_delay: bool,
    /// Run `up` and `down` on soft restarts too.
    pub up_restart: bool,
    /// Run `down` before the device is closed.
    pub down_pre: bool,

    // Process
    /// User to become after start.
    pub user: Option<String>,
    /// Group to become after start.
    pub group: Option<String>,
    /// Directory to confine the process to after start.
    pub chroot: Option<PathBuf>,
    /// Working directory, absolute. Files named after `cd` are already resolved against it.
    pub cd: Option<PathBuf>,
    /// Go to the background.
    pub daemon: bool,
    /// File for the process id.
    pub writepid: Option<PathBuf>,
    /// Lock memory.
    pub mlock: bool,
    /// Change of the scheduling priority.
    pub nice: Option<i32>,

    // Logs
    /// Verbosity, 0 to 11.
    pub verb: u8,
    /// Log at most this many messages of one kind in a row; 0 all.
    pub mute: u32,
    /// Log to a file.
    pub log: Option<LogFile>,
    /// Log to syslog (`syslog`, `daemon`).
    pub syslog: bool,
    /// Name for syslog.
    pub progname: Option<String>,
    /// No time before log lines.
    pub suppress_timestamps: bool,
    /// Time as seconds and message flags before log lines.
    pub machine_readable_output: bool,
    /// Log to the error output instead of the standard output.
    pub errors_to_stderr: bool,
    /// Words to repeat in the log.
    pub echo: Vec<String>,
    /// Where statistics are written.
    pub status: Option<StatusFile>,
    /// Format of the statistics: 1, 2 or 3.
    pub status_version: u8,

    // Ringway's own
    /// `ringway-io`: how packets are moved.
    pub ringway_io: IoEngine,
    /// `ringway-workers`: packet threads; `None` is `auto`.
    pub ringway_workers: Option<u16>,
    /// `ringway-cpus`: CPUs the workers are pinned to, in order. Empty: not pinned.
    pub ringway_cpus: Vec<usize>,
    /// `ringway-busy-poll`: how long a worker looks for more packets before it sleeps.
    pub ringway_busy_poll: Duration,
}

impl Options {
    /// The second value of `ifconfig` is a netmask: on a tap device, and with `topology subnet`.
    pub fn has_subnet(&self) -> bool {
        self.dev_type == DeviceKind::Tap || self.topology == Topology::Subnet
    }
}

impl Default for Options {
    /// The values of a run without any option; not yet usable (there is no `dev`).
    fn default() -> Self {
        Options {
            config: None,
            client: false,
            pull: false,
            tls_role: TlsRole::Client,
            server: None,
            connections: vec![Connection::default()],
            remote_random: false,
            remote_random_hostname: false,
            resolv_retry: None,
            connect_retry: ConnectRetry { first: 1, max: 300 },
            connect_retry_max: None,
            multihome: false,
            sndbuf: None,
            rcvbuf: None,
            mark: None,
            bind_dev: None,
            passtos: false,
            mtu_disc: None,
            allow_recursive_routing: false,
            remap_usr1: None,
            persist_remote_ip: false,
            persist_local_ip: false,
            persist_key: true,
            ca: None,
            capath: None,
            cert: None,
            key: None,
            extra_certs: None,
            askpass: None,
            remote_cert_tls: None,
            remote_cert_ku: Vec::new(),
            remote_cert_eku: None,
            verify_x509_name: None,
            x509_username_field: vec!["CN".to_owned()],
            peer_fingerprint: Vec::new(),
            verify_hash: Vec::new(),
            ns_cert_type: None,
            crl_verify: None,
            tls_version_min: TlsVersion::V1_2,
            tls_version_max: TlsVersion::V1_3,
            tls_cipher: Vec::new(),
            tls_ciphersuites: Vec::new(),
            tls_groups: Vec::new(),
            tls_cert_profile: CertProfile::Legacy,
            auth_user_pass: None,
            auth_nocache: false,
            auth_retry: AuthRetry::None,
            static_challenge: None,
            auth_token: None,
            auth_token_user: None,
            max_packet_size: 1250,
            data_ciphers: DEFAULT_DATA_CIPHERS.to_vec(),
            data_ciphers_fallback: None,
            cipher: None,
            auth: Digest::Sha1,
            push_peer_info: false,
            disable_occ: false,
            compress: Framing::None,
            replay_window: ReplayWindow::default(),
            mute_replay_warnings: false,
            reneg_sec: 3600,
            reneg_sec_min: None,
            reneg_bytes: 0,
            reneg_pkts: 0,
            tran_window: 3600,
            hand_window: 60,
            tls_timeout: 2,
            single_session: false,
            tls_exit: false,
            ping: 0,
            ping_restart: 0,
            ping_exit: 0,
            ping_timer_rem: false,
            inactive: None,
            session_timeout: 0,
            dev: String::new(),
            dev_node: None,
            persist_tun: false,
            txqueuelen: None,
            dev_type: DeviceKind::Tun,
            lladdr: None,
            topology: Topology::Net30,
            ifconfig: None,
            ifconfig_ipv6: None,
            ifconfig_noexec: false,
            ifconfig_nowarn: false,
            block_ipv6: false,
            route: Vec::new(),
            route_ipv6: Vec::new(),
            route_gateway: None,
            route_ipv6_gateway: None,
            route_metric: None,
            route_delay: None,
            route_nopull: false,
            route_noexec: false,
            allow_pull_fqdn: false,
            pull_filter: Vec::new(),
            redirect_gateway: None,
            dhcp_option: Vec::new(),
            dns: Vec::new(),
            script_security: 1,
            setenv: Vec::new(),
            up: None,
            down: None,
            route_up: None,
            route_pre_down: None,
            ipchange: None,
            up_delay: false,
            up_restart: false,
            down_pre: false,
            user: None,
            group: None,
            chroot: None,
            cd: None,
            daemon: false,
            writepid: None,
            mlock: false,
            nice: None,
            verb: 1,
            mute: 0,
            log: None,
            syslog: false,
            progname: None,
            suppress_timestamps: false,
            machine_readable_output: false,
            errors_to_stderr: false,
            echo: Vec::new(),
            status: None,
            status_version: 1,
            ringway_io: IoEngine::Auto,
            ringway_workers: None,
            ringway_cpus: Vec::new(),
            ringway_busy_poll: Duration::ZERO,
        }
    }
}

/// One place to connect to (or to wait at), with everything that may differ from the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Name or address of the peer; `None` waits for it.
    pub remote: Option<String>,
    /// Port of the peer.
    pub rport: u16,
    /// UDP, or which end of TCP.
    pub proto: Proto,
    /// Which addresses may be used.
    pub family: Family,
    /// What lies between.
    pub proxy: Option<Proxy>,
    /// Name or address to bind to.
    pub local: Option<String>,
    /// Port to bind to; 0 lets the kernel choose.
    pub lport: u16,
    /// Bind at all. When false, `local` is `None` and `lport` is 0.
    pub bind: bool,
    /// An IPv6 socket takes no IPv4 (`bind ipv6only`).
    pub bind_ipv6only: bool,
    /// Follow the peer to another address (also true when there is no `remote`).
    pub float: bool,
    /// Go on to the next place after this long without an answer (`connect-timeout`,
    /// `server-poll-timeout`).
    pub connect_timeout: u64,
    /// How often the peer is told of the end; 0 not at all.
    pub explicit_exit_notify: u32,
    /// MTU of the device.
    pub tun_mtu: u16,
    /// MTU for the options string, where it differs (`tun-mtu n occ-mtu`).
    pub occ_mtu: Option<u16>,
    /// Largest `tun-mtu` accepted from the server.
    pub tun_mtu_max: u16,
    /// Limit on the MSS of TCP connections inside.
    pub mssfix: MssFix,
    /// Packets whose datagrams would be larger are cut.
    pub fragment: Option<Fragment>,
    /// How control packets are wrapped.
    pub wrap: Wrap,
    /// Where this place is named, for messages.
    pub position: Option<Position>,
}

impl Default for Connection {
    fn default() -> Self {
        Connection {
            remote: None,
            rport: DEFAULT_PORT,
            proto: Proto::Udp,
            family: Family::Any,
            proxy: None,
            local: None,
            lport: DEFAULT_PORT,
            bind: true,
            bind_ipv6only: false,
            float: false,
            connect_timeout: 120,
            explicit_exit_notify: 0,
            tun_mtu: 1500,
            occ_mtu: None,
            tun_mtu_max: 1600,
            mssfix: MssFix::Mtu(1492),
            fragment: None,
            wrap: Wrap::None,
            position: None,
        }
    }
}

/// `data-ciphers` of 2.6 and later.
pub const DEFAULT_DATA_CIPHERS: [Cipher; 3] = [
    Cipher::Aes256Gcm,
    Cipher::Aes128Gcm,
    Cipher::ChaCha20Poly1305,
];

/// The port both ends use when none is named.
pub const DEFAULT_PORT: u16 = 1194;

/// Wrapping of control packets (protocol §4).
#[derive(Clone, Debug, PartialEq)]
pub enum Wrap {
    /// Plain control packets.
    None,
    /// `tls-auth FILE [direction]`, with the digest of `auth`.
    TlsAuth {
        /// Static key file.
        key: Source,
        /// `key-direction`; `None` uses the same key both ways.
        direction: Option<u8>,
    },
    /// `tls-crypt FILE`.
    TlsCrypt(Source),
    /// `tls-crypt-v2 FILE`; client key.
    TlsCryptV2(Source),
    /// `tls-crypt-v2 FILE [force-cookie|allow-noncookie]` of a server; server key.
    TlsCryptV2Server {
        /// Server key file.
        key: Source,
        /// Clients that cannot echo a cookie (before 2.6) are refused.
        force_cookie: bool,
        /// Clients without a key of their own that are taken beside: `None`, `TlsAuth` or
        /// `TlsCrypt`.
        beside: Box<Wrap>,
    },
}

/// Transport of a connection; `proto tcp` is already resolved by the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// `udp`
    Udp,
    /// `tcp-client`: connects.
    TcpClient,
    /// `tcp-server`: is connected to.
    TcpServer,
}

impl Proto {
    /// Either end of TCP.
    pub fn is_tcp(self) -> bool {
        self != Proto::Udp
    }
}

/// Address families of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `udp`, `tcp`: whatever the name resolves to.
    Any,
    /// `udp4`, `tcp4`
    V4,
    /// `udp6`, `tcp6`
    V6,
}

/// `mssfix` (protocol §10). The default, `mssfix` without argument included, is already resolved
/// to the form that holds for the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssFix {
    /// TCP is left alone.
    Off,
    /// Largest UDP payload (`mssfix n`).
    Payload(u16),
    /// Largest outer packet, IP and UDP headers included (`mssfix n mtu`).
    Mtu(u16),
    /// Largest inner packet (`mssfix n fixed`).
    Fixed(u16),
}

impl MssFix {
    /// What holds without a value of one's own (protocol §10).
    pub fn default_for(tun_mtu: u16, fragment: Option<Fragment>) -> Self {
        match (fragment, tun_mtu) {
            (Some(Fragment { size, mtu: true }), _) => MssFix::Mtu(size),
            (Some(Fragment { size, mtu: false }), _) => MssFix::Payload(size),
            (None, 1500) => MssFix::Mtu(1492),
            (None, other) => MssFix::Fixed(other),
        }
    }
}

/// `fragment n [mtu]` (protocol §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of the largest datagram.
    pub size: u16,
    /// They include the outer IP and UDP headers.
    pub mtu: bool,
}

/// `connect-retry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRetry {
    /// First pause, seconds.
    pub first: u64,
    /// Longest pause after doublings, seconds.
    pub max: u64,
}

/// `mtu-disc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuDisc {
    /// Never set "don't fragment".
    No,
    /// By the kernel's hints for the route.
    Maybe,
    /// Always set "don't fragment".
    Yes,
}

/// `remap-usr1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemapSignal {
    /// Restart with the configuration read again.
    Sighup,
    /// End.
    Sigterm,
}

/// Where a user name and password, or a passphrase, come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Credentials {
    /// From the terminal.
    Ask,
    /// From a file or from the configuration: the user name on the first line, the password on
    /// the second; for `askpass` the passphrase on the first.
    From(Source),
}

/// `verify-x509-name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyX509Name {
    /// The name wanted.
    pub name: String,
    /// What it is compared with.
    pub kind: VerifyX509Kind,
}

/// What `verify-x509-name` compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyX509Kind {
    /// The whole subject, e.g. `C=DE, O=Example, CN=gw1`.
    Subject,
    /// The common name (`x509-username-field`).
    Name,
    /// The beginning of the common name.
    NamePrefix,
}

/// One value of `verify-hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertHash {
    /// `SHA256`, the default.
    Sha256([u8; 32]),
    /// `SHA1`
    Sha1([u8; 20]),
}

/// `crl-verify`.
#[derive(Clone, Debug, PartialEq)]
pub enum CrlVerify {
    /// A list in PEM.
    List(Source),
    /// A directory; a file named by the decimal serial number revokes.
    Directory(Source),
}

/// TLS versions that can be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// `tls-cert-profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertProfile {
    /// Anything the TLS library takes.
    Insecure,
    /// SHA-1 and RSA 1024 refused by modern libraries.
    Legacy,
    /// SHA-2, RSA 2048 and better.
    Preferred,
    /// SHA-256 or SHA-384 with P-256 or P-384 only.
    SuiteB,
}

/// `auth-retry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRetry {
    /// Exit.
    None,
    /// Try again with the same login.
    NoInteract,
    /// Ask for a new login.
    Interact,
}

/// `static-challenge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticChallenge {
    /// The question.
    pub text: String,
    /// Show the answer while it is typed.
    pub echo: bool,
    /// Append the answer to the password instead of the `SCRV1` form.
    pub concat: bool,
}

/// `replay-window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    /// Packets; 0 wants strictly increasing ids.
    pub packets: u32,
    /// Seconds.
    pub seconds: u32,
}

impl Default for ReplayWindow {
    /// Wider than OpenVPN's 64 packets, which a fast link reorders beyond.
    fn default() -> Self {
        ReplayWindow {
            packets: 4096,
            seconds: 15,
        }
    }
}

/// `inactive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// The span looked at.
    pub seconds: u64,
    /// Traffic that is needed in it; 0 is satisfied by any packet.
    pub bytes: u64,
}

/// A script with the arguments that stand before Ringway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Where it is named.
    pub position: Position,
}

/// `log` and `log-append`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The file.
    pub path: PathBuf,
    /// Keep what is in it.
    pub append: bool,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFile {
    /// The file.
    pub path: PathBuf,
    /// Seconds between updates.
    pub seconds: u64,
}

/// `ringway-io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoEngine {
    /// io_uring where it is allowed, else plain calls.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Plain calls.
    Syscalls,
}

/// Parses an address as the transport and routes name it, IPv6 optionally in brackets.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse().ok()
}
