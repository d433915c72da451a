//! Index segments: immutable sorted tables from chunk digest to place in a pack. See "Index
//! segments" in `store-format.md`.
//!
//! A segment is read in place from its bytes (usually a memory map): a look-up touches the fan-out
//! table and one or two places in the entries. A segment is a cache that can be rebuilt from
//! packs, so look-ups check bounds but not the checksum; [`SegmentView::check`] does.

use std::cmp::Ordering;

use super::header::StoreId;
use super::pack::{self, Content, Record};
use super::{Error, SEAL_NONE, check_seal, le};
use crate::digest::{DIGEST_BYTES, Digest};
use crate::limits::SEGMENT_ENTRIES_MAX;

/// First bytes of a segment.
pub const MAGIC: [u8; 8] = *b"SRINDEX\n";
/// The version written, and the newest read.
pub const VERSION: u16 = 1;
/// Bytes of the head.
pub const HEAD_BYTES: usize = 64;
/// Bytes of an entry of the pack table.
pub const PACK_ENTRY_BYTES: usize = 48;
/// Bytes of a fan-out slot.
pub const FANOUT_BYTES: usize = 4;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 56;
/// Bytes of a base: a digest.
pub const BASE_BYTES: usize = 32;
/// Most bits of the fan-out table.
pub const FANOUT_BITS_MAX: u8 = 24;
/// Entries aimed at in one fan-out bucket.
const BUCKET_ENTRIES: u64 = 8;

const WHAT: &str = "index segment";

/// A pack that a segment points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The pack's name.
    pub id: Digest,
    /// Its length.
    pub bytes: u64,
    /// What it holds.
    pub content: Content,
}

/// One entry of a segment: a record and the ordinal of its pack in the segment's pack table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Ordinal in the pack table.
    pub pack: u32,
    /// Where and how the chunk is stored there.
    pub record: Record,
}

/// Builds the bytes of a segment from sorted entries.
///
/// # Panics
/// If the entries are not strictly sorted by digest or name packs outside of `packs`: a bug of the
/// caller.
#[must_use]
pub fn encode(store_id: StoreId, packs: &[PackEntry], entries: &[Entry]) -> Vec<u8> {
    assert!(entries.len() <= SEGMENT_ENTRIES_MAX, "segment within the limits of the format");
    assert!(entries.is_sorted_by(|a, b| a.record.digest < b.record.digest), "entries are sorted");
    let (skip_bits, fanout_bits) = fanout_shape(entries);
    let base_count = entries.iter().filter(|entry| entry.record.base.is_some()).count();
    let mut out = Vec::with_capacity(
        HEAD_BYTES
            + packs.len() * PACK_ENTRY_BYTES
            + (FANOUT_BYTES << fanout_bits)
            + entries.len() * ENTRY_BYTES
            + base_count * BASE_BYTES
            + DIGEST_BYTES,
    );
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[fanout_bits, SEAL_NONE]);
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    out.extend_from_slice(&store_id.0);
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&(base_count as u64).to_le_bytes());
    out.extend_from_slice(&[skip_bits, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&[0; 8]);
    for pack in packs {
        out.extend_from_slice(&pack.id.0);
        out.extend_from_slice(&pack.bytes.to_le_bytes());
        out.extend_from_slice(&[pack.content as u8, 0, 0, 0, 0, 0, 0, 0]);
    }
    let mut end = 0;
    for slot in 0..1u64 << fanout_bits {
        while end < entries.len()
            && bucket(&entries[end].record.digest, skip_bits, fanout_bits) == slot
        {
            end += 1;
        }
        out.extend_from_slice(&(end as u32).to_le_bytes());
    }
    let mut bases = Vec::with_capacity(base_count * BASE_BYTES);
    for entry in entries {
        assert!((entry.pack as usize) < packs.len(), "the entry's pack is in the table");
        encode_entry(entry, &mut bases, &mut out);
    }
    out.extend_from_slice(&bases);
    let checksum = Digest::of(&out);
    out.extend_from_slice(&checksum.0);
    out
}

