//! Sources that fail or change while they are read: their member fails, the others do not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use strongroom::backend::MemoryBackend;
use strongroom::clock::UnixNanos;
use strongroom::limits::PATH_BYTES_MAX;
use strongroom::store::{
    BackupReport, Error, IngestOptions, MemberSource, Progress, SourceFault, Store,
};

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, TestBackend, Tree, as_nobody, assert_clean, assert_restores,
    assert_same_tree, backup, below, cat, copy_of, create, memory_store, noise, open, reference,
    restore, source, temp, text,
};

fn back_up(store: &Store, sources: &[MemberSource]) -> BackupReport {
    store.backup(DEPLOYMENT, sources, &IngestOptions::default(), &Progress::default()).unwrap()
}

/// Names of the failed members.
fn failed(report: &BackupReport) -> Vec<&str> {
    report.failed.iter().map(|(member, _)| member.as_str()).collect()
}

/// Three members; the second is what the test does something to.
fn three(tree: &Tree) -> [MemberSource; 3] {
    for member in ["one", "two", "three"] {
        tree.file(format!("{member}/file"), text(member.len() as u64, 50_000));
        tree.file(format!("{member}/{member}"), member);
    }
    ["one", "two", "three"].map(|member| source(member, &tree.below(member)))
}

#[test]
fn a_source_that_is_gone_fails_its_member_and_the_others_are_committed() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let sources = three(&tree);
    let (_, store) = memory_store();
    assert_eq!(failed(&back_up(&store, &sources)), <[&str; 0]>::default());
    std::fs::rename(tree.below("two"), tree.below("elsewhere")).unwrap();

    let report = back_up(&store, &sources);
    assert_eq!(failed(&report), ["two"]);
    assert!(report.failed[0].1[0].to_string().contains("source/two"), "{:?}", report.failed);
    let manifest = store.tree(&reference(DEPLOYMENT)).unwrap().manifest;
    let members: Vec<_> = manifest.members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(members, ["one", "three"]);
    assert_eq!(manifest.missing[0].name, "two");
    assert!(manifest.missing[0].reason.contains("No such file"), "{:?}", manifest.missing);
    assert_clean(&store);

    // When it is back, its artifact of the generation before is what it is compared with.
    std::fs::rename(tree.below("elsewhere"), tree.below("two")).unwrap();
    let mut previous = store.previous_artifacts(DEPLOYMENT, &sources).unwrap();
    previous.iter_mut().flatten().for_each(|artifact| artifact.started = UnixNanos(i64::MAX));
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let staged = store.ingest(&sources, &previous, &options, &progress).unwrap();
    let stats = *staged.stats();
    assert_eq!((stats.chunks_encoded, stats.packs_written, stats.bytes_read), (0, 0, 0));
    let report = store.commit(DEPLOYMENT, staged.verify().unwrap().promote().unwrap()).unwrap();
    assert_eq!(report.artifacts.len(), 3);
    let target = temp();
    restore(&store, DEPLOYMENT, target.path());
    for member in ["one", "two", "three"] {
        assert_same_tree(&tree.below(member), &target.path().join(member), Compare::PLAIN);
    }
}

#[test]
fn a_backup_of_which_every_member_fails_makes_no_generation() {
    let dir = temp();
    let (_, store) = memory_store();
    let report = back_up(&store, &[source("gone", &dir.path().join("nowhere"))]);
    assert!(report.generation.is_none());
    assert_eq!(failed(&report), ["gone"]);
    assert!(matches!(store.resolve(&reference(DEPLOYMENT)), Err(Error::UnknownDeployment { .. })));
    assert_clean(&store);
}

