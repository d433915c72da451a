//! Executors: what drives a service's members. A run tells an executor what to do, one step at a
//! time, and trusts no answer that it can check.
//!
//! An executor never decides what comes next, keeps no state of a run and repeats nothing by
//! itself. A step that fails says whether it certainly did nothing ([`Error::Refused`]) or whether
//! nobody knows ([`Error::Unknown`]): then the runner asks for the member's status or snapshots
//! before it goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::facts::Snapshot;
use super::inventory::Row;

pub mod command;
mod dir;
pub mod icp;
mod limit;
pub mod process;
mod reply;
mod staged;
pub mod text;

pub use command::{CommandConfig, CommandExecutor};
pub use dir::DirExecutor;
pub use icp::{IcpConfig, IcpExecutor};

/// What a service can do. Steps that it cannot do are skipped by the runner, which says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Members can be stopped and started, and have a status.
    pub control: bool,
    /// Members make snapshots of their own, which are downloaded; else their files are read in
    /// place.
    pub snapshots: bool,
    /// Snapshots can be uploaded and loaded.
    pub restore: bool,
}

/// Whether a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It has been told to stop and has not yet.
    Stopping,
    /// It is stopped.
    Stopped,
    /// The service does not say.
    Unknown,
}

/// A member's status, as the service states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it runs.
    pub state: State,
    /// SHA-256 of its code, lowercase hex, if the service says.
    pub module_hash: Option<String>,
}

/// What is known of the right to do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The service has shown it; the text says how.
    Proven(String),
    /// The configuration claims it.
    Declared,
    /// Nothing shows it; the text says what was tried.
    NotProven(String),
}

/// What is known of the rights over a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The right to stop and start it and to make snapshots.
    pub control: Evidence,
    /// The right to read its snapshots.
    pub read: Evidence,
}

/// Where the content of a downloaded snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// In the staging directory that the runner named.
    Staged,
    /// Somewhere else, where it is read in place and stays.
    InPlace(PathBuf),
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It certainly did nothing: it was refused before anything was sent.
    #[error("{0}")]
    Refused(String),
    /// It failed, and whether it did something is not known: a lost reply, a time limit, an exit
    /// code other than 0.
    #[error("{0}")]
    Unknown(String),
    /// The service cannot do this at all.
    #[error("{executor} cannot {what}")]
    Unsupported {
        /// The executor.
        executor: String,
        /// What was asked.
        what: &'static str,
    },
    /// The work was interrupted by the user.
    #[error("interrupted")]
    Interrupted,
}

/// What every step gets beside its member.
#[derive(Clone, Debug)]
pub struct Call {
    /// Set when the user interrupts: external commands are told to stop and the step ends with
    /// [`Error::Interrupted`].
    pub interrupted: Arc<AtomicBool>,
    /// A file whose lock says that this member has work under way. External commands inherit its
    /// descriptor, so that a child that outlives its runner is seen.
    pub lock: Option<Arc<std::fs::File>>,
    /// How long the step may take; `None` is the executor's own limit.
    pub timeout: Option<Duration>,
}

impl Call {
    /// A call without a lock or limit, that nobody interrupts.
    #[must_use]
    pub fn new() -> Self {
        Self { interrupted: Arc::default(), lock: None, timeout: None }
    }

    /// Says whether the user has interrupted.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Default for Call {
    fn default() -> Self {
        Self::new()
    }
}

/// Drives the members of a deployment. Methods may be called from several threads at once, for
/// different members.
pub trait Executor: Send + Sync {
    /// Returns its name, as it stands in receipts.
    fn name(&self) -> &str;

    /// Returns the network or environment that the members live in; empty if that means nothing.
    fn environment(&self) -> &str;

    /// Says what the service can do.
    fn capabilities(&self) -> Capabilities;

    /// Asks the service for its members; `None` if it has no list of its own and the configured one
    /// counts.
    ///
    /// # Errors
    /// The service did not answer.
    fn inventory(&self, call: &Call) -> Result<Option<Vec<Row>>, Error>;

    /// Asks what may be done to a member.
    ///
    /// # Errors
    /// The service did not answer. A right that is not proven is no error.
    fn authority(&self, member: &Row, call: &Call) -> Result<Authority, Error>;

    /// Asks for a member's status.
    ///
    /// # Errors
    /// The service did not answer.
    fn status(&self, member: &Row, call: &Call) -> Result<Status, Error>;

    /// Stops a member.
    ///
    /// # Errors
    /// See [`Error`]; the runner asks for the status whatever the answer is.
    fn stop(&self, member: &Row, call: &Call) -> Result<(), Error>;

    /// Starts a member.
    ///
    /// # Errors
    /// As [`Executor::stop`].
    fn start(&self, member: &Row, call: &Call) -> Result<(), Error>;

    /// Asks for the snapshots that the service has of a member.
    ///
    /// # Errors
    /// The service did not answer.
    fn snapshots(&self, member: &Row, call: &Call) -> Result<Vec<Snapshot>, Error>;

    /// Makes a snapshot.
    ///
    /// # Errors
    /// See [`Error`]; the runner then compares the lists of snapshots.
    fn create(&self, member: &Row, call: &Call) -> Result<Snapshot, Error>;

    /// Fetches a snapshot into `staging`, an empty private directory or what an interrupted fetch of
    /// this very snapshot left there. `snapshot` is `None` where there are no snapshots.
    ///
    /// # Errors
    /// See [`Error`]; repeating it is safe.
    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        call: &Call,
    ) -> Result<Fetched, Error>;

    /// Compares what was fetched with the evidence that the snapshot carries, such as sizes and
    /// hashes; `member.module_hash` is the hash that is expected. Returns what was checked, for the
    /// receipt.
    ///
    /// # Errors
    /// [`Error::Refused`] with expected and actual if anything differs.
    fn check(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        content: &Path,
    ) -> Result<Vec<String>, Error>;

    /// Uploads the content of a snapshot from `staging` and returns its identity at the service.
    ///
    /// # Errors
    /// See [`Error`].
    fn upload(&self, member: &Row, staging: &Path, call: &Call) -> Result<Snapshot, Error>;

    /// Loads an uploaded snapshot into a stopped member.
    ///
    /// # Errors
    /// See [`Error`]; repeating it is safe.
    fn load(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error>;

    /// Removes a snapshot from the service.
    ///
    /// # Errors
    /// See [`Error`]; repeating it is safe.
    fn delete(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error>;
}