fn encode_entry(entry: &Entry, bases: &mut Vec<u8>, out: &mut Vec<u8>) {
    let record = &entry.record;
    let base = record.base.map_or(pack::NO_BASE, |base| {
        bases.extend_from_slice(&base.0);
        (bases.len() / BASE_BYTES) as u32 - 1
    });
    out.extend_from_slice(&record.digest.0);
    for field in [entry.pack, record.offset, record.stored_bytes, record.plain_bytes] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&[record.encoding as u8, 0, 0, 0]);
    out.extend_from_slice(&base.to_le_bytes());
}

/// Returns how many leading bits all digests share, and how many of the next ones choose a bucket.
fn fanout_shape(entries: &[Entry]) -> (u8, u8) {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return (0, 0) };
    let shared = (prefix(&first.record.digest) ^ prefix(&last.record.digest)).leading_zeros();
    let skip_bits = shared.min(32) as u8;
    let buckets = (entries.len() as u64 / BUCKET_ENTRIES).max(1);
    (skip_bits, (buckets.ilog2() as u8).min(FANOUT_BITS_MAX))
}

fn prefix(digest: &Digest) -> u64 {
    u64::from_be_bytes(le::array(&digest.0, 0))
}

fn bucket(digest: &Digest, skip_bits: u8, fanout_bits: u8) -> u64 {
    if fanout_bits == 0 { 0 } else { prefix(digest) << skip_bits >> (64 - fanout_bits) }
}

/// A segment's bytes, with where its parts begin. The bytes are passed to each call, so that a
/// view can be kept beside the map that owns them.
#[derive(Clone, Copy, Debug)]
pub struct SegmentView {
    packs: usize,
    entries: u64,
    bases: u64,
    skip_bits: u8,
    fanout_bits: u8,
    fanout_at: usize,
    entries_at: usize,
    bases_at: usize,
    first: Digest,
    last: Digest,
}

impl SegmentView {
    /// Checks head and lengths of a segment.
    ///
    /// # Errors
    /// The bytes are no segment of `store_id` that this version can read.
    pub fn parse(bytes: &[u8], store_id: StoreId) -> Result<Self, Error> {
        let actual = bytes.len() as u64;
        if bytes.len() < HEAD_BYTES + FANOUT_BYTES + DIGEST_BYTES {
            let expected = (HEAD_BYTES + FANOUT_BYTES + DIGEST_BYTES) as u64;
            return Err(Error::TooShort { what: WHAT, expected, actual });
        }
        if bytes[..8] != MAGIC {
            return Err(Error::Magic { what: WHAT });
        }
        let version = le::u16(bytes, 8);
        if version > VERSION {
            let (actual, supported) = (u64::from(version), u64::from(VERSION));
            return Err(Error::Newer { what: WHAT, actual, supported });
        }
        check_seal(WHAT, bytes[11])?;
        let owner = StoreId(le::array(bytes, 16));
        if owner != store_id {
            return Err(Error::OtherStore { what: WHAT, expected: store_id, actual: owner });
        }
        let (fanout_bits, skip_bits) = (bytes[10], bytes[48]);
        let (packs, entries) = (le::u32(bytes, 12) as usize, le::u64(bytes, 32));
        let bases = le::u64(bytes, 40);
        let field = |field, actual, allowed| Error::Field { what: WHAT, field, actual, allowed };
        if fanout_bits > FANOUT_BITS_MAX || skip_bits > 32 {
            return Err(field("fan-out bits", u64::from(fanout_bits), "at most 24, 32 skipped"));
        }
        if entries > SEGMENT_ENTRIES_MAX as u64 || bases > entries {
            return Err(field("entry count", entries, "at most 2^30, bases at most as many"));
        }
        let fanout_at = HEAD_BYTES + packs * PACK_ENTRY_BYTES;
        let entries_at = fanout_at + (FANOUT_BYTES << fanout_bits);
        let bases_at = entries_at as u64 + entries * ENTRY_BYTES as u64;
        if bases_at + bases * BASE_BYTES as u64 + DIGEST_BYTES as u64 != actual {
            return Err(field("length", actual, "exactly what the head says"));
        }
        let mut view = Self {
            packs,
            entries,
            bases,
            skip_bits,
            fanout_bits,
            fanout_at,
            entries_at,
            bases_at: bases_at as usize,
            first: Digest::ZERO,
            last: Digest::ZERO,
        };
        if entries > 0 {
            view.first = view.digest(bytes, 0);
            view.last = view.digest(bytes, entries - 1);
        }
        Ok(view)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entries
    }

