//! Which processors move packets and which serve the card.
//!
//! ```text
//!  node of the card -> one hardware thread per core -> first half: interrupts of the card's queues
//!                                                      the rest:   workers, pinned
//! ```
//! A worker and an interrupt on one core take turns; apart they run at once. The second hardware
//! threads stay free: two on one core share its AES and memory units.

use std::collections::BTreeSet;

use serde::Serialize;

use super::facts::{Link, Processor};
use crate::cpu_list::CpuList;

/// Most workers that one peer's traffic can keep busy: one per direction.
const ONE_PEER: usize = 2;

/// Most workers proposed for a server.
const MANY_PEERS: usize = 16;

/// A proposal for `ringway-workers` and `ringway-cpus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// `ringway-workers`
    pub workers: usize,
    /// `ringway-cpus`; empty when pinning brings nothing.
    #[serde(serialize_with = "shown")]
    pub cpus: CpuList,
    /// Where the interrupts of the outer interface belong; empty when it does not matter.
    #[serde(serialize_with = "shown")]
    pub interrupts: CpuList,
    /// The outer interface the plan is for.
    pub interface: Option<String>,
}

/// Makes the plan. `server` expects many peers.
pub fn plan(processor: &Processor, outer: Option<&Link>, server: bool) -> Plan {
    let cores = one_per_core(processor, &near(processor, outer));
    let usable = processor.cores.map_or(cores.len(), |cores| cores.usable);
    let threads = cores.len().min(usable);
    let mut plan = Plan {
        workers: 1,
        cpus: CpuList::default(),
        interrupts: CpuList::default(),
        interface: outer.map(|link| link.name.clone()),
    };
    if threads < 2 {
        return plan;
    }
    let queues = outer.map_or(1, |link| link.rx_queues.max(1) as usize);
    let serving = (threads / 2).min(queues);
    let most = if server { MANY_PEERS } else { ONE_PEER };
    plan.workers = (threads - serving).min(most);
    plan.interrupts = cores.iter().copied().take(serving).collect();
    plan.cpus = cores
        .iter()
        .copied()
        .skip(serving)
        .take(plan.workers)
        .collect();
    plan
}

/// Where this process may run, on the card's node if it is known and allowed.
fn near(processor: &Processor, outer: Option<&Link>) -> CpuList {
    let node = outer.and_then(|link| processor.nodes.get(&link.node?));
    let near: CpuList = node
        .map(|cpus| cpus.0.intersection(&processor.allowed.0).copied().collect())
        .unwrap_or_default();
    if near.is_empty() {
        processor.allowed.clone()
    } else {
        near
    }
}

/// The lowest of each core's hardware threads among `cpus`.
fn one_per_core(processor: &Processor, cpus: &CpuList) -> BTreeSet<usize> {
    let is_first = |cpu: &usize| {
        let core = processor.siblings.iter().find(|core| core.0.contains(cpu));
        core.is_none_or(|core| core.0.intersection(&cpus.0).next() == Some(cpu))
    };
    cpus.0.iter().copied().filter(is_first).collect()
}

fn shown<S: serde::Serializer>(cpus: &CpuList, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cores;

    fn list(text: &str) -> CpuList {
        CpuList::parse(text).unwrap()
    }

    fn processor(allowed: &str, usable: usize, siblings: &[&str]) -> Processor {
        Processor {
            cores: Some(Cores {
                usable,
                physical: None,
            }),
            allowed: list(allowed),
            siblings: siblings.iter().map(|core| list(core)).collect(),
            ..Processor::default()
        }
    }

    fn queues(rx_queues: u32) -> Link {
        Link {
            name: "eth0".into(),
            rx_queues,
            ..Link::default()
        }
    }

    #[test]
    fn cores_are_shared_between_card_and_workers() {
        for (allowed, usable, card, server, expected) in [
            ("0", 1, 1, false, (1, "", "")),
            ("0,1", 2, 1, false, (1, "1", "0")),
            ("0-3", 4, 4, false, (2, "2,3", "0,1")),
            ("0-3", 4, 1, true, (3, "1-3", "0")),
            ("0-7", 8, 8, true, (4, "4-7", "0-3")),
            ("0-7", 2, 8, true, (1, "1", "0")),
            ("0-63", 64, 8, true, (16, "8-23", "0-7")),
        ] {
            let plan = plan(
                &processor(allowed, usable, &[]),
                Some(&queues(card)),
                server,
            );
            let (cpus, interrupts) = (plan.cpus.to_string(), plan.interrupts.to_string());
            assert_eq!((plan.workers, &*cpus, &*interrupts), expected, "{allowed}");
        }
    }

    #[test]
    fn siblings_stay_free_and_the_cards_node_is_preferred() {
        let siblings = ["0,4", "1,5", "2,6", "3,7"];
        let mut processor = processor("0-7", 8, &siblings);
        let plan_all = plan(&processor, Some(&queues(2)), true);
        assert_eq!(plan_all.cpus, list("2,3"));
        processor.nodes = [(0, list("0,1,4,5")), (1, list("2,3,6,7"))].into();
        let mut card = queues(2);
        card.node = Some(1);
        let plan_near = plan(&processor, Some(&card), true);
        assert_eq!(
            (plan_near.interrupts, plan_near.cpus),
            (list("2"), list("3"))
        );
        // Only the second threads are allowed: they are all there is.
        processor.allowed = list("4-7");
        card.node = None;
        assert_eq!(plan(&processor, Some(&card), true).cpus, list("6,7"));
    }
}
