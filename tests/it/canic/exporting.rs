//! Generations become backup directories that the real crate accepts.

use std::path::Path;

use canic_backup::artifacts::ArtifactChecksum;
use canic_backup::persistence::BackupLayout;
use canic_backup::plan::BackupScopeKind;
use canic_backup::restore::RestorePlanner;
use strongroom::clock::UnixNanos;
use strongroom::digest::{Algorithm, hex};
use strongroom::format::manifest::{Generation, Member};
use strongroom::interchange::canic::{Error, ExportOptions, ExportReport, Lack, export};
use strongroom::run::facts::{
    DeploymentFacts, Identity, MemberFacts, Quiescence, SCHEMA, Scope, Snapshot, Unit,
};
use strongroom::store::{IngestOptions, Progress, Store};

use super::importing::{assert_restores_to, facts as facts_in, import_into};
use super::original::{self, APP, LEDGER, ROOT, WORKER, Wanted, accept, id};
use crate::support::{
    Compare, Tree, assert_same_tree, fast_temp, keys, lose, memory_store, open, reference, source,
};

fn try_export(store: &Store, what: &str, to: &Path) -> Result<ExportReport, Error> {
    export(store, &reference(what), to, &ExportOptions::default(), &Progress::default())
}

#[track_caller]
fn export_to(store: &Store, to: &Path) -> ExportReport {
    let report = try_export(store, "fleet", to).unwrap();
    accept(to);
    assert_eq!(names(to.parent().unwrap(), ".strongroom-export"), 0, "nothing is left beside it");
    report
}

fn names(dir: &Path, ending: &str) -> usize {
    let items = std::fs::read_dir(dir).unwrap();
    items.filter(|item| item.as_ref().unwrap().path().to_str().unwrap().ends_with(ending)).count()
}

fn member(n: u8, role: Option<&str>, parent: Option<u8>, depth: u32) -> MemberFacts {
    MemberFacts {
        id: id(n),
        role: role.map(Into::into),
        kind: Some("canister".into()),
        parent: parent.map(id),
        depth,
        identity: Identity::Relocatable,
        module_hash: Some(hex(&[n; 32])),
        snapshot: Some(Snapshot { id: format!("s{n}"), taken_at: Some(7), total_bytes: None }),
    }
}

/// Facts of a deployment whose root has two children of one role; one of them has children.
fn facts() -> DeploymentFacts {
    let members = vec![
        member(ROOT, Some("root"), None, 0),
        member(APP, Some("app"), Some(ROOT), 1),
        member(LEDGER, Some("app"), Some(ROOT), 1),
        member(WORKER, None, Some(APP), 2),
    ];
    DeploymentFacts {
        schema: SCHEMA.into(),
        run: "run-7".into(),
        executor: "icp".into(),
        environment: "ic".into(),
        root: Some(id(ROOT)),
        scope: Scope::MaintenanceRoot,
        selected: Some(id(ROOT)),
        quiescence: Quiescence::CrashConsistent,
        topology_hash: hex(&[5; 32]),
        units: vec![Unit {
            id: "all".into(),
            subtree: true,
            members: members.iter().map(|member| member.id.clone()).collect(),
        }],
        members,
    }
}

/// Makes a generation with these facts; the members' artifacts are snapshots.
fn generation_with(store: &Store, facts: &DeploymentFacts, algorithm: Algorithm, sources: &Path) {
    let paths: Vec<_> = facts.members.iter().map(|member| sources.join(&member.id)).collect();
    for (n, path) in (1..).zip(&paths) {
        if !path.exists() {
            std::fs::create_dir(path).unwrap();
            original::fill_with_snapshot(path, n);
        }
    }
    let sources: Vec<_> =
        facts.members.iter().zip(&paths).map(|(member, path)| source(&member.id, path)).collect();
    let options = IngestOptions { algorithm, ..IngestOptions::default() };
    let previous = vec![None; sources.len()];
    let staged = store.ingest(&sources, &previous, &options, &Progress::default()).unwrap();
    let durable = staged.verify().unwrap().promote().unwrap();
    assert!(durable.failed.is_empty());
    let artifacts = durable.artifacts.iter();
    let members = artifacts.map(|a| Member { name: a.member.clone(), artifact: a.manifest });
    store
        .commit_generation(&Generation {
            deployment: "fleet".into(),
            started: UnixNanos(1),
            finished: UnixNanos(1_650_000_000_123_456_789),
            members: members.collect(),
            missing: vec![],
            extensions: vec![facts.to_extension()],
        })
        .unwrap();
}

