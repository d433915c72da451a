//! State: where a backup run stands, computed from its journal. Only legal transitions are taken;
//! a journal that holds another is refused as a whole.
//!
//! ```text
//! Blocked → Ready (preflight) → Pending → Completed | Failed | Skipped     Failed → Pending
//! artifact:  Absent → Created → Downloaded → ChecksumVerified → Durable
//! ```

use super::event::{Completed, Event, Preflight, Proof, Receipt};
use super::facts::Snapshot;
use super::journal::Recorded;
use super::plan::{self, AuthorityNeeded, Operation, OperationKind as Kind, Plan};

/// Where an operation stands, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Nothing may be done before the preflight is accepted.
    Blocked,
    /// It may begin when its turn comes.
    Ready,
    /// It has begun; whether it did something is not known.
    Pending {
        /// For a snapshot: the ones that the service had before the first attempt.
        before: Option<Vec<String>>,
    },
    /// It is done. The validations have no receipts of their own but the preflight.
    Completed(Option<Receipt>),
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

impl OperationState {
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
}

/// How far an artifact is, with the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactState {
    /// There is nothing of it.
    Absent,
    /// The service has a snapshot (`None` where it makes none and its files are read).
    Created(Option<Snapshot>),
    /// Its content is here.
    Downloaded {
        /// Where.
        path: String,
        /// Whether that is in the staging area.
        staged: bool,
    },
    /// Its content is stored and reads back.
    ChecksumVerified {
        /// Its manifest.
        manifest: String,
        /// Its checksum.
        checksum: String,
    },
    /// A generation shows it.
    Durable {
        /// Its manifest.
        manifest: String,
        /// Its checksum.
        checksum: String,
        /// The generation's number.
        generation: u64,
    },
}

impl ArtifactState {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Created(_) => "created",
            Self::Downloaded { .. } => "downloaded",
            Self::ChecksumVerified { .. } => "checksum-verified",
            Self::Durable { .. } => "durable",
        }
    }

    /// Returns the step that it needs next.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Absent => Some("create"),
            Self::Created(_) => Some("download"),
            Self::Downloaded { .. } => Some("verify"),
            Self::ChecksumVerified { .. } => Some("finalize"),
            Self::Durable { .. } => None,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not.
    Unfinished,
    /// Its generation is visible.
    Durable {
        /// The generation's number.
        generation: u64,
        /// Its manifest.
        manifest: String,
    },
    /// It was given up.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// A journal says something that cannot have happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A transition that is not legal.
    #[error("record {record}: {reason}")]
    Illegal {
        /// The journal record.
        record: u64,
        /// What is wrong.
        reason: String,
    },
    /// The plan in it.
    #[error("record {record}: {source}")]
    Plan {
        /// The journal record.
        record: u64,
        /// What is wrong.
        source: plan::Error,
    },
}

/// Where a run stands.
#[derive(Clone, Debug)]
pub struct RunState {
    /// What it does.
    pub plan: Plan,
    /// The accepted answers, while nothing has made them void.
    pub preflight: Option<Preflight>,
    /// Snapshots that were made and count no more: member and snapshot.
    pub discarded: Vec<(String, Snapshot)>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether snapshots and staging were removed after its end.
    pub cleaned: bool,
    /// When it began, and when it last did something, in nanoseconds since 1970.
    pub times: (i64, i64),
    operations: Vec<OperationState>,
    /// Whether anything was done since the preflight.
    pub mutated: bool,
    /// Whether members were started again before the run's own starts.
    pub restarted: bool,
}

impl RunState {
    /// Computes the state from the records of a journal.
    ///
    /// # Errors
    /// The journal is empty, or says something that cannot have happened.
    pub fn replay(records: &[Recorded<Event>]) -> Result<Self, Error> {
        let illegal = |record, reason: &str| Error::Illegal { record, reason: reason.to_owned() };
        let [first, rest @ ..] = records else {
            return Err(illegal(1, "the journal is empty"));
        };
        let Event::Planned { plan } = &first.event else {
            return Err(illegal(first.number, "a run begins with its plan"));
        };
        plan.check().map_err(|source| Error::Plan { record: first.number, source })?;
        let mut state = Self::new(plan, first.time.0);
        for record in rest {
            state
                .apply(&record.event, record.time.0)
                .map_err(|reason| Error::Illegal { record: record.number, reason })?;
        }
        Ok(state)
    }

