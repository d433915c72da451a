//! Restores: in parts, again, over what is there, and after they were cut off.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use strongroom::backend::MemoryBackend;
use strongroom::digest::{Algorithm, hex};
use strongroom::store::{Error, IngestOptions, Progress, RestoreOptions, Store};

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, TestBackend, Tree, as_nobody, assert_same_snapshot,
    assert_same_tree, backup, change, content, fast_temp, is_root, keys, memory_store, noise, open,
    part, reference, restore, restore_with, snapshot, source, temp, text,
};

const OVERWRITE: RestoreOptions = RestoreOptions {
    overwrite: true,
    owner: false,
    set_id_bits: false,
    special_files: false,
    threads: 0,
};

/// Name of the directory of a restore under way.
const PARTIAL: &str = ".strongroom-partial";

/// Length of a file that only root can open for writing; others get it anew.
const READ_ONLY_BYTES: usize = 1000;

/// Returns what is written of it over and over.
fn written_always() -> u64 {
    if is_root() { 0 } else { READ_ONLY_BYTES as u64 }
}

fn fill(tree: &Tree) {
    tree.file("a/b/small", text(1, 2000));
    tree.file("a/b/b/same name", b"nested");
    tree.file("a/large", noise(2, 5 << 20));
    tree.file("stable_memory.bin", noise(3, 3 << 20));
    tree.file("read-only", noise(4, READ_ONLY_BYTES));
    tree.mode("read-only", 0o444);
    tree.sparse("sparse", 3 << 20, &[(1 << 20, noise(5, 100_000))]);
    tree.symlink("link", "a/large");
    tree.mtime("a/b", 1_500_000_000, 5);
}

/// A tree, and a store with one generation of it.
fn sample(dir: &Path) -> (Tree, MemoryBackend, Store) {
    let tree = Tree::create(dir.join("source"));
    fill(&tree);
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    (tree, backend, store)
}

#[test]
fn a_directory_of_a_member_is_restored_as_what_lies_in_it() {
    let dir = temp();
    let (tree, _, store) = sample(dir.path());
    for path in ["a/b", "a", "a/b/b"] {
        let target = temp();
        let report = restore(&store, &format!("orders:files/{path}"), target.path());
        assert_eq!(report.failures, []);
        let (mut expected, mut seen) = (snapshot(&tree.below(path)), snapshot(target.path()));
        // The target is the user's own directory.
        expected.remove(&b""[..]);
        seen.remove(&b""[..]);
        assert_same_snapshot(&expected, &seen, Compare::PLAIN);
    }
}

#[test]
fn one_file_is_restored_under_its_name() {
    let dir = temp();
    let (tree, _, store) = sample(dir.path());
    for (path, name) in [("a/b/small", "small"), ("a/large", "large"), ("link", "link")] {
        let target = temp();
        let report = restore(&store, &format!("orders:files/{path}"), target.path());
        assert_eq!((report.files + report.symlinks, &report.failures[..]), (1, &[][..]));
        let (expected, seen) = (snapshot(tree.path()), snapshot(target.path()));
        let expected = part(&expected, path.as_bytes());
        assert_same_snapshot(&expected, &part(&seen, name.as_bytes()), Compare::PLAIN);
        assert_eq!(seen.len(), 2, "the target and the file");
    }
}

#[test]
fn a_name_whose_file_lies_outside_of_what_is_restored_gets_the_content() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for (first, bytes) in [("1 small", noise(1, 5000)), ("1 large", noise(2, 2 << 20))] {
        tree.file(first, bytes);
    }
    tree.dir("part");
    tree.hard_link("part/small", "1 small");
    tree.hard_link("part/small too", "1 small");
    tree.hard_link("part/large", "1 large");
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let target = temp();
    let report = restore(&store, "orders:files/part", target.path());
    assert_eq!((report.files, &report.failures[..]), (3, &[][..]));
    for name in ["small", "small too", "large"] {
        let read = std::fs::read(target.path().join(name)).unwrap();
        assert!(read == tree.read(format!("part/{name}")), "{name}");
    }
    let one = temp();
    restore(&store, "orders:files/part/small", one.path());
    assert!(std::fs::read(one.path().join("small")).unwrap() == noise(1, 5000));
}

