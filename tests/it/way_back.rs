//! The way back: parts of a generation, restores that go on, restores over what is there, and what
//! a restore does where the store is damaged.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::backend::MemoryBackend;
use strongroom::digest::{Algorithm, Digest, hex};
use strongroom::store::{Error, IngestOptions, Progress, RestoreOptions, Store};

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, TestBackend, Tree, assert_clean, assert_same_tree, backup, cat,
    change, content, create, fast_temp, keys, memory_store, noise, object, reference, restore,
    restore_with, source, text,
};

const MIB: usize = 1 << 20;
const FIXED_BYTES: u64 = 64 << 10;
const OVERWRITE: RestoreOptions = RestoreOptions {
    overwrite: true,
    owner: false,
    set_id_bits: false,
    special_files: false,
    threads: 0,
};

fn names(dir: &Path) -> Vec<String> {
    let items = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn one_member_one_directory_and_one_file_come_back_alone() {
    let dir = fast_temp();
    let (api, web) = (Tree::create(dir.path().join("1")), Tree::create(dir.path().join("2")));
    api.file("etc/config.toml", b"a = 1");
    api.file("etc/deep/er", text(1, 30_000));
    api.file("etc-not", b"a neighbour in the order of names");
    api.file("large", noise(2, 2 * MIB));
    web.file("index.html", b"<html>");
    let (_, store) = memory_store();
    let sources = [source("api", api.path()), source("web", web.path())];
    store.backup(DEPLOYMENT, &sources, &IngestOptions::default(), &Progress::default()).unwrap();

    let to = dir.path().join("member");
    let report = restore(&store, "orders:api", &to);
    assert_eq!((names(&to), report.files), (vec!["api".to_owned()], 4));
    assert_same_tree(api.path(), &to.join("api"), Compare::PLAIN);

    let to = dir.path().join("directory");
    let report = restore(&store, "orders:api/etc", &to);
    assert_eq!((report.files, report.bytes), (2, 30_005));
    assert_eq!(names(&to), ["config.toml", "deep"]);
    assert_same_tree(&api.below("etc/deep"), &to.join("deep"), Compare::PLAIN);

    for file in ["etc/config.toml", "large"] {
        let to = dir.path().join(file.replace('/', "-"));
        let report = restore(&store, &format!("orders:api/{file}"), &to);
        assert_eq!((report.files, report.dirs), (1, 0));
        let name = file.rsplit('/').next().unwrap();
        assert_eq!(names(&to), [name]);
        assert!(std::fs::read(to.join(name)).unwrap() == api.read(file));
    }
    let unknown = store.tree(&reference("orders:api/nothing")).unwrap();
    let to = dir.path().join("unknown");
    let error = store.restore(&unknown, &to, &RestoreOptions::default(), &Progress::default());
    assert!(matches!(error, Err(Error::UnknownPath { .. })), "{error:?}");
    assert!(!to.exists(), "nothing was made for a path that is not there");
}

#[test]
fn a_hard_link_whose_first_name_stays_behind_comes_back_as_a_file() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("a/small", noise(1, 50_000));
    tree.file("a/large", noise(2, 3 * MIB));
    tree.dir("b");
    tree.hard_link("b/small", "a/small");
    tree.hard_link("b/large", "a/large");
    tree.mode("b/small", 0o640);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    for (what, names) in [("b", &["small", "large"][..]), ("b/large", &["large"])] {
        let to = dir.path().join(what.replace('/', "-"));
        let report = restore(&store, &format!("orders:{MEMBER}/{what}"), &to);
        assert_eq!((report.failures.len(), report.files), (0, names.len() as u64));
        for name in names {
            assert!(std::fs::read(to.join(name)).unwrap() == tree.read(format!("a/{name}")));
        }
    }
    let mode = std::fs::metadata(dir.path().join("b/small")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

/// A store whose restores are interrupted at the read of a pack that is counted down to.
fn stopping_store(progress: &Arc<Progress>) -> (Store, Arc<AtomicU64>) {
    let countdown = Arc::new(AtomicU64::new(u64::MAX));
    let (reads, progress) = (Arc::clone(&countdown), Arc::clone(progress));
    let backend = TestBackend::new(MemoryBackend::new()).before_read(move |key| {
        if key.as_str().starts_with("packs/") && reads.fetch_sub(1, Ordering::Relaxed) == 1 {
            progress.interrupt();
        }
    });
    (create(backend), countdown)
}

fn stop_after(store: &Store, reads: &AtomicU64, count: u64, progress: &Progress, to: &Path) {
    reads.store(count, Ordering::Relaxed);
    let tree = store.tree(&reference(DEPLOYMENT)).unwrap();
    let options = RestoreOptions { threads: 1, ..RestoreOptions::default() };
    let stopped = store.restore(&tree, to, &options, progress);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(names(to), [".strongroom-partial"], "nothing half-done stands in its place");
    reads.store(u64::MAX, Ordering::Relaxed);
}

#[test]
fn a_restore_that_was_stopped_goes_on_when_it_is_repeated() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    for number in 0..600 {
        tree.file(format!("{number:03}"), noise(number, 20_000));
    }
    tree.file("image.img", noise(7777, 12 * MIB));
    tree.symlink("link", "000");
    for count in [1, 2, 4] {
        let progress = Arc::new(Progress::default());
        let (store, reads) = stopping_store(&progress);
        backup(&store, tree.path());
        let to = dir.path().join(format!("target-{count}"));
        stop_after(&store, &reads, count, &progress, &to);
        // What was cut off in the middle of a write is not taken for whole.
        let partial = Tree::at(to.join(".strongroom-partial").join(MEMBER));
        partial.file("000", noise(0, 19_999));
        partial.file("image.img", noise(7777, 5 * MIB));

        let report = restore(&store, DEPLOYMENT, &to);
        assert_eq!(report.failures, []);
        assert_eq!(report.bytes_kept + report.bytes_written, report.bytes);
        assert!(report.bytes_kept >= 4 * MIB as u64, "goes on: {report:?}");
        assert_eq!(names(&to), [MEMBER]);
        assert_same_tree(tree.path(), &to.join(MEMBER), Compare::PLAIN);
    }
}

#[test]
fn a_restore_that_was_stopped_leaves_nothing_in_one_of_another_generation() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    let progress = Arc::new(Progress::default());
    let (store, reads) = stopping_store(&progress);
    tree.file("kept", noise(1, 100_000));
    backup(&store, tree.path());
    tree.file("only in the second", noise(2, 100_000));
    tree.file("directory only in the second/file", noise(3, 100_000));
    backup(&store, tree.path());
    let to = dir.path().join("target");
    stop_after(&store, &reads, 1, &progress, &to);
    let report = restore(&store, "orders@g1", &to);
    assert_eq!(report.failures, []);
    assert_eq!(names(&to.join(MEMBER)), ["kept"]);
}