    /// Returns the first and the last digest, if there are entries.
    #[must_use]
    pub fn range(&self) -> Option<(Digest, Digest)> {
        (self.entries > 0).then_some((self.first, self.last))
    }

    /// Returns the number of packs in the pack table.
    #[must_use]
    pub fn pack_count(&self) -> usize {
        self.packs
    }

    /// Returns the pack at `ordinal` of the pack table.
    ///
    /// # Errors
    /// The segment is damaged.
    pub fn pack(&self, bytes: &[u8], ordinal: usize) -> Result<PackEntry, Error> {
        if ordinal >= self.packs {
            let (actual, allowed) = (ordinal as u64, "less than the number of packs");
            return Err(Error::Field { what: WHAT, field: "pack", actual, allowed });
        }
        let at = HEAD_BYTES + ordinal * PACK_ENTRY_BYTES;
        Ok(PackEntry {
            id: Digest(le::array(bytes, at)),
            bytes: le::u64(bytes, at + 32),
            content: Content::from_byte(bytes[at + 40])?,
        })
    }

    /// Returns the digest of the entry at `ordinal`.
    ///
    /// # Panics
    /// If there is no such entry: a bug of the caller.
    #[must_use]
    pub fn digest(&self, bytes: &[u8], ordinal: u64) -> Digest {
        Digest(le::array(bytes, self.entries_at + ordinal as usize * ENTRY_BYTES))
    }

