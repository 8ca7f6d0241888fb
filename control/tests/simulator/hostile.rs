//! Strangers who send in the peer's name.

use super::pair::{CLEAN, MS, Pair, S, wraps};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringway::proto::TlsRole;
use ringway::proto::tunnel::{Command, Mode};

/// A bare hard reset with a session id of its own.
fn reset(rng: &mut StdRng, opcode: u8) -> Vec<u8> {
    let mut datagram = vec![opcode << 3];
    datagram.extend_from_slice(&rng.random::<[u8; 8]>());
    datagram.extend_from_slice(&[0, 0, 0, 0, 0]);
    datagram
}

#[test]
fn a_stranger_changes_nothing() {
    let mut pair = Pair::new(4, CLEAN, wraps()[1].clone(), |_, _| {});
    pair.run(S);
    let generations = pair.ends[0].generations;
    let accepted = pair.ends[0].tunnel.counters().accepted;
    let mut rng = StdRng::seed_from_u64(8);
    for i in 0..5000u32 {
        let mut datagram: Vec<u8> = (0..rng.random_range(0..200))
            .map(|_| rng.random())
            .collect();
        if let Some(first) = datagram.first_mut() {
            *first = [0x20, 0x28, 0x38, 0x40, 0x18][i as usize % 5] | (*first & 7);
        }
        let from = pair.ends[1].address;
        pair.inject(0, from, &mut datagram, true);
    }
    let counters = pair.ends[0].tunnel.counters();
    pair.run(5 * S);
    pair.expect_up("flood");
    assert_eq!(pair.ends[0].generations, generations);
    assert_eq!(counters.accepted, accepted);
    let dropped: u64 = counters.rows()[1..].iter().map(|(_, n)| n).sum();
    assert_eq!(dropped, 5000);
}

#[test]
fn bare_resets_do_not_touch_an_established_tunnel() {
    let mut pair = Pair::new(5, CLEAN, wraps()[0].clone(), |_, c| c.reneg_sec = 20 * S);
    let mut rng = StdRng::seed_from_u64(1);
    for n in 1..600u32 {
        pair.run(n * 100 * MS);
        if n > 10 {
            let (to, from) = (n as usize % 2, 1 - n as usize % 2);
            let opcode = if to == 0 { 7 } else { 8 };
            let from = pair.ends[from].address;
            pair.inject(to, from, &mut reset(&mut rng, opcode), true);
        }
    }
    pair.expect_up("flood of resets");
    assert!(pair.data_lost <= 1, "{}", pair.data_lost);
    for end in &pair.ends {
        assert_eq!(end.connected, 1);
        assert_eq!(end.generations, 3);
    }
}

#[test]
fn bare_resets_do_not_hinder_a_restarted_peer() {
    for restarted in [0, 1] {
        let mut pair = Pair::new(5, CLEAN, wraps()[0].clone(), |_, _| {});
        pair.run(5 * S);
        pair.restart(restarted);
        let other = 1 - restarted;
        let opcode = if other == 0 { 7 } else { 8 };
        let mut rng = StdRng::seed_from_u64(1);
        // Between the packets of the handshake, which takes turns every 5 ms.
        for n in 0..40u32 {
            pair.run(5 * S + n * 20 * MS);
            let from = pair.ends[restarted].address;
            pair.inject(other, from, &mut reset(&mut rng, opcode), true);
        }
        pair.run(20 * S);
        pair.expect_up(&format!("end {restarted} restarted"));
    }
}

#[test]
fn a_bare_reset_before_the_servers_answer_does_not_hinder_a_first_handshake() {
    for mode in [Mode::PointToPoint, Mode::Pull] {
        let mut pair = Pair::new(6, CLEAN, wraps()[0].clone(), |role, c| {
            if role == TlsRole::Client {
                c.mode = mode;
            } else {
                c.remote = None;
                c.float = true;
            }
        });
        let mut rng = StdRng::seed_from_u64(1);
        let from = pair.ends[0].address;
        pair.inject(1, from, &mut reset(&mut rng, 8), true);
        // The call that answers the stranger is lost; the next one, two seconds later, is not.
        pair.run(3 * S);
        assert_eq!(pair.ends[1].connected, 1, "{mode:?}");
        assert!(pair.ends[1].failed.is_none());
    }
}

#[test]
fn whoever_knocks_first_does_not_lock_out_the_peer() {
    let mut pair = Pair::new(7, CLEAN, wraps()[0].clone(), |role, c| {
        if role == TlsRole::Server {
            c.remote = None;
            c.float = true;
        }
    });
    let stranger = "203.0.113.5:999".parse().unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    pair.inject(0, stranger, &mut reset(&mut rng, 7), true);
    pair.run(5 * S);
    pair.expect_up("with a stranger first");
}

