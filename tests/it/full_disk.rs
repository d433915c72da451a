//! A disk that fills up in the middle of a backup: a real one, of forty megabytes.

use std::error::Error as _;

use rustix::io::Errno;
use strongroom::backend::LocalBackend;

use crate::support::{
    Mount, Tree, assert_clean, assert_restores, backup, create, noise, open, temp, text, try_backup,
};

const MIB: usize = 1 << 20;

/// Says whether the error, or what caused it, is this answer of the system.
fn is_caused_by(error: &(dyn std::error::Error + 'static), errno: Errno) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.raw_os_error() == Some(errno.raw_os_error())) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[test]
fn a_full_disk_fails_the_backup_and_harms_nothing() {
    let (dir, disk) = (temp(), temp());
    let Some(mount) = Mount::new("tmpfs", "size=40m", disk.path()) else { return };
    let store_path = disk.path().join("store");
    let (tree, larger) =
        (Tree::create(dir.path().join("first")), Tree::create(dir.path().join("larger")));
    for number in 0..50 {
        tree.file(format!("{number}"), noise(number, 20_000));
        larger.file(format!("{number}"), noise(number, 20_000));
    }
    // More than two packs: one of them fits.
    for number in 0..60 {
        larger.file(format!("more/{number}"), noise(100 + number, MIB));
    }
    larger.file("more/text", text(7, MIB));
    backup(&create(LocalBackend::create(&store_path).unwrap()), tree.path());

    let store = open(LocalBackend::open(&store_path).unwrap());
    let error = try_backup(&store, larger.path()).expect_err("60 MiB do not fit into 40");
    assert!(is_caused_by(&error, Errno::NOSPC), "{error}: {:?}", error.source());
    assert!(error.to_string().contains("No space left"), "{error}");
    // Both with the value that failed and with a new one.
    assert_restores(&store, "orders@latest", tree.path());
    drop(store);
    let store = open(LocalBackend::open(&store_path).unwrap());
    assert_eq!(store.log().unwrap().generations().len(), 1);
    assert_clean(&store);
    assert_restores(&store, "orders@g1", tree.path());
    drop(store);

    mount.remount("size=200m");
    let store = open(LocalBackend::open(&store_path).unwrap());
    let report = backup(&store, larger.path());
    // What the first generation has, and the pack that was stored before the disk was full.
    let all = 50 * 20_000 + 61 * MIB as u64;
    let reused = all - report.stats.bytes_new;
    assert!(reused > 16 * MIB as u64, "only {reused} bytes were there: {:?}", report.stats);
    assert!(report.stats.chunks_encoded <= report.stats.chunks_new, "{:?}", report.stats);
    assert!(report.stats.chunks_new < report.stats.chunks_reused * 4, "{:?}", report.stats);
    assert_restores(&store, "orders@g2", larger.path());
    assert_restores(&store, "orders@g1", tree.path());
    assert_clean(&store);
}
