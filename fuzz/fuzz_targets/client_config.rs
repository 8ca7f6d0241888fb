#![no_main]
//! A client's file and, behind a NUL, the output of its client-connect script.

use libfuzzer_sys::fuzz_target;
use ringway::config::client_config::{Kind, file_name, parse};

fuzz_target!(|data: &[u8]| {
    let mut texts = data.splitn(2, |&byte| byte == 0);
    let file = parse("file", texts.next().unwrap_or_default(), Kind::Text);
    let script = parse("script", texts.next().unwrap_or_default(), Kind::Text);
    if let (Ok((mut config, _)), Ok((later, _))) = (file, script) {
        let pushed = config.push.len() + later.push.len();
        config.apply(later);
        assert!(config.push.len() <= pushed, "a push came from nowhere");
        assert!(config.ping_restart.is_none() || config.ping_exit.is_none());
    }
    if let Some(name) = std::str::from_utf8(data).ok().and_then(file_name) {
        assert!(!name.contains('/') && name != "..", "out of the directory");
    }
});
