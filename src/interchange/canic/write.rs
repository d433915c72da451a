//! From what a generation keeps of its deployment to the files of a backup directory: those that a
//! finished run of canic-backup leaves.

use std::collections::{HashMap, HashSet};

use super::check;
use super::documents::{
    BackupUnit, Check, Consistency, ControlAuthority, ControlSource, Deployment, Download,
    DownloadState, Downloads, Evidence, Execution, IdentityMode, Manifest, Member, Metrics,
    Operation, OperationKind, OperationState, Outcome, Phase, Plan, QuiescencePolicy,
    ReadAuthority, ReadSource, Receipt, SHA256, STATUS, ScopeKind, Source, SourceSnapshot, Target,
    Tool, UnitKind, VERSION, Verification,
};
use super::error::{Error, Lack};
use super::facts::unit_members;
use crate::clock::UnixNanos;
use crate::run::facts::{DeploymentFacts, Identity, MemberFacts, Quiescence, Scope, Unit};
use crate::run::inventory::is_sha256_hex;

/// All four files.
pub(super) struct Documents {
    pub plan: Plan,
    pub execution: Execution,
    pub downloads: Downloads,
    pub manifest: Manifest,
    /// Units that are written as `single`, because roles cannot tell their subtrees apart.
    pub loosened: Vec<String>,
}

/// What is put into the files: the generation's facts, checked for what canic-backup needs.
pub(super) struct Content<'f> {
    /// `name@gN`, for errors.
    pub generation: &'f str,
    /// The deployment's name.
    pub deployment: &'f str,
    /// When the generation was finished.
    pub finished: UnixNanos,
    /// What is known of the deployment.
    pub facts: &'f DeploymentFacts,
}

impl Content<'_> {
    fn lacks<T>(&self, lacks: Lack) -> Result<T, Error> {
        Err(Error::Lacks { of: self.generation.to_owned(), lacks })
    }

    /// Returns the files; `checksum` is asked for each member's.
    pub fn documents(&self, checksum: impl Fn(&str) -> String) -> Result<Documents, Error> {
        let plan = self.plan()?;
        let at = format!("unix:{}", self.finished.0.max(0) / 1_000_000_000);
        let execution = execution(&plan, self.facts, &at, &checksum);
        let downloads = downloads(&plan, self.facts, &at, &checksum);
        let mut manifest = manifest(&plan, &downloads, &at, self.units(&plan));
        let loosened = loosen(&mut manifest)?;
        // What was written here is what is taken in there.
        check::plan(&plan)?;
        check::execution(&execution)?;
        check::downloads(&downloads)?;
        check::manifest(&manifest)?;
        Ok(Documents { plan, execution, downloads, manifest, loosened })
    }

    fn plan(&self) -> Result<Plan, Error> {
        let facts = self.facts;
        if facts.run.trim().is_empty() {
            return self.lacks(Lack::Run);
        }
        if facts.environment.trim().is_empty() {
            return self.lacks(Lack::Environment);
        }
        if !is_sha256_hex(&facts.topology_hash) {
            return self.lacks(Lack::TopologyHash);
        }
        let root = self.root()?;
        let targets: Vec<_> = facts.members.iter().map(target).collect::<Result<_, _>>()?;
        let (scope, selected) = self.scope(&root)?;
        Ok(Plan {
            plan_id: format!("plan-{}", facts.run),
            run_id: facts.run.clone(),
            fleet: self.deployment.to_owned(),
            network: facts.environment.clone(),
            root_canister_id: root,
            selected_subtree_root: selected,
            selected_scope_kind: scope,
            include_descendants: scope != ScopeKind::Member,
            root_included: scope == ScopeKind::MaintenanceRoot,
            requires_root_controller: false,
            snapshot_read_authority: read_authority(),
            quiescence_policy: match facts.quiescence {
                Quiescence::CrashConsistent => QuiescencePolicy::CrashConsistent,
                Quiescence::RootCoordinated => QuiescencePolicy::RootCoordinated,
                Quiescence::AppQuiesced => QuiescencePolicy::AppQuiesced,
            },
            topology_hash_before_quiesce: facts.topology_hash.clone(),
            phases: phases(&targets),
            targets,
        })
    }

    /// Returns the root: the one that is known, or the only member without a parent.
    fn root(&self) -> Result<String, Error> {
        let mut tops = self.facts.members.iter().filter(|member| member.parent.is_none());
        let root = match (&self.facts.root, tops.next(), tops.next()) {
            (Some(root), ..) => root,
            (None, Some(top), None) => &top.id,
            _ => return self.lacks(Lack::Root),
        };
        if check::is_principal(root) {
            return Ok(root.clone());
        }
        self.lacks(Lack::Principal(root.clone()))
    }

    /// Returns the scope and the selected member. With the root in it, it is the only scope that
    /// canic-backup allows the root in.
    fn scope(&self, root: &str) -> Result<(ScopeKind, Option<String>), Error> {
        let facts = self.facts;
        let scope = match facts.scope {
            _ if facts.member(root).is_some() => ScopeKind::MaintenanceRoot,
            Scope::Member => ScopeKind::Member,
            Scope::Subtree => ScopeKind::Subtree,
            Scope::NonRootDeployment => return Ok((ScopeKind::NonRootDeployment, None)),
            Scope::MaintenanceRoot => return self.lacks(Lack::Root),
        };
        let selected = match &facts.selected {
            None if scope == ScopeKind::MaintenanceRoot => root,
            None => "",
            Some(selected) => selected,
        };
        match facts.member(selected) {
            Some(member) => Ok((scope, Some(member.id.clone()))),
            None => self.lacks(Lack::Selected),
        }
    }

    /// Returns the units with their members' roles; one for all if there are none.
    fn units(&self, plan: &Plan) -> Vec<BackupUnit> {
        let roles: HashMap<_, _> = plan
            .targets
            .iter()
            .enumerate()
            .map(|(at, target)| (target.canister_id.as_str(), role(at, target)))
            .collect();
        let mut left: HashSet<_> = roles.keys().copied().collect();
        let mut units = Vec::new();
        for Unit { id, subtree, members } in &self.facts.units {
            for member in members {
                left.remove(member.as_str());
            }
            let of_members = members.iter().filter_map(|id| roles.get(id.as_str()).cloned());
            units.extend(unit(id.clone(), *subtree, of_members));
        }
        // Members that are in no unit get one each.
        let alone = plan.targets.iter().filter(|target| left.contains(target.canister_id.as_str()));
        for target in alone {
            let id = target.canister_id.as_str();
            units.extend(unit(id.to_owned(), false, roles.get(id).cloned().into_iter()));
        }
        units
    }
}