#[test]
fn overwriting_writes_only_what_differs() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("image.img", noise(1, 4 * MIB));
    tree.file("small", noise(2, 5000));
    tree.file("data/text", text(3, 300_000));
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let to = dir.path().join("target");
    restore(&store, DEPLOYMENT, &to);

    let report = restore_with(&store, DEPLOYMENT, &to, &OVERWRITE);
    assert_eq!((report.bytes_written, report.bytes_kept), (0, report.bytes));

    let restored = Tree::at(to.join(MEMBER));
    restored.write_at("image.img", 20 * FIXED_BYTES + 77, b"another");
    restored.file("added", b"somebody else's");
    restored.file("data/added too", b"somebody else's");
    let report = restore_with(&store, DEPLOYMENT, &to, &OVERWRITE);
    assert_eq!(report.bytes_written, FIXED_BYTES);
    assert_eq!(restored.read("added"), b"somebody else's");
    assert_eq!(restored.read("data/added too"), b"somebody else's");

    restored.file("image.img", noise(1, 4 * MIB - 1));
    std::fs::remove_file(restored.below("small")).unwrap();
    restored.file("data/text", b"");
    let report = restore_with(&store, DEPLOYMENT, &to, &OVERWRITE);
    assert_eq!(report.bytes_written, FIXED_BYTES + 5000 + 300_000);
    for name in ["added", "data/added too"] {
        std::fs::remove_file(restored.below(name)).unwrap();
    }
    restore_with(&store, DEPLOYMENT, &to, &OVERWRITE);
    assert_same_tree(tree.path(), restored.path(), Compare::PLAIN);
}

