//! What a full socket did not take: whole frames, and the rest of one that has begun to leave.
//!
//! ```text
//!   | rest of a frame | control | data | data | ...      bytes, in the order they leave
//!                                 at most `limit` of these; more are refused
//! ```
//!
//! A frame that has begun is always kept, for without its rest the stream would be lost.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Control packets that may wait besides the data. Their senders repeat what is lost.
const MAX_CONTROL: usize = 64;

/// Bytes of memory that an empty queue may keep.
const KEPT: usize = 8 * 1024;

/// What kind of packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Counted against the limit of the queue.
    Data,
    /// Not counted against it.
    Control,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct SendQueue {
    bytes: VecDeque<u8>,
    frames: VecDeque<Frame>,
    data: usize,
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Bytes that have not left.
    left: usize,
    kind: Kind,
}

impl SendQueue {
    /// A queue for `limit` data packets (`tcp-queue-limit`).
    pub fn new(limit: usize) -> Self {
        SendQueue {
            bytes: VecDeque::new(),
            frames: VecDeque::new(),
            data: 0,
            limit,
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many packets wait, one that has begun to leave included.
    pub fn packets(&self) -> usize {
        self.frames.len()
    }

    /// Whether a frame of this kind would be taken.
    pub fn has_room(&self, kind: Kind) -> bool {
        match kind {
            // Even without a limit worth the name a socket with room takes packets.
            Kind::Data => self.is_empty() || self.data < self.limit,
            Kind::Control => self.frames.len() - self.data < MAX_CONTROL,
        }
    }

    /// Takes a whole frame, unless as many as may of its kind are waiting already. Returns whether
    /// it was taken.
    pub fn push(&mut self, frame: &[u8], kind: Kind) -> bool {
        let room = self.has_room(kind);
        if room {
            self.push_rest(frame, kind);
        }
        room
    }

    /// Takes the rest of a frame that has begun to leave, whatever waits.
    pub fn push_rest(&mut self, rest: &[u8], kind: Kind) {
        if rest.is_empty() {
            return;
        }
        self.bytes.extend(rest);
        self.data += usize::from(kind == Kind::Data);
        self.frames.push_back(Frame {
            left: rest.len(),
            kind,
        });
    }

    /// The bytes that wait, in order.
    pub fn slices(&self) -> [IoSlice<'_>; 2] {
        let (first, second) = self.bytes.as_slices();
        [IoSlice::new(first), IoSlice::new(second)]
    }

    /// The first `sent` bytes have left.
    pub fn advance(&mut self, sent: usize) {
        let mut sent = sent.min(self.bytes.len());
        self.bytes.drain(..sent);
        while sent > 0
            && let Some(frame) = self.frames.front_mut()
        {
            let part = sent.min(frame.left);
            sent -= part;
            frame.left -= part;
            if frame.left == 0 {
                self.data -= usize::from(frame.kind == Kind::Data);
                self.frames.pop_front();
            }
        }
    }

    /// Gives back memory that a past rush has left.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = VecDeque::new();
            self.frames = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{PREFIX, frames, write_prefix};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame(number: usize, len: usize) -> Vec<u8> {
        let mut frame = vec![number as u8; PREFIX + len];
        write_prefix(&mut frame, len);
        frame
    }

    fn bytes(queue: &SendQueue) -> Vec<u8> {
        queue
            .slices()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn only_whole_frames_leave_in_order_and_the_limit_holds(
            limit in 0..8usize,
            steps in vec((0..4u8, 1..50usize), 0..300),
        ) {
            let mut queue = SendQueue::new(limit);
            let (mut taken, mut left) = (Vec::new(), Vec::new());
            for (number, (step, len)) in steps.into_iter().enumerate() {
                let frame = frame(number, len);
                match step {
                    0 => {
                        let some = len.min(bytes(&queue).len());
                        left.extend_from_slice(&bytes(&queue)[..some]);
                        queue.advance(some);
                    }
                    1 => {
                        if queue.push(&frame, Kind::Control) {
                            taken.extend(frame);
                        }
                    }
                    2 if queue.is_empty() => {
                        // The socket took a part of it.
                        let part = len.min(frame.len() - 1);
                        left.extend_from_slice(&frame[..part]);
                        queue.push_rest(&frame[part..], Kind::Data);
                        taken.extend(frame);
                    }
                    _ => {
                        if queue.push(&frame, Kind::Data) {
                            taken.extend(frame);
                        }
                    }
                }
                queue.shrink();
                prop_assert!(queue.data <= limit.max(1));
                prop_assert!(queue.packets() <= limit.max(1) + MAX_CONTROL);
                let waiting: usize = queue.frames.iter().map(|frame| frame.left).sum();
                prop_assert_eq!(waiting, bytes(&queue).len());
                prop_assert_eq!(queue.is_empty(), waiting == 0);
            }
            left.extend(bytes(&queue));
            prop_assert_eq!(&left, &taken);
            let parsed: usize = frames(&left).map(<[u8]>::len).sum();
            prop_assert_eq!(parsed, left.len());
        }
    }

    #[test]
    fn a_past_rush_leaves_no_memory() {
        let mut queue = SendQueue::new(64);
        while queue.push(&frame(1, 1400), Kind::Data) {}
        assert_eq!(queue.packets(), 64);
        queue.shrink();
        assert_eq!(queue.packets(), 64);
        queue.advance(usize::MAX);
        assert!(queue.is_empty());
        queue.shrink();
        assert!(queue.bytes.capacity() <= KEPT);
    }
}
