//! Steps at the service: stop, snapshot, start, and what is done when they fail half-way. A lost
//! answer decides nothing: the service is asked what it has.

use std::time::Instant;

use super::{Error, Runner};
use crate::run::event::{Event, Receipt};
use crate::run::executor::{self, State, Status};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;
use crate::run::plan::OperationKind as Kind;
use crate::run::state::OperationState;

impl Runner<'_> {
    /// Stops all members, from the top down.
    pub(super) fn stop_all(&mut self) -> Result<(), Error> {
        if self.skip_without(self.executor.capabilities().control, Kind::Stop, "stop and start")? {
            return Ok(());
        }
        if !self.state.mutated {
            // The last look before anything is done.
            if self.is_preflight_expired() {
                return self.preflight();
            }
            self.check_topology()?;
        }
        for (operation, member) in self.open(Kind::Stop) {
            self.check()?;
            self.begin(vec![operation], None)?;
            let told = self.executor.stop(&member, &self.call(&member.id));
            match self.settle(&member, State::Stopped, told) {
                Ok(Status { module_hash, .. }) => {
                    self.complete(operation, Receipt::Stopped { module_hash })?;
                }
                Err(reason) => return Err(self.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Makes all snapshots.
    pub(super) fn create_all(&mut self) -> Result<(), Error> {
        let able = self.executor.capabilities();
        if self.skip_without(able.snapshots, Kind::CreateSnapshot, "make snapshots")? {
            return Ok(());
        }
        for (operation, member) in self.open(Kind::CreateSnapshot) {
            self.check()?;
            if able.control {
                let status = self.executor.status(&member, &self.call(&member.id))?;
                if status.state != State::Stopped {
                    let reason = "was stopped by this run and is not stopped any more".into();
                    return Err(Error::Member { member: member.id, reason });
                }
            }
            let known = self.executor.snapshots(&member, &self.call(&member.id))?;
            let before = match self.state.of(Kind::CreateSnapshot, &member.id) {
                Some((
                    _,
                    OperationState::Pending { before } | OperationState::Failed { before, .. },
                )) => before.clone(),
                _ => None,
            };
            let again = before.is_some();
            let before = before.unwrap_or_else(|| ids(&known));
            self.begin(vec![operation], Some(before.clone()))?;
            match self.create(&member, &before, again) {
                Ok((snapshot, adopted)) => {
                    self.complete(operation, Receipt::Created { snapshot, adopted })?;
                }
                Err(reason) => return Err(self.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Makes one snapshot, unless an earlier attempt did; a lost answer is looked up once.
    fn create(
        &self,
        member: &Row,
        before: &[String],
        again: bool,
    ) -> Result<(Snapshot, bool), String> {
        if again && let Some(found) = self.adopt(member, before)? {
            return Ok((found, true));
        }
        match self.executor.create(member, &self.call(&member.id)) {
            Ok(snapshot) if before.contains(&snapshot.id) => Err(format!(
                "the service calls a new snapshot {}, which was there before",
                snapshot.id
            )),
            Ok(snapshot) => Ok((snapshot, false)),
            Err(error @ executor::Error::Unknown(_)) => match self.adopt(member, before) {
                Ok(Some(found)) => Ok((found, true)),
                Ok(None) => Err(error.to_string()),
                Err(reason) => Err(format!("{error}; then: {reason}")),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    /// Returns the one snapshot that is there and was not before.
    fn adopt(&self, member: &Row, before: &[String]) -> Result<Option<Snapshot>, String> {
        let now = self.executor.snapshots(member, &self.call(&member.id));
        let mut new = now.map_err(|error| format!("the snapshots cannot be listed: {error}"))?;
        new.retain(|snapshot| !before.contains(&snapshot.id));
        match new.len() {
            0 | 1 => Ok(new.pop()),
            count => Err(format!(
                "{count} snapshots appeared since the first attempt ({}); which is this run's is not known",
                ids(&new).join(", ")
            )),
        }
    }

    /// Starts all members in reverse. One that cannot be started does not keep the others stopped.
    pub(super) fn start_all(&mut self) -> Result<(), Error> {
        if self.skip_without(self.executor.capabilities().control, Kind::Start, "stop and start")? {
            return Ok(());
        }
        let mut failures = Vec::new();
        for (operation, member) in self.open(Kind::Start) {
            if failures.is_empty() {
                self.begin(vec![operation], None)?;
                match self.start_member(&member) {
                    Ok(()) => self.complete(operation, Receipt::Running {})?,
                    Err(reason) => {
                        self.record(Event::Failed { operation, reason: reason.clone() })?;
                        failures.push((format!("start-{}", member.id), reason));
                    }
                }
            } else if let Err(reason) = self.start_member(&member) {
                failures.push((format!("start-{}", member.id), reason));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Error::Operations { failures }) }
    }

    fn start_member(&self, member: &Row) -> Result<(), String> {
        let told = self.executor.start(member, &self.call(&member.id));
        self.settle(member, State::Running, told).map(drop)
    }

    /// Asks for a member's status until it is the wanted one. What the service answered when it was
    /// told counts only where its status does not say better.
    fn settle(
        &self,
        member: &Row,
        wanted: State,
        told: Result<(), executor::Error>,
    ) -> Result<Status, String> {
        if let Err(error @ (executor::Error::Refused(_) | executor::Error::Interrupted)) = told {
            return Err(error.to_string());
        }
        let since = Instant::now();
        loop {
            let last = match self.executor.status(member, &self.call(&member.id)) {
                Ok(status) if status.state == wanted => return Ok(status),
                Ok(status) => format!("it is {}", word(status.state)),
                Err(error) => format!("its status cannot be asked: {error}"),
            };
            let is_moving = last.ends_with(word(State::Stopping)) && wanted == State::Stopped;
            if let (Err(error), false) = (&told, is_moving) {
                return Err(format!("{error}; {last}"));
            }
            if since.elapsed() >= self.options.settle {
                let limit = self.options.settle.as_secs();
                return Err(format!("not {} after {limit} seconds: {last}", word(wanted)));
            }
            if self.progress.is_interrupted() {
                return Err(format!("interrupted while {last}"));
            }
            std::thread::sleep(self.options.poll);
        }
    }

    /// Skips all operations of a kind that the service cannot do; says whether it did.
    fn skip_without(&mut self, able: bool, kind: Kind, what: &str) -> Result<bool, Error> {
        if able {
            return Ok(false);
        }
        let operations: Vec<u32> =
            self.open(kind).into_iter().map(|(operation, _)| operation).collect();
        let reason = format!("{} does not {what}", self.executor.name());
        self.record(Event::Skipped { operations, reason })?;
        Ok(true)
    }

    /// Starts what this run has stopped, after `cause` has ended it, and says both.
    pub(super) fn restart_after(&mut self, cause: Error) -> Error {
        let early = self.state.is_before_starts();
        let (restarted, failed) = self.start_stopped();
        if restarted.is_empty() && failed.is_empty() {
            return cause;
        }
        if early {
            let (members, failed, cause) = (restarted.clone(), failed.clone(), cause.to_string());
            let event = Event::Restarted { members, failed, cause };
            if let Err(error) = self.record(event) {
                let text =
                    format!("that members were started again could not be recorded: {error}");
                (self.observer)(super::Notice::Message(text));
            }
        }
        Error::Restarted { cause: Box::new(cause), restarted, failed }
    }

    /// Starts the members that the run has stopped or may have, in the plan's order.
    pub(super) fn start_stopped(&mut self) -> (Vec<String>, Vec<(String, String)>) {
        if !self.executor.capabilities().control {
            return (Vec::new(), Vec::new());
        }
        let stopped: Vec<Row> = self
            .state
            .to_restart()
            .into_iter()
            .filter_map(|id| Some(self.state.plan.target(id)?.member()))
            .collect();
        let (mut restarted, mut failed) = (Vec::new(), Vec::new());
        for member in stopped {
            // The interruption that ended the run must not end this.
            match self.start_after_interruption(&member) {
                Ok(()) => restarted.push(member.id),
                Err(reason) => failed.push((member.id, reason)),
            }
        }
        (restarted, failed)
    }

    fn start_after_interruption(&self, member: &Row) -> Result<(), String> {
        let lock = self.members.get(&member.id).cloned();
        let call = executor::Call { lock, ..executor::Call::new() };
        let told = self.executor.start(member, &call);
        let since = Instant::now();
        loop {
            let last = match self.executor.status(member, &call) {
                Ok(status) if status.state == State::Running => return Ok(()),
                Ok(status) => format!("it is {}", word(status.state)),
                Err(error) => format!("its status cannot be asked: {error}"),
            };
            match &told {
                Err(error) => return Err(format!("{error}; {last}")),
                Ok(()) if since.elapsed() >= self.options.settle => return Err(last),
                Ok(()) => std::thread::sleep(self.options.poll),
            }
        }
    }
}

fn ids(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(|snapshot| snapshot.id.clone()).collect()
}

/// Returns the word for a state.
pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Unknown => "in a state that the service does not tell",
    }
}
