//! A snapshot's directory, compared with what it says of itself and with what is known otherwise.
//! Nothing in it is followed, and lengths are bounded before anything is read.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::limits::MIB;
use crate::run::executor::reply;
use crate::run::executor::text::{printable, shortened};

/// What the snapshot says of itself.
pub const METADATA: &str = "metadata.json";
/// A download that has not ended.
pub const DOWNLOAD_PROGRESS: &str = ".download_progress.json";
/// An upload that has not ended.
pub const UPLOAD_PROGRESS: &str = ".upload_progress.json";
const LOCK: &str = ".lock";
const MODULE: &str = "wasm_module.bin";
const CHUNK_STORE: &str = "wasm_chunk_store";

/// Limits of the Internet Computer, in bytes: of a module, of a chunk of the chunk store, and of a
/// whole subnet, which no memory of a canister exceeds. (Its limits of memories are lower, differ
/// from kind to kind and have been raised before; a backup is not to fail on the next time.)
const MODULE_BYTES_MAX: u64 = 100 << 20;
const MEMORY_BYTES_MAX: u64 = 2 << 40;
const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Largest metadata that is read, in bytes.
const METADATA_BYTES_MAX: u64 = 4 * MIB as u64;
/// Differences that are told.
const FAULTS_MAX: usize = 5;

/// The fields that are needed; there are more, and there may be new ones.
#[derive(Deserialize)]
struct Metadata {
    taken_at_timestamp: Value,
    wasm_module_size: Value,
    wasm_memory_size: Value,
    stable_memory_size: Value,
    wasm_chunk_store: Vec<StoredChunk>,
}

#[derive(Deserialize)]
struct StoredChunk {
    hash: Value,
}

/// What is known of a snapshot beside its own words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// SHA-256 of the canister's module, lowercase hex.
    pub module_hash: Option<&'a str>,
    /// When the snapshot was taken, in nanoseconds since 1970.
    pub taken_at: Option<u64>,
}

/// Compares everything that can be compared; returns what was.
///
/// # Errors
/// What differs, with expected and actual.
pub fn check(dir: &Path, expected: Expected) -> Result<Vec<String>, String> {
    let metadata = read_small(&dir.join(METADATA), METADATA_BYTES_MAX)?;
    let metadata: Metadata =
        serde_json::from_slice(&metadata).map_err(|error| format!("{METADATA}: {error}"))?;
    let mut faults = Faults::default();
    let mut checked = Vec::new();

    let others = faults.of(root_names(dir)).unwrap_or_default();
    let sizes = [
        (MODULE, &metadata.wasm_module_size, MODULE_BYTES_MAX),
        ("wasm_memory.bin", &metadata.wasm_memory_size, MEMORY_BYTES_MAX),
        ("stable_memory.bin", &metadata.stable_memory_size, MEMORY_BYTES_MAX),
    ];
    let mut equal = Vec::new();
    for (name, announced, bytes_max) in sizes {
        if let Some(bytes) = faults.of(check_size(dir, name, announced, bytes_max)) {
            equal.push(format!("{name} {bytes}"));
        }
    }
    checked.push(format!("sizes in bytes as {METADATA} says: {}", equal.join(", ")));

    let taken_at = faults.of(reply::number("taken_at_timestamp", &metadata.taken_at_timestamp));
    match (taken_at, expected.taken_at) {
        (Some(says), Some(known)) if says != known => faults.add(format!(
            "{METADATA} is of a snapshot taken at {says}, and the one asked for was taken at {known}"
        )),
        (Some(says), Some(_)) => checked.push(format!("taken at {says}, as the service said")),
        _ => {}
    }

    if let Some(actual) = faults.of(sha256_of(&dir.join(MODULE), MODULE_BYTES_MAX)) {
        match expected.module_hash {
            Some(hash) if hash != actual => faults.add(format!(
                "SHA-256 of {MODULE} is {actual}, and the canister's module has {hash}"
            )),
            Some(_) => checked.push(format!("SHA-256 of {MODULE} is the module hash {actual}")),
            None => checked.push(format!("SHA-256 of {MODULE} is {actual}; not known otherwise")),
        }
    }
    if let Some(count) = faults.of(check_chunk_store(dir, &metadata.wasm_chunk_store)) {
        checked.push(format!("{count} chunks of the chunk store by their SHA-256"));
    }
    if !others.is_empty() {
        checked.push(format!("not known and not checked: {}", others.join(", ")));
    }
    faults.none()?;
    Ok(checked)
}

