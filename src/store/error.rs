//! The store's errors.

use std::path::PathBuf;

use super::{ChunkFault, PageFault};
use crate::backend::{self, Key};
use crate::format::record::{GenerationName, GenerationNumber};
use crate::{format, fstree, index, lease, log};

/// Why a text is no name of a deployment or member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name {label:?}: {fault}")]
pub struct LabelError {
    /// What it should name.
    pub what: &'static str,
    /// The text.
    pub label: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The index failed.
    #[error("index: {0}")]
    Index(#[from] index::Error),
    /// The commit log failed.
    #[error("commit log: {0}")]
    Log(#[from] log::Error),
    /// The store is in use in a way that excludes this.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// There is no store.
    #[error("{location}: no store here")]
    NotAStore {
        /// Where it was looked for.
        location: String,
    },
    /// There is a store already.
    #[error("{location}: holds a store already")]
    Exists {
        /// Where.
        location: String,
    },
    /// The store header is damaged, or the store needs a newer program.
    #[error("{location}: {source}")]
    Header {
        /// Where the store is.
        location: String,
        /// What is wrong.
        source: format::Error,
    },
    /// The store may only be read by this program.
    #[error("the store needs a newer program to write to it (write version {write_version})")]
    NeedsNewer {
        /// The version that it asks for.
        write_version: u32,
    },
    /// The commit log has records that a writer must know.
    #[error("the commit log has records of kind {kind}, which this program does not know")]
    NewerRecords {
        /// The kind.
        kind: u16,
    },
    /// A manifest is damaged.
    #[error("{key}: {source}")]
    Manifest {
        /// The object.
        key: Key,
        /// What is wrong.
        source: format::Error,
    },
    /// A list page is missing or damaged.
    #[error(transparent)]
    Page(Box<PageFault>),
    /// A chunk is missing or damaged.
    #[error(transparent)]
    Chunk(Box<ChunkFault>),
    /// A text is no reference to a generation or path.
    #[error("{text:?} is not a reference: {reason}")]
    BadReference {
        /// The text.
        text: String,
        /// Why.
        reason: &'static str,
    },
    /// A name of a deployment or member that is not allowed.
    #[error("{0}")]
    BadLabel(LabelError),
    /// No generation of this deployment is visible.
    #[error("no deployment {name:?} in this store")]
    UnknownDeployment {
        /// The name.
        name: String,
        /// Names that are there.
        known: Vec<String>,
    },
    /// The deployment has no such generation.
    #[error("deployment {deployment:?} has no generation {generation}")]
    UnknownGeneration {
        /// The deployment.
        deployment: String,
        /// The generation asked for.
        generation: GenerationNumber,
        /// Its newest.
        newest: GenerationNumber,
    },
    /// The generation was forgotten.
    #[error("{name} was forgotten{}", if *can_return { "" } else { ", and what it needs may be gone" })]
    Forgotten {
        /// The generation.
        name: GenerationName,
        /// Whether it can be brought back.
        can_return: bool,
    },
    /// There is nothing to be brought back.
    #[error("nothing was forgotten that could be brought back")]
    NothingForgotten,
    /// A generation that shall be forgotten is pinned.
    #[error("{name} is pinned")]
    Pinned {
        /// The generation.
        name: GenerationName,
    },
    /// A retention policy that keeps nothing.
    #[error("no rule says what to keep")]
    KeepsNothing,
    /// A time zone that is not known.
    #[error("no time zone {name:?} is known")]
    UnknownTimeZone {
        /// The name.
        name: String,
    },
    /// The store was changed since a plan was made.
    #[error(
        "the store was changed since the plan was made (commit record {planned} was the last, now it is {actual})"
    )]
    Moved {
        /// The last commit record by the plan.
        planned: u64,
        /// The last commit record.
        actual: u64,
    },
    /// What is needed is not known, so nothing can be removed.
    #[error("{what} cannot be read, so it is not known what may be removed: {reason}")]
    NotKnown {
        /// The object.
        what: String,
        /// Why.
        reason: String,
    },
    /// The generation has no such member.
    #[error("{generation} has no member {member:?}")]
    UnknownMember {
        /// The generation, as `name@gN`.
        generation: String,
        /// The member asked for.
        member: String,
        /// Members that are there.
        known: Vec<String>,
    },
    /// The member has no such path.
    #[error("{member}: no path {path:?}")]
    UnknownPath {
        /// The member.
        member: String,
        /// The path.
        path: String,
    },
    /// Something else than a regular file where a file is needed.
    #[error("{path:?} is not a regular file")]
    NotAFile {
        /// The path.
        path: String,
    },
    /// The target of a restore is in use.
    #[error("{}: not empty", path.display())]
    TargetNotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The file system of a restore's target failed.
    #[error("restore: {0}")]
    Target(#[source] fstree::Error),
    /// A source cannot be read at all.
    #[error("{member}: {source}")]
    Source {
        /// The member.
        member: String,
        /// The cause.
        source: fstree::Error,
    },
    /// Two members of one name.
    #[error("two members are named {member:?}")]
    DuplicateMember {
        /// The name.
        member: String,
    },
    /// No members, or too many.
    #[error("{count} members; a generation has 1 to 65536")]
    Members {
        /// How many.
        count: usize,
    },
    /// More than a manifest takes.
    #[error("{count} extensions of {bytes} bytes; a generation takes 256 of 4 MiB together")]
    Extensions {
        /// How many.
        count: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// A thread pool could not be made.
    #[error("threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The system has no randomness.
    #[error("no random bytes from the system: {reason}")]
    Random {
        /// The system's answer.
        reason: String,
    },
    /// A pack read back is not what was written.
    #[error("{key}: reads back with digest {actual}; it was not promoted")]
    ReadBack {
        /// The pack.
        key: Key,
        /// The digest of what was read.
        actual: crate::digest::Digest,
    },
    /// An artifact reads back as something else than its manifest says.
    #[error(
        "artifact {manifest}: {path:?} reads back with another checksum than its manifest says"
    )]
    Artifact {
        /// Its manifest.
        manifest: crate::digest::Digest,
        /// The path that differs; empty for the artifact as a whole.
        path: String,
    },
    /// The manifest of an artifact is of another member than the generation says.
    #[error("artifact {manifest} is of the member {actual:?}, not of {expected:?}")]
    OtherMember {
        /// The manifest.
        manifest: crate::digest::Digest,
        /// The member that it is wanted for.
        expected: String,
        /// The member in it.
        actual: String,
    },
    /// A compressed chunk did not decode to what was compressed.
    #[error("the encoder produced bytes that do not decode; nothing of them was stored")]
    Encoder,
    /// What a backup relied on was removed by prune before it was committed.
    #[error("prune has removed {digest} meanwhile, which this backup relied on")]
    TakenAway {
        /// The chunk, list page or manifest.
        digest: crate::digest::Digest,
    },
    /// The work was interrupted.
    #[error("interrupted; what is stored so far is kept and will be reused")]
    Interrupted,
}

