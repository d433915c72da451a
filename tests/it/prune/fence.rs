//! Writers and readers beside a prune: a writer that stops at any place while a whole prune passes
//! (two of them, so that what is condemned is collected) commits only what is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use strongroom::backend::{Backend, Key, LocalBackend, LockMode, MemoryBackend};
use strongroom::lease::{PRUNE_LOCK, READERS_LOCK};
use strongroom::store::{
    Durable, Error, IngestOptions, Progress, PruneOptions, PutOff, Scope, Store,
};

use super::{
    History, collect_only, five_generations, keep_last, name, prune, prune_all, try_prune,
};
use crate::support::{
    MEMBER, TestBackend, assert_clean, keys, memory_store, noise, open, reference, source, temp,
    text, verify,
};

/// A store whose newest generation lacks content that the second to last has, and a tree that needs
/// that content: what a backup of it finds in the index is about to be removed.
fn about_to_lose(backend: &MemoryBackend) -> History {
    let store = open(backend.clone());
    let mut history = History::new("orders");
    history.backup(&store, |tree| {
        tree.file("a", noise(1, 200_000));
        tree.file("stable_memory.bin", text(9, 1_000_000));
        for number in 0..300 {
            tree.file(format!("old/{number}"), text(number, 1500));
        }
    });
    history.backup(&store, |tree| {
        std::fs::remove_dir_all(tree.below("old")).unwrap();
        std::fs::remove_file(tree.below("stable_memory.bin")).unwrap();
        tree.file("b", noise(2, 200_000));
    });
    // The third tree is as the first, with a change that is stored as a difference from it.
    let first = history.trees[0].path().to_owned();
    history.tree(|tree| {
        super::copy(&first.join("old"), &{
            let old = tree.below("old");
            std::fs::create_dir(&old).unwrap();
            old
        });
        tree.file("stable_memory.bin", text(9, 1_000_000));
        tree.write_at("stable_memory.bin", 70_000, &[1; 100]);
    });
    history
}

/// Runs `then` before the put number `at` of the folder (from 1), once.
fn stopping(
    inner: &MemoryBackend,
    folder: &'static str,
    at: usize,
    then: impl Fn() + Send + Sync + 'static,
) -> (TestBackend, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let backend = TestBackend::new(inner.clone()).before_put(move |key: &Key| {
        let is_of_it = key.as_str().starts_with(folder);
        if is_of_it && count.fetch_add(1, Ordering::SeqCst) + 1 == at {
            then();
        }
    });
    (backend, seen)
}

/// Stops a writer before each of its puts in turn, lets a whole prune pass, and lets it go on.
fn stop_everywhere(options: fn() -> PruneOptions, stays: &[u64]) {
    let mut met = 0;
    for folder in ["packs", "pages", "index", "manifests", "log"] {
        for at in 1.. {
            let backend = MemoryBackend::new();
            crate::support::create(backend.clone());
            let history = about_to_lose(&backend);
            let removed = Arc::new(Mutex::new(0));
            let (other, result) = (backend.clone(), Arc::clone(&removed));
            let pass = move || {
                prune(&open(other.clone()), &options());
                let report = prune(&open(other.clone()), &collect_only());
                *result.lock().unwrap() += report.removed_objects;
            };
            let (stopped, seen) = stopping(&backend, folder, at, pass);
            let number = history.backup_last(&open(stopped), history.trees[2].path()).unwrap();
            assert_eq!(number, 3);
            if seen.load(Ordering::SeqCst) < at {
                break;
            }
            met += 1;
            assert!(*removed.lock().unwrap() > 0, "{folder} {at}: the prune removed something");
            let store = open(backend.clone());
            assert_clean(&store);
            assert_eq!(history.assert_restores(&store), stays, "{folder} {at}");
            prune_all(&store, &keep_last(1));
            assert_clean(&open(backend.clone()));
            assert_eq!(history.assert_restores(&open(backend)), [3]);
        }
    }
    assert!(met >= 6, "{met} places");
}

#[test]
fn a_writer_stopped_anywhere_during_a_whole_prune_commits_what_is_there() {
    stop_everywhere(|| keep_last(1), &[2, 3]);
}

/// The generation goes whose lists the writer trusts without asking the index.
#[test]
fn a_writer_stopped_anywhere_does_not_rely_on_the_generation_before_either() {
    let forget = || PruneOptions { forget: vec![name("orders", 2)], ..collect_only() };
    stop_everywhere(forget, &[1, 3]);
}

