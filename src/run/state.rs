//! State: where a backup run stands, computed from its journal. Only legal transitions are taken;
//! a journal that holds another is refused as a whole.
//!
//! How operations go from state to state is the [`ledger`]'s; here is what they mean:
//!
//! ```text
//! artifact:  Absent → Created → Downloaded → ChecksumVerified → Durable
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::event::{AuthorityReceipt, Event, Preflight, Receipt};
use super::facts::Snapshot;
use super::journal::Recorded;
use super::ledger::{self, Ledger};
use super::plan::{self, Operation, OperationKind as Kind, Plan};
use super::restore;

/// Where an operation stands, with what shows it.
pub type OperationState = ledger::OperationState<Receipt>;

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
    /// The restore plan in it.
    #[error("record {record}: {source}")]
    RestorePlan {
        /// The journal record.
        record: u64,
        /// What is wrong.
        source: Box<restore::plan::Error>,
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
    ledger: Ledger<Kind, Receipt>,
    /// Whether anything was done since the preflight.
    pub mutated: bool,
    /// Snapshots that appeared while the run had no answers, and that may be somebody else's: member
    /// and snapshot.
    pub strays: BTreeSet<(String, String)>,
    /// Members that the run has stopped, or may have, and not started again.
    stopped: BTreeSet<String>,
    /// Members of which a snapshot may have been made that nobody has the name of, each with the
    /// snapshots that there were before.
    unsettled: BTreeMap<String, Vec<String>>,
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
        Self {
            ledger: Ledger::new(&plan.operations),
            plan: plan.clone(),
            preflight: None,
            discarded: Vec::new(),
            outcome: Outcome::Unfinished,
            cleaned: false,
            times: (time, time),
            mutated: false,
            strays: BTreeSet::new(),
            stopped: BTreeSet::new(),
            unsettled: BTreeMap::new(),
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
            Event::Completed { operations } => {
                self.ledger.complete(operations, fits)?;
                for one in operations.iter().filter(|one| one.receipt == Receipt::Running {}) {
                    if let Some(member) = &self.ledger.get(one.operation)?.0.target {
                        self.stopped.remove(member);
                    }
                }
            }
            Event::Failed { operation, reason } => self.ledger.fail(*operation, reason)?,
            Event::Skipped { operations, reason } => {
                self.ledger.skip(operations, reason, Kind::is_mutating)?;
            }
            Event::Lost { operations, .. } => self.lose(operations)?,
            Event::Restarted { members, .. } => self.restarted(members)?,
            Event::Settled { member, snapshot, strays } => {
                self.settle(member, snapshot.as_ref(), strays)?;
            }
            Event::Durable { operation, generation, manifest } => {
                self.ledger.pending(*operation)?;
                if self.ledger.get(*operation)?.0.kind != Kind::FinalizeManifest {
                    return Err(format!("operation {operation} makes nothing durable"));
                }
                self.ledger.set(*operation, OperationState::Completed(None));
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
        let members = plan.targets.iter().map(|target| target.row.id.as_str());
        AuthorityReceipt::check(&receipt.authorities, members, plan.request.authority)?;
        self.ledger.unblock();
        self.preflight = Some(receipt.clone());
        Ok(())
    }

    fn start(
        &mut self,
        sequence: u32,
        before: Option<&Vec<String>>,
        time: i64,
    ) -> Result<(), String> {
        let (Operation { id, kind, target, .. }, state) = self.ledger.get(sequence)?;
        if kind.is_mutating() && !self.mutated {
            if self.preflight.is_none() {
                return Err(format!("{id} begins before the preflight was accepted"));
            }
            if !self.is_preflight_valid(time) {
                return Err(format!("{id} begins outside of the preflight's time"));
            }
        }
        if *kind == Kind::CreateSnapshot && before.or(state.before()).is_none() {
            return Err(format!("{id} does not say which snapshots there were before"));
        }
        let target = target.clone();
        let kind = self.ledger.begin(sequence, before)?;
        self.mutated |= kind.is_mutating();
        if kind == Kind::Stop {
            self.stopped.extend(target);
        }
        Ok(())
    }

    /// Says whether the accepted answers are good enough to begin with.
    #[must_use]
    pub fn is_preflight_valid(&self, time: i64) -> bool {
        let valid = |receipt: &Preflight| (receipt.valid_from..receipt.expires).contains(&time);
        self.preflight.as_ref().is_some_and(valid)
    }

    fn lose(&mut self, sequences: &[u32]) -> Result<(), String> {
        let done = self
            .with_states()
            .filter(|(operation, state)| operation.kind == Kind::VerifyArtifact && state.is_done());
        let verified: HashSet<String> =
            done.filter_map(|(operation, _)| operation.target.clone()).collect();
        self.ledger.lose(sequences, |operation, _| {
            let is_verified = operation.target.as_ref().is_some_and(|one| verified.contains(one));
            operation.kind == Kind::DownloadSnapshot && !is_verified
        })
    }

    fn restarted(&mut self, members: &[String]) -> Result<(), String> {
        if !self.is_before_starts() {
            return Err("members were started again although all that needed them was done".into());
        }
        for (operation, state) in self.ledger.with_states() {
            let member = operation.target.clone().unwrap_or_default();
            if let OperationState::Completed(Some(Receipt::Created { snapshot, .. })) = state {
                self.discarded.push((member, snapshot.clone()));
            } else if let Some(before) = state.before() {
                // What came of it is asked for; until then what was there before the first of
                // several such attempts counts.
                self.unsettled.entry(member).or_insert_with(|| before.clone());
            }
        }
        for member in members {
            self.stopped.remove(member);
        }
        self.ledger.block(|_| true);
        self.preflight = None;
        self.mutated = false;
        Ok(())
    }

    fn settle(
        &mut self,
        member: &str,
        snapshot: Option<&Snapshot>,
        strays: &[String],
    ) -> Result<(), String> {
        let Some(before) = self.unsettled.get(member) else {
            return Err(format!("no attempt to make a snapshot of {member} is unsettled"));
        };
        if let Some(snapshot) = snapshot.filter(|snapshot| before.contains(&snapshot.id)) {
            return Err(format!("snapshot {} of {member} was there before", snapshot.id));
        }
        self.discarded.extend(snapshot.map(|snapshot| (member.to_owned(), snapshot.clone())));
        self.strays.extend(strays.iter().map(|stray| (member.to_owned(), stray.clone())));
        self.unsettled.remove(member);
        Ok(())
    }

    /// Returns the members of which a snapshot may have been made that counts no more and that
    /// nobody has the name of, each with the snapshots that there were before.
    #[must_use]
    pub fn unsettled(&self) -> &BTreeMap<String, Vec<String>> {
        &self.unsettled
    }

    /// Returns the kind of the first operation that is not done.
    #[must_use]
    pub fn next_kind(&self) -> Option<Kind> {
        self.ledger.next_kind()
    }

    /// Says whether something remains to be done before the members may be started.
    #[must_use]
    pub fn is_before_starts(&self) -> bool {
        self.ledger.is_before(Kind::Start)
    }

    /// Returns the operations with their states, in order.
    pub fn with_states(&self) -> impl Iterator<Item = (&Operation, &OperationState)> {
        self.ledger.with_states()
    }

    /// Returns the operations and where they stand.
    #[must_use]
    pub fn ledger(&self) -> &Ledger<Kind, Receipt> {
        &self.ledger
    }

    /// Returns the state of one kind of operation on one member.
    #[must_use]
    pub fn of(&self, kind: Kind, member: &str) -> Option<(&Operation, &OperationState)> {
        self.ledger.of(kind, member)
    }

    /// Returns members that this run has stopped, or may have, and not started again; in the order
    /// in which they are to be started.
    #[must_use]
    pub fn to_restart(&self) -> Vec<&str> {
        let starts = self.with_states().filter(|(operation, _)| operation.kind == Kind::Start);
        let members = starts.filter_map(|(operation, _)| operation.target.as_deref());
        members.filter(|member| self.stopped.contains(*member)).collect()
    }

    /// Returns the code that a member is expected to have: the plan's, or else what the service said
    /// when the member was stopped.
    #[must_use]
    pub fn code(&self, member: &str) -> Option<&str> {
        let planned = self.plan.target(member).and_then(|target| target.row.module_hash.as_deref());
        let stopped = match self.ledger.receipt(Kind::Stop, member) {
            Some(Receipt::Stopped { module_hash }) => module_hash.as_deref(),
            _ => None,
        };
        planned.or(stopped)
    }

    /// Returns the snapshot that was made of a member.
    #[must_use]
    pub fn snapshot(&self, member: &str) -> Option<&Snapshot> {
        match self.ledger.receipt(Kind::CreateSnapshot, member) {
            Some(Receipt::Created { snapshot, .. }) => Some(snapshot),
            _ => None,
        }
    }

    /// Returns how far a member's artifact is.
    #[must_use]
    pub fn artifact(&self, member: &str) -> ArtifactState {
        let receipt = |kind| self.ledger.receipt(kind, member).cloned();
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
        self.ledger.with_states().filter_map(|(_, state)| match state {
            OperationState::Completed(Some(Receipt::Verified { manifest, .. })) => {
                Some(manifest.as_str())
            }
            _ => None,
        })
    }
}

/// Says whether a receipt is one of an operation's kind.
fn fits(kind: Kind, receipt: &Receipt) -> bool {
    matches!(
        (kind, receipt),
        (Kind::Stop, Receipt::Stopped { .. })
            | (Kind::CreateSnapshot, Receipt::Created { .. })
            | (Kind::Start, Receipt::Running {})
            | (Kind::DownloadSnapshot, Receipt::Downloaded { .. })
            | (Kind::VerifyArtifact, Receipt::Verified { .. })
    )
}
