//! Frames and what is in them: "Frames", "Store header", "Manifests", "Commit log".

use super::cursor::Cursor;
use super::entry::{ListRef, list_ref};
use super::{Bytes, Id, Result, StoreId, demand};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub read_version: u32,
    pub write_version: u32,
    pub read_features: u64,
    pub write_features: u64,
    pub store_id: StoreId,
    pub created: i64,
    pub fixed_bytes: u32,
    pub cdc_min_bytes: u32,
    pub cdc_avg_bytes: u32,
    pub cdc_max_bytes: u32,
    pub small_bytes_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub member: String,
    pub source: Bytes,
    pub started: i64,
    pub files: u64,
    pub dirs: u64,
    pub symlinks: u64,
    pub specials: u64,
    pub bytes: u64,
    pub algorithm: Algorithm,
    pub checksum: Id,
    pub entries: ListRef,
    pub extensions: Vec<(String, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Blake3,
    Sha256,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    pub deployment: String,
    pub started: i64,
    pub finished: i64,
    /// Name and manifest.
    pub members: Vec<(String, Id)>,
    /// Name and reason.
    pub missing: Vec<(String, String)>,
    pub extensions: Vec<(String, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub number: u64,
    pub previous: Id,
    pub time: i64,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Promote { deployment: String, generation: u64, manifest: Id },
    Forget(Vec<(String, u64)>),
    Undo(Vec<(String, u64)>),
    Pin(String, u64),
    Unpin(String, u64),
    Condemn { basis: u64, list: Id },
    Collect { condemned: u64, list: Id },
    Collected { collect: u64 },
    Unknown { kind: u16, body: Bytes },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub run: String,
    pub number: u64,
    pub previous: Id,
    pub time: i64,
    pub event: Bytes,
}

/// "Removal".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub packs: Vec<Id>,
    pub pages: Vec<Id>,
    pub manifests: Vec<Id>,
}

/// Checks a frame and returns its payload.
pub fn open<'a>(bytes: &'a [u8], kind: &[u8]) -> Result<&'a [u8]> {
    demand(bytes.len() >= 56, format!("a frame of {} bytes", bytes.len()))?;
    let (signed, checksum) = bytes.split_at(bytes.len() - 32);
    let mut at = Cursor::new(signed);
    demand(at.take(8)? == b"STRONGRM", "no frame")?;
    demand(at.take(4)? == kind, "another kind of frame")?;
    demand(checksum == Id::of(signed).0, "the frame's checksum is wrong")?;
    let version = at.u16()?;
    demand(version == 1, format!("frame version {version}"))?;
    demand(at.u8()? == 0, "the frame is sealed")?;
    at.zero(1)?;
    let length = at.u64()?;
    demand(length == at.left() as u64, format!("{length} bytes of {} stated", at.left()))?;
    demand(length <= 16 << 20, "a payload above 16 MiB")?;
    at.take(at.left())
}

/// Decodes a payload that `read` must read to its end.
fn whole<'a, T>(payload: &'a [u8], read: impl Fn(&mut Cursor<'a>) -> Result<T>) -> Result<T> {
    let mut at = Cursor::new(payload);
    let value = read(&mut at)?;
    at.end()?;
    Ok(value)
}

pub fn header(bytes: &[u8]) -> Result<Header> {
    let header = whole(open(bytes, b"STOR")?, |at| {
        Ok(Header {
            read_version: at.u32()?,
            write_version: at.u32()?,
            read_features: at.u64()?,
            write_features: at.u64()?,
            store_id: StoreId(at.array()?),
            created: at.i64()?,
            fixed_bytes: at.u32()?,
            cdc_min_bytes: at.u32()?,
            cdc_avg_bytes: at.u32()?,
            cdc_max_bytes: at.u32()?,
            small_bytes_max: at.u32()?,
        })
    })?;
    demand(header.read_version <= 1, "the store needs a newer reader")?;
    demand(header.read_features == 0, "the store has features that this reader does not know")?;
    check_chunking(&header)?;
    Ok(header)
}

/// The bounds of chunking parameters: "Store header".
fn check_chunking(header: &Header) -> Result<()> {
    let Header { fixed_bytes, cdc_min_bytes, cdc_avg_bytes, cdc_max_bytes, .. } = *header;
    let good = (4096..=1 << 20).contains(&fixed_bytes)
        && fixed_bytes.is_power_of_two()
        && (64..=512 << 10).contains(&cdc_min_bytes)
        && (256..=1 << 20).contains(&cdc_avg_bytes)
        && (1024..=1 << 20).contains(&cdc_max_bytes)
        && cdc_min_bytes % 2 == 0
        && cdc_avg_bytes.is_power_of_two()
        && cdc_max_bytes % 2 == 0
        && cdc_min_bytes <= cdc_avg_bytes
        && cdc_avg_bytes <= cdc_max_bytes
        && header.small_bytes_max <= 1 << 20;
    demand(good, "chunking parameters")
}

