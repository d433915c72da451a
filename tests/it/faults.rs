//! Puts that fail: each one of a backup in turn, before or after the object is stored.

use std::path::Path;

use rustix::io::Errno;
use strongroom::backend::MemoryBackend;
use strongroom::store::Error;

use crate::support::{
    TestBackend, When, assert_clean, assert_restores, backup, change, create, fast_temp, noise,
    open, try_backup,
};

fn fill(root: &Path, name: &str, seed: u64, len: usize) {
    std::fs::write(root.join(name), noise(seed, len)).unwrap();
}

/// A backup of a small tree whose put `number` fails. Returns whether there were so many.
fn fail_one(number: u64, errno: Errno, when: When) -> bool {
    let tree = fast_temp();
    let memory = MemoryBackend::new();
    let backend = TestBackend::new(memory.clone());
    let store = create(backend.clone());
    fill(tree.path(), "first", 1, 70_000);
    backup(&store, tree.path());
    let before = fast_temp();
    crate::support::restore(&store, "orders@g1", before.path());
    fill(tree.path(), "second", 2, 90_000);

    backend.fail_put(number, errno, when);
    let result = try_backup(&store, tree.path());
    if !backend.has_failed() {
        return false;
    }
    assert!(result.is_err(), "put {number} failed with {errno}");
    drop(store);

    let store = open(memory);
    assert_clean(&store);
    assert_restores(&store, "orders@g1", &before.path().join("files"));
    backup(&store, tree.path());
    assert_clean(&store);
    assert_restores(&store, "orders", tree.path());
    true
}

#[test]
fn whatever_put_fails_nothing_is_lost_and_the_repeat_succeeds() {
    let mut cases = 0;
    for errno in [Errno::NOSPC, Errno::IO] {
        for when in [When::Before, When::After] {
            let failed = (1..50).take_while(|number| fail_one(*number, errno, when)).count();
            assert!(failed >= 5, "packs, list pages, index, manifests and the record are put");
            cases += failed;
        }
    }
    assert!(cases >= 20, "{cases}");
}

#[test]
fn a_store_that_takes_nothing_more_can_still_be_read() {
    let tree = fast_temp();
    let backend = TestBackend::new(MemoryBackend::new());
    let store = create(backend.clone());
    fill(tree.path(), "first", 1, 70_000);
    backup(&store, tree.path());
    let puts = backend.counts().puts_of("packs");
    fill(tree.path(), "second", 2, 90_000);
    backend.fail_all_puts(Some(Errno::ROFS));
    assert!(try_backup(&store, tree.path()).is_err());
    std::fs::remove_file(tree.path().join("second")).unwrap();
    let target = fast_temp();
    let report = crate::support::restore(&store, "orders", target.path());
    assert_eq!(report.failures, []);
    assert_eq!(backend.counts().puts_of("packs"), puts);
}

#[test]
fn a_pack_that_does_not_read_back_fails_the_backup_and_nothing_becomes_visible() {
    let tree = fast_temp();
    fill(tree.path(), "file", 1, 70_000);
    for folder in ["packs/", "pages/"] {
        let memory = MemoryBackend::new();
        let damaged = memory.clone();
        let backend = TestBackend::new(memory.clone()).after_put(move |key| {
            if key.as_str().starts_with(folder) {
                change(&damaged, key, |bytes| bytes[100] ^= 1);
            }
        });
        let error = try_backup(&create(backend), tree.path()).unwrap_err();
        assert!(matches!(error, Error::ReadBack { .. }), "{error}");
        assert_eq!(open(memory).log().unwrap().generations(), []);
    }
}