#[test]
fn a_generation_is_accepted_by_the_original_whatever_its_checksums_are() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let dir = fast_temp();
        let (_, store) = memory_store();
        let facts = facts();
        generation_with(&store, &facts, algorithm, dir.path());
        let to = dir.path().join("out/of/here");
        let report = export_to(&store, &to);
        assert_eq!((report.backup.as_str(), report.generation.as_str()), ("run-7", "fleet@g1"));
        assert_eq!(report.loosened, [""; 0]);
        for done in &report.members {
            let out = to.join(&done.member);
            assert_same_tree(&dir.path().join(&done.member), &out, Compare::PLAIN);
            assert_eq!(hex(&done.checksum), ArtifactChecksum::from_path(&out).unwrap().hash);
        }
    }
}

#[test]
fn the_original_reads_back_what_was_known() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    generation_with(&store, &facts(), Algorithm::Sha256, dir.path());
    let to = dir.path().join("out");
    export_to(&store, &to);
    let layout = BackupLayout::new(to);
    let manifest = layout.read_manifest().unwrap();
    assert_eq!(
        (manifest.backup_id.as_str(), manifest.created_at.as_str()),
        ("run-7", "unix:1650000000")
    );
    assert_eq!(
        (manifest.source.environment.as_str(), manifest.source.root_canister),
        ("ic", id(ROOT))
    );
    assert_eq!(manifest.deployment.topology_hash, hex(&[5; 32]));
    let roles: Vec<_> = manifest.deployment.members.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["root", "app", "app", "member-3"]);
    let worker = &manifest.deployment.members[3];
    assert_eq!(
        (worker.canister_id.clone(), worker.parent_canister_id.clone()),
        (id(WORKER), Some(id(APP)))
    );
    assert_eq!(worker.source_snapshot.snapshot_id, format!("s{WORKER}"));
    let unit = &manifest.consistency.backup_units[0];
    assert_eq!(unit.roles, ["root", "app", "member-3"], "each role once");
    let plan = layout.read_backup_plan().unwrap();
    assert_eq!(plan.targets[3].role, None);
    assert_eq!(plan.selected_scope_kind, BackupScopeKind::MaintenanceRoot);
    let journal = layout.read_execution_journal().unwrap();
    let summary = journal.resume_summary();
    assert_eq!((summary.completed_operations, summary.total_operations), (25, 25));
    assert!(layout.read_journal().unwrap().resume_report().is_complete);
    // It is of use: the original plans a restore from it, parents first.
    let restore = RestorePlanner::plan(&layout.read_manifest().unwrap(), None).unwrap();
    assert_eq!(restore.member_count, 4);
    assert_eq!(restore.members[0].source_canister, id(ROOT));
}

