//! From the files of a backup directory to what a generation keeps of its deployment.

use std::collections::{HashMap, HashSet, VecDeque};

use super::documents::{
    self, Execution, IdentityMode, Manifest, OperationKind, Outcome, Plan, QuiescencePolicy,
    ScopeKind, UnitKind,
};
use super::error::Error;
use super::read::Backup;
use crate::limits::{RECORD_BYTES_MAX, UNIT_MEMBERS_MAX};
use crate::run::facts::{
    DeploymentFacts, Identity, MemberFacts, Quiescence, SCHEMA, Scope, Snapshot, Unit,
};
use crate::run::inventory::is_sha256_hex;

/// The executor's name in the facts of an import.
pub(super) const EXECUTOR: &str = "canic-backup";

/// Returns what a generation keeps of a backup.
pub(super) fn facts_of(backup: &Backup) -> Result<DeploymentFacts, Error> {
    let Manifest { backup_id, source, deployment, .. } = &backup.manifest;
    let plan = backup.run.as_ref().map(|(plan, _)| plan);
    let (scope, selected) = match plan {
        Some(plan) => (scope_of(plan), plan.selected_subtree_root.clone()),
        None => guessed_scope(&backup.manifest),
    };
    let facts = DeploymentFacts {
        schema: SCHEMA.to_owned(),
        run: backup_id.clone(),
        executor: EXECUTOR.to_owned(),
        environment: source.environment.clone(),
        root: Some(source.root_canister.clone()),
        scope,
        selected,
        quiescence: match plan.map(|plan| plan.quiescence_policy) {
            None | Some(QuiescencePolicy::CrashConsistent) => Quiescence::CrashConsistent,
            Some(QuiescencePolicy::RootCoordinated) => Quiescence::RootCoordinated,
            Some(QuiescencePolicy::AppQuiesced) => Quiescence::AppQuiesced,
        },
        topology_hash: deployment.topology_hash.clone(),
        members: members(backup),
        units: units(&backup.manifest)?,
    };
    // Half of what a record takes: names and artifacts of the members need the rest.
    if facts.to_extension().value.len() > RECORD_BYTES_MAX / 2 {
        return Err(Error::TooMuch);
    }
    Ok(facts)
}

fn scope_of(plan: &Plan) -> Scope {
    match plan.selected_scope_kind {
        // The original takes a member's children along.
        ScopeKind::Member if plan.targets.len() == 1 => Scope::Member,
        ScopeKind::Member | ScopeKind::Subtree => Scope::Subtree,
        ScopeKind::NonRootDeployment => Scope::NonRootDeployment,
        ScopeKind::MaintenanceRoot => Scope::MaintenanceRoot,
    }
}

/// Without a plan: the first member is the selected one.
fn guessed_scope(manifest: &Manifest) -> (Scope, Option<String>) {
    let members = &manifest.deployment.members;
    let root = &manifest.source.root_canister;
    let scope = match members.len() {
        _ if members.iter().any(|member| member.canister_id == *root) => Scope::MaintenanceRoot,
        1 => Scope::Member,
        _ => Scope::Subtree,
    };
    (scope, members.first().map(|member| member.canister_id.clone()))
}

fn members(backup: &Backup) -> Vec<MemberFacts> {
    let members = &backup.manifest.deployment.members;
    let plan = backup.run.as_ref().map(|(plan, _)| plan);
    let targets: HashMap<_, _> = plan
        .into_iter()
        .flat_map(|plan| plan.targets.iter().map(|target| (target.canister_id.as_str(), target)))
        .collect();
    let created = backup.run.as_ref().map_or_else(HashMap::new, |(_, journal)| created(journal));
    let depths = depths(members);
    let facts = |(member, depth): (&documents::Member, u32)| {
        let id = member.canister_id.as_str();
        let target = targets.get(id);
        let snapshot_id = member.source_snapshot.snapshot_id.as_str();
        let (taken_at, total_bytes) = created.get(&(id, snapshot_id)).copied().unwrap_or_default();
        MemberFacts {
            id: id.to_owned(),
            role: target.map_or_else(|| Some(member.role.clone()), |target| target.role.clone()),
            kind: None,
            parent: member.parent_canister_id.clone(),
            depth: target.map_or(depth, |target| target.depth),
            identity: match member.identity_mode {
                IdentityMode::Fixed => Identity::Fixed,
                IdentityMode::Relocatable => Identity::Relocatable,
            },
            module_hash: member.source_snapshot.module_hash.as_deref().and_then(module_hash),
            snapshot: Some(Snapshot { id: snapshot_id.to_owned(), taken_at, total_bytes }),
        }
    };
    members.iter().zip(depths).map(facts).collect()
}

