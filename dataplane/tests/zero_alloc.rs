//! A warm worker moves packets without asking the allocator for anything, with either engine.
//!
//! Every allocation of every thread but the test's own is counted while data flows both ways in all
//! the forms that take different paths: super-packets, small packets, single ones; over UDP, over a
//! TCP connection, with `fragment`, and as Ethernet frames.

#![allow(
    unsafe_code,
    reason = "a counting allocator cannot be written without it"
)]
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

#[allow(dead_code, reason = "each test uses its part")]
#[path = "zero_alloc/support.rs"]
mod support;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use ringway_dataplane::command::{Command, PeerHandle};
use ringway_dataplane::fragment::Fragment;
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::tun::DeviceKind;
use ringway_dataplane::worker::IoChoice;

use support::{COUNT, EXEMPT, End};

/// What is different from packets over UDP.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    Udp,
    Tcp,
    Fragment,
    Tap,
}

#[test]
fn a_warm_worker_allocates_nothing() {
    EXEMPT.set(true);
    for io in [IoChoice::Uring, IoChoice::Syscalls] {
        for (cipher, case) in [
            (Cipher::Aes256Gcm, Case::Udp),
            (Cipher::Aes256Cbc, Case::Udp),
            (Cipher::Aes256Gcm, Case::Tcp),
            (Cipher::Aes256Gcm, Case::Fragment),
            (Cipher::Aes256Gcm, Case::Tap),
        ] {
            let kind = match case {
                Case::Udp | Case::Tcp | Case::Fragment => DeviceKind::Tun,
                Case::Tap => DeviceKind::Tap,
            };
            let (Some(mut a), Some(mut b)) = (End::of_kind(io, kind), End::of_kind(io, kind))
            else {
                eprintln!("skipped: {io:?} is not allowed here");
                continue;
            };
            if case == Case::Tcp {
                End::join(&mut a, &mut b);
            }
            if case == Case::Fragment {
                let fragment = Some(Fragment {
                    payload: 1000,
                    largest: 9200,
                });
                (a.fragment, b.fragment) = (fragment, fragment);
            }
            a.connect(&b, cipher, 1, 2);
            b.connect(&a, cipher, 2, 1);
            for _ in 0..20 {
                exchange(&a, &b);
            }
            let before = COUNT.load(SeqCst);
            for _ in 0..80 {
                exchange(&a, &b);
            }
            // A connection takes memory the first time that a read ends within a packet, and when its
            // socket is full for the first time, which nobody can foretell.
            let allowed = if case == Case::Tcp { 8 } else { 0 };
            let counted = COUNT.load(SeqCst) - before;
            assert!(counted <= allowed, "{io:?} {cipher:?} {case:?}: {counted}");
            // The counter does count these threads.
            a.worker
                .send(Command::SendPayload(PeerHandle(9), Vec::new()))
                .unwrap();
            a.worker
                .send(Command::SetPeer(PeerHandle(2), Box::new(a.config(&b))))
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while COUNT.load(SeqCst) == before + counted {
                assert!(Instant::now() < deadline, "nothing was counted");
                std::thread::yield_now();
            }
        }
    }
}

/// Data in every form, both ways; returns when all of it has arrived.
fn exchange(a: &End, b: &End) {
    for (from, to) in [(a, b), (b, a)] {
        for &(payload, size, times) in
            &[(60_000, 1360, 3), (100, 0, 20), (1300, 0, 2), (9000, 0, 1)]
        {
            let mut expected = 0;
            for _ in 0..times {
                expected += from.inject(payload, size);
            }
            let mut arrived = 0;
            while arrived < expected {
                arrived += to.payload_read();
            }
        }
    }
}
