//! Which client owns which address and network inside the tunnel (protocol §11).
//!
//! ```text
//!  own addresses, iroutes (tun)           learned MAC addresses with their VLAN (tap)
//!            \                              /
//!             judge -> learn-address script -> learn -> changes for the data plane
//!                        may refuse                     who lost the address, if somebody did
//! ```
//! An address belongs to one client. A newer owner takes it over, as in OpenVPN; networks may lie
//! within each other, the longest prefix counts in the data plane. Between `judge` and `learn` the
//! table may change: `learn` judges again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringway_dataplane::command::{PeerHandle, Prefix};

use super::addresses::Addresses;
use crate::config::server::ClientConfig;

/// An address or network inside the tunnel.
///
/// It is shown as in status files and for `learn-address`: `10.8.0.2`, `10.1.0.0/16`,
/// `02:00:00:00:00:01@0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A network, or one address with all its bits; bits behind the prefix are zero.
    Ip(IpAddr, u8),
    /// A MAC address in a VLAN.
    Mac([u8; 6], u16),
}

impl Address {
    /// One IP address.
    pub fn host(address: IpAddr) -> Self {
        Address::network(address, 128)
    }

    /// The network `address` is in. A length that is too long stands for the whole address.
    pub fn network(address: IpAddr, bits: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let bits = bits.min(32);
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(bits))
                    .unwrap_or_default();
                Address::Ip(Ipv4Addr::from(u32::from(address) & mask).into(), bits)
            }
            IpAddr::V6(address) => {
                let bits = bits.min(128);
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(bits))
                    .unwrap_or_default();
                Address::Ip(Ipv6Addr::from(u128::from(address) & mask).into(), bits)
            }
        }
    }

    /// What the data plane calls it; `None` for a MAC address, which it learned itself.
    pub fn prefix(self) -> Option<Prefix> {
        match self {
            Address::Ip(address, bits) => Some(Prefix { address, bits }),
            Address::Mac(..) => None,
        }
    }

    /// Whether somebody may own it: not the address of nobody or of everybody.
    fn is_learnable(self) -> bool {
        match self {
            Address::Ip(address, bits) => {
                let (zeros, ones) = match address {
                    IpAddr::V4(v4) => (v4.is_unspecified(), v4.is_broadcast()),
                    IpAddr::V6(v6) => (v6.is_unspecified(), u128::from(v6) == u128::MAX),
                };
                !ones && (!zeros || bits < 8)
            }
            Address::Mac(mac, _) => mac != [0; 6] && mac[0] & 1 == 0,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address @ IpAddr::V4(_), 32)
            | Address::Ip(address @ IpAddr::V6(_), 128) => address.fmt(f),
            Address::Ip(address, bits) => write!(f, "{address}/{bits}"),
            Address::Mac([a, b, c, d, e, g], vlan) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}@{vlan}")
            }
        }
    }
}

/// What `learn-address` is asked before an address is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `add`: nobody has it.
    Add,
    /// `update`: another client has it and will lose it.
    Update(PeerHandle),
}

impl Question {
    /// The script's first argument.
    pub fn operation(self) -> &'static str {
        match self {
            Question::Add => "add",
            Question::Update(_) => "update",
        }
    }
}

/// Why a client does not get an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is the server's own.
    #[error("it is the server's own address")]
    ServersOwn,
    /// Nobody can have it.
    #[error("it is no address of a single host or network")]
    NotLearnable,
    /// `max-routes-per-client`.
    #[error("route quota ({0}) exceeded (see --max-routes-per-client option)")]
    Quota(u32),
    /// The client is not known (any more).
    #[error("the client is gone")]
    UnknownClient,
}

/// A change for the data plane, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `AddRoute`
    Add(PeerHandle, Prefix),
    /// `RemoveRoute`
    Remove(PeerHandle, Prefix),
}

/// What came of learning an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// For the data plane.
    pub changes: Vec<Change>,
    /// The client that had it until now.
    pub lost_by: Option<PeerHandle>,
}

/// An address nobody has any more. `learn-address` is told: `delete` and the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The address.
    pub address: Address,
    /// Who had it.
    pub owner: PeerHandle,
}

impl Forgotten {
    /// For the data plane; `None` for a MAC address.
    pub fn change(&self) -> Option<Change> {
        let prefix = self.address.prefix()?;
        Some(Change::Remove(self.owner, prefix))
    }
}