impl From<PageFault> for Error {
    fn from(fault: PageFault) -> Self {
        Self::Page(Box::new(fault))
    }
}

impl From<ChunkFault> for Error {
    fn from(fault: ChunkFault) -> Self {
        Self::Chunk(Box::new(fault))
    }
}

impl Error {
    /// Says whether stored bytes are missing or wrong (and not only could not be read this time).
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Backend(error)
            | Self::Index(index::Error::Backend(error))
            | Self::Log(log::Error::Backend(error))
            | Self::Lease(lease::Error::Backend(error)) => error.is_damage(),
            Self::Index(index::Error::Format { source, .. })
            | Self::Header { source, .. }
            | Self::Manifest { source, .. } => source.is_damage(),
            Self::Page(fault) => fault.is_damage(),
            Self::Chunk(fault) => fault.is_damage(),
            Self::Log(log::Error::NoNumber | log::Error::NoGeneration { .. })
            | Self::ReadBack { .. }
            | Self::Artifact { .. } => true,
            _ => false,
        }
    }

    /// Says whether a newer program, or one that can open sealed objects, would not fail here.
    #[must_use]
    pub fn needs_newer(&self) -> bool {
        match self {
            Self::Header { source, .. } | Self::Manifest { source, .. } => !source.is_damage(),
            Self::NeedsNewer { .. } | Self::NewerRecords { .. } => true,
            _ => false,
        }
    }
}
