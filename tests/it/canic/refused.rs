//! Directories that are not taken in: each for a reason that says what is wrong, and with nothing
//! made visible. What the original refuses is refused here too.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use canic_backup::execution::BackupExecutionJournal;
use canic_backup::journal::DownloadJournal;
use canic_backup::manifest::DeploymentBackupManifest;
use canic_backup::persistence::BackupLayout;
use canic_backup::plan::{BackupPlan, BackupScopeKind};
use serde_json::{Value, json};
use strongroom::interchange::canic::{Error, Fault, ImportOptions, import};
use strongroom::store::{Progress, Store};
use tempfile::TempDir;

use super::original::{self, APP, LEDGER, ROOT, WORKER, Wanted, id, judge};
use crate::support::{Tree, fast_temp, memory_store};

const PLAN: &str = "backup-plan.json";
const EXECUTION: &str = "backup-execution-journal.json";
const DOWNLOADS: &str = "download-journal.json";
const MANIFEST: &str = "deployment-backup-manifest.json";

fn try_import(store: &Store, dir: &Path) -> Result<(), Error> {
    import(store, dir, "fleet", &ImportOptions::default(), &Progress::default()).map(drop)
}

/// A finished backup, made once and copied.
fn finished() -> (TempDir, PathBuf) {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let dir = fast_temp();
        original::backup(dir.path(), &Wanted::everything());
        dir
    });
    let dir = fast_temp();
    let copy = dir.path().join("backup");
    copy_tree(made.path(), &copy);
    (dir, copy)
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.path().is_dir() {
            copy_tree(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}

fn read(dir: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn write(dir: &Path, file: &str, value: &Value) {
    std::fs::write(dir.join(file), serde_json::to_vec(value).unwrap()).unwrap();
}

/// Changes the value at a JSON pointer.
fn set(dir: &Path, file: &str, pointer: &str, new: Value) {
    let mut value = read(dir, file);
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{file} has no {pointer}")) = new;
    write(dir, file, &value);
}

/// Adds a field to the object at a JSON pointer.
fn add(dir: &Path, file: &str, pointer: &str, name: &str, new: Value) {
    let mut value = read(dir, file);
    let object = value.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
    object.insert(name.to_owned(), new);
    write(dir, file, &value);
}

/// Sets the artifact's path of the first member in all files.
fn set_path(dir: &Path, path: &str) {
    let pointer = "/deployment/members/0/source_snapshot/artifact_path";
    set(dir, MANIFEST, pointer, json!(path));
    set(dir, DOWNLOADS, "/artifacts/0/artifact_path", json!(path));
}

/// Imports the finished backup after a change, fails unless it is refused, and returns why, with
/// the original's verdict.
#[track_caller]
fn refuse(change: impl FnOnce(&Path)) -> (Error, bool) {
    let (_dir, backup) = finished();
    change(&backup);
    let (_, store) = memory_store();
    let error = try_import(&store, &backup).expect_err("it is refused");
    assert!(store.log().unwrap().records().is_empty(), "{error}");
    (error, judge(&backup).is_err())
}

/// As [`refuse`], and the original refuses it too.
#[track_caller]
fn both_refuse(change: impl FnOnce(&Path)) -> Error {
    let (error, original) = refuse(change);
    assert!(original, "only refused here: {error}");
    error
}

#[test]
fn an_untouched_copy_is_taken_in() {
    let (_dir, backup) = finished();
    let (_, store) = memory_store();
    try_import(&store, &backup).unwrap();
}

#[test]
fn an_artifact_that_was_changed_is_refused_with_both_checksums() {
    for (file, change) in [("wasm_memory.bin", 0), ("wasm_memory.bin", 1), (".lock", 2)] {
        let error = both_refuse(|dir| {
            let member = Tree::at(dir.join(id(APP)));
            match change {
                0 => member.write_at(file, 700_000, b"x"),
                1 => drop(member.file(file, b"short")),
                _ => std::fs::remove_file(member.below(file)).unwrap(),
            }
        });
        let Error::Checksum { member, expected, actual } = &error else { panic!("{error}") };
        assert_eq!(*member, id(APP));
        assert!(error.to_string().contains(expected) && error.to_string().contains(actual));
    }
    let added = both_refuse(|dir| drop(Tree::at(dir.join(id(APP))).file("more", b"")));
    assert!(matches!(added, Error::Checksum { .. }), "{added}");
}

#[test]
fn a_missing_artifact_is_named() {
    let error = both_refuse(|dir| std::fs::remove_dir_all(dir.join(id(LEDGER))).unwrap());
    assert!(matches!(&error, Error::NoArtifact { member, .. } if *member == id(LEDGER)), "{error}");
}

#[test]
fn an_artifact_s_path_never_leaves_the_directory() {
    for path in ["../outside", "/etc", "a/../../outside", "..", "", "."] {
        let (error, _) = refuse(|dir| {
            std::fs::create_dir(dir.join("../outside")).unwrap();
            set_path(dir, path);
        });
        let is_unsafe = matches!(
            &error,
            Error::Field { fault: Fault::UnsafePath(_) | Fault::Empty, .. }
                | Error::UnsafePath { .. }
        );
        assert!(is_unsafe, "{path:?}: {error}");
    }
}

#[test]
fn no_symlink_is_followed() {
    let member = refuse(|dir| {
        std::fs::rename(dir.join(id(APP)), dir.join("../elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", dir.join(id(APP))).unwrap();
    });
    assert!(matches!(member.0, Error::NotPlain { symlinks: 1, .. }), "{}", member.0);
    let on_the_way = refuse(|dir| {
        std::fs::create_dir(dir.join("../elsewhere")).unwrap();
        std::fs::rename(dir.join(id(ROOT)), dir.join("../elsewhere/root")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", dir.join("link")).unwrap();
        set_path(dir, "link/root");
    });
    let at_link = on_the_way.0.to_string().contains("symlink");
    assert!(matches!(on_the_way.0, Error::Tree(_)) && at_link, "{}", on_the_way.0);
    // The original would read the link's target, and find it to be right.
    let (inside, original) = refuse(|dir| {
        let member = Tree::at(dir.join(id(APP)));
        std::fs::rename(member.below("wasm_module.bin"), dir.join("../outside")).unwrap();
        member.symlink("wasm_module.bin", "../../outside");
    });
    assert!(!original);
    assert!(matches!(inside, Error::NotPlain { symlinks: 1, .. }), "{inside}");
    let (file, _) = refuse(|dir| {
        std::fs::rename(dir.join(MANIFEST), dir.join("../manifest")).unwrap();
        std::os::unix::fs::symlink("../manifest", dir.join(MANIFEST)).unwrap();
    });
    assert!(file.to_string().contains("symlink"), "{file}");
}

#[test]
fn a_run_that_is_not_finished_is_told_as_such() {
    // Four members: five operations each, and one to finish.
    for steps in 0..22 {
        let dir = fast_temp();
        original::plan(dir.path(), &Wanted::everything());
        let complete = steps > 0 && original::run(dir.path(), Some(steps));
        let (_, store) = memory_store();
        let result = try_import(&store, dir.path());
        match result {
            Err(Error::Unfinished { .. }) if !complete => {}
            Ok(()) if complete => assert_eq!(steps, 21),
            other => panic!("{steps} operations: {other:?}"),
        }
    }
    let journal = both_refuse(|dir| {
        set(dir, DOWNLOADS, "/artifacts/1/state", json!("ChecksumVerified"));
        set(dir, DOWNLOADS, "/artifacts/1/temp_path", json!("x.tmp"));
    });
    assert!(journal.to_string().contains("ChecksumVerified"), "{journal}");
    let (failed, _) = refuse(|dir| {
        set(dir, EXECUTION, "/operations/7/state", json!("failed"));
        set(dir, EXECUTION, "/operations/7/blocking_reasons", json!(["no reply"]));
    });
    assert!(failed.to_string().contains("is failed"), "{failed}");
}

#[test]
fn files_that_are_missing_or_no_json_are_named() {
    for (file, expected) in [
        (MANIFEST, "there is no deployment-backup-manifest.json"),
        (DOWNLOADS, "there is no download-journal.json"),
        (PLAN, "but no backup-plan.json"),
        (EXECUTION, "but no backup-execution-journal.json"),
    ] {
        let missing = both_refuse(|dir| std::fs::remove_file(dir.join(file)).unwrap());
        assert!(missing.to_string().contains(expected), "{missing}");
        for text in [&b""[..], b"{", b"[]", b"\xff", b"{\"a\":1}{", b"null"] {
            let broken = both_refuse(|dir| std::fs::write(dir.join(file), text).unwrap());
            assert!(
                matches!(&broken, Error::Json { file: named, .. } if *named == file),
                "{broken}"
            );
        }
        let deep = both_refuse(|dir| {
            std::fs::write(dir.join(file), "[".repeat(1 << 20)).unwrap();
        });
        assert!(matches!(deep, Error::Json { .. }), "{deep}");
    }
    let (_dir, nothing) = finished();
    let (_, store) = memory_store();
    assert!(matches!(try_import(&store, &nothing.join("no such")), Err(Error::Tree(_))));
    let file = try_import(&store, &nothing.join(MANIFEST)).unwrap_err();
    assert!(matches!(file, Error::Tree(_)), "{file}");
}

#[test]
fn a_file_of_any_length_is_not_read() {
    let (error, _) = refuse(|dir| {
        let file = std::fs::File::options().write(true).open(dir.join(PLAN)).unwrap();
        file.set_len(1 << 40).unwrap();
    });
    assert!(
        matches!(error, Error::TooLarge { file: PLAN, bytes, .. } if bytes == 1 << 40),
        "{error}"
    );
}

#[test]
fn unknown_fields_are_refused_wherever_they_are() {
    for (file, pointer) in [
        (PLAN, ""),
        (PLAN, "/targets/0"),
        (PLAN, "/targets/0/control_authority"),
        (PLAN, "/targets/0/control_authority/source"),
        (PLAN, "/phases/0"),
        (EXECUTION, ""),
        (EXECUTION, "/operations/0"),
        (EXECUTION, "/operation_receipts/0"),
        (DOWNLOADS, ""),
        (DOWNLOADS, "/operation_metrics"),
        (DOWNLOADS, "/artifacts/0"),
        (MANIFEST, ""),
        (MANIFEST, "/source"),
        (MANIFEST, "/deployment"),
        (MANIFEST, "/deployment/members/0"),
        (MANIFEST, "/deployment/members/0/source_snapshot"),
        (MANIFEST, "/consistency/backup_units/0"),
    ] {
        let (error, _) = refuse(|dir| add(dir, file, pointer, "encryption", json!("none")));
        let text = error.to_string();
        assert!(text.contains("unknown field `encryption`"), "{file} {pointer}: {text}");
    }
}

#[test]
fn files_that_contradict_one_another_are_refused() {
    let hash = "0".repeat(64);
    let cases: [(&str, &str, Value); 12] = [
        (MANIFEST, "/backup_id", json!("other")),
        (DOWNLOADS, "/backup_id", json!("other")),
        (DOWNLOADS, "/discovery_topology_hash", json!(hash)),
        (DOWNLOADS, "/pre_snapshot_topology_hash", Value::Null),
        (MANIFEST, "/deployment/pre_snapshot_topology_hash", json!(hash)),
        (DOWNLOADS, "/artifacts/0/snapshot_id", json!("other")),
        (DOWNLOADS, "/artifacts/0/artifact_path", json!(id(WORKER))),
        (MANIFEST, "/deployment/members/0/source_snapshot/checksum", json!(hash)),
        (EXECUTION, "/run_id", json!("other")),
        (PLAN, "/phases/5/operation_id", json!("other")),
        (PLAN, "/phases/5/kind", json!("start")),
        (EXECUTION, "/operation_receipts/3/kind", json!("start")),
    ];
    for (file, pointer, new) in cases {
        let error = both_refuse(|dir| set(dir, file, pointer, new));
        let told = matches!(error, Error::Disagree { .. })
            || matches!(error, Error::Field { fault: Fault::Receipt, .. });
        assert!(told, "{file} {pointer}: {error}");
    }
    // The original never compares its plan with its manifest.
    let ours: [(&str, &str, Value); 5] = [
        (PLAN, "/topology_hash_before_quiesce", json!(hash)),
        (PLAN, "/targets/1/role", json!("other")),
        (PLAN, "/targets/1/parent_canister_id", json!(id(WORKER))),
        (PLAN, "/targets/1/expected_module_hash", json!(hash)),
        (PLAN, "/network", json!("other")),
    ];
    for (file, pointer, new) in ours {
        let (error, original) = refuse(|dir| set(dir, file, pointer, new));
        assert!(matches!(error, Error::Disagree { .. }) && !original, "{pointer}: {error}");
    }
}

#[test]
fn a_topology_hash_that_is_not_of_the_members_is_refused() {
    let dir = fast_temp();
    original::download(dir.path(), APP, true);
    let (_, store) = memory_store();
    let pointer = "/deployment/members/1/source_snapshot/module_hash";
    set(dir.path(), MANIFEST, pointer, json!("1".repeat(64)));
    let error = try_import(&store, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Topology { .. }), "{error}");
    assert!(store.log().unwrap().records().is_empty());
}

#[test]
fn units_that_repeat_without_end_are_bounded() {
    let (error, _) = refuse(|dir| {
        let units: Vec<_> = (0..40_000)
            .map(|n| {
                json!({"unit_id": n.to_string(), "kind": "single",
                "roles": ["root", "app", "ledger", "worker"]})
            })
            .collect();
        set(dir, MANIFEST, "/consistency/backup_units", json!(units));
    });
    assert!(matches!(error, Error::TooMuch), "{error}");
}

/// All places in a value, as JSON pointers.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), all));
        }
        Value::Array(items) => {
            let places = items.iter().enumerate();
            places.for_each(|(n, value)| pointers(value, &format!("{at}/{n}"), all));
        }
        _ => {}
    }
}

