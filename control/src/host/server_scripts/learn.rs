//! `learn-address`: a script may refuse addresses and routes of clients.
//!
//! Calls about one address form a lane, so that a firewall hears of them in order.

use std::fmt;

use super::{ClientCall, HookFailure, Prepared, plain_verdict};
use crate::host::jobs::{JobKind, JobSpec};
use crate::host::script::{Hook, ScriptCommand, ScriptError};

/// What happens to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnOperation {
    /// It is new.
    Add,
    /// It moves to another client.
    Update,
}

/// A call of `learn-address` that may refuse an address.
#[derive(Debug)]
pub struct LearnAddress {
    client: String,
    address: String,
}

impl LearnAddress {
    /// Asks a script about an address (`10.8.0.6`), a network (`10.9.0.0/24`) or a MAC address.
    /// Without a common name the script sees `UNDEF`.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
        operation: LearnOperation,
        address: impl fmt::Display,
        common_name: Option<&str>,
    ) -> Prepared<Self> {
        let address = address.to_string();
        let word = match operation {
            LearnOperation::Add => "add",
            LearnOperation::Update => "update",
        };
        let mut job = call.job(Hook::LearnAddress, command);
        job.arguments = vec![
            word.to_owned(),
            address.clone(),
            common_name.unwrap_or("UNDEF").to_owned(),
        ];
        job.lane = Some(lane(&address));
        let hook = LearnAddress {
            client: call.client.to_owned(),
            address,
        };
        Prepared { job, hook }
    }

    /// Whether the address may be used.
    ///
    /// # Errors
    ///
    /// It may not; the client stays connected.
    pub fn finish(self, result: Result<(), ScriptError>) -> Result<(), HookFailure> {
        plain_verdict(&self.client, Hook::LearnAddress, result).map_err(|failure| HookFailure {
            what: format!("{} not learned: {}", self.address, failure.what),
            ..failure
        })
    }
}

/// Tells a script that an address is forgotten. Nobody asks for the result. As in OpenVPN the
/// variables are those of the server, not of a client.
pub fn learn_address_delete(
    call: &ClientCall<'_>,
    command: &ScriptCommand,
    address: impl fmt::Display,
) -> JobSpec {
    let address = address.to_string();
    let mut job = call.job(Hook::LearnAddress, command);
    job.lane = Some(lane(&address));
    job.arguments = vec!["delete".to_owned(), address];
    job.kind = JobKind::Notice;
    job
}

fn lane(address: &str) -> String {
    format!("learn-address {address}")
}
