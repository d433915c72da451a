//! Manifests: what an artifact and what a generation consists of. See "Manifests" in
//! `store-format.md`.
//!
//! An artifact is a tree of entries, kept as a list of [`Entry`] sorted by path. Both manifests
//! carry extensions, named byte strings that a reader who does not know them passes over: the
//! place for a runner's receipts and a deployment's topology.

use bincode::{Decode, Encode};

use super::page::{ChunkRef, Item, ListRef};
use super::{Error, frame, le};

use crate::clock::UnixNanos;
use crate::digest::{Algorithm, Checksums, Digest};
use crate::limits::{
    ENTRY_BYTES_MAX, EXTENSIONS_MAX, FILE_BYTES_MAX, INLINE_CHUNKS_MAX, LABEL_BYTES_MAX,
    MEMBERS_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX,
};
use crate::values::{Chunking, Kind, Time, Xattr, check_path};

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Content {
    /// Its length in bytes.
    pub bytes: u64,
    /// How it was cut.
    pub chunking: Chunking,
    /// Its checksums.
    pub checksums: Checksums,
    /// Its chunks and holes, in order.
    pub chunks: Chunks,
}

/// The chunks of a file: in the entry itself while they are few.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Chunks {
    /// At most [`INLINE_CHUNKS_MAX`] chunks.
    Inline(Vec<ChunkRef>),
    /// A list of their own.
    List(ListRef),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Node {
    /// A regular file, with its content.
    File(Content),
    /// Another name of the regular file at this path of the same artifact, which comes before.
    HardLink(Vec<u8>),
    /// Anything that has no content: directory, symlink, fifo, socket, device.
    Other(Kind),
}

/// One path of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Path below the artifact's root: components joined by `/`; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of last change of content.
    pub mtime: Time,
    /// Time of last change of anything, at the source. Never restored; tells unchanged files.
    pub ctime: Time,
    /// Inode number at the source. Never restored; tells unchanged files.
    pub inode: u64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

impl Entry {
    /// Returns the content if this is a regular file with content of its own.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match &self.node {
            Node::File(content) => Some(content),
            Node::HardLink(_) | Node::Other(_) => None,
        }
    }
}

const ENTRY: &str = "entry";

impl Item for Entry {
    const KIND: u8 = 1;
    const PAGE_ITEMS: usize = 64;

    fn bytes(&self) -> u64 {
        self.content().map_or(0, |content| content.bytes)
    }

    fn key(&self) -> &[u8] {
        &self.path
    }

    fn cut_hash(&self) -> u64 {
        le::u64(&Digest::of(&self.path).0, 24)
    }

    fn check(&self) -> Result<(), Error> {
        let field = |field, actual, allowed| Error::Field { what: ENTRY, field, actual, allowed };
        let path = |path: &[u8]| {
            check_path(path).map_err(|error| Error::Payload {
                what: ENTRY,
                reason: format!("path {:?}: {error}", String::from_utf8_lossy(path)),
            })
        };
        path(&self.path)?;
        if self.mode > 0o7777 {
            return Err(field("mode", u64::from(self.mode), "permission bits"));
        }
        if self.mtime.nanos >= 1_000_000_000 {
            return Err(field("mtime nanoseconds", u64::from(self.mtime.nanos), "below 10^9"));
        }
        let large = self.xattrs.iter().any(|xattr| {
            xattr.name.is_empty()
                || xattr.name.len() > 255
                || xattr.value.len() > XATTR_VALUE_BYTES_MAX
        });
        if self.xattrs.len() > XATTRS_MAX || large {
            let actual = self.xattrs.len() as u64;
            return Err(field("extended attributes", actual, "at most 1024 of at most 64 KiB"));
        }
        let target = match &self.node {
            Node::Other(Kind::Symlink { target }) | Node::HardLink(target) => target.len(),
            _ => 0,
        };
        let attributes = self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 16);
        let bytes = self.path.len() + target + attributes.sum::<usize>();
        if bytes > ENTRY_BYTES_MAX {
            return Err(field("path and attributes", bytes as u64, "at most 512 KiB"));
        }
        match &self.node {
            Node::File(content) => content.check(),
            Node::HardLink(target) => path(target),
            Node::Other(Kind::File) => Err(field("node", 2, "a file only with content")),
            Node::Other(Kind::Symlink { target }) if target.is_empty() || target.contains(&0) => {
                Err(field("symlink target", target.len() as u64, "1 byte and more, none zero"))
            }
            Node::Other(_) => Ok(()),
        }
    }
}

