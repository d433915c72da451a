//! The real command.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use strongroom::backend::{Backend, LocalBackend, LockMode};
use strongroom::lease::{PRUNE_LOCK, STORE_LOCK};

use crate::support::{Tree, noise, temp};

fn strongroom(store: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(line.split_whitespace()).env("STRONGROOM_STORE", store).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs the command, fails unless it ends with `code`, and returns all that it said.
#[track_caller]
fn ends_with(code: i32, store: &Path, line: &str) -> String {
    let output = strongroom(store, line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {errors}");
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

#[track_caller]
fn json(store: &Path, line: &str) -> Value {
    let output = strongroom(store, &format!("{line} --json"));
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"));
    let verb = line.split_whitespace().next().unwrap();
    assert_eq!(value["schema"], format!("strongroom.{verb}/1"));
    value
}

/// Makes four generations.
fn four(dir: &Path) -> std::path::PathBuf {
    let store = dir.join("store");
    let tree = Tree::create(dir.join("source"));
    for generation in 0..4 {
        tree.file("changes", noise(generation, 100_000));
        tree.file("stays", noise(100, 50_000));
        let line = format!("backup --init --name orders api={}", tree.path().display());
        ends_with(0, &store, &line);
    }
    store
}

#[test]
fn prune_says_what_it_would_do_does_it_and_undo_takes_it_back() {
    let dir = temp();
    let store = four(dir.path());
    let said = ends_with(0, &store, "prune --keep-last 1");
    assert!(said.contains("orders@g1") && said.contains("forget"), "{said}");
    assert!(said.contains("keep: newest, last") && said.contains("--apply"), "{said}");
    assert_eq!(json(&store, "list")["generations"].as_array().unwrap().len(), 4);

    let plan = json(&store, "prune --keep-last 1");
    assert_eq!((&plan["applied"], &plan["done"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(plan["forgotten"].as_array().unwrap().len(), 3);
    assert_eq!(plan["kept"][0]["kept_by"], serde_json::json!(["newest", "last"]));
    assert_eq!(plan["grace_seconds"], 86400);

    let done = json(&store, "prune --keep-last 1 --apply");
    assert_eq!(done["done"]["forgotten"], 3);
    assert!(done["done"]["condemned"]["packs"].as_u64().unwrap() >= 3);
    assert_eq!(done["done"]["removed_objects"], 0);
    assert_eq!(json(&store, "list")["generations"].as_array().unwrap().len(), 1);
    let said = ends_with(1, &store, "show orders@g2");
    assert!(said.contains("was forgotten") && said.contains("undo orders@g2"), "{said}");
    let again = json(&store, "prune --collect-only");
    assert_eq!(again["waiting"].as_array().unwrap().len(), 1);

    let said = ends_with(0, &store, "undo orders@g2");
    assert!(said.contains("orders@g2 is visible again"), "{said}");
    assert_eq!(json(&store, "undo")["generations"].as_array().unwrap().len(), 2);
    let said = ends_with(1, &store, "undo");
    assert!(said.contains("nothing was forgotten"), "{said}");
    ends_with(0, &store, "verify --full");
}

#[test]
fn without_grace_space_comes_back_at_once() {
    let dir = temp();
    let store = four(dir.path());
    let before = json(&store, "stats")["pack_bytes"].as_u64().unwrap();
    let done = json(&store, "prune --keep-last 1 --grace 0 --apply");
    assert!(done["done"]["removed_bytes"].as_u64().unwrap() > 250_000, "{done}");
    let after = json(&store, "stats")["pack_bytes"].as_u64().unwrap();
    assert!(after < before / 2, "{after} of {before}");
    ends_with(0, &store, "verify --full");
    let said = ends_with(1, &store, "undo orders@g1");
    assert!(said.contains("may be gone"), "{said}");
}

#[test]
fn pins_hold_and_say_so() {
    let dir = temp();
    let store = four(dir.path());
    assert_eq!(json(&store, "pin orders@g2")["changed"], true);
    assert_eq!(json(&store, "pin orders@g2")["changed"], false);
    let said = ends_with(0, &store, "list");
    assert!(
        said.lines().any(|line| line.contains("orders@g2") && line.contains("pinned")),
        "{said}"
    );
    let plan = json(&store, "prune --keep-last 1");
    assert_eq!(plan["forgotten"].as_array().unwrap().len(), 2);
    assert_eq!(plan["kept"][0]["kept_by"], serde_json::json!(["pin"]));
    let said = ends_with(1, &store, "prune --forget orders@g2");
    assert!(said.contains("is pinned") && said.contains("unpin orders@g2"), "{said}");
    ends_with(0, &store, "unpin orders@g2");
    ends_with(0, &store, "pin orders");
    assert_eq!(json(&store, "list")["generations"][3]["pinned"], true);
}

#[test]
fn what_is_wrong_is_refused_with_a_code_and_a_hint() {
    let dir = temp();
    let store = four(dir.path());
    let said = ends_with(2, &store, "prune");
    assert!(said.contains("--keep-daily"), "{said}");
    ends_with(2, &store, "prune --keep-last 0");
    ends_with(2, &store, "prune --keep-last 1 --time-zone Nowhere/X");
    ends_with(2, &store, "prune --keep-last 1 --grace soon");
    ends_with(2, &store, "prune --collect-only --keep-last 1");
    ends_with(2, &store, "prune --forget orders");
    ends_with(1, &store, "prune --keep-last 1 other");
    ends_with(0, &store, "prune --keep-daily 3 --time-zone Europe/Zurich");
    let backend = LocalBackend::open(&store).unwrap();
    let lock = backend.try_lock(PRUNE_LOCK, LockMode::Exclusive).unwrap();
    ends_with(11, &store, "prune --keep-last 1 --apply");
    drop(lock);
    let lock = backend.try_lock(STORE_LOCK, LockMode::Shared).unwrap();
    ends_with(11, &store, "prune --keep-last 1 --grace 0 --apply");
    ends_with(0, &store, "prune --keep-last 1 --apply");
    drop(lock);
}

#[test]
fn damage_ends_with_its_code_and_changes_nothing() {
    let dir = temp();
    let store = four(dir.path());
    for manifest in std::fs::read_dir(store.join("manifests")).unwrap() {
        std::fs::write(manifest.unwrap().path(), b"not a manifest").unwrap();
    }
    let said = ends_with(4, &store, "prune --keep-last 1 --apply");
    assert!(said.contains("cannot be read, so it is not known"), "{said}");
    assert!(said.contains("verify --structure"), "{said}");
}
