//! Where in the configuration something stands, and file contents that may stand there too.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a file, or on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file as it was named, or `command line`.
    pub file: Arc<str>,
    /// Line, from 1; on the command line the number of the argument.
    pub line: usize,
}

impl Position {
    /// A place in a file.
    pub fn new(file: impl Into<Arc<str>>, line: usize) -> Self {
        Position {
            file: file.into(),
            line,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A file named by an option, or its content given inline.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum FileOrInline {
    /// A file. Relative paths are relative to the working directory of the process, except that a
    /// preceding `cd` has been applied.
    Path(PathBuf),
    /// The content.
    Inline(String),
}

/// A [`FileOrInline`] with the option that named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The file or the content.
    pub data: FileOrInline,
    /// The option, e.g. `ca`.
    pub option: &'static str,
    /// Where the option stands.
    pub position: Position,
}

impl Source {
    /// The content: the inline text, or the file read now.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match &self.data {
            FileOrInline::Path(path) => std::fs::read(path),
            FileOrInline::Inline(text) => Ok(text.clone().into_bytes()),
        }
    }

    /// The file, unless the content is inline.
    pub fn path(&self) -> Option<&Path> {
        match &self.data {
            FileOrInline::Path(path) => Some(path),
            FileOrInline::Inline(_) => None,
        }
    }

    /// What to call it in a message: the file name, or `[inline]`.
    pub fn name(&self) -> String {
        match &self.data {
            FileOrInline::Path(path) => path.display().to_string(),
            FileOrInline::Inline(_) => "[inline]".to_owned(),
        }
    }
}

impl fmt::Debug for FileOrInline {
    /// Inline content may be a private key and is never shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileOrInline::Path(path) => f.debug_tuple("Path").field(path).finish(),
            FileOrInline::Inline(text) => write!(f, "Inline({} bytes)", text.len()),
        }
    }
}
