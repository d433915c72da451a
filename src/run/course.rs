//! Course: a run under way. Its locks, its journal, and the state that follows from it: an event is
//! true when it is in the journal, and it gets there only if it may happen.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::event::Completed;
use super::executor::Executor;
use super::inventory::Row;
use super::journal::{Journal, Recorded};
use super::ledger::{Ledger, Step};
use super::service::Service;
use super::staging::Staging;
use super::state;
use crate::backend::{Lock, LockMode};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::limits::KIB;
use crate::store::{self, IngestOptions, Progress, Store};

/// How much is kept of the end of what a failed operation said, in bytes: as canic-backup keeps of
/// a command's output.
pub const REASON_BYTES_MAX: usize = 64 * KIB;

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where content waits on its way from or to the service; made if it is missing.
    pub staging: PathBuf,
    /// How the content is ingested; the plan's checksum goes before the one in here.
    pub ingest: IngestOptions,
    /// Most downloads or uploads at once, and most members that are asked something at once.
    pub concurrency: usize,
    /// How long a member may take to stop or start after the service was told.
    pub settle: Duration,
    /// How often it is asked meanwhile.
    pub poll: Duration,
    /// Whether snapshots that the run made are removed from the service when it has no more use
    /// for them.
    pub delete_snapshots: bool,
    /// Most operations that are begun; then the run ends and can be resumed.
    pub steps_max: Option<u64>,
    /// The members as they are configured now. They count where the service has no list of its own:
    /// a plan that was made for others is refused. `None` is to believe the plan.
    pub inventory: Option<Vec<Row>>,
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
            inventory: None,
        }
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

/// Where a run stands, computed from its journal's events.
pub(super) trait Followed: Sized {
    type Kind: Step;
    type Receipt: Clone;
    type Event: Serialize + DeserializeOwned;

    /// Computes the state from the records of a journal.
    fn replay(records: &[Recorded<Self::Event>]) -> Result<Self, state::Error>;
    /// Takes an event, or says why it cannot have happened.
    fn apply(&mut self, event: &Self::Event, time: i64) -> Result<(), String>;
    fn ledger(&self) -> &Ledger<Self::Kind, Self::Receipt>;
    /// The deployment whose members the run works on.
    fn works_on(&self) -> &str;
    /// The executor and the environment that the plan is for.
    fn executor(&self) -> (&str, &str);
    /// The members that the run works on, as the executor knows them.
    fn rows(&self) -> Vec<Row>;
    fn row(&self, member: &str) -> Option<Row>;

    fn started(operations: Vec<u32>, before: Option<Vec<String>>) -> Self::Event;
    fn completed(operations: Vec<Completed<Self::Receipt>>) -> Self::Event;
    fn failed(operation: u32, reason: String) -> Self::Event;
    fn skipped(operations: Vec<u32>, reason: String) -> Self::Event;
    fn restarted(members: Vec<String>, failed: Vec<(String, String)>, cause: String)
    -> Self::Event;
    /// The operations that an event is about, each with what else is to be said.
    fn told(event: &Self::Event) -> Vec<(u32, Option<String>)>;
    /// The members that the run has stopped, or may have, and not started again; in the order in
    /// which they are to be started.
    fn to_restart(&self) -> Vec<&str>;
}

/// A run under way.
pub(super) struct Course<'a, S> {
    pub store: &'a Store,
    pub service: Service<'a>,
    pub progress: &'a Progress,
    pub observer: Observer<'a>,
    pub state: S,
    pub staging: Staging,
    pub options: Options,
    journal: Journal,
    steps: u64,
    _lock: Box<dyn Lock>,
}

