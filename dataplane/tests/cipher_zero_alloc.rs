//! Sealing and opening allocate nothing, whatever the cipher: neither in Rust nor, with glibc, in
//! the C code below it.

#![expect(unsafe_code, reason = "counts what the allocator is asked for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringway_dataplane::cipher::Segment;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::{
    Cipher, DataFormat, DataKeys, Digest, DirectionKey, RecvKey, SendKey,
};

thread_local! {
    /// Allocations of this thread while it counts; `None` while it does not.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    COUNT.with(|count| count.set(count.get().map(|n| n + 1)));
}

fn allocations_in(work: impl FnOnce()) -> u64 {
    COUNT.set(Some(0));
    work();
    COUNT.take().unwrap_or(0)
}

struct Counting;

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `malloc` and `calloc` of this program, C code included.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod c {
    use std::ffi::c_void;

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    }

    #[unsafe(no_mangle)]
    extern "C" fn malloc(size: usize) -> *mut c_void {
        super::count();
        // SAFETY: glibc's own malloc takes any size.
        unsafe { __libc_malloc(size) }
    }

    #[unsafe(no_mangle)]
    extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
        super::count();
        // SAFETY: glibc's own calloc takes any sizes.
        unsafe { __libc_calloc(count, size) }
    }
}

fn keys(cipher: Cipher, digest: Digest, format: DataFormat) -> DataKeys {
    let same = DirectionKey {
        cipher: std::array::from_fn(|i| i as u8),
        hmac: std::array::from_fn(|i| i as u8 ^ 0x5a),
    };
    DataKeys {
        cipher,
        digest,
        format,
        send: same.clone(),
        recv: same,
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_in(|| ()), 0);
    let seen = allocations_in(|| drop(std::hint::black_box(Box::new(1))));
    // Where C is counted too, Rust's allocator is seen to ask it.
    let c_counted = cfg!(all(target_os = "linux", target_env = "gnu"));
    assert_eq!(seen, if c_counted { 2 } else { 1 });
}

#[test]
fn no_packet_allocates() {
    let mut suites = Vec::new();
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            suites.push((cipher, Digest::None, DataFormat::Classic));
            suites.push((cipher, Digest::None, DataFormat::Epoch));
        } else {
            suites.extend(Digest::ALL.map(|digest| (cipher, digest, DataFormat::Classic)));
        }
    }
    for (cipher, digest, format) in suites {
        for framing in [Framing::None, Framing::Lzo, Framing::Stub, Framing::StubV2] {
            let keys = keys(cipher, digest, format);
            let mut send = SendKey::new(&keys, 0, Some(1), framing).unwrap();
            let mut recv = RecvKey::new(&keys, framing, 2048, 15).unwrap();
            let stride = send.sealed_len(1400);
            let segments: Vec<Segment> = (0..64)
                .map(|i| Segment {
                    start: i * stride,
                    len: 1400,
                })
                .collect();
            let datagrams: Vec<Segment> = segments
                .iter()
                .map(|segment| Segment {
                    start: segment.start,
                    len: stride,
                })
                .collect();
            let mut opened = Vec::with_capacity(datagrams.len());
            let mut buf = vec![0x45; stride * segments.len()];
            let mut batch = |now: u32, drops: bool| {
                buf.fill(0x45);
                assert_eq!(send.seal(&mut buf, &segments), segments.len());
                if now.is_multiple_of(2) {
                    recv.open_batch(now, &mut buf, &datagrams, &mut opened);
                    assert!(opened.iter().all(Result::is_ok));
                } else {
                    for datagram in buf.chunks_mut(stride) {
                        assert!(recv.open(now, datagram).is_ok());
                    }
                }
                if drops {
                    // Opened in place, they are no packets any more: what drops them is tried too.
                    for datagram in buf.chunks_mut(stride) {
                        let _ = recv.open(now, datagram);
                    }
                    recv.open_batch(now, &mut buf, &datagrams, &mut opened);
                }
            };
            // The random generator of a thread is set up by its first use.
            batch(0, false);
            let allocations = allocations_in(|| {
                for now in 1..40 {
                    batch(now, now % 3 == 0);
                }
            });
            assert_eq!(
                allocations, 0,
                "{cipher:?} {digest:?} {format:?} {framing:?}"
            );
        }
    }
}
