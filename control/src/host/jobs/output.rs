//! What a script prints, as log lines, within bounds.
//!
//! ```text
//!  pipe -> 64 KiB per look -> lines of 1 KiB, the first 200 -> log
//!                                           the rest          -> counted
//! ```
//!
//! A script that prints more than is read is slowed by its full pipe and by nothing else. The pipe
//! stays open after the script's end, as long as what it left in the background may print.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Bytes of the longest line; what is longer becomes several.
const MAX_LINE: usize = 1024;
/// Lines of one script.
const MAX_LINES: u32 = 200;
/// Bytes read at a time, and number of times in one look: what a pipe holds.
const CHUNK: usize = 8192;
const CHUNKS: usize = 8;

/// The reading end of a script's output.
#[derive(Debug)]
pub struct ScriptOutput {
    pipe: PipeReader,
    label: String,
    line: Vec<u8>,
    lines: u32,
    left_out: u64,
}

/// What may come after a look at the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Nothing for now.
    Waiting,
    /// Much more: look again only after a pause.
    Flooding,
    /// Nothing, ever.
    Ended,
}

impl ScriptOutput {
    pub(super) fn new(pipe: PipeReader, label: String) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(ScriptOutput {
            pipe,
            label,
            line: Vec::new(),
            lines: 0,
            left_out: 0,
        })
    }

    /// Reads what is there, at most 64 KiB, and hands each line to `log`, with the label in front.
    pub fn pump(&mut self, log: &mut impl FnMut(&str)) -> Flow {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS {
            match self.pipe.read(&mut chunk) {
                Ok(0) => {
                    self.finish(log);
                    return Flow::Ended;
                }
                Ok(length) => self.take(&chunk[..length], log),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flow::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.finish(log);
                    return Flow::Ended;
                }
            }
        }
        Flow::Flooding
    }

    /// Logs an unfinished line and what was left out.
    pub fn finish(&mut self, log: &mut impl FnMut(&str)) {
        self.end_line(log);
        if self.left_out > 0 {
            log(&format!(
                "{}: {} more bytes of output are left out",
                self.label, self.left_out
            ));
            self.left_out = 0;
        }
    }

    fn take(&mut self, bytes: &[u8], log: &mut impl FnMut(&str)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.lines == MAX_LINES {
                self.left_out += rest.len() as u64;
                return;
            }
            let room = &rest[..rest.len().min(MAX_LINE - self.line.len())];
            if let Some(end) = room.iter().position(|byte| *byte == b'\n') {
                self.line.extend_from_slice(&room[..end]);
                rest = &rest[end + 1..];
                self.end_line(log);
            } else {
                self.line.extend_from_slice(room);
                rest = &rest[room.len()..];
                if self.line.len() == MAX_LINE {
                    self.end_line(log);
                }
            }
        }
    }

    fn end_line(&mut self, log: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            let text = String::from_utf8_lossy(&self.line);
            log(&format!("{}: {text}", self.label));
            self.line.clear();
            self.lines += 1;
        }
    }
}

impl AsFd for ScriptOutput {
    /// Readable when there is something to [`ScriptOutput::pump`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn pumped(output: &mut ScriptOutput) -> (Vec<String>, Flow) {
        let mut lines = Vec::new();
        let flow = output.pump(&mut |line: &str| lines.push(line.to_owned()));
        (lines, flow)
    }

    /// Up to the end. A process that is just being started by another test may hold the pipe for a
    /// moment.
    fn pumped_to_end(output: &mut ScriptOutput) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let (more, flow) = pumped(output);
            lines.extend(more);
            if flow == Flow::Ended {
                return lines;
            }
            std::thread::yield_now();
        }
    }

    fn output() -> (ScriptOutput, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (ScriptOutput::new(reader, "x: up".into()).unwrap(), writer)
    }

    #[test]
    fn lines_wait_for_their_end() {
        let (mut output, mut writer) = output();
        assert_eq!(pumped(&mut output), (vec![], Flow::Waiting));
        writer.write_all(b"one\n\ntw").unwrap();
        assert_eq!(
            pumped(&mut output),
            (vec!["x: up: one".into()], Flow::Waiting)
        );
        writer.write_all(b"o\nthr\xffee").unwrap();
        drop(writer);
        assert_eq!(
            pumped_to_end(&mut output),
            ["x: up: two", "x: up: thr\u{fffd}ee"]
        );
    }

    #[test]
    fn a_flood_is_cut() {
        let (mut output, mut writer) = output();
        let flood = std::thread::spawn(move || writer.write_all(&b"y\n".repeat(1 << 18)));
        let mut lines = Vec::new();
        let mut flooding = 0;
        loop {
            let (more, flow) = pumped(&mut output);
            lines.extend(more);
            match flow {
                Flow::Ended => break,
                Flow::Flooding => flooding += 1,
                Flow::Waiting => std::thread::yield_now(),
            }
        }
        flood.join().unwrap().unwrap();
        assert!(flooding <= 8, "64 KiB at a time");
        assert_eq!(lines.len(), 201);
        assert_eq!(
            lines[200],
            format!(
                "x: up: {} more bytes of output are left out",
                (1 << 19) - 400
            )
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added_within_bounds(
            parts in proptest::collection::vec(any::<Vec<u8>>(), 0..8),
            long in 0usize..5000,
        ) {
            let (mut output, mut writer) = output();
            let mut printed: Vec<u8> = parts.concat();
            printed.extend(std::iter::repeat_n(b'z', long));
            writer.write_all(&printed).unwrap();
            drop(writer);
            let lines = pumped_to_end(&mut output);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= MAX_LINE + 7));
            let shown: usize = lines.iter().map(|line| line.matches('z').count()).sum();
            prop_assert_eq!(shown, printed.iter().filter(|byte| **byte == b'z').count());
        }
    }
}