#[test]
fn restoring_over_an_equal_tree_writes_nothing() {
    let dir = temp();
    let (tree, _, store) = sample(dir.path());
    let target = temp();
    let first = restore(&store, DEPLOYMENT, target.path());
    assert_eq!((first.bytes_kept, first.failures), (0, vec![]));
    let again = restore_with(&store, DEPLOYMENT, target.path(), &OVERWRITE);
    assert_eq!((again.bytes_written, again.failures), (written_always(), vec![]));
    assert_eq!((again.bytes_kept + written_always(), again.files), (first.bytes, first.files));
    let sparse = std::fs::metadata(target.path().join("files/sparse")).unwrap();
    assert!(sparse.blocks() * 512 <= 200_000, "holes stay holes");
    assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
}

#[test]
fn restoring_over_a_changed_tree_writes_only_what_differs() {
    let dir = temp();
    let (tree, _, store) = sample(dir.path());
    let target = temp();
    restore(&store, DEPLOYMENT, target.path());
    let restored = Tree::at(target.path().join(MEMBER));
    restored.write_at("stable_memory.bin", 70_000, b"changed");
    restored.write_at("stable_memory.bin", 2_000_000, b"changed");
    restored.write_at("sparse", 500, b"where a hole was");
    restored.file("a/b/small", text(1, 1999));
    restored.mode("a/b/small", 0o600);
    restored.file("not in the backup", b"stays");
    let report = restore_with(&store, DEPLOYMENT, target.path(), &OVERWRITE);
    assert_eq!(report.failures, []);
    assert_eq!(report.bytes_written, 2 * 65_536 + 2000 + written_always());
    std::fs::remove_file(restored.below("not in the backup")).unwrap();
    restored.mtime(
        "",
        std::fs::metadata(tree.path()).unwrap().mtime(),
        std::fs::metadata(tree.path()).unwrap().mtime_nsec(),
    );
    assert_same_tree(tree.path(), restored.path(), Compare::PLAIN);
    let sparse = std::fs::metadata(restored.below("sparse")).unwrap();
    let allocated = sparse.blocks() * 512;
    assert!(allocated <= 200_000, "the hole is a hole again: {allocated}");
}

#[test]
fn restoring_over_other_kinds_of_things_replaces_them_and_never_directories() {
    let dir = temp();
    let (_, _, store) = sample(dir.path());
    let target = temp();
    restore(&store, DEPLOYMENT, target.path());
    let restored = Tree::at(target.path().join(MEMBER));
    let outside = Tree::create(dir.path().join("outside"));
    outside.file("victim", b"untouched");
    for name in ["a/b/small", "stable_memory.bin", "read-only", "link"] {
        std::fs::remove_file(restored.below(name)).unwrap();
    }
    let victim = outside.below("victim");
    std::os::unix::fs::symlink(&victim, restored.below("a/b/small")).unwrap();
    std::fs::hard_link(&victim, restored.below("stable_memory.bin")).unwrap();
    restored.fifo("read-only");
    restored.file("link", b"a file where a symlink was");
    let report = restore_with(&store, DEPLOYMENT, target.path(), &OVERWRITE);
    assert_eq!(report.failures, []);
    assert_same_tree(&dir.path().join("source"), restored.path(), Compare::PLAIN);
    assert_eq!(outside.read("victim"), b"untouched");

    std::fs::remove_file(restored.below("read-only")).unwrap();
    restored.dir("read-only/with something in it");
    let report = restore_with(&store, DEPLOYMENT, target.path(), &OVERWRITE);
    let failed: Vec<_> = report.failures.iter().map(|f| (f.path.as_str(), f.damage)).collect();
    assert_eq!(failed, [("files/read-only", false)]);
    assert!(restored.below("read-only/with something in it").exists());
}

/// Cuts a restore off after some reads, and returns the directory as it was left.
fn cut_off(backend: &MemoryBackend, target: &Path, after: u32) {
    let progress = std::sync::Arc::new(Progress::default());
    let (stop, reads) = (progress.clone(), std::sync::atomic::AtomicU32::new(0));
    let cutting = TestBackend::new(backend.clone()).before_read(move |key| {
        let read = reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if key.as_str().starts_with("packs/") && read >= after {
            stop.interrupt();
        }
    });
    let store = open(cutting);
    let tree = store.tree(&reference(DEPLOYMENT)).unwrap();
    let result = store.restore(&tree, target, &RestoreOptions::default(), &progress);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let left: Vec<_> = std::fs::read_dir(target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [PARTIAL], "nothing is in its place before everything is");
}

