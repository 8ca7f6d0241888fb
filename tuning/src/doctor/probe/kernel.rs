//! Release, clock, policy.

use nix::sys::resource::{Resource, getrlimit};

use super::{names, number, text};
use crate::doctor::facts::Kernel;

pub(super) fn read() -> Kernel {
    let release = nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Kernel {
        version: version(&release),
        release,
        uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        clocksource: clocksource(),
        mitigations: mitigations(),
        memlock: getrlimit(Resource::RLIMIT_MEMLOCK)
            .ok()
            .map(|(soft, _)| soft),
    }
}

/// Whether CAP_NET_ADMIN is in the effective set, by its bit in `/proc/self/status`.
pub(super) fn has_net_admin() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = text("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_NET_ADMIN & 1 == 1)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn clocksource() -> Option<(String, Vec<String>)> {
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    let current = text(format!("{FOLDER}/current_clocksource"))?;
    let available = text(format!("{FOLDER}/available_clocksource")).unwrap_or_default();
    Some((
        current,
        available.split_whitespace().map(str::to_owned).collect(),
    ))
}

fn mitigations() -> Vec<String> {
    const FOLDER: &str = "/sys/devices/system/cpu/vulnerabilities";
    names(FOLDER)
        .into_iter()
        .filter(|name| {
            text(format!("{FOLDER}/{name}")).is_some_and(|state| state.starts_with("Mitigation"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.18.44-fc-v509"), Some((6, 18)));
        assert_eq!(version("5.15.0+"), Some((5, 15)));
        assert_eq!(version("strange"), None);
        assert_eq!(version(""), None);
    }
}