impl<'a, S: Followed> Course<'a, S> {
    /// Begins a run under its deployment's lock: `planned` is durable when this returns.
    pub fn start(
        parts: Parts<'a>,
        options: Options,
        state: S,
        (planned, now): (&S::Event, UnixNanos),
        lock: Box<dyn Lock>,
    ) -> Result<Self, Error> {
        let backend = parts.store.backend();
        let journal = Journal::create(backend, &new_name()?)?;
        let mut course = Self::with(parts, options, journal, state, lock)?;
        course.journal.append(backend, now, planned)?;
        Ok(course)
    }

    /// Takes up a run that was begun earlier.
    pub fn resume(parts: Parts<'a>, run: &str, options: Options) -> Result<Self, Error> {
        let backend = parts.store.backend();
        // The deployment is in the journal, which may only be mended under the deployment's lock.
        let (_, records) = Journal::open::<S::Event>(backend, run, false)?;
        let lock = lock(parts.store, replay::<S>(run, &records)?.works_on())?;
        let (journal, records) = Journal::open::<S::Event>(backend, run, true)?;
        let state: S = replay(run, &records)?;
        let service = |(name, environment): (&str, &str)| format!("{name} {environment}");
        let expected = service(state.executor());
        let actual = service((parts.executor.name(), parts.executor.environment()));
        if expected != actual {
            return Err(Error::OtherExecutor { run: run.to_owned(), expected, actual });
        }
        Self::with(parts, options, journal, state, lock)
    }

    fn with(
        parts: Parts<'a>,
        mut options: Options,
        journal: Journal,
        state: S,
        lock: Box<dyn Lock>,
    ) -> Result<Self, Error> {
        let Parts { store, executor, progress, observer } = parts;
        options.concurrency = options.concurrency.max(1);
        let staging = Staging::open(&options.staging)?;
        let mut locks = HashMap::new();
        for Row { id, .. } in state.rows() {
            let Some(file) = staging.lock(state.works_on(), &id)? else {
                return Err(Error::InFlight { member: id });
            };
            locks.insert(id, file);
        }
        let (settle, poll) = (options.settle, options.poll);
        let service = Service { executor, progress, settle, poll, locks };
        Ok(Self {
            store,
            service,
            progress,
            observer,
            state,
            staging,
            options,
            journal,
            steps: 0,
            _lock: lock,
        })
    }

    /// Returns the run's name.
    pub fn name(&self) -> &str {
        self.journal.run()
    }

    /// Makes one object of the records of a run that has ended and cleaned up.
    pub fn close(&self) -> Result<(), Error> {
        Ok(self.journal.close(self.store.backend())?)
    }

