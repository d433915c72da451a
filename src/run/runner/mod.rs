//! Runner: drives a plan through an executor to a durable generation, and writes down every step
//! before and after it is taken.
//!
//! ```text
//! preflight → stop all → snapshot all → start all in reverse → (download → ingest → read back) each
//!           → commit → clean up
//! ```
//!
//! Whatever ends a run, the journal says how far it came, and [`Runner::resume`] goes on from there:
//! a step that was begun and not ended is never believed to be done, but asked for.

mod finish;
mod preflight;
mod steps;
mod transfer;

use std::collections::HashSet;

use super::any::{self, AnyRun};
use super::course::{self, Course, Followed};
use super::event::{Completed, Event, Receipt};
use super::inventory::Row;
use super::journal::{Journal, Recorded};
use super::ledger::Ledger;
use super::plan::{OperationKind as Kind, Plan, Target};
use super::state::{self, Outcome, RunState};
use crate::clock::UnixNanos;
use crate::store::{IngestStats, Store};

pub use super::course::{Notice, Observer, Options, Parts};
pub use super::error::Error;

/// A member of a finished run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// The member.
    pub member: String,
    /// Its artifact's manifest.
    pub manifest: String,
    /// The algorithm of the checksum.
    pub algorithm: String,
    /// The artifact's checksum.
    pub checksum: String,
    /// Files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The run.
    pub run: String,
    /// The deployment.
    pub deployment: String,
    /// The generation's number.
    pub generation: u64,
    /// Its manifest.
    pub manifest: String,
    /// Its members.
    pub members: Vec<MemberReport>,
    /// What this process read and stored; earlier ones of the same run not counted.
    pub stats: IngestStats,
    /// What could not be removed afterwards, with the cause.
    pub left: Vec<(String, String)>,
}

/// A run under way.
pub struct Runner<'a> {
    course: Course<'a, RunState>,
    /// Whether this process has seen that all that earlier ones have stopped is stopped still.
    looked: bool,
    /// Manifests that this process has read back.
    read_back: HashSet<String>,
    stats: IngestStats,
}

impl<'a> Runner<'a> {
    /// Begins a run: its plan is durable when this returns, and nothing else was done.
    ///
    /// # Errors
    /// Another run of the deployment is under way or unfinished, or the storage failed.
    pub fn start(parts: Parts<'a>, plan: &Plan, options: Options) -> Result<Self, Error> {
        let deployment = &plan.request.deployment;
        let lock = course::lock(parts.store, deployment)?;
        let open = any::Open::of(parts.store, deployment)?;
        open.tell(parts.observer);
        open.close(parts.store)?;
        let stands_in_the_way = |state: &AnyRun| match state {
            AnyRun::Backup(_) => true,
            // Until a restore that has changed something is done, there is nothing worth keeping.
            AnyRun::Restore(state) => state.mutated || state.is_loading(),
        };
        if let Some((run, _)) = open.unfinished().find(|(_, state)| stands_in_the_way(state)) {
            let (deployment, run) = (deployment.clone(), run.to_owned());
            return Err(Error::Unfinished { deployment, run });
        }
        let now = UnixNanos::now();
        let planned = Event::Planned { plan: Box::new(plan.clone()) };
        let state = RunState::new(plan, now.0);
        Ok(Self::with(Course::start(parts, options, state, (&planned, now), lock)?))
    }

    /// Takes up a run that was begun earlier.
    ///
    /// # Errors
    /// There is no such run, its journal cannot be followed, or it is under way elsewhere.
    pub fn resume(parts: Parts<'a>, run: &str, options: Options) -> Result<Self, Error> {
        any::expect(parts.store, run, any::Kind::Backup)?;
        Ok(Self::with(Course::resume(parts, run, options)?))
    }

    fn with(mut course: Course<'a, RunState>) -> Self {
        course.options.ingest.algorithm = course.state.plan.request.checksum.into();
        let (read_back, stats) = (HashSet::new(), IngestStats::default());
        Self { course, looked: false, read_back, stats }
    }

