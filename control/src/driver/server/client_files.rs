//! `client-config-dir`: a file for each client.

use std::fs::Metadata;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::client_config;
use crate::config::options::Options;
use crate::config::server::{ClientConfig, ServerOptions};
use crate::log;
use crate::server::pool::AddressPool;

/// What tells a file from another, and from itself before it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds. That of the inode too: a copy may keep the time of its original.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The directory, if there is one.
pub(super) struct ClientFiles {
    directory: Option<PathBuf>,
    exclusive: bool,
}

impl ClientFiles {
    /// # Errors
    /// One line: the directory is not there. Without it every client would come in with none of what
    /// is meant for it.
    pub(super) fn new(options: &Options, settings: &ServerOptions) -> Result<Self, String> {
        let directory = settings.client_config_dir.clone();
        if let Some(directory) = &directory {
            let path = before_chroot(directory, options.chroot.as_deref());
            std::fs::read_dir(&path)
                .map_err(|error| format!("client-config-dir '{}': {error}", path.display()))?;
        }
        Ok(ClientFiles {
            directory,
            exclusive: settings.ccd_exclusive,
        })
    }

    /// What the file of a client says, or that for all.
    ///
    /// # Errors
    /// One line: what is wrong with the file, or that there has to be one.
    pub(super) fn of(&self, name: &str) -> Result<ClientConfig, String> {
        let Some(directory) = &self.directory else {
            return Ok(ClientConfig::default());
        };
        match client_config::for_client(directory, name, self.exclusive) {
            Ok(Some((config, warnings))) => {
                for warning in warnings {
                    log::warn!("{warning}");
                }
                Ok(config)
            }
            Ok(None) if self.exclusive => Err(format!(
                "no file '{name}' in '{}' (--ccd-exclusive)",
                directory.display()
            )),
            Ok(None) => Ok(ClientConfig::default()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// How the file of a client is now, or that for all; `None` without one. Nothing is read.
    pub(super) fn stamp(&self, name: &str) -> Option<Stamp> {
        let directory = self.directory.as_deref()?;
        let (_, metadata) = client_config::find(directory, name, self.exclusive)?;
        Some(Stamp::of(&metadata))
    }

    /// Keeps the addresses that files give to their clients from everybody else, whether those
    /// clients are there or not. A file with a fault is told of, and costs its own client only.
    pub(super) fn reserve(&self, options: &Options, pool: &mut AddressPool) {
        let Some(directory) = &self.directory else {
            return;
        };
        let path = before_chroot(directory, options.chroot.as_deref());
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for file in entries.map(|entry| entry.path()).filter(|p| p.is_file()) {
            match client_config::load(&file) {
                Ok((config, _)) => reserve(&config, pool),
                Err(error) => log::warn!("client-config-dir: {error}"),
            }
        }
    }
}

fn reserve(config: &ClientConfig, pool: &mut AddressPool) {
    let v4 = config.ifconfig_push.map(|(local, _)| IpAddr::V4(local));
    let v6 = config.ifconfig_ipv6_push.map(|(local, ..)| local.into());
    for address in [v4, v6].into_iter().flatten() {
        pool.reserve(address);
    }
}

/// Where a directory is as long as the process has not gone into its `chroot`.
fn before_chroot(directory: &Path, chroot: Option<&Path>) -> PathBuf {
    let outside = chroot.map(|root| root.join(directory.strip_prefix("/").unwrap_or(directory)));
    match outside {
        Some(path) if path.is_dir() => path,
        // No chroot, or it is in there already, after a restart.
        _ => directory.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pool::PoolLayout;

    fn directory(name: &str) -> PathBuf {
        let name = format!("ringway-client-files-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn files(directory: &Path) -> Result<ClientFiles, String> {
        let settings = ServerOptions {
            client_config_dir: Some(directory.to_owned()),
            ..ServerOptions::default()
        };
        ClientFiles::new(&Options::default(), &settings)
    }

    #[test]
    fn addresses_of_files_are_nobody_elses() {
        let path = directory("reserve");
        let push = |local: &str| format!("ifconfig-push {local} 255.255.255.0\n");
        std::fs::write(path.join("a"), push("10.8.0.2")).unwrap();
        std::fs::write(path.join("bad"), "ifconfig-push x\n").unwrap();
        std::fs::write(path.join("c"), push("10.8.0.3")).unwrap();
        let layout = PoolLayout {
            v4: Some(("10.8.0.2".parse().unwrap(), "10.8.0.4".parse().unwrap())),
            blocks: false,
            v6: None,
            duplicate_cn: false,
        };
        let mut pool = AddressPool::new(&layout).unwrap().unwrap();
        files(&path)
            .unwrap()
            .reserve(&Options::default(), &mut pool);
        let lease = pool.acquire(Some("x")).unwrap();
        assert_eq!(lease.v4, Some("10.8.0.4".parse().unwrap()));
        assert_eq!(pool.acquire(Some("y")), None);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_file_that_changes_comes_or_goes_has_another_stamp() {
        let path = directory("stamp");
        let files = files(&path).unwrap();
        let (own, default) = (path.join("a"), path.join(client_config::DEFAULT));
        let mut stamps = vec![files.stamp("a")];
        let mut look = || {
            let stamp = files.stamp("a");
            assert_eq!(stamp, files.stamp("a"), "unchanged");
            assert!(!stamps.contains(&stamp), "{stamp:?} {stamps:?}");
            stamps.push(stamp);
        };
        std::fs::write(&default, "push \"ping 1\"\n").unwrap();
        look();
        std::fs::write(&own, "push \"ping 1\"\n").unwrap();
        look();
        // As long and as old as before.
        let times = std::fs::FileTimes::new()
            .set_modified(std::fs::metadata(&own).unwrap().modified().unwrap());
        std::fs::write(path.join("new"), "push \"ping 2\"\n").unwrap();
        let new = std::fs::File::options().append(true).open(path.join("new"));
        new.unwrap().set_times(times).unwrap();
        std::fs::rename(path.join("new"), &own).unwrap();
        look();
        std::fs::write(&own, "push \"ping 10\"\n").unwrap();
        look();
        std::fs::remove_file(&own).unwrap();
        assert_eq!(files.stamp("a"), files.stamp("b"), "that for all");
        std::fs::remove_file(&default).unwrap();
        assert_eq!(files.stamp("a"), None);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_that_is_missing_is_told_of_at_start() {
        let missing = std::env::temp_dir().join("ringway-no-such-directory");
        let error = files(&missing).err().unwrap();
        assert!(error.starts_with("client-config-dir '"), "{error}");
    }

    #[test]
    fn the_directory_is_found_before_and_in_the_chroot() {
        let root = directory("chroot");
        std::fs::create_dir_all(root.join("ccd")).unwrap();
        for inside in ["/ccd", "ccd"] {
            let found = before_chroot(Path::new(inside), Some(&root));
            assert_eq!(found, root.join("ccd"));
        }
        let inside = Path::new("/other");
        assert_eq!(before_chroot(inside, Some(&root)), inside);
        std::fs::remove_dir_all(root).unwrap();
    }
}
