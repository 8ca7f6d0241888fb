//! Peers that start anew, move, or fail.

use super::capability::V2_6;
use super::pair::{BAD, CLEAN, MS, Pair, S, peer_info, seeds, wrap_of, wraps};
use rand::Rng;
use ringway::proto::peer_info::iv_proto;
use ringway::proto::tunnel::Command;
use ringway_dataplane::command::Endpoint;

#[test]
fn a_restarted_peer_takes_over_by_its_own_handshake() {
    for restarted in [0, 1] {
        for wrap in wraps() {
            let mut pair = Pair::new(9, CLEAN, wrap, |_, _| {});
            pair.run(10 * S);
            pair.expect_up("before");
            pair.restart(restarted);
            let lost_before = pair.data_lost;
            pair.run(20 * S);
            pair.expect_up("after");
            // The end that finishes first may send a little before the other has the key.
            assert!(
                pair.data_lost - lost_before <= 3,
                "end {restarted}: {}",
                pair.data_lost - lost_before
            );
            assert!(pair.ends[1 - restarted].failed.is_none());
        }
    }
}

#[test]
fn restarts_at_any_moment_end_in_a_working_tunnel() {
    for seed in seeds(150) {
        let link = if seed % 3 == 0 { BAD } else { CLEAN };
        let mut pair = Pair::new(seed, link, wrap_of(seed / 2), |_, _| {});
        pair.restarts = true;
        for _ in 0..6 {
            // Mostly within a handshake, some after it.
            let pause = match pair.rng.random_range(0..3) {
                0 => pair.rng.random_range(0..60) * MS,
                1 => pair.rng.random_range(0..1000) * MS,
                _ => pair.rng.random_range(0..10) * S,
            };
            pair.run(pair.time + pause);
            let end = pair.rng.random_range(0..2);
            pair.restart(end);
        }
        let from = pair.time;
        pair.run(from + 150 * S);
        pair.expect_up(&format!("seed {seed}"));
    }
}

#[test]
fn a_peer_that_moves_keeps_its_session_with_float() {
    for wrap in &wraps()[1..] {
        let mut pair = Pair::new(11, CLEAN, wrap.clone(), |_, c| {
            c.float = true;
            c.reneg_sec = 60 * S;
        });
        pair.run(50 * S);
        pair.ends[1].address = "198.51.100.9:4000".parse().unwrap();
        // The data plane of end 0 sees it first.
        let moved = Endpoint::new(pair.ends[1].address);
        pair.command(0, Command::Floated(moved));
        pair.run(300 * S);
        pair.expect_up("after the move");
        assert!(pair.data_lost <= 2, "{}", pair.data_lost);
        assert_eq!(pair.ends[0].connected, 1, "no new session");
        assert!(pair.ends[0].generations >= 4);
    }
}

#[test]
fn a_move_is_followed_by_control_packets_alone_when_they_authenticate() {
    let mut pair = Pair::new(12, CLEAN, wraps()[2].clone(), |_, c| c.float = true);
    pair.run(50 * S);
    pair.ends[1].address = "198.51.100.9:4000".parse().unwrap();
    pair.command(1, Command::Renegotiate);
    pair.run(200 * S);
    pair.expect_up("after the move");
    assert_eq!(pair.ends[0].generations, 2);
    assert_eq!(pair.ends[0].connected, 1);
}

#[test]
fn without_float_nobody_else_speaks_for_the_peer() {
    let mut pair = Pair::new(13, CLEAN, wraps()[2].clone(), |_, _| {});
    pair.run(5 * S);
    let accepted = pair.ends[0].tunnel.counters().accepted;
    pair.ends[1].address = "198.51.100.9:4000".parse().unwrap();
    pair.command(1, Command::Renegotiate);
    pair.run(20 * S);
    let counters = pair.ends[0].tunnel.counters();
    assert_eq!(counters.accepted, accepted);
    assert!(counters.wrong_source > 0);
}

#[test]
fn single_session_takes_one() {
    let mut pair = Pair::new(14, BAD, wraps()[2].clone(), |_, c| c.single_session = true);
    pair.run(30 * S);
    pair.expect_up("first");
    pair.restart(1);
    pair.run(80 * S);
    let counters = pair.ends[0].tunnel.counters();
    assert!(counters.refused_reset > 0);
    assert_eq!(pair.ends[0].connected, 1);
}

#[test]
fn a_refused_renegotiation_is_not_repeated_at_the_speed_of_the_network() {
    let mut pair = Pair::new(15, CLEAN, wraps()[0].clone(), |_, c| {
        c.peer_info = peer_info(V2_6 & !iv_proto::DYN_TLS_CRYPT);
    });
    pair.run(60 * S);
    let before = pair.recorded.len();
    pair.command(0, Command::Renegotiate);
    // Nobody likes this TLS.
    pair.tamper = Some(|_, datagram| {
        if datagram[0] >> 3 == 4
            && let Some(last) = datagram.last_mut()
        {
            *last ^= 1;
        }
        true
    });
    pair.run(pair.time + 60 * S);
    let sent = pair.recorded.len() - before;
    assert!((20..400).contains(&sent), "{sent} packets in a minute");
    assert!(
        pair.ends.iter().all(|e| e.failed.is_none()),
        "old keys last"
    );
    pair.tamper = None;
    pair.run(pair.time + 150 * S);
    pair.expect_up("after");
}

#[test]
fn a_session_that_the_peer_has_begun_takes_the_place_of_one_that_fails() {
    let mut pair = Pair::new(16, CLEAN, wraps()[2].clone(), |_, _| {});
    pair.run(6 * MS);
    pair.dark_until = 59_970 * MS;
    pair.run(59_980 * MS);
    pair.restart(1);
    pair.run(70 * S);
    pair.expect_up("after");
    assert_eq!(pair.restarted, 1);
}