    /// Returns where the run stands.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.course.state
    }

    /// Returns the run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.course.name()
    }

    /// Goes on to the end. Members that are stopped when it fails are started again.
    ///
    /// # Errors
    /// Every [`Error`]; what was done is kept, and the run can be resumed.
    pub fn run(mut self) -> Result<Report, Error> {
        match self.go() {
            Ok(report) => Ok(report),
            // Whoever counts steps wants to see the state between them.
            Err(cause @ (Error::StepsDone { .. } | Error::Restarted { .. })) => Err(cause),
            Err(Error::Operations { .. }) if self.course.progress.is_interrupted() => {
                Err(self.restart_after(Error::Interrupted))
            }
            Err(cause) => Err(self.restart_after(cause)),
        }
    }

    fn go(&mut self) -> Result<Report, Error> {
        if let Outcome::Abandoned { reason } = &self.course.state.outcome {
            let (run, reason) = (self.course.name().to_owned(), reason.clone());
            self.remove_leftovers()?;
            return Err(Error::Abandoned { run, reason });
        }
        while self.course.state.outcome == Outcome::Unfinished {
            self.course.check()?;
            match self.course.state.next_kind() {
                Some(Kind::Stop) => self.stop_all()?,
                Some(Kind::CreateSnapshot) => self.create_all()?,
                Some(Kind::Start) => self.course.start_all(Kind::Start, &Receipt::Running {})?,
                Some(Kind::DownloadSnapshot | Kind::VerifyArtifact) => self.transfer()?,
                Some(Kind::FinalizeManifest) | None => self.finalize()?,
                Some(_) => self.preflight()?,
            }
        }
        self.clean()
    }

    /// Gives a run up: starts what it had stopped, removes its staging, and records that nothing of
    /// it will become visible.
    ///
    /// # Errors
    /// It has become visible already, a member cannot be started, or the storage failed.
    pub fn abandon(mut self, reason: &str) -> Result<(), Error> {
        if self.course.state.outcome != Outcome::Unfinished {
            return self.remove_leftovers().map(drop);
        }
        let cause = format!("the run is given up: {reason}");
        let failed = self.start_over(cause)?;
        if !failed.is_empty() {
            return Err(Error::Operations { failures: failed });
        }
        self.course.record(Event::Abandoned { reason: reason.to_owned() })?;
        self.remove_leftovers().map(drop)
    }
}

impl Followed for RunState {
    type Kind = Kind;
    type Receipt = Receipt;
    type Event = Event;

    fn replay(records: &[Recorded<Event>]) -> Result<Self, state::Error> {
        Self::replay(records)
    }

    fn apply(&mut self, event: &Event, time: i64) -> Result<(), String> {
        self.apply(event, time)
    }

    fn ledger(&self) -> &Ledger<Kind, Receipt> {
        self.ledger()
    }

    fn works_on(&self) -> &str {
        &self.plan.request.deployment
    }

    fn executor(&self) -> (&str, &str) {
        (&self.plan.request.executor, &self.plan.request.environment)
    }

    fn rows(&self) -> Vec<Row> {
        self.plan.targets.iter().map(Target::member).collect()
    }

    fn row(&self, member: &str) -> Option<Row> {
        self.plan.target(member).map(Target::member)
    }

    fn started(operations: Vec<u32>, before: Option<Vec<String>>) -> Event {
        Event::Started { operations, before }
    }

    fn completed(operations: Vec<Completed>) -> Event {
        Event::Completed { operations }
    }

    fn failed(operation: u32, reason: String) -> Event {
        Event::Failed { operation, reason }
    }

    fn skipped(operations: Vec<u32>, reason: String) -> Event {
        Event::Skipped { operations, reason }
    }

    fn restarted(members: Vec<String>, failed: Vec<(String, String)>, cause: String) -> Event {
        Event::Restarted { members, failed, cause }
    }

    fn told(event: &Event) -> Vec<(u32, Option<String>)> {
        match event {
            Event::Started { operations, .. } => {
                operations.iter().map(|one| (*one, None)).collect()
            }
            Event::Completed { operations } => {
                operations.iter().map(|one| (one.operation, detail(&one.receipt))).collect()
            }
            Event::Failed { operation, reason } => vec![(*operation, Some(reason.clone()))],
            Event::Durable { operation, .. } => vec![(*operation, None)],
            _ => Vec::new(),
        }
    }

    fn to_restart(&self) -> Vec<&str> {
        self.to_restart()
    }
}

fn detail(receipt: &Receipt) -> Option<String> {
    match receipt {
        Receipt::Created { snapshot, adopted: true } => {
            Some(format!("snapshot {} found after a lost answer", snapshot.id))
        }
        Receipt::Created { snapshot, .. } => Some(format!("snapshot {}", snapshot.id)),
        Receipt::Verified { algorithm, checksum, bytes, .. } => {
            Some(format!("{bytes} bytes, {algorithm} {checksum}"))
        }
        _ => None,
    }
}

/// Returns the newest backup of a deployment that has not ended, or has left something to be
/// removed. Runs that cannot be read and are not known to be the deployment's are passed over.
///
/// # Errors
/// The storage failed, or a journal of the deployment cannot be followed.
pub fn unfinished(store: &Store, deployment: &str) -> Result<Option<String>, Error> {
    let open = any::Open::of(store, deployment)?;
    let mut backups = open.unfinished().filter(|(_, state)| state.kind() == any::Kind::Backup);
    Ok(backups.next().map(|(run, _)| run.to_owned()))
}

/// Returns where a backup stands, without touching it; [`any::look`] takes runs of any kind.
///
/// # Errors
/// There is no such run, it is no backup, or its journal cannot be followed.
pub fn look(store: &Store, run: &str) -> Result<RunState, Error> {
    any::expect(store, run, any::Kind::Backup)?;
    let (_, records) = Journal::open::<Event>(store.backend(), run, false)?;
    course::replay(run, &records)
}
