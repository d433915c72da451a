//! Ledger: the operations of a plan, each with where it stands. What all runs have in common is
//! here: how operations are numbered, which may begin, and how they end. What they mean belongs to
//! the plans and states of each kind of run.
//!
//! ```text
//! Blocked → Ready → Pending → Completed | Failed     Ready → Skipped     Failed → Pending
//! ```

use serde::{Deserialize, Serialize};

use super::event::{Completed, Receipt};
use super::plan::OperationKind;

/// What an operation may do.
pub trait Step: Copy + Eq + std::fmt::Debug {
    /// Returns the word for it in texts and operation names.
    fn word(self) -> &'static str;

    /// Says whether it moves a member's content, which is done for several members at once.
    fn is_transfer(self) -> bool;
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation<K = OperationKind> {
    /// Its place, from 0 without gaps.
    pub sequence: u32,
    /// Its phase. An operation may begin when all of earlier phases are done; within a phase
    /// operations go in order, but for transfers, of which only those of one member do.
    pub phase: u32,
    /// Its name, such as `stop-<member>`.
    pub id: String,
    /// What it does.
    pub kind: K,
    /// The member that it is done to.
    pub target: Option<String>,
}

/// Numbers the steps of each phase, in order.
#[must_use]
pub fn number<K: Step>(phases: Vec<Vec<(K, Option<&str>)>>) -> Vec<Operation<K>> {
    let steps = (0u32..).zip(phases).flat_map(|(phase, steps)| {
        steps.into_iter().map(move |(kind, target)| (phase, kind, target))
    });
    let operation = |(sequence, (phase, kind, target)): (u32, (u32, K, Option<&str>))| Operation {
        sequence,
        phase,
        id: match target {
            Some(target) => format!("{}-{target}", kind.word()),
            None => kind.word().to_owned(),
        },
        kind,
        target: target.map(str::to_owned),
    };
    (0u32..).zip(steps).map(operation).collect()
}

/// Where an operation stands, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState<R = Receipt> {
    /// Nothing may be done before the questions of the first phase are answered.
    Blocked,
    /// It may begin when its turn comes.
    Ready,
    /// It has begun; whether it did something is not known.
    Pending {
        /// For what makes a snapshot: the ones that the service had before the first attempt.
        before: Option<Vec<String>>,
    },
    /// It is done. Questions have no receipts of their own but the answers.
    Completed(Option<R>),
    /// It failed; it may be tried again.
    Failed {
        /// Why.
        reason: String,
        /// As in `Pending`.
        before: Option<Vec<String>>,
    },
    /// It has nothing to do.
    Skipped {
        /// Why.
        reason: String,
    },
}

impl<R> OperationState<R> {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Pending { .. } => "pending",
            Self::Completed(_) => "completed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// Says whether nothing remains to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Skipped { .. })
    }

    /// Says whether it has begun at some time, and counts.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Pending { .. } | Self::Failed { .. })
    }

    /// Returns the snapshots that were there before the first attempt, if one was made.
    #[must_use]
    pub fn before(&self) -> Option<&Vec<String>> {
        match self {
            Self::Pending { before } | Self::Failed { before, .. } => before.as_ref(),
            _ => None,
        }
    }

    /// Returns the reason why it failed or has nothing to do.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason, .. } | Self::Skipped { reason } => Some(reason),
            _ => None,
        }
    }
}

/// The operations of a plan and where they stand.
#[derive(Clone, Debug)]
pub struct Ledger<K = OperationKind, R = Receipt> {
    operations: Vec<Operation<K>>,
    states: Vec<OperationState<R>>,
    attempts: Vec<u32>,
}

impl<K: Step, R: Clone> Ledger<K, R> {
    /// Begins: the questions of the first phase are ready, all else is blocked.
    pub fn new(operations: &[Operation<K>]) -> Self {
        let states = operations.iter().map(|operation| match operation.phase {
            0 => OperationState::Ready,
            _ => OperationState::Blocked,
        });
        Self {
            states: states.collect(),
            attempts: vec![0; operations.len()],
            operations: operations.to_vec(),
        }
    }

