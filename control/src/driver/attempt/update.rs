//! What a server changes while the tunnel is up (`PUSH_UPDATE`, protocol §8.3).
//!
//! The device stays open and keeps its addresses and routes as far as they are the same; scripts
//! see what they see of a device that is closed and opened anew.

use std::time::Instant;

use super::{Attempt, Cause, Ending, setup};
use crate::config::options::{Connection, Options};
use crate::config::pushed::{PulledOptions, update};
use crate::log;

impl Attempt<'_> {
    pub(super) fn take_push_update(&mut self, lines: &[String]) {
        log::notice!(in Negotiation, "PUSH: Received control message: 'PUSH_UPDATE,{}'",
            setup::without_secrets(lines)
        );
        let Some(mut pulled) = self.pulled.clone() else {
            return;
        };
        match update(lines, &self.options.pull_filter, &mut pulled) {
            Ok(skipped) => {
                for reason in skipped {
                    log::notice!(in Negotiation, "WARNING: {reason}");
                }
            }
            Err(reason) => {
                log::notice!(in Negotiation, "{reason}, restarting");
                self.end(Ending::RESTART, Cause::Reason("process-push-msg-failed"));
                return;
            }
        }
        let mut options = Options::clone(&self.program.options);
        let mut connection = self.configured.clone();
        pulled.apply_to(&mut options, &mut connection);
        self.change_options(options, connection, pulled);
    }

    fn change_options(&mut self, options: Options, connection: Connection, pulled: PulledOptions) {
        let timers = setup::keepalive(&options, Some(&pulled));
        if timers != setup::keepalive(&self.options, self.pulled.as_ref()) {
            self.keepalive.reconfigure(timers, Instant::now());
        }
        let before = std::mem::replace(&mut self.options, options);
        self.target.connection = connection;
        // No PUSH_REPLY describes the device as it will be.
        self.program.pulled_digest = None;
        if let Some(interface) = &mut self.program.interface {
            interface.begin_update(&before, &self.options, &mut self.program.env);
        }
        self.program.note_pushed(&pulled, &self.options);
        self.pulled = Some(pulled);
        let remote = self.peer.map(|peer| peer.remote.ip());
        if let Some(interface) = &mut self.program.interface {
            let connection = &self.target.connection;
            let env = &mut self.program.env;
            if let Err(text) = interface.finish_update(&self.options, connection, remote, env) {
                log::error!("{text}");
                self.end(Ending::RESTART, Cause::Reason("process-push-msg-failed"));
                return;
            }
            self.program.interface_options = Some(self.options.clone());
        }
        // Segment sizes and what is let through.
        self.configure_peer();
        // `route-delay` is for new devices; one that still waits is not hurried.
        if self.up && self.routes_at.is_none() {
            self.install_routes();
        }
    }
}
