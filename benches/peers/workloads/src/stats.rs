//! How much of each generation changed: the numbers that a workload is tuned by.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Sizes whose changed share is counted.
const PAGE_BYTES: usize = 4 << 10;
const BLOCK_BYTES: usize = 64 << 10;

/// What was counted over one generation.
#[derive(Default)]
struct Counts {
    files: u64,
    bytes: u64,
    pages: u64,
    pages_changed: u64,
    blocks: u64,
    blocks_changed: u64,
}

/// Prints one JSON object per generation, in one array.
pub fn print(dir: &Path) -> io::Result<()> {
    let mut lines = Vec::new();
    for generation in 1.. {
        let now = dir.join(format!("gen{generation}"));
        if !now.is_dir() {
            break;
        }
        let before = dir.join(format!("gen{}", generation - 1));
        let mut counts = Counts::default();
        count_dir(&now, &before, &mut counts)?;
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        lines.push(format!(
            "{{\"generation\":{generation},\"files\":{},\"bytes\":{},\
             \"pages_4k_changed\":{:.4},\"blocks_64k_changed\":{:.4}}}",
            counts.files,
            counts.bytes,
            share(counts.pages_changed, counts.pages),
            share(counts.blocks_changed, counts.blocks),
        ));
    }
    println!("[{}]", lines.join(",\n "));
    Ok(())
}

fn count_dir(now: &Path, before: &Path, counts: &mut Counts) -> io::Result<()> {
    for entry in fs::read_dir(now)? {
        let path: PathBuf = entry?.path();
        let old = before.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            count_dir(&path, &old, counts)?;
        } else {
            count_file(&path, &old, counts)?;
        }
    }
    Ok(())
}

/// Compares a file with the one of the generation before, block by block at the same offsets.
fn count_file(now: &Path, before: &Path, counts: &mut Counts) -> io::Result<()> {
    let mut new_file = File::open(now)?;
    let mut old_file = File::open(before).ok();
    let (mut new, mut old) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    counts.files += 1;
    loop {
        let new_bytes = read_full(&mut new_file, &mut new)?;
        if new_bytes == 0 {
            return Ok(());
        }
        let old_bytes = match &mut old_file {
            Some(file) => read_full(file, &mut old)?,
            None => 0,
        };
        let (new, old) = (&new[..new_bytes], &old[..old_bytes]);
        counts.bytes += new_bytes as u64;
        counts.blocks += 1;
        counts.blocks_changed += u64::from(new != old);
        let mut old_pages = old.chunks(PAGE_BYTES);
        for page in new.chunks(PAGE_BYTES) {
            counts.pages += 1;
            counts.pages_changed += u64::from(old_pages.next() != Some(page));
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
