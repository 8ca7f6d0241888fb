//! What a server with many clients decides, apart from sockets, scripts and threads.
//!
//! Everything here is plain data and plain functions: time, randomness and scripts' answers come
//! in, addresses, push lists, route changes and texts go out. Only [`pool_file`] touches a file, the
//! one it was told of; status texts are written by an
//! [`OutputFile`](crate::host::output_file::OutputFile).
//!
//! ```text
//!  who may come      limits      peer-ids, max-clients, duplicate common names
//!  who it is         token       auth-gen-token in place of a password
//!  what it gets      pool        addresses      <-> pool_file   who had which
//!                    addresses   pool or ifconfig-push, by topology
//!                    push        lines of the PUSH_REPLY
//!                    update      what has changed in them, for a PUSH_UPDATE
//!  what belongs to it  routes    addresses and networks -> client, changes for the data plane
//!  what others learn env         what a client says of itself, for scripts
//!                    status      status file
//! ```
//! A client is known by its [`PeerHandle`](ringway_dataplane::command::PeerHandle), which must not
//! be used again before everything here was told that it is gone.

pub mod addresses;
pub mod env;
pub mod limits;
pub mod pool;
pub mod pool_file;
pub mod push;
pub mod routes;
pub mod status;
pub mod token;
pub mod update;
