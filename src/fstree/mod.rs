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
//! Linux only.

use rustix::fs::FileType;

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
pub use error::{EntryPath, Error, Warning};
pub use holes::next_data;
pub use node::xattrs_of_file;
pub use source::{Source, identity_of};
pub use stat::stat_of;
pub use walk::{Node, Walk, WalkOptions};

pub use crate::values::{Kind, PathError, Time, Xattr, check_path, compare_paths};

use crate::values::check_components;

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

/// The system's name for a kind.
fn type_of(kind: &Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink { .. } => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice { .. } => FileType::CharacterDevice,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
    }
}
