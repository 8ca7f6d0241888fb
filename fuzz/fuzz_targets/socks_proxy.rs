#![no_main]
//! Answers of a SOCKS proxy: portions make no difference.
//!
//! Layout: whether to log in, length of the portions, the answer.

use libfuzzer_sys::fuzz_target;
use ringway::proto::proxy::socks::SocksConnect;
use ringway_fuzz::proxies::{converse, login};

fuzz_target!(|data: &[u8]| {
    let [with_login, portion, answer @ ..] = data else {
        return;
    };
    let connect = || {
        let login = (with_login & 1 != 0).then(login);
        SocksConnect::new("peer.example", 1194, login).expect("it fits")
    };
    let whole = converse(&mut connect(), answer, usize::MAX);
    let parts = converse(&mut connect(), answer, usize::from(*portion).max(1));
    assert_eq!(whole, parts);
});
