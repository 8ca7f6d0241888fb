//! The configuration: OpenVPN's file format and command line, turned into checked [`Options`].
//!
//! ```text
//!   file, command line -> lexer -> parser -> set -> draft -> finish -> Options
//!                                     |                                   ^
//!                     directives (the table of every option)              |
//!                                     |                                   |
//!   PUSH_REPLY ------------------> pushed -> PulledOptions ---------------'
//!   a client's file, client-connect -> client_config -> ClientConfig
//! ```
//! Nothing is silently ignored: an option is honoured, changes nothing here and says so in a
//! warning, or is refused with a reason.

pub mod client_config;
pub mod diagnostic;
pub mod directives;
pub mod dns;
mod draft;
mod finish;
pub mod lexer;
pub mod options;
mod parser;
pub mod position;
pub mod proxy;
pub mod pushed;
mod routes;
pub mod server;
mod set;
mod values;

pub use diagnostic::{ConfigError, Diagnostic, Severity};
pub(crate) use finish::script_list;
pub use options::Options;
pub use parser::{COMMAND_LINE, Loaded, load, load_all, parse_text};
pub use position::{FileOrInline, Position, Secret, Source};

#[cfg(test)]
mod tests;
