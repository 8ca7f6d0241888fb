//! Processors: instructions, affinity, siblings, nodes, governors.

use std::collections::{BTreeMap, BTreeSet};

use super::{names, text};
use crate::cpu::{Cores, Features};
use crate::cpu_list::CpuList;
use crate::doctor::facts::Processor;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

pub(super) fn read() -> Processor {
    let cores = Cores::count();
    Processor {
        features: Features::detect(),
        known: cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
        cores: Some(cores),
        allowed: allowed().unwrap_or_else(|| (0..cores.usable).collect()),
        siblings: siblings(),
        nodes: nodes(),
        governors: governors(),
    }
}

fn allowed() -> Option<CpuList> {
    let status = text("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    CpuList::parse(line).filter(|cpus| !cpus.is_empty())
}

fn siblings() -> Vec<CpuList> {
    let cores: BTreeSet<CpuList> = cpu_folders()
        .filter_map(|(_, folder)| {
            CpuList::parse(&text(format!("{folder}/topology/thread_siblings_list"))?)
        })
        .collect();
    cores.into_iter().collect()
}

fn nodes() -> BTreeMap<usize, CpuList> {
    names(NODES)
        .into_iter()
        .filter_map(|name| {
            let node = name.strip_prefix("node")?.parse().ok()?;
            let cpus = CpuList::parse(&text(format!("{NODES}/{name}/cpulist"))?)?;
            Some((node, cpus))
        })
        .collect()
}

fn governors() -> Vec<(usize, String, bool)> {
    cpu_folders()
        .filter_map(|(cpu, folder)| {
            let governor = text(format!("{folder}/cpufreq/scaling_governor"))?;
            let available = text(format!("{folder}/cpufreq/scaling_available_governors"));
            let fast = available
                .unwrap_or_default()
                .split_whitespace()
                .any(|name| name == "performance");
            Some((cpu, governor, fast))
        })
        .collect()
}

/// Number and folder of each processor.
fn cpu_folders() -> impl Iterator<Item = (usize, String)> {
    names(CPUS).into_iter().filter_map(|name| {
        let cpu = name.strip_prefix("cpu")?.parse().ok()?;
        Some((cpu, format!("{CPUS}/{name}")))
    })
}
