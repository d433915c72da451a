//! The order of the steps of publishing, and the answer to a failure of each.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn interrupted_calls_are_repeated_but_a_sync() {
    let (_dir, backend) = store();
    for step in [Step::Create, Step::Direct, Step::Write, Step::Truncate, Step::Rename] {
        backend.root.seam.once(step, Answer::Fail(Errno::INTR));
    }
    let bytes = noise(DIRECT_BYTES_MIN + 1);
    assert_eq!(backend.put(&pack('a'), &[&bytes]).unwrap(), Put::Created);
    assert_eq!(*backend.read(&pack('a'), u64::MAX).unwrap(), *bytes);

    backend.root.seam.once(Step::SyncFile, Answer::Fail(Errno::INTR));
    assert!(matches!(backend.put(&pack('b'), &[&bytes]), Err(Error::Io { action: "sync", .. })));
    assert!(matches!(backend.put(&pack('b'), &[&bytes]), Err(Error::Latched { .. })));
}

/// The steps of one put, with what they were done to; the name in `tmp` is not told.
fn steps(backend: &LocalBackend, key: &Key, bytes: &[u8]) -> Vec<String> {
    backend.root.seam.take_steps();
    let _ = backend.put(key, &[bytes]).unwrap();
    let tell = |(step, path): (Step, String)| {
        let path = if path.starts_with("tmp/") { "tmp" } else { &path };
        format!("{step:?} {path}")
    };
    backend.root.seam.take_steps().into_iter().map(tell).collect()
}

#[test]
fn a_put_syncs_the_file_names_it_and_syncs_the_folder() {
    let (_dir, backend) = store();
    let first = steps(&backend, &key("log/1"), b"x");
    let wanted = [
        "Create tmp",
        "Write tmp",
        "SyncFile tmp",
        // Once per backend: whoever made the folder may not have come to the sync.
        "MakeFolder log",
        "SyncFolder ",
        "Rename log/1",
        "SyncFolder log",
    ];
    assert_eq!(first, wanted);
    let second = steps(&backend, &key("log/2"), b"x");
    let wanted = ["Create tmp", "Write tmp", "SyncFile tmp", "Rename log/2", "SyncFolder log"];
    assert_eq!(second, wanted);
}

#[test]
fn a_large_put_is_unbuffered_and_cut_before_its_sync() {
    let (_dir, backend) = store();
    let steps = steps(&backend, &key("large"), &noise(DIRECT_BYTES_MIN + 1));
    let wanted = [
        "Create tmp",
        "Direct tmp",
        "Write tmp",
        "Truncate tmp",
        "SyncFile tmp",
        "Rename large",
        "SyncFolder ",
    ];
    assert_eq!(steps, wanted);
}

#[test]
fn missing_folders_are_made_and_synced_from_the_top() {
    let (_dir, backend) = store();
    let steps = steps(&backend, &key("a/b/c"), b"");
    let wanted = [
        "Create tmp",
        "SyncFile tmp",
        "MakeFolder a",
        "SyncFolder ",
        "MakeFolder a/b",
        "SyncFolder a",
        "Rename a/b/c",
        "SyncFolder a/b",
    ];
    assert_eq!(steps, wanted);
}

#[test]
fn an_object_put_in_place_of_a_damaged_one_is_synced_with_its_folder() {
    let (_dir, backend) = store();
    let _ = backend.put(&key("log/1"), &[b"x"]).unwrap();
    backend.root.seam.take_steps();
    backend.overwrite(&key("log/1"), &[b"y"]).unwrap();
    let steps: Vec<Step> = backend.root.seam.take_steps().iter().map(|done| done.0).collect();
    let wanted = [Step::Create, Step::Write, Step::SyncFile, Step::Replace, Step::SyncFolder];
    assert_eq!(steps, wanted);
}

#[test]
fn a_put_of_an_existing_key_syncs_it_and_writes_nothing() {
    let (_dir, first) = store();
    let _ = first.put(&pack('a'), &[b"bytes"]).unwrap();
    let before = fs::metadata(first.path().join(Place::of(&pack('a')).unwrap().path())).unwrap();

    let second = LocalBackend::open(first.path()).unwrap();
    let steps = steps(&second, &pack('a'), &noise(2 * DIRECT_BYTES_MIN));
    let file = format!("SyncFile packs/aa/{}", "a".repeat(64));
    let wanted = [
        file.as_str(),
        "MakeFolder packs",
        "SyncFolder ",
        "MakeFolder packs/aa",
        "SyncFolder packs",
        "SyncFolder packs/aa",
    ];
    assert_eq!(steps, wanted);
    let after = fs::metadata(first.path().join(Place::of(&pack('a')).unwrap().path())).unwrap();
    assert_eq!(
        (before.ino(), before.len(), before.mtime_nsec(), before.ctime_nsec()),
        (after.ino(), after.len(), after.mtime_nsec(), after.ctime_nsec())
    );
}