impl Content {
    fn check(&self) -> Result<(), Error> {
        let field = |field, actual, allowed| Error::Field { what: ENTRY, field, actual, allowed };
        if self.bytes > FILE_BYTES_MAX {
            return Err(field("file length", self.bytes, "at most 2^60"));
        }
        if !self.chunking.is_valid() {
            return Err(field("chunking", 0, "the bounds of \"Chunking\""));
        }
        let sum = match &self.chunks {
            Chunks::Inline(chunks) => {
                if chunks.len() > INLINE_CHUNKS_MAX {
                    return Err(field("inline chunks", chunks.len() as u64, "at most 8"));
                }
                chunks.iter().try_fold(0u64, |sum, chunk| {
                    chunk.check()?;
                    Ok::<_, Error>(sum.saturating_add(chunk.bytes))
                })?
            }
            Chunks::List(list) => {
                list.check(ENTRY)?;
                list.top.as_ref().map_or(0, |top| top.bytes)
            }
        };
        if sum == self.bytes {
            Ok(())
        } else {
            Err(field("file length", self.bytes, "the sum of its chunks"))
        }
    }
}

/// A named byte string that a reader may pass over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Counts over the entries of an artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counts {
    /// Regular files, each hard link counted.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Fifos, sockets and devices.
    pub specials: u64,
    /// Content of all files, each hard-linked file counted once, in bytes.
    pub bytes: u64,
}

/// The manifest of an artifact, object `manifests/<digest>`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Artifact {
    /// The member that it is of.
    pub member: String,
    /// Where it was read, for people: the path as it was given, raw bytes.
    pub source: Vec<u8>,
    /// When reading began, by the clock of the machine that read.
    pub started: UnixNanos,
    /// Counts over its entries.
    pub counts: Counts,
    /// The algorithm of `checksum`.
    pub algorithm: Algorithm,
    /// Checksum of the whole artifact: of the content of a single file; of a directory as
    /// "Directory checksum" in `store-format.md` says.
    pub checksum: [u8; 32],
    /// Its entries.
    pub entries: ListRef,
    /// Extensions.
    pub extensions: Vec<Extension>,
}

/// A member of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    /// Its name, unique in the generation.
    pub name: String,
    /// Its artifact's manifest.
    pub artifact: Digest,
}

/// A member that a generation lacks because its source failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The manifest of a generation, object `manifests/<digest>`. Its number is in the commit record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Generation {
    /// Its deployment.
    pub deployment: String,
    /// When the backup began.
    pub started: UnixNanos,
    /// When its artifacts were durable.
    pub finished: UnixNanos,
    /// Its members, in the order in which they were given.
    pub members: Vec<Member>,
    /// Members that failed.
    pub missing: Vec<Missing>,
    /// Extensions.
    pub extensions: Vec<Extension>,
}

/// Checks the name of a deployment or member.
///
/// # Errors
/// [`Error::Payload`] saying what is wrong.
pub fn check_label(what: &'static str, label: &str) -> Result<(), Error> {
    match label_fault(label) {
        None => Ok(()),
        Some(fault) => Err(Error::Payload { what, reason: format!("name {label:?} {fault}") }),
    }
}

/// Says what is wrong with a name of a deployment or member, if anything is.
#[must_use]
pub fn label_fault(label: &str) -> Option<&'static str> {
    if label.is_empty() {
        Some("is empty")
    } else if label.len() > LABEL_BYTES_MAX {
        Some("is longer than 128 bytes")
    } else if label.starts_with('.') || label.starts_with('-') {
        Some("begins with '.' or '-'")
    } else if label.contains(['/', '@', ':', '=']) || label.chars().any(char::is_control) {
        Some("holds '/', '@', ':', '=' or a control character")
    } else {
        None
    }
}

fn check_count(
    what: &'static str,
    field: &'static str,
    actual: usize,
    most: usize,
) -> Result<(), Error> {
    if actual <= most {
        return Ok(());
    }
    Err(Error::Field { what, field, actual: actual as u64, allowed: "fewer; see \"Limits\"" })
}

impl Artifact {
    /// Returns the manifest's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(frame::ARTIFACT, self)
    }

    /// Decodes a manifest.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let artifact: Self = frame::decode(frame::ARTIFACT, bytes)?;
        check_label(frame::ARTIFACT.name, &artifact.member)?;
        check_count(frame::ARTIFACT.name, "extensions", artifact.extensions.len(), EXTENSIONS_MAX)?;
        artifact.entries.check(frame::ARTIFACT.name)?;
        Ok(artifact)
    }
}

impl Generation {
    /// Returns the manifest's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(frame::GENERATION, self)
    }

    /// Decodes a manifest.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let what = frame::GENERATION.name;
        let generation: Self = frame::decode(frame::GENERATION, bytes)?;
        check_label(what, &generation.deployment)?;
        let members = generation.members.len() + generation.missing.len();
        check_count(what, "members", members, MEMBERS_MAX)?;
        check_count(what, "extensions", generation.extensions.len(), EXTENSIONS_MAX)?;
        for missing in &generation.missing {
            check_label(what, &missing.name)?;
        }
        let mut names: Vec<_> = generation.members.iter().map(|member| &member.name).collect();
        names.sort_unstable();
        for name in &names {
            check_label(what, name)?;
        }
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Payload { what, reason: "a member appears twice".into() });
        }
        Ok(generation)
    }
}