/// The same where only half a prune passes: what the commit needs is condemned, not collected.
#[test]
fn a_commit_between_condemning_and_collecting_is_spared() {
    let backend = MemoryBackend::new();
    crate::support::create(backend.clone());
    let history = about_to_lose(&backend);
    let other = backend.clone();
    let (stopped, _) =
        stopping(&backend, "log", 1, move || drop(prune(&open(other.clone()), &keep_last(1))));
    history.backup_last(&open(stopped), history.trees[2].path()).unwrap();
    let store = open(backend.clone());
    assert!(prune(&store, &keep_last(2)).spared > 0);
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend)), [2, 3]);
}

/// Stores the third tree, up to the commit.
fn about_to_commit(store: &Store, history: &History) -> Durable {
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let sources = [source(MEMBER, history.trees[2].path())];
    let previous = store.previous_artifacts("orders", &sources).unwrap();
    let staged = store.ingest(&sources, &previous, &options, &progress).unwrap();
    staged.verify().unwrap().promote().unwrap()
}

/// And where the commit comes just before the record that collects: it takes its number.
#[test]
fn a_commit_that_takes_the_number_of_a_collection_is_looked_at() {
    let backend = MemoryBackend::new();
    crate::support::create(backend.clone());
    let history = about_to_lose(&backend);
    // Condemned while a writer is at work that has decided what to reuse.
    let store = open(backend.clone());
    let durable = about_to_commit(&store, &history);
    prune(&open(backend.clone()), &keep_last(1));
    let commit = Mutex::new(Some((store, durable)));
    let (pruning, _) = stopping(&backend, "log", 1, move || {
        let (store, durable) = commit.lock().unwrap().take().unwrap();
        store.commit("orders", durable).unwrap();
    });
    let report = prune(&open(pruning), &collect_only());
    assert!(report.spared > 0, "{report:?}");
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend)), [2, 3]);
}

#[test]
fn a_commit_of_what_was_collected_is_refused_and_nothing_becomes_visible() {
    let backend = MemoryBackend::new();
    crate::support::create(backend.clone());
    let history = about_to_lose(&backend);
    let store = open(backend.clone());
    let durable = about_to_commit(&store, &history);
    for _ in 0..2 {
        prune(&open(backend.clone()), &keep_last(1));
    }
    let error = store.commit("orders", durable).unwrap_err();
    assert!(matches!(error, Error::TakenAway { .. }), "{error}");
    assert_eq!(history.assert_restores(&open(backend.clone())), [2]);
    assert_clean(&open(backend));
}

/// The previous generation is forgotten and collected between its choice and the ingest: then the
/// lists that the ingest trusts are gone.
#[test]
fn a_writer_whose_previous_generation_is_taken_away_does_not_trust_it() {
    let backend = MemoryBackend::new();
    crate::support::create(backend.clone());
    let store = open(backend.clone());
    let history = five_generations(&store, "orders", 1);
    let sources = [source(MEMBER, history.trees[4].path())];
    let mut previous = store.previous_artifacts("orders", &sources).unwrap();
    previous[0].as_mut().unwrap().started = strongroom::clock::UnixNanos(i64::MAX);
    let forget = PruneOptions { forget: vec![name("orders", 5)], ..collect_only() };
    for _ in 0..2 {
        try_prune(&open(backend.clone()), &forget)
            .or_else(|_| try_prune(&open(backend.clone()), &collect_only()))
            .unwrap();
    }
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let result = store
        .ingest(&sources, &previous, &options, &progress)
        .and_then(|staged| staged.verify())
        .and_then(|verified| verified.promote())
        .and_then(|durable| store.commit("orders", durable));
    // Its lists are gone too, so everything was read, and stored again.
    assert!(result.unwrap().stats.bytes_new > 100_000);
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend)), [1, 2, 3, 4, 6]);
}

#[test]
fn a_long_lived_process_with_an_old_index_backs_up_verifies_and_restores() {
    let backend = MemoryBackend::new();
    crate::support::create(backend.clone());
    let old = open(backend.clone());
    let mut history = five_generations(&old, "orders", 1);
    prune_all(&open(backend.clone()), &keep_last(2));
    assert!(verify(&old, Scope::Full).is_clean());
    assert_eq!(history.assert_restores(&old), [4, 5]);
    history.backup(&old, |tree| {
        // Content that only forgotten generations had.
        tree.file("of/0", noise(12, 120_000));
        tree.file("of/1", noise(22, 120_000));
    });
    assert_clean(&old);
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend.clone())), [4, 5, 6]);
    prune_all(&old, &keep_last(1));
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend)), [6]);
}

