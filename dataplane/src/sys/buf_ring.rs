//! A ring of provided buffers: memory shared with the kernel, out of which a multishot request
//! takes a buffer for each completion.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The ring of entries and the slots they describe. Slot `i` is `slot_len` bytes at
/// `i * slot_len` of `slab`, and its buffer id is `i`. The kernel is never given what is behind them.
pub(crate) struct BufRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
    slot_len: usize,
    slab: Vec<u8>,
}

impl BufRing {
    /// Makes the memory for `count` (a power of two) slots and hands all of them to the kernel's
    /// side; the ring must still be registered at [`BufRing::address`]. Behind the slots the slab has
    /// `spare` bytes that the kernel never sees.
    pub(crate) fn new(count: u16, slot_len: usize, spare: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        // SAFETY: a new anonymous mapping touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                usize::from(count) * size_of::<BufRingEntry>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(entries) = NonNull::new(address.cast()) else {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        };
        let mut ring = BufRing {
            entries,
            count,
            tail: 0,
            slot_len,
            slab: vec![0; usize::from(count) * slot_len + spare],
        };
        for slot in 0..count {
            ring.give_back(slot);
        }
        ring.publish();
        Ok(ring)
    }

    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn slot_len(&self) -> usize {
        self.slot_len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.slab
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.slab
    }

    /// Offers slot `slot` to the kernel again, once [`BufRing::publish`] is called. The slot must
    /// have been taken by a completion; a number out of range is ignored.
    pub(crate) fn give_back(&mut self, slot: u16) {
        if slot >= self.count {
            return;
        }
        let start = usize::from(slot) * self.slot_len;
        let Some(bytes) = self.slab.get_mut(start..start + self.slot_len) else {
            return;
        };
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the mapping holds `count` entries and `index` is below `count`.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the entry is inside the live mapping, zero or initialised by us; the kernel only
        // reads entries below the published tail, and this one is at the tail or above it. The
        // kernel's tail shares the entry's last two bytes, which the setters do not touch.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(bytes.as_mut_ptr() as u64);
        entry.set_len(self.slot_len as u32);
        entry.set_bid(slot);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes everything given back visible to the kernel.
    pub(crate) fn publish(&mut self) {
        // SAFETY: the address is that of the first entry of a live, initialised ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 inside the mapping, which outlives this reference; the
        // kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length and nothing refers to it any more:
        // the owner ends every request and closes the ring before its buffers.
        unsafe {
            libc::munmap(
                self.entries.as_ptr().cast(),
                usize::from(self.count) * size_of::<BufRingEntry>(),
            );
        }
    }
}
