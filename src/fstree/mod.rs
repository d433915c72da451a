//! The users' file systems: reads a source tree and writes a restored one.
//!
//! Owns walking ([`Source`], [`Walk`]), opening below a root without following symlinks, metadata
//! and extended attributes in both directions, holes, and the safe creation of every kind of node
//! ([`Destination`]). Knows no digests, chunks or stores, keeps no policy about what to do with an
//! error, and never waits on a fifo or a device.
//!
//! Invariants:
//! - Below a root, no symlink is ever followed and nothing outside the root is opened, created or
//!   changed, whatever the paths say and whatever happens to the tree meanwhile.
//! - Nothing is skipped silently: what cannot be read is an `Err` that names it, what cannot be
//!   restored is an `Err` or a [`Warning`].
//! - Descriptors stay bounded at any depth, and paths may be longer than one system call takes.
//!
//! Linux only. [`Time`] and [`Xattr`] are stored as part of entries (see "Entries" in
//! `store-format.md`).

use std::cmp::Ordering;

use rustix::fs::FileType;

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

mod apply;
mod beneath;
mod destination;
mod dirstack;
mod error;
mod holes;
mod node;
mod remove;
mod source;
mod stat;
mod walk;

#[cfg(test)]
mod tests;

pub use apply::{Meta, Policy};
pub use destination::Destination;
pub use error::{EntryPath, Error, PathError, Warning};
pub use holes::next_data;
pub use node::xattrs_of_file;
pub use source::{Source, identity_of};
pub use stat::stat_of;
pub use walk::{Node, Walk, WalkOptions};

/// A point in time: `secs` seconds after 1970-01-01T00:00:00Z (negative before it), plus `nanos`
/// nanoseconds, below 1,000,000,000.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// Nanoseconds to add to them.
    pub nanos: u32,
}

/// What a node of a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points: any bytes but NUL, not interpreted here.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// The driver.
        major: u32,
        /// The device of that driver.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver.
        major: u32,
        /// The device of that driver.
        minor: u32,
    },
}

impl Kind {
    /// Returns the kind's name for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
        }
    }

    fn file_type(&self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Dir => FileType::Directory,
            Self::Symlink { .. } => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::CharDevice { .. } => FileType::CharacterDevice,
            Self::BlockDevice { .. } => FileType::BlockDevice,
        }
    }
}

/// What the system says about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permissions, set-id and sticky bits: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or metadata; cannot be set by programs.
    pub ctime: Time,
    /// Number of the node on its device.
    pub inode: u64,
    /// The file system it is on.
    pub device: u64,
    /// Names it has (hard links).
    pub links: u64,
    /// Length of a file or of a symlink's target, in bytes; of no meaning for other kinds.
    pub size_bytes: u64,
    /// Bytes it takes on the device; less than the length for sparse files.
    pub allocated_bytes: u64,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Xattr {
    /// Its name with the namespace, such as `user.origin`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Compares two paths inside a tree component by component: the order of a walk that visits
/// directories before their children and siblings by the bytes of their names.
///
/// `/` sorts below every other byte, so `a/b` comes before `a-b`.
#[must_use]
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((&x, &y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Checks a path inside a tree: components joined by `/`, each a possible name of a directory
/// entry. The empty path is the root itself and passes.
///
/// # Errors
/// The first rule that is broken: [`NAME_BYTES_MAX`] and [`PATH_BYTES_MAX`] bound the lengths;
/// components are not empty, hold no NUL, and are neither `.` nor `..`.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong { bytes: path.len() });
    }
    check_components(path)?;
    match path.split(|&byte| byte == b'/').map(<[u8]>::len).max() {
        Some(bytes) if bytes > NAME_BYTES_MAX => Err(PathError::NameTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Checks what safety needs, without the bounds of the format: a source may hold more than a
/// store accepts, and must be readable all the same for its owner to be told.
fn check_components(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Ok(());
    }
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" => return Err(PathError::EmptyName),
            b"." | b".." => return Err(PathError::DotName),
            _ if name.contains(&0) => return Err(PathError::Nul),
            _ => {}
        }
    }
    Ok(())
}