/// Returns a unit with each role once; none if there are no roles.
fn unit(id: String, subtree: bool, roles: impl Iterator<Item = String>) -> Option<BackupUnit> {
    let mut seen = HashSet::new();
    let roles: Vec<_> = roles.filter(|role| seen.insert(role.clone())).collect();
    let kind = if subtree { UnitKind::Subtree } else { UnitKind::Single };
    (!roles.is_empty()).then_some(BackupUnit { unit_id: id, kind, roles })
}

/// Writes every subtree that its roles do not describe as a single unit, of which canic-backup asks
/// nothing, and returns their names.
fn loosen(manifest: &mut Manifest) -> Result<Vec<String>, Error> {
    let inside = unit_members(manifest)?;
    let members = &manifest.deployment.members;
    let children = check::children(members);
    let mut loosened = Vec::new();
    for (unit, inside) in manifest.consistency.backup_units.iter_mut().zip(&inside) {
        if unit.kind == UnitKind::Subtree
            && check::subtree_fault(members, &children, inside).is_some()
        {
            unit.kind = UnitKind::Single;
            loosened.push(unit.unit_id.clone());
        }
    }
    Ok(loosened)
}

fn read_authority() -> ReadAuthority {
    // A generation does not keep how the right was proven.
    ReadAuthority { source: ReadSource::OperatorController, evidence: Evidence::Declared }
}

fn target(member: &MemberFacts) -> Result<Target, Error> {
    let lacks = |lacks| Err(Error::Lacks { of: member.id.clone(), lacks });
    for id in std::iter::once(&member.id).chain(&member.parent) {
        if !check::is_principal(id) {
            return lacks(Lack::Principal(id.clone()));
        }
    }
    if member.role.as_ref().is_some_and(|role| role.trim().is_empty()) {
        return lacks(Lack::Role);
    }
    if member.snapshot.as_ref().is_none_or(|snapshot| snapshot.id.trim().is_empty()) {
        return lacks(Lack::Snapshot);
    }
    Ok(Target {
        canister_id: member.id.clone(),
        role: member.role.clone(),
        parent_canister_id: member.parent.clone(),
        depth: member.depth,
        control_authority: ControlAuthority {
            source: ControlSource::OperatorController {},
            evidence: Evidence::Declared,
        },
        snapshot_read_authority: read_authority(),
        identity_mode: match member.identity {
            Identity::Fixed => IdentityMode::Fixed,
            Identity::Relocatable => IdentityMode::Relocatable,
        },
        expected_module_hash: member.module_hash.clone(),
    })
}

