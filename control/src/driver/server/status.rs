//! The status file and the statistics of a server (protocol §13).

use std::time::{Duration, Instant};

use super::Server;
use super::client::Stage;
use crate::config::options::Options;
use crate::driver::report;
use crate::host::output_file::OutputFile;
use crate::log;
use crate::proto::Now;
use crate::proto::tunnel::Counters;
use crate::server::status::{ClientRow, RouteRow, Status, Version};

/// The status file, if there is one.
pub(super) struct State {
    file: Option<OutputFile>,
    written: Option<Instant>,
    /// Control packets of clients that are gone.
    pub(super) control: Counters,
}

impl State {
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let open = |status: &crate::config::options::StatusFile| {
            OutputFile::open(&status.path, false)
                .map_err(|error| format!("status '{}': {error}", status.path.display()))
        };
        Ok(State {
            file: options.status.as_ref().map(open).transpose()?,
            written: None,
            control: Counters::default(),
        })
    }
}

impl Server<'_> {
    /// Writes the files whose time has come.
    pub(super) fn write_files(&mut self, now: Now) {
        self.state.save_pool_if_due(now.instant);
        let Some(status) = &self.options.status else {
            return;
        };
        let interval = Duration::from_secs(status.seconds.max(1));
        let due = self
            .status
            .written
            .is_none_or(|last| now.instant >= last + interval);
        if !due || self.status.file.is_none() {
            return;
        }
        self.status.written = Some(now.instant);
        let version = Version::from_number(self.options.status_version).unwrap_or(Version::V1);
        let text = self.snapshot(now).to_text(version);
        if let Some(file) = &mut self.status.file
            && let Err(error) = file.write(&text)
        {
            log::warn!("status file {}: {error}", file.path().display());
        }
    }

    /// What there is to tell now.
    fn snapshot(&self, now: Now) -> Status {
        let clients = self.clients.iter().map(|client| {
            let (bytes_received, bytes_sent) = client.bytes();
            ClientRow {
                common_name: (client.stage != Stage::Handshake).then(|| client.common_name.clone()),
                real_address: client.endpoint.remote,
                virtual_v4: client.addresses.v4.map(|v4| v4.local),
                virtual_v6: client.addresses.v6.map(|v6| v6.local),
                bytes_received,
                bytes_sent,
                since: client.since_unix,
                username: client.username.clone(),
                client_id: u64::from(client.handle.0 - 1),
                peer_id: client.peer_id,
                cipher: client.negotiated.as_ref().map(|n| n.cipher.name()),
            }
        });
        let routes = self.state.routes.iter().filter_map(|(address, entry)| {
            let owner = self.clients.find(entry.owner)?;
            Some(RouteRow {
                address,
                common_name: Some(owner.common_name.clone()),
                real_address: owner.endpoint.remote,
                last_ref: entry.last_ref.max(owner.last_active_unix),
            })
        });
        Status {
            title: crate::cli::first_line(),
            now: now.unix,
            clients: clients.collect(),
            routes: routes.collect(),
            max_queue: 0,
        }
    }

    /// SIGUSR2: the status, then every counter.
    pub(super) fn log_statistics(&mut self) {
        let text = self.snapshot(super::now()).to_text(Version::V1);
        for line in text.lines() {
            log::notice!("{line}");
        }
        report::log_workers(&self.worker_stats);
        let mut control = self.status.control;
        for client in self.clients.iter() {
            control.add(&client.tunnel.counters());
        }
        for (name, value) in control.rows() {
            log::notice!("{name},{value}");
        }
        for (name, value) in self.acceptor.counters().rows() {
            log::notice!("{name},{value}");
        }
        for (number, listener) in self.listeners.udp.iter().enumerate() {
            let dropped = listener.control.kernel_drops().unwrap_or(0);
            log::notice!("control socket {number} overflow,{dropped}");
            log::notice!("control socket {number} too long,{}", listener.too_long);
        }
        log::notice!("END");
    }
}
