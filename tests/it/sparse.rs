//! Images that are mostly holes: what they cost to back up and to restore, in bytes and in memory.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::support::{Tree, noise, temp, watched};

const MIB: u64 = 1 << 20;

/// Returns the ranges of a file that hold data.
fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return ranges,
            Err(error) => panic!("{error}"),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, at));
    }
}

/// Compares where either file has data: elsewhere, both are zero.
fn assert_same_content(expected: &Path, actual: &Path) {
    let files = [expected, actual].map(|path| File::open(path).unwrap());
    let len = files[0].metadata().unwrap().len();
    assert_eq!(files[1].metadata().unwrap().len(), len);
    let mut buffers = [vec![0; MIB as usize], vec![0; MIB as usize]];
    for (start, end) in files.iter().flat_map(data_ranges) {
        let mut at = start;
        while at < end {
            let count = (end - at).min(MIB) as usize;
            for (file, buffer) in files.iter().zip(&mut buffers) {
                file.read_exact_at(&mut buffer[..count], at).unwrap();
            }
            assert!(buffers[0][..count] == buffers[1][..count], "the MiB from {at} differs");
            at += count as u64;
        }
    }
}

/// Backs up and restores an image of `size` with `data` bytes in pieces of 1 MiB.
fn image_of_holes(size: u64, data: u64, slack: u64) {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.sparse("x.img", size, &[]);
    let pieces = data / MIB;
    for piece in 0..pieces {
        // Not at a multiple of any length of chunk.
        let at = size / pieces * piece + piece % 7 * 4096;
        tree.write_at("x.img", at, &noise(piece, MIB as usize));
    }
    let [store, source, to] =
        ["store", "source", "target"].map(|name| dir.path().join(name).display().to_string());
    let member = format!("files={source}");
    let (report, peak) =
        watched(&["--store", &store, "backup", "--init", "--name", "orders", &member]);
    let read = report["bytes_read"].as_u64().unwrap();
    assert!((data..data + slack).contains(&read), "{read} bytes read of {data} of data");
    assert!(peak < 300 * MIB, "the backup held {} MiB", peak / MIB);
    let stored = report["bytes_stored"].as_u64().unwrap();
    assert!(stored < data + data / 16, "{stored} bytes stored for {data}");

    let (report, peak) = watched(&["--store", &store, "restore", "orders", "--to", &to]);
    assert!(report["failures"].as_array().is_none_or(Vec::is_empty), "{report}");
    assert!(peak < 300 * MIB, "the restore held {} MiB", peak / MIB);
    let restored = Path::new(&to).join("files/x.img");
    let allocated = std::fs::metadata(&restored).unwrap().blocks() * 512;
    assert!(allocated < data + 2 * slack, "{allocated} bytes are allocated");
    assert_same_content(&tree.below("x.img"), &restored);

    let (_, peak) = watched(&["--store", &store, "verify", "--full"]);
    assert!(peak < 300 * MIB, "the verification held {} MiB", peak / MIB);
}

#[test]
fn eight_gigabytes_with_64_megabytes_of_data_cost_64_megabytes() {
    image_of_holes(8 << 30, 64 * MIB, 16 * MIB);
}

/// `cargo test --release --test it -- --ignored sparse::`, with 4 GB free where `TMPDIR` is.
#[test]
#[ignore = "takes minutes and gigabytes"]
fn a_hundred_gigabytes_with_one_gigabyte_of_data_cost_one_gigabyte() {
    image_of_holes(100 << 30, 1 << 30, 200 * MIB);
}