#[test]
fn a_restore_that_was_cut_off_goes_on_and_ends_equal() {
    let dir = temp();
    let (tree, backend, store) = sample(dir.path());
    for after in [0, 2, 4, 5] {
        let target = temp();
        cut_off(&backend, target.path(), after);
        let report = restore(&store, DEPLOYMENT, target.path());
        assert_eq!(report.failures, []);
        assert_eq!(report.files, 6);
        assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
        assert!(!target.path().join(PARTIAL).exists());
    }
}

#[test]
fn a_restore_that_was_cut_off_goes_on_for_a_user_without_privileges() {
    if !as_nobody("restoring::a_restore_that_was_cut_off_goes_on_for_a_user_without_privileges") {
        return;
    }
    let dir = temp();
    let (tree, backend, store) = sample(dir.path());
    tree.file("0 read-only first", b"1");
    tree.mode("0 read-only first", 0o400);
    tree.mode("a/b", 0o555);
    backup(&store, tree.path());
    let target = temp();
    cut_off(&backend, target.path(), 4);
    assert_eq!(restore(&store, DEPLOYMENT, target.path()).failures, []);
    assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
    // And once more over what is there, read-only files and directories included.
    let report = restore_with(&store, DEPLOYMENT, target.path(), &OVERWRITE);
    assert_eq!(report.failures, []);
    assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
    for root in [tree.path().to_owned(), target.path().join(MEMBER)] {
        Tree::at(root).mode("a/b", 0o755);
    }
}

/// What a restore of another generation left behind is not part of this one.
#[test]
fn what_another_restore_left_behind_does_not_get_into_this_one() {
    let dir = temp();
    let (tree, backend, store) = sample(dir.path());
    std::fs::remove_file(tree.below("a/large")).unwrap();
    tree.file("a/only in the second", b"2");
    backup(&store, tree.path());
    let target = temp();
    // The cut-off one restores the second generation.
    cut_off(&backend, target.path(), 3);
    let left = snapshot(target.path());
    assert!(left.keys().any(|path| path.ends_with(b"only in the second")), "{:?}", left.keys());
    restore(&store, "orders@g1", target.path());
    assert!(!target.path().join("files/a/only in the second").exists());
    assert!(target.path().join("files/a/large").exists());
}

#[test]
fn a_file_left_half_by_a_cut_off_restore_does_not_stay_if_it_is_damaged() {
    let dir = temp();
    let (tree, backend, store) = sample(dir.path());
    let digests = ["stable_memory.bin", "a/b/small"]
        .map(|path| store.chunks(&content(&store, path)).last().unwrap().unwrap().digest);
    let target = temp();
    cut_off(&backend, target.path(), 5);
    let mut left = std::fs::read_dir(target.path().join(PARTIAL)).unwrap();
    let half = Tree::at(left.next().unwrap().unwrap().path().join(MEMBER));
    half.file("stable_memory.bin", &tree.read("stable_memory.bin")[..1 << 20]);
    half.file("a/b/small", b"half of it");
    for digest in digests {
        let place = store.index().unwrap().snapshot().find(&digest).unwrap();
        let key = strongroom::pack::key(place.pack.content, &place.pack.id);
        change(&backend, &key, |bytes| bytes[place.record.offset as usize] ^= 1);
    }
    let report = restore(&open(backend), DEPLOYMENT, target.path());
    let mut failed: Vec<_> = report.failures.iter().map(|f| f.path.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["files/a/b/small", "files/stable_memory.bin"]);
    for path in failed {
        assert!(!target.path().join(path).exists(), "{path}");
    }
}

/// A restore that was killed while it moved its results to their places.
#[test]
fn a_restore_that_was_killed_at_the_very_end_goes_on() {
    let dir = temp();
    let (tree, _, store) = sample(dir.path());
    let sources = ["one", "two"].map(|member| source(member, tree.path()));
    let (options, progress) = (IngestOptions::default(), Progress::default());
    store.backup("pair", &sources, &options, &progress).unwrap();
    let target = temp();
    restore(&store, "pair", target.path());
    std::fs::write(target.path().join("somebody's own"), "meanwhile").unwrap();
    for left in [&["two"][..], &["one", "two"], &[]] {
        assert_eq!(restore_again_after_kill(&store, target.path(), left), 12, "{left:?}");
        for member in ["one", "two"] {
            assert_same_tree(tree.path(), &target.path().join(member), Compare::PLAIN);
        }
    }
    assert!(target.path().join("somebody's own").exists());
}

