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

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::event::{Completed, Event, Receipt};
use super::executor::{self, Call, Executor};
use super::inventory::Row;
use super::journal::{self, Journal};
use super::plan::{OperationKind as Kind, Plan};
use super::staging::{self, MemberLock, Staging};
use super::state::{self, Outcome, RunState};
use crate::backend::{Lock, LockMode};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::store::{self, IngestOptions, IngestStats, Progress, Store};

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where downloads wait; made if it is missing.
    pub staging: PathBuf,
    /// How the content is ingested; the plan's checksum goes before the one in here.
    pub ingest: IngestOptions,
    /// Most downloads at once.
    pub concurrency: usize,
    /// How long a member may take to stop or start after the service was told.
    pub settle: Duration,
    /// How often it is asked meanwhile.
    pub poll: Duration,
    /// Whether snapshots that the run made are removed from the service once they are durable here.
    pub delete_snapshots: bool,
    /// Most operations that are begun; then the run ends and can be resumed.
    pub steps_max: Option<u64>,
}

impl Options {
    /// Returns the defaults with a staging area.
    #[must_use]
    pub fn new(staging: impl Into<PathBuf>) -> Self {
        Self {
            staging: staging.into(),
            ingest: IngestOptions::default(),
            concurrency: 4,
            settle: Duration::from_mins(10),
            poll: Duration::from_secs(1),
            delete_snapshots: true,
            steps_max: None,
        }
    }
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The journal says something that cannot have happened.
    #[error("the journal of {run} cannot be followed: {source}")]
    State {
        /// The run.
        run: String,
        /// What is wrong.
        source: state::Error,
    },
    /// The staging area.
    #[error(transparent)]
    Staging(#[from] staging::Error),
    /// Another run of the deployment is under way.
    #[error("a run of {deployment} is under way in another process")]
    Locked {
        /// The deployment.
        deployment: String,
    },
    /// A command of an earlier runner still works on a member.
    #[error("a command that an earlier runner started still works on {member}")]
    InFlight {
        /// The member.
        member: String,
    },
    /// A run of the deployment is not finished.
    #[error("the run {run} of {deployment} is not finished")]
    Unfinished {
        /// The deployment.
        deployment: String,
        /// The run.
        run: String,
    },
    /// The run has ended.
    #[error("the run {run} was abandoned: {reason}")]
    Abandoned {
        /// The run.
        run: String,
        /// Why.
        reason: String,
    },
    /// The run belongs to another service.
    #[error("the run {run} was planned for {expected}, and this is {actual}")]
    OtherExecutor {
        /// The run.
        run: String,
        /// Executor and environment of the plan.
        expected: String,
        /// Those given.
        actual: String,
    },
    /// The live topology is not the plan's.
    #[error(
        "the deployment changed since the plan was made: topology hash {expected} then, {actual} now"
    )]
    Topology {
        /// The plan's.
        expected: String,
        /// The live one.
        actual: String,
    },
    /// The members cannot be listed, or make no inventory.
    #[error("inventory: {0}")]
    Inventory(String),
    /// A right is not proven.
    #[error("{member}: the right {right} is not proven: {reason}")]
    Authority {
        /// The member.
        member: String,
        /// Which right.
        right: &'static str,
        /// What the executor says.
        reason: String,
    },
    /// A member is not in the state that the run needs.
    #[error("{member}: {reason}")]
    Member {
        /// The member.
        member: String,
        /// What is wrong.
        reason: String,
    },
    /// Operations failed.
    #[error("{}", first_of(.failures))]
    Operations {
        /// Each with the cause.
        failures: Vec<(String, String)>,
    },
    /// As many operations were begun as was asked for.
    #[error("stopped after {0} operations, as was asked for")]
    StepsDone(u64),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A run failed and the members that it had stopped were told to start.
    #[error("{cause}")]
    Restarted {
        /// Why the run did not go on.
        cause: Box<Error>,
        /// Members that run again.
        restarted: Vec<String>,
        /// Members that could not be started, with the cause.
        failed: Vec<(String, String)>,
    },
}

fn first_of(failures: &[(String, String)]) -> String {
    let text = failures.first().map(|(what, why)| format!("{what}: {why}")).unwrap_or_default();
    match failures.len() {
        0 | 1 => text,
        more => format!("{text} (and {} more)", more - 1),
    }
}

impl Error {
    /// Returns the cause, without what was done after it.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Restarted { cause, .. } => cause,
            other => other,
        }
    }

    /// Says whether the user stopped the run.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self.cause(),
            Self::Interrupted | Self::StepsDone(_) | Self::Store(store::Error::Interrupted)
        )
    }
}

/// What a runner tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An operation changed its state.
    Operation {
        /// Its name, such as `stop-<member>`.
        id: String,
        /// Its state's name.
        state: &'static str,
        /// What else is to be said.
        detail: Option<String>,
    },
    /// Something else.
    Message(String),
}