/// Who owns an address, and since when it is known or in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The client.
    pub owner: PeerHandle,
    /// When it was learned or last seen in use, in seconds since 1970.
    pub last_ref: u64,
}

/// The table of owners.
#[derive(Debug, Default)]
pub struct Routes {
    server: Vec<IpAddr>,
    table: BTreeMap<Address, Entry>,
    clients: BTreeMap<PeerHandle, Client>,
}

#[derive(Debug, Default)]
struct Client {
    limit: u32,
    addresses: BTreeSet<Address>,
}

/// The addresses a client of a tun device is to own: its own ones, then its iroutes.
pub fn of_client(addresses: &Addresses, client: &ClientConfig) -> Vec<Address> {
    let own = addresses.own().map(Address::host);
    let v4 = client
        .iroute
        .iter()
        .map(|(network, bits)| Address::network((*network).into(), *bits));
    let v6 = client
        .iroute_ipv6
        .iter()
        .map(|(network, bits)| Address::network((*network).into(), *bits));
    let mut wanted: Vec<Address> = Vec::new();
    for address in own.chain(v4).chain(v6) {
        if !wanted.contains(&address) {
            wanted.push(address);
        }
    }
    wanted
}

impl Routes {
    /// An empty table. The `server` has these addresses itself.
    pub fn new(server: impl IntoIterator<Item = IpAddr>) -> Self {
        Routes {
            server: server.into_iter().collect(),
            ..Routes::default()
        }
    }

    /// A client that may own up to `limit` addresses and networks (`max-routes-per-client`), its
    /// own addresses included. For a known one only the limit changes.
    pub fn add_client(&mut self, client: PeerHandle, limit: u32) {
        self.clients.entry(client).or_default().limit = limit;
    }

