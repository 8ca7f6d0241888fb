//! The configuration: OpenVPN's file format and command line, turned into checked [`Options`].
//!
//! ```text
//!   text -> lexer -> parser -> draft -> finish -> Options
//!                      |
//!                  directives (the table of every option: what happens with it)
//! ```
//! Nothing is silently ignored: an option is honoured, changes nothing here and says so in a
//! warning, or is refused with a reason.

pub mod algorithms;
pub mod options;
pub mod position;

pub use options::Options;
pub use position::{FileOrInline, Position, Source};
