//! Made-up hosts for tests.

use super::facts::*;
use super::finding::Finding;
use super::rules::judge;
use crate::cpu::{Cores, Features};
use crate::cpu_list::CpuList;
use crate::host::Limits;

/// The one finding with this id.
pub(crate) fn found(id: &str, facts: &Facts, config: Option<Use>) -> Finding {
    let wishes = Wishes {
        config,
        ..Wishes::default()
    };
    let (findings, _) = judge(facts, &wishes);
    let mut alike = findings.into_iter().filter(|finding| finding.id == id);
    let finding = alike.next().unwrap_or_else(|| panic!("no finding {id}"));
    assert!(alike.next().is_none(), "{id} twice");
    finding
}

/// What an ordinary client's configuration uses.
pub(crate) fn usual_config() -> Use {
    Use {
        tun_mtu: 1500,
        mssfix: Mss::Outer(1492),
        txqueuelen: None,
        sndbuf: None,
        rcvbuf: None,
        workers: 1,
        cpus: CpuList::default(),
        uring: true,
        ciphers: vec!["AES-256-GCM".into()],
        mlock: false,
        server: false,
    }
}

/// Four cores, everything as it should be.
pub(crate) fn good_host() -> Facts {
    let on = Feature {
        on: true,
        changeable: true,
    };
    let features = [
        "tx-udp-segmentation",
        "tx-checksum-ip-generic",
        "rx-gro",
        "rx-udp-gro-forwarding",
    ];
    let cpu = |text: &str| CpuList::parse(text).unwrap();
    Facts {
        offers: Offers {
            uring: Offer::Works(()),
            tun: Offer::Works(TunFeatures {
                tso: true,
                uso: true,
                multi_queue: true,
            }),
            udp: Offer::Works(UdpFeatures {
                segmentation: true,
                receive_offload: true,
            }),
        },
        kernel: Kernel {
            release: "6.18.0".into(),
            version: Some((6, 18)),
            uring_disabled: Some(0),
            clocksource: Some(("tsc".into(), vec!["tsc".into()])),
            mitigations: vec!["spectre_v2".into()],
            memlock: Some(8 << 20),
        },
        processor: Processor {
            features: Features {
                aes: true,
                vaes: true,
                pclmul: true,
                vpclmul: true,
                sha: true,
                avx2: true,
                avx512: true,
            },
            known: true,
            cores: Some(Cores {
                usable: 4,
                physical: Some(4),
            }),
            allowed: cpu("0-3"),
            siblings: vec![cpu("0"), cpu("1"), cpu("2"), cpu("3")],
            nodes: [(0, cpu("0-3"))].into(),
            governors: vec![(0, "performance".into(), true)],
        },
        limits: Limits {
            rmem_max: Some(64 << 20),
            wmem_max: Some(64 << 20),
            rmem_default: Some(212_992),
            wmem_default: Some(212_992),
            memory: Some(16 << 30),
            rate: None,
        },
        stack: Stack {
            backlog: Some(1000),
            budget: Some(300),
            softnet: Some(Softnet {
                processed: 1_000_000,
                dropped: 0,
                squeezed: 10,
            }),
            udp: Some(UdpCounters::default()),
            conntrack: Some((100, 65_536)),
            forwards: true,
        },
        outer: vec![Link {
            name: "eth0".into(),
            mtu: 1500,
            txqueuelen: 1000,
            qdisc: "mq".into(),
            features: Some(features.map(|name| (name.to_owned(), on)).into()),
            rx_queues: 4,
            rx_queues_max: Some(4),
            interrupts: vec![
                (30, cpu("0")),
                (31, cpu("1")),
                (32, cpu("0")),
                (33, cpu("1")),
            ],
            tx_packets: 1_000_000,
            ..Link::default()
        }],
        devices: vec![Link {
            name: "tun0".into(),
            mtu: 1500,
            txqueuelen: 1000,
            qdisc: "fq_codel".into(),
            tx_packets: 1_000_000,
            ..Link::default()
        }],
        missing: Vec::new(),
        net_admin: true,
    }
}

/// Everything that `--apply` can change is worth changing.
pub(crate) fn bad_host() -> Facts {
    let mut facts = good_host();
    facts.kernel.version = Some((4, 4));
    facts.limits.rmem_max = Some(212_992);
    facts.limits.wmem_max = Some(212_992);
    facts.net_admin = false;
    facts.processor.governors = vec![(0, "powersave".into(), true)];
    facts.stack.backlog = Some(100);
    facts.stack.budget = Some(30);
    facts.stack.conntrack = Some((65_000, 65_536));
    let features = facts.outer[0].features.as_mut().unwrap();
    for feature in features.values_mut() {
        feature.on = false;
    }
    facts
}
