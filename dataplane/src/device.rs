//! The TUN side of both engines: bursts of plain reads, and one vectored write for each packet.
//!
//! ```text
//!  the engine's wait says "readable" -> read until the device is empty or the batch is full
//!  slab  | read | read | ...          each at the next cache line behind the one before
//! ```
//!
//! The descriptor never blocks, so a device that takes nothing more costs packets and not the worker.

use std::io;
use std::io::{IoSlice, Read, Write};

use arrayvec::ArrayVec;

use crate::cipher::Segment;
use crate::forward::vlan;
use crate::offload::coalesce::{self, TunWrite};
use crate::pool::{BATCH_BYTES, Failures, Inbox, MAX_MESSAGES, SLOT_LEN, TunMessage};
use crate::tun::TunQueue;

/// Most slices of one write, the virtio header included.
const MAX_SLICES: usize = coalesce::MAX_SLICES + 1;

/// See the module's documentation.
pub(crate) struct Device {
    queue: Option<TunQueue>,
    slab: Vec<u8>,
    /// Something may be left to read, so there is no need to ask.
    ready: bool,
    /// It is not to be read now.
    held: bool,
}

impl Device {
    pub(crate) fn new() -> Self {
        Device {
            queue: None,
            slab: vec![0; BATCH_BYTES + SLOT_LEN],
            ready: false,
            held: false,
        }
    }

    pub(crate) fn queue(&self) -> Option<&TunQueue> {
        self.queue.as_ref()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.slab
    }

    /// Whether [`Device::read`] would try.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready && !self.held
    }

    /// Whether the kernel is to say when there is something.
    pub(crate) fn wants_poll(&self) -> bool {
        !self.ready && !self.held
    }

    /// Leaves what arrives in the device, or reads it again.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The kernel says that there is something to read.
    pub(crate) fn set_ready(&mut self) {
        self.ready = self.queue.is_some();
    }

    pub(crate) fn attach(&mut self, queue: TunQueue) -> io::Result<()> {
        queue.set_nonblocking(true)?;
        self.queue = Some(queue);
        Ok(())
    }

    pub(crate) fn detach(&mut self) -> Option<TunQueue> {
        self.ready = false;
        self.queue.take()
    }

    /// Reads a batch into the slab, if there may be something. A device that is gone is reported in
    /// `inbox`; detaching it is left to the engine.
    pub(crate) fn read(&mut self, inbox: &mut Inbox) {
        let (true, Some(queue)) = (self.is_ready(), &self.queue) else {
            return;
        };
        let mut cursor = 0;
        for _ in 0..MAX_MESSAGES {
            if cursor >= BATCH_BYTES {
                return;
            }
            match queue.file().read(&mut self.slab[cursor..cursor + SLOT_LEN]) {
                Ok(len) if len > 0 => {
                    inbox.tun.push(TunMessage {
                        start: cursor,
                        len,
                        vnet: queue.has_vnet_header(),
                        from: None,
                        vlan: vlan::NONE,
                    });
                    cursor += len.next_multiple_of(64);
                }
                Ok(_) => {
                    // The far end of a handed-over descriptor is closed.
                    inbox.tun_lost = Some(libc::EPIPE);
                    return;
                }
                Err(error) => {
                    self.ready = false;
                    let errno = error.raw_os_error();
                    if matches!(errno, Some(libc::EBADFD | libc::ENODEV)) {
                        inbox.tun_lost = errno;
                    }
                    return;
                }
            }
        }
    }

    /// Writes packets, whose pieces are in `rx`, in order, and notes what failed. Returns how many
    /// writes were made.
    pub(crate) fn write<'a>(
        &self,
        rx: &[u8],
        writes: impl Iterator<Item = TunWrite<'a>>,
        failures: &mut Failures,
    ) -> usize {
        let Some(queue) = &self.queue else {
            return 0;
        };
        let mut count = 0;
        for write in writes {
            let mut slices: ArrayVec<IoSlice<'_>, MAX_SLICES> = ArrayVec::new();
            if queue.has_vnet_header() {
                slices.push(IoSlice::new(write.vnet));
            }
            for &Segment { start, len } in write.slices.iter().take(slices.remaining_capacity()) {
                slices.push(IoSlice::new(&rx[start..start + len]));
            }
            if let Err(error) = queue.file().write_vectored(&slices) {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                failures.writes.push((count, errno));
            }
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::worker::testing::FakeTun;

    #[test]
    fn reads_batches_until_the_device_is_empty() {
        let (queue, tun) = FakeTun::new(false);
        let mut device = Device::new();
        device.attach(queue).unwrap();
        for i in 0..=MAX_MESSAGES {
            tun.inject(&[i as u8; 100]);
        }
        let mut inbox = Inbox::new();
        device.read(&mut inbox);
        assert!(inbox.tun.is_empty(), "nobody said that there is something");
        device.set_ready();
        device.read(&mut inbox);
        assert_eq!(inbox.tun.len(), MAX_MESSAGES);
        for (i, message) in inbox.tun.iter().enumerate() {
            let bytes = &device.bytes_mut()[message.start..][..message.len];
            assert_eq!(bytes, [i as u8; 100]);
        }
        inbox.clear();
        assert!(device.is_ready());
        device.read(&mut inbox);
        assert_eq!(inbox.tun.len(), 1);
        assert!(!device.is_ready());
    }

    #[test]
    fn large_packets_end_a_batch_by_their_bytes() {
        let (queue, tun) = FakeTun::new(false);
        let mut device = Device::new();
        device.attach(queue).unwrap();
        device.set_ready();
        let mut inbox = Inbox::new();
        let count = BATCH_BYTES / 65_536 + 1;
        for _ in 0..count {
            tun.inject(&[1; 65_536]);
        }
        device.read(&mut inbox);
        assert_eq!(inbox.tun.len(), count - 1);
    }

    #[test]
    fn a_closed_far_end_is_reported() {
        let (queue, tun) = FakeTun::new(false);
        let mut device = Device::new();
        device.attach(queue).unwrap();
        drop(tun);
        device.set_ready();
        let mut inbox = Inbox::new();
        device.read(&mut inbox);
        assert_eq!(inbox.tun_lost, Some(libc::EPIPE));
        assert!(device.detach().is_some());
        assert!(!device.is_ready());
    }

    #[test]
    fn a_full_device_costs_packets_and_no_waiting() {
        let (queue, tun) = FakeTun::new(false);
        let mut device = Device::new();
        device.attach(queue).unwrap();
        let rx = vec![1; 32_000];
        let slices = [Segment {
            start: 0,
            len: rx.len(),
        }];
        let writes = (0..400).map(|_| TunWrite {
            vnet: &[0; 10],
            slices: &slices,
        });
        let mut failures = Failures::new();
        assert_eq!(device.write(&rx, writes, &mut failures), 400);
        let mut taken = 0;
        while tun.next(Duration::ZERO).is_some() {
            taken += 1;
        }
        assert!(taken > 0 && !failures.writes.is_empty());
        assert_eq!(taken + failures.writes.len(), 400);
        assert!(
            failures
                .writes
                .iter()
                .all(|&(_, errno)| errno == libc::EAGAIN)
        );
    }
}
