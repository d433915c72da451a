//! Stores, and the everyday verbs on them in few words.

use std::path::Path;
use std::sync::Arc;

use strongroom::backend::{Backend, Key, MemoryBackend};
use strongroom::clock::UnixNanos;
use strongroom::format::manifest::Artifact;
use strongroom::store::{
    BackupReport, Content, Damage, DamageKind, Entry, Error, IngestOptions, MemberSource, Progress,
    Reference, RestoreOptions, RestoreReport, Scope, Store, StoreConfig, VerifyReport,
};

use super::fast_temp;
use super::snapshot::{Compare, assert_same_tree};

/// The deployment of most tests.
pub const DEPLOYMENT: &str = "orders";
/// The member of most tests.
pub const MEMBER: &str = "files";

/// Makes a store in memory.
pub fn memory_store() -> (MemoryBackend, Store) {
    let backend = MemoryBackend::new();
    let store = create(backend.clone());
    (backend, store)
}

pub fn create(backend: impl Backend + 'static) -> Store {
    Store::create(Arc::new(backend), StoreConfig::default()).unwrap()
}

/// Opens the store anew: nothing that another value of it remembers is known.
pub fn open(backend: impl Backend + 'static) -> Store {
    Store::open(Arc::new(backend)).unwrap()
}

pub fn reference(text: &str) -> Reference {
    Reference::parse(text.as_bytes()).unwrap()
}

pub fn source(member: &str, path: &Path) -> MemberSource {
    MemberSource { member: member.to_owned(), path: path.to_owned() }
}

/// Backs one directory up as the member [`MEMBER`] of [`DEPLOYMENT`].
pub fn try_backup(store: &Store, path: &Path) -> Result<BackupReport, Error> {
    let sources = [source(MEMBER, path)];
    store.backup(DEPLOYMENT, &sources, &IngestOptions::default(), &Progress::default())
}

/// As [`try_backup`], and nothing may fail.
#[track_caller]
pub fn backup(store: &Store, path: &Path) -> BackupReport {
    let report = try_backup(store, path).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.generation.is_some());
    report
}

/// Returns the member's artifact in the newest generation that has one.
pub fn previous(store: &Store, path: &Path) -> Artifact {
    let found = store.previous_artifacts(DEPLOYMENT, &[source(MEMBER, path)]).unwrap();
    found.into_iter().flatten().next().expect("a generation with the member")
}

/// As [`backup`], but as if the previous one had been long ago: then every file that looks
/// unchanged is taken to be unchanged.
#[track_caller]
pub fn backup_much_later(store: &Store, path: &Path) -> BackupReport {
    let mut artifact = previous(store, path);
    artifact.started = UnixNanos(i64::MAX);
    backup_against(store, path, artifact)
}

/// As [`backup`], against a previous artifact of the test's choice.
#[track_caller]
pub fn backup_against(store: &Store, path: &Path, previous: Artifact) -> BackupReport {
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let sources = [source(MEMBER, path)];
    let staged = store.ingest(&sources, &[Some(previous)], &options, &progress).unwrap();
    assert!(staged.failed().is_empty(), "{:?}", staged.failed());
    let durable = staged.verify().unwrap().promote().unwrap();
    store.commit(DEPLOYMENT, durable).unwrap()
}

/// Restores without any options.
#[track_caller]
pub fn restore(store: &Store, what: &str, to: &Path) -> RestoreReport {
    restore_with(store, what, to, &RestoreOptions::default())
}

#[track_caller]
pub fn restore_with(store: &Store, what: &str, to: &Path, how: &RestoreOptions) -> RestoreReport {
    let tree = store.tree(&reference(what)).unwrap();
    store.restore(&tree, to, how, &Progress::default()).unwrap()
}

/// Restores a generation to a new place and compares [`MEMBER`] with `expected`.
#[track_caller]
pub fn assert_restores(store: &Store, what: &str, expected: &Path) {
    let target = fast_temp();
    let report = restore(store, what, target.path());
    assert_eq!(report.failures, [], "{what}");
    assert_eq!(report.warnings, <[String; 0]>::default(), "{what}");
    assert_same_tree(expected, &target.path().join(MEMBER), Compare::PLAIN);
}

pub fn verify(store: &Store, scope: Scope) -> VerifyReport {
    store.verify(scope, &[], &Progress::default()).unwrap()
}

/// Fails if anything is damaged at any depth.
#[track_caller]
pub fn assert_clean(store: &Store) {
    for scope in [Scope::Structure, Scope::Read(1.0), Scope::Full] {
        let report = verify(store, scope);
        assert!(report.is_clean(), "{scope:?}: {:?} {:?}", report.damaged, report.unreadable);
    }
}

/// Returns the damage of one kind.
pub fn of_kind(report: &VerifyReport, kind: DamageKind) -> Vec<&Damage> {
    report.damaged.iter().filter(|damage| damage.kind == kind).collect()
}

/// Returns all paths that damage touches, as `name@gN:path`.
pub fn touched(report: &VerifyReport) -> Vec<String> {
    let affected = report.damaged.iter().flat_map(|damage| &damage.affects);
    let mut paths: Vec<_> =
        affected.map(|found| format!("{}:{}", found.generation, found.path)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Returns an entry of the newest generation.
#[track_caller]
pub fn entry(store: &Store, path: impl AsRef<[u8]>) -> Entry {
    let tree = store.tree(&reference(DEPLOYMENT)).unwrap();
    store.entry(&tree.members[0], path.as_ref()).unwrap()
}

/// Returns the content of a file of the newest generation.
#[track_caller]
pub fn content(store: &Store, path: impl AsRef<[u8]>) -> Content {
    entry(store, path).content().expect("a regular file").clone()
}

/// Returns the bytes of a file of a generation, read as `cat` does.
pub fn cat(store: &Store, what: &str, path: &[u8]) -> Result<Vec<u8>, String> {
    let tree = store.tree(&reference(what)).map_err(|error| error.to_string())?;
    let member = tree.members.first().ok_or("no member can be read")?;
    let content = store.content(member, path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    store.write_content(&content, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Returns the keys of all objects in a folder.
pub fn keys(backend: &dyn Backend, folder: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    backend.list(folder, &mut |key, _| keys.push(key)).unwrap();
    keys
}

/// Returns the bytes of an object.
pub fn object(backend: &dyn Backend, key: &Key) -> Vec<u8> {
    backend.read(key, u64::MAX).unwrap().to_vec()
}

/// Changes the bytes of an object.
pub fn change(backend: &MemoryBackend, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = object(backend, key);
    change(&mut bytes);
    backend.replace(key, bytes);
}

/// Loses an object.
#[track_caller]
pub fn lose(backend: &MemoryBackend, key: &Key) {
    assert!(backend.remove_raw(key).is_some(), "{key} was there");
}

/// Makes a copy of a store, object by object.
pub fn copy_of(backend: &dyn Backend) -> MemoryBackend {
    let copy = MemoryBackend::new();
    for key in keys(backend, "") {
        copy.replace(&key, object(backend, &key));
    }
    copy
}
