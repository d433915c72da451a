//! Backup directories of the real crate become generations.

use std::path::Path;

use canic_backup::artifacts::ArtifactChecksum;
use canic_backup::plan::BackupScopeKind;
use strongroom::digest::hex;
use strongroom::interchange::canic::{ImportOptions, ImportReport, import};
use strongroom::run::facts::{DeploymentFacts, Identity, Quiescence, Scope};
use strongroom::run::inventory::Row;
use strongroom::run::topology::topology_hash;
use strongroom::store::{Progress, Store};

use super::original::{self, APP, LEDGER, ROOT, WORKER, Wanted, id};
use crate::support::{
    Compare, assert_clean, assert_same_tree, fast_temp, keys, memory_store, open, reference,
    restore,
};

#[track_caller]
pub fn import_into(store: &Store, dir: &Path) -> ImportReport {
    import(store, dir, "fleet", &ImportOptions::default(), &Progress::default()).unwrap()
}

pub fn facts(store: &Store, what: &str) -> DeploymentFacts {
    let tree = store.tree(&reference(what)).unwrap();
    DeploymentFacts::find(&tree.manifest.extensions).unwrap().expect("it has facts")
}

/// Restores a generation and compares every member with the directory that it was imported from.
#[track_caller]
pub fn assert_restores_to(store: &Store, dir: &Path, members: &[String]) {
    let target = fast_temp();
    let report = restore(store, "fleet", target.path());
    assert_eq!(report.failures, []);
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), members.len());
    for member in members {
        assert_same_tree(&dir.join(member), &target.path().join(member), Compare::PLAIN);
    }
}

#[test]
fn a_backup_becomes_a_generation_and_comes_back_whole() {
    let dir = fast_temp();
    original::backup(dir.path(), &Wanted::everything());
    let (backend, store) = memory_store();
    let report = import_into(&store, dir.path());
    assert!(report.created);
    assert_eq!((report.backup.as_str(), report.generation.number.0), ("run-1", 1));
    let order = [ROOT, APP, LEDGER, WORKER].map(id);
    for (member, id) in report.members.iter().zip(&order) {
        assert_eq!(member.member, *id);
        assert_eq!(member.snapshot, original::snapshot_of(id));
        let expected = ArtifactChecksum::from_path(&dir.path().join(id)).unwrap();
        assert_eq!(hex(&member.checksum), expected.hash);
        assert_eq!(member.files, 7);
    }
    let store = open(backend);
    assert_clean(&store);
    assert_restores_to(&store, dir.path(), &order);
    let manifest = store.tree(&reference("fleet")).unwrap().manifest;
    assert_eq!(manifest.finished.0, 1_700_000_000_000_000_000);
}

#[test]
fn what_is_known_of_the_deployment_is_kept() {
    let dir = fast_temp();
    original::backup(dir.path(), &Wanted::everything());
    let (_, store) = memory_store();
    import_into(&store, dir.path());
    let facts = facts(&store, "fleet");
    assert_eq!((facts.run.as_str(), facts.environment.as_str()), ("run-1", "local"));
    assert_eq!((facts.root, facts.selected), (Some(id(ROOT)), Some(id(ROOT))));
    assert_eq!(
        (facts.scope, facts.quiescence),
        (Scope::MaintenanceRoot, Quiescence::RootCoordinated)
    );
    let worker = facts.members.iter().find(|member| member.id == id(WORKER)).unwrap();
    assert_eq!((worker.role.as_deref(), worker.depth), (Some("worker"), 2));
    assert_eq!((worker.parent.clone(), worker.identity), (Some(id(APP)), Identity::Fixed));
    assert_eq!(worker.module_hash, Some(hex(&[WORKER; 32])));
    let snapshot = worker.snapshot.clone().unwrap();
    assert_eq!(snapshot.taken_at, Some(1_778_709_681_897_818_005));
    assert_eq!(snapshot.total_bytes, Some(272_586_987));
    assert_eq!(facts.units.len(), 1);
    assert!(facts.units[0].subtree);
    assert_eq!(facts.units[0].members, [ROOT, APP, LEDGER, WORKER].map(id));
    // The hash is of these very members, so that it can be computed from what is kept.
    let row = |member: &strongroom::run::facts::MemberFacts| Row {
        id: member.id.clone(),
        role: member.role.clone(),
        kind: None,
        parent: member.parent.clone(),
        module_hash: member.module_hash.clone(),
    };
    let rows: Vec<_> = facts.members.iter().map(row).collect();
    assert_eq!(facts.topology_hash, topology_hash(&rows).hash);
}

