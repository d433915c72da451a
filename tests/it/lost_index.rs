//! The index is a cache: whatever happens to it, nothing is lost, and no pack is written twice.

use strongroom::backend::{Key, MemoryBackend};
use strongroom::chunker::Params;
use strongroom::digest::Digest;
use strongroom::format::pack::{Content, Record, SALT_AT, SALT_BYTES};
use strongroom::format::segment::{self, PackEntry, SegmentView};
use strongroom::store::{DamageKind, Scope, Store, StoreConfig};
use strongroom::values::Encoding;
use strongroom::{format, pack};

use crate::support::{
    DEPLOYMENT, Forge, TestBackend, Tree, assert_clean, assert_restores, backup, backup_much_later,
    cat, change, copy_of, fast_temp, keys, lose, memory_store, noise, object, of_kind, open,
    restore, temp, text, touched, verify,
};

/// Makes a store with an index of three segments, one for each of its generations.
fn three_segments(tree: &Tree) -> MemoryBackend {
    let (backend, store) = memory_store();
    for generation in 1..=3 {
        tree.file(format!("noise-{generation}"), noise(generation, 200_000));
        for number in 0..20 {
            tree.file(format!("{generation}/{number}"), text(generation * 100 + number, 3000));
        }
        backup(&store, tree.path());
    }
    assert_eq!(keys(&backend, "index").len(), 3);
    backend
}

/// What is done to the index, with a name for it.
type Damage = (&'static str, fn(&MemoryBackend));

const DAMAGES: [Damage; 8] = [
    ("all segments deleted", |backend| {
        keys(backend, "index").iter().for_each(|key| lose(backend, key));
    }),
    ("the first deleted", |backend| lose(backend, &keys(backend, "index")[0])),
    ("the last deleted", |backend| lose(backend, &keys(backend, "index")[2])),
    ("one flipped in its head", |backend| {
        change(backend, &keys(backend, "index")[0], |bytes| bytes[20] ^= 1);
    }),
    ("one flipped in its entries", |backend| {
        change(backend, &keys(backend, "index")[1], |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x80;
        });
    }),
    ("one truncated", |backend| {
        change(backend, &keys(backend, "index")[1], |bytes| bytes.truncate(bytes.len() / 2));
    }),
    ("one empty", |backend| change(backend, &keys(backend, "index")[2], Vec::clear)),
    ("all replaced by garbage", |backend| {
        for key in keys(backend, "index") {
            change(backend, &key, |bytes| *bytes = noise(9, bytes.len()));
        }
    }),
];

/// Runs `operation` on a fresh copy of the store for every damage to its index.
fn for_every_damage(tree: &Tree, operation: impl Fn(&str, &MemoryBackend, &Store)) {
    let whole = three_segments(tree);
    for (what, damage) in DAMAGES {
        let backend = copy_of(&whole);
        damage(&backend);
        operation(what, &backend, &open(backend.clone()));
        // Afterwards the index is whole, and a later look finds nothing.
        let again = open(backend.clone());
        again.index().unwrap();
        assert_restores(&again, DEPLOYMENT, tree.path());
    }
}

#[test]
fn a_restore_works_whatever_happens_to_the_index() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for_every_damage(&tree, |_, _, store| assert_restores(store, DEPLOYMENT, tree.path()));
}

#[test]
fn a_path_is_read_whatever_happens_to_the_index() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for_every_damage(&tree, |what, _, store| {
        for path in ["noise-1", "noise-2", "noise-3", "2/7"] {
            let read = cat(store, DEPLOYMENT, path.as_bytes());
            assert!(read.as_ref() == Ok(&tree.read(path)), "{what}: {path}: {:?}", read.err());
        }
    });
}

#[test]
fn a_backup_stores_nothing_again_whatever_happens_to_the_index() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for_every_damage(&tree, |what, backend, store| {
        let packs = keys(backend, "packs");
        let report = backup(store, tree.path());
        assert_eq!((report.stats.packs_written, report.stats.chunks_encoded), (0, 0), "{what}");
        assert_eq!(report.stats.page_packs_written, 0, "{what}");
        assert_eq!(keys(backend, "packs"), packs, "{what}");
        assert_restores(store, "orders@g4", tree.path());
        assert_clean(&open(backend.clone()));
    });
}

#[test]
fn verify_reports_a_damaged_index_touching_nothing_and_is_clean_after_the_next_use() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for_every_damage(&tree, |what, backend, store| {
        let report = verify(store, Scope::Full);
        let deleted = what.contains("deleted");
        assert_eq!(of_kind(&report, DamageKind::Index).is_empty(), deleted, "{what}: {report:?}");
        assert!(report.damaged.iter().all(|damage| damage.kind == DamageKind::Index), "{report:?}");
        assert!(report.damaged.iter().all(|damage| damage.affects.is_empty()), "{report:?}");
        assert_clean(&open(backend.clone()));
    });
}