    /// Whether a client may have an address, and what `learn-address` is to be asked; `None` if it
    /// has it already.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(&self, client: PeerHandle, address: Address) -> Result<Option<Question>, Refusal> {
        let known = self.clients.get(&client).ok_or(Refusal::UnknownClient)?;
        let owner = self.table.get(&address).map(|entry| entry.owner);
        if owner == Some(client) {
            return Ok(None);
        }
        let own = |server: &IpAddr| Address::host(*server) == address;
        if self.server.iter().any(own) {
            return Err(Refusal::ServersOwn);
        }
        if !address.is_learnable() {
            return Err(Refusal::NotLearnable);
        }
        if known.addresses.len() >= known.limit as usize {
            return Err(Refusal::Quota(known.limit));
        }
        Ok(Some(owner.map_or(Question::Add, Question::Update)))
    }

    /// Gives a client an address at `now`, in seconds since 1970. One it has already is only
    /// refreshed.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn learn(
        &mut self,
        client: PeerHandle,
        address: Address,
        now: u64,
    ) -> Result<Learned, Refusal> {
        let question = self.judge(client, address)?;
        let entry = Entry {
            owner: client,
            last_ref: now,
        };
        self.table.insert(address, entry);
        let mut learned = Learned::default();
        let Some(question) = question else {
            return Ok(learned);
        };
        if let Some(known) = self.clients.get_mut(&client) {
            known.addresses.insert(address);
        }
        if let Question::Update(older) = question {
            learned.lost_by = Some(older);
            if let Some(known) = self.clients.get_mut(&older) {
                known.addresses.remove(&address);
            }
        }
        if let Some(prefix) = address.prefix() {
            let lost = learned.lost_by.map(|older| Change::Remove(older, prefix));
            learned.changes.extend(lost);
            learned.changes.push(Change::Add(client, prefix));
        }
        Ok(learned)
    }

    /// Takes an address from a client; `None` if it does not own it.
    pub fn unlearn(&mut self, client: PeerHandle, address: Address) -> Option<Forgotten> {
        let known = self.clients.get_mut(&client)?;
        if !known.addresses.remove(&address) {
            return None;
        }
        self.table.remove(&address);
        Some(Forgotten {
            address,
            owner: client,
        })
    }

    /// A client is gone, and nobody owns what it had.
    pub fn remove_client(&mut self, client: PeerHandle) -> Vec<Forgotten> {
        let Some(known) = self.clients.remove(&client) else {
            return Vec::new();
        };
        for address in &known.addresses {
            self.table.remove(address);
        }
        let forgotten = |address| Forgotten {
            address,
            owner: client,
        };
        known.addresses.into_iter().map(forgotten).collect()
    }

    /// An address was in use at `now`, in seconds since 1970.
    pub fn touch(&mut self, address: Address, now: u64) {
        if let Some(entry) = self.table.get_mut(&address) {
            entry.last_ref = entry.last_ref.max(now);
        }
    }

    /// `stale-routes-check`: forgets learned MAC addresses that were not in use for `seconds`. The
    /// addresses and networks a client was given stay with it: it could never get them back.
    pub fn forget_stale(&mut self, now: u64, seconds: u64) -> Vec<Forgotten> {
        let stale = |(address, entry): (&Address, &Entry)| {
            let is_learned = matches!(address, Address::Mac(..));
            let is_old = now.saturating_sub(entry.last_ref) >= seconds;
            (is_learned && is_old).then_some((*address, entry.owner))
        };
        let stale: Vec<_> = self.table.iter().filter_map(stale).collect();
        let forget = |(address, owner)| self.unlearn(owner, address);
        stale.into_iter().filter_map(forget).collect()
    }

    /// The client that owns exactly this address or network.
    pub fn owner(&self, address: Address) -> Option<PeerHandle> {
        self.table.get(&address).map(|entry| entry.owner)
    }

    /// What a client owns, in order.
    pub fn owned_by(&self, client: PeerHandle) -> impl Iterator<Item = Address> + '_ {
        let known = self.clients.get(&client);
        known
            .into_iter()
            .flat_map(|known| known.addresses.iter().copied())
    }

    /// All addresses with their owners, in order: IPv4, IPv6, MAC.
    pub fn iter(&self) -> impl Iterator<Item = (Address, Entry)> + '_ {
        self.table.iter().map(|(address, entry)| (*address, *entry))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::addresses::AssignedV4;
    use super::*;

    const A: PeerHandle = PeerHandle(1);
    const B: PeerHandle = PeerHandle(2);

    fn net(text: &str) -> Address {
        match text.split_once('/') {
            Some((address, bits)) => {
                Address::network(address.parse().unwrap(), bits.parse().unwrap())
            }
            None => Address::host(text.parse().unwrap()),
        }
    }

    fn routes() -> Routes {
        let mut routes = Routes::new(["10.8.0.1", "fd00::1"].map(|a| a.parse().unwrap()));
        routes.add_client(A, 3);
        routes.add_client(B, 3);
        routes
    }

    #[test]
    fn addresses_as_they_are_shown() {
        for (address, text) in [
            (net("10.8.0.2"), "10.8.0.2"),
            (net("10.8.0.2/32"), "10.8.0.2"),
            (net("10.8.0.2/24"), "10.8.0.0/24"),
            (net("1.2.3.4/0"), "0.0.0.0/0"),
            (net("fd00::2"), "fd00::2"),
            (net("fd00::2/64"), "fd00::/64"),
            (net("fd00::2/0"), "::/0"),
            (
                Address::Mac([2, 0, 0, 0, 0xab, 1], 7),
                "02:00:00:00:ab:01@7",
            ),
        ] {
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_newer_owner_takes_over() {
        let mut routes = routes();
        let lan = net("10.1.0.0/16");
        let prefix = lan.prefix().unwrap();
        assert_eq!(routes.judge(A, lan), Ok(Some(Question::Add)));
        let learned = routes.learn(A, lan, 5).unwrap();
        assert_eq!(learned.changes, [Change::Add(A, prefix)]);
        assert_eq!(learned.lost_by, None);
        assert_eq!(routes.judge(A, lan), Ok(None));
        assert_eq!(routes.learn(A, lan, 6), Ok(Learned::default()));
        assert_eq!(routes.judge(B, lan), Ok(Some(Question::Update(A))));
        let learned = routes.learn(B, lan, 7).unwrap();
        assert_eq!(
            learned.changes,
            [Change::Remove(A, prefix), Change::Add(B, prefix)]
        );
        assert_eq!(learned.lost_by, Some(A));
        assert_eq!(routes.owner(lan), Some(B));
        assert_eq!(routes.remove_client(A), []);
        assert_eq!(routes.owner(lan), Some(B), "A had lost it");
        let gone = routes.remove_client(B);
        let change = gone[0].change();
        assert_eq!(change, Some(Change::Remove(B, prefix)));
        assert_eq!((gone.len(), routes.iter().count()), (1, 0));
    }

    #[test]
    fn networks_within_each_other() {
        let mut routes = routes();
        routes.learn(A, net("10.1.0.0/16"), 1).unwrap();
        let inner = routes.learn(B, net("10.1.2.0/24"), 1).unwrap();
        assert_eq!(inner.lost_by, None);
        assert_eq!(routes.owner(net("10.1.0.0/16")), Some(A));
    }

    #[test]
    fn what_is_refused() {
        let mut routes = routes();
        for own in ["10.8.0.1", "fd00::1", "10.8.0.1/32"] {
            assert_eq!(routes.learn(A, net(own), 1), Err(Refusal::ServersOwn));
        }
        for bad in ["0.0.0.0", "0.0.0.0/8", "255.255.255.255", "::", "::/64"] {
            let refused = routes.learn(A, net(bad), 1);
            assert_eq!(refused, Err(Refusal::NotLearnable), "{bad}");
        }
        for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let refused = routes.learn(A, Address::Mac(mac, 0), 1);
            assert_eq!(refused, Err(Refusal::NotLearnable));
        }
        routes.learn(A, net("0.0.0.0/0"), 1).unwrap();
        routes.learn(A, net("10.8.0.2"), 1).unwrap();
        routes.learn(A, net("10.8.0.3"), 1).unwrap();
        let refused = routes.learn(A, net("10.8.0.4"), 1);
        assert_eq!(refused, Err(Refusal::Quota(3)));
        routes.learn(A, net("10.8.0.3"), 2).expect("it has it");
        routes.learn(B, net("10.8.0.3"), 3).unwrap();
        routes.learn(A, net("10.8.0.4"), 4).expect("one less");
        let refused = routes.learn(PeerHandle(9), net("10.8.0.9"), 1);
        assert_eq!(refused, Err(Refusal::UnknownClient));
        assert!(Refusal::Quota(3).to_string().contains("(3)"));
    }

    #[test]
    fn only_learned_addresses_go_stale() {
        let mut routes = routes();
        let mac = |n| Address::Mac([2, 0, 0, 0, 0, n], 1);
        routes.learn(A, net("10.8.0.2"), 100).unwrap();
        routes.learn(A, mac(1), 100).unwrap();
        routes.learn(A, mac(2), 100).unwrap();
        routes.touch(mac(2), 150);
        routes.touch(mac(2), 140);
        routes.touch(mac(9), 150);
        assert_eq!(routes.forget_stale(159, 60), []);
        let gone = routes.forget_stale(160, 60);
        let address = mac(1);
        assert_eq!(gone, [Forgotten { address, owner: A }]);
        assert_eq!(gone[0].change(), None);
        assert_eq!(routes.forget_stale(210, 60).len(), 1);
        assert_eq!(routes.owned_by(A).collect::<Vec<_>>(), [net("10.8.0.2")]);
        assert_eq!(routes.unlearn(B, net("10.8.0.2")), None);
        assert!(routes.unlearn(A, net("10.8.0.2")).is_some());
        assert_eq!(routes.iter().count(), 0);
    }

    #[test]
    fn what_a_client_is_to_own() {
        let addresses = Addresses {
            v4: Some(AssignedV4 {
                local: "10.8.0.2".parse().unwrap(),
                remote_netmask: "255.255.255.0".parse().unwrap(),
                alias: Some("10.9.0.2".parse().unwrap()),
            }),
            ..Addresses::default()
        };
        let client = ClientConfig {
            iroute: vec![
                ("10.1.2.3".parse().unwrap(), 16),
                ("10.8.0.2".parse().unwrap(), 32),
            ],
            iroute_ipv6: vec![("fd01::5".parse().unwrap(), 48)],
            ..ClientConfig::default()
        };
        let wanted = of_client(&addresses, &client);
        assert_eq!(wanted, ["10.8.0.2", "10.1.0.0/16", "fd01::/48"].map(net));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u32, u32),
        Learn(u32, u8),
        Unlearn(u32, u8),
        Remove(u32),
        Touch(u8),
        Stale(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (client, address) = (0u32..4, 0u8..12);
        let step = prop_oneof![
            2 => (client.clone(), 0u32..5).prop_map(|(c, n)| Step::Add(c, n)),
            8 => (client.clone(), address.clone()).prop_map(|(c, a)| Step::Learn(c, a)),
            2 => (client.clone(), address.clone()).prop_map(|(c, a)| Step::Unlearn(c, a)),
            1 => client.prop_map(Step::Remove),
            2 => address.prop_map(Step::Touch),
            1 => (0u64..20).prop_map(Step::Stale),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// Some networks, one within the other, and MAC addresses.
    fn address(n: u8) -> Address {
        match n {
            0..4 => Address::network([10, n, 0, 0].into(), 16),
            4..8 => Address::host([10, 0, 0, n].into()),
            _ => Address::Mac([2, 0, 0, 0, 0, n], 0),
        }
    }

    proptest! {
        /// Against a plain list of (address, owner, last use), and the data plane's view kept by
        /// the changes alone.
        #[test]
        fn like_the_naive_one(steps in steps()) {
            let mut routes = Routes::default();
            let mut limits = [None::<u32>; 4];
            let mut list: Vec<(Address, u32, u64)> = Vec::new();
            let mut plane: BTreeMap<Address, u32> = BTreeMap::new();
            for (now, step) in (100u64..).zip(steps) {
                let mut changes = Vec::new();
                match step {
                    Step::Add(client, limit) => {
                        routes.add_client(PeerHandle(client), limit);
                        limits[client as usize] = Some(limit);
                    }
                    Step::Learn(client, n) => {
                        let address = address(n);
                        let got = routes.learn(PeerHandle(client), address, now);
                        let had = list.iter().find(|row| row.0 == address).copied();
                        let count = list.iter().filter(|row| row.1 == client).count();
                        match (limits[client as usize], had) {
                            (None, _) => prop_assert_eq!(got, Err(Refusal::UnknownClient)),
                            (Some(limit), had) => {
                                let own = had.is_some_and(|row| row.1 == client);
                                if !own && count >= limit as usize {
                                    prop_assert_eq!(got, Err(Refusal::Quota(limit)));
                                } else {
                                    let got = got.unwrap();
                                    let loser = had.filter(|_| !own).map(|row| PeerHandle(row.1));
                                    prop_assert_eq!(got.lost_by, loser);
                                    changes.extend(got.changes);
                                    list.retain(|row| row.0 != address);
                                    list.push((address, client, now));
                                }
                            }
                        }
                    }
                    Step::Unlearn(client, n) => {
                        let at = list.iter().position(|row| (row.0, row.1) == (address(n), client));
                        let got = routes.unlearn(PeerHandle(client), address(n));
                        prop_assert_eq!(got.is_some(), at.is_some());
                        at.map(|at| list.remove(at));
                        changes.extend(got.and_then(|gone| gone.change()));
                    }
                    Step::Remove(client) => {
                        let gone = routes.remove_client(PeerHandle(client));
                        prop_assert_eq!(gone.len(), list.iter().filter(|r| r.1 == client).count());
                        list.retain(|row| row.1 != client);
                        limits[client as usize] = None;
                        changes.extend(gone.iter().filter_map(Forgotten::change));
                    }
                    Step::Touch(n) => {
                        routes.touch(address(n), now);
                        for row in list.iter_mut().filter(|row| row.0 == address(n)) {
                            row.2 = now;
                        }
                    }
                    Step::Stale(seconds) => {
                        let is_mac = |address| matches!(address, Address::Mac(..));
                        let before = list.len();
                        list.retain(|row| !is_mac(row.0) || now - row.2 < seconds);
                        let gone = routes.forget_stale(now, seconds);
                        prop_assert_eq!(gone.len(), before - list.len());
                    }
                }
                for change in changes {
                    match change {
                        Change::Add(owner, p) => {
                            plane.insert(Address::Ip(p.address, p.bits), owner.0);
                        }
                        Change::Remove(owner, p) => {
                            let had = plane.remove(&Address::Ip(p.address, p.bits));
                            prop_assert_eq!(had, Some(owner.0), "only its owner's");
                        }
                    }
                }
                list.sort_unstable();
                let rows: Vec<_> = routes.iter().map(|(a, e)| (a, e.owner.0, e.last_ref)).collect();
                prop_assert_eq!(&rows, &list);
                let seen: Vec<_> = plane.iter().map(|(a, owner)| (*a, *owner)).collect();
                let ip = |row: &&(Address, u32, u64)| row.0.prefix().is_some();
                let want: Vec<_> = list.iter().filter(ip).map(|r| (r.0, r.1)).collect();
                prop_assert_eq!(seen, want);
                for (client, limit) in limits.iter().enumerate() {
                    let count = routes.owned_by(PeerHandle(client as u32)).count();
                    prop_assert!(limit.is_some() || count == 0);
                }
            }
        }
    }
}
