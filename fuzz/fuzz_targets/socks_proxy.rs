#![no_main]
//! Answers of a SOCKS proxy, and datagrams from it: portions make no difference.
//!
//! Layout: what is asked for and whether to log in, length of the portions, the answer.

use libfuzzer_sys::fuzz_target;
use ringway::proto::proxy::datagram::Peer;
use ringway::proto::proxy::socks::Socks;
use ringway_fuzz::proxies::{converse, login};

fuzz_target!(|data: &[u8]| {
    let [choice, portion, answer @ ..] = data else {
        return;
    };
    let begin = || {
        let login = (choice & 1 != 0).then(login);
        match choice & 2 {
            0 => Socks::connect("peer.example", 1194, login),
            _ => Socks::associate(login),
        }
        .expect("it fits")
    };
    let (mut whole, mut parts) = (begin(), begin());
    assert_eq!(
        converse(&mut whole, answer, usize::MAX),
        converse(&mut parts, answer, usize::from(*portion).max(1))
    );
    assert_eq!(whole.bound(), parts.bound());

    let name = if choice & 4 != 0 { "192.0.2.1" } else { "peer.example" };
    let mut peer = Peer::new(name, 1194, choice & 8 != 0).expect("it fits");
    if let Some(len) = peer.strip(answer) {
        assert!(len <= answer.len());
        assert_eq!(peer.strip(answer), Some(len));
    }
});