/// Who is told.
pub type Observer<'a> = &'a (dyn Fn(Notice) + Sync);

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
    store: &'a Store,
    executor: &'a dyn Executor,
    options: Options,
    progress: &'a Progress,
    observer: Observer<'a>,
    journal: Journal,
    state: RunState,
    staging: Staging,
    members: HashMap<String, MemberLock>,
    /// Manifests that this process has read back.
    read_back: HashSet<String>,
    stats: IngestStats,
    steps: u64,
    _lock: Box<dyn Lock>,
}

/// What a runner works with.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The store.
    pub store: &'a Store,
    /// What drives the members.
    pub executor: &'a dyn Executor,
    /// Counters, and the wish to stop.
    pub progress: &'a Progress,
    /// Who is told.
    pub observer: Observer<'a>,
}

impl<'a> Runner<'a> {
    /// Begins a run: its plan is durable when this returns, and nothing else was done.
    ///
    /// # Errors
    /// Another run of the deployment is under way or unfinished, or the storage failed.
    pub fn start(parts: Parts<'a>, plan: &Plan, options: Options) -> Result<Self, Error> {
        let deployment = &plan.request.deployment;
        let lock = lock(parts.store, deployment)?;
        if let Some(run) = unfinished(parts.store, deployment)? {
            return Err(Error::Unfinished { deployment: deployment.clone(), run });
        }
        let run = new_name()?;
        let now = UnixNanos::now();
        let mut journal = Journal::create(parts.store.backend(), &run)?;
        let state = RunState::new(plan, now.0);
        let runner = |journal| Self::with(parts, options, journal, state, lock);
        let event = Event::Planned { plan: Box::new(plan.clone()) };
        journal.append(parts.store.backend(), now, &event)?;
        runner(journal)
    }

    /// Takes up a run that was begun earlier.
    ///
    /// # Errors
    /// There is no such run, its journal cannot be followed, or it is under way elsewhere.
    pub fn resume(parts: Parts<'a>, run: &str, options: Options) -> Result<Self, Error> {
        // The deployment is in the journal, which may only be mended under the deployment's lock.
        let (_, records) = Journal::open::<Event>(parts.store.backend(), run, false)?;
        let state = replay(run, &records)?;
        let lock = lock(parts.store, &state.plan.request.deployment)?;
        let (journal, records) = Journal::open::<Event>(parts.store.backend(), run, true)?;
        let state = replay(run, &records)?;
        let request = &state.plan.request;
        let service = |name: &str, environment: &str| format!("{name} {environment}");
        let expected = service(&request.executor, &request.environment);
        let actual = service(parts.executor.name(), parts.executor.environment());
        if expected != actual {
            return Err(Error::OtherExecutor { run: run.to_owned(), expected, actual });
        }
        Self::with(parts, options, journal, state, lock)
    }

    fn with(
        parts: Parts<'a>,
        mut options: Options,
        journal: Journal,
        state: RunState,
        lock: Box<dyn Lock>,
    ) -> Result<Self, Error> {
        let Parts { store, executor, progress, observer } = parts;
        options.ingest.algorithm = state.plan.request.checksum.into();
        options.concurrency = options.concurrency.max(1);
        let staging = Staging::open(&options.staging)?;
        let mut members = HashMap::new();
        for target in &state.plan.targets {
            let id = &target.row.id;
            let Some(file) = staging.lock(&state.plan.request.deployment, id)? else {
                return Err(Error::InFlight { member: id.clone() });
            };
            members.insert(id.clone(), file);
        }
        Ok(Self {
            store,
            executor,
            options,
            progress,
            observer,
            journal,
            state,
            staging,
            members,
            read_back: HashSet::new(),
            stats: IngestStats::default(),
            steps: 0,
            _lock: lock,
        })
    }

