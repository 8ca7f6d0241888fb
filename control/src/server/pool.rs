//! `ifconfig-pool` and `ifconfig-ipv6-pool`: addresses for clients (protocol §11).
//!
//! One slot stands for an IPv4 and an IPv6 address together:
//!
//! ```text
//!  slot        0        1        2
//!  each       base   base+1   base+2        subnet, p2p, tap
//!  blocks    base+2  base+6  base+10        net30: client +2, server +1 of each four
//!  IPv6       base   base+1   base+2
//! ```
//! A client gets the free slot it had last, else the one nobody had for the longest time, so that
//! addresses stay with their owners for as long as there are enough. With `duplicate-cn` names say
//! nothing, and the first free slot is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most slots of a pool, as in OpenVPN.
pub const MAX_SLOTS: u32 = 65536;

/// What a pool is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolLayout {
    /// First and last IPv4 address.
    pub v4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Each client gets a block of four IPv4 addresses (topology net30).
    pub blocks: bool,
    /// First IPv6 address and the prefix length of its network.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// Common names do not tell clients apart (`duplicate-cn`).
    pub duplicate_cn: bool,
}

/// Why a pool cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The last address comes before the first.
    #[error("ifconfig-pool: the first address {0} is after the last one {1}")]
    Backwards(Ipv4Addr, Ipv4Addr),
    /// More than [`MAX_SLOTS`] addresses.
    #[error("ifconfig-pool: {0} to {1} are more than 65536 addresses")]
    TooLarge(Ipv4Addr, Ipv4Addr),
    /// Fewer than two clients fit.
    #[error("ifconfig-pool: there is room for {0} client(s), at least 2 are needed")]
    TooSmall(u32),
}

/// A slot of the pool and its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// To give it back with.
    pub slot: u32,
    /// The client's IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The server's end of the client's block (topology net30).
    pub v4_server: Option<Ipv4Addr>,
    /// The client's IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// What is remembered of a slot with a name: a line of the pool's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Who has it or had it last.
    pub common_name: String,
    /// The IPv4 address that stands for the slot: with blocks the block's first one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// The pool.
#[derive(Clone, Debug)]
pub struct AddressPool {
    base_v4: Option<u32>,
    base_v6: Option<u128>,
    blocks: bool,
    duplicate_cn: bool,
    slots: Vec<Slot>,
    /// Slots anybody may get, the one to take next first.
    free: BTreeSet<(u64, u32)>,
    /// Slots by the name that has or had them.
    names: BTreeMap<String, BTreeSet<u32>>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    common_name: Option<String>,
    in_use: bool,
    /// When it was given back, in seconds since 1970; 0 for never used.
    released: u64,
    /// Only for its name (`ifconfig-pool-persist FILE 0`).
    fixed: bool,
    /// How many clients have one of its addresses by `ifconfig-push`.
    reserved: u32,
}

