//! What every backend has to keep: one suite for all implementations.
//!
//! Test support. It is part of the library so that backends outside of it, and wrappers in tests,
//! run the same checks.

use std::fmt;
use std::sync::Barrier;

use super::{Backend, Error, KEY_BYTES_MAX, Key, LockMode, Put};

/// Why a check failed.
struct Failure(String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

type Check = fn(&dyn Backend) -> Result<(), Failure>;

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(Failure(format!($($message)+)));
        }
    };
}

mod listing;

const CHECKS: [(&str, Check); 23] = [
    ("an object reads back as it was put", reads_back),
    ("parts are concatenated", parts_are_concatenated),
    ("an object may be empty", empty_object),
    ("an object may have any bytes and a size off every boundary", large_object),
    ("sizes around blocks are exact", sizes_around_blocks),
    ("the first writer wins", first_writer_wins),
    ("overwriting replaces, and creates what is not there", overwriting),
    ("one of many writers of a key creates it", one_of_many_creates),
    ("writers of different keys do not disturb each other", many_keys_at_once),
    ("a missing object is not found", missing_object),
    ("a range past the end is short", short_reads),
    ("ranges are exact", ranges),
    ("an object over the bound is too large", too_large),
    ("a listing is sorted by key", listing::is_sorted),
    ("a listing has its folder only", listing::is_limited_to_its_folder),
    ("a listing may call the backend", listing::may_call_back),
    ("a folder that cannot be one is refused", listing::refuses_bad_folders),
    ("deleting removes, and may be repeated", deleting),
    ("a deleted key can be put again", put_again_after_deletion),
    ("keys may have the greatest length", longest_keys),
    ("shared locks exclude exclusive ones", shared_locks),
    ("an exclusive lock excludes all", exclusive_lock),
    ("locks are apart from objects and from each other", locks_are_apart),
];

/// Runs every check, each on a new, empty backend that `make` returns.
///
/// # Panics
/// At the first check that fails, with its name.
pub fn run(make: &dyn Fn() -> Box<dyn Backend>) {
    for (name, check) in CHECKS {
        let backend = make();
        if let Err(Failure(reason)) = check(&*backend) {
            panic!("conformance of {}: {name}: {reason}", backend.location());
        }
    }
}

fn key(text: &str) -> Result<Key, Error> {
    Key::new(text)
}

/// Returns the key of a pack whose name begins with `start`.
fn pack(start: &str) -> Result<Key, Error> {
    key(&format!("packs/{start:0<64}"))
}

/// Returns bytes without a short period.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(bytes).collect()
}

fn create(backend: &dyn Backend, key: &Key, bytes: &[u8]) -> Result<(), Failure> {
    let put = backend.put(key, &[bytes])?;
    ensure!(put == Put::Created, "{key}: put into an empty store says {put:?}");
    Ok(())
}

/// Checks an object with every method that reads.
fn expect(backend: &dyn Backend, key: &Key, bytes: &[u8]) -> Result<(), Failure> {
    let size = bytes.len() as u64;
    let len = backend.len(key)?;
    ensure!(len == size, "{key}: len is {len}, not {size}");
    let whole = backend.read(key, size)?;
    ensure!(*whole == *bytes, "{key}: read returns other bytes");
    let mut buffer = vec![0xa5; bytes.len()];
    backend.read_at(key, 0, &mut buffer)?;
    ensure!(buffer == bytes, "{key}: read_at returns other bytes");
    Ok(())
}

fn expect_not_found(
    what: impl fmt::Display,
    result: Result<impl Sized, Error>,
) -> Result<(), Failure> {
    match result {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(other) => Err(Failure(format!("{what}: not `NotFound` but: {other}"))),
        Ok(_) => Err(Failure(format!("{what}: succeeds without an object"))),
    }
}

fn listed(backend: &dyn Backend, folder: &str) -> Result<Vec<(String, u64)>, Failure> {
    let mut found = Vec::new();
    backend.list(folder, &mut |key, size_bytes| {
        found.push((key.to_string(), size_bytes));
    })?;
    Ok(found)
}

