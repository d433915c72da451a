//! A whole backup, restore and verification of 256 MiB in a temporary directory.
//!
//! The temporary directory is `TMPDIR`'s; set that to a disk, not to a file system in memory, to
//! see what syncs cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use strongroom::backend::LocalBackend;
use strongroom::store::{
    IngestOptions, IngestStats, MemberSource, Progress, Reference, RestoreOptions, Scope, Store,
    StoreConfig,
};
use tempfile::TempDir;

use crate::data::{copy_tree, write_sources};

const SOURCE_BYTES: u64 = 256 << 20;

pub fn all(criterion: &mut Criterion) {
    let dir = TempDir::new().expect("a directory");
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    write_sources(&source);
    copy_tree(&source, &copy);
    let mut group = criterion.benchmark_group("end to end");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(SOURCE_BYTES));
    group.bench_function("first backup", |bencher| {
        // What is returned is removed outside of the measurement.
        let first = |(place, store)| (backup(&store, &source), place, store);
        bencher.iter_batched(|| fresh(&dir), first, PER_RUN);
    });
    let (_kept, store) = fresh(&dir);
    assert_eq!(backup(&store, &source).bytes_read, SOURCE_BYTES);
    group.bench_function("restore", |bencher| {
        bencher.iter_batched(|| target(&dir), |to| restore(&store, to), PER_RUN);
    });
    for (name, scope) in [("verify stored bytes", Scope::Read(1.0)), ("verify full", Scope::Full)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let report = store.verify(scope, &[], &Progress::default()).expect("verified");
                assert!(report.is_clean());
            });
        });
    }
    // Files are taken as unchanged only if they are clearly older than the last backup.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    backup(&store, &source);
    group.bench_function("unchanged", |bencher| {
        bencher.iter(|| assert_eq!(backup(&store, &source).bytes_read, 0));
    });
    let (sources, mut turn) = ([&source, &copy], 0);
    group.bench_function("copied anew", |bencher| {
        bencher.iter(|| {
            turn += 1;
            let stats = backup(&store, sources[turn % 2]);
            assert_eq!((stats.bytes_read, stats.bytes_new), (SOURCE_BYTES, 0));
        });
    });
    group.finish();
}

/// One store or target at a time: they are large.
const PER_RUN: BatchSize = BatchSize::PerIteration;

fn fresh(dir: &TempDir) -> (TempDir, Store) {
    let place = TempDir::new_in(dir.path()).expect("a directory");
    let backend = LocalBackend::create(place.path().join("store")).expect("a directory");
    let store = Store::create(Arc::new(backend), StoreConfig::default()).expect("a store");
    (place, store)
}

fn target(dir: &TempDir) -> (TempDir, PathBuf) {
    let place = TempDir::new_in(dir.path()).expect("a directory");
    let to = place.path().join("restored");
    (place, to)
}

fn backup(store: &Store, source: &Path) -> IngestStats {
    let sources = [MemberSource { member: "data".into(), path: source.to_path_buf() }];
    let (options, progress) = (IngestOptions::default(), Progress::default());
    store.backup("bench", &sources, &options, &progress).expect("a backup").stats
}

fn restore(store: &Store, (place, to): (TempDir, PathBuf)) -> TempDir {
    let tree = store.tree(&Reference::parse(b"bench").expect("a name")).expect("a generation");
    let (options, progress) = (RestoreOptions::default(), Progress::default());
    let report = store.restore(&tree, &to, &options, &progress).expect("restored");
    assert!(report.failures.is_empty());
    place
}
