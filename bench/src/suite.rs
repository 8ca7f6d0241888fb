//! What is measured, and what is asked of it.
//!
//! A *setting* is one condition with the probes run under it and the programs that take part. A
//! *row* groups the targets that a reader looks for together; it may draw on several settings.
//! Settings without a target are for orientation.

use ringway_lab::certs::KeyKind;
use ringway_lab::iperf::Direction;
use ringway_lab::link::Cipher;

use crate::measure::Measure;
use crate::probe::{Probe, TcpShape};
use crate::program::{LIBRARY, NULL, OPENVPN, Program, VETH};
use crate::server;
use crate::target::{Against, Bound, Target};
use crate::tunnel::{Condition, Underlay};

/// The name under which the fastest other program is expected.
const WIREGUARD_GO: &str = "wireguard-go";

/// One condition, its probes and its programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Results are filed under it.
    pub(crate) key: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// What is below and inside the tunnel.
    pub(crate) condition: Condition,
    /// What is measured, on one start of the program.
    pub(crate) probes: &'static [Probe],
    /// Who takes part.
    pub(crate) entrants: &'static [Entrant],
    /// Never more rounds than this.
    pub(crate) rounds: u32,
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entrant {
    /// Ringway as it is.
    Ringway,
    /// Ringway with other lines: key, title, lines.
    Variant(&'static str, &'static str, &'static [&'static str]),
    /// OpenVPN.
    OpenVpn,
    /// Every program given with `--peer`.
    Others,
    /// The bare wire.
    Veth,
    /// The cipher library by itself.
    Library,
}

impl Entrant {
    /// The programs it stands for.
    pub(crate) fn programs(self, others: &[Program]) -> Vec<Program> {
        match self {
            Self::Ringway => vec![Program::ringway()],
            Self::Variant(key, title, lines) => vec![Program::variant(key, title, lines)],
            Self::OpenVpn => vec![Program::openvpn()],
            Self::Others => others.to_vec(),
            Self::Veth => vec![Program::veth()],
            Self::Library => vec![Program::library()],
        }
    }
}

/// Targets a reader looks for together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// For people.
    pub(crate) title: &'static str,
    /// What is asked.
    pub(crate) targets: &'static [Target],
}

const ALWAYS: u32 = u32::MAX;
const ONE_STREAM: Probe = Probe::Tcp(TcpShape {
    streams: 1,
    direction: Direction::Forward,
    v6: false,
});
const NO_CIPHER: Entrant = Entrant::Variant(
    NULL,
    "Ringway, null cipher",
    &[
        "data-ciphers none",
        "data-ciphers-fallback none",
        "auth none",
    ],
);
const DUEL: &[Entrant] = &[Entrant::Ringway, Entrant::OpenVpn];
const VPNS: &[Entrant] = &[Entrant::Ringway, Entrant::OpenVpn, Entrant::Others];
const EVERYONE: &[Entrant] = &[
    Entrant::Ringway,
    Entrant::OpenVpn,
    Entrant::Others,
    Entrant::Veth,
];
const TWO_WORKERS: Entrant = Entrant::Variant(
    "ringway-2-workers",
    "Ringway, 2 workers",
    &["ringway-workers 2"],
);
const LIBRARY_DUEL: &[Entrant] = &[Entrant::Ringway, Entrant::Library];

/// A setting about servers, with OpenVPN's beside it.
const fn served(key: &'static str, title: &'static str, probes: &'static [Probe]) -> Setting {
    Setting {
        key,
        title,
        condition: Condition::PLAIN,
        probes,
        entrants: DUEL,
        rounds: 2,
    }
}