/// Returns the role of the target at `at` as it stands in manifests.
fn role(at: usize, target: &Target) -> String {
    target.role.clone().unwrap_or_else(|| format!("member-{at}"))
}

/// Returns the operations of a plan: the four checks; stop and create from the top, start from the
/// bottom; download and verify each; finish.
fn phases(targets: &[Target]) -> Vec<Phase> {
    use OperationKind::{
        CreateSnapshot, DownloadSnapshot, FinalizeManifest, Start, Stop, ValidateControlAuthority,
        ValidateQuiescencePolicy, ValidateSnapshotReadAuthority, ValidateTopology, VerifyArtifact,
    };
    let mut down: Vec<_> = targets.iter().collect();
    down.sort_by_key(|target| (target.depth, &target.canister_id));
    let of = |kind, verb: &str, target: &Target| {
        let id = &target.canister_id;
        (kind, format!("{verb}-{id}"), Some(id.clone()))
    };
    let checks = [
        (ValidateTopology, "validate-topology"),
        (ValidateControlAuthority, "validate-control-authority"),
        (ValidateSnapshotReadAuthority, "validate-snapshot-read-authority"),
        (ValidateQuiescencePolicy, "validate-quiescence-policy"),
    ];
    let mut all: Vec<_> =
        checks.into_iter().map(|(kind, name)| (kind, name.to_owned(), None)).collect();
    all.extend(down.iter().map(|target| of(Stop, "stop", target)));
    all.extend(down.iter().map(|target| of(CreateSnapshot, "snapshot", target)));
    all.extend(down.iter().rev().map(|target| of(Start, "start", target)));
    for target in targets {
        all.push(of(DownloadSnapshot, "download", target));
        all.push(of(VerifyArtifact, "verify", target));
    }
    all.push((FinalizeManifest, "finalize-manifest".to_owned(), None));
    let phase = |(order, (kind, operation_id, target_canister_id))| Phase {
        operation_id,
        order,
        kind,
        target_canister_id,
    };
    (0..).zip(all).map(phase).collect()
}

/// Returns the snapshot's identity; members without one were refused.
fn snapshot_id(member: Option<&MemberFacts>) -> String {
    let snapshot = member.and_then(|member| member.snapshot.as_ref());
    snapshot.map(|snapshot| snapshot.id.clone()).unwrap_or_default()
}

fn execution(
    plan: &Plan,
    facts: &DeploymentFacts,
    at: &str,
    checksum: &impl Fn(&str) -> String,
) -> Execution {
    let preflight_id = format!("preflight-{}", plan.run_id);
    let members: HashMap<_, _> = facts.members.iter().map(|m| (m.id.as_str(), m)).collect();
    let operation = |phase: &Phase| Operation {
        sequence: u64::from(phase.order),
        operation_id: phase.operation_id.clone(),
        kind: phase.kind,
        target_canister_id: phase.target_canister_id.clone(),
        state: OperationState::Completed,
        state_updated_at: Some(at.to_owned()),
        blocking_reasons: Vec::new(),
    };
    let receipt = |phase: &Phase| {
        let id = phase.target_canister_id.as_deref().unwrap_or_default();
        let member = members.get(id).copied();
        let create = phase.kind == OperationKind::CreateSnapshot;
        let snapshot = member.and_then(|member| member.snapshot.as_ref()).filter(|_| create);
        Receipt {
            plan_id: plan.plan_id.clone(),
            run_id: plan.run_id.clone(),
            preflight_id: Some(preflight_id.clone()),
            sequence: u64::from(phase.order),
            operation_id: phase.operation_id.clone(),
            kind: phase.kind,
            target_canister_id: phase.target_canister_id.clone(),
            outcome: Outcome::Completed,
            updated_at: Some(at.to_owned()),
            snapshot_id: snapshot.map(|snapshot| snapshot.id.clone()),
            snapshot_taken_at_timestamp: snapshot.and_then(|snapshot| snapshot.taken_at),
            snapshot_total_size_bytes: snapshot.and_then(|snapshot| snapshot.total_bytes),
            artifact_path: (phase.kind == OperationKind::DownloadSnapshot).then(|| id.to_owned()),
            checksum: (phase.kind == OperationKind::VerifyArtifact).then(|| checksum(id)),
            failure_reason: None,
        }
    };
    Execution {
        journal_version: VERSION,
        plan_id: plan.plan_id.clone(),
        run_id: plan.run_id.clone(),
        preflight_id: Some(preflight_id.clone()),
        preflight_accepted: true,
        restart_required: false,
        operations: plan.phases.iter().map(operation).collect(),
        operation_receipts: plan
            .phases
            .iter()
            .filter(|phase| !phase.kind.is_preflight())
            .map(receipt)
            .collect(),
    }
}