    pub fn check(&self) -> Result<(), Error> {
        if self.progress.is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub fn say(&self, text: String) {
        (self.observer)(Notice::Message(text));
    }

    /// Makes an event true: checks that it may happen and appends it to the journal.
    pub fn record(&mut self, event: S::Event) -> Result<(), Error> {
        let now = UnixNanos::now();
        let number = self.journal.len() + 1;
        self.state.apply(&event, now.0).map_err(|reason| Error::State {
            run: self.journal.run().to_owned(),
            source: state::Error::Illegal { record: number, reason },
        })?;
        self.journal.append(self.store.backend(), now, &event)?;
        for (sequence, detail) in S::told(&event) {
            if let Ok((operation, state)) = self.state.ledger().get(sequence) {
                let (id, state) = (operation.id.clone(), state.name());
                (self.observer)(Notice::Operation { id, state, detail });
            }
        }
        Ok(())
    }

    /// Records that operations begin.
    pub fn begin(
        &mut self,
        operations: Vec<u32>,
        before: Option<Vec<String>>,
    ) -> Result<(), Error> {
        if self.options.steps_max.is_some_and(|most| self.steps >= most) {
            let stopped = self.state.to_restart().into_iter().map(str::to_owned).collect();
            return Err(Error::StepsDone { steps: self.steps, stopped });
        }
        self.steps += operations.len() as u64;
        self.record(S::started(operations, before))
    }

    pub fn complete(&mut self, operation: u32, receipt: S::Receipt) -> Result<(), Error> {
        self.record(S::completed(vec![Completed { operation, receipt }]))
    }

    /// Records that an operation failed; returns its name and the reason.
    pub fn failed(&mut self, operation: u32, reason: String) -> Result<(String, String), Error> {
        let reason = end_of(reason);
        let id = self.state.ledger().get(operation).map(|(operation, _)| operation.id.clone());
        self.record(S::failed(operation, reason.clone()))?;
        Ok((id.unwrap_or_default(), reason))
    }

    /// Records that an operation failed, and returns that as an error.
    pub fn fail(&mut self, operation: u32, reason: String) -> Error {
        match self.failed(operation, reason) {
            Ok(failure) => Error::Operations { failures: vec![failure] },
            Err(storage) => storage,
        }
    }

    /// Skips all operations of a kind that the service cannot do; says whether it did.
    pub fn skip_without(&mut self, able: bool, kind: S::Kind, what: &str) -> Result<bool, Error> {
        if able {
            return Ok(false);
        }
        let operations = self.state.ledger().open(kind).map(|(operation, _)| operation).collect();
        let reason = format!("{} does not {what}", self.service.executor.name());
        self.record(S::skipped(operations, reason))?;
        Ok(true)
    }

    /// Returns what remains to be done of one kind, with the members, in the plan's order.
    pub fn open(&self, kind: S::Kind) -> Vec<(u32, Row)> {
        let open = self.state.ledger().open(kind);
        open.filter_map(|(sequence, member)| Some((sequence, self.state.row(member)?))).collect()
    }

    /// Starts all members whose starts remain. One that cannot be started does not keep the others
    /// stopped.
    pub fn start_all(&mut self, kind: S::Kind, running: &S::Receipt) -> Result<(), Error> {
        if self.skip_without(self.service.has_control(), kind, "stop and start")? {
            return Ok(());
        }
        let mut failures = Vec::new();
        for (operation, member) in self.open(kind) {
            if failures.is_empty() {
                self.begin(vec![operation], None)?;
                match self.service.start(&member) {
                    Ok(()) => self.complete(operation, running.clone())?,
                    Err(reason) => failures.push(self.failed(operation, reason)?),
                }
            } else if let Err(reason) = self.service.start(&member) {
                failures.push((format!("{}-{}", kind.word(), member.id), reason));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Operations { failures }) }
    }

    /// Starts the members that the run has stopped or may have, in the plan's order.
    pub fn start_stopped(&self) -> (Vec<String>, Vec<(String, String)>) {
        let stopped = self.state.to_restart();
        self.service.start_again(stopped.into_iter().filter_map(|id| self.state.row(id)).collect())
    }

    /// Starts what this run has stopped, after `cause` has ended it, and says both; `counts` if the
    /// stops are to be repeated because of that.
    pub fn restart_after(&mut self, cause: Error, counts: bool) -> Error {
        let (restarted, failed) = self.start_stopped();
        if restarted.is_empty() && failed.is_empty() {
            return cause;
        }
        if counts {
            let event = S::restarted(restarted.clone(), failed.clone(), end_of(cause.to_string()));
            if let Err(error) = self.record(event) {
                self.say(format!("that members were started again could not be recorded: {error}"));
            }
        }
        Error::Restarted { cause: Box::new(cause), restarted, failed }
    }
}

/// Returns the end of a text, as much as is kept.
fn end_of(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        let mut from = text.len() - REASON_BYTES_MAX;
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text.drain(..from);
    }
    text
}

pub(super) fn replay<S: Followed>(run: &str, records: &[Recorded<S::Event>]) -> Result<S, Error> {
    S::replay(records).map_err(|source| Error::State { run: run.to_owned(), source })
}

/// Takes the lock of a deployment's runs.
pub(super) fn lock(store: &Store, deployment: &str) -> Result<Box<dyn Lock>, Error> {
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