/// Differences found so far.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    fn of<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|fault| self.add(fault)).ok()
    }

    fn none(self) -> Result<(), String> {
        let more = self.0.len().saturating_sub(FAULTS_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        match self.0.len() {
            0 => Ok(()),
            _ => Err(self.0[..self.0.len().min(FAULTS_MAX)].join("; ") + &more),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Opens a regular file, without following a symlink or waiting for a fifo.
fn open(path: &Path) -> Result<(File, u64), String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(failed(path))?;
    let found = file.metadata().map_err(failed(path))?;
    if found.is_file() {
        Ok((file, found.len()))
    } else {
        Err(format!("{}: it is no regular file", path.display()))
    }
}

fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let (file, bytes) = open(path)?;
    if bytes > bytes_max {
        return Err(format!("{}: {bytes} bytes are more than {bytes_max}", path.display()));
    }
    let mut content = Vec::new();
    file.take(bytes_max).read_to_end(&mut content).map_err(failed(path))?;
    Ok(content)
}

/// Reads a small JSON file for what it may hold.
pub fn read_json(path: &Path) -> Result<Value, String> {
    let content = read_small(path, METADATA_BYTES_MAX)?;
    serde_json::from_slice(&content).map_err(|error| format!("{}: {error}", path.display()))
}

/// Looks at the names in a snapshot's directory; returns those of no known meaning.
fn root_names(dir: &Path) -> Result<Vec<String>, String> {
    let mut others = Vec::new();
    for item in std::fs::read_dir(dir).map_err(failed(dir))? {
        let item = item.map_err(failed(dir))?;
        let kind = item.file_type().map_err(failed(&item.path()))?;
        let name = item.file_name();
        let name = name.to_str().unwrap_or_default();
        let shown = || shortened(&printable(item.file_name().as_encoded_bytes()));
        match name {
            DOWNLOAD_PROGRESS | UPLOAD_PROGRESS => {
                return Err(format!("{name} is there: the transfer has not ended"));
            }
            CHUNK_STORE if kind.is_dir() => {}
            _ if name == CHUNK_STORE || !kind.is_file() => {
                return Err(format!("{}: it is of a kind that has no place here", shown()));
            }
            METADATA | LOCK | MODULE | "wasm_memory.bin" | "stable_memory.bin" => {}
            _ => others.push(shown()),
        }
    }
    others.sort_unstable();
    Ok(others)
}

/// Compares a file's size with the announced one.
fn check_size(dir: &Path, name: &str, announced: &Value, bytes_max: u64) -> Result<u64, String> {
    let announced = reply::number(&format!("{METADATA}: the size of {name}"), announced)?;
    let (_, actual) = open(&dir.join(name))?;
    if actual != announced {
        return Err(format!("{name} has {actual} bytes, and {METADATA} says {announced}"));
    }
    if actual > bytes_max {
        return Err(format!("{name} has {actual} bytes; {bytes_max} are possible"));
    }
    Ok(actual)
}

fn sha256_of(path: &Path, bytes_max: u64) -> Result<String, String> {
    let (file, bytes) = open(path)?;
    if bytes > bytes_max {
        return Err(format!("{}: {bytes} bytes are more than {bytes_max}", path.display()));
    }
    let (mut file, mut hasher) = (file.take(bytes_max), Sha256::new());
    let mut buffer = vec![0; MIB];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(path)(error)),
        }
    }
}