fn reads_back(backend: &dyn Backend) -> Result<(), Failure> {
    let keys =
        [key("store")?, key("log/00000000000000000001")?, pack("ab")?, key("a/b/c/d.e_f-g")?];
    for (seed, key) in keys.iter().enumerate() {
        create(backend, key, &noise(1000 + seed, seed as u64))?;
    }
    for (seed, key) in keys.iter().enumerate() {
        expect(backend, key, &noise(1000 + seed, seed as u64))?;
    }
    Ok(())
}

fn parts_are_concatenated(backend: &dyn Backend) -> Result<(), Failure> {
    let key = key("manifests/parts")?;
    let put = backend.put(&key, &[b"one", b"", b"two", b"3"])?;
    ensure!(put == Put::Created, "put says {put:?}");
    expect(backend, &key, b"onetwo3")
}

fn empty_object(backend: &dyn Backend) -> Result<(), Failure> {
    let (none, empty) = (key("pages/none")?, key("pages/empty")?);
    let put = backend.put(&none, &[])?;
    ensure!(put == Put::Created, "put of no parts says {put:?}");
    create(backend, &empty, b"")?;
    expect(backend, &none, b"")?;
    expect(backend, &empty, b"")?;
    let found = listed(backend, "pages")?;
    ensure!(found.len() == 2, "{} of 2 empty objects listed", found.len());
    let put = backend.put(&empty, &[b"more"])?;
    ensure!(put == Put::Existed, "put over an empty object says {put:?}");
    expect(backend, &empty, b"")
}

fn large_object(backend: &dyn Backend) -> Result<(), Failure> {
    let bytes = noise(5 * 1024 * 1024 + 17, 5);
    // Cut where no boundary is.
    let cuts = [0, 1, 4095, 70_001, 1_048_577, 1_048_577, 4_500_000, bytes.len()];
    let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    let key = pack("5e")?;
    let put = backend.put(&key, &parts)?;
    ensure!(put == Put::Created, "put says {put:?}");
    expect(backend, &key, &bytes)?;
    let put = backend.put(&key, &[b"small"])?;
    ensure!(put == Put::Existed, "put over it says {put:?}");
    expect(backend, &key, &bytes)
}

fn sizes_around_blocks(backend: &dyn Backend) -> Result<(), Failure> {
    for boundary in [512, 4096, 65_536, 1024 * 1024] {
        for bytes in [boundary - 1, boundary, boundary + 1] {
            let key = key(&format!("pages/{bytes}"))?;
            create(backend, &key, &noise(bytes, bytes as u64))?;
            expect(backend, &key, &noise(bytes, bytes as u64))?;
        }
    }
    Ok(())
}

fn first_writer_wins(backend: &dyn Backend) -> Result<(), Failure> {
    for key in [key("log/00000000000000000007")?, pack("07")?] {
        create(backend, &key, b"first")?;
        for later in [&b"second"[..], b"", b"first", &noise(2_000_000, 2)] {
            let put = backend.put(&key, &[later])?;
            ensure!(put == Put::Existed, "{key}: a later put says {put:?}");
            expect(backend, &key, b"first")?;
        }
    }
    Ok(())
}

fn overwriting(backend: &dyn Backend) -> Result<(), Failure> {
    for key in [pack("0e")?, key("index/a")?] {
        for bytes in [&b"first"[..], b"longer than the first", b"", &noise(1_500_000, 3)] {
            backend.overwrite(&key, &[bytes])?;
            expect(backend, &key, bytes)?;
        }
        backend.overwrite(&key, &[b"pa", b"", b"rts"])?;
        expect(backend, &key, b"parts")?;
    }
    ensure!(listed(backend, "")?.len() == 2, "other objects are there");
    Ok(())
}