#[test]
fn what_is_read_stays_until_it_was_read() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let tree = store.tree(&reference("orders@g1")).unwrap();
    for _ in 0..2 {
        let report = prune(&open(backend.clone()), &keep_last(1));
        assert_eq!(report.removed_objects, 0);
    }
    let report = prune(&open(backend.clone()), &keep_last(1));
    assert_eq!(report.put_off, [PutOff::Readers]);
    let target = temp();
    let report = store.restore(&tree, target.path(), &Default::default(), &Progress::default());
    assert_eq!(report.unwrap().failures, []);
    let clone = tree.clone();
    drop(tree);
    assert_eq!(prune(&open(backend.clone()), &keep_last(1)).removed_objects, 0);
    drop(clone);
    assert!(prune(&open(backend.clone()), &keep_last(1)).removed_objects > 0);
    assert_eq!(history.assert_restores(&open(backend)), [5]);
}

/// Between the record that collects and the end of the sweep, readers and writers come and go.
#[test]
fn beside_a_sweep_others_verify_restore_and_back_up() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(2));
    let (other, stops) = (backend.clone(), Arc::new(AtomicUsize::new(0)));
    let (history, counted) = (Arc::new(history), Arc::clone(&stops));
    let seen = Arc::clone(&history);
    let look = move |key: &Key| {
        // While the record is written that collects, readers wait for that moment.
        let lock = other.try_lock(READERS_LOCK, LockMode::Shared).unwrap();
        let is_step = key.as_str().starts_with("log") || key.as_str().starts_with("index");
        if lock.is_none() || !is_step {
            return;
        }
        drop(lock);
        // Each backup takes a number that prune wanted.
        if counted.fetch_add(1, Ordering::SeqCst) >= 5 {
            return;
        }
        let store = open(other.clone());
        assert_clean(&store);
        let numbers = seen.assert_restores(&store);
        assert_eq!(numbers[..2], [4, 5]);
        // Content of forgotten generations.
        seen.backup_last(&store, seen.trees[4].path()).unwrap();
    };
    let pruning = TestBackend::new(backend.clone()).after_put(look);
    let report = prune(&open(pruning), &collect_only());
    assert!(report.removed_objects > 0);
    assert!(stops.load(Ordering::SeqCst) >= 2);
    assert_clean(&open(backend));
}

#[test]
fn only_one_prune_is_at_work() {
    let (backend, store) = memory_store();
    five_generations(&store, "orders", 1);
    let lock = backend.try_lock(PRUNE_LOCK, LockMode::Exclusive).unwrap();
    let objects = keys(&backend, "");
    let error = try_prune(&store, &keep_last(1)).unwrap_err();
    assert!(matches!(error, Error::Lease(strongroom::lease::Error::Pruned)), "{error}");
    assert_eq!(keys(&backend, ""), objects);
    drop(lock);
    prune_all(&store, &keep_last(1));
}

#[test]
fn a_read_only_store_can_be_planned_and_is_not_changed() {
    let (memory, store) = memory_store();
    five_generations(&store, "orders", 1);
    let backend = TestBackend::new(memory.clone());
    backend.make_read_only();
    let store = open(backend);
    let objects = keys(&memory, "");
    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    assert!(plan.condemned.bytes > 0);
    assert!(store.prune(&plan, &Progress::default()).is_err());
    assert_eq!(keys(&memory, ""), objects);
}

#[test]
fn a_directory_is_pruned_beside_readers_and_writers_of_other_handles() {
    let dir = temp();
    let place = dir.path().join("store");
    crate::support::create(LocalBackend::create(&place).unwrap());
    let again = || open(LocalBackend::open(&place).unwrap());
    let history = five_generations(&again(), "orders", 1);
    prune(&again(), &keep_last(1));
    let readers = LocalBackend::open(&place).unwrap();
    let held = readers.try_lock(READERS_LOCK, LockMode::Shared).unwrap();
    assert_eq!(prune(&again(), &keep_last(1)).put_off, [PutOff::Readers]);
    drop(held);
    assert!(prune(&again(), &keep_last(1)).removed_bytes > 0);
    prune_all(&again(), &keep_last(1));
    assert_clean(&again());
    assert_eq!(history.assert_restores(&again()), [5]);
}
