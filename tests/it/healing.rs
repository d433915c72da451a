//! A store that has lost something heals: the next backup of the unchanged source stores again what
//! is missing, without being told to read everything.

use strongroom::backend::{Key, MemoryBackend};
use strongroom::format::pack::Content as PackContent;
use strongroom::store::{Scope, Store};

use crate::support::{
    DEPLOYMENT, Tree, assert_clean, assert_restores, backup, backup_much_later, change, copy_of,
    keys, lose, memory_store, noise, open, restore, temp, text, verify,
};

/// A tree with small files, one with list pages of its own, and an image.
fn fill(tree: &Tree) {
    for number in 0..70 {
        tree.file(format!("small/{number:02}"), text(number, 1000 + 10 * number as usize));
    }
    tree.file("large", noise(1, 3 << 20));
    tree.file("stable_memory.bin", text(2, 2 << 20));
}

/// Runs a test on copies of a store of one generation: for every pack of chunks or list pages.
fn for_every_pack(test: impl Fn(&Tree, &MemoryBackend, &Key)) {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    fill(&tree);
    let (whole, store) = memory_store();
    backup(&store, tree.path());
    let packs = [keys(&whole, "packs"), keys(&whole, "pages")].concat();
    assert_eq!(packs.len(), 2);
    for pack in packs {
        test(&tree, &copy_of(&whole), &pack);
    }
}

/// Backs the unchanged source up and fails unless everything is there again.
#[track_caller]
fn assert_heals(tree: &Tree, store: &Store, backend: &MemoryBackend) {
    let report = backup_much_later(store, tree.path());
    assert!(report.stats.packs_written + report.stats.page_packs_written > 0, "{:?}", report.stats);
    let generation = report.generation.unwrap().number;
    assert_restores(store, &format!("{DEPLOYMENT}@{generation}"), tree.path());
    let again = open(backend.clone());
    assert_restores(&again, &format!("{DEPLOYMENT}@{generation}"), tree.path());
    assert_restores(&again, "orders@g1", tree.path());
    assert_clean(&again);
    let report = backup(&again, tree.path());
    assert_eq!((report.stats.packs_written, report.stats.chunks_encoded), (0, 0));
}

#[test]
fn a_removed_pack_is_stored_again_by_the_next_backup() {
    for_every_pack(|tree, backend, pack| {
        lose(backend, pack);
        assert_heals(tree, &open(backend.clone()), backend);
    });
}

#[test]
fn a_pack_removed_under_an_open_store_is_stored_again_by_the_next_backup() {
    for_every_pack(|tree, backend, pack| {
        let store = open(backend.clone());
        backup_much_later(&store, tree.path());
        lose(backend, pack);
        assert_heals(tree, &store, backend);
    });
}

/// Reading a store that lacks a pack makes its index anew, and that must not make it forget what it
/// lacks: the next backup would take it for granted.
#[test]
fn a_removed_pack_is_stored_again_after_others_have_noticed_the_loss() {
    for_every_pack(|tree, backend, pack| {
        lose(backend, pack);
        let target = temp();
        let report = restore(&open(backend.clone()), DEPLOYMENT, target.path());
        assert!(report.failures.iter().any(|failure| failure.damage));
        for scope in [Scope::Structure, Scope::Full] {
            assert!(!verify(&open(backend.clone()), scope).is_clean());
        }
        assert_heals(tree, &open(backend.clone()), backend);
    });
}

#[test]
fn a_removed_pack_is_stored_again_though_the_index_is_lost_too() {
    for_every_pack(|tree, backend, pack| {
        lose(backend, pack);
        keys(backend, "index").iter().for_each(|key| lose(backend, key));
        assert_heals(tree, &open(backend.clone()), backend);
    });
}

/// The same content makes the same pack, whose name is taken by the damaged one.
#[test]
fn a_truncated_pack_is_replaced_by_the_next_backup() {
    for_every_pack(|tree, backend, pack| {
        for keep in [0, 1, 63, 64, 200, 5000] {
            let backend = copy_of(backend);
            change(&backend, pack, |bytes| bytes.truncate(keep.min(bytes.len() - 1)));
            assert_heals(tree, &open(backend.clone()), &backend);
        }
    });
}

#[test]
fn a_pack_without_directory_is_replaced_when_the_index_is_lost_too() {
    for_every_pack(|tree, backend, pack| {
        change(backend, pack, |bytes| {
            let end = bytes.len() - 70;
            bytes[end] ^= 1;
        });
        keys(backend, "index").iter().for_each(|key| lose(backend, key));
        assert_heals(tree, &open(backend.clone()), backend);
    });
}

#[test]
fn a_damaged_index_of_one_segment_is_written_anew() {
    for_every_pack(|tree, backend, _| {
        let segment = keys(backend, "index").pop().unwrap();
        change(backend, &segment, |bytes| bytes[100] ^= 1);
        assert_restores(&open(backend.clone()), DEPLOYMENT, tree.path());
        assert_clean(&open(backend.clone()));
    });
}

/// A chunk that is stored as the difference from another one is lost with that other one, though
/// its own pack is there.
#[test]
fn chunks_whose_base_is_lost_are_stored_again() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("stable_memory.bin", noise(1, 1 << 20));
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    let first_pack = keys(&backend, "packs").pop().unwrap();
    for page in [0, 40, 41, 200] {
        tree.write_at("stable_memory.bin", page * 4096 + 100, b"changed");
    }
    let second = backup(&store, tree.path());
    assert_eq!(second.stats.chunks_new, 3);
    lose(&backend, &first_pack);
    assert!(!verify(&open(backend.clone()), Scope::Structure).is_clean());
    let store = open(backend.clone());
    let third = backup_much_later(&store, tree.path());
    assert_eq!(third.stats.chunks_new, 16, "{:?}", third.stats);
    assert_restores(&store, "orders@g3", tree.path());
    assert_restores(&open(backend), "orders@g2", tree.path());
}

#[test]
fn a_removed_pack_costs_only_what_was_in_it() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    fill(&tree);
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    tree.file("new", noise(5, 100_000));
    backup(&store, tree.path());
    let second = open(backend.clone());
    let newer =
        keys(&backend, "packs").into_iter().min_by_key(|key| second.backend().len(key).unwrap());
    lose(&backend, &newer.unwrap());
    let report = backup_much_later(&second, tree.path());
    assert_eq!((report.stats.bytes_new, report.stats.bytes_read), (100_000, 100_000));
    assert_clean(&open(backend));
}

#[test]
fn list_pages_that_are_lost_are_written_again_without_any_chunk() {
    for_every_pack(|tree, backend, pack| {
        if !pack.as_str().starts_with(PackContent::Pages.folder()) {
            return;
        }
        lose(backend, pack);
        let report = backup_much_later(&open(backend.clone()), tree.path());
        assert_eq!((report.stats.packs_written, report.stats.chunks_encoded), (0, 0));
        assert_eq!(report.stats.page_packs_written, 1);
    });
}
