//! Everything that touches the host outside of packets: links and addresses, routes, scripts,
//! privileges, signals, daemon chores and passwords.
//!
//! Each module takes plain data and does one thing when told; none knows the configuration or the
//! protocol. The driver decides the order:
//!
//! ```text
//!  start   link (mtu, up, addresses) -> script up -> routes -> script route-up -> privileges
//!  end     script route-pre-down -> routes undone -> link down -> script down
//! ```
//!
//! Those scripts are waited for ([`script`]). A server's scripts, which run for one client each, are
//! not: [`jobs`] runs them, [`server_scripts`] knows what each of them is given and answers.

pub mod daemon;
pub mod env;
pub mod jobs;
pub mod link;
pub mod netlink;
pub mod output_file;
pub mod password;
pub mod port_share;
pub mod privileges;
pub mod redirect;
pub mod routes;
pub mod script;
pub mod server_scripts;
pub mod signals;
pub mod socks_relay;
#[cfg(test)]
pub(crate) mod testing;
