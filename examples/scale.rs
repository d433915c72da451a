//! Measures how the index and the manifests grow: makes an index of many chunks without the chunks,
//! opens it, asks it, and builds the chunk lists of a large image.
//!
//! ```text
//! cargo run --release --example scale -- DIR [MILLION_CHUNKS] [IMAGE_GIB]
//! ```
//!
//! DIR must not exist; it takes 57 bytes a chunk (2.9 GB for the default of 50 million). Cold
//! look-ups need root, to drop the page cache; they are left out otherwise.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use strongroom::backend::LocalBackend;
use strongroom::codec::{Encoder, Encoding, Level};
use strongroom::digest::Digest;
use strongroom::format::pack::{Content, Record};
use strongroom::format::page::{ChunkRef, Item as _, PageBuilder};
use strongroom::format::segment::{Entry, PackEntry};
use strongroom::index::Index;
use strongroom::store::{Store, StoreConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Chunks of 64 KiB at a ratio of 2 in a pack of 24 MiB.
const CHUNKS_PER_PACK: u64 = 768;
const CHUNK_BYTES: u64 = 64 << 10;
const PARTS: u64 = 128;
const LOOKUPS: u64 = 1_000_000;

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: scale DIR [MILLION_CHUNKS] [IMAGE_GIB]")?);
    let mut number = |default| -> Result<u64> {
        Ok(args.next().map_or(Ok(default), |text| text.to_string_lossy().parse())?)
    };
    let (chunks, image_gib) = (number(50)? * 1_000_000, number(500)?);
    make_index(&dir, chunks)?;
    measure_index(&dir, chunks)?;
    measure_lists(image_gib)
}

/// The digest of a made-up chunk: its first bits are its part, so that parts can be sorted alone.
fn digest(number: u64) -> Digest {
    let mut digest = Digest::of(&number.to_le_bytes());
    digest.0[0] = (digest.0[0] & 1) | ((number % PARTS) as u8) << 1;
    digest
}

fn make_index(dir: &std::path::Path, chunks: u64) -> Result<()> {
    let backend: Arc<LocalBackend> = Arc::new(LocalBackend::create(dir)?);
    let store = Store::create(backend, StoreConfig::default())?;
    let index = Index::open(store.backend(), store.id())?;
    let started = Instant::now();
    for part in 0..PARTS {
        let mut packs: Vec<PackEntry> = Vec::new();
        let entry = |(position, number): (u64, u64)| {
            if position.is_multiple_of(CHUNKS_PER_PACK) {
                let id = Digest::of(&[part.to_le_bytes(), position.to_le_bytes()].concat());
                packs.push(PackEntry { id, bytes: 24 << 20, content: Content::Chunks });
            }
            let record = Record {
                digest: digest(number),
                offset: 64 + (position % CHUNKS_PER_PACK) as u32 * 31_000,
                stored_bytes: 31_000,
                plain_bytes: CHUNK_BYTES as u32,
                encoding: Encoding::Zstd,
                base: None,
            };
            Entry { pack: packs.len() as u32 - 1, record }
        };
        let numbers = (part..chunks).step_by(PARTS as usize);
        let entries: Vec<_> = (0..).zip(numbers).map(entry).collect();
        index.write_segment(store.backend(), &packs, entries)?;
    }
    println!("made an index of {chunks} chunks in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn measure_index(dir: &std::path::Path, chunks: u64) -> Result<()> {
    let cold = std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    let anonymous = resident("RssAnon:")?;
    let started = Instant::now();
    let store = Store::open(Arc::new(LocalBackend::open(dir)?))?;
    let snapshot = store.index()?.snapshot();
    let opened = started.elapsed();
    let bytes: u64 = snapshot.segments().iter().map(|segment| segment.bytes_len()).sum();
    println!(
        "opened{}: {:.3} s; {} segments, {:.2} GB on disk, {:.1} bytes a chunk",
        if cold { " cold" } else { "" },
        opened.as_secs_f64(),
        snapshot.segments().len(),
        bytes as f64 / 1e9,
        bytes as f64 / chunks as f64
    );
    let own = resident("RssAnon:")?.saturating_sub(anonymous);
    println!("resident after opening: {own} KiB own, {} KiB with maps", resident("VmRSS:")?);
    if cold {
        let time = look_up(&snapshot, chunks, 2_000, true);
        println!("look-up cold: {:.1} us each", time * 1e6);
    }
    let pages: u64 = snapshot.segments().iter().map(|segment| warm(segment)).sum();
    for (name, hit) in [("hit", true), ("miss", false)] {
        let time = look_up(&snapshot, chunks, LOOKUPS, hit);
        println!("look-up warm, {name}: {:.2} us each, {:.1} million/s", time * 1e6, 1e-6 / time);
    }
    println!("(warmed {pages} entries)");
    Ok(())
}

fn warm(segment: &strongroom::index::Segment) -> u64 {
    segment.entries().flatten().count() as u64
}

/// Looks chunks up in no order; returns seconds for each.
fn look_up(snapshot: &strongroom::index::Snapshot, chunks: u64, count: u64, hit: bool) -> f64 {
    let wanted: Vec<_> = (0..count)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % chunks + if hit { 0 } else { chunks })
        .map(digest)
        .collect();
    let started = Instant::now();
    let found = wanted.iter().filter(|digest| snapshot.find(digest).is_some()).count() as u64;
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(found, if hit { count } else { 0 });
    seconds / count as f64
}

