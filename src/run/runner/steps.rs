//! Steps at the service: stop, snapshot, start, and what is done when they fail half-way. A lost
//! answer decides nothing: the service is asked what it has.

use super::{Error, Runner};
use crate::run::event::Receipt;
use crate::run::executor::{self, State, Status};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;
use crate::run::plan::OperationKind as Kind;

impl Runner<'_> {
    /// Stops all members, from the top down.
    pub(super) fn stop_all(&mut self) -> Result<(), Error> {
        if self.course.skip_without(
            self.course.service.executor.capabilities().control,
            Kind::Stop,
            "stop and start",
        )? {
            return Ok(());
        }
        if !self.course.state.mutated {
            // The last look before anything is done.
            if self.is_preflight_expired() {
                return self.preflight();
            }
            self.check_topology()?;
        }
        for (operation, member) in self.course.open(Kind::Stop) {
            self.course.check()?;
            self.course.begin(vec![operation], None)?;
            match self.course.service.stop(&member) {
                Ok(Status { module_hash, .. }) => {
                    self.course.complete(operation, Receipt::Stopped { module_hash })?;
                }
                Err(reason) => return Err(self.course.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Makes all snapshots.
    pub(super) fn create_all(&mut self) -> Result<(), Error> {
        let able = self.course.service.executor.capabilities();
        if self.course.skip_without(able.snapshots, Kind::CreateSnapshot, "make snapshots")? {
            return Ok(());
        }
        for (operation, member) in self.course.open(Kind::CreateSnapshot) {
            self.course.check()?;
            if able.control {
                let status = self.course.service.status(&member)?;
                if status.state != State::Stopped {
                    let reason = "was stopped by this run and is not stopped any more".into();
                    return Err(Error::Member { member: member.id, reason });
                }
            }
            let known = self
                .course
                .service
                .executor
                .snapshots(&member, &self.course.service.call(&member.id))?;
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
        self.course.restart_after(cause, early)
    }
}

fn ids(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(|snapshot| snapshot.id.clone()).collect()
}
