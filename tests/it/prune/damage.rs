//! What cannot be read is not removed, nor anything that it may need; and people are told.

use std::sync::Mutex;

use strongroom::backend::{Backend, Key, MemoryBackend};
use strongroom::format::pack::{Content, directory_of};
use strongroom::format::record::CommitNumber;
use strongroom::format::removal::List;
use strongroom::store::{Error, Progress, PruneOptions, Store};

use super::crash::Mortal;
use super::{
    History, collect_only, five_generations, keep_last, name, prune, prune_all, try_prune,
};
use crate::support::{
    TestBackend, Tree, assert_clean, change, copy_of, fast_temp, keys, lose, memory_store, noise,
    object, open, reference,
};

fn manifest_key(store: &Store, generation: &str, of_artifact: bool) -> Key {
    let tree = store.tree(&reference(generation)).unwrap();
    let id = if of_artifact { tree.members[0].id } else { tree.generation.manifest };
    Key::new(format!("manifests/{id}")).unwrap()
}

/// Fails unless a prune is refused because something is not known, and changes nothing.
#[track_caller]
fn assert_refused(backend: &MemoryBackend, options: &PruneOptions, what: &str) {
    let before = keys(backend, "");
    let error = try_prune(&open(backend.clone()), options).unwrap_err();
    assert!(matches!(&error, Error::NotKnown { .. }), "{error}");
    assert!(error.to_string().contains(what), "{error}");
    assert_eq!(keys(backend, ""), before, "nothing was changed");
}

#[test]
fn a_manifest_of_a_visible_generation_that_cannot_be_read_refuses_everything() {
    for of_artifact in [false, true] {
        for lost in [false, true] {
            let (backend, store) = memory_store();
            let history = five_generations(&store, "orders", 1);
            let key = manifest_key(&store, "orders@g4", of_artifact);
            drop(store);
            if lost {
                lose(&backend, &key);
            } else {
                change(&backend, &key, |bytes| bytes[60] ^= 1);
            }
            assert_refused(&backend, &keep_last(2), "manifest");
            // Whoever gives it up by name can go on.
            let forget = PruneOptions { forget: vec![name("orders", 4)], ..keep_last(2) };
            prune(&open(backend.clone()), &forget);
            prune_all(&open(backend.clone()), &collect_only());
            assert_clean(&open(backend.clone()));
            assert_eq!(history.assert_restores(&open(backend)), [5]);
        }
    }
}

#[test]
fn a_list_page_that_cannot_be_read_refuses_everything() {
    let (whole, store) = memory_store();
    five_generations(&store, "orders", 1);
    let mut refused = 0;
    for pages in keys(&whole, "pages") {
        let backend = copy_of(&whole);
        change(&backend, &pages, |bytes| {
            // Every body.
            let directory = directory_of(bytes, store.id()).unwrap();
            for record in directory.records {
                bytes[record.offset as usize + 5] ^= 1;
            }
        });
        let result = try_prune(&open(backend.clone()), &keep_last(5));
        refused += u64::from(matches!(result, Err(Error::NotKnown { .. })));
    }
    assert_eq!(refused, 5, "every page pack has a page of some generation");
}