#[test]
fn what_cannot_be_read_fails_its_member_and_is_named() {
    if !as_nobody("sources::what_cannot_be_read_fails_its_member_and_is_named") {
        return;
    }
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let sources = three(&tree);
    for closed in ["two/file", "two", "three/directory"] {
        let (_, store) = memory_store();
        tree.dir("three/directory");
        tree.mode(closed, 0o000);
        let report = back_up(&store, &sources);
        tree.mode(closed, 0o755);
        let member = closed.split('/').next().unwrap();
        assert_eq!(failed(&report), [member], "{closed}");
        let fault = report.failed[0].1[0].to_string();
        assert!(fault.contains(closed) && fault.contains("denied"), "{closed}: {fault}");
        assert_eq!(report.artifacts.len(), 2);
    }
}

#[test]
fn a_path_longer_than_the_format_keeps_fails_its_member() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let sources = three(&tree);
    Tree::at(tree.below("two")).deep(PATH_BYTES_MAX, 250);
    let (_, store) = memory_store();
    let report = back_up(&store, &sources);
    assert_eq!(failed(&report), ["two"]);
    assert!(
        matches!(report.failed[0].1[0], SourceFault::Unsupported { .. }),
        "{:?}",
        report.failed
    );

    // A little less is kept, and comes back.
    let deep = Tree::create(dir.path().join("deep"));
    deep.deep(PATH_BYTES_MAX - 2000, 250);
    backup(&store, deep.path());
    let target = temp();
    assert_eq!(restore(&store, DEPLOYMENT, target.path()).failures, []);
    assert_same_tree(deep.path(), &target.path().join(MEMBER), Compare::PLAIN);
}

/// Backs one large file up a second time. While it is read, `meddle` is called once: list pages of
/// its previous generation are fetched piece by piece, each when reading has come to its place.
fn meddle_while_reading(name: &str, meddle: impl Fn(&Path) + Send + Sync + 'static) -> Meddled {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let path = tree.file(format!("meddled/{name}"), noise(1, 48 << 20));
    tree.file("other/file", b"1");
    let sources = ["meddled", "other"].map(|member| source(member, &tree.below(member)));
    let (memory, store) = memory_store();
    assert!(back_up(&store, &sources).failed.is_empty());
    tree.mtime(format!("meddled/{name}"), 1_000_000_000, 1);

    let (armed, pages) = (Arc::new(AtomicBool::new(false)), AtomicU32::new(0));
    let (trigger, meddled) = (Arc::clone(&armed), path.clone());
    let backend = TestBackend::new(memory.clone()).before_read(move |key| {
        let page = key.as_str().starts_with("pages/") && trigger.load(Ordering::SeqCst);
        // The entries, then the top of the list and its first page.
        if page && pages.fetch_add(1, Ordering::SeqCst) == 4 {
            meddle(&meddled);
        }
    });
    let store = open(backend);
    let previous = store.previous_artifacts(DEPLOYMENT, &sources).unwrap();
    store.index().unwrap();
    armed.store(true, Ordering::SeqCst);
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let staged = store.ingest(&sources, &previous, &options, &progress).unwrap();
    let report = store.commit(DEPLOYMENT, staged.verify().unwrap().promote().unwrap()).unwrap();
    assert_clean(&store);
    Meddled { report, store, memory, sources, path, _dir: dir }
}

