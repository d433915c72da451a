//! The end of a restore: uploads and staging go, and what was done is reported.

use super::{MemberReport, Report, Runner};
use crate::run::course::Followed;
use crate::run::error::Error;
use crate::run::restore::event::{Event, Receipt};
use crate::run::restore::plan::{Member, OperationKind as Kind};
use crate::run::restore::state::Outcome;

impl Runner<'_> {
    /// Removes what a restore leaves behind, and reports it.
    pub(super) fn clean(&mut self) -> Result<Report, Error> {
        let left = self.remove_leftovers()?;
        let (run, state) = (self.course.name().to_owned(), &self.course.state);
        if let Outcome::Abandoned { reason } = &state.outcome {
            return Err(Error::Abandoned { run, reason: reason.clone() });
        }
        let request = &state.plan.request;
        Ok(Report {
            run,
            into: request.into.clone(),
            deployment: request.deployment.clone(),
            generation: request.generation,
            topology: self.topology.clone(),
            members: state.plan.members.iter().map(|member| self.report(member)).collect(),
            left,
        })
    }

    fn report(&self, member: &Member) -> MemberReport {
        let receipt = self.course.state.ledger().receipt(Kind::CheckMember, &member.target);
        MemberReport {
            source: member.source.clone(),
            target: member.target.clone(),
            checksum: format!("{} {}", member.algorithm, member.checksum),
            bytes: member.bytes,
            module_hash: match receipt {
                Some(Receipt::Checked { module_hash }) => module_hash.clone(),
                _ => None,
            },
        }
    }

    /// Removes uploads from the service and staging from the disk, once; returns what is left, with
    /// the cause. Snapshots that no answer named are left alone: somebody may have made them.
    pub(super) fn remove_leftovers(&mut self) -> Result<Vec<(String, String)>, Error> {
        self.course.staging.remove(self.course.name())?;
        let state = &self.course.state;
        let mut left = Vec::new();
        if !state.cleaned {
            let mut uploads = Vec::new();
            if self.course.options.delete_snapshots {
                let with_row =
                    |(id, snapshot): &(String, _)| Some((state.row(id)?, Clone::clone(snapshot)));
                uploads.extend(state.uploads.iter().filter_map(with_row));
            }
            let (snapshots, failed) = self.course.service.delete(uploads);
            left.clone_from(&failed);
            self.course.record(Event::Cleaned { snapshots, failed })?;
        }
        self.course.close()?;
        let why = "it appeared during the uploads, and no answer named it: an upload's whose answer \
            was lost, or somebody's";
        let strays = self.course.state.strays.iter();
        left.extend(strays.map(|(member, id)| (format!("snapshot {id} of {member}"), why.into())));
        Ok(left)
    }
}
