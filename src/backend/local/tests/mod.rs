//! What the directory backend promises beyond the conformance suite.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use tempfile::TempDir;

use super::direct::DIRECT_BYTES_MIN;
use super::root::Place;
use super::seam::{Answer, Step};
use super::*;
use crate::backend::conformance;

mod protocol;
mod read_only;

const SHARED_MEMORY: &str = "/dev/shm";

/// Returns a folder where syncing costs nothing, for what does not need a disk.
fn fast() -> PathBuf {
    let shared = PathBuf::from(SHARED_MEMORY);
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

fn store() -> (TempDir, LocalBackend) {
    store_in(&fast())
}

fn store_in(base: &Path) -> (TempDir, LocalBackend) {
    let dir = TempDir::new_in(base).unwrap();
    let backend = LocalBackend::create(dir.path().join("store")).unwrap();
    (dir, backend)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn pack(digit: char) -> Key {
    key(&format!("packs/{}", digit.to_string().repeat(64)))
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(step).take(bytes).collect()
}

fn tmp_files(backend: &LocalBackend) -> usize {
    fs::read_dir(backend.path().join("tmp")).unwrap().count()
}

fn listed(backend: &LocalBackend, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    backend.list(folder, &mut |key, _| found.push(key.to_string())).unwrap();
    found
}

/// Runs the suite below `base` on backends that `prepare` has changed.
fn conforms_in(base: &Path, prepare: fn(&LocalBackend)) {
    let dir = TempDir::new_in(base).unwrap();
    let next = AtomicU32::new(0);
    conformance::run(&|| {
        let number = next.fetch_add(1, Ordering::Relaxed).to_string();
        let backend = LocalBackend::create(dir.path().join(number)).unwrap();
        prepare(&backend);
        Box::new(backend)
    });
}

#[test]
fn conforms() {
    conforms_in(&std::env::temp_dir(), |_| {});
}

#[test]
fn conforms_in_shared_memory() {
    if !Path::new(SHARED_MEMORY).is_dir() {
        eprintln!("SKIPPED: there is no {SHARED_MEMORY}");
        return;
    }
    conforms_in(Path::new(SHARED_MEMORY), |_| {});
}

#[test]
fn conforms_where_unbuffered_writing_is_refused_at_once() {
    conforms_in(&fast(), |backend| {
        backend.root.seam.always(Step::Direct, Answer::Fail(Errno::INVAL));
    });
}

#[test]
fn unbuffered_writing_may_be_refused_by_a_write() {
    let (_dir, backend) = store();
    let bytes = noise(DIRECT_BYTES_MIN * 5 + 17);
    backend.root.seam.once(Step::Write, Answer::Fail(Errno::INVAL));
    assert_eq!(backend.put(&pack('a'), &[&bytes]).unwrap(), Put::Created);
    assert_eq!(*backend.read(&pack('a'), u64::MAX).unwrap(), *bytes);
}

#[test]
fn conforms_where_renaming_cannot_refuse_to_replace() {
    conforms_in(&fast(), |backend| {
        backend.root.seam.always(Step::Rename, Answer::Fail(Errno::INVAL));
    });
}

#[test]
fn conforms_with_short_writes() {
    conforms_in(&fast(), |backend| {
        backend.root.seam.always(Step::Write, Answer::AtMost(300_001));
    });
}

#[test]
fn files_are_0600_and_directories_0700() {
    let (_dir, backend) = store();
    for (key, bytes) in [(pack('a'), 2 * DIRECT_BYTES_MIN), (key("store"), 1), (key("new/a/b"), 1)]
    {
        let _ = backend.put(&key, &[&noise(bytes)]).unwrap();
    }
    let _held = backend.try_lock("store", LockMode::Exclusive).unwrap().unwrap();
    let mut pending = vec![backend.path().to_owned()];
    let (mut files, mut folders) = (0, 0);
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            folders += 1;
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert_eq!((files, folders), (4, 1 + 8 + 256 + 3));
}

#[test]
fn nothing_is_left_in_tmp() {
    let (_dir, backend) = store();
    for bytes in [0, 1, DIRECT_BYTES_MIN + 5] {
        for _ in 0..2 {
            let _ = backend.put(&key(&format!("runs/{bytes}")), &[&noise(bytes)]).unwrap();
        }
    }
    assert_eq!(tmp_files(&backend), 0);
    assert_eq!(listed(&backend, "").len(), 3);
}

/// Puts sizes around the boundaries, from parts that are aligned and ones that are not.
fn sizes_are_exact_in(base: &Path) {
    let dir = TempDir::new_in(base).unwrap();
    let backend = LocalBackend::create(dir.path().join("store")).unwrap();
    let huge = 2 * 1024 * 1024;
    let mut storage = memmap2::MmapMut::map_anon(5 * huge).unwrap();
    let start = storage.as_ptr().addr().wrapping_neg() % huge;
    let content = noise(4 * huge);
    storage[start..start + content.len()].copy_from_slice(&content);
    let aligned = &storage[start..start + content.len()];
    let buffer = 4 * 1024 * 1024;
    for boundary in [4096, DIRECT_BYTES_MIN, DIRECT_BYTES_MIN + 4096, huge, buffer, buffer + 4096] {
        for bytes in [boundary - 1, boundary, boundary + 1] {
            let ways: [&[&[u8]]; 4] = [
                &[&aligned[..bytes]],
                &[&aligned[1..=bytes]],
                // The second part is aligned, the file's end is not, and the other way round.
                &[&aligned[..10], &aligned[..bytes - 10]],
                &[&aligned[..bytes / 4096 * 4096], &aligned[..bytes % 4096]],
            ];
            for parts in ways {
                let key = pack('a');
                assert_eq!(backend.put(&key, parts).unwrap(), Put::Created);
                assert!(*backend.read(&key, u64::MAX).unwrap() == *parts.concat(), "{bytes}");
                assert_eq!(backend.len(&key).unwrap(), bytes as u64);
                backend.delete(&key).unwrap();
            }
        }
    }
}

#[test]
fn sizes_are_exact_around_boundaries() {
    sizes_are_exact_in(&std::env::temp_dir());
}

#[test]
fn sizes_are_exact_around_boundaries_in_shared_memory() {
    if !Path::new(SHARED_MEMORY).is_dir() {
        eprintln!("SKIPPED: there is no {SHARED_MEMORY}");
        return;
    }
    sizes_are_exact_in(Path::new(SHARED_MEMORY));
}

#[test]
fn a_creation_that_was_killed_can_be_repeated_while_there_is_no_object() {
    let dir = TempDir::new_in(fast()).unwrap();
    let path = dir.path().join("store");
    drop(LocalBackend::create(&path).unwrap());
    fs::write(path.join("tmp/left-over"), "half a header").unwrap();
    let again = LocalBackend::create(&path).unwrap();
    let pack = key(&format!("packs/{}", "ab".repeat(32)));
    let _ = again.put(&pack, &[b"x"]).unwrap();
    assert!(matches!(LocalBackend::create(&path), Err(Error::NotEmpty { .. })));
}

#[test]
fn a_store_is_not_created_over_anything() {
    let dir = TempDir::new_in(fast()).unwrap();
    let path = dir.path().join("above/store");
    let first = LocalBackend::create(&path).unwrap();
    let _ = first.put(&key("store"), &[b"x"]).unwrap();
    assert!(matches!(LocalBackend::create(&path), Err(Error::NotEmpty { .. })));
    assert_eq!(first.len(&key("store")).unwrap(), 1);

    let strange = dir.path().join("strange");
    fs::create_dir(&strange).unwrap();
    fs::write(strange.join("letter"), "dear").unwrap();
    let Err(error) = LocalBackend::create(&strange) else { panic!("created over a letter") };
    assert!(error.to_string().ends_with("strange is not empty (it holds \"letter\")"), "{error}");
    assert_eq!(fs::read_dir(&strange).unwrap().count(), 1);

    let file = strange.join("letter");
    assert!(matches!(LocalBackend::create(&file), Err(Error::Io { action: "open", .. })));
    assert!(matches!(LocalBackend::open(&file), Err(Error::Io { action: "open", .. })));
    assert!(matches!(LocalBackend::open(path.join("none")), Err(Error::Io { action: "open", .. })));
}

#[test]
fn a_store_may_take_an_empty_file_system() {
    let dir = TempDir::new_in(fast()).unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let backend = LocalBackend::create(dir.path()).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    let _ = backend.put(&key("store"), &[b"x"]).unwrap();
    assert_eq!(listed(&backend, ""), ["store"]);
}

#[test]
fn a_relative_path_is_not_lost_with_the_working_directory() {
    let (dir, backend) = store();
    fs::rename(backend.path(), dir.path().join("renamed")).unwrap();
    let _ = backend.put(&key("log/1"), &[b"x"]).unwrap();
    assert_eq!(listed(&backend, "log"), ["log/1"]);
}

/// Tools that copy objects only, and not empty folders, leave this.
#[test]
fn a_store_without_its_empty_folders_works() {
    let dir = TempDir::new_in(fast()).unwrap();
    fs::write(dir.path().join("store"), "x").unwrap();
    let backend = LocalBackend::open(dir.path()).unwrap();
    assert_eq!(listed(&backend, ""), ["store"]);
    assert_eq!(backend.sweep_tmp().unwrap(), Swept::default());
    backend.delete(&pack('a')).unwrap();
    let _ = backend.put(&pack('a'), &[b"x"]).unwrap();
    assert_eq!(listed(&backend, "packs").len(), 1);
}

#[test]
fn only_names_of_packs_are_keys_below_packs() {
    let (_dir, backend) = store();
    let short = format!("packs/{}", "a".repeat(63));
    let upper = format!("packs/{}", "g".repeat(64));
    for text in ["packs/aa", "packs/aa/x", &short, &upper] {
        let put = backend.put(&key(text), &[b"x"]);
        assert!(matches!(put, Err(Error::BadKey { .. })), "{text}: {put:?}");
        assert!(matches!(backend.len(&key(text)), Err(Error::BadKey { .. })));
    }
    let _ = backend.put(&pack('a'), &[b"x"]).unwrap();
    assert_eq!(listed(&backend, "packs/aa"), [""; 0]);
}

#[test]
fn a_listing_skips_what_cannot_be_an_object() {
    let (_dir, backend) = store();
    for key in [key("log/1"), pack('a'), key("log/sub/2")] {
        let _ = backend.put(&key, &[b"x"]).unwrap();
    }
    let at = |path: &str| backend.path().join(path);
    let misplaced = format!("packs/aa/{}", "b".repeat(64));
    for name in ["log/Upper", "log/.hidden", "log/a b", "packs/x", "packs/aa/short", &misplaced] {
        fs::write(at(name), "x").unwrap();
    }
    fs::create_dir(at("log/.folder")).unwrap();
    fs::write(at("log/.folder/x"), "x").unwrap();
    fs::write(at("tmp/x"), "x").unwrap();
    symlink("nowhere", at("log/.link")).unwrap();
    let pack = pack('a').to_string();
    assert_eq!(listed(&backend, ""), ["log/1", "log/sub/2", pack.as_str()]);
}

/// A missing object is a reason to delete others; one that cannot be told must not look like it.
#[test]
fn what_is_no_file_under_an_objects_name_is_an_error() {
    let (_dir, backend) = store();
    let _ = backend.put(&key("log/1"), &[b"x"]).unwrap();
    let link = backend.path().join("log/2");
    for target in ["1", "nowhere"] {
        symlink(target, &link).unwrap();
        assert!(matches!(backend.len(&key("log/2")), Err(Error::Io { .. })));
        assert!(matches!(backend.read(&key("log/2"), 9), Err(Error::Io { .. })));
        assert!(matches!(backend.put(&key("log/2"), &[b"y"]), Err(Error::Io { .. })));
        assert!(matches!(backend.list("log", &mut |_, _| {}), Err(Error::Io { .. })));
        assert!(matches!(backend.list("", &mut |_, _| {}), Err(Error::Io { .. })));
        fs::remove_file(&link).unwrap();
    }
    symlink("nowhere", backend.path().join("linked")).unwrap();
    assert!(matches!(backend.list("linked", &mut |_, _| {}), Err(Error::Io { .. })));
    assert!(matches!(backend.list("linked/below", &mut |_, _| {}), Err(Error::Io { .. })));
    assert!(matches!(backend.delete(&key("linked/1")), Err(Error::Io { .. })));
    assert_eq!(*backend.read(&key("log/1"), 9).unwrap(), *b"x");
}

#[test]
fn a_key_cannot_be_both_object_and_folder() {
    let (_dir, backend) = store();
    let _ = backend.put(&key("a/b"), &[b"x"]).unwrap();
    for text in ["a", "a/b/c"] {
        assert!(matches!(backend.put(&key(text), &[b"x"]), Err(Error::Io { .. })), "{text}");
        assert!(matches!(backend.len(&key(text)), Err(Error::NotFound { .. })), "{text}");
    }
    assert_eq!(tmp_files(&backend), 0);
    assert_eq!(listed(&backend, ""), ["a/b"]);
}

#[test]
fn a_descriptor_does_not_outlive_its_object() {
    let (_dir, reader) = store();
    let writer = LocalBackend::open(reader.path()).unwrap();
    let mut buffer = [0; 3];
    for bytes in [b"one", b"two"] {
        let _ = writer.put(&pack('a'), &[bytes]).unwrap();
        for _ in 0..2 {
            reader.read_at(&pack('a'), 0, &mut buffer).unwrap();
            assert_eq!(buffer, *bytes);
        }
        writer.delete(&pack('a')).unwrap();
        let gone = reader.read_at(&pack('a'), 0, &mut buffer);
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
}

#[test]
fn a_descriptor_opened_before_a_deletion_is_not_kept() {
    let (_dir, backend) = store();
    let file = Arc::new(fs::File::open(backend.path()).unwrap());
    let Err(deletions) = backend.files.find(&key("log/1")) else { panic!("found in a new store") };
    // The object is opened, deleted, and only then would its descriptor be kept.
    backend.files.forget(&key("log/1"));
    backend.files.keep(&key("log/1"), &file, deletions);
    assert_eq!(backend.files.kept(), 0);
}

#[test]
fn more_objects_than_descriptors_can_be_read() {
    let (_dir, backend) = store();
    let keys: Vec<Key> = (0..200).map(|number| key(&format!("runs/{number}"))).collect();
    for key in &keys {
        let _ = backend.put(key, &[key.as_str().as_bytes()]).unwrap();
    }
    for _ in 0..2 {
        for key in &keys {
            let mut buffer = vec![0; key.as_str().len()];
            backend.read_at(key, 0, &mut buffer).unwrap();
            assert_eq!(buffer, key.as_str().as_bytes());
        }
    }
    assert_eq!(backend.files.kept(), 64);
    backend.delete(&keys[199]).unwrap();
    assert_eq!(backend.files.kept(), 63);
}

#[test]
fn a_map_outlives_the_deletion_of_its_object() {
    let (_dir, backend) = store();
    let bytes = noise(200_000);
    let _ = backend.put(&key("index/a"), &[&bytes]).unwrap();
    let map = backend.read(&key("index/a"), u64::MAX).unwrap();
    backend.delete(&key("index/a")).unwrap();
    assert!(*map == *bytes);
}

#[test]
fn sweeping_removes_what_nobody_writes() {
    let (_dir, backend) = store();
    let at = |name: &str| backend.path().join("tmp").join(name);
    fs::write(at("left"), "12345").unwrap();
    fs::write(at("Any name"), "").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("../store", at("link")).unwrap();
    let unfinished = publish::Unfinished::create(&backend.root).unwrap();
    unfinished.file.write_all_at(b"being written", 0).unwrap();

    let other = LocalBackend::open(backend.path()).unwrap();
    assert_eq!(other.sweep_tmp().unwrap(), Swept { files: 2, size_bytes: 5 });
    assert_eq!(other.sweep_tmp().unwrap(), Swept::default());
    assert_eq!(tmp_files(&backend), 3);
    drop(unfinished);
    assert_eq!(tmp_files(&backend), 2);
}

#[test]
fn a_writer_notices_that_its_file_was_swept_before_it_was_locked() {
    let (_dir, backend) = store();
    let unfinished = publish::Unfinished::create(&backend.root).unwrap();
    assert!(unfinished.lock().unwrap());
    for entry in fs::read_dir(backend.path().join("tmp")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(!unfinished.lock().unwrap());
}

#[test]
fn sweeping_does_not_disturb_writers() {
    let (_dir, backend) = store();
    let done = AtomicBool::new(false);
    let swept = std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            let sweeping = LocalBackend::open(backend.path()).unwrap();
            let mut files = 0;
            while !done.load(Ordering::Relaxed) {
                files += sweeping.sweep_tmp().unwrap().files;
            }
            files
        });
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let backend = &backend;
                scope.spawn(move || {
                    for number in 0..100 {
                        let key = key(&format!("runs/{writer}-{number}"));
                        assert_eq!(backend.put(&key, &[b"x"]).unwrap(), Put::Created);
                    }
                })
            })
            .collect();
        let results: Vec<_> =
            writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
        sweeper.join().unwrap()
    });
    // A file that is not locked yet may be swept; its writer makes another one.
    assert!(swept < 400);
    assert_eq!(listed(&backend, "runs").len(), 400);
}

#[test]
fn a_lock_excludes_other_backends_and_its_file_stays() {
    let (_dir, first) = store();
    let second = LocalBackend::open(first.path()).unwrap();
    let held = first.try_lock("prune", LockMode::Exclusive).unwrap();
    assert!(held.is_some());
    assert!(second.try_lock("prune", LockMode::Shared).unwrap().is_none());
    drop(held);
    assert!(second.try_lock("prune", LockMode::Exclusive).unwrap().is_some());
    assert!(first.path().join("locks/prune").exists());
}
