//! `client-disconnect`: a client is gone.

use super::ClientCall;
use super::variables::SessionTotals;
use crate::host::jobs::{JobKind, JobSpec};
use crate::host::script::{Hook, ScriptCommand};

/// Tells a script what a session amounted to. Nobody asks for the result; a failure is one log line
/// of [`Jobs`](crate::host::jobs::Jobs). The lane should be that of the client's `client-connect`,
/// and the deadline one of the server, since the client's time is over.
pub fn client_disconnect(
    call: &ClientCall<'_>,
    command: &ScriptCommand,
    totals: SessionTotals,
) -> JobSpec {
    let mut job = call.job(Hook::ClientDisconnect, command);
    job.env.set_session_totals(totals);
    job.kind = JobKind::Notice;
    job
}