#[test]
fn strangers_alone_do_not_end_a_waiting_server() {
    let mut pair = Pair::new(7, CLEAN, wraps()[0].clone(), |role, c| {
        if role == TlsRole::Server {
            c.remote = None;
            c.float = true;
        }
    });
    pair.dark_until = 150 * S;
    pair.restarts = true;
    let mut rng = StdRng::seed_from_u64(1);
    for n in 0..30u32 {
        pair.run(n * 5 * S);
        let stranger = "203.0.113.5:999".parse().unwrap();
        pair.inject(0, stranger, &mut reset(&mut rng, 7), true);
        assert!(pair.ends[0].failed.is_none());
    }
    pair.run(300 * S);
    pair.expect_up("after the strangers");
}

#[test]
fn a_bare_reset_with_a_payload_is_not_read() {
    let mut pair = Pair::new(6, CLEAN, wraps()[0].clone(), |_, _| {});
    let mut rng = StdRng::seed_from_u64(1);
    let from = pair.ends[0].address;
    let mut datagram = reset(&mut rng, 8);
    datagram.extend_from_slice(&[0, 1, 0, 9, 7]);
    pair.inject(1, from, &mut datagram, true);
    pair.run(2 * S);
    pair.expect_up("after a malformed early negotiation");
}

#[test]
fn replayed_packets_change_nothing() {
    for wrap in &wraps()[1..] {
        let mut pair = Pair::new(16, CLEAN, wrap.clone(), |_, c| c.reneg_sec = 30 * S);
        pair.run(100 * S);
        let generations = pair.ends[0].generations;
        let recorded = pair.recorded.clone();
        for (to, from, mut datagram) in recorded {
            pair.inject(to, from, &mut datagram, false);
        }
        pair.run(101 * S);
        pair.expect_up("after the replay");
        assert_eq!(pair.ends[0].generations, generations);
        pair.run(300 * S);
        pair.expect_up("later");
        for end in &pair.ends {
            assert_eq!(end.connected, 1);
        }
        assert!(pair.data_lost <= 1);
    }
}

#[test]
fn old_packets_do_not_break_a_later_program() {
    let mut pair = Pair::new(17, CLEAN, wraps()[2].clone(), |_, _| {});
    pair.run(30 * S);
    let recorded = pair.recorded.clone();
    pair.restart(0);
    pair.restart(1);
    for (to, from, mut datagram) in recorded {
        pair.inject(to, from, &mut datagram, false);
        pair.run(pair.time + MS);
    }
    pair.run(pair.time + 70 * S);
    pair.expect_up("after the replay");
}

#[test]
fn a_forged_soft_reset_without_wrapping_only_causes_a_rekey() {
    // Somebody who sees the traffic knows both session ids.
    let mut pair = Pair::new(18, CLEAN, wraps()[0].clone(), |_, c| {
        c.peer_info = super::pair::peer_info(
            ringway::proto::peer_info::iv_proto::P2P
                & !ringway::proto::peer_info::iv_proto::DYN_TLS_CRYPT,
        );
    });
    pair.run(30 * S);
    let (_, from, sample) = pair
        .recorded
        .iter()
        .rfind(|(to, ..)| *to == 0)
        .cloned()
        .unwrap();
    let mut soft = vec![3 << 3 | 1];
    soft.extend_from_slice(&sample[1..9]);
    soft.extend_from_slice(&[0, 0, 0, 0, 0]);
    pair.inject(0, from, &mut soft, true);
    pair.run(200 * S);
    pair.expect_up("after");
    for end in &pair.ends {
        assert_eq!(end.generations, 2);
        assert_eq!(end.connected, 1);
    }
    assert_eq!(pair.data_lost, 0);
    // With dynamic tls-crypt it does not even do that.
    let mut pair = Pair::new(18, CLEAN, wraps()[0].clone(), |_, _| {});
    pair.run(30 * S);
    soft[1..9].copy_from_slice(&pair.recorded.iter().rfind(|(to, ..)| *to == 0).unwrap().2[1..9]);
    pair.inject(0, from, &mut soft, true);
    pair.command(0, Command::Usage(Default::default()));
    pair.run(60 * S);
    assert_eq!(pair.ends[0].generations, 1);
    assert!(pair.ends[0].tunnel.counters().unwrap_failed > 0);
}
