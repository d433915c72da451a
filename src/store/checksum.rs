//! Whole-content checksums: over ranges of a file that are finished out of order, and over the
//! entries of an artifact.
//!
//! Ranges are hashed in order by whichever thread brings the next one; nobody waits. While every
//! range so far equals the previous generation's, nothing is hashed at all: if that stays so to the
//! end, the previous checksum is the content's. At the first difference the equal beginning is read
//! again, from the page cache as a rule.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::buffers::Buffer;
use sha2::Digest as _;

use crate::digest::{Algorithm, ChecksumHasher, Checksums, hex};
use crate::format::manifest::{Entry, Node};
use crate::limits::MIB;

/// One range of content.
pub(super) enum Part {
    /// Bytes, from a place in a buffer on.
    Bytes(Arc<Buffer>, std::ops::Range<usize>),
    /// Zero bytes that were not read.
    Zeros(u64),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(_, range) => range.len() as u64,
            Self::Zeros(count) => *count,
        }
    }
}

/// The checksums of one file under way.
pub(super) struct OrderedChecksum {
    /// Where equal ranges are read again; there is one if there is a previous content.
    file: Option<Arc<File>>,
    with_sha256: bool,
    previous: Option<(u64, Checksums)>,
    state: Mutex<State>,
}

struct State {
    /// Offset of the next range to be hashed.
    next: u64,
    /// Ranges that arrived before their turn, with whether they equal the previous generation's.
    early: BTreeMap<u64, (Part, bool)>,
    /// `None` while everything before `next` is equal, or while a thread has it.
    hasher: Option<ChecksumHasher>,
    deferred: bool,
    busy: bool,
    abandoned: bool,
    failed: Option<io::Error>,
}

impl OrderedChecksum {
    /// Starts BLAKE3 over ranges that are compared with nothing.
    pub fn new() -> Self {
        Self::with(None, false, None)
    }

    /// Starts the checksums of `file`, whose ranges are compared with a previous generation;
    /// `previous` are length and checksums of its content there.
    pub fn comparing(
        file: Arc<File>,
        with_sha256: bool,
        previous: Option<(u64, Checksums)>,
    ) -> Self {
        Self::with(Some(file), with_sha256, previous)
    }

    fn with(
        file: Option<Arc<File>>,
        with_sha256: bool,
        previous: Option<(u64, Checksums)>,
    ) -> Self {
        let previous = previous.filter(|(_, checksums)| checksums.sha256.is_some() || !with_sha256);
        let deferred = previous.is_some();
        let state = State {
            next: 0,
            early: BTreeMap::new(),
            hasher: (!deferred).then(|| ChecksumHasher::new(with_sha256)),
            deferred,
            busy: false,
            abandoned: false,
            failed: None,
        };
        Self { file, with_sha256, previous, state: Mutex::new(state) }
    }

    /// Gives up: a range will never come. Buffers that wait for it are freed.
    pub fn abandon(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.abandoned = true;
        state.early.clear();
    }

    /// Hands over the range at `offset`. `equal` says that it equals the previous generation's.
    pub fn submit(&self, offset: u64, part: Part, equal: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.abandoned {
            return;
        }
        state.early.insert(offset, (part, equal));
        while !state.busy {
            let next = state.next;
            let Some((part, equal)) = state.early.remove(&next) else { return };
            state.next += part.len();
            if state.deferred && equal {
                continue;
            }
            state.busy = true;
            state.deferred = false;
            let hasher = state.hasher.take();
            drop(state);
            let hashed = self.hash(hasher, next, &part);
            // The buffer is free before anybody waits for the lock.
            drop(part);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match hashed {
                Ok(hasher) => state.hasher = Some(hasher),
                Err(error) => {
                    state.failed = Some(error);
                    state.hasher = Some(ChecksumHasher::new(false));
                }
            }
            state.busy = false;
        }
    }