/// What stands in such a file at other places, and what may not stand anywhere.
fn texts(file: &str) -> Vec<String> {
    let words: &[&str] = match file {
        PLAN | EXECUTION => &[
            "non-root-deployment",
            "maintenance-root",
            "start",
            "stop",
            "validate-topology",
            "failed",
            "skipped",
            "ready",
        ],
        _ => &["app", "worker", "single", "subtree", "Created", "Downloaded", "../outside"],
    };
    let mut texts: Vec<_> = ["", "other"].iter().chain(words).map(|&word| word.into()).collect();
    texts.extend([id(77), id(APP), id(ROOT), "0".repeat(64)]);
    texts
}

/// Returns what a value may be replaced by.
fn replacements(value: &Value, texts: &[String]) -> Vec<Value> {
    let mut all = vec![Value::Null];
    match value {
        Value::String(text) => {
            all.push(json!(format!("{text}x")));
            all.extend(texts.iter().cloned().map(Value::String));
        }
        Value::Number(number) => {
            all.extend([json!(number.as_u64().unwrap_or(0) + 1), json!(u64::MAX), json!(-1)]);
        }
        Value::Bool(flag) => all.push(json!(!flag)),
        Value::Array(items) => {
            all.push(json!([]));
            if let [first, .., last] = &items[..] {
                all.push([&items[..], std::slice::from_ref(first)].concat().into());
                all.push([std::slice::from_ref(last), &items[..items.len() - 1]].concat().into());
                all.push(items[..items.len() - 1].into());
            }
        }
        Value::Object(fields) => {
            for name in fields.keys() {
                let mut fields = fields.clone();
                fields.remove(name);
                all.push(fields.into());
            }
        }
        Value::Null => all.extend(texts.iter().cloned().map(Value::String)),
    }
    all
}

