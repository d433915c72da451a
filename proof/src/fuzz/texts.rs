//! JSON, TOML and names.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use strongroom::backend::{Backend, Key, MemoryBackend};
use strongroom::clock::UnixNanos;
use strongroom::digest::Digest;
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::interchange::canic::{self, ImportOptions};
use strongroom::run::config::{self, Config};
use strongroom::run::executor::{CommandConfig, command, icp};
use strongroom::run::facts::{DeploymentFacts, EXTENSION};
use strongroom::run::inventory::Inventory;
use strongroom::run::journal::Journal;
use strongroom::run::plan::Plan;
use strongroom::run::restore::{self, RestoreState};
use strongroom::run::state::RunState;
use strongroom::run::topology::topology_hash;
use strongroom::store::{Extension, Progress, Reference, Store, StoreConfig, parse_label};

/// What stands between the parts of an input of several texts.
pub const BETWEEN: u8 = 0;

/// Most events of a journal: more of them are more of the same.
const EVENTS_MAX: usize = 1000;

pub fn plan(input: &[u8]) -> bool {
    let Ok(plan) = Plan::parse(input) else { return false };
    let again = serde_json::to_vec(&plan).expect("a plan is JSON");
    assert_eq!(Plan::parse(&again).expect("it was read before"), plan);
    true
}

pub fn restore_plan(input: &[u8]) -> bool {
    let Ok(plan) = restore::Plan::parse(input) else { return false };
    let again = serde_json::to_vec(&plan).expect("a plan is JSON");
    assert_eq!(restore::Plan::parse(&again).expect("it was read before"), plan);
    true
}

pub fn restore_map(input: &[u8]) -> bool {
    restore::parse_map(input).is_ok()
}

pub fn facts(input: &[u8]) -> bool {
    let extension = Extension { name: EXTENSION.to_owned(), value: input.to_vec() };
    let Ok(found) = DeploymentFacts::find(&[extension]) else { return false };
    let found = found.expect("the extension is there");
    assert_eq!(DeploymentFacts::find(&[found.to_extension()]).ok().flatten(), Some(found));
    true
}

pub fn config(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let Ok(config) = Config::parse(text, Path::new("/base")) else { return false };
    for (name, deployment) in &config.deployments {
        let _ = (deployment.settle(name), deployment.every(name));
        if let Ok(executor) = deployment.make_executor(name, &deployment.members) {
            let _ = deployment.request(name, &*executor, &deployment.members, None, None);
        }
    }
    true
}

pub fn inventory(input: &[u8]) -> bool {
    let Ok(members) = config::parse_inventory(input) else { return false };
    let rows = config::rows(&members);
    let hash = topology_hash(&rows).hash;
    // Who has no role is called by his place.
    let has_roles = rows.iter().all(|row| row.role.is_some());
    let Ok(inventory) = Inventory::new(rows) else { return false };
    let ordered = topology_hash(inventory.rows()).hash;
    assert!(!has_roles || ordered == hash, "it depends on the order");
    for (row, _) in inventory.with_depths().take(100) {
        assert!(inventory.subtree(&row.id).contains(&row));
    }
    true
}

/// Events, joined by [`BETWEEN`], as the journal of a run of either kind.
pub fn journal(input: &[u8]) -> bool {
    let run = "20231114t221320z-0a1b2c3d";
    let mut previous = Digest::ZERO;
    let mut records = Vec::new();
    for (number, event) in (1..).zip(input.split(|byte| *byte == BETWEEN).take(EVENTS_MAX)) {
        let (time, event) = (UnixNanos(number as i64), event.to_vec());
        let record = JournalRecord { run: run.to_owned(), number, previous, time, event };
        records.push(record.encode());
        previous = Digest::of(records.last().expect("just put there"));
    }
    let backend = MemoryBackend::new();
    let ended = EndedJournal { records }.encode();
    let key = Key::new(format!("runs/{run}/ended")).expect("a key");
    let _ = backend.put(&key, &[&ended]).expect("memory");
    let backup = Journal::open(&backend, run, false).map(|(_, records)| RunState::replay(&records));
    let restore =
        Journal::open(&backend, run, false).map(|(_, records)| RestoreState::replay(&records));
    if let Ok(Ok(state)) = &backup {
        let _ = (state.next_kind(), state.to_restart(), state.manifests().count());
        for target in &state.plan.targets {
            let _ = state.artifact(&target.row.id).name();
        }
    }
    if let Ok(Ok(state)) = &restore {
        let _ = (state.is_loading(), state.to_restart(), state.manifests().count());
    }
    matches!(backup, Ok(Ok(_))) || matches!(restore, Ok(Ok(_)))
}