/// Returns a module hash as it is kept. The original takes any text for one.
fn module_hash(text: &str) -> Option<String> {
    let hash = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    is_sha256_hex(&hash).then_some(hash)
}

/// A snapshot, by its canister and its identity.
type SnapshotKey<'j> = (&'j str, &'j str);
/// When a snapshot was taken, and its size.
type Taken = (Option<u64>, Option<u64>);

fn created(journal: &Execution) -> HashMap<SnapshotKey<'_>, Taken> {
    let mut created = HashMap::new();
    for receipt in &journal.operation_receipts {
        let done =
            receipt.kind == OperationKind::CreateSnapshot && receipt.outcome == Outcome::Completed;
        if let (true, Some(target), Some(snapshot)) =
            (done, receipt.target_canister_id.as_deref(), receipt.snapshot_id.as_deref())
        {
            let taken = (receipt.snapshot_taken_at_timestamp, receipt.snapshot_total_size_bytes);
            created.insert((target, snapshot), taken);
        }
    }
    created
}

/// Returns the members' depths among themselves.
fn depths(members: &[documents::Member]) -> Vec<u32> {
    let mut depths = vec![0; members.len()];
    for component in components(members) {
        for (at, depth) in component {
            depths[at] = depth;
        }
    }
    depths
}

/// Returns what hangs together, as places with depths, each breadth first from its root.
fn components(members: &[documents::Member]) -> Vec<Vec<(usize, u32)>> {
    let ids: HashSet<_> = members.iter().map(|member| member.canister_id.as_str()).collect();
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (at, member) in members.iter().enumerate() {
        match member.parent_canister_id.as_deref() {
            Some(parent) if ids.contains(parent) => children.entry(parent).or_default().push(at),
            _ => roots.push(at),
        }
    }
    let mut seen = vec![false; members.len()];
    let mut components = Vec::new();
    // Members that are their own ancestors are reached from none of the roots.
    for root in roots.into_iter().chain(0..members.len()) {
        let mut queue = VecDeque::from([(root, 0)]);
        let mut component = Vec::new();
        while let Some((at, depth)) = queue.pop_front() {
            if !std::mem::replace(&mut seen[at], true) {
                component.push((at, depth));
                let below = children.get(members[at].canister_id.as_str());
                queue.extend(below.into_iter().flatten().map(|child| (*child, depth + 1)));
            }
        }
        if !component.is_empty() {
            components.push(component);
        }
    }
    components
}

/// Returns the places of each unit's members: all that have one of its roles.
pub(super) fn unit_members(manifest: &Manifest) -> Result<Vec<Vec<usize>>, Error> {
    let mut by_role: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, member) in manifest.deployment.members.iter().enumerate() {
        by_role.entry(&member.role).or_default().push(at);
    }
    let mut left = UNIT_MEMBERS_MAX;
    let mut all = Vec::new();
    for unit in &manifest.consistency.backup_units {
        let of_roles = unit.roles.iter().filter_map(|role| by_role.get(role.as_str()));
        let count = of_roles.clone().map(Vec::len).sum();
        left = left.checked_sub(count).ok_or(Error::TooMuch)?;
        all.push(of_roles.flatten().copied().collect());
    }
    Ok(all)
}

fn units(manifest: &Manifest) -> Result<Vec<Unit>, Error> {
    let members = &manifest.deployment.members;
    let units = &manifest.consistency.backup_units;
    let mut inside = unit_members(manifest)?;
    let mut subtree: Vec<_> = units.iter().map(|unit| unit.kind == UnitKind::Subtree).collect();
    let mut names: Vec<_> = units.iter().map(|unit| unit.unit_id.clone()).collect();
    let mut seen = vec![false; members.len()];
    let repeats = inside.iter().flatten().any(|at| std::mem::replace(&mut seen[*at], true));
    if repeats {
        // Roles do not tell the units apart: what hangs together does.
        let components = components(members);
        if components.len() != names.len() {
            names = (1..=components.len()).map(|n| format!("backup-selection-{n}")).collect();
        }
        subtree = components.iter().map(|component| component.len() > 1).collect();
        let places =
            |component: Vec<(usize, u32)>| component.into_iter().map(|(at, _)| at).collect();
        inside = components.into_iter().map(places).collect();
    }
    let made = names.into_iter().zip(subtree).zip(inside);
    Ok(made
        .map(|((id, subtree), inside)| {
            let members = inside.into_iter().map(|at| members[at].canister_id.clone()).collect();
            Unit { id, subtree, members }
        })
        .collect())
}
