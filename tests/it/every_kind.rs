//! Every kind of entry survives a backup and a restore, with all that belongs to it.

use std::path::Path;

use strongroom::backend::LocalBackend;
use strongroom::store::{RestoreOptions, Store};

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, Tree, as_nobody, assert_clean, assert_same_snapshot,
    assert_same_tree, backup, create, is_root, memory_store, open, restore, restore_with, snapshot,
    temp,
};

const EVERYTHING: RestoreOptions = RestoreOptions {
    overwrite: false,
    owner: true,
    set_id_bits: true,
    special_files: true,
    threads: 0,
};

/// Backs `path` up and fails unless a plain restore gives it back.
#[track_caller]
fn assert_survives(store: &Store, path: &Path) {
    let before = snapshot(path);
    backup(store, path);
    let target = temp();
    let report = restore(store, DEPLOYMENT, target.path());
    assert_eq!(report.failures, []);
    assert_same_snapshot(&before, &snapshot(&target.path().join(MEMBER)), Compare::PLAIN);
    assert_same_snapshot(&before, &snapshot(path), Compare::ALL);
}

#[test]
fn every_kind_of_entry_survives_in_a_directory_and_the_source_is_left_as_it_was() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.fill_with_every_kind(1);
    let _store = create(LocalBackend::create(dir.path().join("store")).unwrap());
    let store = open(LocalBackend::open(dir.path().join("store")).unwrap());
    assert_survives(&store, tree.path());
    assert_clean(&store);
}

#[test]
fn every_kind_of_entry_survives_in_memory() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.fill_with_every_kind(2);
    let (_, store) = memory_store();
    assert_survives(&store, tree.path());
    assert_clean(&store);
}

#[test]
fn every_kind_of_entry_survives_for_a_user_without_privileges() {
    if !as_nobody("every_kind::every_kind_of_entry_survives_for_a_user_without_privileges") {
        return;
    }
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.fill_with_every_kind(3);
    let (_, store) = memory_store();
    assert_survives(&store, tree.path());
}

#[test]
fn a_member_whose_root_is_read_only_is_restored_for_a_user_without_privileges() {
    if !as_nobody(
        "every_kind::a_member_whose_root_is_read_only_is_restored_for_a_user_without_privileges",
    ) {
        return;
    }
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("inside", b"1");
    tree.mode("", 0o555);
    let (_, store) = memory_store();
    assert_survives(&store, tree.path());
    tree.mode("", 0o755);
}

#[test]
fn special_files_owners_and_set_id_bits_come_back_only_on_request() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("plain", b"1");
    tree.file("runs as its owner", b"#!/bin/sh\n");
    tree.mode("runs as its owner", 0o4755);
    tree.file("runs as its group", b"#!/bin/sh\n");
    tree.mode("runs as its group", 0o2755);
    tree.dir("shared");
    tree.mode("shared", 0o2775);
    tree.fifo("fifo");
    tree.socket("socket");
    if is_root() {
        let owned = [("plain", 1234, 4321), ("shared", 0, 777)];
        for (path, uid, gid) in owned {
            std::os::unix::fs::chown(tree.below(path), Some(uid), Some(gid)).unwrap();
        }
        tree.mode("shared", 0o2775);
    }
    let (_, store) = memory_store();
    backup(&store, tree.path());

    let (plain, all) = (temp(), temp());
    let report = restore(&store, DEPLOYMENT, plain.path());
    assert_eq!((report.specials, report.specials_skipped), (0, 2));
    assert_same_tree(tree.path(), &plain.path().join(MEMBER), Compare::PLAIN);
    let restored = snapshot(&plain.path().join(MEMBER));
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert!(
        restored.values().all(|seen| seen.owner == me),
        "everything belongs to whoever restores"
    );
    assert!(restored.values().all(|seen| seen.mode & 0o6000 == 0), "no set-id bits unasked");

    let how = RestoreOptions { owner: is_root(), ..EVERYTHING };
    let report = restore_with(&store, DEPLOYMENT, all.path(), &how);
    assert_eq!((report.specials, report.specials_skipped), (2, 0));
    assert_eq!(report.failures, []);
    let compare = Compare { owner: is_root(), ..Compare::ALL };
    assert_same_tree(tree.path(), &all.path().join(MEMBER), compare);
}

#[test]
fn devices_survive_for_root() {
    use rustix::fs::{CWD, FileType, Mode, makedev};
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for (name, kind) in [("null", FileType::CharacterDevice), ("disk", FileType::BlockDevice)] {
        let mode = Mode::from_raw_mode(0o600);
        let made = rustix::fs::mknodat(CWD, tree.below(name), kind, mode, makedev(7, 300));
        if let Err(errno) = made {
            return eprintln!("SKIPPED: no device nodes here: {errno}");
        }
    }
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let target = temp();
    let report = restore_with(&store, DEPLOYMENT, target.path(), &EVERYTHING);
    assert_eq!(report.specials, 2);
    assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::ALL);
}

#[test]
fn a_single_file_as_a_member_and_a_root_behind_a_symlink_survive() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("real/file", b"content");
    tree.mtime("real/file", 12345, 678);
    tree.symlink("way in", "real");
    let (_, store) = memory_store();
    for (number, root) in ["real/file", "way in"].into_iter().enumerate() {
        backup(&store, &tree.below(root));
        let target = temp();
        let what = format!("{DEPLOYMENT}@g{}", number + 1);
        assert_eq!(restore(&store, &what, target.path()).failures, []);
        let real = std::fs::canonicalize(tree.below(root)).unwrap();
        assert_same_tree(&real, &target.path().join(MEMBER), Compare::PLAIN);
    }
}

#[test]
fn an_empty_directory_is_a_generation_too() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.mtime("", 1, 2);
    let (_, store) = memory_store();
    assert_survives(&store, tree.path());
    assert_clean(&store);
}

#[test]
fn the_store_itself_is_left_out_of_a_backup_of_what_it_lies_in() {
    use strongroom::store::{IngestOptions, Progress};
    let dir = temp();
    let tree = Tree::at(dir.path());
    tree.file("data", b"1");
    let store = create(LocalBackend::create(dir.path().join("store")).unwrap());
    let excluded = strongroom::fstree::identity_of(&dir.path().join("store")).unwrap();
    let options = IngestOptions { exclude: vec![excluded], ..IngestOptions::default() };
    let sources = [crate::support::source(MEMBER, dir.path())];
    let report = store.backup(DEPLOYMENT, &sources, &options, &Progress::default()).unwrap();
    assert_eq!(report.artifacts[0].counts.files, 1);
    assert_eq!(report.artifacts[0].counts.dirs, 1);
}