/// A pack that is away comes back: everything that its chunks need must still be there.
#[test]
fn a_pack_that_is_away_during_a_prune_is_missed_by_nobody_when_it_is_back() {
    let (whole, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    drop(store);
    let mut told = 0;
    for pack in keys(&whole, "packs") {
        let backend = copy_of(&whole);
        let bytes = object(&backend, &pack);
        lose(&backend, &pack);
        let store = open(backend.clone());
        let plan = store.plan_prune(&keep_last(2), &Progress::default()).unwrap();
        told += u64::from(plan.lost_count > 0);
        store.prune(&plan, &Progress::default()).unwrap();
        for _ in 0..3 {
            try_prune(&store, &keep_last(2)).unwrap();
        }
        let is_needed = plan.lost_count > 0;
        drop(store);
        backend.replace(&pack, bytes);
        if is_needed {
            assert_clean(&open(backend.clone()));
        }
        assert_eq!(history.assert_restores(&open(backend)), [4, 5]);
    }
    assert!(told >= 2, "{told} packs hold what the last two need");
}

#[test]
fn a_pack_whose_directory_cannot_be_read_stays() {
    let (whole, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    drop(store);
    for pack in keys(&whole, "packs") {
        let backend = copy_of(&whole);
        change(&backend, &pack, |bytes| {
            let len = bytes.len();
            bytes[len - 30] ^= 1;
        });
        let bytes = object(&backend, &pack);
        for _ in 0..4 {
            let report = try_prune(&open(backend.clone()), &keep_last(2)).unwrap();
            assert!(report.notes.iter().all(|note| note.contains(pack.name())), "{report:?}");
        }
        // Its bodies are whole, and the index knows them.
        assert_eq!(object(&backend, &pack), bytes);
        assert_eq!(history.assert_restores(&open(backend)), [4, 5]);
    }
}

#[test]
fn a_pack_that_nobody_knows_and_that_cannot_be_read_stays_and_is_told() {
    let (backend, store) = memory_store();
    five_generations(&store, "orders", 1);
    let key = Key::new(format!("packs/{}", "ab".repeat(32))).unwrap();
    backend.replace(&key, noise(1, 5000));
    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    assert_eq!(plan.unreadable.len(), 1, "{:?}", plan.unreadable);
    prune_all(&store, &keep_last(1));
    assert!(keys(&backend, "packs").contains(&key));
}

/// Two deployments whose packs both hold a common file: both writers stored it at the same time.
fn stored_twice() -> (MemoryBackend, [History; 2]) {
    let (backend, store) = memory_store();
    let [mut one, two] = ["one", "two"].map(History::new);
    let two = Mutex::new(two);
    let other = backend.clone();
    let hooked = TestBackend::new(backend.clone()).before_put(move |_| ());
    drop((hooked, store));
    let two = std::sync::Arc::new(two);
    let again = std::sync::Arc::clone(&two);
    let hooked = TestBackend::new(backend.clone()).before_put(move |key| {
        let mut two = again.lock().unwrap();
        if key.as_str().starts_with("packs") && two.trees.is_empty() {
            two.backup(&open(other.clone()), |tree| {
                tree.file("common", noise(5, 100_000));
                tree.file("own", noise(6, 30_000));
            });
        }
    });
    one.backup(&open(hooked), |tree| {
        tree.file("common", noise(5, 100_000));
        tree.file("mine", noise(7, 200_000));
    });
    let two = std::mem::replace(&mut *two.lock().unwrap(), History::new("two"));
    assert_eq!(keys(&backend, "packs").len(), 2);
    (backend, [one, two])
}

#[test]
fn a_chunk_that_is_there_twice_survives_once() {
    let (backend, [one, two]) = stored_twice();
    assert_eq!(two.assert_restores(&open(backend.clone())), [1]);
    let forget = PruneOptions { forget: vec![name("two", 1)], ..collect_only() };
    prune(&open(backend.clone()), &forget);
    prune_all(&open(backend.clone()), &collect_only());
    assert_eq!(keys(&backend, "packs").len(), 1);
    assert_clean(&open(backend.clone()));
    assert_eq!(one.assert_restores(&open(backend)), [1]);
}

#[test]
fn the_good_one_of_two_copies_survives() {
    let (whole, [one, _]) = stored_twice();
    let store = open(whole.clone());
    let mut kept_both = 0;
    for pack in keys(&whole, "packs") {
        for forgotten in ["one", "two"] {
            let backend = copy_of(&whole);
            change(&backend, &pack, |bytes| {
                let records = directory_of(bytes, store.id()).unwrap().records;
                // What belongs to both is in both.
                let other = keys(&whole, "packs").into_iter().find(|key| *key != pack).unwrap();
                let others = directory_of(&object(&whole, &other), store.id()).unwrap().records;
                let common = |digest| others.iter().any(|other| other.digest == digest);
                for record in records.into_iter().filter(|record| common(record.digest)) {
                    bytes[record.offset as usize + 7] ^= 1;
                }
            });
            let forget = PruneOptions { forget: vec![name(forgotten, 1)], ..collect_only() };
            let mut notes = 0;
            for options in [&forget, &collect_only(), &collect_only(), &collect_only()] {
                let report = try_prune(&open(backend.clone()), options).unwrap();
                notes += report.notes.len();
            }
            kept_both += u64::from(notes > 0);
            if forgotten == "two" {
                assert_eq!(one.assert_restores(&open(backend)), [1], "{pack}");
            }
        }
    }
    assert!(kept_both > 0, "somewhere the bad copy was about to stay alone");
}

/// What was written anew is damaged before the old is removed.
#[test]
fn a_copy_that_went_bad_meanwhile_keeps_the_other() {
    let (whole, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let packs = || [keys(&whole, "packs"), keys(&whole, "pages")].concat();
    let before = packs();
    assert!(prune(&store, &keep_last(1)).condemned.rewritten_packs > 0);
    let copies: Vec<_> = packs().into_iter().filter(|key| !before.contains(key)).collect();
    assert_eq!(copies.len(), 2, "chunks and pages");
    for copy in copies {
        let backend = copy_of(&whole);
        change(&backend, &copy, |bytes| {
            for record in directory_of(bytes, store.id()).unwrap().records {
                bytes[record.offset as usize + 7] ^= 1;
            }
        });
        let mut notes = Vec::new();
        for _ in 0..4 {
            notes.extend(try_prune(&open(backend.clone()), &keep_last(1)).unwrap().notes);
            assert_eq!(history.assert_restores(&open(backend.clone())), [5]);
        }
        assert!(notes.iter().any(|note| note.contains("the other copy is bad")), "{notes:?}");
    }
}

#[test]
fn a_damaged_log_refuses_and_if_accepted_keeps_what_may_be_visible() {
    let (backend, store) = memory_store();
    let mut history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(4));
    assert_eq!(store.undo(&[]).unwrap(), [name("orders", 1)]);
    history.backup(&store, |tree| drop(tree.file("sixth", noise(77, 50_000))));
    drop(store);
    // The records: 5 generations, forget, condemn, undo, the sixth.
    let undo = strongroom::log::key(CommitNumber(8));
    let sixth = strongroom::log::key(CommitNumber(9));
    for lost in [[&undo].as_slice(), &[&sixth], &[&undo, &sixth]] {
        let damaged = copy_of(&backend);
        let kept: Vec<_> = lost.iter().map(|key| ((*key).clone(), object(&backend, key))).collect();
        for key in lost {
            change(&damaged, key, |bytes| bytes[40] ^= 1);
        }
        assert_refused(&damaged, &keep_last(3), "commit record");
        let accept = PruneOptions { accept_damaged_log: true, ..keep_last(3) };
        for _ in 0..3 {
            prune(&open(damaged.clone()), &accept);
        }
        // What is visible if the records were never damaged is whole.
        for (key, bytes) in kept {
            damaged.replace(&key, bytes);
        }
        for number in [1, 4, 5, 6] {
            let store = open(damaged.clone());
            let tree = history.trees[number - 1].path();
            if store.resolve(&reference(&format!("orders@g{number}"))).is_ok() {
                crate::support::assert_restores(&store, &format!("orders@g{number}"), tree);
            }
        }
        let store = open(damaged);
        let visible = store.log().unwrap().generations();
        assert!(visible.iter().any(|generation| generation.number.0 == 6));
    }
}

/// The list is condemned anew, and may be the same: then two condemnations name one object.
#[test]
fn a_list_of_condemned_objects_that_is_lost_only_means_that_they_are_condemned_again() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(1));
    lose(&backend, &keys(&backend, "removals")[0]);
    let report = prune(&open(backend.clone()), &keep_last(1));
    assert_eq!(report.removed_objects, 0);
    assert!(report.condemned.packs > 0);
    prune_all(&open(backend.clone()), &keep_last(1));
    assert_clean(&open(backend.clone()));
    assert_eq!(history.assert_restores(&open(backend)), [5]);
}