    /// Returns an operation with its state.
    ///
    /// # Errors
    /// The plan has none of this number.
    pub fn get(&self, sequence: u32) -> Result<(&Operation<K>, &OperationState<R>), String> {
        let at = sequence as usize;
        let found = self.operations.get(at).zip(self.states.get(at));
        found.ok_or_else(|| format!("the plan has no operation {sequence}"))
    }

    /// Returns how often an operation was begun.
    #[must_use]
    pub fn attempts(&self, sequence: u32) -> u32 {
        self.attempts.get(sequence as usize).copied().unwrap_or(0)
    }

    /// Returns the operations with their states, in order.
    pub fn with_states(&self) -> impl Iterator<Item = (&Operation<K>, &OperationState<R>)> {
        self.operations.iter().zip(&self.states)
    }

    /// Returns the state of one kind of operation on one member.
    #[must_use]
    pub fn of(&self, kind: K, member: &str) -> Option<(&Operation<K>, &OperationState<R>)> {
        self.with_states().find(|(operation, _)| {
            operation.kind == kind && operation.target.as_deref() == Some(member)
        })
    }

    /// Returns the receipt of one kind of operation on one member.
    #[must_use]
    pub fn receipt(&self, kind: K, member: &str) -> Option<&R> {
        match self.of(kind, member)?.1 {
            OperationState::Completed(receipt) => receipt.as_ref(),
            _ => None,
        }
    }

    /// Returns what remains to be done of one kind, with the members, in the plan's order.
    pub fn open(&self, kind: K) -> impl Iterator<Item = (u32, &str)> {
        self.with_states()
            .filter(move |(operation, state)| operation.kind == kind && !state.is_done())
            .filter_map(|(operation, _)| Some((operation.sequence, operation.target.as_deref()?)))
    }

    /// Returns the kind of the first operation that is not done.
    #[must_use]
    pub fn next_kind(&self) -> Option<K> {
        self.with_states().find(|(_, state)| !state.is_done()).map(|(operation, _)| operation.kind)
    }

    /// Says whether something of an earlier kind remains to be done.
    #[must_use]
    pub fn is_before(&self, kind: K) -> bool {
        self.with_states()
            .take_while(|(operation, _)| operation.kind != kind)
            .any(|(_, state)| !state.is_done())
    }

    /// Sets the state of an operation that is there.
    pub fn set(&mut self, sequence: u32, state: OperationState<R>) {
        self.states[sequence as usize] = state;
    }

    /// The questions of the first phase are answered: what was blocked is ready.
    pub fn unblock(&mut self) {
        for (operation, state) in self.operations.iter().zip(&mut self.states) {
            match (operation.phase, &state) {
                (0, _) => *state = OperationState::Completed(None),
                (_, OperationState::Blocked) => *state = OperationState::Ready,
                _ => {}
            }
        }
    }

    /// The questions are to be asked again, and operations for which `again` holds to be repeated.
    pub fn block(&mut self, again: impl Fn(K) -> bool) {
        for (operation, state) in self.operations.iter().zip(&mut self.states) {
            if operation.phase == 0 {
                *state = OperationState::Ready;
            } else if again(operation.kind) {
                *state = OperationState::Blocked;
            }
        }
    }

    /// Returns what a pending operation knows of the snapshots before it.
    ///
    /// # Errors
    /// It is not pending.
    pub fn pending(&self, sequence: u32) -> Result<Option<Vec<String>>, String> {
        match self.get(sequence)? {
            (_, OperationState::Pending { before }) => Ok(before.clone()),
            (operation, other) => {
                Err(format!("{} ends while it is {}", operation.id, other.name()))
            }
        }
    }

