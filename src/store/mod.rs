//! Store: what a store can do. Ingest, promote, read, verify, restore, compare, count.
//!
//! Data flows one way in each: `ingest` from sources into packs and list pages, `promote` from
//! staged artifacts to a visible generation, `restore` and `verify` from a generation back to
//! bytes. The order of writes is D9's: packs, list pages, index segments, manifests, commit record.
//! Does not own: plans and runs, arguments and output.

mod buffers;
mod checksum;
mod chunks;
mod diff;
mod error;
mod fence;
mod history;
mod ingest;
mod keeping;
mod list;
mod naming;
mod progress;
mod promote;
mod prune;
mod reach;
mod readback;
mod restore;
mod stats;
mod tree;
mod verify;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::backend::{self, Backend, Key, Put};
use crate::chunker::Params;
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::frame::FRAME_BYTES_MAX;
use crate::format::header::{Access, Header, StoreId};
use crate::format::manifest::{Artifact, Generation as GenerationManifest};
use crate::index::Index;
use crate::lease::Lease;
use crate::log::{self, Log};

pub use crate::format::manifest::{Chunks, Content, Counts, Entry, Extension, Missing, Node};
pub use crate::format::page::ChunkRef;
pub use crate::format::record::{GenerationName, GenerationNumber};
pub use chunks::{ChunkFault, ChunkReader, ChunkReason, Wanted};
pub use diff::{Change, ChangeKind, DiffReport};
pub use error::{Error, LabelError};
pub use ingest::{IngestOptions, IngestStats, MemberSource, MemberSummary, SourceFault};
pub use list::{ListIter, PageFault, PageReason};
pub use naming::{Reference, Which, parse_label};
pub use progress::Progress;
pub use promote::{BackupReport, Durable, DurableArtifact, Staged, Verified};
pub use prune::{
    Condemned, Due, GRACE_NANOS, Kept, KeptBy, PruneOptions, PrunePlan, PruneReport, PutOff,
    REWRITE_BYTES, Retention, Waiting,
};
pub use readback::ReadBack;
pub use restore::{RestoreFailure, RestoreOptions, RestoreReport};
pub use stats::{GenerationStats, StatsReport};
pub use tree::{ChunkIter, Member, Tree, WriteError};
pub use verify::{Affected, Damage, DamageKind, Scope, Unreadable, VerifyReport};

/// Key of the store header.
pub const HEADER_KEY: &str = "store";
/// Folder of the manifests.
pub const MANIFESTS: &str = "manifests";

/// What a new store is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreConfig {
    /// How content is cut.
    pub chunking: Params,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    backend: Arc<dyn Backend>,
    header: Header,
    access: Access,
    index: OnceLock<Index>,
    opening: Mutex<()>,
    /// When the index was made anew, as [`Index::left`] counts, because it lacked a chunk.
    recovered: Mutex<Option<u64>>,
    /// When packs that no segment names were looked for, because a pack was not there.
    covered: Mutex<Option<u64>>,
    /// Whether the index was made anew: it may have known of lost packs what the packs do not tell.
    rebuilt: AtomicBool,
    /// Whether the index was found to be damaged when a chunk was not where it says.
    doubted: OnceLock<bool>,
}

impl Store {
    /// Makes a store in an empty backend.
    ///
    /// # Errors
    /// [`Error::Exists`] if the backend holds a store already.
    pub fn create(backend: Arc<dyn Backend>, config: StoreConfig) -> Result<Self, Error> {
        let header = Header::new(StoreId(random()?), UnixNanos::now(), config.chunking);
        match backend.put(&header_key(), &[&header.encode()])? {
            Put::Created => Ok(Self::with(backend, header, Access::ReadWrite)),
            Put::Existed => Err(Error::Exists { location: backend.location() }),
        }
    }

    /// Opens the store in a backend.
    ///
    /// # Errors
    /// [`Error::NotAStore`] if there is none; [`Error::Header`] if its header is damaged or asks
    /// for a newer program.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let location = backend.location();
        let bytes = match backend.read(&header_key(), FRAME_BYTES_MAX as u64) {
            Ok(bytes) => bytes,
            Err(backend::Error::NotFound { .. }) => return Err(Error::NotAStore { location }),
            Err(error) => return Err(error.into()),
        };
        let (header, access) =
            Header::decode(&bytes).map_err(|source| Error::Header { location, source })?;
        Ok(Self::with(backend, header, access))
    }

    fn with(backend: Arc<dyn Backend>, header: Header, access: Access) -> Self {
        Self {
            backend,
            header,
            access,
            index: OnceLock::new(),
            opening: Mutex::new(()),
            recovered: Mutex::new(None),
            covered: Mutex::new(None),
            rebuilt: AtomicBool::new(false),
            doubted: OnceLock::new(),
        }
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Returns the header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the store's identity.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.header.store_id
    }

    /// Says whether this program may write to the store.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Reads the commit log.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn log(&self) -> Result<Log, Error> {
        Ok(Log::read(self.backend())?)
    }

    /// Returns the index, opened at the first call. An index that is damaged, or empty while there
    /// are packs, is rebuilt from the packs.
    ///
    /// # Errors
    /// The storage failed.
    pub fn index(&self) -> Result<&Index, Error> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = Index::open(self.backend(), self.id())?;
        if !index.damaged().is_empty() || index.snapshot().segments().is_empty() {
            self.rebuild_index(&index)?;
        }
        Ok(self.index.get_or_init(|| index))
    }

    /// Takes a writer's lease.
    fn writer(&self) -> Result<Lease, Error> {
        if self.access == Access::ReadOnly {
            return Err(Error::NeedsNewer { write_version: self.header.write_version });
        }
        let lease = Lease::writer(self.backend())?;
        // Under the lease, so that nobody removes anything between this look and the backup.
        match self.log()?.unknown_kind() {
            Some(kind) => Err(Error::NewerRecords { kind }),
            None => Ok(lease),
        }
    }

    /// Reads the manifest of a generation.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn generation(&self, id: &Digest) -> Result<GenerationManifest, Error> {
        self.manifest(id, GenerationManifest::decode)
    }

    /// Reads the manifest of an artifact.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn artifact(&self, id: &Digest) -> Result<Artifact, Error> {
        self.manifest(id, Artifact::decode)
    }

    fn manifest<T>(
        &self,
        id: &Digest,
        decode: impl Fn(&[u8]) -> Result<T, crate::format::Error>,
    ) -> Result<T, Error> {
        let key = manifest_key(id);
        let bytes = self.backend.read(&key, FRAME_BYTES_MAX as u64)?;
        let actual = Digest::of(&bytes);
        if actual != *id {
            let source = crate::format::Error::Checksum { what: "manifest", expected: *id, actual };
            return Err(Error::Manifest { key, source });
        }
        decode(&bytes).map_err(|source| Error::Manifest { key, source })
    }

    /// Resolves a reference to a visible generation.
    ///
    /// # Errors
    /// [`Error::UnknownDeployment`] or [`Error::UnknownGeneration`].
    pub fn resolve(&self, reference: &Reference) -> Result<log::Generation, Error> {
        naming::resolve(&self.log()?, reference)
    }
}

/// Returns random bytes.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|source| Error::Random { reason: source.to_string() })?;
    Ok(bytes)
}

fn header_key() -> Key {
    Key::new(HEADER_KEY).expect("a valid key")
}

/// Returns the key of a manifest.
fn manifest_key(id: &Digest) -> Key {
    Key::new(format!("{MANIFESTS}/{id}")).expect("a digest is a valid name")
}
