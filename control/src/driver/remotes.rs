//! Where to connect next: the list of `remote`s, their addresses, and the pauses between rounds
//! (protocol §9, §2.7).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rand::seq::SliceRandom;

use crate::config::options::{Connection, Family, Options};
use crate::config::proxy::Proxy;
use crate::proto::push::Advance;

/// Pause between tries to resolve a name.
const RESOLVE_PAUSE: Duration = Duration::from_secs(5);
/// How long a running resolution waits between looks at signals.
const RESOLVE_LOOK: Duration = Duration::from_millis(100);
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
    /// The place used last, and its number in the list.
    current: Option<(usize, Target)>,
    /// The next place is the current one again.
    stay: bool,
    /// What names resolved to, by number in the list (`persist-remote-ip`).
    known: Vec<Vec<SocketAddr>>,
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
            known: vec![Vec::new(); connections.len()],
            connections,
            next: 0,
            addresses: Vec::new(),
            current: None,
            stay: false,
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

    /// A connection worked: the next attempt goes to the same place, and a new count of rounds
    /// begins.
    pub(super) fn succeeded(&mut self) {
        self.round = 0;
        self.stay = true;
    }

    /// The server says where to try next.
    pub(super) fn steer(&mut self, to: Advance) {
        self.stay = to == Advance::No;
        if to == Advance::Remote {
            self.addresses.clear();
        }
    }

    /// The next place. A name that does not resolve is tried again for `resolv-retry` seconds, or
    /// with `infinite` after the other places; `sleep` pauses and returns false when the wait must
    /// end (a signal). `None` when it did, or when no name of a whole round could be resolved and
    /// `resolv-retry` or `connect-retry-max` ends the search.
    pub(super) fn next(
        &mut self,
        options: &Options,
        sleep: &mut dyn FnMut(Duration) -> bool,
        log: &mut dyn FnMut(String),
    ) -> Option<Target> {
        if std::mem::take(&mut self.stay)
            && let Some((index, last)) = self.current.clone()
        {
            // The address is looked up again, for a server that has moved; a temporary failure of
            // that is no reason to leave a place that works.
            let mut addresses = match place(&last.connection, options) {
                Some(place) if !options.persist_remote_ip => {
                    resolve(&place, last.connection.family).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let remote = match last.remote {
                Some(used) if addresses.is_empty() || addresses.contains(&used) => Some(used),
                Some(_) => addresses.first().copied(),
                None => None,
            };
            addresses.retain(|a| Some(*a) != remote);
            self.addresses = addresses;
            return Some(self.take(index, remote));
        }
        let mut failed = 0;
        loop {
            if let Some((index, _)) = &self.current
                && !self.addresses.is_empty()
            {
                let index = *index;
                let address = self.addresses.remove(0);
                return Some(self.take(index, Some(address)));
            }
            let index = self.next;
            self.next += 1;
            if self.next == self.connections.len() {
                self.next = 0;
                self.round += 1;
            }
            let connection = &self.connections[index];
            let Some(place) = place(connection, options) else {
                return Some(self.take(index, None));
            };
            let resolved = match self.known[index].is_empty() {
                false => Resolved::Addresses(self.known[index].clone()),
                true => resolve_patiently(&place, connection.family, options, sleep, log),
            };
            match resolved {
                Resolved::Addresses(mut addresses) => {
                    if options.persist_remote_ip {
                        self.known[index].clone_from(&addresses);
                    }
                    let first = addresses.remove(0);
                    self.addresses = addresses;
                    return Some(self.take(index, Some(first)));
                }
                Resolved::Failed => {}
                Resolved::Interrupted => return None,
            }
            failed += 1;
            if failed == self.connections.len() {
                let over = options
                    .connect_retry_max
                    .is_some_and(|max| self.round >= max);
                if options.resolv_retry.is_some() || over || !sleep(RESOLVE_PAUSE) {
                    return None;
                }
                failed = 0;
            }
        }
    }

    fn take(&mut self, index: usize, remote: Option<SocketAddr>) -> Target {
        let connection = self.connections[index].clone();
        let target = Target { connection, remote };
        self.current = Some((index, target.clone()));
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
    place: &Place,
    family: Family,
    options: &Options,
    sleep: &mut dyn FnMut(Duration) -> bool,
    log: &mut dyn FnMut(String),
) -> Resolved {
    let mut waited = Duration::ZERO;
    loop {
        let error = match resolve_aside(place, family, sleep) {
            Some(Ok(addresses)) => return Resolved::Addresses(addresses),
            Some(Err(error)) => error,
            None => return Resolved::Interrupted,
        };
        log(format!(
            "RESOLVE: cannot resolve host address: {}:{}: {error}",
            place.0, place.1
        ));
        if options
            .resolv_retry
            .is_none_or(|limit| waited >= Duration::from_secs(limit))
        {
            return Resolved::Failed;
        }
        if !sleep(RESOLVE_PAUSE) {
            return Resolved::Interrupted;
        }
        waited += RESOLVE_PAUSE;
    }
}

/// Name or address, and port.
type Place = (String, u16);

/// Where to connect to: the proxy, if there is one; it resolves the peer's name itself.
fn place(connection: &Connection, options: &Options) -> Option<Place> {
    let remote = connection.remote.as_ref()?;
    Some(match &connection.proxy {
        Some(Proxy::Http(proxy)) => (proxy.host.clone(), proxy.port),
        Some(Proxy::Socks(proxy)) => (proxy.host.clone(), proxy.port),
        None => (host(remote, options), connection.rport),
    })
}

/// The name to ask for (`remote-random-hostname`).
fn host(name: &str, options: &Options) -> String {
    if options.remote_random_hostname && name.parse::<IpAddr>().is_err() {
        format!("{:012x}.{name}", rand::random::<u64>() >> 16)
    } else {
        name.to_owned()
    }
}

/// One try to resolve a name on a thread of its own, so that a name server that does not answer
/// holds up no signal. `None` when `sleep` was interrupted; the thread then ends by itself.
fn resolve_aside(
    place: &Place,
    family: Family,
    sleep: &mut dyn FnMut(Duration) -> bool,
) -> Option<Result<Vec<SocketAddr>, String>> {
    if place.0.parse::<IpAddr>().is_ok() {
        return Some(resolve(place, family));
    }
    let (answer, answered) = mpsc::channel();
    let aside = place.clone();
    let thread = std::thread::Builder::new().name("ringway-resolve".to_owned());
    if thread
        .spawn(move || answer.send(resolve(&aside, family)))
        .is_err()
    {
        return Some(resolve(place, family));
    }
    loop {
        match answered.recv_timeout(RESOLVE_LOOK) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Disconnected) => {
                return Some(Err("the resolver failed".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if sleep(Duration::ZERO) => {}
            Err(RecvTimeoutError::Timeout) => return None,
        }
    }
}

/// One try to resolve a name; at least one address.
fn resolve(place: &Place, family: Family) -> Result<Vec<SocketAddr>, String> {
    let all = (place.0.as_str(), place.1)
        .to_socket_addrs()
        .map_err(|e| e.to_string())?;
    let fitting: Vec<_> = all.filter(|a| fits(a.ip(), family)).collect();
    match fitting.is_empty() {
        true => Err("no address of the wanted family".to_owned()),
        false => Ok(fitting),
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
    use crate::config::position::Position;
    use crate::config::proxy::SocksProxy;

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
    fn stays_where_it_worked_until_that_fails() {
        let options = options(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let mut remotes = Remotes::new(&options);
        let step = |remotes: &mut Remotes| {
            let target = remotes.next(&options, &mut |_| true, &mut |_| {}).unwrap();
            target.remote.unwrap().ip().to_string()
        };
        step(&mut remotes);
        assert_eq!(step(&mut remotes), "192.0.2.2");
        remotes.succeeded();
        assert_eq!(step(&mut remotes), "192.0.2.2");
        assert_eq!(step(&mut remotes), "192.0.2.3");
        remotes.succeeded();
        remotes.steer(Advance::Remote);
        assert_eq!(step(&mut remotes), "192.0.2.1");
        remotes.steer(Advance::No);
        assert_eq!(step(&mut remotes), "192.0.2.1");
    }

    #[test]
    fn persist_remote_ip_keeps_addresses_but_not_a_place_that_fails() {
        let mut options = options(&["localhost", "192.0.2.2"]);
        options.persist_remote_ip = true;
        let mut remotes = Remotes::new(&options);
        let local: SocketAddr = ([127, 0, 0, 9], 1).into();
        remotes.known[0] = vec![local];
        let mut step = || {
            let target = remotes.next(&options, &mut |_| true, &mut |_| {}).unwrap();
            target.remote.unwrap().ip().to_string()
        };
        assert_eq!(
            [step(), step(), step()],
            ["127.0.0.9", "192.0.2.2", "127.0.0.9"]
        );
    }

    #[test]
    fn a_proxy_is_what_is_connected_to() {
        let mut options = options(&["peer.invalid"]);
        options.connections[0].proxy = Some(Proxy::Socks(SocksProxy {
            host: "192.0.2.7".to_owned(),
            port: 1080,
            credentials: None,
            position: Position::new("t", 1),
        }));
        let target = Remotes::new(&options).next(&options, &mut |_| true, &mut |_| {});
        assert_eq!(target.unwrap().remote, Some(([192, 0, 2, 7], 1080).into()));
    }

    #[test]
    fn names_that_never_resolve() {
        let mut options = options(&["a.invalid", "b.invalid"]);
        let pauses = |options: &Options| {
            let mut remotes = Remotes::new(options);
            let (mut slept, mut lines) = (0, 0);
            let target = remotes.next(
                options,
                &mut |_| {
                    slept += 1;
                    slept < 3
                },
                &mut |_| lines += 1,
            );
            assert_eq!(target, None);
            (slept, lines)
        };
        // `infinite`: round after round, until a signal.
        assert_eq!(pauses(&options), (3, 6));
        options.connect_retry_max = Some(2);
        assert_eq!(pauses(&options), (1, 4));
        options.connect_retry_max = None;
        options.resolv_retry = Some(0);
        assert_eq!(pauses(&options), (0, 2));
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