/// A finished backup with next to nothing in it.
fn small(scope: BackupScopeKind, selected: u8, members: &[u8]) -> TempDir {
    let dir = fast_temp();
    original::backup(dir.path(), &Wanted::of(scope, Some(selected)));
    for (place, n) in members.iter().enumerate() {
        let member = dir.path().join(id(*n));
        std::fs::remove_dir_all(&member).unwrap();
        std::fs::create_dir(&member).unwrap();
        std::fs::write(member.join("metadata.json"), [*n]).unwrap();
        let checksum = canic_backup::artifacts::ArtifactChecksum::from_path(&member).unwrap();
        set(dir.path(), DOWNLOADS, &format!("/artifacts/{place}/checksum"), json!(checksum.hash));
        let at = format!("/deployment/members/{place}/source_snapshot/checksum");
        set(dir.path(), MANIFEST, &at, json!(checksum.hash));
    }
    for file in [PLAN, EXECUTION] {
        write(dir.path(), file, &read(dir.path(), file));
    }
    judge(dir.path()).unwrap();
    dir
}

/// The original's verdict on one file.
fn alone(file: &str, value: &Value) -> Result<(), String> {
    fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())
    }
    match file {
        PLAN => parsed::<BackupPlan>(value)?.validate().map_err(|error| error.to_string()),
        EXECUTION => {
            parsed::<BackupExecutionJournal>(value)?.validate().map_err(|error| error.to_string())
        }
        DOWNLOADS => parsed::<DownloadJournal>(value)?.validate().map_err(|e| e.to_string()),
        _ => parsed::<DeploymentBackupManifest>(value)?.validate().map_err(|e| e.to_string()),
    }
}

