//! `ringway doctor`: what this host costs the tunnel, and how to change that.
//!
//! ```text
//!   probe -> Facts -> rules (pure) -> Findings + Plan -> report (text, JSON)
//!                                        |
//!                                        +- Changes -> apply -> Outcomes, undo script
//! ```
//! Looking changes nothing and never fails: what a container or an old kernel does not show is said
//! to be not visible.

pub mod apply;
pub mod facts;
pub mod finding;
pub mod plan;
mod probe;
pub mod report;
mod rules;
#[cfg(test)]
mod testing;

pub use facts::{Facts, Mss, Offer, Offers, TunFeatures, UdpFeatures, Use, Wishes};
pub use finding::{Area, Change, Finding, Severity, Target};
pub use plan::Plan;
pub use probe::look;
pub use report::Report;
pub use rules::judge;
