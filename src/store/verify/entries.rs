//! Entries of the index: what segments say of packs must be what the packs say. Whether it is, is
//! seen by counting, so that memory is bounded by the number of packs: of a pack's entries there
//! are as many as there are that agree with it.

use std::collections::{HashMap, HashSet};

use super::{Damage, DamageKind, Verification};
use crate::digest::Digest;
use crate::format::pack::Record;
use crate::format::segment::PackEntry;
use crate::index::Snapshot;
use crate::pack;
use crate::store::{Error, chunks};

/// Stored entries, and how many of them point into each pack, duplicates in several segments
/// included.
pub(super) struct Entries {
    stored: Snapshot,
    counts: HashMap<Digest, u64>,
}

impl Entries {
    /// Counts those of segments that are not `damaged`; `check` is asked now and then whether to go
    /// on.
    pub fn count(
        stored: Snapshot,
        damaged: &HashSet<String>,
        check: impl Fn() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut all = HashMap::new();
        for segment in stored.segments() {
            check()?;
            if damaged.contains(segment.key().as_str()) {
                continue;
            }
            let mut counts = vec![0u64; segment.packs().count()];
            for entry in segment.entries().filter_map(Result::ok) {
                if let Some(count) = counts.get_mut(entry.pack as usize) {
                    *count += 1;
                }
            }
            for (pack, count) in segment.packs().zip(counts) {
                if let Ok(pack) = pack {
                    *all.entry(pack.id).or_default() += count;
                }
            }
        }
        Ok(Self { stored, counts: all })
    }

    /// Says whether all entries for a pack are of that pack as it is stored, and among `records`,
    /// which are what is in it.
    pub fn agree_with(&self, pack: &PackEntry, records: &[Record]) -> bool {
        let Some(count) = self.counts.get(&pack.id) else { return true };
        let agreeing = |record: &Record| {
            let places = self.stored.locations(&record.digest);
            places.filter(|place| place.pack == *pack && place.record == *record).count() as u64
        };
        records.iter().map(agreeing).sum::<u64>() >= *count
    }
}

impl Verification<'_> {
    /// Reports segments that say something else of a pack than it says itself.
    pub(super) fn contradicted(&mut self, entry: &PackEntry, records: &[Record]) {
        let own: HashSet<_> = records.iter().collect();
        let key = pack::key(entry.content, &entry.id);
        let stored = self.stored.clone();
        for segment in stored.segments() {
            let name = segment.key().to_string();
            if self.damaged_segments.contains(&name) {
                continue;
            }
            // One that lies about several packs is reported once.
            let mut damage = self.report.damaged.iter().position(|damage| damage.object == name);
            for found in segment.entries().filter_map(Result::ok) {
                let pack = segment.pack(found.pack).filter(|pack| pack.id == entry.id);
                let Some(pack) = pack else { continue };
                if pack == *entry && own.contains(&found.record) {
                    continue;
                }
                let record = &found.record;
                let damage = *damage.get_or_insert_with(|| {
                    let reason = format!(
                        "it has chunk {} at {:#x} of {} ({} bytes), and {key} ({} bytes) has not; \
                         without this segment the index is made again from the packs",
                        record.digest.short(),
                        record.offset,
                        pack::key(pack.content, &pack.id),
                        pack.bytes,
                        entry.bytes,
                    );
                    self.damage(Damage::new(&name, DamageKind::Index, reason))
                });
                if chunks::read_present(self.store, &stored, &record.digest).is_err() {
                    self.bad_chunks.entry(record.digest).or_insert(damage);
                }
            }
        }
    }
}
