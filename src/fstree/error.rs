//! What can go wrong in a tree, and where: errors, warnings and printable paths.
//!
//! Owns no decisions: whether an error ends a backup or a warning matters is the caller's to say.

use super::PathError;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where something went wrong: the root as the user gave it and the path below it.
///
/// Displayed as text, with every byte that is not printable text as `\xNN` and `\` as `\\`, so
/// that the exact bytes can be told.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryPath {
    full: Box<[u8]>,
    root_bytes: usize,
}

impl EntryPath {
    pub(super) fn new(root: &Path, path: &[u8]) -> Self {
        let root = root.as_os_str().as_bytes();
        let mut full = Vec::with_capacity(root.len() + 1 + path.len());
        full.extend_from_slice(root);
        if !path.is_empty() && !root.ends_with(b"/") {
            full.push(b'/');
        }
        let root_bytes = full.len();
        full.extend_from_slice(path);
        Self { full: full.into_boxed_slice(), root_bytes }
    }

    /// Returns the path inside the tree; empty for the root.
    #[must_use]
    pub fn in_tree(&self) -> &[u8] {
        &self.full[self.root_bytes..]
    }

    /// Returns root and path as one path for the system.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.full
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.full)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Bytes displayed the way [`EntryPath`] is.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0)
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    use fmt::Write;
    for part in bytes.utf8_chunks() {
        for character in part.valid().chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                _ if character.is_control() => {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                }
                _ => f.write_char(character)?,
            }
        }
        for byte in part.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// What went wrong in a tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused or failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, such as `open`.
        action: &'static str,
        /// Where.
        path: EntryPath,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory on the way to the node is a symlink, or the node itself is one.
    #[error("{action} {path}: a symlink stands in its place or on the way to it")]
    Symlink {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: EntryPath,
    },
    /// A directory is needed where something else is.
    #[error("{path}: not a directory but a {actual}")]
    NotADirectory {
        /// Where.
        path: EntryPath,
        /// What is there.
        actual: &'static str,
    },
    /// The node is of another kind than was said.
    #[error("{path}: not a {expected} but a {actual}")]
    WrongKind {
        /// Where.
        path: EntryPath,
        /// The kind that had to be there.
        expected: &'static str,
        /// The kind that is there.
        actual: &'static str,
    },
    /// The directory was moved or replaced while it was read.
    #[error("{path}: the directory was moved or replaced meanwhile")]
    Changed {
        /// The directory.
        path: EntryPath,
    },
    /// A path that cannot be inside a tree.
    #[error("{path}: not a path inside a tree: {source}")]
    BadPath {
        /// The path.
        path: EntryPath,
        /// The rule that is broken.
        source: PathError,
    },
    /// A symlink's target that no symlink can have: empty, with a NUL, or longer than 4095 bytes.
    #[error("{path}: not a possible target of a symlink ({bytes} bytes)")]
    BadTarget {
        /// The symlink.
        path: EntryPath,
        /// The target's length.
        bytes: usize,
    },
    /// A number of the metadata that no node can have.
    #[error("{path}: {field} is {value}, at most {value_max} is possible")]
    OutOfRange {
        /// The node.
        path: EntryPath,
        /// Which number.
        field: &'static str,
        /// The number.
        value: u64,
        /// Its bound.
        value_max: u64,
    },
}

impl Error {
    /// Returns where it went wrong.
    #[must_use]
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::Io { path, .. }
            | Self::Symlink { path, .. }
            | Self::NotADirectory { path, .. }
            | Self::WrongKind { path, .. }
            | Self::Changed { path }
            | Self::BadPath { path, .. }
            | Self::BadTarget { path, .. }
            | Self::OutOfRange { path, .. } => path,
        }
    }

    /// Tells whether the node, or a directory on the way to it, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether the system refused for want of permission.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// An error of the system at `path`; a symlink that stopped a lookup gets a name of its own.
    pub(super) fn system(
        action: &'static str,
        path: EntryPath,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Self::Symlink { action, path };
        }
        Self::Io { action, path, source }
    }
}

/// What a restored node lacks, or has beyond what it should. The rest of it is in place.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    /// An attribute that this user or this file system cannot set.
    #[error("{path}: attribute {} not restored: {source}", Escaped(name))]
    XattrNotSet {
        /// The node.
        path: EntryPath,
        /// The attribute.
        name: Vec<u8>,
        /// The system's answer.
        source: io::Error,
    },
    /// An attribute that the node must not have and that this user cannot remove.
    #[error("{path}: attribute {} not removed: {source}", Escaped(name))]
    XattrNotRemoved {
        /// The node.
        path: EntryPath,
        /// The attribute.
        name: Vec<u8>,
        /// The system's answer.
        source: io::Error,
    },
    /// File capabilities, which give rights as the set-uid bit does and are restored with it.
    #[error("{path}: file capabilities withheld together with set-uid bits")]
    CapabilitiesWithheld {
        /// The node.
        path: EntryPath,
    },
    /// Set-id bits that were asked for and that the system dropped.
    #[error("{path}: set-id bits not restored: the system dropped them")]
    SetIdNotSet {
        /// The node.
        path: EntryPath,
    },
    /// A fifo, socket or device that was not asked for; nothing was done to it.
    #[error("{path}: {kind} not restored: special files were not asked for")]
    SpecialFileWithheld {
        /// The node.
        path: EntryPath,
        /// What it is.
        kind: &'static str,
    },
}
