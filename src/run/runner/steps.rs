//! Steps at the service: stop, snapshot, start, and what is done when they fail half-way. A lost
//! answer decides nothing: the service is asked what it has.

use super::{Error, Runner};
use crate::run::course::Followed;
use crate::run::event::{Event, Receipt};
use crate::run::executor::{self, State, Status};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;
use crate::run::plan::OperationKind as Kind;
use crate::run::service::{ask_each, word};

impl Runner<'_> {
    /// Stops all members, from the top down.
    pub(super) fn stop_all(&mut self) -> Result<(), Error> {
        let able = self.course.service.executor.capabilities().control;
        if self.course.skip_without(able, Kind::Stop, "stop and start")? {
            return Ok(());
        }
        if self.course.state.mutated {
            if !self.is_as_it_was_left()? {
                return Ok(());
            }
        } else {
            // The last look before anything is done.
            if self.is_preflight_expired() {
                return self.preflight();
            }
            self.check_topology()?;
            self.looked = true;
        }
        for (operation, member) in self.course.open(Kind::Stop) {
            self.course.check()?;
            self.course.begin(vec![operation], None)?;
            let stopped = self.course.service.stop(&member).and_then(|status| {
                match self.other_code(&member.id, &status) {
                    Some(reason) => Err(reason),
                    None => Ok(status),
                }
            });
            match stopped {
                Ok(Status { module_hash, .. }) => {
                    self.course.complete(operation, Receipt::Stopped { module_hash })?;
                }
                Err(reason) => return Err(self.course.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Looks, once, whether what an earlier process has stopped is stopped still and the deployment
    /// is the plan's. If a member was started since, by whomever, the snapshots do not belong
    /// together: then all are started and the run begins anew, and this returns `false`.
    pub(super) fn is_as_it_was_left(&mut self) -> Result<bool, Error> {
        if self.looked {
            return Ok(true);
        }
        self.looked = true;
        self.check_topology()?;
        let ledger = self.course.state.ledger();
        let was_stopped = |member: &Row| {
            ledger.of(Kind::Stop, &member.id).is_some_and(|(_, state)| state.is_done())
        };
        let mut stopped = self.course.state.rows();
        stopped.retain(was_stopped);
        let states = ask_each(&stopped, self.course.options.concurrency, |member| {
            self.course.check()?;
            Ok(self.course.service.status(member)?.state)
        })?;
        let started = stopped.iter().zip(states).find(|(_, state)| *state != State::Stopped);
        let Some((member, state)) = started else { return Ok(true) };
        let reason = format!("was stopped by this run and is {}", word(state));
        let cause = Error::Member { member: member.id.clone(), reason };
        match self.restart_after(cause) {
            Error::Restarted { cause, failed, .. }
                if failed.is_empty() && !self.course.state.mutated =>
            {
                self.course.say(format!("{cause}: all were started again, and it begins anew"));
                Ok(false)
            }
            error => Err(error),
        }
    }

    /// Makes all snapshots.
    pub(super) fn create_all(&mut self) -> Result<(), Error> {
        let able = self.course.service.executor.capabilities();
        if self.course.skip_without(able.snapshots, Kind::CreateSnapshot, "make snapshots")? {
            return Ok(());
        }
        if able.control && !self.is_as_it_was_left()? {
            return Ok(());
        }
        for (operation, member) in self.course.open(Kind::CreateSnapshot) {
            self.course.check()?;
            if able.control {
                self.check_stopped(&member)?;
            }
            let service = &self.course.service;
            let known = service.executor.snapshots(&member, &service.call(&member.id))?;
            self.settle(&member.id, &known)?;
            let (_, state) = self.course.state.ledger().get(operation).map_err(Error::Inventory)?;
            let before = state.before().cloned();
            let again = before.is_some();
            let before = before.unwrap_or_else(|| ids(&known));
            self.course.begin(vec![operation], Some(before.clone()))?;
            match self.create(&member, &before, again) {
                Ok((snapshot, adopted)) => {
                    self.course.complete(operation, Receipt::Created { snapshot, adopted })?;
                }
                Err(reason) => return Err(self.course.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Checks that a member is stopped still, with the code that it had then.
    fn check_stopped(&self, member: &Row) -> Result<(), Error> {
        let status = self.course.service.status(member)?;
        let refuse = |reason| Err(Error::Member { member: member.id.clone(), reason });
        if status.state != State::Stopped {
            return refuse("was stopped by this run and is not stopped any more".into());
        }
        match self.other_code(&member.id, &status) {
            Some(reason) => refuse(reason),
            None => Ok(()),
        }
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
        match self.course.service.executor.create(member, &self.course.service.call(&member.id)) {
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
        let now =
            self.course.service.executor.snapshots(member, &self.course.service.call(&member.id));
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

    /// Starts what this run has stopped, after `cause` has ended it, and says both.
    pub(super) fn restart_after(&mut self, cause: Error) -> Error {
        let early = self.course.state.is_before_starts();
        let error = self.course.restart_after(cause, early);
        self.settle_all();
        error
    }

    /// Starts what this run has stopped because it is given up; what it has made counts no more.
    /// Returns the members that do not run, with the cause.
    pub(super) fn start_over(&mut self, cause: String) -> Result<Vec<(String, String)>, Error> {
        let (members, failed) = self.course.start_stopped();
        let is_begun = self.course.state.mutated || !members.is_empty();
        if is_begun && self.course.state.is_before_starts() {
            self.course.record(Event::Restarted { members, failed: failed.clone(), cause })?;
            self.settle_all();
        }
        Ok(failed)
    }

    /// Asks what became of attempts to make snapshots that count no more. It is asked at once,
    /// whatever the user wants: the longer this waits, the less a new snapshot is certainly the
    /// run's own.
    fn settle_all(&mut self) {
        let members: Vec<String> = self.course.state.unsettled().keys().cloned().collect();
        for member in members {
            let Some(row) = self.course.state.row(&member) else { continue };
            let service = &self.course.service;
            let listed = service.executor.snapshots(&row, &service.last_call(&member));
            let settled = match listed {
                Ok(known) => self.settle(&member, &known).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = settled {
                let text = "whether a snapshot was made of it is not known yet";
                self.course.say(format!("{member}: {text}: {reason}"));
            }
        }
    }

    /// Settles what became of an attempt that counts no more, from the snapshots that a member has.
    fn settle(&mut self, member: &str, known: &[Snapshot]) -> Result<(), Error> {
        let Some(before) = self.course.state.unsettled().get(member) else { return Ok(()) };
        let new = known.iter().filter(|snapshot| !before.contains(&snapshot.id)).cloned();
        let mut new: Vec<Snapshot> = new.collect();
        let snapshot = if new.len() == 1 { new.pop() } else { None };
        let (member, strays) = (member.to_owned(), ids(&new));
        self.course.record(Event::Settled { member, snapshot, strays })
    }
}

fn ids(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(|snapshot| snapshot.id.clone()).collect()
}