/// Compares the chunk store's files with their names, and their names with the metadata.
fn check_chunk_store(dir: &Path, announced: &[StoredChunk]) -> Result<usize, String> {
    let announced: BTreeSet<String> =
        announced.iter().map(|chunk| chunk_hash(&chunk.hash)).collect::<Result<_, _>>()?;
    let folder = dir.join(CHUNK_STORE);
    let mut found = BTreeSet::new();
    for path in files_of(&folder)? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let shown = || shortened(&printable(name));
        let hash = std::str::from_utf8(name).ok().and_then(|name| name.strip_suffix(".bin"));
        let Some(hash) = hash.filter(|hash| announced.contains(*hash)) else {
            return Err(format!("{CHUNK_STORE}/{} is not in {METADATA}", shown()));
        };
        let actual = sha256_of(&path, CHUNK_BYTES_MAX)?;
        if actual != hash {
            return Err(format!("{CHUNK_STORE}/{} has SHA-256 {actual}", shown()));
        }
        found.insert(hash.to_owned());
    }
    match announced.difference(&found).next() {
        Some(missing) => Err(format!("{CHUNK_STORE}/{missing}.bin is missing")),
        None => Ok(found.len()),
    }
}

/// Removes files of the chunk store that are not what their names say: an interrupted download
/// leaves them empty or in part, and `icp` takes every one that is there for a whole one.
pub fn remove_partial_chunks(dir: &Path) -> Result<(), String> {
    for path in files_of(&dir.join(CHUNK_STORE))? {
        let whole = format!("{}.bin", sha256_of(&path, CHUNK_BYTES_MAX)?);
        if path.file_name().is_none_or(|name| name != whole.as_str()) {
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Lists a folder that may be missing.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, String> {
    match std::fs::read_dir(folder) {
        Ok(items) => {
            items.map(|item| item.map(|item| item.path()).map_err(failed(folder))).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(folder)(error)),
    }
}

/// Returns a hash that is written as 32 numbers, or as text.
fn chunk_hash(value: &Value) -> Result<String, String> {
    let wrong = || format!("{METADATA}: a chunk's hash is not 32 bytes");
    let Value::Array(bytes) = value else {
        return reply::sha256("a chunk's hash", value);
    };
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
    bytes.filter(|bytes| bytes.len() == 32).map(|bytes| hex(&bytes)).ok_or_else(wrong)
}

/// Returns what would change if any file of the content were written again: names, sizes, times of
/// the last change of anything, and numbers on the device.
pub fn fingerprint(dir: &Path) -> Result<String, String> {
    use std::fmt::Write as _;
    use std::os::unix::fs::MetadataExt;

    let mut paths = files_of(dir)?;
    paths.extend(files_of(&dir.join(CHUNK_STORE))?);
    paths.sort_unstable();
    let mut text = String::new();
    for path in paths {
        let found = std::fs::symlink_metadata(&path).map_err(failed(&path))?;
        let name = path.file_name().unwrap_or_default();
        if name == LOCK || name == UPLOAD_PROGRESS || found.is_dir() {
            continue;
        }
        let (seconds, nanoseconds) = (found.ctime(), found.ctime_nsec());
        let (bytes, inode) = (found.len(), found.ino());
        let _ = writeln!(text, "{} {bytes} {seconds}.{nanoseconds} {inode}", path.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_chunk_store_only_whole_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        remove_partial_chunks(dir.path()).unwrap();
        let store = dir.path().join(CHUNK_STORE);
        std::fs::create_dir(&store).unwrap();
        let name = |content: &[u8]| format!("{}.bin", hex(&Sha256::digest(content)));
        let write = |name: String, content: &[u8]| {
            std::fs::write(store.join(name), content).unwrap();
        };
        write(name(b"whole"), b"whole");
        write(name(b"cut short"), b"cut");
        write(name(b"not begun"), b"");
        write("else".into(), b"else");
        remove_partial_chunks(dir.path()).unwrap();
        let left: Vec<_> = files_of(&store).unwrap();
        assert_eq!(left, [store.join(name(b"whole"))]);
        // A folder in its place: nothing can be gone on with.
        std::fs::create_dir(store.join("folder")).unwrap();
        assert!(remove_partial_chunks(dir.path()).is_err());
    }
}