#[test]
fn a_read_only_store_without_an_index_is_read() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let whole = three_segments(&tree);
    for (what, damage) in DAMAGES {
        let copy = copy_of(&whole);
        damage(&copy);
        let objects = keys(&copy, "").len();
        let backend = TestBackend::new(copy.clone());
        backend.make_read_only();
        let store = open(backend.clone());
        for time in 1..=3 {
            assert!(cat(&store, DEPLOYMENT, b"3/7").is_ok(), "{what}: read {time}");
        }
        assert_restores(&store, DEPLOYMENT, tree.path());
        let report = verify(&open(backend), Scope::Full);
        assert!(of_kind(&report, DamageKind::Pack).is_empty(), "{what}");
        assert_eq!(keys(&copy, "").len(), objects, "nothing was written or removed");
    }
}

#[test]
fn an_index_deleted_under_an_open_store_does_not_matter() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let backend = three_segments(&tree);
    let store = open(backend.clone());
    store.index().unwrap();
    keys(&backend, "index").iter().for_each(|key| lose(&backend, key));
    assert_restores(&store, DEPLOYMENT, tree.path());
    let report = backup(&store, tree.path());
    assert_eq!(report.stats.packs_written, 0);
}

#[test]
fn packs_that_a_killed_writer_left_without_an_index_are_used() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let bytes = noise(1, 50_000);
    tree.file("file", &bytes[..10_000]);
    let (backend, store) = memory_store();
    Forge { backend: &backend, store: &store }.chunk(&bytes[..10_000]);
    assert_eq!(keys(&backend, "index").len(), 0);
    let report = backup(&store, tree.path());
    assert_eq!((report.stats.chunks_encoded, report.stats.chunks_reused), (0, 1));
}

#[test]
fn a_pack_without_an_index_stands_in_for_one_that_is_gone() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", noise(1, 30_000));
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    // Stored again by somebody who was killed before the index, and then the first ones go.
    for key in keys(&backend, "packs").iter().chain(&keys(&backend, "pages")) {
        let mut pack = object(&backend, key);
        let content =
            if key.as_str().starts_with("packs") { Content::Chunks } else { Content::Pages };
        let directory = format::pack::directory_of(&pack, store.id()).unwrap();
        pack.truncate(
            directory.records.last().map_or(64, |last| (last.offset + last.stored_bytes) as usize),
        );
        pack[SALT_AT..SALT_AT + SALT_BYTES].copy_from_slice(&[1; SALT_BYTES]);
        format::pack::append_directory(&mut pack, &directory.records);
        backend.replace(&pack::key(content, &Digest::of(&pack)), pack);
        lose(&backend, key);
    }
    let store = open(backend.clone());
    for _ in 0..3 {
        assert_eq!(cat(&store, DEPLOYMENT, b"file").unwrap(), noise(1, 30_000));
    }
    assert_restores(&open(backend.clone()), DEPLOYMENT, tree.path());
    assert_clean(&open(backend));
}

#[test]
fn many_small_backups_keep_the_index_small_and_whole() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (backend, store) = memory_store();
    for number in 0..40 {
        tree.file(format!("{number}"), noise(number, 500));
        backup(&store, tree.path());
        let segments = keys(&backend, "index").len();
        assert!(segments <= strongroom::limits::SEGMENTS_MAX + 1, "{segments} segments");
    }
    assert_restores(&open(backend.clone()), DEPLOYMENT, tree.path());
    let report = backup_much_later(&open(backend.clone()), tree.path());
    assert_eq!(report.stats.bytes_read, 0);
    assert_clean(&open(backend));
}

/// Segments of more than 4 MiB are not compared with their checksum when a store is opened.
#[test]
fn a_flipped_bit_anywhere_in_a_large_segment_loses_nothing() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let bytes = noise(1, 24 << 20);
    tree.file("file", &bytes);
    let chunking =
        Params { cdc_min_bytes: 64, cdc_avg_bytes: 256, cdc_max_bytes: 1024, ..Params::default() };
    let whole = MemoryBackend::new();
    let config = StoreConfig { chunking };
    let store = Store::create(std::sync::Arc::new(whole.clone()), config).unwrap();
    backup(&store, tree.path());
    let segment = keys(&whole, "index").pop().unwrap();
    let len = object(&whole, &segment).len();
    assert!(len > 4 << 20, "{len}");

    let places =
        [70, len / 3, len / 2 + 1, len / 2 + 34, len / 2 + 37, len / 2 + 44, len - 33, len - 1];
    for place in places {
        let backend = copy_of(&whole);
        change(&backend, &segment, |bytes| bytes[place] ^= 4);
        let read = cat(&open(backend.clone()), DEPLOYMENT, b"file");
        assert!(read.as_ref().is_ok_and(|read| *read == bytes), "byte {place}: {:?}", read.err());
        assert_large_segment_is_reported(&copy_of(&whole), &segment, place);
    }
}

