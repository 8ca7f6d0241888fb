//! First handshakes.

use super::pair::{BAD, CLEAN, Link, MS, Pair, S, seeds, wrap_of, wraps};
use ringway::proto::TlsRole;
use ringway::proto::tunnel::Command;

#[test]
fn a_clean_link_is_up_within_a_second_in_every_wrapping() {
    for wrap in wraps() {
        let mut pair = Pair::new(1, CLEAN, wrap, |_, _| {});
        pair.run(S);
        pair.expect_up("clean");
        let keys: Vec<_> = pair
            .ends
            .iter()
            .map(|e| e.installed[&0].send.cipher)
            .collect();
        assert_ne!(
            keys[0], keys[1],
            "both directions must use keys of their own"
        );
        for end in &pair.ends {
            let verified = |(verb, text): &(u8, String)| *verb == 1 && text.contains("VERIFY OK");
            assert!(
                end.log.iter().any(verified),
                "TLS lines reach the log: {:?}",
                end.log
            );
        }
    }
}

#[test]
fn handshakes_complete_over_bad_links() {
    for seed in seeds(150) {
        for (loss, duplicate, reorder) in [
            (0.01, 0.0, 0.0),
            (0.05, 0.1, 0.3),
            (0.2, 0.0, 0.0),
            (0.0, 0.5, 0.9),
        ] {
            let link = Link {
                loss,
                duplicate,
                reorder,
                corrupt: 0.0,
            };
            let mut pair = Pair::new(seed, link, wrap_of(seed), |_, c| c.hand_window = 600 * S);
            pair.run_while(600 * S, |p| !p.carries_data());
            pair.expect_up(&format!("seed {seed} {link:?}"));
            assert!(pair.time < 120 * S, "seed {seed}: {:?}", pair.time);
        }
    }
}

#[test]
fn a_flipped_bit_is_never_taken_for_a_packet() {
    for seed in seeds(60) {
        let link = Link {
            corrupt: 0.3,
            ..BAD
        };
        let wrap = wraps()[1 + (seed % 2) as usize].clone();
        let mut pair = Pair::new(seed, link, wrap, |_, c| c.hand_window = 600 * S);
        pair.run_while(600 * S, |p| !p.carries_data());
        pair.expect_up(&format!("seed {seed}"));
    }
}

#[test]
fn without_wrapping_damage_costs_a_handshake_but_not_the_tunnel() {
    for seed in seeds(60) {
        let link = Link {
            corrupt: 0.05,
            ..CLEAN
        };
        let mut pair = Pair::new(seed, link, wraps()[0].clone(), |_, _| {});
        pair.restarts = true;
        pair.run_while(600 * S, |p| !p.carries_data());
        pair.expect_up(&format!("seed {seed}"));
    }
}

#[test]
fn a_blackout_in_any_phase_is_survived() {
    // Starts every few milliseconds of a handshake of about 40 ms, and lasts long or short.
    for start in (0..60).step_by(4) {
        for dark in [1, 5, 40] {
            let mut pair = Pair::new(start, CLEAN, wrap_of(start), |_, _| {});
            pair.run(start as u32 * MS);
            pair.dark_until = pair.time + dark * S;
            pair.run(60 * S);
            pair.expect_up(&format!("dark from {start} ms for {dark} s"));
        }
    }
}

#[test]
fn either_end_may_be_the_one_that_waits() {
    for passive in [TlsRole::Server, TlsRole::Client] {
        let mut pair = Pair::new(2, BAD, wrap_of(2), |role, c| {
            if role == passive {
                c.remote = None;
                c.float = true;
            }
        });
        pair.run(30 * S);
        pair.expect_up(&format!("{passive:?} has no remote"));
    }
}

#[test]
fn nobody_there_ends_after_the_hand_window() {
    let mut pair = Pair::new(2, CLEAN, wrap_of(0), |_, _| {});
    pair.dark_until = 3600 * S;
    pair.run(59 * S);
    assert!(pair.ends.iter().all(|e| e.failed.is_none()));
    pair.run(61 * S);
    assert!(pair.ends.iter().all(|e| e.failed.is_some()));
}

#[test]
fn an_exit_over_the_control_channel_arrives() {
    for link in [CLEAN, BAD] {
        let mut pair = Pair::new(3, link, wrap_of(0), |_, _| {});
        pair.run_while(60 * S, |p| !p.carries_data());
        pair.command(0, Command::NotifyExit);
        pair.run(pair.time + 30 * S);
        assert!(pair.ends[1].exited);
        assert!(pair.ends[0].tunnel.all_acked());
    }
}
