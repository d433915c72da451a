//! Any run: what backups and restores have in common for whoever lists them, shows them or goes on
//! with them. The first record of a journal says what a run is.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::course::{self, Notice, Observer};
use super::error::Error;
use super::event::Event;
use super::journal::{self, Journal};
use super::ledger::{Ledger, Step};
use super::restore::{self, RestoreState};
use super::state::{self, RunState};
use crate::store::Store;

/// Of what kind a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It makes a generation.
    Backup,
    /// It brings one back into a service.
    Restore,
}

impl Kind {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Self::Backup => "a backup",
            Self::Restore => "a restore",
        }
    }
}

/// Where a run of any kind stands.
#[derive(Clone, Debug)]
pub enum AnyRun {
    /// A backup.
    Backup(Box<RunState>),
    /// A restore.
    Restore(Box<RestoreState>),
}

/// An operation of any run, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'s> {
    /// Its place in the plan.
    pub sequence: u32,
    /// Its name, such as `stop-<member>`.
    pub id: &'s str,
    /// Its state's name.
    pub state: &'static str,
    /// Why it failed or has nothing to do.
    pub reason: Option<&'s str>,
    /// How often it was begun.
    pub attempts: u32,
    /// Whether nothing remains to be done.
    pub is_done: bool,
}

/// Returns of what kind a run is.
///
/// # Errors
/// There is no such run, or its first record cannot be read.
pub fn kind(store: &Store, run: &str) -> Result<Kind, Error> {
    let first = journal::first_event(store.backend(), run)?;
    // Whatever is not known is a backup's to refuse.
    Ok(if first == restore::FIRST_EVENT { Kind::Restore } else { Kind::Backup })
}

/// Checks that a run is of the kind that is needed.
pub(super) fn expect(store: &Store, run: &str, expected: Kind) -> Result<(), Error> {
    let actual = kind(store, run)?;
    if actual == expected {
        return Ok(());
    }
    let (expected, actual) = (expected.with_article(), actual.with_article());
    Err(Error::OtherKind { run: run.to_owned(), expected, actual })
}

/// Returns where a run stands, without touching it.
///
/// # Errors
/// There is no such run, or its journal cannot be followed.
pub fn look(store: &Store, run: &str) -> Result<AnyRun, Error> {
    match kind(store, run)? {
        Kind::Backup => {
            let (_, records) = Journal::open::<Event>(store.backend(), run, false)?;
            Ok(AnyRun::Backup(Box::new(course::replay(run, &records)?)))
        }
        Kind::Restore => {
            let (_, records) = Journal::open::<restore::Event>(store.backend(), run, false)?;
            Ok(AnyRun::Restore(Box::new(course::replay(run, &records)?)))
        }
    }
}

impl AnyRun {
    /// Returns of what kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Backup(_) => Kind::Backup,
            Self::Restore(_) => Kind::Restore,
        }
    }

    /// Returns the deployment whose members it works on.
    #[must_use]
    pub fn deployment(&self) -> &str {
        match self {
            Self::Backup(state) => &state.plan.request.deployment,
            Self::Restore(state) => &state.plan.request.into,
        }
    }

    /// Returns the executor's name.
    #[must_use]
    pub fn executor(&self) -> &str {
        match self {
            Self::Backup(state) => &state.plan.request.executor,
            Self::Restore(state) => &state.plan.request.executor,
        }
    }

    /// Returns the word for how it ended.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Backup(state) => match state.outcome {
                state::Outcome::Unfinished => "unfinished",
                state::Outcome::Durable { .. } => "durable",
                state::Outcome::Abandoned { .. } => "abandoned",
            },
            Self::Restore(state) => match state.outcome {
                restore::Outcome::Unfinished => "unfinished",
                restore::Outcome::Restored => "restored",
                restore::Outcome::Abandoned { .. } => "abandoned",
            },
        }
    }

    /// Returns why it was given up.
    #[must_use]
    pub fn abandoned(&self) -> Option<&str> {
        match self {
            Self::Backup(state) => match &state.outcome {
                state::Outcome::Abandoned { reason } => Some(reason),
                _ => None,
            },
            Self::Restore(state) => match &state.outcome {
                restore::Outcome::Abandoned { reason } => Some(reason),
                _ => None,
            },
        }
    }

    /// Says whether it has not ended.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.outcome() == "unfinished"
    }

    /// Says whether nothing of it remains to be done or removed.
    #[must_use]
    pub fn is_cleaned(&self) -> bool {
        match self {
            Self::Backup(state) => state.cleaned,
            Self::Restore(state) => state.cleaned,
        }
    }

    /// Returns the generation: the one that a backup has made, or that a restore brings back.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        match self {
            Self::Backup(state) => match state.outcome {
                state::Outcome::Durable { generation, .. } => Some(generation),
                _ => None,
            },
            Self::Restore(state) => Some(state.plan.request.generation),
        }
    }

    /// Returns when it began and when it last did something, in nanoseconds since 1970.
    #[must_use]
    pub fn times(&self) -> (i64, i64) {
        match self {
            Self::Backup(state) => state.times,
            Self::Restore(state) => state.times,
        }
    }

    /// Returns members that it has stopped and not started again.
    #[must_use]
    pub fn to_restart(&self) -> Vec<&str> {
        match self {
            Self::Backup(state) => state.to_restart(),
            Self::Restore(state) => state.to_restart(),
        }
    }

    /// Returns its operations, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<Line<'_>> {
        match self {
            Self::Backup(state) => lines(state.ledger()),
            Self::Restore(state) => lines(state.ledger()),
        }
    }

    /// Returns the manifests of artifacts that must not be collected while it can be resumed.
    #[must_use]
    pub fn manifests(&self) -> Vec<&str> {
        match self {
            _ if !self.is_unfinished() => Vec::new(),
            Self::Backup(state) => state.manifests().collect(),
            Self::Restore(state) => state.manifests().collect(),
        }
    }
}

