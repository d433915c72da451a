//! Errors: why a run did not come to its end.

use super::{executor, journal, restore, staging, state};
use crate::store;

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
    /// The restore plan.
    #[error(transparent)]
    RestorePlan(Box<restore::plan::Error>),
    /// The run is of another kind.
    #[error("the run {run} is {actual}, not {expected}")]
    OtherKind {
        /// The run.
        run: String,
        /// What was asked for: `a backup` or `a restore`.
        expected: &'static str,
        /// What it is.
        actual: &'static str,
    },
    /// An artifact in the store is damaged.
    #[error("{member}: the store is damaged at {path}: {reason}")]
    Damaged {
        /// The member.
        member: String,
        /// The path in the generation.
        path: String,
        /// What is wrong.
        reason: String,
    },
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
    #[error("stopped after {steps} operations, as was asked for")]
    StepsDone {
        /// How many.
        steps: u64,
        /// Members that the run has stopped, and that are stopped still.
        stopped: Vec<String>,
    },
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A restore ended after a part was loaded: the members stay stopped, because a half restored
    /// deployment must not run.
    #[error("{cause}")]
    LeftStopped {
        /// Why the restore did not go on.
        cause: Box<Error>,
        /// Members that it has stopped, and that are stopped still.
        members: Vec<String>,
    },
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
            Self::Restarted { cause, .. } | Self::LeftStopped { cause, .. } => cause,
            other => other,
        }
    }

    /// Says whether the user stopped the run.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self.cause(),
            Self::Interrupted | Self::StepsDone { .. } | Self::Store(store::Error::Interrupted)
        )
    }
}

impl From<executor::Error> for Error {
    fn from(error: executor::Error) -> Self {
        match error {
            executor::Error::Interrupted => Self::Interrupted,
            error => Self::Operations { failures: vec![("service".into(), error.to_string())] },
        }
    }
}

impl From<restore::plan::Error> for Error {
    fn from(error: restore::plan::Error) -> Self {
        Self::RestorePlan(Box::new(error))
    }
}