#[test]
fn the_operations_are_those_that_the_original_plans() {
    let dir = fast_temp();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    for (scope, selected) in [
        (BackupScopeKind::MaintenanceRoot, Some(ROOT)),
        (BackupScopeKind::Subtree, Some(APP)),
        (BackupScopeKind::NonRootDeployment, None),
        (BackupScopeKind::Member, Some(WORKER)),
    ] {
        original::backup(&theirs, &Wanted::of(scope, selected));
        let (_, store) = memory_store();
        import_into(&store, &theirs);
        export_to(&store, &ours);
        let [theirs_plan, ours_plan] =
            [&theirs, &ours].map(|dir| BackupLayout::new(dir.clone()).read_backup_plan().unwrap());
        assert_eq!(ours_plan.phases, theirs_plan.phases);
        assert_eq!(ours_plan.selected_scope_kind, theirs_plan.selected_scope_kind);
        assert_eq!(ours_plan.include_descendants, theirs_plan.include_descendants);
        assert_eq!(ours_plan.quiescence_policy, theirs_plan.quiescence_policy);
        for (our, their) in ours_plan.targets.iter().zip(&theirs_plan.targets) {
            assert_eq!((&our.canister_id, &our.role), (&their.canister_id, &their.role));
            assert_eq!((our.depth, &our.identity_mode), (their.depth, &their.identity_mode));
        }
        let [theirs_manifest, ours_manifest] = [&theirs, &ours].map(|dir| {
            let mut value =
                serde_json::to_value(BackupLayout::new(dir.clone()).read_manifest().unwrap())
                    .unwrap();
            value["tool"] = serde_json::Value::Null;
            value["deployment"]["topology_hash_input"] = serde_json::Value::Null;
            value
        });
        assert_eq!(ours_manifest, theirs_manifest);
        for dir in [&theirs, &ours] {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[test]
fn an_export_comes_back_as_the_same_generation() {
    let dir = fast_temp();
    let (theirs, out) = (dir.path().join("theirs"), dir.path().join("out"));
    original::backup(&theirs, &Wanted::everything());
    let (_, store) = memory_store();
    import_into(&store, &theirs);
    export_to(&store, &out);
    assert!(!import_into(&store, &out).created, "it is the same backup");
    let (_, other) = memory_store();
    assert!(import_into(&other, &out).created);
    assert_eq!(facts_in(&other, "fleet"), facts_in(&store, "fleet"));
    let finished = |store: &Store| store.tree(&reference("fleet")).unwrap().manifest.finished;
    assert_eq!(finished(&other), finished(&store));
    assert_restores_to(&other, &theirs, &[ROOT, APP, LEDGER, WORKER].map(id));
}

#[test]
fn an_export_of_a_run_of_ours_comes_back_with_all_but_what_has_no_place() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    let known = facts();
    generation_with(&store, &known, Algorithm::Sha256, dir.path());
    let out = dir.path().join("out");
    export_to(&store, &out);
    assert!(!import_into(&store, &out).created);
    let (_, other) = memory_store();
    import_into(&other, &out);
    let mut expected = known;
    expected.executor = "canic-backup".into();
    expected.members.iter_mut().for_each(|member| member.kind = None);
    assert_eq!(facts_in(&other, "fleet"), expected);
}

#[test]
fn subtrees_that_roles_do_not_tell_apart_are_written_as_single_units() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    let mut facts = facts();
    facts.members = vec![
        member(APP, Some("shard"), Some(ROOT), 1),
        member(LEDGER, Some("shard"), Some(ROOT), 1),
        member(WORKER, Some("index"), Some(APP), 2),
        member(9, Some("index"), Some(LEDGER), 2),
    ];
    (facts.scope, facts.selected) = (Scope::NonRootDeployment, None);
    let unit = |name: &str, members: [u8; 2]| Unit {
        id: name.into(),
        subtree: true,
        members: members.map(id).to_vec(),
    };
    facts.units = vec![unit("one", [APP, WORKER]), unit("two", [LEDGER, 9])];
    generation_with(&store, &facts, Algorithm::Sha256, dir.path());
    let out = dir.path().join("out");
    let report = export_to(&store, &out);
    assert_eq!(report.loosened, ["one", "two"]);
    let (_, other) = memory_store();
    import_into(&other, &out);
    assert_eq!(
        facts_in(&other, "fleet").units,
        facts.units,
        "what hangs together tells them apart"
    );
}

#[test]
fn what_the_original_has_no_form_for_is_refused_and_says_what_is_missing() {
    type Change = fn(&mut DeploymentFacts);
    let cases: [(Change, Lack); 11] = [
        (|facts| facts.environment = " ".into(), Lack::Environment),
        (|facts| facts.run.clear(), Lack::Run),
        (|facts| facts.root = Some("orders".into()), Lack::Principal("orders".into())),
        (|facts| facts.topology_hash = "12".into(), Lack::TopologyHash),
        (|facts| facts.members[2].snapshot = None, Lack::Snapshot),
        (|facts| facts.members[2].role = Some(" ".into()), Lack::Role),
        (|facts| facts.members[2].id = "db".into(), Lack::Principal("db".into())),
        (|facts| facts.members[3].parent = Some("db".into()), Lack::Principal("db".into())),
        (
            |facts| {
                facts.members.remove(0);
                facts.root = None;
                facts.members.iter_mut().for_each(|member| member.parent = None);
            },
            Lack::Root,
        ),
        (|facts| drop(facts.members.remove(0)), Lack::Root),
        (|facts| facts.selected = Some(id(77)), Lack::Selected),
    ];
    for (change, expected) in cases {
        let dir = fast_temp();
        let (_, store) = memory_store();
        let mut facts = facts();
        change(&mut facts);
        generation_with(&store, &facts, Algorithm::Sha256, dir.path());
        let to = dir.path().join("out");
        let error = try_export(&store, "fleet", &to).unwrap_err();
        assert!(matches!(&error, Error::Lacks { lacks, .. } if *lacks == expected), "{error}");
        assert!(!to.exists() && names(dir.path(), ".strongroom-export") == 0);
    }
}

#[test]
fn artifacts_that_would_have_another_checksum_there_are_refused() {
    type Change = fn(&Tree);
    let cases: [(Change, Lack); 2] = [
        (|tree| tree.symlink("link", "metadata.json"), Lack::NoSymlinks("link".into())),
        (|tree| drop(tree.file(b"\xff", b"")), Lack::Utf8("\u{fffd}".into())),
    ];
    for (change, expected) in cases {
        let dir = fast_temp();
        let (_, store) = memory_store();
        std::fs::create_dir(dir.path().join(id(APP))).unwrap();
        change(&Tree::at(dir.path().join(id(APP))));
        generation_with(&store, &facts(), Algorithm::Sha256, dir.path());
        let error = try_export(&store, "fleet", &dir.path().join("out")).unwrap_err();
        assert!(matches!(&error, Error::Lacks { lacks, .. } if *lacks == expected), "{error}");
    }
}

#[test]
fn a_plain_backup_of_directories_and_a_part_are_refused() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    let sources = [source(&id(APP), dir.path())];
    let (options, progress) = (IngestOptions::default(), Progress::default());
    store.backup("fleet", &sources, &options, &progress).unwrap();
    let to = dir.path().join("out");
    let error = try_export(&store, "fleet", &to).unwrap_err();
    assert!(matches!(error, Error::NoFacts { .. }), "{error}");
    let error = try_export(&store, &format!("fleet:{}", id(APP)), &to).unwrap_err();
    assert!(matches!(error, Error::Part), "{error}");
    let error = try_export(&store, "fleet@g7", &to).unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error}");
}

