//! Why a backup directory was not taken in or given out.

use std::io;
use std::path::PathBuf;

use crate::run::facts;
use crate::{fstree, store};

/// Why a backup directory was not taken in or given out. Nothing became visible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's side.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The directory's side.
    #[error(transparent)]
    Tree(#[from] fstree::Error),
    /// The file system of the directory failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory without a manifest.
    #[error("{}: not a finished backup of canic-backup: there is no {file}", path.display())]
    NotABackup {
        /// The directory.
        path: PathBuf,
        /// The file that is needed.
        file: &'static str,
    },
    /// One of two files that belong together.
    #[error("there is {there} but no {missing}")]
    Half {
        /// The file that is there.
        there: &'static str,
        /// The file that is not.
        missing: &'static str,
    },
    /// A file that is longer than any that is read.
    #[error("{file}: has {bytes} bytes; at most {bytes_max} are read")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// A file that is no JSON of the shape that canic-backup 0.68.2 writes.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: &'static str,
        /// What is wrong, and in which line.
        source: serde_json::Error,
    },
    /// A field whose value breaks a rule of canic-backup.
    #[error("{file}: {field}: {fault}")]
    Field {
        /// The file.
        file: &'static str,
        /// The field.
        field: String,
        /// The rule.
        fault: Fault,
    },
    /// Two files that say different things.
    #[error("{what} is {first:?} in {first_file}, but {second:?} in {second_file}")]
    Disagree {
        /// What they say it of.
        what: String,
        /// One of them.
        first_file: &'static str,
        /// What it says.
        first: String,
        /// The other.
        second_file: &'static str,
        /// What it says.
        second: String,
    },
    /// A run that was not finished.
    #[error("{file}: {what} is {state}: the backup is not finished")]
    Unfinished {
        /// The journal.
        file: &'static str,
        /// An operation or an artifact.
        what: String,
        /// Its state.
        state: &'static str,
    },
    /// A topology hash that is not of the members.
    #[error("the topology hash is stated as {stated}, but that of the members is {computed}")]
    Topology {
        /// What the manifest says.
        stated: String,
        /// What it has to be.
        computed: String,
    },
    /// An artifact whose path is not inside the directory.
    #[error("{member}: its artifact is at {path:?}, which is no path inside of the backup")]
    UnsafePath {
        /// The member.
        member: String,
        /// The path.
        path: String,
    },
    /// An artifact that is not there.
    #[error("{member}: its artifact {path:?} is not there")]
    NoArtifact {
        /// The member.
        member: String,
        /// The path.
        path: String,
    },
    /// An artifact that cannot be read as a whole.
    #[error("{member}: {reason}")]
    Unreadable {
        /// The member.
        member: String,
        /// The first thing that cannot be read.
        reason: String,
    },
    /// An artifact with something other than files and directories.
    #[error(
        "{member}: holds {symlinks} symbolic links and {specials} special files; a snapshot holds none"
    )]
    NotPlain {
        /// The member.
        member: String,
        /// Symbolic links.
        symlinks: u64,
        /// Fifos, sockets and devices.
        specials: u64,
    },
    /// An artifact that is not what the journal says.
    #[error("{member}: its artifact has the checksum {actual}, expected {expected}")]
    Checksum {
        /// The member.
        member: String,
        /// What the journal says.
        expected: String,
        /// What was computed from the files.
        actual: String,
    },
    /// More about the deployment than a generation can keep.
    #[error("the members and units are more than a generation can keep")]
    TooMuch,
    /// A part of a generation.
    #[error("only a whole generation can be given out, not a part of one")]
    Part,
    /// A generation that was made without a runner.
    #[error(
        "{generation} was made from plain directories: it knows no roles, topology and snapshots"
    )]
    NoFacts {
        /// The generation, as `name@gN`.
        generation: String,
    },
    /// The facts of a generation cannot be read.
    #[error("{generation}: {source}")]
    Facts {
        /// The generation, as `name@gN`.
        generation: String,
        /// What is wrong.
        source: facts::Error,
    },
    /// A generation that canic-backup has no form for.
    #[error("{of}: canic-backup needs {lacks}")]
    Lacks {
        /// The generation or member.
        of: String,
        /// What it lacks.
        lacks: Lack,
    },
    /// A member whose manifest cannot be read from the store.
    #[error("{member}: {reason}")]
    Damaged {
        /// The member.
        member: String,
        /// Why.
        reason: String,
    },
    /// The target of an export is in use.
    #[error("{}: there already, and not an empty directory", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
    },
    /// A target without a name, such as `/` or `..`.
    #[error("{}: has no name of its own that a new directory could get", path.display())]
    NoName {
        /// The target.
        path: PathBuf,
    },
    /// Another export to the same target is under way.
    #[error("{}: another process is writing there", path.display())]
    Busy {
        /// Where it writes.
        path: PathBuf,
    },
    /// A path that could not be restored.
    #[error("{path}: {reason} ({count} paths in all)")]
    NotRestored {
        /// The first one.
        path: String,
        /// Why.
        reason: String,
        /// How many there are.
        count: usize,
        /// Whether the store is damaged there (otherwise the target refused).
        damage: bool,
    },
}

