//! Files of `client-config-dir` that change while their clients are connected
//! (`ringway-push-update`).
//!
//! ```text
//!   every second, a part of the clients: how is the file?
//!     as it was         -> nothing is read
//!     otherwise         -> once more a second later: half a file is never taken for a whole one
//!     otherwise, still  -> read -> disable: the client is sent away
//!                               -> what it is pushed now, and with the new file -> PUSH_UPDATE
//! ```
//! A client keeps what it has for as long as its file has a fault.

use super::Server;
use super::client::{Client, Stage};
use super::client_files::Stamp;
use crate::config::server::ClientConfig;
use crate::driver::attempt::now;
use crate::driver::setup;
use crate::log;
use crate::proto::peer_info::iv_proto;
use crate::proto::push::push_updates;
use crate::proto::tunnel::Command;
use crate::server::update::{changed_settings, difference};

/// Whose turn it is.
#[derive(Default)]
pub(super) struct Looks {
    second: u32,
}

/// Where a client's options came from.
pub(super) struct Source {
    /// The name its file has: what it is called may change later.
    name: String,
    /// The file as it was read.
    read: Option<Stamp>,
    /// The file at the last look.
    seen: Option<Stamp>,
    /// What `client-connect` said.
    connect: ClientConfig,
}

impl Source {
    /// `client-connect` has said something.
    pub(super) fn note_connect(&mut self, config: &ClientConfig) {
        self.connect = config.clone();
    }

    fn is_changing(&self) -> bool {
        self.seen != self.read
    }

    /// Takes note of how the file is; whether it has changed, and stayed so since the last look.
    fn look(&mut self, stamp: Option<Stamp>) -> bool {
        let settled = stamp == self.seen && self.is_changing();
        self.seen = stamp;
        if settled {
            self.read = stamp;
        }
        settled
    }
}

impl Server<'_> {
    /// Where a client of this name has its options from, if that is to be looked at again.
    pub(super) fn source(&self, name: &str) -> Option<Box<Source>> {
        self.settings.push_update?;
        let stamp = self.state.files.stamp(name);
        Some(Box::new(Source {
            name: name.to_owned(),
            read: stamp,
            seen: stamp,
            connect: ClientConfig::default(),
        }))
    }

    /// Once a second: looks at the files of those clients whose turn it is.
    pub(super) fn look_at_files(&mut self) {
        let Some(seconds) = self.settings.push_update else {
            return;
        };
        self.looks.second = (self.looks.second + 1) % seconds;
        for handle in self.clients.handles() {
            let turn = handle.0 % seconds == self.looks.second;
            let changed = self.clients.get(handle).is_some_and(|client| {
                let up = client.stage == Stage::Up;
                let source = client.source.as_mut().filter(|_| up);
                source.is_some_and(|source| {
                    (turn || source.is_changing())
                        && source.look(self.state.files.stamp(&source.name))
                })
            });
            if changed {
                self.with_client(handle, |server, client| server.read_again(client));
            }
        }
    }

    /// The file of a client is not what it was.
    fn read_again(&mut self, client: &mut Client) {
        let Some(source) = &client.source else {
            return;
        };
        let mut config = match self.state.files.of(&source.name) {
            Ok(config) => config,
            Err(text) => {
                let label = client.label();
                log::warn!("{label} client-config-dir: {text}; the client keeps what it has");
                return;
            }
        };
        config.apply(source.connect.clone());
        if config.disable {
            log::notice!("{} client is sent away: 'disable'", client.label());
            self.refuse(client);
            return;
        }
        self.update(client, config);
    }

    /// Tells a client what is new for it.
    fn update(&self, client: &mut Client, config: ClientConfig) {
        let settings = changed_settings(&client.config, &config);
        // Its networks and all else of this connection stay.
        let config = ClientConfig {
            push: config.push,
            push_reset: config.push_reset,
            push_remove: config.push_remove,
            ..client.config.clone()
        };
        let old = self.push_list(client, &client.config);
        let new = self.push_list(client, &config);
        let takes_updates = client.peer_info.iv_proto & iv_proto::PUSH_UPDATE != 0;
        let update = difference(&old, &new, takes_updates);
        let label = client.label();
        if let Err(error) = push_updates(&update.lines) {
            log::warn!("{label} PUSH_UPDATE: {error}; the client keeps what it has");
            return;
        }
        client.config = config;
        let later: Vec<&str> = update.later.iter().map(String::as_str).collect();
        let later = [settings, later].concat();
        if !later.is_empty() {
            let reason = match takes_updates {
                true => "",
                false => " (it takes no PUSH_UPDATE)",
            };
            let names = later.join(", ");
            log::notice!(
                "{label} client-config-dir: from the client's next connection on{reason}: {names}"
            );
        }
        if !update.lines.is_empty() {
            let shown = setup::without_secrets(&update.lines);
            log::notice!("{label} SENT CONTROL: 'PUSH_UPDATE,{shown}'");
            let command = Command::PushUpdate(update.lines);
            client.tunnel.handle_command(now(), command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_when_it_rests() {
        let directory = std::env::temp_dir().join(format!("ringway-looks-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let stamp = |text: &str| {
            let path = directory.join("a");
            std::fs::write(&path, text).unwrap();
            Some(Stamp::of(&std::fs::metadata(path).unwrap()))
        };
        let (first, half, whole) = (stamp("1"), stamp("12"), stamp("123"));
        let mut source = Source {
            name: String::new(),
            read: first,
            seen: first,
            connect: ClientConfig::default(),
        };
        assert!(!source.look(first) && !source.is_changing());
        // Being written, in one go or by way of nothing.
        for (stamp, settled) in [
            (None, false),
            (half, false),
            (whole, false),
            (whole, true),
            (whole, false),
        ] {
            assert_eq!(source.look(stamp), settled, "{stamp:?}");
        }
        assert!(!source.is_changing());
        // Gone for a moment only, and gone.
        assert!(!source.look(None) && source.is_changing());
        assert!(!source.look(whole) && !source.is_changing());
        assert!(!source.look(None) && source.look(None) && !source.look(None));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
