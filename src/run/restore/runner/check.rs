//! Questions: what has to be so before a restore does anything, and what after it.

use std::collections::HashMap;

use super::Runner;
use crate::clock::UnixNanos;
use crate::run::error::Error;
use crate::run::event::PREFLIGHT_NANOS;
use crate::run::executor::{State, Status};
use crate::run::inventory::{Inventory, Row};
use crate::run::restore::event::{Event, Found, Receipt, Validation};
use crate::run::restore::plan::OperationKind as Kind;
use crate::run::restore::source::Source;
use crate::run::service::{Rights, ask_each, word};
use crate::run::topology::topology_hash;

impl Runner<'_> {
    /// Asks store and service before anything is done, and records the answers.
    pub(super) fn validate(&mut self) -> Result<(), Error> {
        let valid_from = UnixNanos::now().0;
        let plan = &self.course.state.plan;
        Source::reread(self.course.store, plan)?;
        let topology = self.check_topology(None)?;
        let rights = Rights { control: Some("to stop, load and start it"), read: None };
        // All at once, up to a limit: the answers must not be too old before the last one comes.
        let answers = ask_each(&plan.rows(), self.course.options.concurrency, |row: &Row| {
            self.course.check()?;
            let service = &self.course.service;
            let authority = service.authority(row, &rights, plan.request.authority)?;
            Ok((authority, self.find(row.clone())?))
        })?;
        let (authorities, members) = answers.into_iter().unzip();
        let receipt = Validation {
            plan: plan.id.clone(),
            topology,
            authorities,
            members,
            valid_from,
            expires: valid_from.saturating_add(PREFLIGHT_NANOS),
        };
        self.course.record(Event::Validated { receipt })
    }

    /// Looks at a member: it has to be there, and either to run or to be stopped.
    fn find(&self, row: Row) -> Result<Found, Error> {
        if !self.course.service.has_control() {
            return Ok(Found { member: row.id, running: None, module_hash: None });
        }
        let Status { state, module_hash } = self.course.service.status(&row)?;
        let refuse = |reason: &str| Error::Member { member: row.id.clone(), reason: reason.into() };
        let running = match state {
            State::Running => true,
            State::Stopped => false,
            State::Stopping => {
                return Err(refuse("is stopping, and this restore has not told it to"));
            }
            State::Unknown => return Err(refuse("the service does not say whether it runs")),
        };
        Ok(Found { member: row.id, running: Some(running), module_hash })
    }

    /// Compares the members that the service lists with the plan's, and their code with `codes`,
    /// which a restore changes. Says what was compared.
    fn check_topology(&self, codes: Option<&HashMap<String, String>>) -> Result<String, Error> {
        let plan = &self.course.state.plan;
        let call = self.course.service.call("");
        let Some(rows) = self.course.service.executor.inventory(&call)? else {
            return Ok("nothing: the service has no list of its members".into());
        };
        let live = Inventory::new(rows).map_err(|error| Error::Inventory(error.to_string()))?;
        let live: HashMap<&str, &Row> =
            live.rows().iter().map(|row| (row.id.as_str(), row)).collect();
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        for member in &plan.members {
            let refuse = |reason| Err(Error::Member { member: member.target.clone(), reason });
            let Some(found) = live.get(member.target.as_str()) else {
                return refuse("the service does not list it".into());
            };
            if let Some(parent) = plan.parent_of(member)
                && parent != found.parent
            {
                let (expected, actual) = (shown(&parent), shown(&found.parent));
                return refuse(format!("its parent is {actual}, and {expected} is expected"));
            }
            if member.role.is_some() && found.role.is_some() && member.role != found.role {
                let (expected, actual) = (shown(&member.role), shown(&found.role));
                return refuse(format!("its role is {actual}, and {expected} is expected"));
            }
            if let (Some(expected), Some(actual)) =
                (codes.and_then(|codes| codes.get(&member.target)), &found.module_hash)
                && expected != actual
            {
                return refuse(other_code(actual, expected));
            }
        }
        Ok(format!("the service's list of {} members", live.len()))
    }

    /// Asks each member whether it runs, with the right code.
    pub(super) fn check_members(&mut self) -> Result<(), Error> {
        let able = self.course.service.has_control();
        if self.course.skip_without(able, Kind::CheckMember, "tell how members are")? {
            return Ok(());
        }
        for (operation, member) in self.course.open(Kind::CheckMember) {
            self.course.check()?;
            self.course.begin(vec![operation], None)?;
            match self.running(&member) {
                Ok(module_hash) => {
                    self.course.complete(operation, Receipt::Checked { module_hash })?;
                }
                Err(reason) => return Err(self.course.fail(operation, reason)),
            }
        }
        Ok(())
    }

    /// Checks that a member runs, with the right code; returns it.
    fn running(&self, member: &Row) -> Result<Option<String>, String> {
        let status = self.course.service.status(member).map_err(|error| error.to_string())?;
        if status.state != State::Running {
            return Err(format!("it is {}", word(status.state)));
        }
        right_code(member, status.module_hash)
    }

    /// Asks for all members together, and ends the restore.
    pub(super) fn check_deployment(&mut self) -> Result<(), Error> {
        let plan = &self.course.state.plan;
        let last = plan.operations.last().map_or(0, |operation| operation.sequence);
        self.course.begin(vec![last], None)?;
        let (mut rows, mut codes) = (self.course.state.plan.rows(), HashMap::new());
        if self.course.service.has_control() {
            for row in &mut rows {
                match self.running(row) {
                    Ok(Some(code)) => {
                        codes.insert(row.id.clone(), code.clone());
                        row.module_hash = Some(code);
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        let reason = format!("{}: {reason}", row.id);
                        return Err(self.course.fail(last, reason));
                    }
                }
            }
        }
        let topology = match self.check_topology(Some(&codes)) {
            Ok(topology) => topology,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => return Err(self.course.fail(last, error.to_string())),
        };
        self.topology.clone_from(&topology);
        let topology_hash = topology_hash(&rows).hash;
        self.course.record(Event::Restored { operation: last, topology_hash, topology })
    }
}

/// Checks a member's code, which the plan's row has; returns it.
pub(super) fn right_code(member: &Row, code: Option<String>) -> Result<Option<String>, String> {
    match (&member.module_hash, code) {
        (Some(expected), Some(actual)) if *expected != actual => Err(other_code(&actual, expected)),
        (_, code) => Ok(code),
    }
}

fn other_code(actual: &str, expected: &str) -> String {
    format!("it has the code {actual}, and {expected} is expected")
}
