//! Preflight: the questions that are asked before anything is done.

use super::{Error, Runner};
use crate::clock::UnixNanos;
use crate::run::event::{AuthorityReceipt, Event, PREFLIGHT_NANOS, Preflight};
use crate::run::executor::{Call, Executor, State, Status};
use crate::run::inventory::{Inventory, Row};
use crate::run::plan::Target;
use crate::run::service::{Rights, ask_each};
use crate::run::topology::topology_hash;

/// Returns the members as the service has them now, or else as they are configured, or else as the
/// plan has them.
///
/// # Errors
/// The service did not answer, or its members make no inventory.
pub(super) fn live_inventory(
    executor: &dyn Executor,
    known: &[Row],
    call: &Call,
) -> Result<Inventory, Error> {
    let rows = executor.inventory(call)?.unwrap_or_else(|| known.to_vec());
    Inventory::new(rows).map_err(|error| Error::Inventory(error.to_string()))
}

impl Runner<'_> {
    /// Asks, and records the answers.
    pub(super) fn preflight(&mut self) -> Result<(), Error> {
        let valid_from = UnixNanos::now().0;
        self.check_topology()?;
        let plan = &self.course.state.plan;
        // All at once, up to a limit: the answers must not be too old before the last one comes.
        let authorities =
            ask_each(&plan.targets, self.course.options.concurrency, |target: &Target| {
                self.course.check()?;
                self.authority(&target.member())
            })?;
        let receipt = Preflight {
            plan: plan.id.clone(),
            topology_hash: plan.topology_hash.clone(),
            authorities,
            quiescence: plan.request.quiescence,
            valid_from,
            expires: valid_from.saturating_add(PREFLIGHT_NANOS),
        };
        self.course.record(Event::Preflight { receipt })
    }

    /// Compares the live topology with the plan's. The service's answers about the code of members
    /// count, where it gives any.
    pub(super) fn check_topology(&self) -> Result<(), Error> {
        let plan = &self.course.state.plan;
        let call = Call { interrupted: self.course.progress.interrupt_flag(), ..Call::new() };
        let known = self.course.options.inventory.as_ref().unwrap_or(&plan.inventory);
        let live = live_inventory(self.course.service.executor, known, &call)?;
        let actual = topology_hash(live.rows()).hash;
        if actual == plan.topology_hash {
            return Ok(());
        }
        Err(Error::Topology { expected: plan.topology_hash.clone(), actual })
    }

    /// Says whether the accepted answers are too old to begin with.
    pub(super) fn is_preflight_expired(&self) -> bool {
        !self.course.state.is_preflight_valid(UnixNanos::now().0)
    }

    fn authority(&self, member: &Row) -> Result<AuthorityReceipt, Error> {
        let able = self.course.service.executor.capabilities();
        let control = able.control.then_some("to stop and start it");
        let rights = Rights { control, read: Some("to read its snapshots") };
        let needed = self.course.state.plan.request.authority;
        let receipt = self.course.service.authority(member, &rights, needed)?;
        if able.control {
            self.check_member(member, &self.course.service.call(&member.id))?;
        }
        Ok(receipt)
    }

    /// Says what is wrong with the code that a member has, if it is not the one that is expected.
    pub(super) fn other_code(&self, member: &str, status: &Status) -> Option<String> {
        let (expected, actual) = (self.course.state.code(member)?, status.module_hash.as_deref()?);
        (expected != actual).then(|| format!("runs the code {actual}, and {expected} is expected"))
    }

    /// Checks that a member runs, with the code that is expected.
    fn check_member(&self, member: &Row, call: &Call) -> Result<(), Error> {
        let status = self.course.service.executor.status(member, call)?;
        let refuse = |reason| Err(Error::Member { member: member.id.clone(), reason });
        if let Some(reason) = self.other_code(&member.id, &status) {
            return refuse(reason);
        }
        match status.state {
            State::Running => Ok(()),
            // What this very run had stopped and could not start is stopped still.
            State::Stopped | State::Stopping
                if self.course.state.to_restart().contains(&member.id.as_str()) =>
            {
                Ok(())
            }
            State::Stopped => refuse("is stopped; a run would start it in the end".into()),
            State::Stopping => refuse("is stopping, and this run has not told it to".into()),
            State::Unknown => refuse("the service does not say whether it runs".into()),
        }
    }
}