struct Meddled {
    report: BackupReport,
    store: Store,
    memory: MemoryBackend,
    sources: [MemberSource; 2],
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Meddled {
    /// Fails unless only the meddled member failed, with a fault as expected, and a backup in peace
    /// succeeds.
    #[track_caller]
    fn assert_failed_with(&self, expected: impl Fn(&SourceFault) -> bool) {
        assert_eq!(failed(&self.report), ["meddled"]);
        let faults = &self.report.failed[0].1;
        assert!(faults.iter().any(expected), "{faults:?}");
        assert_eq!(self.report.artifacts.len(), 1);
        let manifest = self.store.tree(&reference(DEPLOYMENT)).unwrap().manifest;
        assert_eq!(manifest.missing[0].name, "meddled");

        let store = open(self.memory.clone());
        let report = back_up(&store, &self.sources);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        // What did not change was found in the generation before the failed one.
        assert!(report.stats.chunks_in_place > 100, "{:?}", report.stats);
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let read = cat(&store, DEPLOYMENT, name.as_bytes()).unwrap();
        assert!(read == std::fs::read(&self.path).unwrap());
        assert_clean(&open(copy_of(&self.memory)));
    }
}

fn opened(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

#[test]
fn a_file_that_shrinks_while_it_is_read_fails_its_member() {
    for name in ["archive", "stable_memory.bin"] {
        let meddled = meddle_while_reading(name, |path| opened(path).set_len(30 << 20).unwrap());
        meddled.assert_failed_with(|fault| {
            matches!(fault, SourceFault::Shrank { .. } | SourceFault::Changed { .. })
        });
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_fails_its_member() {
    for name in ["archive", "stable_memory.bin"] {
        let meddled = meddle_while_reading(name, |path| {
            let file = opened(path);
            file.write_all_at(b"more", file.metadata().unwrap().len()).unwrap();
        });
        meddled.assert_failed_with(|fault| matches!(fault, SourceFault::Changed { .. }));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_fails_its_member() {
    for name in ["archive", "stable_memory.bin"] {
        for place in [0, 47 << 20] {
            let meddled = meddle_while_reading(name, move |path| {
                opened(path).write_all_at(b"other bytes", place).unwrap();
            });
            meddled.assert_failed_with(|fault| matches!(fault, SourceFault::Changed { .. }));
        }
    }
}

#[test]
fn a_file_that_is_replaced_or_removed_while_it_is_read_is_taken_as_it_was_opened() {
    let replaced = meddle_while_reading("archive", |path| {
        std::fs::remove_file(path).unwrap();
    });
    // The link count is part of what is looked at or not; content is never torn.
    if replaced.report.failed.is_empty() {
        let read = cat(&replaced.store, DEPLOYMENT, b"archive").unwrap();
        assert!(read == noise(1, 48 << 20));
    } else {
        assert_eq!(failed(&replaced.report), ["meddled"]);
    }
}

/// Files that are replaced as careful programs do it, all the time while they are backed up: each
/// generation holds, of each file, one state that it once had.
#[test]
fn files_that_are_replaced_all_the_time_are_never_torn() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let fill = |byte: u8| vec![byte; 12_000];
    for number in 0..20 {
        tree.file(format!("{number}"), fill(0));
    }
    let store = create(MemoryBackend::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (1..=u8::MAX).cycle() {
                for number in 0..20 {
                    let new = below(dir.path(), "new");
                    std::fs::write(&new, fill(round)).unwrap();
                    std::fs::rename(&new, tree.below(format!("{number}"))).unwrap();
                }
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        for _ in 0..30 {
            back_up(&store, &[source(MEMBER, tree.path())]);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let report = backup(&store, tree.path());
    for generation in 1..=report.generation.unwrap().number.0 {
        for number in 0..20 {
            let what = format!("{DEPLOYMENT}@g{generation}");
            let read = cat(&store, &what, format!("{number}").as_bytes()).unwrap();
            assert!(read == fill(read[0]), "{what} {number} is torn");
        }
    }
    assert_restores(&store, DEPLOYMENT, tree.path());
    assert_clean(&store);
}

#[test]
fn a_directory_that_becomes_a_file_between_backups_is_a_file() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("changes/inside", b"1");
    tree.file("turns", b"2");
    let (_, store) = memory_store();
    backup(&store, tree.path());
    std::fs::remove_dir_all(tree.below("changes")).unwrap();
    std::fs::remove_file(tree.below("turns")).unwrap();
    tree.file("changes", b"3");
    tree.file("turns/inside", b"4");
    backup(&store, tree.path());
    crate::support::assert_restores(&store, DEPLOYMENT, tree.path());
}

#[test]
fn a_fifo_as_the_member_itself_does_not_hang() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.fifo("fifo");
    let (_, store) = memory_store();
    let report = back_up(&store, &[source("fifo", &tree.below("fifo"))]);
    assert_eq!(report.artifacts[0].counts.specials, 1);
}
