#![no_main]
//! Data packets: opening anything, and sealed ones with some bytes changed.

use libfuzzer_sys::fuzz_target;
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::wire;
use ringway_fuzz::{DATA_KINDS, data_keys};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let (mut send, mut recv) = data_keys(kind);
    let mut datagram = rest.to_vec();
    if let Ok(inner) = recv.open(1, &mut datagram) {
        let _ = wire::magic(&datagram[inner]);
        let mut again = rest.to_vec();
        assert!(recv.open(1, &mut again).is_err(), "a replay was opened");
    }
    let Some((&at, rest)) = rest.split_first() else {
        return;
    };
    let (inner, patch) = rest.split_at(rest.len() / 2);
    // Nothing sends empty packets, and the caller escapes frames that need it.
    if inner.is_empty()
        || inner
            .first()
            .is_some_and(|&first| !send.escape(first).is_empty())
    {
        return;
    }
    let headroom = send.headroom();
    let mut sealed = vec![0u8; send.sealed_len(inner.len()).max(headroom + inner.len())];
    sealed[headroom..headroom + inner.len()].copy_from_slice(inner);
    assert_eq!(
        send.seal(
            &mut sealed,
            &[Segment {
                start: 0,
                len: inner.len()
            }]
        ),
        1
    );
    sealed.truncate(send.sealed_len(inner.len()));
    let good = sealed.clone();
    for (byte, change) in sealed.iter_mut().skip(usize::from(at)).zip(patch) {
        *byte ^= change;
    }
    let changed = sealed != good;
    let (_, mut recv) = data_keys(kind);
    match recv.open(1, &mut sealed) {
        Ok(range) if !changed => assert_eq!(&sealed[range], inner),
        // Only the clear first bytes of CBC packets, and everything without a MAC, may change.
        Ok(_) => assert!(kind % DATA_KINDS >= 4, "a changed packet was opened"),
        Err(reason) => assert!(changed, "a good packet was refused: {reason:?}"),
    }
});