/// Brings the target into the state in which a restore is killed while it moves its results: all
/// but these names are in their places.
fn restore_again_after_kill(store: &Store, target: &Path, names: &[&str]) -> u64 {
    let partial = target.join(PARTIAL);
    let identity = cut_off_name(store, "pair");
    let inner = partial.join(&identity);
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir(partial.join(format!("{identity}.moving"))).unwrap();
    for name in names {
        std::fs::rename(target.join(name), inner.join(name)).unwrap();
    }
    let report = restore(store, "pair", target);
    assert_eq!(report.failures, []);
    assert!(!partial.exists());
    report.files
}

/// Returns the name that a restore gives its own directory.
fn cut_off_name(store: &Store, what: &str) -> String {
    let (target, progress) = (temp(), Progress::default());
    progress.interrupt();
    let tree = store.tree(&reference(what)).unwrap();
    let result = store.restore(&tree, target.path(), &RestoreOptions::default(), &progress);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let mut left = std::fs::read_dir(target.path().join(PARTIAL)).unwrap();
    left.next().unwrap().unwrap().file_name().into_string().unwrap()
}

/// Returns what a command says about a file, if there is such a command.
fn checksum_by(command: &str, path: &Path) -> Option<String> {
    let output = Command::new(command).arg(path).output().ok()?;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.trim_start_matches('\\').split_whitespace().next().unwrap().to_owned())
}

#[test]
fn checksums_in_the_manifest_are_those_that_other_programs_compute() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    fill(&tree);
    tree.file("empty", b"");
    let (_, store) = memory_store();
    let options = IngestOptions { algorithm: Algorithm::Sha256, ..IngestOptions::default() };
    let sources = [source(MEMBER, tree.path())];
    store.backup(DEPLOYMENT, &sources, &options, &Progress::default()).unwrap();
    let target = temp();
    restore(&store, DEPLOYMENT, target.path());
    let mut by_others = 0;
    for path in ["a/b/small", "a/large", "stable_memory.bin", "sparse", "empty"] {
        let restored = target.path().join(MEMBER).join(path);
        let checksums = content(&store, path).checksums;
        let bytes = std::fs::read(&restored).unwrap();
        assert_eq!(checksums.blake3.to_hex(), blake3::hash(&bytes).to_string(), "{path}");
        let sha256 = hex(&checksums.sha256.unwrap());
        for (command, expected) in [("sha256sum", sha256), ("b3sum", checksums.blake3.to_hex())] {
            if let Some(actual) = checksum_by(command, &restored) {
                assert_eq!(actual, expected, "{command} {path}");
                by_others += 1;
            }
        }
    }
    if by_others == 0 {
        eprintln!("SKIPPED: neither sha256sum nor b3sum is here");
    }
}

#[test]
fn the_checksum_of_a_directory_is_that_of_its_files_in_order() {
    use sha2::Digest as _;
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let files = ["a/b", "a-b", "b"];
    for path in files {
        tree.file(path, path.repeat(100));
    }
    tree.hard_link("c", "b");
    tree.symlink("d", "b");
    let (_, store) = memory_store();
    let options = IngestOptions { algorithm: Algorithm::Sha256, ..IngestOptions::default() };
    let sources = [source(MEMBER, tree.path())];
    let report = store.backup(DEPLOYMENT, &sources, &options, &Progress::default()).unwrap();
    let mut hasher = sha2::Sha256::new();
    for path in ["a/b", "a-b", "b", "c"] {
        let content = sha2::Sha256::digest(tree.read(path));
        hasher.update([path.as_bytes(), b"\0", hex(&content).as_bytes(), b"\n"].concat());
    }
    let expected: [u8; 32] = hasher.finalize().into();
    assert_eq!(report.artifacts[0].checksum, expected);
}

#[test]
fn only_the_listed_mode_of_the_target_is_changed_and_the_store_is_only_read() {
    let dir = temp();
    let (tree, backend, _) = sample(dir.path());
    let target = fast_temp();
    std::fs::set_permissions(target.path(), PermissionsExt::from_mode(0o750)).unwrap();
    let watched = TestBackend::new(backend.clone());
    watched.make_read_only();
    let before: Vec<_> = keys(&backend, "");
    restore(&open(watched), DEPLOYMENT, target.path());
    assert_same_tree(tree.path(), &target.path().join(MEMBER), Compare::PLAIN);
    assert_eq!(keys(&backend, ""), before);
    assert_eq!(std::fs::metadata(target.path()).unwrap().mode() & 0o7777, 0o750);
}
