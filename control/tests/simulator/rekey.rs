//! Renegotiations.

use std::time::Duration;

use super::capability::V2_6;
use super::pair::{BAD, CLEAN, Link, MS, Pair, S, other_client, peer_info, seeds, wrap_of, wraps};
use rand::Rng;
use ringway::proto::peer_info::iv_proto;
use ringway::proto::tunnel::{Command, KeyUsage};

#[test]
fn a_rekey_never_seals_with_a_key_the_peer_lacks() {
    for seed in seeds(60) {
        let mut pair = Pair::new(seed, BAD, wrap_of(seed), |_, c| c.reneg_sec = 60 * S);
        pair.run(900 * S);
        pair.expect_up(&format!("seed {seed}"));
        // The very first packets may leave before the slower end has its first key.
        assert!(
            pair.data_lost <= 3,
            "seed {seed}: {} of {} lost",
            pair.data_lost,
            pair.data_sent
        );
        assert!(
            pair.ends.iter().all(|e| e.generations >= 10),
            "seed {seed}: too few rekeys"
        );
        assert!(
            pair.ends[0].used.len() >= 7,
            "key ids must go round: {:?}",
            pair.ends[0].used
        );
    }
}

#[test]
fn rekeys_of_a_few_seconds_lose_nothing_on_a_clean_link() {
    for reneg in 3..8 {
        let mut pair = Pair::new(reneg, CLEAN, wraps()[0].clone(), |_, c| {
            c.reneg_sec = Duration::from_secs(reneg);
        });
        pair.run(120 * S);
        pair.expect_up("fast rekey");
        assert!(
            pair.data_lost <= 1,
            "reneg {reneg}: {} lost",
            pair.data_lost
        );
    }
}

#[test]
fn short_rekeys_over_a_bad_link_lose_little_and_never_fail() {
    for seed in seeds(30) {
        let link = Link { loss: 0.2, ..BAD };
        let mut pair = Pair::new(seed, link, wrap_of(seed), |_, c| c.reneg_sec = 12 * S);
        pair.run(300 * S);
        pair.expect_up(&format!("seed {seed}"));
        assert!(
            pair.data_lost * 200 <= pair.data_sent,
            "seed {seed}: {} of {} lost",
            pair.data_lost,
            pair.data_sent
        );
    }
}

#[test]
fn both_ends_may_begin_at_the_same_instant() {
    for seed in seeds(60) {
        let link = if seed % 2 == 0 { CLEAN } else { BAD };
        let mut pair = Pair::new(seed, link, wrap_of(seed), |_, _| {});
        pair.run(30 * S);
        for n in 1..10u32 {
            let apart = pair.rng.random_range(0..4) * 3 * MS;
            pair.command((n % 2) as usize, Command::Renegotiate);
            pair.run(pair.time + apart);
            pair.command(1 - (n % 2) as usize, Command::Renegotiate);
            pair.run(30 * S + n * 90 * S);
        }
        pair.expect_up(&format!("seed {seed}"));
        for end in &pair.ends {
            assert_eq!(end.generations, 10, "seed {seed}: one key for both");
        }
        assert!(pair.data_lost <= 3, "seed {seed}: {}", pair.data_lost);
    }
}

#[test]
fn usage_begins_a_rekey_and_only_one() {
    let mut pair = Pair::new(5, CLEAN, wraps()[0].clone(), |_, c| c.reneg_bytes = 1000);
    pair.run(3 * S);
    let usage = |bytes| {
        Command::Usage(KeyUsage {
            bytes,
            ..KeyUsage::default()
        })
    };
    pair.command(1, usage(1000));
    pair.run(30 * S);
    for end in &pair.ends {
        assert_eq!(end.generations, 2);
    }
    // The old key goes on sending and counting until the new one takes its place, and the first
    // sample after that may still be of the old one.
    pair.command(1, Command::Renegotiate);
    while pair.ends[1].sending == Some(1) {
        pair.command(1, usage(2000));
        pair.run(pair.time + 100 * MS);
    }
    pair.command(1, usage(2000));
    pair.run(pair.time + 3 * S);
    pair.command(1, usage(10));
    pair.run(pair.time + 100 * S);
    for end in &pair.ends {
        assert_eq!(
            end.generations, 3,
            "the old key's usage counted for the new"
        );
    }
}