    /// Returns where the run stands.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Returns the run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.journal.run()
    }

    /// Goes on to the end. Members that are stopped when it fails are started again.
    ///
    /// # Errors
    /// Every [`Error`]; what was done is kept, and the run can be resumed.
    pub fn run(mut self) -> Result<Report, Error> {
        match self.go() {
            Ok(report) => Ok(report),
            // Whoever counts steps wants to see the state between them.
            Err(cause @ Error::StepsDone(_)) => Err(cause),
            Err(Error::Operations { .. }) if self.progress.is_interrupted() => {
                Err(self.restart_after(Error::Interrupted))
            }
            Err(cause) => Err(self.restart_after(cause)),
        }
    }

    fn go(&mut self) -> Result<Report, Error> {
        if let Outcome::Abandoned { reason } = &self.state.outcome {
            let (run, reason) = (self.name().to_owned(), reason.clone());
            self.remove_leftovers()?;
            return Err(Error::Abandoned { run, reason });
        }
        while self.state.outcome == Outcome::Unfinished {
            self.check()?;
            match self.state.next_kind() {
                Some(Kind::Stop) => self.stop_all()?,
                Some(Kind::CreateSnapshot) => self.create_all()?,
                Some(Kind::Start) => self.start_all()?,
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
        if self.state.outcome != Outcome::Unfinished {
            return self.remove_leftovers().map(drop);
        }
        let (_, failed) = self.start_stopped();
        if !failed.is_empty() {
            return Err(Error::Operations { failures: failed });
        }
        self.record(Event::Abandoned { reason: reason.to_owned() })?;
        self.remove_leftovers().map(drop)
    }

    fn check(&self) -> Result<(), Error> {
        if self.progress.is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Makes an event true: checks that it may happen and appends it to the journal.
    fn record(&mut self, event: Event) -> Result<(), Error> {
        let now = UnixNanos::now();
        let number = self.journal.len() + 1;
        self.state.apply(&event, now.0).map_err(|reason| Error::State {
            run: self.journal.run().to_owned(),
            source: state::Error::Illegal { record: number, reason },
        })?;
        self.journal.append(self.store.backend(), now, &event)?;
        self.tell(&event);
        Ok(())
    }

    fn tell(&self, event: &Event) {
        let of = |sequence: u32, detail: Option<String>| {
            if let Some((operation, state)) = self.state.with_states().nth(sequence as usize) {
                let (id, state) = (operation.id.clone(), state.name());
                (self.observer)(Notice::Operation { id, state, detail });
            }
        };
        match event {
            Event::Started { operations, .. } => operations.iter().for_each(|one| of(*one, None)),
            Event::Completed { operations } => {
                for one in operations {
                    of(one.operation, detail(&one.receipt));
                }
            }
            Event::Failed { operation, reason } => of(*operation, Some(reason.clone())),
            Event::Durable { operation, .. } => of(*operation, None),
            _ => {}
        }
    }

    /// Records that operations begin.
    fn begin(&mut self, operations: Vec<u32>, before: Option<Vec<String>>) -> Result<(), Error> {
        if self.options.steps_max.is_some_and(|most| self.steps >= most) {
            return Err(Error::StepsDone(self.steps));
        }
        self.steps += operations.len() as u64;
        self.record(Event::Started { operations, before })
    }

    fn complete(&mut self, operation: u32, receipt: Receipt) -> Result<(), Error> {
        self.record(Event::Completed { operations: vec![Completed { operation, receipt }] })
    }

    /// Records that an operation failed, and returns that as an error.
    fn fail(&mut self, operation: u32, reason: String) -> Error {
        let id = self.state.plan.operations[operation as usize].id.clone();
        let error = Error::Operations { failures: vec![(id, reason.clone())] };
        match self.record(Event::Failed { operation, reason }) {
            Ok(()) => error,
            Err(storage) => storage,
        }
    }

    /// Returns what remains to be done of one kind, with the members, in the plan's order.
    fn open(&self, kind: Kind) -> Vec<(u32, Row)> {
        let open = self
            .state
            .with_states()
            .filter(|(operation, state)| operation.kind == kind && !state.is_done());
        open.filter_map(|(operation, _)| {
            let target = self.state.plan.target(operation.target.as_deref()?)?;
            Some((operation.sequence, target.member()))
        })
        .collect()
    }

    /// Returns what every call to the executor about a member gets.
    fn call(&self, member: &str) -> Call {
        Call {
            interrupted: self.progress.interrupt_flag(),
            lock: self.members.get(member).cloned(),
            timeout: None,
        }
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

fn replay(run: &str, records: &[journal::Recorded<Event>]) -> Result<RunState, Error> {
    RunState::replay(records).map_err(|source| Error::State { run: run.to_owned(), source })
}

/// Takes the lock of a deployment's runs.
fn lock(store: &Store, deployment: &str) -> Result<Box<dyn Lock>, Error> {
    let name = format!("run-{}", Digest::of(deployment.as_bytes()).short());
    let lock = store.backend().try_lock(&name, LockMode::Exclusive).map_err(store::Error::from)?;
    lock.ok_or_else(|| Error::Locked { deployment: deployment.to_owned() })
}

/// Makes the name of a new run: time, so that names sort, and chance, so that none is given twice.
fn new_name() -> Result<String, Error> {
    let mut chance = [0; 4];
    getrandom::fill(&mut chance)
        .map_err(|error| store::Error::Random { reason: error.to_string() })?;
    let now = jiff::Timestamp::from_nanosecond(UnixNanos::now().0.into()).unwrap_or_default();
    let time = now.strftime("%Y%m%dt%H%M%Sz");
    Ok(format!("{time}-{}", crate::digest::hex(&chance)))
}

/// Returns the newest run of a deployment that has not ended, or has left something to be removed.
///
/// # Errors
/// A journal cannot be read.
pub fn unfinished(store: &Store, deployment: &str) -> Result<Option<String>, Error> {
    for run in journal::open_runs(store.backend())?.into_iter().rev() {
        let state = look(store, &run)?;
        if state.plan.request.deployment == deployment && !state.cleaned {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// Returns where a run stands, without touching it.
///
/// # Errors
/// There is no such run, or its journal cannot be followed.
pub fn look(store: &Store, run: &str) -> Result<RunState, Error> {
    let (_, records) = Journal::open::<Event>(store.backend(), run, false)?;
    replay(run, &records)
}

impl From<executor::Error> for Error {
    fn from(error: executor::Error) -> Self {
        match error {
            executor::Error::Interrupted => Self::Interrupted,
            error => Self::Operations { failures: vec![("service".into(), error.to_string())] },
        }
    }
}
