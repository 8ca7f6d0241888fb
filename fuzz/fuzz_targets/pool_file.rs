#![no_main]
//! Files that remember who had which address.

use libfuzzer_sys::fuzz_target;
use ringway::server::pool::{AddressPool, PoolLayout};
use ringway::server::pool_file::{parse, restore, to_text};

fn pool() -> AddressPool {
    let layout = PoolLayout {
        v4: Some(([10, 8, 0, 2].into(), [10, 8, 0, 254].into())),
        v6: Some(([0xfd00, 0, 0, 0, 0, 0, 0, 0x1000].into(), 64)),
        ..PoolLayout::default()
    };
    AddressPool::new(&layout)
        .expect("a good layout")
        .expect("with addresses")
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut first = pool();
    for (_, line) in parse(&text) {
        if let Ok(stored) = line {
            restore(&mut first, &stored, 1, false);
        }
    }
    let written = to_text(&first);
    let mut second = pool();
    for (number, line) in parse(&written) {
        let stored = line.expect("what is written can be read");
        let warnings = restore(&mut second, &stored, 1, false);
        assert!(warnings.is_empty(), "line {number}: {warnings:?}");
    }
    assert_eq!(to_text(&second), written);
});
