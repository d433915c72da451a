//! Packs and their chunks: "Packs" and "Encodings".

use zstd_safe::DCtx;

use super::cursor::Cursor;
use super::entry::CHUNK_BYTES_MAX;
use super::{Id, Result, StoreId, demand};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Chunks,
    Pages,
}

impl Content {
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::Chunks),
            1 => Ok(Self::Pages),
            other => Err(format!("content {other}")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Raw,
    Zstd,
    ZstdWithBase(Id),
}

/// Where and how a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub digest: Id,
    pub offset: u32,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
    pub encoding: Encoding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    pub content: Content,
    pub store_id: StoreId,
    pub chunks: Vec<Record>,
}

pub fn decode(bytes: &[u8]) -> Result<Pack> {
    demand((128..=64 << 20).contains(&bytes.len()), format!("a pack of {} bytes", bytes.len()))?;
    let (head, rest) = bytes.split_at(64);
    let (rest, tail) = rest.split_at(rest.len() - 64);
    let (content, store_id) = decode_head(head)?;

    let mut at = Cursor::new(tail);
    let (directory_at, count, bases) = (at.u64()?, at.u32()? as usize, at.u32()? as usize);
    let checksum: [u8; 32] = at.array()?;
    at.zero(8)?;
    demand(at.take(8)? == b"SRPKEND\n", "the pack does not end like one")?;
    demand(count <= 1 << 18 && bases <= count, format!("{count} chunks, {bases} bases"))?;
    let directory_bytes = count * 52 + bases * 32;
    let expected = bytes.len().checked_sub(64 + directory_bytes);
    demand(expected == Some(directory_at as usize), format!("directory at {directory_at}"))?;
    let bodies_bytes = (directory_at as usize).checked_sub(64).ok_or("directory in the head")?;
    let (_, directory) = rest.split_at(bodies_bytes);
    let actual = Id::of(&[head, directory].concat());
    demand(checksum == actual.0, "the pack's directory has another checksum")?;

    let (entries, bases) = directory.split_at(count * 52);
    let mut next = 64;
    let mut chunks = Vec::new();
    for entry in entries.chunks(52) {
        let stored = decode_entry(entry, bases)?;
        demand(stored.offset == next, format!("a body at {}, not {next}", stored.offset))?;
        next += stored.stored_bytes;
        chunks.push(stored);
    }
    demand(u64::from(next) == directory_at, "the bodies do not end where the directory begins")?;
    Ok(Pack { content, store_id, chunks })
}

fn decode_head(head: &[u8]) -> Result<(Content, StoreId)> {
    let mut at = Cursor::new(head);
    demand(at.take(8)? == b"SRPACK\r\n", "no pack")?;
    let version = at.u16()?;
    demand(version == 1, format!("pack version {version}"))?;
    let content = Content::from_byte(at.u8()?)?;
    demand(at.u8()? == 0, "the pack is sealed")?;
    at.spare(4)?;
    let store_id = StoreId(at.array()?);
    at.spare(32)?;
    at.end()?;
    Ok((content, store_id))
}

fn decode_entry(entry: &[u8], bases: &[u8]) -> Result<Record> {
    let mut at = Cursor::new(entry);
    let digest = Id(at.array()?);
    let (offset, stored_bytes, plain_bytes) = (at.u32()?, at.u32()?, at.u32()?);
    let encoding = encoding(&mut at, bases)?;
    at.end()?;
    let stored = Record { digest, offset, stored_bytes, plain_bytes, encoding };
    check(&stored)?;
    Ok(stored)
}

/// Reads encoding, spare bytes and ordinal of the base: the same in packs and in the index.
pub fn encoding(at: &mut Cursor<'_>, bases: &[u8]) -> Result<Encoding> {
    let byte = at.u8()?;
    at.spare(3)?;
    let ordinal = at.u32()?;
    match (byte, ordinal) {
        (0, u32::MAX) => Ok(Encoding::Raw),
        (1, u32::MAX) => Ok(Encoding::Zstd),
        (2, ordinal) => {
            let base = bases.chunks(32).nth(ordinal as usize).ok_or("a base that is not there")?;
            Ok(Encoding::ZstdWithBase(Id(base.try_into().map_err(|_| "half a base")?)))
        }
        _ => Err(format!("encoding {byte} with base {ordinal}")),
    }
}

/// Checks the lengths of a chunk.
pub fn check(stored: &Record) -> Result<()> {
    let good = |bytes: u32| (1..=CHUNK_BYTES_MAX).contains(&u64::from(bytes));
    demand(good(stored.stored_bytes) && good(stored.plain_bytes), "a chunk's length")?;
    let end = u64::from(stored.offset) + u64::from(stored.stored_bytes);
    demand(stored.offset >= 64 && end <= 64 << 20, "a chunk outside of its pack")
}

/// Decodes a chunk's body and checks the result against its name.
pub fn plain(stored: &Record, body: &[u8], base: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut plain = vec![0; stored.plain_bytes as usize];
    let failed = |code| zstd_safe::get_error_name(code).to_owned();
    let mut context = DCtx::create();
    let bytes = match stored.encoding {
        Encoding::Raw => {
            plain = body.to_vec();
            body.len()
        }
        Encoding::Zstd => context.decompress(&mut plain[..], body).map_err(failed)?,
        Encoding::ZstdWithBase(_) => {
            context.ref_prefix(base.ok_or("no base")?).map_err(failed)?;
            context.decompress(&mut plain[..], body).map_err(failed)?
        }
    };
    demand(bytes == stored.plain_bytes as usize, format!("decoded to {bytes} bytes"))?;
    demand(Id::of(&plain) == stored.digest, "decoded to other bytes")?;
    Ok(plain)
}