#[test]
fn a_storm_by_usage_keeps_the_data_flowing() {
    let mut pair = Pair::new(6, BAD, wraps()[2].clone(), |_, c| {
        c.reneg_bytes = 1;
        c.reneg_sec = 20 * S;
    });
    for n in 1..300 {
        pair.run(n * S);
        for end in 0..2 {
            let usage = KeyUsage {
                bytes: 1_000_000,
                ..KeyUsage::default()
            };
            pair.command(end, Command::Usage(usage));
        }
    }
    pair.expect_up("storm");
    assert!(pair.data_lost <= 3, "{}", pair.data_lost);
    assert!(pair.ends[0].generations > 8, "{}", pair.ends[0].generations);
    assert!(
        pair.ends[0].generations < 60,
        "{}",
        pair.ends[0].generations
    );
}

#[test]
fn a_blackout_during_a_rekey_keeps_the_old_key() {
    for at in (0..60).step_by(4) {
        for dark in [3, 30, 90, 200] {
            let mut pair = Pair::new(at, CLEAN, wrap_of(at), |_, _| {});
            pair.run(100 * S);
            pair.expect_up("before");
            pair.command((at / 4 % 2) as usize, Command::Renegotiate);
            pair.run(pair.time + at as u32 * MS);
            pair.dark_until = pair.time + dark * S;
            pair.run(pair.time + (dark + 150) * S);
            let what = format!("dark {at} ms after the start for {dark} s");
            pair.expect_up(&what);
            // Long ones end in a new session, in whose handshake the two ends change keys at
            // slightly different times.
            assert!(pair.data_lost <= 12, "{what}: {} lost", pair.data_lost);
        }
    }
}

#[test]
fn a_soft_reset_says_that_all_has_arrived() {
    // The acks for the client's last packets are lost, and the server moves on at once.
    let mut pair = Pair::new(9, CLEAN, wraps()[0].clone(), |_, c| {
        c.peer_info = peer_info(V2_6 & !iv_proto::DYN_TLS_CRYPT);
    });
    pair.run_while(S, |p| p.ends[1].tunnel.counters().accepted < 4);
    pair.tamper = Some(|from, datagram| {
        let acks = usize::from(datagram[9]);
        if from == 0 && acks > 0 {
            datagram.drain(10..10 + 4 * acks + 8);
            datagram[9] = 0;
        }
        from == 1 || datagram[0] >> 3 == 4
    });
    pair.run_while(S, |p| p.ends[0].sending.is_none());
    assert_eq!(pair.ends[0].sending, Some(0));
    assert_eq!(pair.ends[1].sending, None, "waits for acks");
    assert_eq!(pair.ends[1].generations, 1, "but can receive");
    pair.tamper = None;
    pair.command(0, Command::Renegotiate);
    pair.run(pair.time + S);
    pair.expect_up("after");
    for end in &pair.ends {
        assert_eq!(end.generations, 2);
        assert_eq!(end.connected, 1);
    }
}

#[test]
fn a_message_sent_during_a_rekey_leaves_after_it() {
    for link in [CLEAN, BAD] {
        let mut pair = Pair::new(7, link, wraps()[2].clone(), |_, _| {});
        pair.run(60 * S);
        pair.command(1, Command::Renegotiate);
        pair.run(pair.time + 6 * MS);
        pair.command(1, Command::NotifyExit);
        assert!(!pair.ends[1].tunnel.all_acked());
        pair.run(pair.time + 60 * S);
        assert!(pair.ends[0].exited);
        assert!(pair.ends[1].tunnel.all_acked());
    }
}

#[test]
fn another_certificate_cannot_take_over_by_renegotiation() {
    // The peer changes its certificate under a running session.
    let mut pair = Pair::new(8, CLEAN, wraps()[2].clone(), |_, _| {});
    pair.run(60 * S);
    pair.expect_up("before");
    let connected = pair.ends[0].connected;
    pair.change_config(1, |c| c.tls = other_client());
    pair.restart(1);
    pair.run(120 * S);
    // A session of its own, so it is a peer like any other, and said to be another.
    pair.expect_up("after");
    assert_eq!(pair.ends[0].connected, connected + 1);
}

#[test]
fn a_dead_peer_costs_the_tunnel_only_when_the_old_key_ends() {
    let mut pair = Pair::new(8, CLEAN, wraps()[2].clone(), |_, c| {
        c.tran_window = 300 * S;
        c.reneg_sec = 100 * S;
    });
    pair.run(50 * S);
    pair.dark_until = 10_000 * S;
    pair.run(390 * S);
    assert!(pair.ends.iter().all(|e| e.failed.is_none()));
    assert!(pair.ends.iter().all(|e| e.sending == Some(0)));
    pair.run(500 * S);
    assert!(pair.ends.iter().any(|e| e.failed.is_some()));
}
