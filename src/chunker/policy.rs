//! Which way a file is cut: by its previous generation, its name, its size and a cheap probe.

use super::{Chunking, Params};

/// What is known of a file before it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The last component of its path.
    pub name: &'a [u8],
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Bytes that the file system holds for it; much less than the length for sparse files.
    pub allocated_bytes: u64,
    /// Its first bytes, at least 128 of them if it has as many.
    pub head: &'a [u8],
}

/// Names of Internet Computer snapshot files that hold memory pages.
const PAGED_NAMES: [&str; 2] = ["wasm_memory.bin", "stable_memory.bin"];

/// Endings of names whose files change in place, page by page: disk and machine images, and
/// database files.
const PAGED_ENDINGS: [&str; 16] = [
    ".img", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhd", ".vhdx", ".db", ".sqlite", ".sqlite3",
    ".mdb", ".ibd", ".mdf", ".ndf", ".redb", ".vmem",
];

/// A smaller file gains nothing from fixed pieces: all of it is a few chunks.
const PAGED_BYTES_MIN: u64 = 256 << 10;

/// Returns how to cut a file. `previous` is how its previous generation was cut.
///
/// A previous choice is kept while the file has not changed between small and large, so that
/// chunks are found again.
#[must_use]
pub fn choose(params: &Params, previous: Option<Chunking>, probe: &Probe<'_>) -> Chunking {
    if probe.size_bytes <= u64::from(params.small_bytes_max) {
        return Chunking::Whole;
    }
    match previous {
        Some(kept @ (Chunking::Fixed { .. } | Chunking::Cdc { .. })) => kept,
        Some(Chunking::Whole) | None if is_paged(probe) => params.fixed(),
        Some(Chunking::Whole) | None => params.cdc(),
    }
}

/// Says whether files of this name hold the memory of a program.
#[must_use]
pub fn is_memory_image(name: &[u8]) -> bool {
    PAGED_NAMES.iter().any(|image| image.as_bytes().eq_ignore_ascii_case(name))
}

fn is_paged(probe: &Probe<'_>) -> bool {
    let name = String::from_utf8_lossy(probe.name).to_ascii_lowercase();
    if is_memory_image(probe.name) {
        return true;
    }
    if probe.size_bytes < PAGED_BYTES_MIN {
        return false;
    }
    PAGED_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || probe.head.starts_with(b"SQLite format 3\0")
        || probe.head.starts_with(b"QFI\xfb")
        || is_postgres_relation(&name, probe)
        || is_sparse(probe)
}

/// A file of which less than half is allocated is an image of some kind.
fn is_sparse(probe: &Probe<'_>) -> bool {
    probe.size_bytes >= 1 << 20 && probe.allocated_bytes < probe.size_bytes / 2
}

/// A `PostgreSQL` relation file: named by a number (with `_fsm`, `_vm` or a segment number), whole
/// 8 KiB pages, and a page header with a layout version of 4 and sane offsets (bufpage.h).
fn is_postgres_relation(name: &str, probe: &Probe<'_>) -> bool {
    let digits = name.split(['_', '.']).next().unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let Some(header) = probe.head.get(..24) else { return false };
    let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (lower, upper, special, size_version) = (field(12), field(14), field(16), field(18));
    probe.size_bytes.is_multiple_of(8192)
        && size_version == 8192 | 4
        && (24..=upper).contains(&lower)
        && upper <= special
        && special <= 8192
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe<'a>(name: &'a str, size_bytes: u64, head: &'a [u8]) -> Probe<'a> {
        Probe { name: name.as_bytes(), size_bytes, allocated_bytes: size_bytes, head }
    }

    #[test]
    fn images_are_fixed_and_the_rest_is_cut_by_content() {
        let params = Params::default();
        let chosen = |probe: Probe<'_>| choose(&params, None, &probe);
        assert_eq!(chosen(probe("stable_memory.bin", 100_000, b"")), params.fixed());
        assert_eq!(chosen(probe("Disk.IMG", 1 << 20, b"")), params.fixed());
        assert_eq!(chosen(probe("state", 1 << 20, b"SQLite format 3\0")), params.fixed());
        assert_eq!(chosen(probe("notes.txt", 1 << 20, b"hello")), params.cdc());
        assert_eq!(chosen(probe("notes.txt", 1000, b"hello")), Chunking::Whole);
        let sparse = Probe { allocated_bytes: 4096, ..probe("x", 1 << 30, b"") };
        assert_eq!(chosen(sparse), params.fixed());
    }

    #[test]
    fn a_postgres_page_is_recognised_by_its_header_and_not_by_its_name() {
        let mut page = [0; 128];
        for (at, value) in [(12, 40u16), (14, 8000), (16, 8192), (18, 8196)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let params = Params::default();
        assert_eq!(choose(&params, None, &probe("16384", 1 << 20, &page)), params.fixed());
        assert_eq!(choose(&params, None, &probe("16384", 1 << 20, &[1; 128])), params.cdc());
    }

    #[test]
    fn the_previous_choice_is_kept() {
        let params = Params::default();
        let image = probe("disk.img", 1 << 20, b"");
        assert_eq!(choose(&params, Some(params.cdc()), &image), params.cdc());
        assert_eq!(choose(&params, Some(Chunking::Whole), &image), params.fixed());
    }
}