pub fn artifact(bytes: &[u8]) -> Result<Artifact> {
    let artifact = whole(open(bytes, b"ARTI")?, |at| {
        Ok(Artifact {
            member: at.text()?,
            source: at.bytes()?,
            started: at.i64()?,
            files: at.u64()?,
            dirs: at.u64()?,
            symlinks: at.u64()?,
            specials: at.u64()?,
            bytes: at.u64()?,
            algorithm: match at.u32()? {
                0 => Algorithm::Blake3,
                1 => Algorithm::Sha256,
                other => return Err(format!("algorithm {other}")),
            },
            checksum: Id(at.array()?),
            entries: list_ref(at)?,
            extensions: at.seq(extension)?,
        })
    })?;
    check_name(&artifact.member)?;
    demand(artifact.extensions.len() <= 256, "too many extensions")?;
    Ok(artifact)
}

fn extension(at: &mut Cursor<'_>) -> Result<(String, Bytes)> {
    Ok((at.text()?, at.bytes()?))
}

pub fn generation(bytes: &[u8]) -> Result<Generation> {
    let generation = whole(open(bytes, b"GENE")?, |at| {
        Ok(Generation {
            deployment: at.text()?,
            started: at.i64()?,
            finished: at.i64()?,
            members: at.seq(|at| Ok((at.text()?, Id(at.array()?))))?,
            missing: at.seq(|at| Ok((at.text()?, at.text()?)))?,
            extensions: at.seq(extension)?,
        })
    })?;
    check_name(&generation.deployment)?;
    generation.members.iter().try_for_each(|(name, _)| check_name(name))?;
    generation.missing.iter().try_for_each(|(name, _)| check_name(name))?;
    demand(generation.extensions.len() <= 256, "too many extensions")?;
    let mut names: Vec<_> = generation.members.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    demand(names.windows(2).all(|pair| pair[0] != pair[1]), "a member appears twice")?;
    demand(names.len() + generation.missing.len() <= 65_536, "too many members")?;
    Ok(generation)
}

pub fn commit(bytes: &[u8]) -> Result<Commit> {
    whole(open(bytes, b"COMM")?, |at| {
        let (number, previous, time) = (at.u64()?, Id(at.array()?), at.i64()?);
        let (kind, body) = (at.u16()?, at.bytes()?);
        let event = match kind {
            1..=5 | 9..=11 => whole(&body.0, |at| event(kind, at))?,
            _ => Event::Unknown { kind, body },
        };
        Ok(Commit { number, previous, time, event })
    })
}

fn event(kind: u16, at: &mut Cursor<'_>) -> Result<Event> {
    let list = |at: &mut Cursor<'_>| Ok::<_, String>((at.u64()?, Id(at.array()?)));
    Ok(match kind {
        1 => {
            let (deployment, generation) = name(at)?;
            Event::Promote { deployment, generation, manifest: Id(at.array()?) }
        }
        2 | 3 => {
            let names = at.seq(name)?;
            demand((1..=65_536).contains(&names.len()), "generations in a record")?;
            if kind == 2 { Event::Forget(names) } else { Event::Undo(names) }
        }
        4 | 5 => {
            let (deployment, generation) = name(at)?;
            if kind == 4 {
                Event::Pin(deployment, generation)
            } else {
                Event::Unpin(deployment, generation)
            }
        }
        9 => {
            let (basis, list) = list(at)?;
            Event::Condemn { basis, list }
        }
        10 => {
            let (condemned, list) = list(at)?;
            Event::Collect { condemned, list }
        }
        _ => Event::Collected { collect: at.u64()? },
    })
}

fn name(at: &mut Cursor<'_>) -> Result<(String, u64)> {
    let (deployment, generation) = (at.text()?, at.u64()?);
    check_name(&deployment)?;
    demand((1..=i64::MAX as u64).contains(&generation), "number of a generation")?;
    Ok((deployment, generation))
}

pub fn removal(bytes: &[u8]) -> Result<Removal> {
    let ids = |at: &mut Cursor<'_>| at.seq(|at| Ok(Id(at.array()?)));
    let list = whole(open(bytes, b"REMO")?, |at| {
        Ok(Removal { packs: ids(at)?, pages: ids(at)?, manifests: ids(at)? })
    })?;
    let all = [&list.packs, &list.pages, &list.manifests];
    for ids in all {
        demand(ids.windows(2).all(|pair| pair[0] < pair[1]), "names not in order")?;
    }
    demand(all.iter().map(|ids| ids.len()).sum::<usize>() <= 262_144, "too many names")?;
    Ok(list)
}

/// The names of deployments and members: "Names".
fn check_name(name: &str) -> Result<()> {
    let good = (1..=128).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && !name.contains(['/', '@', ':', '='])
        && !name.chars().any(char::is_control);
    demand(good, format!("name {name:?}"))
}

pub fn journal(bytes: &[u8]) -> Result<Journal> {
    let record = whole(open(bytes, b"JRNL")?, |at| {
        Ok(Journal {
            run: at.text()?,
            number: at.u64()?,
            previous: Id(at.array()?),
            time: at.i64()?,
            event: at.bytes()?,
        })
    })?;
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = &record.run;
    demand((1..=64).contains(&name.len()), "length of a run's name")?;
    demand(name.bytes().all(good) && !name.starts_with('-'), "name of a run")?;
    Ok(record)
}

pub fn ended_journal(bytes: &[u8]) -> Result<Vec<Bytes>> {
    whole(open(bytes, b"JEND")?, |at| at.seq(|at| at.bytes()))
}
