//! What a backup costs: what is read, encoded and written, and what is not.

use std::collections::BTreeSet;

use strongroom::backend::MemoryBackend;
use strongroom::clock::UnixNanos;
use strongroom::codec::Encoding;
use strongroom::format::manifest::Artifact;
use strongroom::format::pack::{Content as PackContent, Record};
use strongroom::limits::PACK_BYTES_TARGET;
use strongroom::store::{BackupReport, IngestStats, Store};

use crate::support::{
    DEPLOYMENT, Random, TestBackend, Tree, assert_clean, assert_restores, assert_same_tree, backup,
    backup_against, backup_much_later, content, create, keys, memory_store, noise, previous,
    restore, temp, text,
};

const MIB: usize = 1 << 20;

/// Returns the records of all packs of chunks, as the packs themselves list them.
fn records(store: &Store) -> Vec<Record> {
    let mut records = Vec::new();
    for key in keys(store.backend(), "packs") {
        let id = key.name().parse().unwrap();
        let bytes = store.backend().len(&key).unwrap();
        let content = PackContent::Chunks;
        let directory =
            strongroom::pack::read_directory(store.backend(), content, &id, bytes, store.id());
        records.extend(directory.unwrap().records);
    }
    records
}

#[track_caller]
fn assert_nothing_new(stats: &IngestStats) {
    assert_eq!((stats.packs_written, stats.page_packs_written), (0, 0), "{stats:?}");
    assert_eq!((stats.chunks_new, stats.chunks_encoded, stats.bytes_new), (0, 0, 0), "{stats:?}");
}

/// Returns the chunks, holes apart, of all files below.
fn chunk_count(store: &Store) -> u64 {
    let tree = store.tree(&crate::support::reference(DEPLOYMENT)).unwrap();
    let entries = store.entries(&tree.members[0].artifact).map(Result::unwrap);
    let contents = entries.filter_map(|entry| entry.content().cloned());
    let holes_apart =
        |content| store.chunks(&content).filter(|c| !c.as_ref().unwrap().is_hole()).count();
    contents.map(holes_apart).sum::<usize>() as u64
}

fn mixed_tree(tree: &Tree) {
    for number in 0..150 {
        tree.file(format!("small/{number:03}"), text(number, 200 + 37 * number as usize));
    }
    tree.file("noise", noise(1, 3 * MIB));
    tree.file("text", text(2, 2 * MIB));
    tree.file("stable_memory.bin", noise(3, MIB + 4096));
    tree.file("empty", b"");
}

#[test]
fn a_second_backup_of_an_unchanged_tree_reads_and_stores_nothing() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    mixed_tree(&tree);
    let backend = TestBackend::new(MemoryBackend::new());
    let store = create(backend.clone());
    // The files shall be clearly older than the first backup.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    backup(&store, tree.path());
    backend.reset();

    let report = backup(&store, tree.path());
    assert_nothing_new(&report.stats);
    assert_eq!(report.stats.bytes_read, 0);
    assert_eq!((report.stats.chunks_reused, report.stats.chunks_in_place), (0, 0));
    let summary = report.artifacts[0].summary;
    assert_eq!((summary.bytes_read, summary.files_unchanged), (0, 154));
    let counts = backend.counts();
    assert_eq!(counts.bytes_got_of("packs"), 0, "no chunk was fetched: {counts:?}");
    // Two manifests and the commit record: start times differ.
    assert_eq!(counts.puts.values().sum::<u64>(), 3, "{counts:?}");
    let put = counts.bytes_put.values().sum::<u64>() - counts.bytes_put["log"];
    assert_eq!(report.stats.bytes_stored, put);
    assert_restores(&store, "orders@g2", tree.path());
}

#[test]
fn files_that_may_have_changed_unseen_are_read_again_and_found_in_place() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    mixed_tree(&tree);
    let (_, store) = memory_store();
    let first = backup(&store, tree.path());
    let artifact = previous(&store, tree.path());
    let second =
        backup_against(&store, tree.path(), Artifact { started: UnixNanos(0), ..artifact });
    assert_nothing_new(&second.stats);
    assert_eq!(second.stats.bytes_read, first.stats.bytes_read);
    assert_eq!(second.stats.chunks_in_place, chunk_count(&store));
    assert_eq!(second.stats.chunks_reused, second.stats.chunks_in_place);
}

#[test]
fn a_tree_that_was_downloaded_again_is_read_and_found_in_place() {
    let dir = temp();
    let (tree, copy) =
        (Tree::create(dir.path().join("source")), Tree::create(dir.path().join("copy")));
    mixed_tree(&tree);
    let (_, store) = memory_store();
    let first = backup(&store, tree.path());
    mixed_tree(&copy);
    let second = backup(&store, copy.path());
    assert_nothing_new(&IngestStats { page_packs_written: 0, ..second.stats });
    assert_eq!(second.stats.bytes_read, first.stats.bytes_read);
    assert_eq!(second.stats.chunks_in_place, chunk_count(&store), "every chunk, without a look-up");
    assert_restores(&store, "orders@g2", copy.path());
}

