//! Packs: immutable objects that hold many encoded chunks and describe themselves. See "Packs" in
//! `store-format.md`.
//!
//! Head (64 bytes), chunk bodies back to back, directory (52 bytes a chunk), bases (32 bytes
//! each), tail (64 bytes). The object's name is BLAKE3 of all its bytes. The tail's checksum covers
//! head, directory and bases, so a directory can be trusted without reading the bodies, and each
//! body is covered by its chunk's digest.

use super::header::StoreId;
use super::{Error, SEAL_NONE, check_seal, le};
use crate::digest::Digest;
use crate::limits::{CHUNK_BYTES_MAX, PACK_BYTES_MAX, PACK_CHUNKS_MAX, STORED_BYTES_MAX};
use crate::values::Encoding;

/// First bytes of a pack.
pub const HEAD_MAGIC: [u8; 8] = *b"SRPACK\r\n";
/// Last bytes of a pack.
pub const TAIL_MAGIC: [u8; 8] = *b"SRPKEND\n";
/// The version written, and the newest read.
pub const VERSION: u16 = 1;
/// Bytes of the head.
pub const HEAD_BYTES: usize = 64;
/// Where the salt is in the head.
pub const SALT_AT: usize = 32;
/// Bytes of the salt.
pub const SALT_BYTES: usize = 32;
/// Bytes of a directory entry.
pub const ENTRY_BYTES: usize = 52;
/// Bytes of a base: a digest.
pub const BASE_BYTES: usize = 32;
/// Bytes of the tail.
pub const TAIL_BYTES: usize = 64;
/// The value of an entry's base field for a chunk without base.
pub const NO_BASE: u32 = u32::MAX;

const WHAT: &str = "pack";

/// What a pack, or a chunk in it, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Content {
    /// Chunks of files, in `packs/`.
    Chunks = 0,
    /// List pages of manifests, in `pages/`.
    Pages = 1,
}

impl Content {
    /// Parses the content byte.
    ///
    /// # Errors
    /// [`Error::Field`] for unknown values.
    pub fn from_byte(byte: u8) -> Result<Self, Error> {
        match byte {
            0 => Ok(Self::Chunks),
            1 => Ok(Self::Pages),
            _ => Err(Error::Field {
                what: WHAT,
                field: "content",
                actual: u64::from(byte),
                allowed: "0 or 1",
            }),
        }
    }

    /// Returns the folder of packs with this content.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Chunks => "packs",
            Self::Pages => "pages",
        }
    }
}

/// Where and how one chunk is stored inside a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The chunk's name: the digest of its plain bytes.
    pub digest: Digest,
    /// Where its body begins, in bytes from the beginning of the pack.
    pub offset: u32,
    /// Length of its body.
    pub stored_bytes: u32,
    /// Length of its plain bytes.
    pub plain_bytes: u32,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The base chunk, exactly if the encoding is [`Encoding::ZstdWithBase`].
    pub base: Option<Digest>,
}

impl Record {
    /// Checks what the format demands of any record, in a pack or in the index.
    pub(super) fn check(&self, what: &'static str) -> Result<(), Error> {
        let bounded = |field, actual: u32, bytes_max: usize, allowed| {
            if actual as usize <= bytes_max && actual > 0 {
                Ok(())
            } else {
                Err(Error::Field { what, field, actual: u64::from(actual), allowed })
            }
        };
        bounded("plain length", self.plain_bytes, CHUNK_BYTES_MAX, "1 to 1 MiB")?;
        bounded("stored length", self.stored_bytes, STORED_BYTES_MAX, "1 to 1 MiB")?;
        let (end, last) = (u64::from(self.offset) + u64::from(self.stored_bytes), PACK_BYTES_MAX);
        if (self.offset as usize) < HEAD_BYTES || end > last as u64 {
            let actual = u64::from(self.offset);
            return Err(Error::Field { what, field: "offset", actual, allowed: "inside the pack" });
        }
        if self.base.is_some() != (self.encoding == Encoding::ZstdWithBase) {
            let actual = u64::from(self.base.is_some());
            let allowed = "present exactly for encoding 2";
            return Err(Error::Field { what, field: "base", actual, allowed });
        }
        Ok(())
    }
}

/// The directory of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// What the pack holds.
    pub content: Content,
    /// The store that the pack belongs to.
    pub store_id: StoreId,
    /// Its chunks in the order of their bodies, which lie back to back.
    pub records: Vec<Record>,
}

/// Returns the head of a pack.
#[must_use]
pub fn encode_head(content: Content, store_id: StoreId) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&HEAD_MAGIC);
    head[8..10].copy_from_slice(&VERSION.to_le_bytes());
    head[10] = content as u8;
    head[11] = SEAL_NONE;
    head[16..32].copy_from_slice(&store_id.0);
    head
}