fn resident(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

/// Builds the chunk lists of an image and of its next generation, in which one page of 4 KiB in a
/// hundred has changed, and adds up what the second one adds to the store.
fn measure_lists(image_gib: u64) -> Result<()> {
    let chunks = (image_gib << 30) / CHUNK_BYTES;
    // A chunk has 16 pages: it changed unless none of them did.
    let changed_part = 1.0 - 0.99f64.powi(16);
    let changed = |number: u64| {
        let draw = Digest::of(&[number, 7].map(u64::to_le_bytes).concat());
        f64::from(u32::from_le_bytes([draw.0[0], draw.0[1], draw.0[2], draw.0[3]]))
            < changed_part * f64::from(u32::MAX)
    };
    let first = pages(chunks, |_| false);
    let second = pages(chunks, changed);
    let known: HashSet<_> = first.iter().map(|page| Digest::of(page)).collect();
    let (mut new, mut alone, mut deltas) = (0u64, 0u64, 0u64);
    for (page, base) in second.iter().zip(&first) {
        if known.contains(&Digest::of(page)) {
            continue;
        }
        new += 1;
        let mut stored = Vec::new();
        Encoder::new()?.encode(page, Level::DENSE, &mut stored);
        alone += stored.len() as u64;
        let (room, mut delta) = (stored.len() / 2, Vec::new());
        let took = Encoder::new()?.encode_with_base(page, base, Level::DENSE, room, &mut delta);
        deltas += if took { delta.len() + 64 } else { stored.len() } as u64;
    }
    println!(
        "chunk list of a {image_gib} GiB image: {} pages, {:.1} MB plain",
        first.len(),
        first.iter().map(Vec::len).sum::<usize>() as f64 / 1e6
    );
    println!(
        "next generation, 1% of 4 KiB pages ({:.1}% of chunks) changed: {new} new pages; \
         {:.1} MB alone, {:.1} MB as deltas",
        changed_part * 100.0,
        alone as f64 / 1e6,
        deltas as f64 / 1e6
    );
    Ok(())
}

fn pages(chunks: u64, changed: impl Fn(u64) -> bool) -> Vec<Vec<u8>> {
    let (mut pages, mut page) = (Vec::new(), PageBuilder::new::<ChunkRef>(0));
    for number in 0..chunks {
        let version = u64::from(changed(number));
        let digest = Digest::of(&[number, version].map(u64::to_le_bytes).concat());
        page.push(&ChunkRef { bytes: CHUNK_BYTES, digest });
        // Lists of content that is cut at fixed places have pages of equal spans.
        if page.count() == ChunkRef::PAGE_ITEMS {
            pages.push(page.take());
        }
    }
    if page.count() > 0 {
        pages.push(page.take());
    }
    pages
}