#[test]
fn a_tree_that_was_moved_and_renamed_stores_no_content_again() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    mixed_tree(&tree);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    std::fs::rename(tree.below("small"), tree.below("zmall")).unwrap();
    std::fs::rename(tree.below("noise"), tree.below("sound")).unwrap();
    let report = backup(&store, tree.path());
    assert_eq!((report.stats.packs_written, report.stats.chunks_encoded), (0, 0));
    assert!(report.stats.chunks_reused > report.stats.chunks_in_place);
    assert_restores(&store, "orders@g2", tree.path());
}

#[test]
fn one_changed_file_among_many_is_all_that_is_read() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    mixed_tree(&tree);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    tree.file("small/077", b"changed");
    let report = backup_much_later(&store, tree.path());
    assert_eq!(report.stats.bytes_read, 7);
    assert_eq!((report.stats.chunks_new, report.stats.packs_written), (1, 1));
    assert_restores(&store, "orders@g2", tree.path());
}

#[test]
fn bytes_inserted_near_the_front_of_a_large_file_store_little() {
    for insert_at in [0, 100, 70_001] {
        let dir = temp();
        let tree = Tree::create(dir.path().join("source"));
        let mut bytes = noise(1, 8 * MIB);
        tree.file("archive", &bytes);
        let (_, store) = memory_store();
        let first = backup(&store, tree.path());
        assert_eq!(first.stats.bytes_new, 8 * MIB as u64);
        bytes.splice(insert_at..insert_at, *b"inserted");
        tree.file("archive", &bytes);
        let second = backup(&store, tree.path());
        assert!(second.stats.bytes_new < 256 << 10, "at {insert_at}: {:?}", second.stats);
        assert!(second.stats.bytes_new > 0);
        assert_restores(&store, "orders@g2", tree.path());
    }
}

/// Backs an image up, changes `changed` of its pages of 4 KiB, and backs it up again. Returns the
/// second report and the chunks that hold the changed pages.
fn change_pages(
    tree: &Tree,
    name: &str,
    pages: usize,
    changed: usize,
) -> (Store, BackupReport, BTreeSet<usize>) {
    tree.file(name, noise(1, pages * 4096));
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let drawn = Random::new(5).distinct(changed, pages);
    for page in &drawn {
        tree.write_at(name, (page * 4096) as u64, &noise(1000 + *page as u64, 4096));
    }
    let report = backup(&store, tree.path());
    (store, report, drawn.into_iter().map(|page| page / 16).collect())
}

#[test]
fn an_image_with_one_page_in_a_hundred_changed_stores_the_touched_chunks_only() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (store, report, touched) = change_pages(&tree, "stable_memory.bin", 4096, 41);
    let stats = report.stats;
    assert_eq!(stats.chunks_new, touched.len() as u64);
    assert_eq!(stats.bytes_new, touched.len() as u64 * 65_536);
    assert_eq!(stats.chunks_in_place, 256 - touched.len() as u64);
    assert_restores(&store, "orders@g2", tree.path());
    assert_clean(&store);
}

#[test]
fn an_image_that_grows_and_shrinks_stores_only_what_is_added() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let bytes = noise(1, 5 * MIB);
    tree.file("wasm_memory.bin", &bytes[..4 * MIB]);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    tree.file("wasm_memory.bin", &bytes);
    let grown = backup(&store, tree.path());
    assert_eq!((grown.stats.chunks_new, grown.stats.chunks_in_place), (16, 64));
    tree.file("wasm_memory.bin", &bytes[..3 * MIB]);
    let shrunk = backup(&store, tree.path());
    assert_nothing_new(&IngestStats { page_packs_written: 0, ..shrunk.stats });
    for (generation, len) in [(1, 4), (2, 5), (3, 3)] {
        let what = format!("{DEPLOYMENT}@g{generation}");
        let found = crate::support::cat(&store, &what, b"wasm_memory.bin").unwrap();
        assert!(found == bytes[..len * MIB], "{what}");
    }
}

