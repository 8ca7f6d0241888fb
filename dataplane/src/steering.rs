//! Which socket of a SO_REUSEPORT group gets a datagram: a classic BPF program over the UDP payload.
//!
//! ```text
//!   DATA_V2, header complete     socket peer_id % workers
//!   DATA_V1                      socket 0
//!   anything else                socket `others`: 0 in a group of workers, the control socket of a server
//! ```
//!
//! The kernel runs it once for each message, which receive offload may have glued together from
//! several datagrams of one sender; the first one decides for all.

use crate::wire;

/// Bytes of a DATA_V2 header.
const DATA_V2_LEN: u32 = 4;

/// The program for so many workers, at least one. Its result is the index of a socket in the order
/// of binding.
pub(crate) fn program(workers: u32, others: u32) -> [libc::sock_filter; 14] {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LEN,
        BPF_MOD, BPF_RET, BPF_RSH, BPF_W,
    };
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    [
        // A load beyond the end would end the program with 0, so the length comes first.
        step(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, 10, 0, 0),
        // The opcode is in the upper five bits of the first byte.
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 3),
        step(BPF_JMP | BPF_JEQ | BPF_K, 8, 0, u32::from(wire::DATA_V1)),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, u32::from(wire::DATA_V2)),
        step(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
        step(BPF_JMP | BPF_JGE | BPF_K, 0, 4, DATA_V2_LEN),
        // The peer-id is in the three bytes behind the first.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_ALU | BPF_AND | BPF_K, 0, 0, wire::PEER_ID_NONE),
        step(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers.max(1)),
        step(BPF_RET | BPF_A, 0, 0, 0),
        step(BPF_RET | BPF_K, 0, 0, others),
        step(BPF_RET | BPF_K, 0, 0, 0),
    ]
}

/// The worker whose socket the kernel gives a data packet to: the same answer as the program's, for
/// one that was received elsewhere.
pub(crate) fn worker_of(peer_id: Option<u32>, workers: usize) -> usize {
    peer_id.map_or(0, |id| (id & wire::PEER_ID_NONE) as usize % workers.max(1))
}