    fn hash(
        &self,
        hasher: Option<ChecksumHasher>,
        offset: u64,
        part: &Part,
    ) -> io::Result<ChecksumHasher> {
        let mut hasher = match hasher {
            Some(hasher) => hasher,
            None => self.catch_up(offset)?,
        };
        match part {
            Part::Bytes(buffer, range) => hasher.update(&buffer[range.clone()]),
            Part::Zeros(count) => hasher.update_zeros(*count),
        }
        Ok(hasher)
    }

    /// Hashes the content before `end`, which was found equal and not hashed.
    fn catch_up(&self, end: u64) -> io::Result<ChecksumHasher> {
        let mut hasher = ChecksumHasher::new(self.with_sha256);
        let mut buffer = vec![0; MIB];
        let mut at = 0;
        while at < end {
            let len = (end - at).min(MIB as u64) as usize;
            let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
            file.read_exact_at(&mut buffer[..len], at)?;
            hasher.update(&buffer[..len]);
            at += len as u64;
        }
        Ok(hasher)
    }

    /// Returns the checksums of the whole content of `bytes`, and whether they were taken from the
    /// previous generation. All ranges must have been handed over, by threads that have returned.
    pub fn finish(&self, bytes: u64) -> io::Result<(Checksums, bool)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(state.next == bytes && state.early.is_empty(), "all ranges were handed over");
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.deferred
            && let Some((previous_bytes, checksums)) = self.previous
            && previous_bytes == bytes
        {
            return Ok((checksums, true));
        }
        let hasher = match state.hasher.take() {
            Some(hasher) => hasher,
            None => self.catch_up(bytes)?,
        };
        Ok((hasher.finish(), false))
    }
}

/// The checksum of a whole artifact: see "Directory checksum" in `store-format.md`.
pub(super) struct ArtifactChecksum {
    algorithm: Algorithm,
    blake3: Box<blake3::Hasher>,
    sha256: sha2::Sha256,
    /// The content's own checksum, if the root is a file.
    single: Option<[u8; 32]>,
    /// Checksums of files that later entries are links to.
    linked: HashMap<Vec<u8>, [u8; 32]>,
}

impl ArtifactChecksum {
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            blake3: Box::new(blake3::Hasher::new()),
            sha256: sha2::Sha256::new(),
            single: None,
            linked: HashMap::new(),
        }
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn of(&self, checksums: &Checksums) -> [u8; 32] {
        match (self.algorithm, checksums.sha256) {
            (Algorithm::Sha256, Some(sha256)) => sha256,
            _ => checksums.blake3.0,
        }
    }

    /// Adds an entry, in order of path. `linked` says whether later entries may be links to it.
    pub fn add(&mut self, entry: &Entry, linked: bool) {
        self.add_with(entry, None, linked);
    }

    /// Adds an entry whose content was found to have these checksums.
    pub fn add_with(&mut self, entry: &Entry, found: Option<&Checksums>, linked: bool) {
        let checksum = match &entry.node {
            Node::File(content) => self.of(found.unwrap_or(&content.checksums)),
            Node::HardLink(target) => self.linked.get(target).copied().unwrap_or_default(),
            Node::Other(_) => return,
        };
        if entry.path.is_empty() {
            self.single = Some(checksum);
        }
        if linked && entry.content().is_some() {
            self.linked.insert(entry.path.clone(), checksum);
        }
        let line = [&entry.path[..], &[0], hex(&checksum).as_bytes(), b"\n"].concat();
        match self.algorithm {
            Algorithm::Blake3 => drop(self.blake3.update(&line)),
            Algorithm::Sha256 => self.sha256.update(&line),
        }
    }

    /// Returns the checksum.
    pub fn finish(self) -> [u8; 32] {
        self.single.unwrap_or_else(|| match self.algorithm {
            Algorithm::Blake3 => *self.blake3.finalize().as_bytes(),
            Algorithm::Sha256 => self.sha256.finalize().into(),
        })
    }
}