#[track_caller]
fn assert_large_segment_is_reported(backend: &MemoryBackend, segment: &Key, place: usize) {
    change(backend, segment, |bytes| bytes[place] ^= 4);
    let report = verify(&open(backend.clone()), Scope::Structure);
    assert_eq!(of_kind(&report, DamageKind::Index).len(), 1, "byte {place}");
    assert_eq!(report.damaged.len(), 1, "byte {place}: {:?}", &report.damaged[..2]);
}

/// Lets a segment say something else of the first entry for which `is_wanted` holds, with checksums
/// that fit. Returns its new key.
fn forge(
    backend: &MemoryBackend,
    store: &Store,
    key: &Key,
    is_wanted: impl Fn(&Record, &PackEntry) -> bool,
    lie: impl Fn(&mut Record, &mut PackEntry),
) -> Option<Key> {
    let bytes = object(backend, key);
    let view = SegmentView::parse(&bytes, store.id()).unwrap();
    let mut packs: Vec<_> = (0..view.pack_count()).map(|n| view.pack(&bytes, n).unwrap()).collect();
    let mut entries: Vec<_> =
        (0..view.entry_count()).map(|n| view.entry(&bytes, n).unwrap()).collect();
    let wanted = entries.iter_mut().filter(|e| is_wanted(&e.record, &packs[e.pack as usize]));
    let found = wanted.min_by_key(|entry| entry.record.offset)?;
    lie(&mut found.record, &mut packs[found.pack as usize]);
    lose(backend, key);
    let bytes = segment::encode(store.id(), &packs, &entries);
    let key = Key::new(format!("index/{}", Digest::of(&bytes))).unwrap();
    backend.replace(&key, bytes);
    Some(key)
}

/// A segment that is whole and not true: reading fails and says why, nothing panics, and `verify`
/// finds the segment and what it spoils.
#[test]
fn an_index_that_lies_about_a_pack_is_found() {
    let dir = fast_temp();
    let tree = Tree::at(dir.path());
    for number in 0..4u8 {
        tree.file(format!("{number}"), noise(u64::from(number), 5000));
    }
    let lies: [fn(&mut Record, &mut PackEntry); 7] = [
        |record, _| record.offset += 1,
        |record, _| record.stored_bytes -= 1,
        // The next one lies inside of this one, and this one ends behind the last.
        |record, _| (record.stored_bytes, record.plain_bytes) = (90_000, 90_000),
        |record, _| record.plain_bytes -= 1,
        |record, _| record.encoding = Encoding::Zstd,
        |record, _| record.offset = 1 << 25,
        // All that is in it.
        |_, pack| pack.content = Content::Pages,
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (backend, store) = memory_store();
        backup(&store, dir.path());
        let [key] = <[_; 1]>::try_from(keys(&backend, "index")).unwrap();
        let is_chunk = |_: &Record, pack: &PackEntry| pack.content == Content::Chunks;
        let key = forge(&backend, &store, &key, is_chunk, lie).unwrap();
        drop(store);
        let store = open(backend);
        let out = fast_temp();
        let failures = restore(&store, DEPLOYMENT, &out.path().join("out")).failures;
        assert_eq!(failures.len(), if number == 6 { 4 } else { 1 }, "{number}: {failures:?}");
        for scope in [Scope::Structure, Scope::Full] {
            let report = verify(&store, scope);
            assert!(report.damaged.iter().any(|found| found.object == key.to_string()), "{number}");
            let touched = touched(&report);
            assert_eq!(touched.len(), failures.len(), "{number}: {touched:?}");
            assert!(touched.iter().all(|path| path.starts_with("orders@g1:files/")), "{number}");
        }
    }
}

#[test]
fn a_delta_that_the_index_places_behind_the_end_of_its_pack_is_found() {
    let dir = fast_temp();
    let tree = Tree::at(dir.path());
    tree.file("stable_memory.bin", text(1, 200_000));
    let (backend, store) = memory_store();
    backup(&store, dir.path());
    tree.write_at("stable_memory.bin", 70_000, b"changed");
    backup(&store, dir.path());
    let is_delta = |record: &Record, pack: &PackEntry| {
        pack.content == Content::Chunks && record.base.is_some()
    };
    let lie = |record: &mut Record, pack: &mut PackEntry| record.offset = pack.bytes as u32 - 1;
    let forged = keys(&backend, "index")
        .iter()
        .find_map(|key| forge(&backend, &store, key, is_delta, lie))
        .expect("a delta");
    drop(store);
    let report = verify(&open(backend), Scope::Full);
    assert!(report.damaged.iter().any(|found| found.object == forged.to_string()));
    assert_eq!(touched(&report), ["orders@g2:files/stable_memory.bin"]);
}
