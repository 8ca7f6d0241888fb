#![no_main]
//! Control messages, pushed options in parts, and their use.

use libfuzzer_sys::fuzz_target;
use ringway::config::pushed::{PulledOptions, apply, update};
use ringway::proto::push::{ControlMessage, PushAssembler, push_replies, split_messages};

fuzz_target!(|data: &[u8]| {
    let mut assembler = PushAssembler::new();
    let mut updates = PushAssembler::new();
    let mut pulled = PulledOptions::default();
    for text in split_messages(data) {
        let message = ControlMessage::parse(&text);
        let wire = message.to_wire();
        assert!(wire.ends_with(&[0]), "a message without its NUL");
        match message {
            ControlMessage::PushReply(options) => {
                let Ok(Some(options)) = assembler.add(options) else {
                    continue;
                };
                for option in &options {
                    let _ = apply(option, &[], &mut pulled);
                }
                let _ = pulled.tun_digest();
                let _ = push_replies(&options);
            }
            ControlMessage::PushUpdate(options) => {
                if let Ok(Some(options)) = updates.add(options) {
                    let _ = update(&options, &[], &mut pulled);
                }
            }
            _ => {}
        }
    }
});