#[test]
fn overwriting_punches_holes_where_the_backup_has_zeros() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    let data = [(0, noise(1, MIB)), (7 << 20, noise(2, MIB))];
    tree.sparse("image.img", 8 << 20, &data);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let to = dir.path().join("target");
    restore(&store, DEPLOYMENT, &to);
    let restored = Tree::at(to.join(MEMBER));
    restored.write_at("image.img", 2 << 20, &noise(3, 4 * MIB));
    let allocated = || std::fs::metadata(restored.below("image.img")).unwrap().blocks() * 512;
    assert!(allocated() >= 6 << 20);
    let report = restore_with(&store, DEPLOYMENT, &to, &OVERWRITE);
    assert_eq!(report.bytes_written, 0);
    assert!(allocated() <= (2 << 20) + 65_536, "{} bytes are allocated", allocated());
    assert_same_tree(tree.path(), restored.path(), Compare::PLAIN);
}

#[test]
fn set_id_bits_and_fifos_come_back_only_on_request() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("program", b"#!/bin/sh\n");
    tree.mode("program", 0o6755);
    tree.fifo("fifo");
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let mode = |to: &Path| {
        let path = to.join(MEMBER).join("program");
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    };
    let to = dir.path().join("plain");
    let report = restore(&store, DEPLOYMENT, &to);
    assert_eq!((report.specials, report.specials_skipped, mode(&to)), (0, 1, 0o755));
    assert!(!to.join(MEMBER).join("fifo").exists());

    let to = dir.path().join("all");
    let options =
        RestoreOptions { set_id_bits: true, special_files: true, ..RestoreOptions::default() };
    let report = restore_with(&store, DEPLOYMENT, &to, &options);
    assert_eq!((report.specials, report.specials_skipped, mode(&to)), (1, 0, 0o6755));
    let fifo = std::fs::symlink_metadata(to.join(MEMBER).join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
}

#[test]
fn checksums_in_the_manifest_are_those_of_the_restored_files_and_of_sha256sum() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("empty", b"");
    tree.file("small", noise(1, 1000));
    tree.file("large", text(2, 5 * MIB));
    tree.sparse("image.img", 6 << 20, &[(3 << 20, noise(3, 100_000))]);
    let (_, store) = memory_store();
    let options = IngestOptions { algorithm: Algorithm::Sha256, ..IngestOptions::default() };
    let single = tree.below("large");
    let sources = [source(MEMBER, tree.path()), source("single", &single)];
    let report = store.backup(DEPLOYMENT, &sources, &options, &Progress::default()).unwrap();
    restore(&store, DEPLOYMENT, &dir.path().join("target"));
    let restored = Tree::at(dir.path().join("target").join(MEMBER));
    for name in ["empty", "small", "large", "image.img"] {
        let checksums = content(&store, name).checksums;
        assert_eq!(checksums.blake3, Digest::of(&restored.read(name)), "{name}");
        let sha256 = hex(&checksums.sha256.expect("it was asked for"));
        let output = Command::new("sha256sum").arg(restored.below(name)).output().unwrap();
        assert!(output.stdout.starts_with(sha256.as_bytes()), "{name}: {sha256}");
        if name == "large" {
            assert_eq!(hex(&report.artifacts[1].checksum), sha256, "a single file's own");
        }
    }
}

