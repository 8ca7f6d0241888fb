//! Where to connect next: the list of `remote`s, their addresses, and the pauses between rounds
//! (protocol §9, §2.7).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use rand::seq::SliceRandom;

use crate::config::options::{Connection, Family, Options};

/// Pause between tries to resolve a name.
const RESOLVE_PAUSE: Duration = Duration::from_secs(5);
/// Rounds before the pause between rounds begins to double.
const PATIENT_ROUNDS: u32 = 5;

/// The next place to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Everything configured for this place.
    pub connection: Connection,
    /// Its address; `None` waits for a peer.
    pub remote: Option<SocketAddr>,
}

/// Walks the `remote` list, address by address, round by round.
#[derive(Debug)]
pub(super) struct Remotes {
    connections: Vec<Connection>,
    next: usize,
    /// Addresses of the current name still to try.
    addresses: Vec<SocketAddr>,
    current: Option<Target>,
    round: u32,
}

impl Remotes {
    /// The list in file order, or shuffled with `remote-random`.
    pub(super) fn new(options: &Options) -> Self {
        let mut connections = options.connections.clone();
        if options.remote_random {
            connections.shuffle(&mut rand::rng());
        }
        Remotes {
            connections,
            next: 0,
            addresses: Vec::new(),
            current: None,
            round: 0,
        }
    }

    /// How many rounds through the whole list have been made.
    pub(super) fn round(&self) -> u32 {
        self.round
    }

    /// How long to pause before the next attempt: `connect-retry`, doubled per round after the
    /// fifth, up to its maximum.
    pub(super) fn pause(&self, options: &Options) -> Duration {
        let doublings = self.round.saturating_sub(PATIENT_ROUNDS).min(16);
        let seconds = options.connect_retry.first.saturating_mul(1 << doublings);
        Duration::from_secs(seconds.min(options.connect_retry.max.max(options.connect_retry.first)))
    }

    /// The place used last, for a restart that keeps it (`persist-remote-ip`).
    pub(super) fn current(&self) -> Option<&Target> {
        self.current.as_ref()
    }

    /// A connection worked: the next failure starts a new count of rounds at this place.
    pub(super) fn succeeded(&mut self) {
        self.round = 0;
    }

    /// The next place. Resolution is retried for `resolv-retry` seconds; `sleep` pauses and returns
    /// false when the wait must end (a signal). `None` when it did, or when every name of a whole
    /// round failed to resolve.
    pub(super) fn next(
        &mut self,
        options: &Options,
        sleep: &mut dyn FnMut(Duration) -> bool,
        log: &mut dyn FnMut(String),
    ) -> Option<Target> {
        for _ in 0..=self.connections.len() {
            if !self.addresses.is_empty() {
                let address = self.addresses.remove(0);
                let connection = self.current.as_ref()?.connection.clone();
                return Some(self.take(connection, Some(address)));
            }
            let connection = self.connections[self.next].clone();
            self.next += 1;
            if self.next == self.connections.len() {
                self.next = 0;
                self.round += 1;
            }
            let Some(name) = connection.remote.clone() else {
                return Some(self.take(connection, None));
            };
            match resolve_patiently(&name, &connection, options, sleep, log) {
                Resolved::Addresses(mut addresses) => {
                    let first = addresses.remove(0);
                    self.addresses = addresses;
                    return Some(self.take(connection, Some(first)));
                }
                Resolved::Failed => {}
                Resolved::Interrupted => return None,
            }
        }
        None
    }

    fn take(&mut self, connection: Connection, remote: Option<SocketAddr>) -> Target {
        let target = Target { connection, remote };
        self.current = Some(target.clone());
        target
    }
}

/// Resolves the local address to bind to, of the same family as the remote.
pub(super) fn resolve_local(
    name: &str,
    remote: Option<SocketAddr>,
    family: Family,
) -> Result<IpAddr, String> {
    let addresses = (name, 0)
        .to_socket_addrs()
        .map_err(|e| format!("local: cannot resolve '{name}': {e}"))?;
    addresses
        .map(|a| a.ip())
        .find(|ip| match remote {
            Some(remote) => ip.is_ipv4() == remote.is_ipv4(),
            None => fits(*ip, family),
        })
        .ok_or_else(|| format!("local: '{name}' has no address of the family of the remote"))
}

enum Resolved {
    Addresses(Vec<SocketAddr>),
    Failed,
    Interrupted,
}

fn resolve_patiently(
    name: &str,
    connection: &Connection,
    options: &Options,
    sleep: &mut dyn FnMut(Duration) -> bool,
    log: &mut dyn FnMut(String),
) -> Resolved {
    let host = if options.remote_random_hostname && name.parse::<IpAddr>().is_err() {
        format!("{:012x}.{name}", rand::random::<u64>() >> 16)
    } else {
        name.to_owned()
    };
    let mut waited = Duration::ZERO;
    loop {
        let error = match (host.as_str(), connection.rport).to_socket_addrs() {
            Ok(all) => {
                let fitting: Vec<_> = all.filter(|a| fits(a.ip(), connection.family)).collect();
                if !fitting.is_empty() {
                    return Resolved::Addresses(fitting);
                }
                "no address of the wanted family".to_owned()
            }
            Err(e) => e.to_string(),
        };
        let give_up = match options.resolv_retry {
            None => options.connections.len() > 1,
            Some(seconds) => waited >= Duration::from_secs(seconds),
        };
        log(format!(
            "RESOLVE: cannot resolve host address: {host}: {error}"
        ));
        if give_up {
            return Resolved::Failed;
        }
        if !sleep(RESOLVE_PAUSE) {
            return Resolved::Interrupted;
        }
        waited += RESOLVE_PAUSE;
    }
}

fn fits(ip: IpAddr, family: Family) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(names: &[&str]) -> Options {
        let connections = names
            .iter()
            .map(|n| Connection {
                remote: Some((*n).to_owned()),
                ..Connection::default()
            })
            .collect();
        Options {
            connections,
            ..Options::default()
        }
    }

    #[test]
    fn walks_the_list_and_counts_rounds() {
        let options = options(&["192.0.2.1", "192.0.2.2"]);
        let mut remotes = Remotes::new(&options);
        let mut step = || {
            let target = remotes.next(&options, &mut |_| true, &mut |_| {}).unwrap();
            (target.remote.unwrap().ip().to_string(), remotes.round())
        };
        assert_eq!(step(), ("192.0.2.1".to_owned(), 0));
        assert_eq!(step(), ("192.0.2.2".to_owned(), 1));
        assert_eq!(step(), ("192.0.2.1".to_owned(), 1));
    }

    #[test]
    fn pauses_double_after_the_fifth_round_up_to_the_maximum() {
        let options = options(&["192.0.2.1"]);
        let mut remotes = Remotes::new(&options);
        let pauses: Vec<u64> = (0..16)
            .map(|round| {
                remotes.round = round;
                remotes.pause(&options).as_secs()
            })
            .collect();
        assert_eq!(
            pauses,
            [1, 1, 1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        );
    }

    #[test]
    fn an_interrupted_wait_for_a_name_ends_the_search() {
        let options = options(&["name.invalid"]);
        let mut remotes = Remotes::new(&options);
        assert_eq!(remotes.next(&options, &mut |_| false, &mut |_| {}), None);
    }
}