/// Appends directory, bases and tail to a pack that so far consists of head and bodies.
///
/// # Panics
/// If the records do not describe the bodies: a bug of the caller.
pub fn append_directory(pack: &mut Vec<u8>, records: &[Record]) {
    assert!(records.len() <= PACK_CHUNKS_MAX, "pack within the limits of the format");
    let directory_at = pack.len();
    let mut bases = Vec::new();
    let mut next = HEAD_BYTES as u32;
    for record in records {
        assert_eq!(record.offset, next, "bodies lie back to back");
        assert!(record.check(WHAT).is_ok(), "record within the limits of the format");
        next += record.stored_bytes;
        encode_record(record, &mut bases, pack);
    }
    assert_eq!(next as usize, directory_at, "the directory follows the last body");
    for base in &bases {
        pack.extend_from_slice(&base.0);
    }
    let checksum = tail_checksum(&pack[..HEAD_BYTES], &pack[directory_at..]);
    pack.extend_from_slice(&(directory_at as u64).to_le_bytes());
    pack.extend_from_slice(&(records.len() as u32).to_le_bytes());
    pack.extend_from_slice(&(bases.len() as u32).to_le_bytes());
    pack.extend_from_slice(&checksum.0);
    pack.extend_from_slice(&[0; 8]);
    pack.extend_from_slice(&TAIL_MAGIC);
    assert!(pack.len() <= PACK_BYTES_MAX, "pack within the limits of the format");
}

fn encode_record(record: &Record, bases: &mut Vec<Digest>, out: &mut Vec<u8>) {
    let base = record.base.map_or(NO_BASE, |base| {
        bases.push(base);
        bases.len() as u32 - 1
    });
    out.extend_from_slice(&record.digest.0);
    out.extend_from_slice(&record.offset.to_le_bytes());
    out.extend_from_slice(&record.stored_bytes.to_le_bytes());
    out.extend_from_slice(&record.plain_bytes.to_le_bytes());
    out.extend_from_slice(&[record.encoding as u8, 0, 0, 0]);
    out.extend_from_slice(&base.to_le_bytes());
}

fn tail_checksum(head: &[u8], directory: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(directory);
    Digest(*hasher.finalize().as_bytes())
}

/// The tail of a pack: where its directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where the directory begins; directory and bases reach to the tail.
    pub directory_at: u64,
    records: usize,
    bases: usize,
    checksum: Digest,
}

impl Tail {
    /// Parses the last [`TAIL_BYTES`] of a pack of `pack_bytes`.
    ///
    /// # Errors
    /// The pack is truncated, damaged, or no pack.
    pub fn parse(tail: &[u8; TAIL_BYTES], pack_bytes: u64) -> Result<Self, Error> {
        let field = |field, actual, allowed| Error::Field { what: WHAT, field, actual, allowed };
        if tail[56..] != TAIL_MAGIC {
            return Err(Error::Magic { what: "pack (end)" });
        }
        if pack_bytes > PACK_BYTES_MAX as u64 {
            return Err(field("length", pack_bytes, "at most 64 MiB"));
        }
        let (records, bases) = (le::u32(tail, 8) as usize, le::u32(tail, 12) as usize);
        if records > PACK_CHUNKS_MAX || bases > records {
            return Err(field(
                "chunk count",
                records as u64,
                "at most 262144, bases at most as many",
            ));
        }
        let directory_at = le::u64(tail, 0);
        let directory_bytes = (records * ENTRY_BYTES + bases * BASE_BYTES) as u64;
        let end = directory_at.checked_add(directory_bytes + TAIL_BYTES as u64);
        if directory_at < HEAD_BYTES as u64 || end != Some(pack_bytes) {
            return Err(field("directory offset", directory_at, "such that it ends at the tail"));
        }
        if tail[48..56] != [0; 8] {
            return Err(field("reserved", le::u64(tail, 48), "0"));
        }
        Ok(Self { directory_at, records, bases, checksum: Digest(le::array(tail, 16)) })
    }
}

