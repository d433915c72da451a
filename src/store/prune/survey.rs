//! Survey: which copy of each needed chunk stays, and what that leaves in each pack.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::marks::{Marks, Purpose};
use crate::digest::Digest;
use crate::format::pack::{BASE_BYTES, ENTRY_BYTES, HEAD_BYTES, TAIL_BYTES};
use crate::format::segment::PackEntry;
use crate::index::{EntryCopy, Location};
use crate::store::{Error, Progress};

/// What is in a pack that is there, as far as the index knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Stored bytes of chunks whose only copy is here and is needed.
    sole_bytes: u64,
    /// Stored bytes of chunks that stay here.
    pub live_bytes: u64,
    pub live_chunks: u64,
    /// Stored bytes of chunks that neither what stays nor what was forgotten needs.
    pub unexplained_bytes: u64,
    /// Chunks that the index knows to be here, and how many of them have bases.
    chunks: u64,
    deltas: u64,
}

impl Use {
    /// Returns how many bytes of a pack of `bytes` are chunks that do not stay, those that the index
    /// does not know included.
    pub fn dead_bytes(&self, bytes: u64) -> u64 {
        let tables = (HEAD_BYTES + TAIL_BYTES) as u64
            + self.chunks * ENTRY_BYTES as u64
            + self.deltas * BASE_BYTES as u64;
        bytes.saturating_sub(tables + self.live_bytes)
    }
}

/// What all packs hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub packs: HashMap<Digest, Use>,
    /// The same of packs that are not there or cannot be read.
    pub absent: HashMap<Digest, Use>,
    /// Needed chunks that no pack holds that is there, or whose base is in none; the first few.
    pub lost: Vec<Digest>,
    pub lost_count: u64,
}

/// Most lost chunks that are kept for telling people.
const TOLD_MAX: usize = 20;

impl Survey {
    fn lose(&mut self, digest: Digest) {
        self.lost_count += 1;
        if self.lost.len() < TOLD_MAX {
            self.lost.push(digest);
        }
    }

    /// Chooses among the copies of a needed chunk: one that is there before one that is not; one that
    /// can be decoded; one without base before one with; one in a pack that stays before one in a condemned pack; one
    /// in the pack with more that is only there. Among those with a base the choice depends on
    /// nothing that is only known later, because their bases must be marked before.
    fn choose<'c>(&self, marks: &Marks, copies: &'c [EntryCopy]) -> Option<&'c EntryCopy> {
        copies.iter().min_by_key(|copy| {
            let location = &copy.location;
            let is_delta = location.record.base.is_some();
            let sole = if is_delta { 0 } else { self.sole_of(location.pack.id) };
            (
                marks.index.is_absent(location),
                marks.index.dangles(&location.record),
                is_delta,
                marks.index.is_lost(location),
                Reverse(sole),
                location.pack.id,
                location.record.offset,
            )
        })
    }

    fn sole_of(&self, pack: Digest) -> u64 {
        self.packs.get(&pack).map_or(0, |held| held.sole_bytes)
    }

    /// Surveys the packs that are listed; `marks` gets the bases and the chosen copies.
    pub fn of(
        marks: &mut Marks,
        listed: &HashMap<Digest, PackEntry>,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let packs = listed.keys().map(|id| (*id, Use::default())).collect();
        let mut survey = Self { packs, ..Self::default() };
        survey.bases(marks, progress)?;
        survey.copies(marks, progress)?;
        Ok(survey)
    }

    /// Marks the bases of what is marked.
    fn bases(&mut self, marks: &mut Marks, progress: &Progress) -> Result<(), Error> {
        let index = marks.index.clone();
        let (mut groups, mut copies) = (index.groups(), Vec::new());
        while let Some(digest) = groups.next(&mut copies)? {
            progress.check()?;
            let (needed, explained) =
                (marks.is_group_needed(&copies), marks.is_group_explained(&copies));
            if !needed && !explained {
                continue;
            }
            if needed && one_place(&copies) {
                let location = &copies[0].location;
                if let Some(held) = self.packs.get_mut(&location.pack.id) {
                    held.sole_bytes += u64::from(location.record.stored_bytes);
                }
            }
            let Some(chosen) = self.choose(marks, &copies) else { continue };
            let Some(base) = chosen.location.record.base else { continue };
            let purpose = if needed { Purpose::Needed } else { Purpose::Explained };
            marks.mark(&base, purpose);
            let is_there =
                |location: Location| location.record.base.is_none() && !index.is_absent(&location);
            if needed && !index.locations(&base).any(is_there) {
                self.lose(digest);
            }
        }
        Ok(())
    }

    /// Chooses the copies that stay, and adds up what that means for each pack.
    fn copies(&mut self, marks: &mut Marks, progress: &Progress) -> Result<(), Error> {
        let index = marks.index.clone();
        let (mut groups, mut copies) = (index.groups(), Vec::new());
        while let Some(digest) = groups.next(&mut copies)? {
            progress.check()?;
            let needed = marks.is_group_needed(&copies);
            let explained = needed || marks.is_group_explained(&copies);
            let chosen = if needed { self.choose(marks, &copies).copied() } else { None };
            if let Some(chosen) = chosen
                && marks.index.is_absent(&chosen.location)
            {
                self.lose(digest);
            }
            let mut seen: Vec<(Digest, u32)> = Vec::new();
            for copy in &copies {
                let location = &copy.location;
                let at = (location.pack.id, location.record.offset);
                let stays = chosen.is_some_and(|chosen| {
                    (chosen.location.pack.id, chosen.location.record.offset) == at
                });
                if stays {
                    marks.choose(copy.place);
                }
                // The same place may stand in several segments.
                if seen.contains(&at) {
                    continue;
                }
                seen.push(at);
                let held = match self.packs.get_mut(&at.0) {
                    Some(held) => held,
                    None if !marks.index.missing_packs().contains(&at.0) => continue,
                    None => self.absent.entry(at.0).or_default(),
                };
                held.chunks += 1;
                held.deltas += u64::from(location.record.base.is_some());
                let bytes = u64::from(location.record.stored_bytes);
                if stays {
                    held.live_bytes += bytes;
                    held.live_chunks += 1;
                } else if !explained {
                    held.unexplained_bytes += bytes;
                }
            }
        }
        Ok(())
    }
}

/// Says whether all entries are of one place.
fn one_place(copies: &[EntryCopy]) -> bool {
    let at = |copy: &EntryCopy| (copy.location.pack.id, copy.location.record.offset);
    copies.windows(2).all(|pair| at(&pair[0]) == at(&pair[1]))
}