fn one_of_many_creates(backend: &dyn Backend) -> Result<(), Failure> {
    const WRITERS: usize = 8;
    for (key, bytes) in [(key("log/00000000000000000001")?, 300), (pack("cc")?, 1_500_000)] {
        let start = Barrier::new(WRITERS);
        let contents: Vec<Vec<u8>> = (1..=WRITERS as u64).map(|seed| noise(bytes, seed)).collect();
        let results: Vec<_> = std::thread::scope(|scope| {
            let write = |content| {
                start.wait();
                backend.put(&key, &[content])
            };
            let threads: Vec<_> =
                contents.iter().map(|content| scope.spawn(move || write(content))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        let mut creators = Vec::new();
        for (writer, result) in results.into_iter().enumerate() {
            let Ok(result) = result else {
                return Err(Failure("put panics".to_owned()));
            };
            if result? == Put::Created {
                creators.push(writer);
            }
        }
        ensure!(creators.len() == 1, "{key}: {} of {WRITERS} writers created it", creators.len());
        expect(backend, &key, &contents[creators[0]])?;
    }
    Ok(())
}

fn many_keys_at_once(backend: &dyn Backend) -> Result<(), Failure> {
    const WRITERS: u64 = 4;
    const OBJECTS: u64 = 12;
    let name = |writer, object| key(&format!("runs/{object}/{writer}"));
    let content = |writer, object| noise(10_000, writer * OBJECTS + object);
    let write = |writer| {
        for object in 0..OBJECTS {
            create(backend, &name(writer, object)?, &content(writer, object))?;
        }
        Ok::<(), Failure>(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err(Failure("put panics".to_owned())),
        })
    })?;
    for writer in 0..WRITERS {
        for object in 0..OBJECTS {
            expect(backend, &name(writer, object)?, &content(writer, object))?;
        }
    }
    let found = listed(backend, "runs")?.len() as u64;
    ensure!(found == WRITERS * OBJECTS, "{found} of {} listed", WRITERS * OBJECTS);
    Ok(())
}

fn missing_object(backend: &dyn Backend) -> Result<(), Failure> {
    create(backend, &key("index/present")?, b"x")?;
    // The third would be below an object, the fourth is a folder, the last has no folder yet.
    for text in ["index/absent", "absent", "index/present/x", "index", "none/absent"] {
        let key = key(text)?;
        expect_not_found(format_args!("len of {key}"), backend.len(&key))?;
        expect_not_found(format_args!("read of {key}"), backend.read(&key, u64::MAX))?;
        let read = backend.read_at(&key, 0, &mut [0; 1]);
        expect_not_found(format_args!("read_at of {key}"), read)?;
    }
    expect_not_found("a missing pack", backend.read_at(&pack("0")?, 0, &mut [0; 1]))
}

fn short_reads(backend: &dyn Backend) -> Result<(), Failure> {
    let key = key("index/short")?;
    create(backend, &key, b"0123456789")?;
    let cases = [
        (0, 11),
        (5, 6),
        (9, 2),
        (10, 1),
        (11, 1),
        (1 << 40, 1),
        (i64::MAX as u64, 1),
        (u64::MAX, 1),
    ];
    for (offset, bytes) in cases {
        match backend.read_at(&key, offset, &mut vec![0; bytes]) {
            Err(Error::Short { actual: 10, expected, .. })
                if expected == offset.saturating_add(bytes as u64) => {}
            Err(other) => {
                return Err(Failure(format!(
                    "{bytes} bytes at {offset}: not `Short` but: {other}"
                )));
            }
            Ok(()) => return Err(Failure(format!("{bytes} bytes at {offset} of 10 succeeds"))),
        }
    }
    expect(backend, &key, b"0123456789")
}

fn ranges(backend: &dyn Backend) -> Result<(), Failure> {
    let bytes = noise(300_000, 3);
    let key = pack("77")?;
    create(backend, &key, &bytes)?;
    for (offset, size) in
        [(0, 0), (0, 1), (1, 4096), (4095, 2), (299_999, 1), (300_000, 0), (123, 234_567)]
    {
        let mut buffer = vec![0xa5; size + 2];
        backend.read_at(&key, offset as u64, &mut buffer[1..=size])?;
        let around = (buffer[0], buffer[size + 1]);
        ensure!(around == (0xa5, 0xa5), "{size} bytes at {offset}: writes outside of the buffer");
        ensure!(
            buffer[1..=size] == bytes[offset..offset + size],
            "{size} bytes at {offset} differ"
        );
    }
    Ok(())
}

fn too_large(backend: &dyn Backend) -> Result<(), Failure> {
    for size in [1, 10, 100_000] {
        let key = key(&format!("index/{size}"))?;
        create(backend, &key, &noise(size, 1))?;
        let actual_expected = size as u64;
        match backend.read(&key, actual_expected - 1) {
            Err(Error::TooLarge { bytes_max, actual, .. }) => {
                let told = (bytes_max, actual);
                ensure!(told == (actual_expected - 1, actual_expected), "{key}: told {told:?}");
            }
            Err(other) => return Err(Failure(format!("{key}: not `TooLarge` but: {other}"))),
            Ok(_) => return Err(Failure(format!("{key}: read in spite of the bound"))),
        }
        backend.read(&key, actual_expected)?;
    }
    Ok(())
}

fn deleting(backend: &dyn Backend) -> Result<(), Failure> {
    for (key, kept) in [(key("index/gone")?, key("index/kept")?), (pack("dd")?, pack("de")?)] {
        create(backend, &key, &noise(5000, 1))?;
        create(backend, &kept, b"kept")?;
        expect(backend, &key, &noise(5000, 1))?;
        for _ in 0..2 {
            backend.delete(&key)?;
            expect_not_found("len of the deleted", backend.len(&key))?;
            expect_not_found("read of the deleted", backend.read(&key, 9999))?;
            let read = backend.read_at(&key, 0, &mut [0; 1]);
            expect_not_found("read_at of the deleted", read)?;
        }
        expect(backend, &kept, b"kept")?;
    }
    backend.delete(&key("none/at/all")?)?;
    backend.delete(&key("index/kept/below")?)?;
    backend.delete(&key("index")?)?;
    let found = listed(backend, "")?.len();
    ensure!(found == 2, "{found} objects listed, not the 2 that were kept");
    Ok(())
}

fn put_again_after_deletion(backend: &dyn Backend) -> Result<(), Failure> {
    let key = pack("ee")?;
    create(backend, &key, b"old bytes")?;
    expect(backend, &key, b"old bytes")?;
    backend.delete(&key)?;
    create(backend, &key, b"new")?;
    expect(backend, &key, b"new")
}

fn longest_keys(backend: &dyn Backend) -> Result<(), Failure> {
    let flat = "k".repeat(KEY_BYTES_MAX);
    let nested = "n/".repeat(KEY_BYTES_MAX / 2 - 1) + "nn";
    for text in [&flat, &nested] {
        create(backend, &key(text)?, text.as_bytes())?;
    }
    for text in [&flat, &nested] {
        expect(backend, &key(text)?, text.as_bytes())?;
    }
    let found = listed(backend, "")?;
    let wanted = [(flat, 128), (nested, 128)];
    ensure!(found == wanted, "the listing is {found:?}");
    Ok(())
}

fn shared_locks(backend: &dyn Backend) -> Result<(), Failure> {
    let first = backend.try_lock("store", LockMode::Shared)?;
    let second = backend.try_lock("store", LockMode::Shared)?;
    ensure!(first.is_some() && second.is_some(), "two shared locks exclude each other");
    for (held, what) in [(first, "two"), (second, "one")] {
        let exclusive = backend.try_lock("store", LockMode::Exclusive)?;
        ensure!(exclusive.is_none(), "an exclusive lock beside {what} shared");
        drop(held);
    }
    let exclusive = backend.try_lock("store", LockMode::Exclusive)?;
    ensure!(exclusive.is_some(), "dropped shared locks still exclude");
    Ok(())
}

fn exclusive_lock(backend: &dyn Backend) -> Result<(), Failure> {
    for _ in 0..2 {
        let held = backend.try_lock("store", LockMode::Exclusive)?;
        ensure!(held.is_some(), "the lock is not free");
        for mode in [LockMode::Shared, LockMode::Exclusive] {
            let other = backend.try_lock("store", mode)?;
            ensure!(other.is_none(), "a {mode:?} lock beside an exclusive one");
        }
    }
    Ok(())
}

fn locks_are_apart(backend: &dyn Backend) -> Result<(), Failure> {
    let one = backend.try_lock("one", LockMode::Exclusive)?;
    let two = backend.try_lock("two.lock", LockMode::Exclusive)?;
    ensure!(one.is_some() && two.is_some(), "locks of different names exclude each other");
    create(backend, &key("one")?, b"x")?;
    backend.delete(&key("one")?)?;
    let found = listed(backend, "")?;
    ensure!(found.is_empty(), "locks are listed: {found:?}");
    for name in ["", "..", "a/b", "/a", "A"] {
        match backend.try_lock(name, LockMode::Shared) {
            Err(Error::BadKey { .. }) => {}
            other => return Err(Failure(format!("a lock called {name:?}: {other:?}"))),
        }
    }
    Ok(())
}