/// What the commands of executors print. The first byte chooses which reply it is.
pub fn replies(input: &[u8]) -> bool {
    let Some((which, stdout)) = input.split_first() else { return false };
    let reply = || {
        let text = r#"{"format":"json","items":"/all","id":"/id","state":"/state",
            "module-hash":"/hash","taken-at":"/at","size":"/size","role":"/role","kind":"/kind",
            "parent":"/parent"}"#;
        serde_json::from_str::<command::Reply>(text).expect("a reply")
    };
    let plain = command::Reply::default();
    let states = CommandConfig::default().states;
    match which % 12 {
        0 => icp::answer::status(stdout, "ryjl3-tyaaa-aaaaa-aaaba-cai").is_ok(),
        1 => icp::answer::created(stdout).is_ok(),
        2 => icp::answer::snapshots(stdout).is_ok(),
        3 => icp::answer::uploaded(stdout).is_ok(),
        4 => icp::answer::principal(stdout).is_ok(),
        5 => command::answer::status(stdout, &plain, &states).is_ok(),
        6 => command::answer::status(stdout, &reply(), &states).is_ok(),
        7 => command::answer::snapshot(stdout, &plain).is_ok(),
        8 => command::answer::snapshot(stdout, &reply()).is_ok(),
        9 => command::answer::snapshots(stdout, &reply()).is_ok(),
        10 => command::answer::rows(stdout, &reply()).is_ok(),
        _ => command::answer::rows(stdout, &plain).is_ok(),
    }
}

/// The four files of a backup directory of canic-backup, joined by [`BETWEEN`]: manifest,
/// downloads, and plan and execution, which may be missing.
pub fn canic(input: &[u8]) -> bool {
    thread_local! {
        static PLACE: OnceCell<(tempfile::TempDir, Store)> = const { OnceCell::new() };
    }
    PLACE.with(|place| {
        let (dir, store) = place.get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let dir =
                if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            let store = Store::create(Arc::new(MemoryBackend::new()), StoreConfig::default());
            (dir.expect("a directory"), store.expect("a store"))
        });
        let names = [
            "deployment-backup-manifest.json",
            "download-journal.json",
            "backup-plan.json",
            "backup-execution-journal.json",
        ];
        let mut parts = input.split(|byte| *byte == BETWEEN);
        for name in names {
            let path = dir.path().join(name);
            match parts.next() {
                Some(part) => std::fs::write(path, part).expect("a file"),
                None => drop(std::fs::remove_file(path)),
            }
        }
        let options = ImportOptions { threads: 1 };
        match canic::import(store, dir.path(), "orders", &options, &Progress::default()) {
            Ok(_) => true,
            // The files are fine, and the artifacts are not there.
            Err(error) => error.to_string().contains("artifact"),
        }
    })
}

pub fn names(input: &[u8]) -> bool {
    let reference = Reference::parse(input);
    let Ok(text) = str::from_utf8(input) else { return reference.is_ok() };
    let _ = parse_label("deployment", text);
    if let Ok(key) = Key::new(text) {
        assert!(!key.as_str().split('/').any(|part| part.is_empty() || part.starts_with('.')));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_hex(), text.to_ascii_lowercase());
    }
    reference.is_ok()
}
