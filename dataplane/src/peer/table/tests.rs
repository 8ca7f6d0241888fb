//! The table alone: who is found, what is learned and forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::command::Roles;
use crate::framing::Framing;
use crate::key_slot::{Cipher, Halves};
use crate::peer::EVERY_OTHER;
use crate::pool::MAX_DATAGRAM;
use crate::worker::testing::key_pair;

fn config(remote: &str, rx_peer_id: Option<u32>) -> PeerConfig {
    PeerConfig {
        endpoint: Endpoint::new(remote.parse().unwrap()),
        float: false,
        tx_peer_id: None,
        rx_peer_id,
        framing: Framing::None,
        fragment: None,
        mss_v4: 0,
        mss_v6: 0,
        segment_to: 0,
        replay_window: 64,
        replay_time: 15,
        passtos: false,
        guard_recursion: false,
        block_ipv6: false,
        listener: 0,
        roles: Roles::default(),
        stats: Arc::default(),
    }
}

#[test]
fn one_peer_gets_everything_and_two_are_told_apart() {
    let mut table = PeerTable::default();
    let stranger: SocketAddr = "192.0.2.99:1".parse().unwrap();
    assert_eq!(table.find(None, &stranger), None);
    table.set(PeerHandle(1), config("192.0.2.1:1194", None));
    assert_eq!(table.find(Some(7), &stranger), Some(0));
    assert_eq!(table.destination(&[], 0), Destination::Peer(0));
    table.set(PeerHandle(2), config("192.0.2.2:1194", Some(7)));
    assert_eq!(table.find(Some(7), &stranger), Some(1));
    assert_eq!(table.find(Some(8), &stranger), None);
    let first: SocketAddr = "192.0.2.1:1194".parse().unwrap();
    assert_eq!(table.find(Some(8), &first), Some(0));
    assert_eq!(table.destination(&[], 0), Destination::Nobody);
    table.remove(PeerHandle(1));
    assert_eq!(table.find(None, &first), Some(1));
}

fn server() -> PeerTable {
    let mut table = PeerTable::new(0, 0);
    table.set_forwarding(Forwarding::Routed {
        client_to_client: false,
    });
    table
}

#[test]
fn a_path_mtu_is_for_all_peers_at_that_address_and_no_other() {
    let mut table = server();
    for (i, remote) in ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:2", "192.0.2.1:3"]
        .iter()
        .enumerate()
    {
        table.set(PeerHandle(i as u32), config(remote, Some(i as u32)));
    }
    table.remove(PeerHandle(3));
    let to = Endpoint::new("192.0.2.9:1".parse().unwrap());
    table.move_endpoint(2, to);
    table.move_endpoint(1, Endpoint::new("192.0.2.1:77".parse().unwrap()));
    let ip = "192.0.2.1".parse().unwrap();
    assert_eq!(table.set_path_mtu(ip, 1400, true, 5), Some(1400));
    let limits: Vec<_> = (0..3)
        .map(|index| table.peek(index).unwrap().path_mtu)
        .collect();
    assert_eq!(limits, [1400, 1400, 0]);
    assert_eq!(table.by_ip.len(), 3);
}

#[test]
fn only_what_ends_by_time_is_looked_at_each_second() {
    let mut table = server();
    for i in 0..50u32 {
        table.set(PeerHandle(i), config(&format!("192.0.2.1:{i}"), Some(i)));
        table.get(i as usize).unwrap();
    }
    table.publish(&mut |_, _, _| true);
    assert!(table.timed.is_empty());
    table.get(7).unwrap().limit_gso(1400, 10, 60);
    table.get(8).unwrap().limit_gso(1400, 10, 5);
    table.publish(&mut |_, _, _| true);
    table.expire_limits(20);
    assert_eq!(table.timed, [7]);
    assert_eq!(table.touched, [8]);
    table.remove(PeerHandle(7));
    assert!(table.timed.is_empty());
}

#[test]
fn what_the_other_half_was_told_is_forgotten_each_second() {
    let mut table = PeerTable::new(0, 0);
    let mut split = config("192.0.2.1:1", Some(0));
    split.roles.send = 1;
    table.set(PeerHandle(0), split);
    let told = |table: &mut PeerTable| {
        let mut count = 0;
        table.get(0).unwrap();
        table.publish(&mut |_, _, _| {
            count += 1;
            true
        });
        count
    };
    assert_eq!([told(&mut table), told(&mut table)], [1, 0]);
    table.expire_limits(1);
    assert_eq!([told(&mut table), told(&mut table)], [1, 0]);
}

#[test]
fn the_others_hear_of_a_move_until_they_all_have() {
    let mut table = server();
    table.set(PeerHandle(0), config("192.0.2.1:1", Some(0)));
    let to = Endpoint::new("192.0.2.9:1".parse().unwrap());
    table.move_endpoint(0, to);
    let mut heard = Vec::new();
    for answer in [false, true, true] {
        table.get(0).unwrap();
        table.publish(&mut |worker, _, note| {
            heard.push((worker, note));
            answer
        });
    }
    assert_eq!(heard, [(EVERY_OTHER, Note::Endpoint(to)); 2]);
    // One that is told does not pass it on.
    let mut other = server();
    other.set(PeerHandle(0), config("192.0.2.1:1", Some(0)));
    other.take_note(PeerHandle(0), Note::Endpoint(to), 0);
    other.publish(&mut |_, _, _| panic!("told back"));
    assert_eq!(other.by_address(&to.remote), Some(0));
}

