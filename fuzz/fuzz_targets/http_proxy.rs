#![no_main]
//! Answers of an HTTP proxy: portions make no difference, and nothing is kept without limit.
//!
//! Layout: how to log in, length of the portions, the answer.

use libfuzzer_sys::fuzz_target;
use ringway::proto::proxy::http::{HttpConnect, HttpRequest, Method};
use ringway_fuzz::proxies::{converse, login};

fuzz_target!(|data: &[u8]| {
    let [method, portion, answer @ ..] = data else {
        return;
    };
    let method = match method % 5 {
        0 => None,
        1 => Some(Method::Basic),
        2 => Some(Method::Digest),
        3 => Some(Method::Auto { basic: true }),
        _ => Some(Method::Auto { basic: false }),
    };
    let connect = || {
        let request = HttpRequest {
            host: "peer.example".to_owned(),
            port: 1194,
            version: "1.1".to_owned(),
            agent: None,
            headers: Vec::new(),
            login: method.map(|method| (method, login())),
        };
        HttpConnect::new(request, [7; 16])
    };
    let whole = converse(&mut connect(), answer, usize::MAX);
    let parts = converse(&mut connect(), answer, usize::from(*portion).max(1));
    assert_eq!(whole, parts);
});
