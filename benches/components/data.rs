//! Data that is the same at every run.

use std::fs;
use std::path::Path;

/// Bytes in 1 MiB.
pub const MIB: usize = 1 << 20;

/// Bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes like those of a memory image: records of 128 bytes with small numbers, a few words and a
/// key that does not compress. zstd 1 makes a bit more than half of them.
pub fn records(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&[u8; 8]; 4] = [b"pending ", b"settled ", b"refunded", b"archived"];
    let keys = noise(seed, len / 128 * 40);
    let mut bytes = vec![0; len];
    for (ordinal, (record, key)) in bytes.chunks_exact_mut(128).zip(keys.chunks(40)).enumerate() {
        record[..8].copy_from_slice(&(ordinal as u64).to_le_bytes());
        record[8..16].copy_from_slice(WORDS[usize::from(key[0]) % WORDS.len()]);
        record[16..20].copy_from_slice(&(u32::from(key[1]) * 100).to_le_bytes());
        record[64..104].copy_from_slice(key);
    }
    bytes
}

/// Writes the sources of the end-to-end benchmarks: four memory images and a tree of small files,
/// 256 MiB together.
pub fn write_sources(root: &Path) {
    for image in 0..4u64 {
        let dir = root.join(format!("image-{image}"));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("stable_memory.bin"), records(image, 60 * MIB)).expect("an image");
    }
    for dir in 0..32u64 {
        let path = root.join(format!("tree/{dir:02}"));
        fs::create_dir_all(&path).expect("a directory");
        for file in 0..64u64 {
            let bytes = records(1000 + dir * 64 + file, 8 << 10);
            fs::write(path.join(format!("{file:02}.txt")), bytes).expect("a file");
        }
    }
}

/// Copies a tree, so that contents are the same and times and inodes are not.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