#[test]
fn only_a_new_or_empty_directory_is_written_to() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    generation_with(&store, &facts(), Algorithm::Sha256, dir.path());
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    export_to(&store, &empty);
    let again = try_export(&store, "fleet", &empty).unwrap_err();
    assert!(matches!(again, Error::Occupied { .. }), "{again}");
    accept(&empty);
    let file = dir.path().join("file");
    std::fs::write(&file, b"mine").unwrap();
    let link = dir.path().join("link");
    std::fs::create_dir(dir.path().join("target")).unwrap();
    std::os::unix::fs::symlink("target", &link).unwrap();
    for taken in [&file, &link] {
        let error = try_export(&store, "fleet", taken).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    for nameless in ["/", "..", "a/.."] {
        let error = try_export(&store, "fleet", Path::new(nameless)).unwrap_err();
        assert!(matches!(error, Error::NoName { .. }), "{nameless}: {error}");
    }
}

#[test]
fn what_an_earlier_attempt_left_is_taken_over_and_what_is_under_way_is_not() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    generation_with(&store, &facts(), Algorithm::Sha256, dir.path());
    let (to, beside) = (dir.path().join("out"), dir.path().join(".out.strongroom-export"));
    let left = Tree::create(&beside);
    left.file("backup-plan.json", b"half");
    left.file(format!("{}/rest", id(APP)), b"of another generation");
    export_to(&store, &to);
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 8, "nothing else came with it");

    std::fs::create_dir(&beside).unwrap();
    let lock = std::fs::File::open(&beside).unwrap();
    lock.try_lock().unwrap();
    std::fs::remove_dir_all(&to).unwrap();
    let error = try_export(&store, "fleet", &to).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(!to.exists());
}

#[test]
fn damage_in_the_store_leaves_nothing_behind() {
    let dir = fast_temp();
    let (backend, store) = memory_store();
    generation_with(&store, &facts(), Algorithm::Blake3, dir.path());
    for key in keys(&backend, "packs") {
        lose(&backend, &key);
    }
    let to = dir.path().join("out");
    let error = try_export(&open(backend), "fleet", &to).unwrap_err();
    assert!(matches!(error, Error::NotRestored { damage: true, .. } | Error::Store(_)), "{error}");
    assert!(!to.exists() && names(dir.path(), ".strongroom-export") == 0);
}

#[test]
fn an_interrupted_export_goes_on() {
    let dir = fast_temp();
    let (_, store) = memory_store();
    generation_with(&store, &facts(), Algorithm::Sha256, dir.path());
    let to = dir.path().join("out");
    let stopped = Progress::default();
    stopped.interrupt();
    let error = export(&store, &reference("fleet"), &to, &ExportOptions::default(), &stopped);
    let interrupted = matches!(error, Err(Error::Store(strongroom::store::Error::Interrupted)));
    assert!(interrupted && !to.exists(), "{error:?}");
    export_to(&store, &to);
}