#[test]
fn every_scope_is_taken_in() {
    use BackupScopeKind::{Member, NonRootDeployment, Subtree};
    let cases = [
        (Member, Some(WORKER), Scope::Member, vec![WORKER]),
        // The original takes the children of a member along.
        (Member, Some(APP), Scope::Subtree, vec![APP, WORKER]),
        (Subtree, Some(APP), Scope::Subtree, vec![APP, WORKER]),
        (NonRootDeployment, None, Scope::NonRootDeployment, vec![APP, WORKER, LEDGER]),
    ];
    for (scope, selected, expected, members) in cases {
        let dir = fast_temp();
        original::backup(dir.path(), &Wanted::of(scope, selected));
        let (_, store) = memory_store();
        import_into(&store, dir.path());
        let facts = facts(&store, "fleet");
        assert_eq!((facts.scope, facts.selected), (expected, selected.map(id)));
        assert_eq!(facts.root, Some(id(ROOT)));
        let members: Vec<_> = members.into_iter().map(id).collect();
        assert_restores_to(&store, dir.path(), &members);
        let in_units: usize = facts.units.iter().map(|unit| unit.members.len()).sum();
        assert_eq!(in_units, members.len());
    }
}

#[test]
fn members_without_a_role_stay_without_one() {
    let dir = fast_temp();
    let mut wanted = Wanted::everything();
    wanted.registry.iter_mut().for_each(|entry| entry.role = None);
    original::backup(dir.path(), &wanted);
    let (_, store) = memory_store();
    import_into(&store, dir.path());
    let facts = facts(&store, "fleet");
    assert!(facts.members.iter().all(|member| member.role.is_none()));
    assert_eq!(facts.units[0].members.len(), 4);
}

#[test]
fn a_plain_download_without_a_plan_is_taken_in() {
    for (canister, with_children, scope, members) in [
        (APP, true, Scope::Subtree, vec![APP, WORKER]),
        (LEDGER, false, Scope::Member, vec![LEDGER]),
        (ROOT, true, Scope::MaintenanceRoot, vec![ROOT, APP, LEDGER, WORKER]),
    ] {
        let dir = fast_temp();
        original::download(dir.path(), canister, with_children);
        let (_, store) = memory_store();
        import_into(&store, dir.path());
        let facts = facts(&store, "fleet");
        assert_eq!((facts.scope, facts.selected), (scope, Some(id(canister))));
        let members: Vec<_> = members.into_iter().map(id).collect();
        assert_restores_to(&store, dir.path(), &members);
    }
}

#[test]
fn importing_the_same_backup_again_makes_no_second_generation() {
    let dir = fast_temp();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    original::backup(&first, &Wanted::everything());
    original::backup(&second, &Wanted::of(BackupScopeKind::Subtree, Some(APP)));
    let (backend, store) = memory_store();
    assert!(import_into(&store, &first).created);
    let objects = keys(&backend, "").len();
    let again = import_into(&store, &first);
    assert_eq!((again.created, again.generation.number.0), (false, 1));
    assert_eq!(again.stats.bytes_new, 0);
    assert_eq!(keys(&backend, "").len(), objects, "nothing was written");
    // A copy elsewhere is the same backup.
    let copy = dir.path().join("copy");
    std::fs::rename(&first, &copy).unwrap();
    assert!(!import_into(&store, &copy).created);

    let other = import_into(&store, &second);
    assert_eq!((other.created, other.generation.number.0), (true, 2));
    assert_eq!(other.stats.bytes_new, 0, "its artifacts are the same");
    // It is not the newest any more.
    assert_eq!(import_into(&store, &copy).generation.number.0, 3);
}