#[test]
fn what_is_condemned_is_stored_again() {
    let (one, two) = (fast_temp(), fast_temp());
    Tree::at(one.path()).file("file", noise(1, 30_000));
    Tree::at(two.path()).file("file", noise(2, 30_000));
    let (backend, store) = memory_store();
    let first = crate::support::backup(&store, one.path());
    crate::support::backup(&store, two.path());
    prune(&store, &keep_last(1));
    let again = crate::support::backup(&open(backend), one.path());
    assert_eq!(again.stats.chunks_encoded, first.stats.chunks_encoded);
    assert_eq!(again.stats.chunks_reused, 0);
}

/// What is half removed is stored again under other names: under the old ones it would go.
#[test]
fn a_backup_of_what_is_being_removed_stays() {
    let (one, two) = (fast_temp(), fast_temp());
    Tree::at(one.path()).file("file", noise(1, 30_000));
    Tree::at(two.path()).file("file", noise(2, 30_000));
    let (backend, store) = memory_store();
    for tree in [&one, &two] {
        crate::support::backup(&store, tree.path());
    }
    prune(&store, &keep_last(1));
    let mut tried = 0;
    for changes in 1.. {
        let copy = copy_of(&backend);
        let dying = open(Mortal::new(copy.clone(), changes));
        if try_prune(&dying, &keep_last(1)).is_ok() {
            break;
        }
        drop(dying);
        let store = open(copy.clone());
        if store.log().unwrap().state().collecting().count() == 1 {
            tried += 1;
            crate::support::backup(&store, one.path());
            prune_all(&open(copy.clone()), &collect_only());
            crate::support::assert_restores(&open(copy.clone()), "orders", one.path());
            assert_clean(&open(copy));
        }
    }
    assert!(tried > 2, "{tried}");
}

