//! Runner of restores: drives a restore plan through an executor, and writes down every step before
//! and after it is taken. [`Runner::resume`] goes on from wherever a restore ended.

mod check;
mod finish;
mod steps;
mod transfer;

use super::event::{Event, Receipt};
use super::plan::{OperationKind as Kind, Plan};
use super::source::Source;
use super::state::{Outcome, RestoreState};
use crate::clock::UnixNanos;
use crate::run::any;
use crate::run::course::{self, Course, Followed, Options, Parts};
use crate::run::error::Error;
use crate::run::event::Completed;
use crate::run::inventory::Row;
use crate::run::journal::Recorded;
use crate::run::ledger::Ledger;
use crate::run::state;
use crate::store::Tree;

/// A member of a finished restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Its identity in the generation.
    pub source: String,
    /// The member that it was restored into.
    pub target: String,
    /// The artifact's checksum.
    pub checksum: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Its code afterwards, if the service says.
    pub module_hash: Option<String>,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The run.
    pub run: String,
    /// The deployment that was restored into.
    pub into: String,
    /// The deployment that the generation is of.
    pub deployment: String,
    /// The generation's number.
    pub generation: u64,
    /// What the topology was compared with in the end.
    pub topology: String,
    /// Its members, parents first.
    pub members: Vec<MemberReport>,
    /// What is left at the service, with the cause.
    pub left: Vec<(String, String)>,
}

/// A restore under way.
pub struct Runner<'a> {
    course: Course<'a, RestoreState>,
    /// The generation, once something was read from it.
    tree: Option<Tree>,
    /// Whether this process has looked at all members before it loaded anything.
    looked: bool,
    topology: String,
}

impl<'a> Runner<'a> {
    /// Begins a restore: its plan is durable when this returns, and nothing else was done.
    ///
    /// # Errors
    /// Another run of the deployment is under way or unfinished, the plan is not what the store's
    /// generation gives, or the storage failed.
    pub fn start(parts: Parts<'a>, plan: &Plan, options: Options) -> Result<Self, Error> {
        plan.check()?;
        Source::reread(parts.store, plan)?;
        if !parts.executor.capabilities().restore {
            let executor = parts.executor.name().to_owned();
            return Err(super::plan::Error::Executor { executor }.into());
        }
        let into = &plan.request.into;
        let lock = course::lock(parts.store, into)?;
        let open = any::Open::of(parts.store, into)?;
        open.tell(parts.observer);
        open.close(parts.store)?;
        if let Some((run, _)) = open.unfinished().next() {
            return Err(Error::Unfinished { deployment: into.clone(), run: run.to_owned() });
        }
        let now = UnixNanos::now();
        let planned = Event::RestorePlanned { plan: Box::new(plan.clone()) };
        let state = RestoreState::new(plan, now.0);
        Ok(Self::with(Course::start(parts, options, state, (&planned, now), lock)?))
    }

    /// Takes up a restore that was begun earlier.
    ///
    /// # Errors
    /// There is no such restore, its journal cannot be followed, or it is under way elsewhere.
    pub fn resume(parts: Parts<'a>, run: &str, options: Options) -> Result<Self, Error> {
        any::expect(parts.store, run, any::Kind::Restore)?;
        Ok(Self::with(Course::resume(parts, run, options)?))
    }

    fn with(course: Course<'a, RestoreState>) -> Self {
        Self { course, tree: None, looked: false, topology: String::new() }
    }

    /// Returns where the restore stands.
    #[must_use]
    pub fn state(&self) -> &RestoreState {
        &self.course.state
    }