#[test]
fn every_generation_of_four_with_deltas_comes_back_byte_for_byte() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    let (_, store) = memory_store();
    let (mut image, mut prose) = (noise(1, 2 * MIB), text(2, 400_000));
    let (mut generations, mut deltas) = (Vec::new(), 0);
    for number in 0..4usize {
        for page in 0..12 {
            let at = page * 150_000 + number * 5000;
            image[at..at + 300].copy_from_slice(&noise((number * 100 + page) as u64, 300));
        }
        prose.splice(number * 90_000..number * 90_000 + 10, text(number as u64, 50));
        tree.file("stable_memory.bin", &image);
        tree.file("prose.txt", &prose);
        deltas += backup(&store, tree.path()).stats.chunks_delta;
        generations.push((image.clone(), prose.clone()));
    }
    assert!(deltas >= 24, "only {deltas} deltas");
    for (number, (image, prose)) in generations.iter().enumerate() {
        let to = dir.path().join(number.to_string());
        let report = restore(&store, &format!("orders@g{}", number + 1), &to);
        assert_eq!(report.failures, []);
        let restored = Tree::at(to.join(MEMBER));
        assert!(restored.read("stable_memory.bin") == *image, "g{}", number + 1);
        assert!(restored.read("prose.txt") == *prose, "g{}", number + 1);
    }
    assert_clean(&store);
}

#[test]
fn a_damaged_chunk_costs_exactly_the_paths_that_hold_it() {
    let dir = fast_temp();
    let tree = Tree::create(dir.path().join("source"));
    for number in 0..40 {
        tree.file(format!("file-{number:02}"), noise(number, 9000 + number as usize));
    }
    tree.file("twin", tree.read("file-07"));
    tree.file("large.img", noise(500, 3 * MIB));
    tree.file("empty", b"");
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    let cases: [(&str, usize, &[&str]); 2] =
        [("file-07", 4000, &["file-07", "twin"]), ("large.img", 2 * MIB + 5, &["large.img"])];
    for (victim, at, lost) in cases {
        // Noise is stored as it is.
        let needle = tree.read(victim)[at..at + 32].to_vec();
        let mut flips = 0;
        for key in keys(&backend, "packs") {
            let found = object(&backend, &key).windows(32).position(|window| window == needle);
            if let Some(found) = found {
                change(&backend, &key, |bytes| bytes[found] ^= 1);
                flips += 1;
            }
        }
        assert_eq!(flips, 1);
        let to = dir.path().join(format!("target-{victim}"));
        let report = restore(&store, DEPLOYMENT, &to);
        let mut failed: Vec<_> = report.failures.iter().map(|failure| &failure.path).collect();
        failed.sort_unstable();
        let expected: Vec<_> = lost.iter().map(|path| format!("{MEMBER}/{path}")).collect();
        assert_eq!(failed, expected.iter().collect::<Vec<_>>());
        assert!(report.failures.iter().all(|failure| failure.damage), "{:?}", report.failures);
        assert!(cat(&store, DEPLOYMENT, victim.as_bytes()).is_err());
        let all = names(tree.path());
        let others: Vec<_> = all.into_iter().filter(|n| !lost.contains(&n.as_str())).collect();
        assert_eq!(names(&to.join(MEMBER)), others, "no file stands for what is lost");
        for name in &others {
            let restored = std::fs::read(to.join(MEMBER).join(name)).unwrap();
            assert!(restored == tree.read(name), "{name}");
        }
        // Made whole again for the next case.
        for key in keys(&backend, "packs") {
            let found = object(&backend, &key).windows(31).position(|w| w == &needle[1..]);
            if let Some(found) = found {
                change(&backend, &key, |bytes| bytes[found - 1] ^= 1);
            }
        }
    }
    assert_clean(&store);
}
