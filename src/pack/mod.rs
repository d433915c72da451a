//! Packs as a mechanism: filling one in memory, publishing it, reading its directory back.
//!
//! Layout is `format::pack`'s. A pack is filled in memory, named by the digest of its bytes, and
//! put whole, so that a pack under its final name is complete (I4). Does not own: which chunks go
//! into it, and where they are found again (`index`).

use crate::backend::{self, Backend, Key, Put};
use crate::codec::Encoding;
use crate::digest::Digest;
use crate::format;
use crate::format::header::StoreId;
use crate::format::pack::{Content, Directory, HEAD_BYTES, Record, TAIL_BYTES, Tail};
use crate::format::segment::PackEntry;
use crate::limits::{PACK_BYTES_MAX, PACK_BYTES_TARGET, PACK_CHUNKS_MAX};

/// What can go wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The pack's bytes are wrong.
    #[error("{key}: {source}")]
    Format {
        /// The pack.
        key: Key,
        /// What is wrong.
        source: format::Error,
    },
    /// The pack holds something else than its folder says.
    #[error("{key}: holds {actual:?}")]
    Content {
        /// The pack.
        key: Key,
        /// What it holds.
        actual: Content,
    },
}

/// Returns the key of a pack.
///
/// # Panics
/// Never: a digest is a valid name.
#[must_use]
pub fn key(content: Content, id: &Digest) -> Key {
    Key::new(format!("{}/{id}", content.folder())).expect("a digest is a valid name")
}

/// A pack being filled.
#[derive(Debug)]
pub struct PackBuilder {
    content: Content,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

impl PackBuilder {
    /// Starts a pack in `buffer`, whose capacity is reused.
    #[must_use]
    pub fn new(content: Content, store_id: StoreId, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&format::pack::encode_head(content, store_id));
        Self { content, bytes: buffer, records: Vec::new() }
    }

    /// Gives the pack a salt: random bytes, so that no other pack has its name.
    #[must_use]
    pub fn salted(mut self, salt: [u8; format::pack::SALT_BYTES]) -> Self {
        let at = format::pack::SALT_AT;
        self.bytes[at..at + salt.len()].copy_from_slice(&salt);
        self
    }

    /// Says whether a chunk with a body of `stored_bytes` still belongs into this pack.
    #[must_use]
    pub fn has_room(&self, stored_bytes: usize) -> bool {
        self.records.is_empty()
            || (self.bytes.len() + stored_bytes <= PACK_BYTES_TARGET
                && self.records.len() < PACK_CHUNKS_MAX)
    }

    /// Appends a chunk.
    pub fn push(
        &mut self,
        digest: Digest,
        plain_bytes: u32,
        encoding: Encoding,
        base: Option<Digest>,
        body: &[u8],
    ) {
        let (offset, stored_bytes) = (self.bytes.len() as u32, body.len() as u32);
        self.bytes.extend_from_slice(body);
        self.records.push(Record { digest, offset, stored_bytes, plain_bytes, encoding, base });
    }

    /// Returns the number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Says whether the pack has no chunk yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Closes the pack with its directory and names it.
    pub fn finish(mut self) -> FinishedPack {
        format::pack::append_directory(&mut self.bytes, &self.records);
        let entry = PackEntry {
            id: Digest::of(&self.bytes),
            bytes: self.bytes.len() as u64,
            content: self.content,
        };
        FinishedPack { entry, bytes: self.bytes, records: self.records }
    }
}

/// A whole pack in memory, not yet stored.
#[derive(Debug)]
#[must_use]
pub struct FinishedPack {
    /// Its name, length and content.
    pub entry: PackEntry,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its chunks.
    pub records: Vec<Record>,
}

impl FinishedPack {
    /// Stores the pack; it is durable and whole when this returns, also if a damaged one had its
    /// name.
    ///
    /// # Errors
    /// The backend's.
    pub fn publish(&self, backend: &dyn Backend) -> Result<Put, backend::Error> {
        let key = key(self.entry.content, &self.entry.id);
        backend::put_or_repair(backend, &key, &self.bytes)
    }
}

/// Reads and checks the directory of the pack `id`, which is `pack_bytes` long.
///
/// # Errors
/// The pack is missing, damaged, or holds something else than `content`.
pub fn read_directory(
    backend: &dyn Backend,
    content: Content,
    id: &Digest,
    pack_bytes: u64,
    store_id: StoreId,
) -> Result<Directory, Error> {
    let key = key(content, id);
    let wrong = |source| Error::Format { key: key.clone(), source };
    if pack_bytes < (HEAD_BYTES + TAIL_BYTES) as u64 || pack_bytes > PACK_BYTES_MAX as u64 {
        return Err(wrong(format::Error::Field {
            what: "pack",
            field: "length",
            actual: pack_bytes,
            allowed: "128 bytes to 64 MiB",
        }));
    }
    let mut tail = [0; TAIL_BYTES];
    backend.read_at(&key, pack_bytes - TAIL_BYTES as u64, &mut tail)?;
    let tail = Tail::parse(&tail, pack_bytes).map_err(wrong)?;
    let mut head = [0; HEAD_BYTES];
    backend.read_at(&key, 0, &mut head)?;
    // Bounded by the pack's length, which is bounded above.
    let directory_bytes = pack_bytes - TAIL_BYTES as u64 - tail.directory_at;
    let mut directory = vec![0; directory_bytes as usize];
    backend.read_at(&key, tail.directory_at, &mut directory)?;
    let directory =
        format::pack::decode_directory(&head, &directory, &tail, store_id).map_err(wrong)?;
    if directory.content == content {
        Ok(directory)
    } else {
        Err(Error::Content { key, actual: directory.content })
    }
}