    /// Returns the run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.course.name()
    }

    /// Goes on to the end. If it fails before anything was loaded, what it had stopped is started
    /// again; after that the members stay stopped ([`Error::LeftStopped`]).
    ///
    /// # Errors
    /// Every [`Error`]; what was done is kept, and the restore can be resumed.
    pub fn run(mut self) -> Result<Report, Error> {
        let cause = match self.go() {
            Ok(report) => return Ok(report),
            // Whoever counts steps wants to see the state between them.
            Err(cause @ Error::StepsDone { .. }) => return Err(cause),
            Err(Error::Operations { .. }) if self.course.progress.is_interrupted() => {
                Error::Interrupted
            }
            Err(cause) => cause,
        };
        let state = &self.course.state;
        if state.is_half_loaded() {
            let members = state.to_restart().into_iter().map(str::to_owned).collect();
            return Err(Error::LeftStopped { cause: Box::new(cause), members });
        }
        let counts = !state.is_loading();
        Err(self.course.restart_after(cause, counts))
    }

    fn go(&mut self) -> Result<Report, Error> {
        if let Outcome::Abandoned { reason } = &self.course.state.outcome {
            let (run, reason) = (self.course.name().to_owned(), reason.clone());
            self.remove_leftovers()?;
            return Err(Error::Abandoned { run, reason });
        }
        while self.course.state.outcome == Outcome::Unfinished {
            self.course.check()?;
            match self.course.state.ledger().next_kind() {
                Some(Kind::Validate) => self.validate()?,
                Some(Kind::Fetch | Kind::Upload) => self.transfer()?,
                Some(Kind::Stop) => self.stop_all()?,
                Some(Kind::Load) => self.load_all()?,
                Some(Kind::Start) => self.course.start_all(Kind::Start, &Receipt::Running {})?,
                Some(Kind::CheckMember) => self.check_members()?,
                Some(Kind::CheckDeployment) | None => self.check_deployment()?,
            }
        }
        self.clean()
    }

    /// Gives a restore up, and removes its staging and its uploads. What it had stopped is started
    /// again, unless only a part was loaded: then the members stay stopped, and are returned.
    ///
    /// # Errors
    /// It has come to its end, a member cannot be started, or the storage failed.
    pub fn abandon(mut self, reason: &str) -> Result<Vec<String>, Error> {
        if self.course.state.outcome != Outcome::Unfinished {
            return self.remove_leftovers().map(|_| Vec::new());
        }
        let stopped = self.course.state.to_restart().into_iter().map(str::to_owned).collect();
        let half = self.course.state.is_half_loaded();
        if !half {
            let (_, failed) = self.course.start_stopped();
            if !failed.is_empty() {
                return Err(Error::Operations { failures: failed });
            }
        }
        self.course.record(Event::Abandoned { reason: reason.to_owned() })?;
        self.remove_leftovers()?;
        Ok(if half { stopped } else { Vec::new() })
    }
}

impl Followed for RestoreState {
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
        &self.plan.request.into
    }

    fn executor(&self) -> (&str, &str) {
        (&self.plan.request.executor, &self.plan.request.environment)
    }

    fn rows(&self) -> Vec<Row> {
        self.plan.rows()
    }

    fn row(&self, member: &str) -> Option<Row> {
        self.plan.member(member).map(|member| self.plan.row(member))
    }

    fn started(operations: Vec<u32>, before: Option<Vec<String>>) -> Event {
        Event::Started { operations, before }
    }

    fn completed(operations: Vec<Completed<Receipt>>) -> Event {
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
            Event::Restored { operation, .. } => vec![(*operation, None)],
            _ => Vec::new(),
        }
    }

    fn to_restart(&self) -> Vec<&str> {
        self.to_restart()
    }
}

fn detail(receipt: &Receipt) -> Option<String> {
    match receipt {
        Receipt::Fetched { bytes, files, .. } => Some(format!("{files} files, {bytes} bytes")),
        Receipt::Uploaded { snapshot, .. } => Some(format!("snapshot {}", snapshot.id)),
        Receipt::Loaded { module_hash: Some(hash) }
        | Receipt::Checked { module_hash: Some(hash) } => Some(format!("code {hash}")),
        _ => None,
    }
}