fn downloads(
    plan: &Plan,
    facts: &DeploymentFacts,
    at: &str,
    checksum: &impl Fn(&str) -> String,
) -> Downloads {
    let members: HashMap<_, _> = facts.members.iter().map(|m| (m.id.as_str(), m)).collect();
    let artifact = |target: &Target| Download {
        canister_id: target.canister_id.clone(),
        snapshot_id: snapshot_id(members.get(target.canister_id.as_str()).copied()),
        state: DownloadState::Durable,
        temp_path: None,
        // A principal's letters are all safe in names.
        artifact_path: target.canister_id.clone(),
        checksum_algorithm: SHA256.to_owned(),
        checksum: Some(checksum(&target.canister_id)),
        updated_at: at.to_owned(),
    };
    let count = plan.targets.len() as u64;
    Downloads {
        journal_version: VERSION,
        backup_id: plan.run_id.clone(),
        discovery_topology_hash: Some(plan.topology_hash_before_quiesce.clone()),
        pre_snapshot_topology_hash: Some(plan.topology_hash_before_quiesce.clone()),
        operation_metrics: Metrics {
            target_count: count,
            snapshot_create_started: count,
            snapshot_create_completed: count,
            snapshot_download_started: count,
            snapshot_download_completed: count,
            checksum_verify_started: count,
            checksum_verify_completed: count,
            artifact_finalize_started: count,
            artifact_finalize_completed: count,
        },
        artifacts: plan.targets.iter().map(artifact).collect(),
    }
}

fn manifest(plan: &Plan, downloads: &Downloads, at: &str, units: Vec<BackupUnit>) -> Manifest {
    let member = |(place, (target, entry)): (usize, (&Target, &Download))| {
        let role = role(place, target);
        Member {
            canister_id: target.canister_id.clone(),
            parent_canister_id: target.parent_canister_id.clone(),
            subnet_canister_id: None,
            controller_hint: None,
            identity_mode: target.identity_mode,
            verification_checks: vec![Check { kind: STATUS.to_owned(), roles: vec![role.clone()] }],
            source_snapshot: SourceSnapshot {
                snapshot_id: entry.snapshot_id.clone(),
                module_hash: target.expected_module_hash.clone(),
                code_version: None,
                artifact_path: entry.artifact_path.clone(),
                checksum_algorithm: entry.checksum_algorithm.clone(),
                checksum: entry.checksum.clone(),
            },
            role,
        }
    };
    let hash = &plan.topology_hash_before_quiesce;
    Manifest {
        manifest_version: VERSION,
        backup_id: plan.run_id.clone(),
        created_at: at.to_owned(),
        tool: Tool { name: "strongroom".into(), version: env!("CARGO_PKG_VERSION").into() },
        source: Source {
            environment: plan.network.clone(),
            root_canister: plan.root_canister_id.clone(),
        },
        consistency: Consistency { backup_units: units },
        deployment: Deployment {
            topology_hash_algorithm: SHA256.to_owned(),
            topology_hash_input: format!("canic-backup-plan:{}", plan.plan_id),
            discovery_topology_hash: hash.clone(),
            pre_snapshot_topology_hash: hash.clone(),
            topology_hash: hash.clone(),
            members: plan
                .targets
                .iter()
                .zip(&downloads.artifacts)
                .enumerate()
                .map(member)
                .collect(),
        },
        verification: Verification::default(),
    }
}
