#![no_main]
//! Unwrapping anything, and a wrapped packet with some of its bytes changed.

use libfuzzer_sys::fuzz_target;
use ringway::proto::packet::{AckList, ControlPacket, Opcode, SessionId};
use ringway_fuzz::wraps;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let (mut client, mut server) = wraps(kind);
    let mut datagram = rest.to_vec();
    if server.unwrap(&mut datagram).is_ok() {
        // Taken once; a second time it is a replay, where the wrap can tell.
        let mut again = rest.to_vec();
        assert!(!server.authenticates() || server.unwrap(&mut again).is_err());
    } else if server.authenticates() {
        assert_eq!(datagram, rest, "a refused datagram was changed");
    }
    // A real packet, then the input laid over it.
    let Some((&at, patch)) = rest.split_first() else {
        return;
    };
    let packet = ControlPacket {
        opcode: Opcode::ControlV1,
        key_id: 0,
        session_id: SessionId([1; 8]),
        acks: AckList::from_iter([0]),
        remote_session_id: Some(SessionId([2; 8])),
        packet_id: Some(1),
        payload: b"hello",
    };
    let mut wrapped = Vec::new();
    client.wrap(&packet, &mut wrapped);
    let good = wrapped.clone();
    for (byte, change) in wrapped.iter_mut().skip(usize::from(at)).zip(patch) {
        *byte ^= change;
    }
    let changed = wrapped != good;
    // The input above may have been this very packet: a receiver that has seen nothing.
    let (_, mut server) = wraps(kind);
    match server.unwrap(&mut wrapped) {
        Ok(got) if !changed => assert_eq!(got, packet),
        Ok(_) => assert!(!server.authenticates(), "a changed packet authenticated"),
        Err(_) => assert!(changed, "a good packet was refused"),
    }
});
