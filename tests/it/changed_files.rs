//! Changes that the times of a file hide, or nearly hide.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use strongroom::backend::MemoryBackend;
use strongroom::clock::UnixNanos;
use strongroom::format::manifest::Artifact;
use strongroom::limits::{RACY_COARSE_NANOS, RACY_NANOS};
use strongroom::store::{Content, Node, Store};

use crate::support::{
    DEPLOYMENT, Forge, Mount, TestBackend, Tree, backup, backup_against, backup_much_later, cat,
    create, is_root, memory_store, noise, previous, temp,
};

/// Writes other bytes of the same length into the file, and sets its time back.
fn change_and_hide(path: &Path, bytes: &[u8]) {
    let before = std::fs::metadata(path).unwrap();
    assert_eq!(before.len(), bytes.len() as u64);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// Times, length and inode: all that tells an unchanged file.
fn looks(path: &Path) -> [i64; 6] {
    let stat = std::fs::metadata(path).unwrap();
    let (size, inode) = (stat.size() as i64, stat.ino() as i64);
    [size, inode, stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()]
}

#[test]
fn content_changed_right_after_a_backup_is_taken_by_the_next_one() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    for size in [10, 100_000, 2 << 20] {
        let (_, store) = memory_store();
        let path = tree.file("file", noise(1, size));
        backup(&store, tree.path());
        change_and_hide(&path, &noise(2, size));
        backup(&store, tree.path());
        assert!(cat(&store, DEPLOYMENT, b"file").unwrap() == noise(2, size), "{size} bytes");
        assert!(cat(&store, "orders@g1", b"file").unwrap() == noise(1, size), "{size} bytes");
    }
}

#[test]
fn content_changed_long_after_with_its_time_set_back_is_taken() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let path = tree.file("file", noise(1, 5000));
    tree.mtime("file", 1_500_000_000, 0);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    // Even the coarsest clock of a file system in use for attributes has ticked then.
    std::thread::sleep(std::time::Duration::from_millis(20));
    change_and_hide(&path, &noise(2, 5000));
    let report = backup_much_later(&store, tree.path());
    assert_eq!(report.artifacts[0].summary.files_unchanged, 0);
    assert!(cat(&store, DEPLOYMENT, b"file").unwrap() == noise(2, 5000));
}

/// Changes a file while its backup is under way, after it was read: its pack is being put.
fn change_during_backup(path: &Path, tree: &Tree) -> Store {
    let changed = AtomicBool::new(false);
    let path = path.to_owned();
    let hook = move |key: &strongroom::backend::Key| {
        if key.as_str().starts_with("packs/") && !changed.swap(true, Ordering::SeqCst) {
            change_and_hide(&path, &noise(2, 3000));
        }
    };
    let backend = TestBackend::new(MemoryBackend::new()).before_put(hook);
    let store = create(backend);
    backup(&store, tree.path());
    store
}

/// A file system with a clock that ticks, so that a change can leave no trace at all in the times.
/// Newer Linux gives most file systems fine times once somebody has looked; `ramfs` has none.
#[test]
fn content_changed_within_one_tick_of_the_clock_during_a_backup_is_taken_by_the_next_one() {
    let dir = temp();
    let ramfs = is_root().then(|| Mount::new("ramfs", "mode=0700", dir.path())).flatten();
    let mut collisions = 0;
    for attempt in 0..200 {
        let tree = Tree::create(dir.path().join(format!("source-{attempt}")));
        let path = tree.file("file", noise(1, 3000));
        let before = looks(&path);
        let store = change_during_backup(&path, &tree);
        collisions += u32::from(looks(&path) == before);
        backup(&store, tree.path());
        assert!(cat(&store, DEPLOYMENT, b"file").unwrap() == noise(2, 3000));
        if collisions == 5 {
            break;
        }
    }
    if collisions == 0 {
        eprintln!("SKIPPED: no change hidden by the clock (ramfs: {})", ramfs.is_some());
    }
    eprintln!("{collisions} changes left no trace in length, inode and times");
}