    /// Says why an operation may not begin now, if it may not.
    #[must_use]
    pub fn obstacle(&self, sequence: u32) -> Option<String> {
        let (operation, state) = match self.get(sequence) {
            Ok(found) => found,
            Err(reason) => return Some(reason),
        };
        if matches!(state, OperationState::Blocked) {
            return Some(format!("{} before the questions were answered", operation.id));
        }
        let earlier = self.with_states().find(|(other, state)| {
            // Members are transferred independently of each other.
            let independent = other.phase == operation.phase
                && operation.kind.is_transfer()
                && other.target != operation.target;
            other.sequence < sequence && !independent && !state.is_done()
        });
        earlier.map(|(other, state)| {
            format!("{} before {}, which is {}", operation.id, other.id, state.name())
        })
    }

    /// Begins an operation; `before` are the snapshots that the service has, which are remembered
    /// from the first attempt on.
    ///
    /// # Errors
    /// It may not begin; nothing is changed.
    pub fn begin(&mut self, sequence: u32, before: Option<&Vec<String>>) -> Result<K, String> {
        if let Some(obstacle) = self.obstacle(sequence) {
            return Err(obstacle);
        }
        let (operation, state) = self.get(sequence)?;
        if state.is_done() {
            return Err(format!("{} begins while it is {}", operation.id, state.name()));
        }
        let known = state.before();
        if known.is_some() && before.is_some() && before != known {
            return Err(format!("{} forgets which snapshots there were before", operation.id));
        }
        let (kind, before) = (operation.kind, known.or(before).cloned());
        self.set(sequence, OperationState::Pending { before });
        self.attempts[sequence as usize] += 1;
        Ok(kind)
    }

    /// Completes pending operations whose receipts fit.
    ///
    /// # Errors
    /// One is not pending, or has a receipt of another kind; nothing is changed.
    pub fn complete(
        &mut self,
        completed: &[Completed<R>],
        fits: impl Fn(K, &R) -> bool,
    ) -> Result<(), String> {
        for Completed { operation: sequence, receipt } in completed {
            self.pending(*sequence)?;
            let (operation, _) = self.get(*sequence)?;
            if !fits(operation.kind, receipt) {
                return Err(format!("{} has a receipt of another kind", operation.id));
            }
        }
        for Completed { operation, receipt } in completed {
            self.set(*operation, OperationState::Completed(Some(receipt.clone())));
        }
        Ok(())
    }

    /// Fails a pending operation.
    ///
    /// # Errors
    /// It is not pending.
    pub fn fail(&mut self, sequence: u32, reason: &str) -> Result<(), String> {
        let before = self.pending(sequence)?;
        self.set(sequence, OperationState::Failed { reason: reason.to_owned(), before });
        Ok(())
    }

    /// Skips operations that are ready and for which `may` holds.
    ///
    /// # Errors
    /// One cannot be skipped; nothing is changed.
    pub fn skip(
        &mut self,
        sequences: &[u32],
        reason: &str,
        may: impl Fn(K) -> bool,
    ) -> Result<(), String> {
        for sequence in sequences {
            let (operation, state) = self.get(*sequence)?;
            if !may(operation.kind) || !matches!(state, OperationState::Ready) {
                return Err(format!("{} is {} and cannot be skipped", operation.id, state.name()));
            }
        }
        for sequence in sequences {
            self.set(*sequence, OperationState::Skipped { reason: reason.to_owned() });
        }
        Ok(())
    }

    /// Makes operations ready again for which `may` holds.
    ///
    /// # Errors
    /// One cannot be lost; nothing is changed.
    pub fn lose(
        &mut self,
        sequences: &[u32],
        may: impl Fn(&Operation<K>, &OperationState<R>) -> bool,
    ) -> Result<(), String> {
        for sequence in sequences {
            let (operation, state) = self.get(*sequence)?;
            if !may(operation, state) {
                return Err(format!("{} cannot be lost", operation.id));
            }
        }
        for sequence in sequences {
            self.set(*sequence, OperationState::Ready);
        }
        Ok(())
    }
}
