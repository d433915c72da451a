//! Steps at the service: stop and load. A member is loaded only while it is stopped; a lost answer
//! is asked after, or the step repeated.

use super::Runner;
use super::check::right_code;
use crate::clock::UnixNanos;
use crate::run::error::Error;
use crate::run::executor::{self, State, Status};
use crate::run::inventory::Row;
use crate::run::restore::event::{Event, Receipt};
use crate::run::restore::plan::OperationKind as Kind;
use crate::run::service::word;

/// How often a load is tried before a restore ends with its members stopped: repeating it is safe.
const LOADS_MAX: u32 = 3;

impl Runner<'_> {
    /// Stops all members, from the top down.
    pub(super) fn stop_all(&mut self) -> Result<(), Error> {
        let able = self.course.service.has_control();
        if self.course.skip_without(able, Kind::Stop, "stop and start")? {
            return Ok(());
        }
        let state = &self.course.state;
        if !state.mutated && !state.is_loading() {
            // The last look before anything is done.
            if self.lose_uploads("before anything was stopped")? {
                return Ok(());
            }
            if !self.course.state.is_validation_valid(UnixNanos::now().0) {
                self.validate()?;
            }
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

    /// Loads all members, parents first.
    pub(super) fn load_all(&mut self) -> Result<(), Error> {
        if !self.looked {
            self.looked = true;
            if self.lose_started()? {
                return Ok(());
            }
            if self.lose_uploads("after members were stopped")? {
                let reason = "an upload is not at the service any more".to_owned();
                let member = self.course.open(Kind::Upload).into_iter().next();
                let member = member.map_or_else(String::new, |(_, member)| member.id);
                return Err(Error::Member { member, reason });
            }
        }
        for (operation, member) in self.course.open(Kind::Load) {
            self.course.check()?;
            self.load(operation, &member)?;
        }
        Ok(())
    }

    /// Loads a member and asks what code it has then.
    fn load(&mut self, operation: u32, member: &Row) -> Result<(), Error> {
        let Some(snapshot) = self.course.state.upload(&member.id).cloned() else {
            let reason = "nothing was uploaded for it".into();
            return Err(Error::Member { member: member.id.clone(), reason });
        };
        for attempt in 1.. {
            self.course.begin(vec![operation], None)?;
            let service = &self.course.service;
            let told = service.executor.load(member, &snapshot, &service.call(&member.id));
            let loaded = match told {
                Ok(()) => self.loaded(member),
                Err(error) => Err(error),
            };
            match loaded {
                Ok(receipt) => return self.course.complete(operation, receipt),
                Err(executor::Error::Unknown(reason)) if attempt < LOADS_MAX => {
                    self.course.failed(operation, reason)?;
                    self.course.check()?;
                }
                Err(error) => return Err(self.course.fail(operation, error.to_string())),
            }
        }
        Ok(())
    }

    fn loaded(&self, member: &Row) -> Result<Receipt, executor::Error> {
        if !self.course.service.has_control() {
            return Ok(Receipt::Loaded { module_hash: None });
        }
        let status = self.course.service.status(member)?;
        if status.state != State::Stopped {
            let reason = format!("after it was loaded it is {}", word(status.state));
            return Err(executor::Error::Refused(reason));
        }
        match right_code(member, status.module_hash) {
            Ok(module_hash) => Ok(Receipt::Loaded { module_hash }),
            Err(reason) => Err(executor::Error::Refused(format!("after it was loaded {reason}"))),
        }
    }

    /// Finds members that somebody has started since this restore stopped them: they are stopped
    /// again, and loaded again if they were. Says whether there are any.
    fn lose_started(&mut self) -> Result<bool, Error> {
        if !self.course.service.has_control() {
            return Ok(false);
        }
        let (mut lost, mut members) = (Vec::new(), Vec::new());
        for row in self.course.state.plan.rows() {
            self.course.check()?;
            if self.course.service.status(&row)?.state == State::Stopped {
                continue;
            }
            for kind in [Kind::Stop, Kind::Load] {
                if let Some((operation, state)) = self.course.state.ledger().of(kind, &row.id)
                    && state.is_done()
                {
                    lost.push(operation.sequence);
                }
            }
            members.push(row.id);
        }
        if lost.is_empty() {
            return Ok(false);
        }
        self.course.say(format!("stopped before and not any more: {}", members.join(", ")));
        let reason = format!("somebody has started {}", members.join(", "));
        self.course.record(Event::Lost { operations: lost, reason })?;
        Ok(true)
    }

    /// Finds uploads that are not at the service any more and will be needed; they are made again.
    /// Says whether there are any.
    fn lose_uploads(&mut self, when: &str) -> Result<bool, Error> {
        let (mut lost, mut members) = (Vec::new(), Vec::new());
        for (_, row) in self.course.open(Kind::Load) {
            self.course.check()?;
            let Some(upload) = self.course.state.upload(&row.id) else { continue };
            let Some(listed) = self.list(&row)? else { return Ok(false) };
            if !listed.contains(&upload.id) {
                let ledger = self.course.state.ledger();
                let both = [Kind::Fetch, Kind::Upload].map(|kind| ledger.of(kind, &row.id));
                lost.extend(both.into_iter().flatten().map(|(operation, _)| operation.sequence));
                members.push(row.id);
            }
        }
        if lost.is_empty() {
            return Ok(false);
        }
        let reason = format!("{when}, the service had no upload of {}", members.join(", "));
        self.course.say(reason.clone());
        self.course.record(Event::Lost { operations: lost, reason })?;
        Ok(true)
    }

    /// Returns the identities of a member's snapshots; `None` if the service does not list any.
    pub(super) fn list(&self, member: &Row) -> Result<Option<Vec<String>>, Error> {
        let service = &self.course.service;
        match service.executor.snapshots(member, &service.call(&member.id)) {
            Ok(listed) => Ok(Some(listed.into_iter().map(|snapshot| snapshot.id).collect())),
            Err(executor::Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
