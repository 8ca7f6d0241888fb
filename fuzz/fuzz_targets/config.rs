#![no_main]
//! Configuration files.

use libfuzzer_sys::fuzz_target;
use ringway::config::{lexer, parse_text};

fuzz_target!(|data: &[u8]| {
    if let Err(error) = parse_text("fuzz.conf", data) {
        let _ = error.to_string();
    }
    if let Ok(words) = lexer::words(data) {
        let line: Vec<String> = words.iter().map(|word| lexer::quote(word)).collect();
        if let Ok(again) = lexer::words(line.join(" ").as_bytes()) {
            assert_eq!(words, again, "quoting changed the words");
        }
    }
});