    /// Begins with a plan.
    #[must_use]
    pub fn new(plan: &Plan, time: i64) -> Self {
        let operations = plan.operations.iter().map(|operation| match operation.phase {
            0 => OperationState::Ready,
            _ => OperationState::Blocked,
        });
        Self {
            operations: operations.collect(),
            plan: plan.clone(),
            preflight: None,
            discarded: Vec::new(),
            outcome: Outcome::Unfinished,
            cleaned: false,
            times: (time, time),
            mutated: false,
            restarted: false,
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Why it cannot have happened; the state is unchanged.
    pub fn apply(&mut self, event: &Event, time: i64) -> Result<(), String> {
        if self.outcome != Outcome::Unfinished && !matches!(event, Event::Cleaned { .. }) {
            return Err("the run had ended".into());
        }
        match event {
            Event::Planned { .. } => return Err("a second plan".into()),
            Event::Preflight { receipt } => self.accept(receipt)?,
            Event::Started { operations, before } => {
                for operation in operations {
                    self.start(*operation, before.as_ref(), time)?;
                }
            }
            Event::Completed { operations } => self.complete(operations)?,
            Event::Failed { operation, reason } => {
                let before = self.pending(*operation)?;
                self.set(*operation, OperationState::Failed { reason: reason.clone(), before });
            }
            Event::Skipped { operations, reason } => self.skip(operations, reason)?,
            Event::Lost { operations, .. } => self.lose(operations)?,
            Event::Restarted { .. } => self.restarted()?,
            Event::Durable { operation, generation, manifest } => {
                self.pending(*operation)?;
                if self.operation(*operation)?.kind != Kind::FinalizeManifest {
                    return Err(format!("operation {operation} makes nothing durable"));
                }
                self.set(*operation, OperationState::Completed(None));
                let (generation, manifest) = (*generation, manifest.clone());
                self.outcome = Outcome::Durable { generation, manifest };
            }
            Event::Cleaned { .. } if self.outcome == Outcome::Unfinished => {
                return Err("cleaned before its end".into());
            }
            Event::Cleaned { .. } => self.cleaned = true,
            Event::Abandoned { reason } => {
                self.outcome = Outcome::Abandoned { reason: reason.clone() };
            }
        }
        self.times.1 = time;
        Ok(())
    }

    fn operation(&self, sequence: u32) -> Result<&Operation, String> {
        let found = self.plan.operations.get(sequence as usize);
        found.ok_or_else(|| format!("the plan has no operation {sequence}"))
    }

    fn set(&mut self, sequence: u32, state: OperationState) {
        self.operations[sequence as usize] = state;
    }

    /// Returns what a pending operation knows.
    fn pending(&self, sequence: u32) -> Result<Option<Vec<String>>, String> {
        let operation = self.operation(sequence)?;
        match &self.operations[sequence as usize] {
            OperationState::Pending { before } => Ok(before.clone()),
            other => Err(format!("{} ends while it is {}", operation.id, other.name())),
        }
    }

    fn accept(&mut self, receipt: &Preflight) -> Result<(), String> {
        let plan = &self.plan;
        if self.mutated {
            return Err("a preflight after something was done".into());
        }
        if receipt.plan != plan.id {
            return Err("the preflight is for another plan".into());
        }
        if receipt.topology_hash != plan.topology_hash
            || receipt.quiescence != plan.request.quiescence
        {
            return Err("the preflight has another topology or policy than the plan".into());
        }
        if receipt.valid_from >= receipt.expires {
            return Err("the preflight was never valid".into());
        }
        let members = receipt.authorities.iter().map(|receipt| &receipt.member);
        if !members.eq(plan.targets.iter().map(|target| &target.row.id)) {
            return Err("the preflight has other members than the plan".into());
        }
        let lacks = |proof: &Proof| {
            matches!(proof, Proof::Declared(_)) && plan.request.authority == AuthorityNeeded::Proven
        };
        let weak = receipt.authorities.iter().find(|one| lacks(&one.control) || lacks(&one.read));
        if let Some(weak) = weak {
            return Err(format!("the rights over {} are not proven", weak.member));
        }
        for (operation, state) in self.plan.operations.iter().zip(&mut self.operations) {
            *state = match operation.phase {
                0 => OperationState::Completed(None),
                _ => OperationState::Ready,
            };
        }
        self.preflight = Some(receipt.clone());
        Ok(())
    }

    /// Says why an operation may not begin now, if it may not.
    #[must_use]
    pub fn obstacle(&self, sequence: u32) -> Option<String> {
        let Ok(operation) = self.operation(sequence) else {
            return Some(format!("the plan has no operation {sequence}"));
        };
        if self.preflight.is_none() {
            return Some(format!("{} before the preflight was accepted", operation.id));
        }
        let phase = operation.phase;
        let earlier = self.plan.operations.iter().zip(&self.operations).find(|(other, state)| {
            // Members are transferred independently of each other.
            let independent = other.phase == phase
                && operation.kind.is_transfer()
                && other.target != operation.target;
            other.sequence < sequence && !independent && !state.is_done()
        });
        earlier.map(|(other, state)| {
            format!("{} before {}, which is {}", operation.id, other.id, state.name())
        })
    }

    fn start(
        &mut self,
        sequence: u32,
        before: Option<&Vec<String>>,
        time: i64,
    ) -> Result<(), String> {
        if let Some(obstacle) = self.obstacle(sequence) {
            return Err(obstacle);
        }
        let operation = self.operation(sequence)?;
        let (id, kind) = (operation.id.clone(), operation.kind);
        let known = match &self.operations[sequence as usize] {
            OperationState::Ready => None,
            OperationState::Pending { before } | OperationState::Failed { before, .. } => {
                before.clone()
            }
            other => return Err(format!("{id} begins while it is {}", other.name())),
        };
        if kind.is_mutating() && !self.mutated {
            let valid = self
                .preflight
                .as_ref()
                .is_some_and(|receipt| (receipt.valid_from..receipt.expires).contains(&time));
            if !valid {
                return Err(format!("{id} begins outside of the preflight's time"));
            }
        }
        if known.is_some() && before.is_some() && before != known.as_ref() {
            return Err(format!("{id} forgets which snapshots there were before"));
        }
        let before = known.or_else(|| before.cloned());
        if kind == Kind::CreateSnapshot && before.is_none() {
            return Err(format!("{id} does not say which snapshots there were before"));
        }
        self.mutated |= kind.is_mutating();
        self.set(sequence, OperationState::Pending { before });
        Ok(())
    }

    fn complete(&mut self, completed: &[Completed]) -> Result<(), String> {
        for Completed { operation: sequence, receipt } in completed {
            self.pending(*sequence)?;
            let operation = self.operation(*sequence)?;
            let fits = matches!(
                (operation.kind, receipt),
                (Kind::Stop, Receipt::Stopped { .. })
                    | (Kind::CreateSnapshot, Receipt::Created { .. })
                    | (Kind::Start, Receipt::Running {})
                    | (Kind::DownloadSnapshot, Receipt::Downloaded { .. })
                    | (Kind::VerifyArtifact, Receipt::Verified { .. })
            );
            if !fits {
                return Err(format!("{} has a receipt of another kind", operation.id));
            }
        }
        for Completed { operation, receipt } in completed {
            self.set(*operation, OperationState::Completed(Some(receipt.clone())));
        }
        Ok(())
    }

    fn skip(&mut self, sequences: &[u32], reason: &str) -> Result<(), String> {
        for sequence in sequences {
            let operation = self.operation(*sequence)?;
            let state = &self.operations[*sequence as usize];
            if !operation.kind.is_mutating() || *state != OperationState::Ready {
                return Err(format!("{} is {} and cannot be skipped", operation.id, state.name()));
            }
        }
        for sequence in sequences {
            self.set(*sequence, OperationState::Skipped { reason: reason.to_owned() });
        }
        Ok(())
    }

    fn lose(&mut self, sequences: &[u32]) -> Result<(), String> {
        for sequence in sequences {
            let operation = self.operation(*sequence)?;
            let member = operation.target.as_deref().unwrap_or_default();
            let verified = self.of(Kind::VerifyArtifact, member).is_some_and(|(_, s)| s.is_done());
            if operation.kind != Kind::DownloadSnapshot || verified {
                return Err(format!("{} cannot be lost", operation.id));
            }
        }
        for sequence in sequences {
            self.set(*sequence, OperationState::Ready);
        }
        Ok(())
    }

    fn restarted(&mut self) -> Result<(), String> {
        if !self.is_before_starts() {
            return Err("members were started again although all that needed them was done".into());
        }
        for (operation, state) in self.plan.operations.iter().zip(&mut self.operations) {
            if let OperationState::Completed(Some(Receipt::Created { snapshot, .. })) = state {
                let member = operation.target.clone().unwrap_or_default();
                self.discarded.push((member, snapshot.clone()));
            }
            *state = match operation.phase {
                0 => OperationState::Ready,
                _ => OperationState::Blocked,
            };
        }
        self.preflight = None;
        self.mutated = false;
        self.restarted = true;
        Ok(())
    }

    /// Returns the kind of the first operation that is not done.
    #[must_use]
    pub fn next_kind(&self) -> Option<Kind> {
        self.with_states().find(|(_, state)| !state.is_done()).map(|(operation, _)| operation.kind)
    }

    /// Says whether something remains to be done before the members may be started.
    #[must_use]
    pub fn is_before_starts(&self) -> bool {
        self.with_states()
            .take_while(|(operation, _)| operation.kind != Kind::Start)
            .any(|(_, state)| !state.is_done())
    }

    /// Returns the operations with their states, in order.
    pub fn with_states(&self) -> impl Iterator<Item = (&Operation, &OperationState)> {
        self.plan.operations.iter().zip(&self.operations)
    }

    /// Returns the state of one kind of operation on one member.
    #[must_use]
    pub fn of(&self, kind: Kind, member: &str) -> Option<(&Operation, &OperationState)> {
        self.with_states().find(|(operation, _)| {
            operation.kind == kind && operation.target.as_deref() == Some(member)
        })
    }

    /// Returns members that this run has stopped, or may have, and not started again; in the order
    /// in which they are to be started.
    #[must_use]
    pub fn to_restart(&self) -> Vec<&str> {
        let touched = |member: &str| {
            self.of(Kind::Stop, member).is_some_and(|(_, state)| {
                matches!(
                    state,
                    OperationState::Completed(_)
                        | OperationState::Pending { .. }
                        | OperationState::Failed { .. }
                )
            })
        };
        self.with_states()
            .filter(|(operation, state)| operation.kind == Kind::Start && !state.is_done())
            .filter_map(|(operation, _)| operation.target.as_deref())
            .filter(|member| touched(member))
            .collect()
    }

    /// Returns the snapshot that was made of a member.
    #[must_use]
    pub fn snapshot(&self, member: &str) -> Option<&Snapshot> {
        match self.of(Kind::CreateSnapshot, member)?.1 {
            OperationState::Completed(Some(Receipt::Created { snapshot, .. })) => Some(snapshot),
            _ => None,
        }
    }

    /// Returns how far a member's artifact is.
    #[must_use]
    pub fn artifact(&self, member: &str) -> ArtifactState {
        let receipt = |kind| match self.of(kind, member)?.1 {
            OperationState::Completed(Some(receipt)) => Some(receipt.clone()),
            _ => None,
        };
        if let Some(Receipt::Verified { manifest, checksum, .. }) = receipt(Kind::VerifyArtifact) {
            return match self.outcome {
                Outcome::Durable { generation, .. } => {
                    ArtifactState::Durable { manifest, checksum, generation }
                }
                _ => ArtifactState::ChecksumVerified { manifest, checksum },
            };
        }
        if let Some(Receipt::Downloaded { path, staged, .. }) = receipt(Kind::DownloadSnapshot) {
            return ArtifactState::Downloaded { path, staged };
        }
        match self.of(Kind::CreateSnapshot, member) {
            Some((_, OperationState::Completed(Some(Receipt::Created { snapshot, .. })))) => {
                ArtifactState::Created(Some(snapshot.clone()))
            }
            Some((_, OperationState::Skipped { .. })) => ArtifactState::Created(None),
            _ => ArtifactState::Absent,
        }
    }

    /// Returns the manifests of artifacts that are verified and that no generation shows yet: what
    /// must not be collected while the run can be resumed.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        self.operations.iter().filter_map(|state| match state {
            OperationState::Completed(Some(Receipt::Verified { manifest, .. })) => {
                Some(manifest.as_str())
            }
            _ => None,
        })
    }
}
