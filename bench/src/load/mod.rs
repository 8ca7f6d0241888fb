//! A load generator for real links, and what the measurements of this crate build on it.
//!
//! ```text
//!   source (host A)                                         sink (host B)
//!   +------------------+   TCP port N: one line of JSON    +------------------+
//!   | source.rs        |<---- per message, both ways ----->| sink.rs, session |
//!   |                  |                                   |                  |
//!   | flows  tcp.rs    |<---- TCP port N: the streams ---->| flows            |
//!   |        udp.rs    |<---- UDP port N: the streams ---->|                  |
//!   | probe.rs         |<---- UDP port N+1: round trips -->| probe.rs         |
//!   +------------------+                                   +------------------+
//! ```
//!
//! One test is one control connection. What counts is always counted where it arrives: rate, loss,
//! order. Nothing here knows about VPNs except [`latency`] and [`rekey`], which run a source and a
//! sink in the two namespaces of a lab.
//!
//! * [`protocol`] the lines on the control connection; [`rate`] how people write rates,
//! * [`flow`] what both ends need for a stream: counters, pace, deadline; [`tcp`] and [`udp`] move it,
//! * [`sequence`] tells loss, duplicates and reordering apart; [`meter`] samples a running test,
//! * [`probe`] round trips; [`search`] the highest rate without loss,
//! * [`sink`] answers and [`source`] asks; one test is [`session`] here and [`drive`] there, with
//!   [`streams`] in common and an [`outcome`] at the end; [`display`] is what a person sees,
//! * [`lab`] both ends in namespaces.

pub mod display;
pub mod drive;
pub mod flow;
pub mod lab;
pub mod latency;
pub mod meter;
pub mod outcome;
pub mod probe;
pub mod protocol;
pub mod rate;
pub mod rekey;
pub mod search;
pub mod sequence;
pub mod session;
pub mod sink;
pub mod source;
pub mod streams;
pub mod tcp;
pub mod udp;
