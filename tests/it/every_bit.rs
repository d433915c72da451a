//! Every bit of a very small store: whatever is flipped, cut off or removed, either nothing is lost
//! or it is said, and nothing is ever silently wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::prelude::*;
use strongroom::backend::{Key, MemoryBackend};
use strongroom::store::{Entry, Scope, Store};
use tempfile::TempDir;

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, Snapshot, Tree, assert_same_snapshot, backup, change, copy_of,
    fast_temp, keys, lose, memory_store, noise, object, reference, restore, snapshot, temp, text,
    try_backup, verify,
};

/// Everything in a generation: entries with the bytes of files.
type All = Vec<(Entry, Option<Vec<u8>>)>;

struct Sample {
    dir: TempDir,
    backend: MemoryBackend,
    generations: Vec<All>,
    tree: Snapshot,
}

impl Sample {
    /// A store of two generations with raw, compressed and delta chunks, holes and a list of pages.
    fn new() -> Self {
        let dir = temp();
        let tree = Tree::create(dir.path().join("source"));
        tree.file("noise", noise(1, 100));
        tree.file("text", text(2, 400));
        tree.file("hole", [0; 50]);
        tree.dir("dir");
        tree.symlink("link", "noise");
        let (backend, store) = memory_store();
        backup(&store, tree.path());
        tree.file("text", text(2, 390));
        backup(&store, tree.path());
        let generations = [1, 2].map(|number| read_all(&store, number).unwrap()).to_vec();
        Self { tree: snapshot(tree.path()), dir, backend, generations }
    }

    /// Fails unless a damaged copy of the store is honest about itself.
    fn assert_honest(&self, what: &str, backend: &MemoryBackend) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.check(what, backend)));
        assert!(outcome.is_ok(), "{what}: panicked");
    }

    fn check(&self, what: &str, backend: &MemoryBackend) {
        let open = |backend: &MemoryBackend| Store::open(Arc::new(backend.clone()));
        let store = match open(&copy_of(backend)) {
            Ok(store) => store,
            Err(error) => {
                return assert!(error.is_damage() || error.needs_newer(), "{what}: {error}");
            }
        };
        let found = !verify(&store, Scope::Full).is_clean();
        let store = open(&copy_of(backend)).unwrap();
        for (number, expected) in self.generations.iter().enumerate() {
            match read_all(&store, number + 1) {
                Ok(all) => assert!(all == *expected, "{what}: g{} is silently wrong", number + 1),
                Err(error) => assert!(found, "{what}: verify finds nothing, reading says {error}"),
            }
        }
    }

    /// As [`Self::assert_honest`], for a restore to disk and another backup.
    fn assert_honest_in_use(&self, what: &str, backend: &MemoryBackend) {
        let Ok(store) = Store::open(Arc::new(copy_of(backend))) else { return };
        if store.tree(&reference("orders@g2")).is_ok() {
            let target = fast_temp();
            let report = restore(&store, "orders@g2", target.path());
            if report.failures.is_empty() {
                let restored = snapshot(&target.path().join(MEMBER));
                assert_same_snapshot(&self.tree, &restored, Compare::PLAIN);
            }
        }
        let backend = copy_of(backend);
        let store = Store::open(Arc::new(backend.clone())).unwrap();
        let Ok(report) = try_backup(&store, &self.dir.path().join("source")) else { return };
        let number = report.generation.unwrap().number.0;
        let store = Store::open(Arc::new(backend.clone())).unwrap();
        let found = !verify(&store, Scope::Full).is_clean();
        assert!(read_all(&store, number as usize).is_ok() || found, "{what}: a bad backup");
    }
}

/// Reads everything in a generation.
fn read_all(store: &Store, number: usize) -> Result<All, String> {
    let what = reference(&format!("{DEPLOYMENT}@g{number}"));
    let tree = store.tree(&what).map_err(|error| error.to_string())?;
    if let Some((_, reason)) = tree.unreadable.first() {
        return Err(reason.clone());
    }
    let mut all = Vec::new();
    for entry in store.entries(&tree.members[0].artifact) {
        let entry = entry.map_err(|fault| fault.to_string())?;
        let bytes = match entry.content() {
            None => None,
            Some(content) => {
                let mut bytes = Vec::new();
                store.write_content(content, &mut bytes).map_err(|error| error.to_string())?;
                Some(bytes)
            }
        };
        all.push((entry, bytes));
    }
    Ok(all)
}

/// Runs `check` for every number below `count` on several threads, in silence.
fn for_each(count: usize, check: impl Fn(usize) + Send + Sync) {
    (0..count).into_par_iter().for_each(check);
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let sample = Sample::new();
    for key in keys(&sample.backend, "") {
        let len = object(&sample.backend, &key).len();
        for_each(len * 8, |bit| {
            let backend = copy_of(&sample.backend);
            change(&backend, &key, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let what = format!("{key}: bit {bit} of {}", len * 8);
            sample.assert_honest(&what, &backend);
            if bit % 101 == 0 {
                sample.assert_honest_in_use(&what, &backend);
            }
        });
    }
}

#[test]
fn every_truncation_is_found_or_harmless() {
    let sample = Sample::new();
    for key in keys(&sample.backend, "") {
        let len = object(&sample.backend, &key).len();
        for_each(len, |keep| {
            let backend = copy_of(&sample.backend);
            change(&backend, &key, |bytes| bytes.truncate(keep));
            let what = format!("{key}: {keep} of {len} bytes");
            sample.assert_honest(&what, &backend);
            if keep % 41 == 0 {
                sample.assert_honest_in_use(&what, &backend);
            }
        });
    }
}

#[test]
fn every_lost_object_is_missed_or_harmless() {
    let sample = Sample::new();
    let all = keys(&sample.backend, "");
    assert!(all.len() >= 10, "{all:?}");
    let is_last_commit = |key: &Key| key.as_str() == "log/00000000000000000002";
    for key in all {
        let backend = copy_of(&sample.backend);
        lose(&backend, &key);
        if key.as_str() == "store" {
            let opened = Store::open(Arc::new(backend));
            assert!(matches!(opened, Err(strongroom::store::Error::NotAStore { .. })));
        } else if is_last_commit(&key) {
            // Nothing tells of it any more: the generation before is the newest.
            let store = Store::open(Arc::new(backend)).unwrap();
            assert_eq!(store.resolve(&reference(DEPLOYMENT)).unwrap().number.0, 1);
            assert!(verify(&store, Scope::Full).is_clean());
        } else {
            sample.assert_honest(&format!("{key} lost"), &backend);
            sample.assert_honest_in_use(&format!("{key} lost"), &backend);
        }
    }
}

#[test]
fn every_pair_of_objects_that_changed_names_is_found_or_harmless() {
    let sample = Sample::new();
    let all = keys(&sample.backend, "");
    for (number, one) in all.iter().enumerate() {
        for two in &all[number + 1..] {
            let backend = copy_of(&sample.backend);
            backend.replace(one, object(&sample.backend, two));
            backend.replace(two, object(&sample.backend, one));
            sample.assert_honest(&format!("{one} and {two} swapped"), &backend);
            sample.assert_honest_in_use(&format!("{one} and {two} swapped"), &backend);
        }
    }
}
