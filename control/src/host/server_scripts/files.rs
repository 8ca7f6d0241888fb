//! Files shared with one script.
//!
//! They lie in a folder of their own, mode 0700 with an unpredictable name, inside `tmp-dir`; the
//! files have mode 0600. The folder goes with its owner, so that also a script which writes too late
//! leaves nothing behind: its file has no place any more.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use tempfile::TempDir;

/// The folder, removed when dropped.
#[derive(Debug)]
pub struct ScriptFiles {
    dir: TempDir,
}

impl ScriptFiles {
    /// Makes the folder in `tmp_dir`.
    pub fn new(tmp_dir: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("openvpn_")
            .rand_bytes(16)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(tmp_dir)?;
        Ok(ScriptFiles { dir })
    }

    /// Writes a new file and returns its path, as variables and arguments carry it.
    pub fn create(&self, name: &str, contents: &[u8]) -> io::Result<String> {
        let path = self.path(name)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?
            .write_all(contents)?;
        Ok(path)
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> io::Result<String> {
        let path = self.dir.path().join(name);
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "the path is not UTF-8"))
    }

    /// What a file holds now, at most `limit` bytes and one more, by which the caller sees that it
    /// is longer. A file that has been removed is empty.
    pub fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        // A pipe in its place would stop everything.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.dir.path().join(name));
        let mut contents = Vec::new();
        match opened {
            Ok(file) => file.take(limit as u64 + 1).read_to_end(&mut contents)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(contents)
    }

    /// Empties a file, so that something new can be told in it.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(self.dir.path().join(name))
            .map(drop)
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.path().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