#[test]
fn slots_are_used_again() {
    let mut table = server();
    for round in 0..3 {
        for i in 0..20u32 {
            table.set(PeerHandle(i), config(&format!("192.0.2.1:{i}"), Some(i)));
        }
        for i in 0..20u32 {
            assert_eq!(table.slots(), 20, "round {round}");
            table.remove(PeerHandle(i));
        }
    }
    assert!(table.by_address.is_empty() && table.by_peer_id.is_empty());
}

#[test]
fn a_moved_peer_is_found_at_its_new_address_only() {
    let mut table = PeerTable::default();
    table.set(PeerHandle(1), config("192.0.2.1:1194", None));
    table.set(PeerHandle(2), config("192.0.2.2:1194", None));
    let to = Endpoint::new("198.51.100.1:5".parse().unwrap());
    table.move_endpoint(0, to);
    assert_eq!(table.by_address(&to.remote), Some(0));
    assert_eq!(table.by_address(&"192.0.2.1:1194".parse().unwrap()), None);
    // A peer that took over another's address keeps it when the other goes.
    table.move_endpoint(1, to);
    table.remove(PeerHandle(1));
    assert_eq!(table.by_address(&to.remote), Some(1));
}

#[test]
fn path_limits_are_learned_and_forgotten() {
    let mut table = PeerTable::default();
    table.set(PeerHandle(1), config("192.0.2.1:1194", None));
    let ip = "192.0.2.1".parse().unwrap();
    let limits = |table: &mut PeerTable| {
        let peer = table.get(0).unwrap();
        (peer.datagram_limit, peer.gso_limit)
    };
    assert_eq!(table.set_path_mtu(ip, 1400, false, 5), Some(1400));
    assert_eq!(limits(&mut table), (MAX_DATAGRAM, 1372));
    // No second line so soon, and none about another address or a wider path.
    assert_eq!(table.set_path_mtu(ip, 1300, true, 6), None);
    let other = "192.0.2.2".parse().unwrap();
    assert_eq!(table.set_path_mtu(other, 1200, true, 99), None);
    assert_eq!(table.set_path_mtu(ip, 1400, true, 99), None);
    assert_eq!(limits(&mut table), (1272, 1272));
    table.publish(&mut |_, _, _| true);
    table.expire_limits(605);
    assert_eq!(limits(&mut table), (1272, 1272));
    table.expire_limits(606);
    assert_eq!(limits(&mut table), (MAX_DATAGRAM, MAX_DATAGRAM));
}

#[test]
fn a_forged_path_mtu_leaves_room_to_work() {
    for (remote, mtu, payload) in [
        ("192.0.2.1:1194", 552, 524),
        ("[2001:db8::1]:1194", 1280, 1232),
    ] {
        let remote: SocketAddr = remote.parse().unwrap();
        let mut table = PeerTable::default();
        table.set(PeerHandle(1), config(&remote.to_string(), None));
        assert_eq!(table.set_path_mtu(remote.ip(), 0, true, 5), Some(mtu));
        assert_eq!(table.get(0).unwrap().datagram_limit, payload);
    }
}

#[test]
fn a_narrow_path_lowers_the_mss_until_it_is_forgotten() {
    let (keys, _) = key_pair(Cipher::Aes256Gcm);
    let mut table = PeerTable::default();
    let mut wide = config("192.0.2.1:1194", None);
    (wide.mss_v4, wide.mss_v6) = (1400, 0);
    table.set(PeerHandle(1), wide);
    let peer = table.get(0).unwrap();
    peer.keys
        .install(0, &keys, Halves::BOTH, Some(1), Framing::None, (64, 15))
        .unwrap();
    peer.keys.use_key(0);
    table.set_path_mtu("192.0.2.1".parse().unwrap(), 1300, false, 5);
    let peer = table.get(0).unwrap();
    // 1300 less IP, UDP and sealing, less the inner IP and TCP headers; `mssfix 0` stays off.
    assert_eq!((peer.mss_v4, peer.mss_v6), (1300 - 28 - 24 - 40, 0));
    table.move_endpoint(0, Endpoint::new("192.0.2.7:1".parse().unwrap()));
    assert_eq!(table.get(0).unwrap().mss_v4, 1400);
}

#[test]
fn only_peers_that_did_something_are_published() {
    let mut table = PeerTable::default();
    for i in 0..3u32 {
        table.set(PeerHandle(i), config("192.0.2.1:1194", Some(i)));
    }
    table.get(1).unwrap().count_received(10, 0);
    assert_eq!(table.touched, [1]);
    table.get(1).unwrap().count_received(10, 0);
    assert_eq!(table.touched, [1]);
    table.publish(&mut |_, _, _| true);
    assert!(table.touched.is_empty());
    let stats = Arc::clone(&table.get(1).unwrap().config.stats);
    assert_eq!(stats.wire_rx_bytes.load(Relaxed), 20);
}