/// Puts in every place of a file everything that may be mistaken for what is there; returns how
/// often the original refused that, and how often it was asked.
fn compare_with_the_original(dir: &Path, file: &str) -> (usize, usize) {
    let layout = BackupLayout::new(dir.to_owned());
    let judge = |value: &Value| {
        // First as it checks a file by itself, because it reads files byte by byte.
        alone(file, value)?;
        let verdict = match file {
            PLAN | EXECUTION => layout.verify_execution_integrity().map(drop),
            _ => layout.verify_integrity().map(drop),
        };
        verdict.map_err(|error| error.to_string())
    };
    let (_, store) = memory_store();
    let (whole, mut all) = (read(dir, file), Vec::new());
    pointers(&whole, "", &mut all);
    let (mut refused, mut tried) = (0, 0);
    for at in all {
        for new in replacements(whole.pointer(&at).unwrap(), &texts(file)) {
            let mut value = whole.clone();
            *value.pointer_mut(&at).unwrap() = new.clone();
            write(dir, file, &value);
            tried += 1;
            if let Err(theirs) = judge(&value) {
                refused += 1;
                let ours = try_import(&store, dir);
                assert!(ours.is_err(), "{file} {at} = {new}: taken in, though {theirs}");
            }
        }
    }
    assert!(store.log().unwrap().records().is_empty());
    write(dir, file, &whole);
    (refused, tried)
}

#[test]
fn what_the_original_refuses_of_a_run_is_refused() {
    let dir = small(BackupScopeKind::Member, WORKER, &[WORKER]);
    for file in [PLAN, EXECUTION] {
        let (refused, tried) = compare_with_the_original(dir.path(), file);
        assert!(refused > 200 && refused < tried, "{file}: {refused} of {tried} refused");
    }
}

#[test]
fn what_the_original_refuses_of_artifacts_is_refused() {
    let dir = small(BackupScopeKind::Subtree, APP, &[APP, WORKER]);
    // So that it is the manifest's own rules that refuse, and not the plan that it contradicts.
    for file in [PLAN, EXECUTION] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    for file in [DOWNLOADS, MANIFEST] {
        let (refused, tried) = compare_with_the_original(dir.path(), file);
        assert!(refused > 200 && refused < tried, "{file}: {refused} of {tried} refused");
    }
}
