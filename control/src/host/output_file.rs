//! Files written again and again while others read them: status files, the pool's memory.
//!
//! ```text
//!  write -> temporary file beside it -> (sync) -> rename          a reader never sees half of it
//!        '-> not possible (privileges gone, chroot) -> room is set aside, then the open file is
//!            overwritten                                          a full disk costs nothing stored
//! ```

use std::fs;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

/// A file whose whole content is replaced by each write. It is opened at start, so that it can
/// still be written when privileges are gone or the root directory has changed.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: fs::File,
    durable: bool,
}

impl OutputFile {
    /// Opens the file, keeping what is in it until the first write. What is written to a `durable`
    /// one is on the disk before it takes the place of what was there.
    ///
    /// # Errors
    /// The file cannot be opened for writing or created.
    pub fn open(path: &Path, durable: bool) -> io::Result<Self> {
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        Ok(OutputFile {
            path: path.to_owned(),
            file,
            durable,
        })
    }

    /// The file's name, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// What was in the file before is still there, unless the error came in the middle of
    /// overwriting it in place.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        match self.replace(text) {
            Ok(file) => {
                self.file = file;
                Ok(())
            }
            Err(error) if is_full(&error) => Err(error),
            Err(_) => self.overwrite(text),
        }
    }

    fn replace(&self, text: &str) -> io::Result<fs::File> {
        // A device or a pipe is written to, not replaced.
        if !self.file.metadata()?.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut temporary = self.path.as_os_str().to_owned();
        temporary.push(".tmp");
        let mut file = fs::File::create(&temporary)?;
        let renamed = file
            .write_all(text.as_bytes())
            .and_then(|()| match self.durable {
                true => file.sync_all(),
                false => Ok(()),
            })
            .and_then(|()| fs::rename(&temporary, &self.path));
        match renamed {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    fn overwrite(&mut self, text: &str) -> io::Result<()> {
        if !self.file.metadata()?.is_file() {
            return self.file.write_all(text.as_bytes());
        }
        let length = text.len() as u64;
        if length > 0 {
            let length = i64::try_from(length).map_err(io::Error::other)?;
            let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(&self.file, keep, 0, length) {
                // Not every file system can set room aside.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(length)?;
        match self.durable {
            true => self.file.sync_all(),
            false => Ok(()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("ringway-output-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn content_is_replaced_whole() {
        let folder = Folder::new("replace");
        let path = folder.0.join("file");
        fs::write(&path, "before").unwrap();
        let mut file = OutputFile::open(&path, true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        let reader = fs::File::open(&path).unwrap();
        file.write("after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(io::read_to_string(reader).unwrap(), "before");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn the_handle_is_the_new_files() {
        let folder = Folder::new("overwrite");
        let path = folder.0.join("file");
        let mut file = OutputFile::open(&path, false).unwrap();
        file.write("short").unwrap();
        for text in ["longer than what comes next, by far", "shorter", ""] {
            file.overwrite(text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_folder_in_the_way_of_the_temporary_file() {
        let folder = Folder::new("blocked");
        let path = folder.0.join("file");
        fs::create_dir(folder.0.join("file.tmp")).unwrap();
        let mut file = OutputFile::open(&path, true).unwrap();
        file.write("text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[test]
    fn devices_are_written_to() {
        let mut file = OutputFile::open(Path::new("/dev/null"), true).unwrap();
        file.write("text").unwrap();
        assert!(!Path::new("/dev/null.tmp").exists());
        let mut full = OutputFile::open(Path::new("/dev/full"), false).unwrap();
        assert!(is_full(&full.write("text").unwrap_err()));
    }
}