impl AddressPool {
    /// A pool with all slots free; `None` without any addresses.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(layout: &PoolLayout) -> Result<Option<Self>, PoolError> {
        let v4 = layout.v4.map(|range| v4_range(range, layout.blocks));
        let v4 = v4.transpose()?;
        let v6 = layout.v6.map(v6_range);
        let size = match (v4, v6) {
            (None, None) => return Ok(None),
            (Some((_, size)), None) | (None, Some((_, size))) => size,
            (Some((_, v4)), Some((_, v6))) => v4.min(v6),
        };
        if size < 2 {
            return Err(PoolError::TooSmall(size));
        }
        Ok(Some(AddressPool {
            base_v4: v4.map(|(base, _)| base),
            base_v6: v6.map(|(base, _)| base),
            blocks: layout.blocks,
            duplicate_cn: layout.duplicate_cn,
            slots: vec![Slot::default(); size as usize],
            free: (0..size).map(|slot| (0, slot)).collect(),
            names: BTreeMap::new(),
        }))
    }

    /// How many clients fit.
    pub fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    /// How many slots are in use.
    pub fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.in_use).count()
    }

    /// Takes a slot for a client; `None` if all are taken.
    pub fn acquire(&mut self, common_name: Option<&str>) -> Option<Lease> {
        let common_name = common_name.filter(|_| !self.duplicate_cn);
        let held = common_name.and_then(|name| {
            let mut slots = self.names.get(name)?.iter().copied();
            slots.find(|slot| self.slots.get(*slot as usize).is_some_and(Slot::is_free))
        });
        let slot = held.or_else(|| self.free.first().map(|(_, slot)| *slot))?;
        self.change(slot, |entry| {
            entry.in_use = true;
            entry.released = 0;
            entry.common_name = common_name.map(str::to_owned);
        });
        Some(self.lease(slot))
    }

    /// Gives a slot back at `now`, in seconds since 1970. It is remembered who had it.
    pub fn release(&mut self, slot: u32, now: u64) {
        self.change(slot, |entry| {
            if entry.in_use {
                entry.in_use = false;
                entry.released = now;
            }
        });
    }

    /// Gives a slot back as if nobody had ever had it: its client has another address.
    pub fn forget(&mut self, slot: u32) {
        self.change(slot, |entry| {
            entry.in_use = false;
            entry.released = 0;
            entry.common_name = None;
        });
    }

    /// A client has this address by `ifconfig-push` or `ifconfig-ipv6-push`, or the server itself
    /// has it: nobody gets it from the pool until [`AddressPool::unreserve`] was called as often.
    /// Whether somebody has it from the pool right now; that client keeps it until it goes.
    pub fn reserve(&mut self, address: IpAddr) -> bool {
        let Some(slot) = self.slot_of(address) else {
            return false;
        };
        let mut in_use = false;
        self.change(slot, |entry| {
            entry.reserved += 1;
            in_use = entry.in_use;
        });
        in_use
    }

    /// The opposite of [`AddressPool::reserve`].
    pub fn unreserve(&mut self, address: IpAddr) {
        if let Some(slot) = self.slot_of(address) {
            self.change(slot, |entry| {
                entry.reserved = entry.reserved.saturating_sub(1);
            });
        }
    }

    /// Keeps a slot for a name, as remembered from an earlier run; `fixed` keeps it from all others
    /// for good. Whether the address belongs to the pool and the slot was free.
    pub fn remember(&mut self, address: IpAddr, common_name: &str, now: u64, fixed: bool) -> bool {
        let Some(slot) = self.slot_of(address) else {
            return false;
        };
        let mut taken = false;
        self.change(slot, |entry| {
            if !entry.in_use {
                taken = true;
                entry.common_name = Some(common_name.to_owned());
                entry.released = now;
                entry.fixed = fixed;
            }
        });
        taken
    }

    /// Every slot with a name, in order.
    pub fn remembered(&self) -> impl Iterator<Item = Remembered> + '_ {
        (0u32..).zip(&self.slots).filter_map(|(slot, entry)| {
            let common_name = entry.common_name.clone()?;
            Some(Remembered {
                common_name,
                v4: self.slot_v4(slot),
                v6: self.slot_v6(slot),
            })
        })
    }

    /// The slot an address belongs to.
    pub fn slot_of(&self, address: IpAddr) -> Option<u32> {
        let offset = match address {
            IpAddr::V4(address) => {
                let offset = u32::from(address).checked_sub(self.base_v4?)?;
                if self.blocks { offset / 4 } else { offset }
            }
            IpAddr::V6(address) => {
                let offset = u128::from(address).checked_sub(self.base_v6?)?;
                u32::try_from(offset).ok()?
            }
        };
        (offset < self.size()).then_some(offset)
    }

    fn lease(&self, slot: u32) -> Lease {
        let base = self.slot_v4(slot);
        let within = |n: u32| base.map(|base| Ipv4Addr::from(u32::from(base) + n));
        Lease {
            slot,
            v4: within(if self.blocks { 2 } else { 0 }),
            v4_server: within(1).filter(|_| self.blocks),
            v6: self.slot_v6(slot),
        }
    }

    fn slot_v4(&self, slot: u32) -> Option<Ipv4Addr> {
        let step = if self.blocks { 4 } else { 1 };
        Some(Ipv4Addr::from(self.base_v4? + slot * step))
    }

    fn slot_v6(&self, slot: u32) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(self.base_v6? + u128::from(slot)))
    }

    /// Changes a slot, keeping the two indexes true.
    fn change(&mut self, slot: u32, change: impl FnOnce(&mut Slot)) {
        let Some(entry) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let order = |entry: &Slot| match self.duplicate_cn {
            true => (0, slot),
            false => (entry.released, slot),
        };
        self.free.remove(&order(entry));
        let before = entry.common_name.clone();
        change(entry);
        if entry.is_free() && (!entry.fixed || self.duplicate_cn) {
            self.free.insert(order(entry));
        }
        if entry.common_name == before {
            return;
        }
        if let Some(name) = before
            && let Some(slots) = self.names.get_mut(&name)
        {
            slots.remove(&slot);
            if slots.is_empty() {
                self.names.remove(&name);
            }
        }
        if let Some(name) = &entry.common_name {
            self.names.entry(name.clone()).or_default().insert(slot);
        }
    }
}

