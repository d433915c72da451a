//! The end of a run: one commit makes the generation visible; then snapshots and staging go.

use super::{Error, MemberReport, Report, Runner};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::manifest::{Generation, Member};
use crate::log;
use crate::run::course::Followed;
use crate::run::event::{Event, Receipt};
use crate::run::facts::{DeploymentFacts, MemberFacts, SCHEMA, Snapshot, Unit};
use crate::run::plan::{OperationKind as Kind, Target};
use crate::run::state::{OperationState, Outcome};

/// Newer generations of the deployment than these were not made by a run that is resumed.
const GENERATIONS_SEARCHED: usize = 100;

impl Runner<'_> {
    /// Makes the generation visible.
    pub(super) fn finalize(&mut self) -> Result<(), Error> {
        let last =
            self.course.state.plan.operations.last().map_or(0, |operation| operation.sequence);
        self.read_back_earlier()?;
        self.course.check()?;
        let tried = self.course.state.with_states().last().is_some_and(|(_, state)| {
            matches!(state, OperationState::Pending { .. } | OperationState::Failed { .. })
        });
        self.course.begin(vec![last], None)?;
        let made = match if tried { self.committed()? } else { None } {
            Some(made) => made,
            None => self.course.store.commit_generation(&self.manifest()?)?,
        };
        self.course.record(Event::Durable {
            operation: last,
            generation: made.number.0,
            manifest: made.manifest.to_hex(),
        })
    }

    /// Returns the generation of this run if an earlier process made it visible and did not live to
    /// record that.
    fn committed(&self) -> Result<Option<log::Generation>, Error> {
        let deployment = &self.course.state.plan.request.deployment;
        let mut generations = self.course.store.log()?.generations();
        generations.retain(|generation| generation.deployment == *deployment);
        for generation in generations.into_iter().rev().take(GENERATIONS_SEARCHED) {
            let Ok(manifest) = self.course.store.generation(&generation.manifest) else { continue };
            let facts = DeploymentFacts::find(&manifest.extensions);
            if facts.is_ok_and(|facts| facts.is_some_and(|facts| facts.run == self.course.name())) {
                return Ok(Some(generation));
            }
        }
        Ok(None)
    }

    fn manifest(&self) -> Result<Generation, Error> {
        let reports = self.members();
        let members = reports.iter().map(|report| {
            let artifact: Digest = report.manifest.parse().map_err(|_| {
                Error::Inventory(format!("{}: {} is no digest", report.member, report.manifest))
            })?;
            Ok(Member { name: report.member.clone(), artifact })
        });
        Ok(Generation {
            deployment: self.course.state.plan.request.deployment.clone(),
            started: UnixNanos(self.course.state.times.0),
            finished: UnixNanos::now(),
            members: members.collect::<Result<_, Error>>()?,
            missing: Vec::new(),
            extensions: vec![self.facts().to_extension()],
        })
    }

    fn facts(&self) -> DeploymentFacts {
        let plan = &self.course.state.plan;
        DeploymentFacts {
            schema: SCHEMA.to_owned(),
            run: self.course.name().to_owned(),
            executor: plan.request.executor.clone(),
            environment: plan.request.environment.clone(),
            root: Some(plan.root.clone()),
            scope: plan.request.scope,
            selected: plan.selected.clone(),
            quiescence: plan.request.quiescence,
            topology_hash: plan.topology_hash.clone(),
            members: plan.targets.iter().map(|target| self.member_facts(target)).collect(),
            units: units(&plan.targets),
        }
    }

    fn member_facts(&self, target: &Target) -> MemberFacts {
        let row = target.row.clone();
        MemberFacts {
            module_hash: self.course.state.code(&row.id).map(str::to_owned),
            snapshot: self.course.state.snapshot(&row.id).cloned(),
            id: row.id,
            role: row.role,
            kind: row.kind,
            parent: row.parent,
            depth: target.depth,
            identity: target.identity,
        }
    }

    fn members(&self) -> Vec<MemberReport> {
        let targets = self.course.state.plan.targets.iter();
        targets
            .filter_map(|target| {
                let member = target.row.id.clone();
                match self.course.state.of(Kind::VerifyArtifact, &member)?.1 {
                    OperationState::Completed(Some(Receipt::Verified {
                        manifest,
                        algorithm,
                        checksum,
                        files,
                        bytes,
                        bytes_read,
                    })) => Some(MemberReport {
                        member,
                        manifest: manifest.clone(),
                        algorithm: algorithm.clone(),
                        checksum: checksum.clone(),
                        files: *files,
                        bytes: *bytes,
                        bytes_read: *bytes_read,
                    }),
                    _ => None,
                }
            })
            .collect()
    }

    /// Removes what a durable run leaves behind, and reports the run.
    pub(super) fn clean(&mut self) -> Result<Report, Error> {
        let left = self.remove_leftovers()?;
        let Outcome::Durable { generation, manifest } = self.course.state.outcome.clone() else {
            let (run, reason) = (self.course.name().to_owned(), "it was given up".to_owned());
            return Err(Error::Abandoned { run, reason });
        };
        Ok(Report {
            run: self.course.name().to_owned(),
            deployment: self.course.state.plan.request.deployment.clone(),
            generation,
            manifest,
            members: self.members(),
            stats: self.stats,
            left,
        })
    }

    /// Removes snapshots from the service and staging from the disk, once; returns what could not
    /// be removed.
    pub(super) fn remove_leftovers(&mut self) -> Result<Vec<(String, String)>, Error> {
        self.course.staging.remove(self.course.name())?;
        if self.course.state.cleaned {
            self.course.close()?;
            return Ok(Vec::new());
        }
        let mut snapshots = Vec::new();
        if self.course.service.executor.capabilities().snapshots {
            // Those of a generation may be wanted at the service; what counts no more never is.
            let is_durable = matches!(self.course.state.outcome, Outcome::Durable { .. });
            if self.course.options.delete_snapshots || !is_durable {
                let made = self.course.state.plan.targets.iter().filter_map(|target| {
                    let id = &target.row.id;
                    Some((id.clone(), self.course.state.snapshot(id)?.clone()))
                });
                snapshots.extend(made);
            }
            snapshots.extend(self.course.state.discarded.iter().cloned());
        }
        let with_row =
            |(id, snapshot): (String, Snapshot)| Some((self.course.state.row(&id)?, snapshot));
        let snapshots = snapshots.into_iter().filter_map(with_row).collect();
        let (removed, mut failed) = self.course.service.delete(snapshots);
        self.course.record(Event::Cleaned { snapshots: removed, failed: failed.clone() })?;
        self.course.close()?;
        let why = "it appeared while answers were lost, and may be somebody else's";
        let strays = self.course.state.strays.iter();
        failed
            .extend(strays.map(|(member, id)| (format!("snapshot {id} of {member}"), why.into())));
        Ok(failed)
    }
}

/// Says which members belong together: each that has no other above it, with all below it. They were
/// quieted together with the others, but only what hangs together has to be restored together.
fn units(targets: &[Target]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    // Breadth first: a parent comes before its children.
    for target in targets {
        let id = &target.row.id;
        let parent = target.row.parent.as_ref();
        let above = units
            .iter_mut()
            .find(|unit| parent.is_some_and(|parent| unit.members.contains(parent)));
        match above {
            Some(unit) => {
                unit.members.push(id.clone());
                unit.subtree = true;
            }
            None => {
                units.push(Unit { id: id.clone(), subtree: false, members: vec![id.clone()] });
            }
        }
    }
    units
}
