//! State: where a restore stands, computed from its journal. Only legal transitions are taken; a
//! journal that holds another is refused as a whole.
//!
//! How operations go from state to state is the [`ledger`]'s. Once a load has begun there is no way
//! back: members are not started before all of them are loaded.

use std::collections::BTreeSet;

use super::event::{Event, Receipt, Validation};
use super::plan::{Operation, OperationKind as Kind, Plan};
use crate::run::event::AuthorityReceipt;
use crate::run::facts::Snapshot;
use crate::run::journal::Recorded;
use crate::run::ledger::{self, Ledger};
use crate::run::state::Error;

/// Where an operation of a restore stands, with what shows it.
pub type OperationState = ledger::OperationState<Receipt>;

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not.
    Unfinished,
    /// All members run with what was restored.
    Restored,
    /// It was given up.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// Where a restore stands.
#[derive(Clone, Debug)]
pub struct RestoreState {
    /// What it does.
    pub plan: Plan,
    /// The accepted answers, while nothing has made them void.
    pub validation: Option<Validation>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether uploads and staging were removed after its end.
    pub cleaned: bool,
    /// When it began, and when it last did something, in nanoseconds since 1970.
    pub times: (i64, i64),
    /// All that was uploaded and named by the service, with the member; also what counts no more.
    pub uploads: Vec<(String, Snapshot)>,
    /// Snapshots that appeared while this restore uploaded and that no answer named.
    pub strays: BTreeSet<(String, String)>,
    /// Whether a member was stopped since the answers.
    pub mutated: bool,
    ledger: Ledger<Kind, Receipt>,
    /// Members that ran and that this restore has stopped, or may have, and not started again.
    stopped: BTreeSet<String>,
    loading: bool,
}