/// All settings, in the order in which they are run and shown.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        key: "gcm",
        title: "One TCP stream, AES-256-GCM, MTU 1500",
        condition: Condition::PLAIN,
        probes: &[ONE_STREAM],
        entrants: &[
            Entrant::Ringway,
            Entrant::OpenVpn,
            Entrant::Others,
            NO_CIPHER,
            Entrant::Veth,
        ],
        rounds: ALWAYS,
    },
    Setting {
        key: "udp-cut",
        title: "One TCP stream, tx-udp-segmentation off",
        condition: Condition {
            underlay: Underlay::UdpCut,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: VPNS,
        rounds: ALWAYS,
    },
    Setting {
        key: "all-cut",
        title: "One TCP stream, all transmit segmentation off, receive GRO on",
        condition: Condition {
            underlay: Underlay::AllCut,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: EVERYONE,
        rounds: ALWAYS,
    },
    Setting {
        key: "jumbo",
        title: "Jumbo: inner MTU 8900 on an underlay of 9000",
        condition: Condition {
            outer_mtu: 9000,
            tun_mtu: Some(8900),
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "tun-mtu-48000",
        title: "tun-mtu 48000 on an underlay of 1500",
        condition: Condition {
            tun_mtu: Some(48000),
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "small",
        title: "64-byte UDP, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Small],
        entrants: EVERYONE,
        rounds: ALWAYS,
    },
    Setting {
        key: "cbc-sha256",
        title: "One TCP stream, AES-256-CBC with HMAC-SHA256",
        condition: Condition {
            cipher: Cipher::Aes256CbcSha256,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "cbc-sha1",
        title: "One TCP stream, AES-256-CBC with HMAC-SHA1",
        condition: Condition {
            cipher: Cipher::Aes256CbcSha256,
            lines: &["auth SHA1"],
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "cbc-sha256-packet",
        title: "One 1400-byte packet, AES-256-CBC with HMAC-SHA256, no network",
        condition: Condition::PLAIN,
        probes: &[Probe::CbcSha256],
        entrants: LIBRARY_DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "cbc-sha1-packet",
        title: "One 1400-byte packet, AES-256-CBC with HMAC-SHA1, no network",
        condition: Condition::PLAIN,
        probes: &[Probe::CbcSha1],
        entrants: LIBRARY_DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "chacha",
        title: "One TCP stream, ChaCha20-Poly1305",
        condition: Condition {
            cipher: Cipher::ChaCha20Poly1305,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: VPNS,
        rounds: ALWAYS,
    },
    Setting {
        key: "outer-tcp",
        title: "One TCP stream, `proto tcp`, AES-256-GCM",
        condition: Condition {
            tcp: true,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "tap",
        title: "One TCP stream, `dev tap`, AES-256-GCM",
        condition: Condition {
            tap: true,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "fragment",
        title: "One TCP stream, `fragment 1300`, AES-256-GCM",
        condition: Condition {
            lines: &["fragment 1300"],
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    // TCP would not be cut: `mssfix` follows `fragment`, and two Ringways cut it to what fits.
    Setting {
        key: "fragment-cut",
        title: "1200-byte UDP, `fragment 1000`: every packet in two parts",
        condition: Condition {
            lines: &["fragment 1000"],
            ..Condition::PLAIN
        },
        probes: &[Probe::Bulk],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "tun-hub",
        title: "One TCP stream from client to client of a server, `dev tun`, CPU of all three",
        condition: Condition {
            hub: true,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "tap-hub",
        title: "One TCP stream from client to client of a server, `dev tap`, CPU of all three",
        condition: Condition {
            tap: true,
            hub: true,
            ..Condition::PLAIN
        },
        probes: &[ONE_STREAM],
        entrants: DUEL,
        rounds: ALWAYS,
    },
    Setting {
        key: "latency",
        title: "Round trips, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Latency],
        entrants: EVERYONE,
        rounds: ALWAYS,
    },
    Setting {
        key: "rekey",
        title: "Keys change every 4 seconds under full load",
        condition: Condition {
            lines: &["reneg-sec 4"],
            ..Condition::PLAIN
        },
        probes: &[Probe::Rekey],
        entrants: DUEL,
        rounds: 2,
    },
    Setting {
        key: "memory",
        title: "Memory of the receiving end, by workers",
        condition: Condition::PLAIN,
        probes: &[Probe::Memory],
        entrants: &[
            Entrant::Ringway,
            TWO_WORKERS,
            Entrant::Variant(
                "ringway-3-workers",
                "Ringway, 3 workers",
                &["ringway-workers 3"],
            ),
            Entrant::OpenVpn,
        ],
        rounds: 1,
    },
    Setting {
        key: "engines",
        title: "Engines and workers, one TCP stream, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[ONE_STREAM],
        entrants: &[
            Entrant::Variant("ringway-uring", "Ringway, io_uring", &["ringway-io uring"]),
            Entrant::Variant(
                "ringway-syscalls",
                "Ringway, system calls",
                &["ringway-io syscalls"],
            ),
            TWO_WORKERS,
        ],
        rounds: ALWAYS,
    },
    Setting {
        key: "streams",
        title: "Four TCP streams, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Tcp(TcpShape {
            streams: 4,
            direction: Direction::Forward,
            v6: false,
        })],
        entrants: VPNS,
        rounds: 1,
    },
    Setting {
        key: "both-ways",
        title: "One TCP stream each way at once, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Tcp(TcpShape {
            streams: 1,
            direction: Direction::Both,
            v6: false,
        })],
        entrants: VPNS,
        rounds: 1,
    },
    Setting {
        key: "udp-bulk",
        title: "1200-byte UDP in super-packets, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Bulk],
        entrants: VPNS,
        rounds: 1,
    },
    Setting {
        key: "inner-v6",
        title: "One TCP stream over IPv6 inside, AES-256-GCM",
        condition: Condition::PLAIN,
        probes: &[Probe::Tcp(TcpShape {
            streams: 1,
            direction: Direction::Forward,
            v6: true,
        })],
        entrants: DUEL,
        rounds: 1,
    },
    served(
        "server-logins-rsa",
        "A server: logins, RSA-2048",
        &[Probe::Server(server::Row::Handshakes(KeyKind::Rsa2048))],
    ),
    served(
        "server-logins-ecdsa",
        "A server: logins, ECDSA P-256",
        &[Probe::Server(server::Row::Handshakes(KeyKind::EcdsaP256))],
    ),
    Setting {
        rounds: 1,
        ..served(
            "server-idle",
            "A server: idle peers",
            &[Probe::Server(server::Row::Idle)],
        )
    },
    Setting {
        rounds: 1,
        ..served(
            "server-crowd",
            "A server: one busy peer among idle ones",
            &[Probe::Server(server::Row::Crowd)],
        )
    },
    Setting {
        rounds: 1,
        ..served(
            "server-storm",
            "A server: all peers log in at once",
            &[Probe::Server(server::Row::Storm)],
        )
    },
    Setting {
        rounds: 1,
        ..served(
            "server-flood",
            "A server: spoofed resets and noise at full rate",
            &[Probe::Server(server::Row::Flood)],
        )
    },
    Setting {
        rounds: 1,
        entrants: &[Entrant::Ringway, TWO_WORKERS, Entrant::OpenVpn],
        ..served(
            "server-mesh",
            "A server: 50 peers talk to each other",
            &[Probe::Server(server::Row::Mesh)],
        )
    },
];

/// The target table.
pub(crate) const ROWS: &[Row] = &[
    Row {
        title: "One TCP stream, AES-256-GCM, MTU 1500",
        targets: &[
            rate("gcm", OPENVPN, Bound::AtLeast(5.0)),
            Target {
                setting: "gcm",
                measure: Measure::TcpCpu,
                against: Against::Program(OPENVPN),
                bound: Bound::AtMost(1.0 / 6.0),
            },
            rate("gcm", WIREGUARD_GO, Bound::AtLeast(2.5)),
            rate("gcm", NULL, Bound::AtLeast(0.8)),
            rate("gcm", VETH, Bound::AtLeast(0.5)),
        ],
    },
    Row {
        title: "Underlay without hardware help",
        targets: &[
            rate("udp-cut", OPENVPN, Bound::AtLeast(2.5)),
            rate("udp-cut", WIREGUARD_GO, Bound::Above(1.0)),
            rate("all-cut", OPENVPN, Bound::AtLeast(2.5)),
            rate("all-cut", WIREGUARD_GO, Bound::Above(1.0)),
        ],
    },
    Row {
        title: "Jumbo frames and very large tun-mtu",
        targets: &[
            rate("jumbo", OPENVPN, Bound::AtLeast(1.5)),
            rate("tun-mtu-48000", OPENVPN, Bound::AtLeast(1.5)),
        ],
    },
    Row {
        title: "Small packets",
        targets: &[
            Target {
                setting: "small",
                measure: Measure::SmallRate,
                against: Against::Program(OPENVPN),
                bound: Bound::AtLeast(2.0),
            },
            Target {
                setting: "small",
                measure: Measure::SmallRate,
                against: Against::BestOther,
                bound: Bound::Above(1.0),
            },
        ],
    },
    Row {
        title: "AES-256-CBC with HMAC",
        targets: &[
            rate("cbc-sha256", OPENVPN, Bound::AtLeast(6.0)),
            rate("cbc-sha1", OPENVPN, Bound::AtLeast(6.0)),
            packet("cbc-sha256-packet", Measure::SealTime),
            packet("cbc-sha256-packet", Measure::OpenTime),
            packet("cbc-sha1-packet", Measure::SealTime),
            packet("cbc-sha1-packet", Measure::OpenTime),
        ],
    },
    Row {
        title: "ChaCha20-Poly1305",
        targets: &[rate("chacha", OPENVPN, Bound::AtLeast(4.0))],
    },
    Row {
        title: "Round trips",
        targets: &[
            round_trip(Measure::IdleP50, Bound::AtMost(1.0)),
            round_trip(Measure::IdleP99, Bound::AtMost(1.0)),
            round_trip(Measure::IdleP999, Bound::AtMost(1.0)),
            round_trip(Measure::LoadedP99, Bound::AtMost(0.5)),
        ],
    },
    Row {
        title: "Memory",
        targets: &[Target {
            setting: "memory",
            measure: Measure::MemoryPeak,
            against: Against::Nothing,
            bound: Bound::Below(64.0),
        }],
    },
    Row {
        title: "A rekey under full load",
        targets: &[
            Target {
                setting: "rekey",
                measure: Measure::RekeyExcess,
                against: Against::Nothing,
                bound: Bound::AtMost(5.0),
            },
            Target {
                setting: "rekey",
                measure: Measure::RekeyLost,
                against: Against::Nothing,
                bound: Bound::AtMost(0.0),
            },
        ],
    },
    Row {
        title: "A server: logins",
        targets: &[logins("server-logins-rsa"), logins("server-logins-ecdsa")],
    },
    Row {
        title: "A server: many peers",
        targets: &[
            own("server-idle", Measure::PeerMemory, Bound::Below(64.0)),
            own("server-idle", Measure::KeepaliveLoad, Bound::Below(2.0)),
            own("server-crowd", Measure::CrowdKept, Bound::AtLeast(90.0)),
            own("server-storm", Measure::StormDelay, Bound::AtMost(2.0)),
        ],
    },
    Row {
        title: "A server: a flood",
        targets: &[
            own("server-flood", Measure::FloodKept, Bound::AtLeast(70.0)),
            own("server-flood", Measure::FloodMemory, Bound::AtMost(4.0)),
        ],
    },
    Row {
        title: "A server: 50 peers at once",
        targets: &[
            own("server-mesh", Measure::MeshLost, Bound::AtMost(0.0)),
            own("server-mesh", Measure::MeshAstray, Bound::AtMost(0.0)),
            own("server-mesh", Measure::MeshLate, Bound::AtMost(0.0)),
        ],
    },
];

const fn logins(setting: &'static str) -> Target {
    Target {
        setting,
        measure: Measure::LoginRate,
        against: Against::Program(OPENVPN),
        bound: Bound::AtLeast(3.0),
    }
}

/// A bound in the measure's own unit.
const fn own(setting: &'static str, measure: Measure, bound: Bound) -> Target {
    Target {
        setting,
        measure,
        against: Against::Nothing,
        bound,
    }
}

const fn rate(setting: &'static str, against: &'static str, bound: Bound) -> Target {
    Target {
        setting,
        measure: Measure::TcpRate,
        against: Against::Program(against),
        bound,
    }
}

const fn round_trip(measure: Measure, bound: Bound) -> Target {
    Target {
        setting: "latency",
        measure,
        against: Against::Program(OPENVPN),
        bound,
    }
}

/// Three times as fast as the library is a third of its time.
const fn packet(setting: &'static str, measure: Measure) -> Target {
    Target {
        setting,
        measure,
        against: Against::Program(LIBRARY),
        bound: Bound::AtMost(1.0 / 3.0),
    }
}

/// The setting of a key.
pub(crate) fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::program::RINGWAY;

    #[test]
    fn every_target_can_be_measured() {
        for target in ROWS.iter().flat_map(|row| row.targets) {
            let setting = setting(target.setting).expect(target.setting);
            let keys: Vec<String> = setting
                .entrants
                .iter()
                .flat_map(|entrant| entrant.programs(&[]))
                .map(|program| program.key)
                .collect();
            assert!(keys.iter().any(|key| key == RINGWAY), "{}", setting.key);
            let measured = setting
                .probes
                .iter()
                .any(|probe| probe.measures().contains(&target.measure));
            assert!(measured, "{} {:?}", setting.key, target.measure);
            let others = setting
                .entrants
                .iter()
                .any(|entrant| matches!(entrant, Entrant::Others));
            match target.against {
                Against::Program(WIREGUARD_GO) | Against::BestOther => assert!(others),
                Against::Program(rival) => assert!(keys.iter().any(|key| key == rival)),
                Against::Nothing => {}
            }
        }
    }

    #[test]
    fn keys_are_unique() {
        let keys: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
    }
}