#[test]
fn runs_of_zeros_are_stored_as_holes_and_come_back_as_holes() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    // Written as zeros, so that only their value tells.
    let image = [noise(1, MIB), vec![0; 6 * MIB], noise(2, MIB)].concat();
    tree.file("stable_memory.bin", &image);
    tree.file("zeros.txt", vec![0; 3 * MIB]);
    tree.file("small zeros", vec![0; 5000]);
    let (_, store) = memory_store();
    let report = backup(&store, tree.path());
    assert_eq!(report.stats.bytes_new, 2 * MIB as u64, "{:?}", report.stats);
    let holes = |path: &str| -> Vec<u64> {
        let content = content(&store, path);
        let chunks = store.chunks(&content).map(Result::unwrap);
        chunks.filter(|chunk| chunk.is_hole()).map(|chunk| chunk.bytes).collect()
    };
    assert_eq!(holes("stable_memory.bin"), [6 * MIB as u64]);
    assert_eq!(holes("zeros.txt"), [3 * MIB as u64]);
    assert_eq!(holes("small zeros"), [5000]);
    let target = temp();
    let restored = restore(&store, DEPLOYMENT, target.path());
    assert_eq!(restored.bytes_written, 2 * MIB as u64);
    let seen = crate::support::snapshot(&target.path().join(crate::support::MEMBER));
    assert_eq!(seen[&b"zeros.txt"[..]].allocated_bytes, 0);
    assert!(seen[&b"stable_memory.bin"[..]].allocated_bytes <= 2 * MIB as u64 + 65_536);
    assert_same_tree(
        tree.path(),
        &target.path().join(crate::support::MEMBER),
        crate::support::Compare::PLAIN,
    );
}

#[test]
fn incompressible_content_is_stored_raw_and_text_is_compressed() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("noise", noise(1, 4 * MIB));
    tree.file("wasm_memory.bin", noise(2, 2 * MIB));
    let (_, store) = memory_store();
    let report = backup(&store, tree.path());
    let stored = records(&store);
    assert!(stored.iter().all(|record| record.encoding == Encoding::Raw));
    assert!(stored.iter().all(|record| record.stored_bytes == record.plain_bytes));
    let overhead = report.stats.bytes_stored - report.stats.bytes_new;
    assert!(overhead < report.stats.bytes_new / 50, "{:?}", report.stats);

    let tree = Tree::create(dir.path().join("texts"));
    tree.file("text", text(1, 4 * MIB));
    let (_, store) = memory_store();
    let report = backup(&store, tree.path());
    assert!(records(&store).iter().all(|record| record.encoding == Encoding::Zstd));
    assert!(report.stats.bytes_stored < report.stats.bytes_new / 2, "{:?}", report.stats);
}

#[test]
fn the_same_content_in_many_places_is_stored_once() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for number in 0..40 {
        tree.file(format!("{number}/a"), noise(1, 10_000));
        tree.file(format!("{number}/b"), noise(2, 300_000));
    }
    tree.file("large 1", noise(3, 2 * MIB));
    tree.file("large 2", noise(3, 2 * MIB));
    let (_, store) = memory_store();
    let report = backup(&store, tree.path());
    assert_eq!(report.stats.bytes_new, 310_000 + 2 * MIB as u64);
    let digests: BTreeSet<_> = records(&store).into_iter().map(|record| record.digest).collect();
    assert_eq!(digests.len(), records(&store).len(), "no chunk is in two packs");
    assert_restores(&store, DEPLOYMENT, tree.path());
}

#[test]
fn packs_are_closed_at_their_target_and_every_object_is_put_once() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("noise", noise(1, 60 * MIB));
    let backend = TestBackend::new(MemoryBackend::new());
    let store = create(backend.clone());
    let report = backup(&store, tree.path());
    assert_eq!(report.stats.packs_written, 3);
    let counts = backend.counts();
    assert_eq!(counts.puts_of("packs"), 3);
    assert_eq!((counts.puts_of("pages"), counts.puts_of("index")), (1, 1));
    assert_eq!((counts.puts_of("manifests"), counts.puts_of("log")), (2, 1));
    for key in keys(store.backend(), "packs") {
        assert!(store.backend().len(&key).unwrap() <= PACK_BYTES_TARGET as u64 + 65_536);
    }
    // Each new pack was read back once before it was promoted.
    let stored = counts.bytes_put["packs"] + counts.bytes_put["pages"];
    assert_eq!(counts.bytes_got_of("packs") + counts.bytes_got_of("pages"), stored);
    assert_restores(&store, DEPLOYMENT, tree.path());
}

#[test]
fn a_restore_fetches_each_needed_chunk_once() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    mixed_tree(&tree);
    let backend = TestBackend::new(MemoryBackend::new());
    let store = create(backend.clone());
    backup(&store, tree.path());
    let stored: u64 = records(&store).iter().map(|record| u64::from(record.stored_bytes)).sum();
    backend.reset();
    let target = temp();
    restore(&store, DEPLOYMENT, target.path());
    let got = backend.counts().bytes_got_of("packs");
    assert!(got <= stored + stored / 10, "{got} bytes for {stored}");

    // And of one small file only what is near it.
    backend.reset();
    let target = temp();
    restore(&store, "orders:files/small/003", target.path());
    let got = backend.counts().bytes_got_of("packs");
    assert!(got < 2000, "{got} bytes");
}