/// Another list of the format, whole in itself, stands where a plan expects the one it was made of.
#[test]
fn a_list_of_condemned_objects_that_was_exchanged_is_not_believed() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(1));
    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    let named = |folder: &str| {
        keys(&backend, folder).iter().map(|key| key.name().parse().unwrap()).collect()
    };
    let (packs, pages, manifests) = (named("packs"), named("pages"), named("manifests"));
    let list = List { packs, pages, manifests };
    backend.replace(&keys(&backend, "removals")[0], list.encode());
    assert!(store.prune(&plan, &Progress::default()).is_err());
    assert_eq!(history.assert_restores(&open(backend)), [5]);
}

/// A collection is interrupted and its list lost: nobody knows what is half removed. Writers refuse,
/// readers read, and the next prune ends it.
#[test]
fn a_list_of_half_removed_objects_that_is_lost_stops_writers_until_the_next_prune() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(1));
    let is_open = |backend: &MemoryBackend| {
        open(backend.clone()).log().unwrap().state().collecting().count() == 1
    };
    for changes in 2.. {
        let backend = copy_of(&backend);
        let dying = open(Mortal::new(backend.clone(), changes));
        let died = try_prune(&dying, &keep_last(1)).is_err();
        drop(dying);
        if !died {
            assert!(changes > 4);
            break;
        }
        if !is_open(&backend) {
            continue;
        }
        for key in keys(&backend, "removals") {
            lose(&backend, &key);
        }
        let store = open(backend.clone());
        assert_eq!(history.assert_restores(&store), [5]);
        assert!(history.backup_last(&store, history.trees[4].path()).is_err());
        let report = try_prune(&store, &keep_last(1)).unwrap();
        assert_eq!(report.notes.len(), 1, "{report:?}");
        assert!(!is_open(&backend));
        history.backup_last(&store, history.trees[4].path()).unwrap();
        prune_all(&store, &keep_last(1));
        assert_clean(&open(backend.clone()));
        assert_eq!(history.assert_restores(&open(backend)), [6]);
    }
}

#[test]
fn packs_hold_what_their_folder_says_after_a_prune() {
    let (backend, store) = memory_store();
    five_generations(&store, "orders", 1);
    prune_all(&store, &keep_last(2));
    for (folder, content) in [("packs", Content::Chunks), ("pages", Content::Pages)] {
        for key in keys(&backend, folder) {
            let bytes = backend.read(&key, u64::MAX).unwrap();
            assert_eq!(directory_of(&bytes, store.id()).unwrap().content, content);
            assert_eq!(strongroom::digest::Digest::of(&bytes).to_string(), key.name());
        }
    }
}