    /// Finds the ordinal of the entry for `digest`.
    #[must_use]
    pub fn find(&self, bytes: &[u8], digest: &Digest) -> Option<u64> {
        if *digest < self.first || self.last < *digest || self.entries == 0 {
            return None;
        }
        let slot = bucket(digest, self.skip_bits, self.fanout_bits) as usize;
        let fanout = |slot: usize| {
            u64::from(le::u32(bytes, self.fanout_at + slot * FANOUT_BYTES)).min(self.entries)
        };
        let mut low = if slot == 0 { 0 } else { fanout(slot - 1) };
        let mut high = fanout(slot);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = self.entries_at + middle as usize * ENTRY_BYTES;
            match bytes[at..at + DIGEST_BYTES].cmp(&digest.0) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Returns the range of entries whose first `part_bits` bits equal `part`.
    #[must_use]
    pub fn part(&self, bytes: &[u8], part: u64, part_bits: u32) -> (u64, u64) {
        let first_not_before = |part: u64| {
            let (mut low, mut high) = (0, self.entries);
            while low < high {
                let middle = low + (high - low) / 2;
                let leading = prefix(&self.digest(bytes, middle)).checked_shr(64 - part_bits);
                if leading.unwrap_or(0) < part { low = middle + 1 } else { high = middle }
            }
            low
        };
        (first_not_before(part), first_not_before(part + 1))
    }

    /// Returns the entry at `ordinal`.
    ///
    /// # Errors
    /// The segment is damaged.
    pub fn entry(&self, bytes: &[u8], ordinal: u64) -> Result<Entry, Error> {
        let field = |field, actual, allowed| Error::Field { what: WHAT, field, actual, allowed };
        if ordinal >= self.entries {
            return Err(field("entry", ordinal, "less than the number of entries"));
        }
        let at = self.entries_at + ordinal as usize * ENTRY_BYTES;
        let entry = &bytes[at..at + ENTRY_BYTES];
        let base = match le::u32(entry, 52) {
            pack::NO_BASE => None,
            base if u64::from(base) < self.bases => {
                Some(Digest(le::array(bytes, self.bases_at + base as usize * BASE_BYTES)))
            }
            base => return Err(field("base", u64::from(base), "less than the number of bases")),
        };
        let record = Record {
            digest: Digest(le::array(entry, 0)),
            offset: le::u32(entry, 36),
            stored_bytes: le::u32(entry, 40),
            plain_bytes: le::u32(entry, 44),
            encoding: pack::encoding(WHAT, entry[48])?,
            base,
        };
        record.check(WHAT)?;
        let pack = le::u32(entry, 32);
        if pack as usize >= self.packs {
            return Err(field("pack", u64::from(pack), "less than the number of packs"));
        }
        Ok(Entry { pack, record })
    }

    /// Checks the checksum over the whole segment.
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), Error> {
        let (signed, carried) = bytes.split_at(bytes.len() - DIGEST_BYTES);
        let (expected, actual) = (Digest(le::array(carried, 0)), Digest::of(signed));
        if expected == actual {
            Ok(())
        } else {
            Err(Error::Checksum { what: WHAT, expected, actual })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Encoding;

    const STORE: StoreId = StoreId([1; 16]);

    fn entries(count: u64) -> Vec<Entry> {
        let entry = |n: u64| {
            let base = n.is_multiple_of(3).then(|| Digest::of(b"base"));
            let encoding = if base.is_some() { Encoding::ZstdWithBase } else { Encoding::Zstd };
            let digest = Digest::of(&n.to_le_bytes());
            let (offset, stored_bytes, plain_bytes) = (64 + n as u32, 10, 65536);
            let record = Record { digest, offset, stored_bytes, plain_bytes, encoding, base };
            Entry { pack: (n % 2) as u32, record }
        };
        let mut entries: Vec<_> = (0..count).map(entry).collect();
        entries.sort_by_key(|entry| entry.record.digest);
        entries
    }

    fn packs() -> [PackEntry; 2] {
        [1, 2].map(|n| PackEntry { id: Digest([n; 32]), bytes: 5000, content: Content::Chunks })
    }

    #[test]
    fn every_entry_is_found_and_no_other() {
        for count in [0, 1, 7, 8, 1000] {
            let entries = entries(count);
            let bytes = encode(STORE, &packs(), &entries);
            let view = SegmentView::parse(&bytes, STORE).unwrap();
            view.check(&bytes).unwrap();
            for (ordinal, entry) in entries.iter().enumerate() {
                assert_eq!(view.find(&bytes, &entry.record.digest), Some(ordinal as u64));
                assert_eq!(view.entry(&bytes, ordinal as u64), Ok(*entry));
            }
            for n in 5000..6000u64 {
                assert_eq!(view.find(&bytes, &Digest::of(&n.to_le_bytes())), None);
            }
            assert_eq!(view.pack(&bytes, 1), Ok(packs()[1]));
            assert!(view.pack(&bytes, 2).is_err() && view.entry(&bytes, count).is_err());
        }
    }

    #[test]
    fn digests_that_share_leading_bits_are_found() {
        let mut entries = entries(1000);
        for entry in &mut entries {
            entry.record.digest.0[..2].copy_from_slice(&[0xab, 0xcd]);
        }
        entries.sort_by_key(|entry| entry.record.digest);
        let bytes = encode(STORE, &packs(), &entries);
        let view = SegmentView::parse(&bytes, STORE).unwrap();
        assert!(view.skip_bits >= 16);
        for entry in &entries {
            assert!(view.find(&bytes, &entry.record.digest).is_some());
        }
        assert_eq!(view.find(&bytes, &Digest([0; 32])), None);
        assert_eq!(view.find(&bytes, &Digest([0xff; 32])), None);
    }

    #[test]
    fn a_damaged_segment_never_panics_and_is_found_by_its_checksum() {
        let entries = entries(20);
        let bytes = encode(STORE, &packs(), &entries);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(view) = SegmentView::parse(&bad, STORE) else { continue };
            assert!(view.check(&bad).is_err(), "bit {bit}");
            for entry in &entries {
                let _ = view.find(&bad, &entry.record.digest).map(|at| view.entry(&bad, at));
            }
        }
        for len in 0..bytes.len() {
            assert!(SegmentView::parse(&bytes[..len], STORE).is_err());
        }
    }
}