#[test]
fn a_writer_that_loses_the_race_syncs_the_winners_object() {
    let (_dir, backend) = store();
    let _ = backend.put(&key("log/1"), &[b"winner"]).unwrap();
    backend.root.seam.take_steps();
    // As if the winner had come between the look and the rename.
    let mut unfinished = publish::Unfinished::create(&backend.root).unwrap();
    let lost = unfinished.name(&Place::of(&key("log/1")).unwrap());
    assert_eq!(lost, Err(Errno::EXIST));
    drop(unfinished);
    assert_eq!(tmp_files(&backend), 0);
    assert_eq!(*backend.read(&key("log/1"), 10).unwrap(), *b"winner");
}

#[test]
fn a_failed_sync_latches_and_is_never_repeated() {
    for (step, named) in [(Step::SyncFile, false), (Step::SyncFolder, true)] {
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
            let (_dir, backend) = store();
            let _ = backend.put(&key("log/1"), &[b"before"]).unwrap();
            backend.root.seam.take_steps();
            backend.root.seam.once(step, Answer::Fail(errno));

            let failed = backend.put(&key("log/2"), &[b"x"]);
            assert!(matches!(failed, Err(Error::Io { action: "sync", .. })), "{failed:?}");
            let syncs = backend.root.seam.take_steps();
            assert_eq!(syncs.iter().filter(|done| done.0 == step).count(), 1);
            assert_eq!(tmp_files(&backend), 0);
            assert_eq!(backend.len(&key("log/2")).is_ok(), named);

            for latched in [
                backend.put(&key("log/3"), &[b"x"]).map(|_| ()),
                backend.put(&key("log/1"), &[b"x"]).map(|_| ()),
                backend.delete(&key("log/1")),
                backend.sweep_tmp().map(|_| ()),
            ] {
                let Err(Error::Latched { first }) = latched else { panic!("{latched:?}") };
                assert!(first.starts_with("sync "), "{first}");
            }
            assert_eq!(backend.root.seam.take_steps(), []);
            // Reading goes on, and so does another backend.
            assert_eq!(*backend.read(&key("log/1"), 10).unwrap(), *b"before");
            let other = LocalBackend::open(backend.path()).unwrap();
            assert_eq!(other.put(&key("log/3"), &[b"x"]).unwrap(), Put::Created);
        }
    }
}

#[test]
fn a_new_store_is_synced_up_to_its_parent() {
    let (_dir, backend) = store();
    let steps = backend.root.seam.take_steps();
    let made = steps.iter().position(|done| done.0 == Step::SyncFolder).unwrap();
    assert_eq!(made, 8 + 256);
    let synced: Vec<&str> = steps[made..].iter().map(|done| done.1.as_str()).collect();
    assert_eq!(synced, ["packs", "", ".."]);
}

/// The system reports a failed sync of a folder to one of those who sync it.
#[test]
fn a_sync_succeeds_only_if_none_failed_before() {
    let (_dir, backend) = store();
    backend.sync_folder("log").unwrap();
    let _ = backend.latch.close(backend.root.io("sync", "log", Errno::IO));
    assert!(matches!(backend.sync_folder("log"), Err(Error::Latched { .. })));
}

#[test]
fn a_failed_sync_after_a_deletion_latches() {
    let (_dir, backend) = store();
    let _ = backend.put(&key("log/1"), &[b"x"]).unwrap();
    backend.root.seam.once(Step::SyncFolder, Answer::Fail(Errno::IO));
    assert!(matches!(backend.delete(&key("log/1")), Err(Error::Io { action: "sync", .. })));
    assert!(matches!(backend.delete(&key("log/1")), Err(Error::Latched { .. })));
}

#[test]
fn a_full_disk_is_ordinary() {
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::MFILE, Errno::FBIG] {
        for step in [Step::Create, Step::Write, Step::Truncate, Step::Rename, Step::MakeFolder] {
            let (_dir, backend) = store();
            let bytes = noise(DIRECT_BYTES_MIN + 1);
            backend.root.seam.once(step, Answer::Fail(errno));
            let failed = backend.put(&key("new/1"), &[&bytes]);
            let Err(Error::Io { source, .. }) = &failed else { panic!("{step:?}: {failed:?}") };
            assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
            assert_eq!(tmp_files(&backend), 0);
            assert!(matches!(backend.len(&key("new/1")), Err(Error::NotFound { .. })));
            // As soon as there is space again.
            assert_eq!(backend.put(&key("new/1"), &[&bytes]).unwrap(), Put::Created);
        }
    }
}

#[test]
fn a_failure_of_the_device_latches() {
    for step in [Step::Create, Step::Write, Step::Truncate, Step::Rename, Step::MakeFolder] {
        let (_dir, backend) = store();
        backend.root.seam.once(step, Answer::Fail(Errno::IO));
        let bytes = noise(DIRECT_BYTES_MIN + 1);
        assert!(matches!(backend.put(&key("new/1"), &[&bytes]), Err(Error::Io { .. })));
        assert_eq!(tmp_files(&backend), 0);
        assert!(matches!(backend.put(&key("new/1"), &[&bytes]), Err(Error::Latched { .. })));
    }
}