/// Makes a previous artifact that claims other content for a file that looks the same.
fn previous_with_other_content(
    backend: &MemoryBackend,
    store: &Store,
    path: &Path,
    content: Content,
) -> Artifact {
    let artifact = previous(store, path);
    let forge = Forge { backend, store };
    let mut entries: Vec<_> = store.entries(&artifact).map(Result::unwrap).collect();
    for entry in &mut entries {
        if entry.path == b"file" {
            entry.node = Node::File(content.clone());
        }
    }
    Artifact { entries: forge.entries(&entries), ..artifact }
}

/// The same without luck: the previous entry equals the file in length, inode and both times, and
/// only when the backup began decides.
#[test]
fn a_file_is_trusted_only_if_its_times_are_clearly_older_than_the_previous_backup() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let path = tree.file("file", noise(1, 5000));
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    let old = crate::support::content(&store, "file");
    change_and_hide(&path, &noise(2, 5000));
    backup(&store, tree.path());
    let stat = std::fs::metadata(&path).unwrap();
    let changed = stat.ctime() * 1_000_000_000 + stat.ctime_nsec();

    // Read now, the file has its second content; an entry of the first is believed or not.
    for (started, trusted) in [
        (changed - 1, false),
        (changed, false),
        (changed + RACY_NANOS - 1, false),
        (changed + RACY_NANOS, false),
        (changed + RACY_NANOS + 1, true),
    ] {
        let forged = previous_with_other_content(&backend, &store, tree.path(), old.clone());
        let forged = Artifact { started: UnixNanos(started), ..forged };
        let report = backup_against(&store, tree.path(), forged);
        assert_eq!(report.artifacts[0].summary.files_unchanged, u64::from(trusted), "{started}");
        let expected = if trusted { noise(1, 5000) } else { noise(2, 5000) };
        assert!(cat(&store, DEPLOYMENT, b"file").unwrap() == expected, "{started}");
    }
}

/// Times without a fraction of a second may come from a clock that has none.
#[test]
fn whole_seconds_are_trusted_later_than_fractions() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let path = tree.file("file", noise(1, 5000));
    let second = std::fs::metadata(&path).unwrap().mtime();
    tree.mtime("file", second, 0);
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let coarse = second * 1_000_000_000 + RACY_COARSE_NANOS;
    for (started, trusted) in [(coarse - 1_000_000_000, 0), (coarse, 0), (coarse + 1, 1)] {
        let artifact = previous(&store, tree.path());
        let artifact = Artifact { started: UnixNanos(started), ..artifact };
        let report = backup_against(&store, tree.path(), artifact);
        assert_eq!(report.artifacts[0].summary.files_unchanged, trusted, "{started}");
    }
}

#[test]
fn a_change_of_length_inode_or_time_is_each_enough_to_be_read_again() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let path = tree.file("file", noise(1, 5000));
    let (_, store) = memory_store();
    backup(&store, tree.path());
    let unchanged = |store: &Store| {
        backup_much_later(store, tree.path()).artifacts[0].summary.files_unchanged == 1
    };
    assert!(unchanged(&store), "nothing changed");
    tree.mtime("file", 5, 5);
    assert!(!unchanged(&store), "the time of content changed");
    assert!(unchanged(&store));
    let other = tree.file("other", noise(1, 5000));
    std::fs::rename(&other, &path).unwrap();
    assert!(!unchanged(&store), "another inode");
    assert!(unchanged(&store));
    tree.mode("file", 0o600);
    assert!(!unchanged(&store), "something about it changed");
    assert_eq!(crate::support::entry(&store, "file").mode, 0o600);
    std::fs::File::options().append(true).open(&path).unwrap().set_len(5001).unwrap();
    assert!(!unchanged(&store), "it is longer");
}

#[test]
fn metadata_of_directories_and_links_changed_without_content_is_taken() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("dir/file", b"1");
    tree.symlink("link", "one");
    let (_, store) = memory_store();
    backup(&store, tree.path());
    tree.xattr("dir", "user.new", b"yes");
    tree.mode("dir", 0o700);
    std::fs::remove_file(tree.below("link")).unwrap();
    tree.symlink("link", "two");
    backup_much_later(&store, tree.path());
    crate::support::assert_restores(&store, DEPLOYMENT, tree.path());
}