/// Decodes the directory of a pack from its head and the bytes between directory and tail.
///
/// # Errors
/// The pack is damaged, sealed, newer, or belongs to another store than `store_id`.
pub fn decode_directory(
    head: &[u8; HEAD_BYTES],
    directory: &[u8],
    tail: &Tail,
    store_id: StoreId,
) -> Result<Directory, Error> {
    let expected = tail.checksum;
    let actual = tail_checksum(head, directory);
    if head[..8] != HEAD_MAGIC {
        return Err(Error::Magic { what: WHAT });
    }
    if expected != actual {
        return Err(Error::Checksum { what: "pack directory", expected, actual });
    }
    let version = le::u16(head, 8);
    if version > VERSION {
        let (actual, supported) = (u64::from(version), u64::from(VERSION));
        return Err(Error::Newer { what: WHAT, actual, supported });
    }
    check_seal(WHAT, head[11])?;
    let content = Content::from_byte(head[10])?;
    let owner = StoreId(le::array(head, 16));
    if owner != store_id {
        return Err(Error::OtherStore { what: WHAT, expected: store_id, actual: owner });
    }
    let split = tail.records * ENTRY_BYTES;
    if directory.len() != split + tail.bases * BASE_BYTES {
        let (expected, actual) = (split as u64, directory.len() as u64);
        return Err(Error::TooShort { what: "pack directory", expected, actual });
    }
    let (entries, bases) = directory.split_at(split);
    let mut records = Vec::with_capacity(tail.records);
    let mut next = HEAD_BYTES as u64;
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let record = decode_record(entry, bases)?;
        if u64::from(record.offset) != next {
            let actual = u64::from(record.offset);
            let allowed = "the end of the body before";
            return Err(Error::Field { what: WHAT, field: "offset", actual, allowed });
        }
        next += u64::from(record.stored_bytes);
        records.push(record);
    }
    if next != tail.directory_at {
        let allowed = "the end of the last body";
        return Err(Error::Field { what: WHAT, field: "directory offset", actual: next, allowed });
    }
    Ok(Directory { content, store_id, records })
}

fn decode_record(entry: &[u8], bases: &[u8]) -> Result<Record, Error> {
    let base = match le::u32(entry, 48) {
        NO_BASE => None,
        ordinal if (ordinal as usize) < bases.len() / BASE_BYTES => {
            Some(Digest(le::array(bases, ordinal as usize * BASE_BYTES)))
        }
        ordinal => {
            let (actual, allowed) = (u64::from(ordinal), "less than the number of bases");
            return Err(Error::Field { what: WHAT, field: "base", actual, allowed });
        }
    };
    let encoding = encoding(WHAT, entry[44])?;
    let record = Record {
        digest: Digest(le::array(entry, 0)),
        offset: le::u32(entry, 32),
        stored_bytes: le::u32(entry, 36),
        plain_bytes: le::u32(entry, 40),
        encoding,
        base,
    };
    record.check(WHAT)?;
    Ok(record)
}

/// Parses an encoding byte of a record.
pub(super) fn encoding(what: &'static str, byte: u8) -> Result<Encoding, Error> {
    match Encoding::from_byte(byte) {
        Some(encoding) => Ok(encoding),
        None if byte == Encoding::SEALED_RESERVED => Err(Error::Sealed { what, method: byte }),
        None => {
            let (actual, supported) = (u64::from(byte), Encoding::ZstdWithBase as u64);
            Err(Error::Newer { what, actual, supported })
        }
    }
}

/// Decodes the directory of a whole pack in memory.
///
/// # Errors
/// As [`decode_directory`].
pub fn directory_of(pack: &[u8], store_id: StoreId) -> Result<Directory, Error> {
    let short = || Error::TooShort {
        what: WHAT,
        expected: (HEAD_BYTES + TAIL_BYTES) as u64,
        actual: pack.len() as u64,
    };
    if pack.len() < HEAD_BYTES + TAIL_BYTES {
        return Err(short());
    }
    let head: &[u8; HEAD_BYTES] = pack.first_chunk().ok_or_else(short)?;
    let tail: &[u8; TAIL_BYTES] = pack.last_chunk().ok_or_else(short)?;
    let tail = Tail::parse(tail, pack.len() as u64)?;
    let directory = &pack[tail.directory_at as usize..pack.len() - TAIL_BYTES];
    decode_directory(head, directory, &tail, store_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Directory) {
        let store_id = StoreId([3; 16]);
        let mut pack = encode_head(Content::Chunks, store_id).to_vec();
        let mut records = Vec::new();
        for (body, base) in [(&b"first"[..], None), (b"second", Some(Digest::of(b"base")))] {
            records.push(Record {
                digest: Digest::of(body),
                offset: pack.len() as u32,
                stored_bytes: body.len() as u32,
                plain_bytes: 100,
                encoding: if base.is_some() { Encoding::ZstdWithBase } else { Encoding::Raw },
                base,
            });
            pack.extend_from_slice(body);
        }
        append_directory(&mut pack, &records);
        (pack, Directory { content: Content::Chunks, store_id, records })
    }

    #[test]
    fn a_directory_survives_and_every_damage_outside_the_bodies_is_found() {
        let (pack, directory) = sample();
        let store_id = directory.store_id;
        assert_eq!(directory_of(&pack, store_id), Ok(directory.clone()));
        let bodies = HEAD_BYTES..HEAD_BYTES + 11;
        for bit in (0..pack.len() * 8).filter(|bit| !bodies.contains(&(bit / 8))) {
            let mut bad = pack.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(directory_of(&bad, store_id).is_err(), "bit {bit}");
        }
        for len in 0..pack.len() {
            assert!(directory_of(&pack[..len], store_id).is_err(), "length {len}");
        }
        let other = directory_of(&pack, StoreId([4; 16]));
        assert!(matches!(other, Err(Error::OtherStore { .. })));
    }
}
