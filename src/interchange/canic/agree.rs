//! What the files of a backup directory say of one another: that they are of the same run, of the
//! same members, and finished.

use std::collections::HashMap;
use std::path::{Component, Path};

use super::documents::{
    DOWNLOADS, Download, EXECUTION, Execution, MANIFEST, Manifest, Member, PLAN, Plan, Target,
};
use super::error::Error;
use super::read::Backup;
use crate::run::inventory::Row;
use crate::run::topology::{self, topology_hash};
use crate::values::check_path;

/// Returns a path inside of the backup directory as its names joined by `/`; `None` if it leads out
/// of it, or is the directory itself.
pub(super) fn relative_path(path: &str) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => names.push(name.as_encoded_bytes()),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let path = names.join(&b'/');
    (!path.is_empty() && check_path(&path).is_ok()).then_some(path)
}

/// Fails unless two files say the same.
struct Pair(&'static str, &'static str);

impl Pair {
    fn same(&self, what: &str, first: &str, second: &str) -> Result<(), Error> {
        if first == second {
            return Ok(());
        }
        Err(Error::Disagree {
            what: what.to_owned(),
            first_file: self.0,
            first: first.to_owned(),
            second_file: self.1,
            second: second.to_owned(),
        })
    }

    fn same_option(
        &self,
        what: &str,
        first: Option<&str>,
        second: Option<&str>,
    ) -> Result<(), Error> {
        self.same(what, first.unwrap_or("(nothing)"), second.unwrap_or("(nothing)"))
    }
}

/// Checks the files against one another.
pub(super) fn check(backup: &Backup) -> Result<(), Error> {
    downloads(backup)?;
    topology(&backup.manifest)?;
    if let Some((plan, journal)) = &backup.run {
        execution(plan, journal)?;
        manifest(plan, &backup.manifest)?;
    }
    Ok(())
}

/// Manifest and journal of downloads: each member has its artifact, and there are no others.
fn downloads(backup: &Backup) -> Result<(), Error> {
    let Backup { manifest, downloads, .. } = backup;
    let pair = Pair(MANIFEST, DOWNLOADS);
    pair.same("the backup's id", &manifest.backup_id, &downloads.backup_id)?;
    let hash = Some(manifest.deployment.topology_hash.as_str());
    for stated in [&downloads.discovery_topology_hash, &downloads.pre_snapshot_topology_hash] {
        pair.same_option("the topology hash", hash, stated.as_deref())?;
    }
    let mut entries: HashMap<_, _> = downloads.artifacts.iter().map(|e| (key(e), e)).collect();
    for member in &manifest.deployment.members {
        let snapshot = &member.source_snapshot;
        let entry = entries.remove(&(member.canister_id.as_str(), snapshot.snapshot_id.as_str()));
        let what = |what| format!("{what} of {}", member.canister_id);
        let Some(entry) = entry else {
            let what = what("the snapshot");
            return pair.same(&what, &snapshot.snapshot_id, "(nothing)");
        };
        let path = (&snapshot.artifact_path, &entry.artifact_path);
        pair.same(&what("the artifact's path"), path.0, path.1)?;
        if snapshot.checksum.is_some() {
            let checksum = (snapshot.checksum.as_deref(), entry.checksum.as_deref());
            pair.same_option(&what("the checksum"), checksum.0, checksum.1)?;
        }
    }
    match entries.into_values().next() {
        None => Ok(()),
        Some(other) => {
            let what = format!("the snapshot of {}", other.canister_id);
            pair.same(&what, "(nothing)", &other.snapshot_id)
        }
    }
}

fn key(entry: &Download) -> (&str, &str) {
    (&entry.canister_id, &entry.snapshot_id)
}