fn lines<K: Step, R: Clone>(ledger: &Ledger<K, R>) -> Vec<Line<'_>> {
    let lines = ledger.with_states().map(|(operation, state)| Line {
        sequence: operation.sequence,
        id: &operation.id,
        state: state.name(),
        reason: state.reason(),
        attempts: ledger.attempts(operation.sequence),
        is_done: state.is_done(),
    });
    lines.collect()
}

/// Returns the newest restore into a deployment that has not ended, or has left something to be
/// removed.
///
/// # Errors
/// The storage failed, or a journal of the deployment cannot be followed.
pub fn unfinished_restore(
    store: &Store,
    deployment: &str,
) -> Result<Option<(String, Box<RestoreState>)>, Error> {
    let open = Open::of(store, deployment)?;
    let mut newest_first = open.runs.into_iter().rev();
    Ok(newest_first.find_map(|(run, state)| match state {
        AnyRun::Restore(state) if !state.cleaned => Some((run, state)),
        _ => None,
    }))
}

/// The runs of one deployment whose journals are not closed.
#[derive(Debug)]
pub(super) struct Open {
    /// Oldest first, as their names sort.
    runs: Vec<(String, AnyRun)>,
    /// Runs of which nobody knows whose they are, with the reason.
    unknown: Vec<(String, Error)>,
}

impl Open {
    /// Looks at the open runs of a deployment. Those of others are their own business: they are not
    /// read any further.
    ///
    /// # Errors
    /// The storage failed, or a journal of this deployment cannot be followed.
    pub fn of(store: &Store, deployment: &str) -> Result<Self, Error> {
        let mut open = Self { runs: Vec::new(), unknown: Vec::new() };
        for run in journal::open_runs(store.backend())? {
            match owner(store, &run) {
                Ok(Some(owner)) if owner == deployment => {
                    let state = look(store, &run)?;
                    open.runs.push((run, state));
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let reason = "a run begins with its plan".to_owned();
                    let source = state::Error::Illegal { record: 1, reason };
                    open.unknown.push((run.clone(), Error::State { run, source }));
                }
                Err(error @ journal::Error::Backend(_)) => return Err(error.into()),
                Err(error) => open.unknown.push((run, error.into())),
            }
        }
        Ok(open)
    }

    /// Returns the runs that have not ended, or have left something to be removed, newest first.
    pub fn unfinished(&self) -> impl Iterator<Item = (&str, &AnyRun)> {
        let runs = self.runs.iter().rev().filter(|(_, state)| !state.is_cleaned());
        runs.map(|(run, state)| (run.as_str(), state))
    }

    /// Tells which runs cannot be read.
    pub fn tell(&self, observer: Observer<'_>) {
        for (run, error) in &self.unknown {
            let text =
                format!("the run {run} cannot be read, and whose it is is not known: {error}");
            observer(Notice::Message(text));
        }
    }

    /// Closes the journals of runs that were killed when nothing else remained to be done. Only
    /// under the deployment's lock.
    pub fn close(&self, store: &Store) -> Result<(), Error> {
        for (run, _) in self.runs.iter().filter(|(_, state)| state.is_cleaned()) {
            let (journal, _) = Journal::open::<IgnoredAny>(store.backend(), run, true)?;
            journal.close(store.backend())?;
        }
        Ok(())
    }
}

/// Returns the deployment whose members a run works on, as its first record says; `None` if that is
/// no plan.
fn owner(store: &Store, run: &str) -> Result<Option<String>, journal::Error> {
    #[derive(Deserialize)]
    struct First {
        event: String,
        plan: Option<Planned>,
    }
    #[derive(Deserialize)]
    struct Planned {
        request: Request,
    }
    #[derive(Deserialize)]
    struct Request {
        deployment: Option<String>,
        into: Option<String>,
    }
    let First { event, plan } = journal::first(store.backend(), run)?;
    let request = plan.map(|plan| plan.request);
    let is_restore = event == restore::FIRST_EVENT;
    Ok(request.and_then(|request| if is_restore { request.into } else { request.deployment }))
}
