//! Work that is interrupted or killed: nothing that was acknowledged is lost, and repeating it goes
//! on from what is there.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use strongroom::backend::{LocalBackend, MemoryBackend};
use strongroom::store::{Error, IngestOptions, Progress, RestoreOptions, Store};

use crate::support::{
    Child, Compare, DEPLOYMENT, MEMBER, TestBackend, Tree, assert_clean, assert_restores,
    assert_same_tree, backup, create, memory_store, noise, open, reference, restore, source, temp,
    text,
};

/// Calls `act` at the event number `at`, counted from 1.
fn at_event(at: u64, act: impl Fn() + Send + Sync) -> impl Fn() + Send + Sync {
    let count = AtomicU64::new(0);
    move || {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == at {
            act();
        }
    }
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// A part for `child.rs`: backs up into the store at `place`, and is killed before (`b3`) or after
/// (`a3`) the put of that number, or never (`-`).
pub fn play_backup(place: &Path, source_path: &Path, when: &OsStr) {
    let when = when.to_str().unwrap();
    let backend = TestBackend::new(LocalBackend::open(place).unwrap());
    let number = when[1..].parse().unwrap_or(0);
    let event = at_event(number, die);
    let backend = match &when[..1] {
        "b" => backend.before_put(move |_| event()),
        "a" => backend.after_put(move |_| event()),
        _ => backend,
    };
    backup(&open(backend), source_path);
}

/// A part for `child.rs`: restores the newest generation, and is killed before the read of that
/// number.
pub fn play_restore(place: &Path, target: &Path, when: &OsStr) {
    let event = at_event(when.to_str().unwrap().parse().unwrap(), die);
    let backend = TestBackend::new(LocalBackend::open(place).unwrap()).before_read(move |key| {
        if key.as_str().starts_with("packs/") {
            event();
        }
    });
    restore(&open(backend), DEPLOYMENT, target);
}

/// A source of several packs' worth, so that puts happen while others are still being made.
fn fill(tree: &Tree) {
    tree.file("noise", noise(1, 60 << 20));
    for number in 0..50 {
        tree.file(format!("small/{number}"), text(number, 4000));
    }
}

fn local(dir: &Path) -> (std::path::PathBuf, Tree) {
    let tree = Tree::create(dir.join("source"));
    let place = dir.join("store");
    create(LocalBackend::create(&place).unwrap());
    (place, tree)
}

fn open_local(place: &Path) -> Store {
    open(LocalBackend::open(place).unwrap())
}

/// Fails unless the store holds `generations` whole ones, and a backup completes it.
#[track_caller]
fn assert_goes_on(place: &Path, tree: &Tree, at_least: usize, when: &str) -> u64 {
    let store = open_local(place);
    assert_clean(&store);
    let generations = store.log().unwrap().generations().len();
    assert!(generations == at_least || generations == at_least + 1, "{when}: {generations}");
    let report = backup(&store, tree.path());
    assert_clean(&open_local(place));
    assert_restores(&open_local(place), DEPLOYMENT, tree.path());
    report.stats.bytes_new
}

#[test]
fn a_backup_killed_at_every_put_loses_nothing_and_goes_on() {
    for side in ["b", "a"] {
        for number in 1.. {
            let dir = temp();
            let (place, tree) = local(dir.path());
            tree.file("first", noise(3, 5000));
            backup(&open_local(&place), tree.path());
            tree.file("second", noise(4, 5000));
            tree.file("stable_memory.bin", noise(5, 1 << 20));
            let when = format!("{side}{number}");
            let arguments: [&OsStr; 3] = [place.as_ref(), tree.path().as_ref(), when.as_ref()];
            let output = Child::new("killed in backup", &arguments).run();
            if output.status.success() {
                assert!(number > 5, "{when}: a backup has six puts at least");
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{when}: {output:?}");
            let new = assert_goes_on(&place, &tree, 1, &when);
            // What a pack holds that was there is not stored again.
            let all = (1 << 20) + 5000;
            let kept = number > 1 || side == "a";
            assert_eq!(new, if kept { 0 } else { all }, "{when}");
            assert_restores(&open_local(&place), "orders@g1", &only_first(dir.path()));
        }
    }
}

/// Returns a tree as it was in the first generation.
fn only_first(dir: &Path) -> std::path::PathBuf {
    let tree = Tree::at(dir.join("source"));
    let time = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        let stat = std::fs::metadata(path).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    let store = open_local(&dir.join("store"));
    let tree_of = store.tree(&reference("orders@g1")).unwrap();
    let root = store.entry(&tree_of.members[0], b"").unwrap();
    for name in ["second", "stable_memory.bin"] {
        std::fs::remove_file(tree.below(name)).unwrap();
    }
    tree.mtime("", root.mtime.secs, root.mtime.nanos.into());
    assert_eq!(time(tree.path()).0, root.mtime.secs);
    tree.path().to_owned()
}

#[test]
fn a_large_backup_killed_between_its_packs_keeps_what_was_stored() {
    for number in [2, 3] {
        let dir = temp();
        let (place, tree) = local(dir.path());
        fill(&tree);
        let when = format!("b{number}");
        let arguments: [&OsStr; 3] = [place.as_ref(), tree.path().as_ref(), when.as_ref()];
        let output = Child::new("killed in backup", &arguments).run();
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let new = assert_goes_on(&place, &tree, 0, &when);
        let stored = (number - 1) * (20 << 20);
        assert!(new < (60 << 20) - stored, "{when}: {new} bytes stored again");
    }
}

#[test]
fn a_backup_killed_at_any_time_loses_nothing_and_goes_on() {
    let dir = temp();
    let (place, tree) = local(dir.path());
    tree.file("before", noise(7, 3000));
    backup(&open_local(&place), tree.path());
    fill(&tree);
    for millis in [5, 20, 50, 90, 150, 250, 400] {
        let arguments: [&OsStr; 3] = [place.as_ref(), tree.path().as_ref(), "-".as_ref()];
        let mut child = Child::new("killed in backup", &arguments).start();
        std::thread::sleep(Duration::from_millis(millis));
        // It may have ended already.
        let _ = child.kill();
        child.wait().unwrap();
        assert_clean(&open_local(&place));
    }
    backup(&open_local(&place), tree.path());
    assert_restores(&open_local(&place), DEPLOYMENT, tree.path());
    let swept = LocalBackend::open(&place).unwrap().sweep_tmp().unwrap();
    assert_eq!(std::fs::read_dir(place.join("tmp")).unwrap().count(), 0, "{swept:?}");
}

#[test]
fn a_restore_killed_at_every_read_goes_on_and_ends_equal() {
    let dir = temp();
    let (place, tree) = local(dir.path());
    tree.file("noise", noise(1, 13 << 20));
    tree.sparse("image.img", 9 << 20, &[(5 << 20, noise(2, 70_000))]);
    for number in 0..50 {
        tree.file(format!("small/{number}"), text(number, 4000));
    }
    backup(&open_local(&place), tree.path());
    for number in 1.. {
        let target = temp();
        let number = number.to_string();
        let arguments: [&OsStr; 3] = [place.as_ref(), target.path().as_ref(), number.as_ref()];
        let output = Child::new("killed in restore", &arguments).run();
        if output.status.success() {
            assert!(number.as_str() > "3", "{number} reads");
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        assert!(!target.path().join(MEMBER).exists(), "nothing is in its place yet");
        let report = restore(&open_local(&place), DEPLOYMENT, target.path());
        assert_eq!(report.failures, []);
        assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
    }
}

#[test]
fn an_interrupted_backup_stops_and_what_it_stored_is_used_by_the_next() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    fill(&tree);
    for interrupt_at in [1, 2] {
        let memory = MemoryBackend::new();
        let progress = Arc::new(Progress::default());
        let stop = Arc::clone(&progress);
        let event = at_event(interrupt_at + 1, move || stop.interrupt());
        // The header is the first put.
        let store = create(TestBackend::new(memory.clone()).after_put(move |_| event()));
        let sources = [source(MEMBER, tree.path())];
        let options = IngestOptions::default();
        let error = store.backup(DEPLOYMENT, &sources, &options, &progress).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error:?}");
        let store = open(memory);
        assert_eq!(store.log().unwrap().generations(), []);
        assert_clean(&store);
        let report = backup(&store, tree.path());
        let all = report.stats.chunks_new + report.stats.chunks_reused;
        let kept = interrupt_at * (20 << 20);
        assert!(report.stats.chunks_encoded < all, "{:?}", report.stats);
        assert!(report.stats.bytes_new < (61 << 20) - kept, "{:?}", report.stats);
        assert_restores(&store, DEPLOYMENT, tree.path());
        assert_clean(&store);
    }
}

#[test]
fn work_that_is_interrupted_before_it_begins_does_nothing() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", b"1");
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let progress = Progress::default();
    progress.interrupt();
    let sources = [source(MEMBER, tree.path())];
    let options = IngestOptions::default();
    let interrupted = store.backup(DEPLOYMENT, &sources, &options, &progress);
    assert!(matches!(interrupted, Err(Error::Interrupted)));
    assert_eq!(store.log().unwrap().generations().len(), 1);
    let opened = store.tree(&reference(DEPLOYMENT)).unwrap();
    let target = temp();
    let interrupted = store.restore(&opened, target.path(), &RestoreOptions::default(), &progress);
    assert!(matches!(interrupted, Err(Error::Interrupted)));
    assert!(!target.path().join(MEMBER).exists());
    let interrupted = store.verify(strongroom::store::Scope::Full, &[], &progress);
    assert!(matches!(interrupted, Err(Error::Interrupted)));
}
