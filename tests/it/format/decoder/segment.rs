//! Index segments: "Index segments".

use super::cursor::Cursor;
use super::pack::{self, Content, Record};
use super::{Id, Result, StoreId, demand};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub store_id: StoreId,
    pub skip_bits: u8,
    pub fanout_bits: u8,
    /// Name, length and content.
    pub packs: Vec<(Id, u64, Content)>,
    pub fanout: Vec<u32>,
    /// The ordinal of the pack and the place in it.
    pub entries: Vec<(u32, Record)>,
}

pub fn decode(bytes: &[u8]) -> Result<Segment> {
    demand(bytes.len() >= 100, format!("a segment of {} bytes", bytes.len()))?;
    let (signed, checksum) = bytes.split_at(bytes.len() - 32);
    demand(checksum == Id::of(signed).0, "the segment's checksum is wrong")?;
    let mut at = Cursor::new(signed);
    demand(at.take(8)? == b"SRINDEX\n", "no segment")?;
    let version = at.u16()?;
    demand(version == 1, format!("segment version {version}"))?;
    let fanout_bits = at.u8()?;
    demand(at.u8()? == 0, "the segment is sealed")?;
    let (pack_count, store_id) = (at.u32()?, StoreId(at.array()?));
    let (entry_count, base_count, skip_bits) = (at.u64()?, at.u64()?, at.u8()?);
    at.spare(15)?;
    demand(fanout_bits <= 24 && skip_bits <= 32, "fan-out bits")?;
    demand(entry_count <= 1 << 30 && base_count <= entry_count, "counts")?;
    let length =
        u64::from(pack_count) * 48 + (4 << fanout_bits) + entry_count * 56 + base_count * 32;
    demand(at.left() as u64 == length, format!("{} bytes, not {length}", at.left()))?;

    let mut packs = Vec::new();
    for _ in 0..pack_count {
        packs.push((Id(at.array()?), at.u64()?, Content::from_byte(at.u8()?)?));
        at.spare(7)?;
    }
    let fanout: Vec<u32> = (0..1 << fanout_bits).map(|_| at.u32()).collect::<Result<_>>()?;
    let entries = at.take(entry_count as usize * 56)?;
    let bases = at.take(at.left())?;
    let entries =
        entries.chunks(56).map(|entry| decode_entry(entry, bases)).collect::<Result<_>>()?;
    let segment = Segment { store_id, skip_bits, fanout_bits, packs, fanout, entries };
    segment.check()?;
    Ok(segment)
}

fn decode_entry(entry: &[u8], bases: &[u8]) -> Result<(u32, Record)> {
    let mut at = Cursor::new(entry);
    let (digest, pack) = (Id(at.array()?), at.u32()?);
    let (offset, stored_bytes, plain_bytes) = (at.u32()?, at.u32()?, at.u32()?);
    let encoding = pack::encoding(&mut at, bases)?;
    at.end()?;
    let stored = Record { digest, offset, stored_bytes, plain_bytes, encoding };
    pack::check(&stored)?;
    Ok((pack, stored))
}

impl Segment {
    /// Checks the order of the entries and the fan-out table.
    fn check(&self) -> Result<()> {
        let digests = self.entries.iter().map(|(_, stored)| stored.digest);
        demand(digests.is_sorted_by(|a, b| a < b), "entries out of order")?;
        let packs = self.packs.len();
        demand(self.entries.iter().all(|(pack, _)| (*pack as usize) < packs), "no such pack")?;
        for (slot, end) in self.fanout.iter().enumerate() {
            let not_after = |(_, stored): &(u32, Record)| self.slot(&stored.digest) <= slot;
            let expected = self.entries.partition_point(not_after);
            demand(*end as usize == expected, format!("fan-out slot {slot}: {end}"))?;
        }
        Ok(())
    }

    fn slot(&self, digest: &Id) -> usize {
        let mut leading = [0; 8];
        leading.copy_from_slice(&digest.0[..8]);
        let bits = u64::from_be_bytes(leading) << self.skip_bits;
        if self.fanout_bits == 0 { 0 } else { (bits >> (64 - self.fanout_bits)) as usize }
    }

    /// Finds a chunk by the fan-out table.
    pub fn find(&self, digest: &Id) -> Option<&(u32, Record)> {
        let slot = self.slot(digest);
        let start = if slot == 0 { 0 } else { self.fanout[slot - 1] };
        let entries = &self.entries[start as usize..self.fanout[slot] as usize];
        entries.iter().find(|(_, stored)| stored.digest == *digest)
    }
}
