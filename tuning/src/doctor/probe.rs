//! Reads the host. What cannot be read is left out; nothing is changed.

mod kernel;
mod link;
mod processor;
mod stack;

use std::path::Path;

use super::facts::{Facts, Offers, Wishes};
use crate::host::Limits;
use crate::route;

/// Looks at the host. `offers` is what only the packet path can try.
pub fn look(wishes: &Wishes, offers: Offers) -> Facts {
    let links = link::Links::read();
    let interfaces = match (wishes.interfaces.as_slice(), wishes.remote) {
        ([], Some(remote)) => route::interface_towards(remote).into_iter().collect(),
        ([], None) => route::default_interfaces(),
        (named, _) => named.to_vec(),
    };
    let outer: Vec<_> = interfaces
        .iter()
        .filter_map(|name| links.link(name))
        .collect();
    let devices = links
        .tun_names()
        .filter(|name| wishes.devices.is_empty() || wishes.devices.contains(name))
        .filter_map(|name| links.link(&name))
        .collect();
    let missing = (wishes.interfaces.iter().chain(&wishes.devices))
        .filter(|name| !links.has(name))
        .cloned()
        .collect();
    let mut limits = Limits::read();
    limits.rate = outer.iter().filter_map(|link| link.rate).max();
    Facts {
        offers,
        kernel: kernel::read(),
        processor: processor::read(),
        limits,
        stack: stack::read(),
        outer,
        devices,
        missing,
        net_admin: kernel::has_net_admin(),
    }
}

/// The trimmed content of a file.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// The number a file holds.
fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

/// Names in a folder, sorted.
fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_seen() {
        let wishes = Wishes {
            interfaces: vec!["lo".into(), "no-such-link".into()],
            ..Wishes::default()
        };
        let facts = look(&wishes, Offers::default());
        assert!(facts.kernel.version.is_some());
        assert!(!facts.processor.allowed.is_empty());
        assert_eq!(facts.outer.len(), 1);
        assert_eq!(facts.outer[0].name, "lo");
        assert_eq!(facts.missing, ["no-such-link"]);
    }
}
