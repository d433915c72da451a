//! Entries, and the values in them: "Entries".

use super::cursor::Cursor;
use super::{Bytes, Id, Result, demand};

pub const CHUNK_BYTES_MAX: u64 = 1 << 20;
const FILE_BYTES_MAX: u64 = 1 << 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    pub bytes: u64,
    /// `None` for a hole.
    pub digest: Option<Id>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    pub digest: Id,
    pub items: u64,
    pub bytes: u64,
    pub key: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRef {
    pub levels: u8,
    pub top: Option<PageRef>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunking {
    Whole,
    Fixed { chunk_bytes: u32 },
    Cdc { min_bytes: u32, avg_bytes: u32, max_bytes: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunks {
    Inline(Vec<ChunkRef>),
    List(ListRef),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: u64,
    pub chunking: Chunking,
    pub blake3: Id,
    pub sha256: Option<Id>,
    pub chunks: Chunks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Content),
    HardLink(Bytes),
    Dir,
    Symlink { target: Bytes },
    Fifo,
    Socket,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

/// Seconds and nanoseconds.
pub type Time = (i64, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Bytes,
    pub node: Node,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub ctime: Time,
    pub inode: u64,
    pub xattrs: Vec<(Bytes, Bytes)>,
}

pub fn chunk_ref(at: &mut Cursor<'_>) -> Result<ChunkRef> {
    let (bytes, digest) = (at.u64()?, Id(at.array()?));
    let digest = (digest != Id([0; 32])).then_some(digest);
    let bytes_max = if digest.is_some() { CHUNK_BYTES_MAX } else { FILE_BYTES_MAX };
    demand((1..=bytes_max).contains(&bytes), format!("a chunk or hole of {bytes} bytes"))?;
    Ok(ChunkRef { bytes, digest })
}

pub fn page_ref(at: &mut Cursor<'_>) -> Result<PageRef> {
    let (digest, items, bytes) = (Id(at.array()?), at.u64()?, at.u64()?);
    Ok(PageRef { digest, items, bytes, key: at.bytes()? })
}

pub fn list_ref(at: &mut Cursor<'_>) -> Result<ListRef> {
    let (levels, top) = (at.u8()?, at.opt(page_ref)?);
    demand((levels > 0) == top.is_some() && levels <= 16, format!("a list of {levels} levels"))?;
    Ok(ListRef { levels, top })
}

pub fn chunking(at: &mut Cursor<'_>) -> Result<Chunking> {
    match at.u32()? {
        0 => Ok(Chunking::Whole),
        1 => {
            let chunk_bytes = at.u32()?;
            let good = (4096..=1 << 20).contains(&chunk_bytes) && chunk_bytes.is_power_of_two();
            demand(good, "chunking")?;
            Ok(Chunking::Fixed { chunk_bytes })
        }
        2 => {
            let (min_bytes, avg_bytes, max_bytes) = (at.u32()?, at.u32()?, at.u32()?);
            let good = (64..=512 << 10).contains(&min_bytes)
                && (256..=1 << 20).contains(&avg_bytes)
                && (1024..=1 << 20).contains(&max_bytes)
                && min_bytes % 2 == 0
                && avg_bytes.is_power_of_two()
                && max_bytes % 2 == 0
                && min_bytes <= avg_bytes
                && avg_bytes <= max_bytes;
            demand(good, "chunking")?;
            Ok(Chunking::Cdc { min_bytes, avg_bytes, max_bytes })
        }
        other => Err(format!("chunking {other}")),
    }
}

fn content(at: &mut Cursor<'_>) -> Result<Content> {
    let (bytes, chunking) = (at.u64()?, chunking(at)?);
    let (blake3, sha256) = (Id(at.array()?), at.opt(|at| at.array().map(Id))?);
    let chunks = match at.u32()? {
        0 => Chunks::Inline(at.seq(chunk_ref)?),
        1 => Chunks::List(list_ref(at)?),
        other => return Err(format!("chunks {other}")),
    };
    let sum = match &chunks {
        Chunks::Inline(chunks) => {
            demand(chunks.len() <= 8, format!("{} chunks in an entry", chunks.len()))?;
            chunks.iter().map(|chunk| chunk.bytes).sum()
        }
        Chunks::List(list) => list.top.as_ref().map_or(0, |top| top.bytes),
    };
    demand(bytes == sum && bytes <= FILE_BYTES_MAX, format!("{bytes} bytes in {sum}"))?;
    Ok(Content { bytes, chunking, blake3, sha256, chunks })
}

fn node(at: &mut Cursor<'_>) -> Result<Node> {
    match at.u32()? {
        0 => return content(at).map(Node::File),
        1 => {
            let target = at.bytes()?;
            check_path(&target.0)?;
            return Ok(Node::HardLink(target));
        }
        2 => {}
        other => return Err(format!("node {other}")),
    }
    match at.u32()? {
        1 => Ok(Node::Dir),
        2 => {
            let target = at.bytes()?;
            let good = !target.0.is_empty() && !target.0.contains(&0);
            demand(good, "a symlink target that is empty or holds NUL")?;
            Ok(Node::Symlink { target })
        }
        3 => Ok(Node::Fifo),
        4 => Ok(Node::Socket),
        5 => Ok(Node::CharDevice { major: at.u32()?, minor: at.u32()? }),
        6 => Ok(Node::BlockDevice { major: at.u32()?, minor: at.u32()? }),
        other => Err(format!("kind {other}")),
    }
}

fn time(at: &mut Cursor<'_>) -> Result<Time> {
    Ok((at.i64()?, at.u32()?))
}

pub fn entry(at: &mut Cursor<'_>) -> Result<Entry> {
    let entry = Entry {
        path: at.bytes()?,
        node: node(at)?,
        mode: at.u32()?,
        uid: at.u32()?,
        gid: at.u32()?,
        mtime: time(at)?,
        ctime: time(at)?,
        inode: at.u64()?,
        xattrs: at.seq(|at| Ok((at.bytes()?, at.bytes()?)))?,
    };
    check_path(&entry.path.0)?;
    demand(entry.mode <= 0o7777, format!("mode {:o}", entry.mode))?;
    demand(entry.mtime.1 < 1_000_000_000, format!("{} nanoseconds", entry.mtime.1))?;
    let good = entry
        .xattrs
        .iter()
        .all(|(name, value)| (1..=255).contains(&name.0.len()) && value.0.len() <= 65_536);
    demand(good && entry.xattrs.len() <= 1024, "extended attributes")?;
    let target = match &entry.node {
        Node::Symlink { target } => target.0.len(),
        Node::HardLink(target) => target.0.len(),
        _ => 0,
    };
    let attributes: usize =
        entry.xattrs.iter().map(|(name, value)| name.0.len() + value.0.len() + 16).sum();
    demand(entry.path.0.len() + target + attributes <= 512 << 10, "a large entry")?;
    Ok(entry)
}

/// "Paths".
fn check_path(path: &[u8]) -> Result<()> {
    let good = |name: &[u8]| {
        (1..=255).contains(&name.len()) && name != b"." && name != b".." && !name.contains(&0)
    };
    let good = path.is_empty() || path.split(|byte| *byte == b'/').all(good);
    demand(good && path.len() <= 65_536, format!("path {}", path.escape_ascii()))
}