impl Slot {
    fn is_free(&self) -> bool {
        !self.in_use && self.reserved == 0
    }
}

/// Base and number of slots.
fn v4_range((first, last): (Ipv4Addr, Ipv4Addr), blocks: bool) -> Result<(u32, u32), PoolError> {
    let (start, end) = (u32::from(first), u32::from(last));
    if start > end {
        return Err(PoolError::Backwards(first, last));
    }
    if end - start >= MAX_SLOTS {
        return Err(PoolError::TooLarge(first, last));
    }
    Ok(match blocks {
        true => (start & !3, (end | 3) / 4 - start / 4 + 1),
        false => (start, end - start + 1),
    })
}

/// Base and number of slots. A host part of zero is left out: that address means any router.
fn v6_range((base, bits): (Ipv6Addr, u8)) -> (u128, u32) {
    let bits = u32::from(bits.min(128));
    let mut base = u128::from(base);
    let host_bits = (128 - bits).min(32);
    let host = |base: u128| (base & ((1u128 << host_bits) - 1)) as u32;
    if host(base) == 0 {
        base = base.saturating_add(1);
    }
    let size = match bits >= 112 {
        true => (1u32 << (128 - bits)).saturating_sub(host(base)),
        false => MAX_SLOTS,
    };
    // The last address there is bounds a pool at the very end.
    let left = u32::try_from(u128::MAX - base).unwrap_or(u32::MAX);
    (base, size.min(left.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(first: &str, last: &str) -> PoolLayout {
        PoolLayout {
            v4: Some((first.parse().unwrap(), last.parse().unwrap())),
            ..PoolLayout::default()
        }
    }

    fn pool(layout: &PoolLayout) -> AddressPool {
        AddressPool::new(layout).unwrap().unwrap()
    }

    fn v4(lease: Option<Lease>) -> String {
        lease.unwrap().v4.unwrap().to_string()
    }

    #[test]
    fn one_address_each() {
        let mut pool = pool(&PoolLayout {
            v6: Some(("fd00::1000".parse().unwrap(), 64)),
            ..layout("10.8.0.2", "10.8.0.254")
        });
        assert_eq!(pool.size(), 253);
        pool.acquire(Some("a")).unwrap();
        let lease = pool.acquire(Some("b")).unwrap();
        assert_eq!(
            lease,
            Lease {
                slot: 1,
                v4: Some("10.8.0.3".parse().unwrap()),
                v4_server: None,
                v6: Some("fd00::1001".parse().unwrap()),
            }
        );
        assert_eq!(pool.in_use(), 2);
    }

    #[test]
    fn blocks_of_four() {
        let mut pool = pool(&PoolLayout {
            blocks: true,
            ..layout("10.8.0.4", "10.8.0.251")
        });
        assert_eq!(pool.size(), 62);
        assert_eq!(v4(pool.acquire(None)), "10.8.0.6");
        let lease = pool.acquire(None).unwrap();
        assert_eq!(lease.v4, Some("10.8.0.10".parse().unwrap()));
        assert_eq!(lease.v4_server, Some("10.8.0.9".parse().unwrap()));
        for address in ["10.8.0.8", "10.8.0.11"] {
            assert_eq!(pool.slot_of(address.parse().unwrap()), Some(1));
        }
    }

    #[test]
    fn sizes_and_bounds() {
        let new = |layout: &PoolLayout| AddressPool::new(layout).map(|p| p.map(|p| p.size()));
        let v6 = |text: &str, bits| PoolLayout {
            v6: Some((text.parse().unwrap(), bits)),
            ..PoolLayout::default()
        };
        assert_eq!(new(&PoolLayout::default()), Ok(None));
        assert_eq!(
            new(&layout("10.0.0.9", "10.0.0.9")),
            Err(PoolError::TooSmall(1))
        );
        assert!(matches!(
            new(&layout("10.0.0.9", "10.0.0.8")),
            Err(PoolError::Backwards(..))
        ));
        assert_eq!(new(&layout("10.0.0.0", "10.0.255.255")), Ok(Some(65536)));
        assert!(matches!(
            new(&layout("10.0.0.0", "10.1.0.0")),
            Err(PoolError::TooLarge(..))
        ));
        assert_eq!(
            new(&layout("255.255.255.250", "255.255.255.255")),
            Ok(Some(6))
        );
        assert_eq!(new(&v6("fd00::", 112)), Ok(Some(65535)));
        assert_eq!(new(&v6("fd00::2", 120)), Ok(Some(254)));
        assert_eq!(new(&v6("fd00::1000", 64)), Ok(Some(65536)));
        assert_eq!(new(&v6("fd00::1", 128)), Err(PoolError::TooSmall(1)));
        assert_eq!(
            new(&v6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", 64)),
            Ok(Some(2))
        );
        let both = PoolLayout {
            v6: Some(("fd00::2".parse().unwrap(), 126)),
            ..layout("10.8.0.2", "10.8.0.254")
        };
        assert_eq!(new(&both), Ok(Some(2)), "the smaller one counts");
        assert_eq!(
            pool(&v6("fd00::", 64)).acquire(None).unwrap().v6,
            Some("fd00::1".parse().unwrap()),
            "the first address means any router"
        );
    }

    #[test]
    fn clients_keep_their_addresses() {
        let mut pool = pool(&layout("10.8.0.2", "10.8.0.4"));
        let a = pool.acquire(Some("a")).unwrap();
        let b = pool.acquire(Some("b")).unwrap();
        pool.release(b.slot, 100);
        pool.release(a.slot, 200);
        assert_eq!(pool.acquire(Some("b")), Some(b), "its own");
        assert_eq!(v4(pool.acquire(Some("c"))), "10.8.0.4", "never used");
        assert_eq!(pool.acquire(Some("d")), Some(a), "released longest ago");
        assert_eq!(pool.acquire(Some("e")), None, "all are taken");
        pool.release(a.slot, 300);
        assert_eq!(pool.acquire(Some("a")), Some(a), "d's, but free");
    }

    #[test]
    fn names_do_not_count_with_duplicate_cn() {
        let mut pool = pool(&PoolLayout {
            duplicate_cn: true,
            ..layout("10.8.0.2", "10.8.0.4")
        });
        for slot in 0..3 {
            assert_eq!(pool.acquire(Some("same")).unwrap().slot, slot);
        }
        pool.release(2, 100);
        pool.release(0, 200);
        assert_eq!(pool.acquire(Some("same")).unwrap().slot, 0, "the first");
        assert_eq!(pool.remembered().count(), 0);
    }

    #[test]
    fn reserved_addresses_are_not_handed_out() {
        let mut pool = pool(&layout("10.8.0.2", "10.8.0.4"));
        let taken: IpAddr = "10.8.0.2".parse().unwrap();
        assert!(!pool.reserve(taken));
        assert!(!pool.reserve(taken), "twice");
        assert_eq!(v4(pool.acquire(Some("a"))), "10.8.0.3");
        pool.unreserve(taken);
        assert_eq!(v4(pool.acquire(Some("b"))), "10.8.0.4");
        assert_eq!(pool.acquire(Some("c")), None);
        pool.unreserve(taken);
        assert_eq!(v4(pool.acquire(Some("c"))), "10.8.0.2");
        assert!(pool.reserve(taken), "c has it");
        pool.release(0, 100);
        assert_eq!(pool.acquire(Some("c")), None, "reserved by now");
        assert!(!pool.reserve("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn fixed_slots_are_for_their_names_only() {
        let mut pool = pool(&layout("10.8.0.2", "10.8.0.3"));
        assert!(pool.remember("10.8.0.2".parse().unwrap(), "a", 1, true));
        assert!(!pool.remember("10.8.0.9".parse().unwrap(), "a", 1, true));
        assert_eq!(v4(pool.acquire(Some("b"))), "10.8.0.3");
        assert_eq!(pool.acquire(Some("c")), None);
        let lease = pool.acquire(Some("a")).unwrap();
        assert_eq!(lease.slot, 0);
        pool.release(0, 5);
        assert_eq!(pool.acquire(Some("c")), None, "still fixed");
        assert_eq!(pool.acquire(Some("a")), Some(lease));
        let names: Vec<_> = pool.remembered().map(|line| line.common_name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn forgotten_slots_have_no_name() {
        let mut pool = pool(&layout("10.8.0.2", "10.8.0.4"));
        let slot = pool.acquire(Some("a")).unwrap().slot;
        pool.forget(slot);
        assert_eq!(pool.remembered().count(), 0);
        assert_eq!(pool.acquire(Some("b")).unwrap().slot, slot);
        pool.release(77, 1);
    }

    /// The rules in their plainest form: a walk over all slots for each question.
    #[derive(Clone, Debug, Default)]
    struct Naive(Vec<Slot>);

    impl Naive {
        fn acquire(&mut self, name: Option<&str>, duplicate_cn: bool) -> Option<u32> {
            let free = |slot: &&usize| self.0[**slot].is_free();
            let all: Vec<usize> = (0..self.0.len()).collect();
            let name = name.filter(|_| !duplicate_cn);
            let own = all
                .iter()
                .filter(free)
                .find(|slot| name.is_some() && self.0[**slot].common_name.as_deref() == name);
            let kept = |slot: &&usize| self.0[**slot].fixed && !duplicate_cn;
            let rest = all.iter().filter(free).filter(|slot| !kept(slot));
            let rest = match duplicate_cn {
                true => rest.min(),
                false => rest.min_by_key(|slot| (self.0[**slot].released, **slot)),
            };
            let slot = *own.or(rest)?;
            self.0[slot].in_use = true;
            self.0[slot].released = 0;
            self.0[slot].common_name = name.map(str::to_owned);
            Some(slot as u32)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(u8),
        Release(u32),
        Forget(u32),
        Reserve(u32),
        Unreserve(u32),
        Remember(u32, u8, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let slot = 0u32..6;
        let step = prop_oneof![
            4 => (0u8..8).prop_map(Step::Acquire),
            3 => slot.clone().prop_map(Step::Release),
            1 => slot.clone().prop_map(Step::Forget),
            1 => slot.clone().prop_map(Step::Reserve),
            1 => slot.clone().prop_map(Step::Unreserve),
            1 => (slot, 0u8..8, any::<bool>()).prop_map(|(s, n, f)| Step::Remember(s, n, f)),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn like_the_naive_one(steps in steps(), duplicate_cn: bool, blocks: bool) {
            let mut pool = pool(&PoolLayout {
                duplicate_cn,
                blocks,
                ..layout("10.8.0.0", if blocks { "10.8.0.19" } else { "10.8.0.4" })
            });
            let mut naive = Naive(vec![Slot::default(); 5]);
            let address = |slot: u32| IpAddr::from([10, 8, 0, (slot * if blocks { 4 } else { 1 }) as u8]);
            for (now, step) in (1u64..).zip(steps) {
                match step {
                    Step::Acquire(name) => {
                        let name = (name < 7).then(|| format!("n{name}"));
                        let got = pool.acquire(name.as_deref()).map(|lease| lease.slot);
                        prop_assert_eq!(got, naive.acquire(name.as_deref(), duplicate_cn));
                    }
                    Step::Release(slot) => {
                        pool.release(slot, now);
                        if let Some(entry) = naive.0.get_mut(slot as usize).filter(|e| e.in_use) {
                            entry.in_use = false;
                            entry.released = now;
                        }
                    }
                    Step::Forget(slot) => {
                        pool.forget(slot);
                        if let Some(entry) = naive.0.get_mut(slot as usize) {
                            entry.in_use = false;
                            entry.released = 0;
                            entry.common_name = None;
                        }
                    }
                    Step::Reserve(slot) => {
                        let entry = naive.0.get_mut(slot as usize);
                        let used = entry.map(|e| { e.reserved += 1; e.in_use });
                        prop_assert_eq!(pool.reserve(address(slot)), used.unwrap_or(false));
                    }
                    Step::Unreserve(slot) => {
                        pool.unreserve(address(slot));
                        if let Some(entry) = naive.0.get_mut(slot as usize) {
                            entry.reserved = entry.reserved.saturating_sub(1);
                        }
                    }
                    Step::Remember(slot, name, fixed) => {
                        let name = format!("n{name}");
                        let done = pool.remember(address(slot), &name, now, fixed);
                        let entry = naive.0.get_mut(slot as usize).filter(|e| !e.in_use);
                        prop_assert_eq!(done, entry.is_some());
                        if let Some(entry) = entry {
                            entry.common_name = Some(name);
                            entry.released = now;
                            entry.fixed = fixed;
                        }
                    }
                }
                for (slot, entry) in pool.slots.iter().enumerate() {
                    prop_assert_eq!(&entry.common_name, &naive.0[slot].common_name);
                    prop_assert_eq!(entry.in_use, naive.0[slot].in_use);
                }
            }
        }
    }
}