impl RestoreState {
    /// Computes the state from the records of a journal.
    ///
    /// # Errors
    /// The journal is empty, or says something that cannot have happened.
    pub fn replay(records: &[Recorded<Event>]) -> Result<Self, Error> {
        let illegal = |record, reason: &str| Error::Illegal { record, reason: reason.to_owned() };
        let [first, rest @ ..] = records else {
            return Err(illegal(1, "the journal is empty"));
        };
        let Event::RestorePlanned { plan } = &first.event else {
            return Err(illegal(first.number, "a restore begins with its plan"));
        };
        plan.check().map_err(|source| Error::RestorePlan {
            record: first.number,
            source: Box::new(source),
        })?;
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
            validation: None,
            outcome: Outcome::Unfinished,
            cleaned: false,
            times: (time, time),
            uploads: Vec::new(),
            strays: BTreeSet::new(),
            mutated: false,
            stopped: BTreeSet::new(),
            loading: false,
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Why it cannot have happened; then the state must not be used any more.
    pub fn apply(&mut self, event: &Event, time: i64) -> Result<(), String> {
        if self.outcome != Outcome::Unfinished && !matches!(event, Event::Cleaned { .. }) {
            return Err("the restore had ended".into());
        }
        match event {
            Event::RestorePlanned { .. } => return Err("a second plan".into()),
            Event::Validated { receipt } => self.accept(receipt)?,
            Event::Started { operations, before } => {
                for operation in operations {
                    self.start(*operation, before.as_ref(), time)?;
                }
            }
            Event::Completed { operations } => {
                self.ledger.complete(operations, fits)?;
                for one in operations {
                    self.completed(one.operation, &one.receipt)?;
                }
            }
            Event::Failed { operation, reason } => self.ledger.fail(*operation, reason)?,
            Event::Skipped { operations, reason } => {
                let may = |kind| matches!(kind, Kind::Stop | Kind::Start | Kind::CheckMember);
                self.ledger.skip(operations, reason, may)?;
            }
            Event::Lost { operations, .. } => self.lose(operations)?,
            Event::Restarted { members, .. } => self.restarted(members)?,
            Event::Restored { operation, .. } => {
                self.ledger.pending(*operation)?;
                if self.ledger.get(*operation)?.0.kind != Kind::CheckDeployment {
                    return Err(format!("operation {operation} does not end a restore"));
                }
                self.ledger.set(*operation, OperationState::Completed(None));
                self.outcome = Outcome::Restored;
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

    fn accept(&mut self, receipt: &Validation) -> Result<(), String> {
        if self.mutated || self.loading {
            return Err("a validation after something was done".into());
        }
        if receipt.plan != self.plan.id {
            return Err("the validation is for another plan".into());
        }
        if receipt.valid_from >= receipt.expires {
            return Err("the validation was never valid".into());
        }
        let targets = || self.plan.members.iter().map(|member| member.target.as_str());
        AuthorityReceipt::check(&receipt.authorities, targets(), self.plan.request.authority)?;
        if !receipt.members.iter().map(|found| found.member.as_str()).eq(targets()) {
            return Err("the validation has other members than the plan".into());
        }
        self.ledger.unblock();
        self.validation = Some(receipt.clone());
        Ok(())
    }

    fn start(
        &mut self,
        sequence: u32,
        before: Option<&Vec<String>>,
        time: i64,
    ) -> Result<(), String> {
        let (operation, _) = self.ledger.get(sequence)?;
        let (id, target) = (operation.id.clone(), operation.target.clone().unwrap_or_default());
        if operation.kind == Kind::Stop
            && !self.mutated
            && !self.loading
            && !self.is_validation_valid(time)
        {
            return Err(format!("{id} begins outside of the validation's time"));
        }
        match self.ledger.begin(sequence, before)? {
            Kind::Stop => {
                self.mutated = true;
                if self.was_running(&target) {
                    self.stopped.insert(target);
                }
            }
            Kind::Load => self.loading = true,
            _ => {}
        }
        Ok(())
    }

    /// Says whether the accepted answers are good enough to begin with.
    #[must_use]
    pub fn is_validation_valid(&self, time: i64) -> bool {
        let valid = |receipt: &Validation| (receipt.valid_from..receipt.expires).contains(&time);
        self.validation.as_ref().is_some_and(valid)
    }

    fn was_running(&self, member: &str) -> bool {
        let found = self.validation.iter().flat_map(|receipt| &receipt.members);
        found.into_iter().any(|found| found.member == member && found.running != Some(false))
    }

    fn completed(&mut self, sequence: u32, receipt: &Receipt) -> Result<(), String> {
        let member = self.ledger.get(sequence)?.0.target.clone().unwrap_or_default();
        match receipt {
            Receipt::Uploaded { snapshot, strays, .. } => {
                let strays = strays.iter().map(|stray| (member.clone(), stray.clone()));
                self.strays.extend(strays);
                self.uploads.push((member, snapshot.clone()));
                // What an answer named is this restore's, also if it counts no more.
                let uploads = &self.uploads;
                self.strays.retain(|(of, stray)| {
                    !uploads.iter().any(|(other, known)| other == of && known.id == *stray)
                });
            }
            Receipt::Running {} => drop(self.stopped.remove(&member)),
            _ => {}
        }
        Ok(())
    }

    /// What is in the staging area may be lost until it is uploaded, an upload until it is loaded;
    /// a stop and a load are lost if somebody has started the member since.
    fn lose(&mut self, sequences: &[u32]) -> Result<(), String> {
        let loaded: BTreeSet<String> = self.done(Kind::Load).map(str::to_owned).collect();
        let uploaded: BTreeSet<String> = self.done(Kind::Upload).map(str::to_owned).collect();
        let losing = |kind| {
            let of_kind = |sequence: &&u32| {
                self.ledger.get(**sequence).is_ok_and(|(operation, _)| operation.kind == kind)
            };
            let found = sequences.iter().filter(of_kind);
            let target = |sequence: &u32| self.ledger.get(*sequence).ok()?.0.target.clone();
            found.filter_map(target).collect::<BTreeSet<String>>()
        };
        let (uploads, loads) = (losing(Kind::Upload), losing(Kind::Load));
        let all_loaded = !self.ledger.is_before(Kind::Start);
        self.ledger.lose(sequences, |operation, state| {
            let Some(target) = &operation.target else { return false };
            let may = match operation.kind {
                Kind::Fetch => !uploaded.contains(target) || uploads.contains(target),
                Kind::Upload => !loaded.contains(target),
                Kind::Stop => !loaded.contains(target) || loads.contains(target),
                Kind::Load => !all_loaded,
                _ => false,
            };
            may && matches!(state, OperationState::Completed(_))
        })
    }

    fn done(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.with_states()
            .filter(move |(operation, state)| operation.kind == kind && state.is_done())
            .filter_map(|(operation, _)| operation.target.as_deref())
    }

    fn restarted(&mut self, members: &[String]) -> Result<(), String> {
        if self.loading {
            return Err("members were started again although a load had begun".into());
        }
        self.ledger.block(|kind| kind == Kind::Stop);
        for member in members {
            self.stopped.remove(member);
        }
        self.validation = None;
        self.mutated = false;
        Ok(())
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

    /// Says whether it was given up.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        matches!(self.outcome, Outcome::Abandoned { .. })
    }

    /// Says whether a load has begun: then there is no way back.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading
    }

    /// Says whether some members may hold what was restored and others do not: then none may run.
    #[must_use]
    pub fn is_half_loaded(&self) -> bool {
        self.loading && self.ledger.is_before(Kind::Start)
    }

    /// Returns the upload of a member that is to be loaded.
    #[must_use]
    pub fn upload(&self, member: &str) -> Option<&Snapshot> {
        match self.ledger.receipt(Kind::Upload, member) {
            Some(Receipt::Uploaded { snapshot, .. }) => Some(snapshot),
            _ => None,
        }
    }

    /// Returns the members that are to be started: before anything was loaded those that this
    /// restore has stopped, or may have; once all is loaded the ones that do not run yet. In the
    /// order in which they are to be started. While only a part is loaded, these are the members
    /// that stay stopped.
    #[must_use]
    pub fn to_restart(&self) -> Vec<&str> {
        let whole = self.loading && !self.is_half_loaded();
        let starts = self.with_states().filter(|(operation, _)| operation.kind == Kind::Start);
        starts
            .filter(|(_, state)| !state.is_done())
            .filter_map(|(operation, _)| operation.target.as_deref())
            .filter(|member| whole || self.stopped.contains(*member))
            .collect()
    }

    /// Returns the manifests of artifacts that are not yet at the service: what must not be
    /// collected while the restore can be resumed.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        let open = self.ledger.open(Kind::Upload).filter_map(|(_, id)| self.plan.member(id));
        let unfinished = self.outcome == Outcome::Unfinished;
        open.filter(move |_| unfinished).map(|member| member.artifact.as_str())
    }
}

/// Says whether a receipt is one of an operation's kind.
fn fits(kind: Kind, receipt: &Receipt) -> bool {
    matches!(
        (kind, receipt),
        (Kind::Fetch, Receipt::Fetched { .. })
            | (Kind::Upload, Receipt::Uploaded { .. })
            | (Kind::Stop, Receipt::Stopped { .. })
            | (Kind::Load, Receipt::Loaded { .. })
            | (Kind::Start, Receipt::Running {})
            | (Kind::CheckMember, Receipt::Checked { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::event::{Completed, Proof};
    use crate::run::restore::event::Found;
    use crate::run::restore::plan::tests::clone_plan;

    const NOW: i64 = 1_000;

    fn validation(plan: &Plan) -> Event {
        let authority = |member: &str| AuthorityReceipt {
            member: member.to_owned(),
            control: Proof::Proven("it is ours".into()),
            read: Proof::NotNeeded(String::new()),
        };
        let found = |member: &str| Found {
            member: member.to_owned(),
            running: Some(member != "y"),
            module_hash: None,
        };
        let targets = || plan.members.iter().map(|member| member.target.as_str());
        let receipt = Validation {
            plan: plan.id.clone(),
            topology: String::new(),
            authorities: targets().map(authority).collect(),
            members: targets().map(found).collect(),
            valid_from: NOW,
            expires: NOW + 10,
        };
        Event::Validated { receipt }
    }

    struct Play(RestoreState);

    impl Play {
        /// A restore whose members are all uploaded.
        fn uploaded() -> Self {
            let plan = clone_plan();
            let mut play = Self(RestoreState::new(&plan, NOW));
            play.event(validation(&plan)).unwrap();
            for member in ["root", "x", "y", "z"] {
                play.start(Kind::Fetch, member).unwrap();
                let (path, files, bytes) = (member.to_owned(), 1, 2);
                play.end(
                    Kind::Fetch,
                    member,
                    Receipt::Fetched { path, files, bytes, checks: vec![] },
                )
                .unwrap();
                play.start(Kind::Upload, member).unwrap();
                play.end(Kind::Upload, member, upload("1", &["2"])).unwrap();
            }
            play
        }

        fn stopped() -> Self {
            let mut play = Self::uploaded();
            for member in ["root", "x", "y", "z"] {
                play.start(Kind::Stop, member).unwrap();
                play.end(Kind::Stop, member, Receipt::Stopped { module_hash: None }).unwrap();
            }
            play
        }

        fn event(&mut self, event: Event) -> Result<(), String> {
            self.at(NOW + 1, event)
        }

        fn at(&mut self, time: i64, event: Event) -> Result<(), String> {
            self.0.apply(&event, time)
        }

        fn sequence(&self, kind: Kind, member: &str) -> u32 {
            self.0.ledger().of(kind, member).unwrap().0.sequence
        }

        fn start(&mut self, kind: Kind, member: &str) -> Result<(), String> {
            let operations = vec![self.sequence(kind, member)];
            self.event(Event::Started { operations, before: None })
        }

        fn end(&mut self, kind: Kind, member: &str, receipt: Receipt) -> Result<(), String> {
            let operation = self.sequence(kind, member);
            self.event(Event::Completed { operations: vec![Completed { operation, receipt }] })
        }

        fn lose(&mut self, kinds: &[Kind], member: &str) -> Result<(), String> {
            let operations = kinds.iter().map(|kind| self.sequence(*kind, member)).collect();
            self.event(Event::Lost { operations, reason: String::new() })
        }

        fn load(&mut self, member: &str) {
            self.start(Kind::Load, member).unwrap();
            self.end(Kind::Load, member, Receipt::Loaded { module_hash: None }).unwrap();
        }

        fn restarted(&mut self, members: &[&str]) -> Result<(), String> {
            let members = members.iter().map(|member| (*member).to_owned()).collect();
            self.event(Event::Restarted { members, failed: vec![], cause: String::new() })
        }
    }

    fn upload(id: &str, strays: &[&str]) -> Receipt {
        Receipt::Uploaded {
            snapshot: Snapshot { id: id.into(), taken_at: None, total_bytes: None },
            strays: strays.iter().map(|stray| (*stray).to_owned()).collect(),
        }
    }

    #[test]
    fn nothing_begins_before_its_turn() {
        let plan = clone_plan();
        let mut play = Play(RestoreState::new(&plan, NOW));
        assert!(play.start(Kind::Fetch, "root").unwrap_err().contains("questions"));
        play.event(validation(&plan)).unwrap();
        assert!(play.start(Kind::Upload, "x").unwrap_err().contains("before fetch-x"));
        assert!(play.start(Kind::Stop, "root").unwrap_err().contains("before fetch-root"));
        // Members are transferred independently of each other.
        play.start(Kind::Fetch, "z").unwrap();
        let mut play = Play::uploaded();
        assert!(play.start(Kind::Stop, "x").unwrap_err().contains("before stop-root"));
        assert!(play.start(Kind::Load, "root").is_err());
        let mut play = Play::stopped();
        play.load("root");
        assert!(play.start(Kind::Start, "z").unwrap_err().contains("before load-x"));
    }

    #[test]
    fn a_stop_needs_fresh_answers_unless_something_was_stopped() {
        let mut play = Play::uploaded();
        let event = |play: &Play, member| {
            let operations = vec![play.sequence(Kind::Stop, member)];
            Event::Started { operations, before: None }
        };
        let first = event(&play, "root");
        assert!(play.at(NOW + 10, first.clone()).unwrap_err().contains("validation's time"));
        play.at(NOW + 9, first).unwrap();
        play.end(Kind::Stop, "root", Receipt::Stopped { module_hash: None }).unwrap();
        let second = event(&play, "x");
        play.at(NOW + 100, second).unwrap();
        let again = validation(&play.0.plan);
        assert!(play.event(again).is_err(), "answers after something was done");
    }

    #[test]
    fn answers_for_others_are_refused() {
        let plan = clone_plan();
        let change = |change: &dyn Fn(&mut Validation)| {
            let Event::Validated { mut receipt } = validation(&plan) else { unreachable!() };
            change(&mut receipt);
            RestoreState::new(&plan, NOW).apply(&Event::Validated { receipt }, NOW)
        };
        assert!(change(&|_| {}).is_ok());
        assert!(change(&|receipt| receipt.plan = "other".into()).is_err());
        assert!(change(&|receipt| drop(receipt.authorities.pop())).is_err());
        assert!(change(&|receipt| drop(receipt.members.pop())).is_err());
        assert!(change(&|receipt| receipt.members.swap(0, 1)).is_err());
        assert!(change(&|receipt| receipt.expires = NOW).is_err());
        let declared = Proof::Declared(String::new());
        assert!(change(&|receipt| receipt.authorities[2].control = declared.clone()).is_err());
    }

    #[test]
    fn what_was_stopped_is_started_again_until_something_is_loaded() {
        let mut play = Play::stopped();
        // `y` was stopped before.
        assert_eq!(play.0.to_restart(), ["z", "x", "root"]);
        play.restarted(&["z", "root"]).unwrap();
        assert_eq!(play.0.to_restart(), ["x"], "the one that could not be started");
        assert_eq!(play.0.ledger().next_kind(), Some(Kind::Validate));
        assert!(play.start(Kind::Stop, "root").is_err());
        let mut play = Play::stopped();
        play.start(Kind::Load, "root").unwrap();
        assert!(play.0.is_half_loaded());
        assert!(play.restarted(&["z"]).unwrap_err().contains("load had begun"));
    }

    #[test]
    fn once_all_is_loaded_all_are_to_be_started() {
        let mut play = Play::stopped();
        for member in ["root", "x", "y", "z"] {
            assert_eq!(play.0.is_half_loaded(), member != "root");
            play.load(member);
        }
        assert!(!play.0.is_half_loaded());
        assert_eq!(play.0.to_restart(), ["z", "y", "x", "root"]);
        play.start(Kind::Start, "z").unwrap();
        play.end(Kind::Start, "z", Receipt::Running {}).unwrap();
        assert_eq!(play.0.to_restart(), ["y", "x", "root"]);
    }

    #[test]
    fn what_is_needed_no_more_cannot_be_lost() {
        let mut play = Play::stopped();
        assert!(play.lose(&[Kind::Fetch], "x").is_err(), "it is uploaded");
        play.lose(&[Kind::Fetch, Kind::Upload], "x").unwrap();
        assert_eq!(play.0.ledger().next_kind(), Some(Kind::Fetch));
        let mut play = Play::stopped();
        play.load("root");
        assert!(play.lose(&[Kind::Upload], "root").is_err(), "it is loaded");
        assert!(play.lose(&[Kind::Stop], "root").is_err(), "the load would count");
        play.lose(&[Kind::Stop, Kind::Load], "root").unwrap();
        assert_eq!(play.0.ledger().next_kind(), Some(Kind::Stop));
        for member in ["root", "x", "y", "z"] {
            if member == "root" {
                play.start(Kind::Stop, "root").unwrap();
                play.end(Kind::Stop, "root", Receipt::Stopped { module_hash: None }).unwrap();
            }
            play.load(member);
        }
        assert!(play.lose(&[Kind::Load], "z").is_err(), "all are loaded");
    }

    #[test]
    fn an_upload_of_this_restore_is_nobodys_stray() {
        let mut play = Play::uploaded();
        assert_eq!(play.0.strays.len(), 4);
        play.lose(&[Kind::Fetch, Kind::Upload], "x").unwrap();
        play.start(Kind::Fetch, "x").unwrap();
        let fetched = Receipt::Fetched { path: String::new(), files: 1, bytes: 2, checks: vec![] };
        play.end(Kind::Fetch, "x", fetched).unwrap();
        play.start(Kind::Upload, "x").unwrap();
        play.end(Kind::Upload, "x", upload("2", &["1", "3"])).unwrap();
        let strays: Vec<_> = play.0.strays.iter().filter(|(of, _)| of == "x").collect();
        assert_eq!(strays, [&("x".to_owned(), "3".to_owned())]);
        assert_eq!(play.0.uploads.len(), 5);
        assert_eq!(play.0.upload("x").unwrap().id, "2");
    }

    #[test]
    fn an_end_is_an_end() {
        let mut play = Play::uploaded();
        let cleaned = || Event::Cleaned { snapshots: vec![], failed: vec![] };
        assert!(play.event(cleaned()).is_err());
        assert_eq!(play.0.manifests().count(), 0);
        play.event(Event::Abandoned { reason: "enough".into() }).unwrap();
        assert!(play.start(Kind::Stop, "root").is_err());
        play.event(cleaned()).unwrap();
        assert!(play.0.cleaned);
    }
}