/// The stated topology hash, where what it is of is in the manifest. (A planned backup states the
/// hash of a whole deployment of which it may hold a part.)
fn topology(manifest: &Manifest) -> Result<(), Error> {
    let deployment = &manifest.deployment;
    if deployment.topology_hash_input != topology::INPUT {
        return Ok(());
    }
    let row = |member: &Member| Row {
        id: member.canister_id.clone(),
        role: Some(member.role.clone()),
        kind: None,
        parent: member.parent_canister_id.clone(),
        module_hash: member.source_snapshot.module_hash.clone(),
    };
    let rows: Vec<_> = deployment.members.iter().map(row).collect();
    let computed = topology_hash(&rows).hash;
    if computed == deployment.topology_hash {
        return Ok(());
    }
    Err(Error::Topology { stated: deployment.topology_hash.clone(), computed })
}

/// Plan and journal of the run: the same operations.
fn execution(plan: &Plan, journal: &Execution) -> Result<(), Error> {
    let pair = Pair(PLAN, EXECUTION);
    pair.same("the plan's id", &plan.plan_id, &journal.plan_id)?;
    pair.same("the run's id", &plan.run_id, &journal.run_id)?;
    let counts = (plan.phases.len().to_string(), journal.operations.len().to_string());
    pair.same("the number of operations", &counts.0, &counts.1)?;
    for (phase, operation) in plan.phases.iter().zip(&journal.operations) {
        let what = format!("operation {}", phase.order);
        pair.same(&what, &phase.operation_id, &operation.operation_id)?;
        let kinds = (format!("{:?}", phase.kind), format!("{:?}", operation.kind));
        pair.same(&what, &kinds.0, &kinds.1)?;
        let targets = (&phase.target_canister_id, &operation.target_canister_id);
        pair.same_option(&what, targets.0.as_deref(), targets.1.as_deref())?;
    }
    Ok(())
}

/// Plan and manifest: the same members.
fn manifest(plan: &Plan, manifest: &Manifest) -> Result<(), Error> {
    let pair = Pair(PLAN, MANIFEST);
    pair.same("the run's id", &plan.run_id, &manifest.backup_id)?;
    pair.same("the network", &plan.network, &manifest.source.environment)?;
    pair.same("the root", &plan.root_canister_id, &manifest.source.root_canister)?;
    let hash = &manifest.deployment.topology_hash;
    pair.same("the topology hash", &plan.topology_hash_before_quiesce, hash)?;
    let members = &manifest.deployment.members;
    let mut members: HashMap<_, _> = members.iter().map(|m| (m.canister_id.as_str(), m)).collect();
    for target in &plan.targets {
        match members.remove(target.canister_id.as_str()) {
            Some(member) => same_member(&pair, target, member)?,
            None => pair.same("a member", &target.canister_id, "(nothing)")?,
        }
    }
    members.into_keys().try_for_each(|id| pair.same("a member", "(nothing)", id))
}

fn same_member(pair: &Pair, target: &Target, member: &Member) -> Result<(), Error> {
    let what = |what| format!("{what} of {}", target.canister_id);
    let parents = (&target.parent_canister_id, &member.parent_canister_id);
    pair.same_option(&what("the parent"), parents.0.as_deref(), parents.1.as_deref())?;
    let hashes = (&target.expected_module_hash, &member.source_snapshot.module_hash);
    pair.same_option(&what("the module hash"), hashes.0.as_deref(), hashes.1.as_deref())?;
    // A target without a role gets one made up in the manifest.
    target.role.as_deref().map_or(Ok(()), |role| pair.same(&what("the role"), role, &member.role))
}

#[cfg(test)]
mod tests {
    use super::relative_path;

    #[test]
    fn paths_stay_inside() {
        let path = |text| relative_path(text).map(|path| String::from_utf8(path).unwrap());
        for (text, expected) in [("a", "a"), ("./a//b/.", "a/b"), (".a", ".a"), ("a-b_c", "a-b_c")]
        {
            assert_eq!(path(text).as_deref(), Some(expected), "{text}");
        }
        for bad in ["", ".", "./", "/", "/a", "..", "a/..", "a/../b", "../a", "a\0b"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