/// What canic-backup needs of a generation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// The name of the network or environment.
    #[error("the name of the network, and none is known")]
    Environment,
    /// A name of the run.
    #[error("the name of the run, and none is known")]
    Run,
    /// The root of the deployment.
    #[error("the root of the deployment, and none is known")]
    Root,
    /// The member that the scope selects.
    #[error("a selected member that is in the generation")]
    Selected,
    /// A topology hash.
    #[error("a topology hash of 64 hexadecimal digits")]
    TopologyHash,
    /// An identity that is a principal.
    #[error("identities that are principals; {0:?} is none")]
    Principal(String),
    /// The identity of a snapshot.
    #[error("the identity of its snapshot, and it was read in place")]
    Snapshot,
    /// A role that is not empty.
    #[error("a role that is not blank")]
    Role,
    /// What is known of a member.
    #[error("what is known of the member in the deployment")]
    MemberFacts,
    /// An artifact.
    #[error("its artifact, and the generation was made without it")]
    Artifact,
    /// Files and directories only.
    #[error("files and directories only; {0:?} is a symbolic link")]
    NoSymlinks(String),
    /// Names in UTF-8.
    #[error("names in UTF-8; {0:?} is none")]
    Utf8(String),
}

/// A rule that a field breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Text or list without content.
    #[error("is empty")]
    Empty,
    /// Not a principal.
    #[error("{0:?} is no principal")]
    NoPrincipal(String),
    /// Not a hash.
    #[error("{0:?} is not 64 hexadecimal digits")]
    NoHash(String),
    /// A version that is not read.
    #[error("is {0}; only 1 is known")]
    Version(u16),
    /// Another algorithm.
    #[error("is {0:?}; only sha256 is known")]
    Algorithm(String),
    /// Another check.
    #[error("is {0:?}; only status is known")]
    CheckKind(String),
    /// Something twice.
    #[error("{0:?} appears twice")]
    Twice(String),
    /// A role that no member has.
    #[error("no member has the role {0:?}")]
    UnknownRole(String),
    /// A role that is in no unit.
    #[error("the role {0:?} is in no unit")]
    NoUnit(String),
    /// A subtree with several roots.
    #[error("is a subtree with {0} roots")]
    Roots(usize),
    /// A subtree without one of its members.
    #[error("is a subtree that lacks {0}, whose parent is in it")]
    LacksChild(String),
    /// Something that is not among the targets.
    #[error("{0:?} is not among the targets")]
    UnknownTarget(String),
    /// The root where it may not be, or not where it has to be.
    #[error("does not fit to the scope")]
    Scope,
    /// A number out of order.
    #[error("is {actual}, expected {expected}")]
    Order {
        /// The number.
        actual: u64,
        /// What it has to be.
        expected: u64,
    },
    /// One of the checks before a run is missing or comes too late.
    #[error("something is changed before all four checks")]
    Preflight,
    /// A flag that does not follow from the operations.
    #[error("does not follow from the operations")]
    NotDerived,
    /// A receipt that is not of its operation.
    #[error("does not match its operation or its journal")]
    Receipt,
    /// An operation without its receipt.
    #[error("has no receipt that matches it")]
    NoReceipt,
    /// An operation with reasons that do not belong to its state.
    #[error("has reasons that do not belong to its state")]
    Reasons,
    /// A path that is not inside the directory.
    #[error("{0:?} is no path inside of the backup")]
    UnsafePath(String),
}
