//! An incompressible file: fresh, then with 1% of its pages changed, then with an insertion.

use crate::rng::Rng;
use crate::{Options, generation_dir};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the file at full scale.
const FILE_BYTES_FULL: f64 = 4_294_967_296.0;
/// Bytes of a page.
const PAGE_BYTES: usize = 4 << 10;
/// Share of the pages that the second generation changes.
const CHANGED_SHARE: f64 = 0.01;
/// Bytes that every generation from the third on inserts; odd, so that no page stays aligned.
const INSERTED_BYTES: usize = 1_000_003;
/// Where they are inserted.
const INSERTED_AT: u64 = (1 << 20) + 77;
/// Bytes written at once.
const BUFFER_BYTES: usize = 4 << 20;

/// Writes all generations.
pub fn make(options: &Options) -> io::Result<()> {
    let path = |generation| -> PathBuf {
        generation_dir(options, generation).join("volume").join("image.bin")
    };
    for generation in 1..=options.generations {
        let to = path(generation);
        fs::create_dir_all(to.parent().expect("the image lies in a member's directory"))?;
        let rng = &mut Rng::of(&[options.seed, generation]);
        match generation {
            1 => fill(&to, (FILE_BYTES_FULL * options.scale) as u64, rng)?,
            2 => change_pages(&path(1), &to, rng)?,
            _ => insert(&path(generation - 1), &to, rng)?,
        }
    }
    Ok(())
}

/// Writes a file of random bytes, a whole number of pages long.
fn fill(to: &Path, bytes: u64, rng: &mut Rng) -> io::Result<()> {
    let mut file = File::create(to)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = bytes.max(4 << 20).next_multiple_of(PAGE_BYTES as u64);
    while left > 0 {
        let part = &mut buffer[..left.min(BUFFER_BYTES as u64) as usize];
        rng.fill(part);
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(())
}

/// Copies a file and changes some of its pages.
fn change_pages(from: &Path, to: &Path, rng: &mut Rng) -> io::Result<()> {
    let pages = fs::copy(from, to)? / PAGE_BYTES as u64;
    let file = OpenOptions::new().write(true).open(to)?;
    let mut page = [0; PAGE_BYTES];
    for number in 0..pages {
        if rng.chance(CHANGED_SHARE) {
            rng.fill(&mut page);
            file.write_all_at(&page, number * PAGE_BYTES as u64)?;
        }
    }
    Ok(())
}

/// Copies a file with random bytes inserted near its front.
fn insert(from: &Path, to: &Path, rng: &mut Rng) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create(to)?;
    let mut inserted = vec![0; INSERTED_BYTES];
    rng.fill(&mut inserted);
    io::copy(&mut Read::by_ref(&mut source).take(INSERTED_AT), &mut target)?;
    target.write_all(&inserted)?;
    source.seek(SeekFrom::Start(INSERTED_AT))?;
    io::copy(&mut source, &mut target)?;
    Ok(())
}
