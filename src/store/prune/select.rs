//! Selection: which packs and manifests go, which are written anew first, and which stay although
//! nothing needs them.

use std::collections::HashSet;

use super::plan::Known;
use super::survey::{Survey, Use};
use super::{Condemned, PruneOptions};
use crate::digest::Digest;
use crate::format::segment::PackEntry;
use crate::limits::{REMOVAL_OBJECTS_MAX, REWRITE_LIVE_SHARE_MAX};
use crate::pack;

/// What was selected.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Packs that nothing needs.
    pub dead: Vec<PackEntry>,
    /// Packs that go when what is live in them was copied.
    pub rewrite: Vec<PackEntry>,
    /// Manifests that nothing needs.
    pub manifests: Vec<Digest>,
    /// Those of all these that may belong to a backup at work.
    pub unexplained: HashSet<Digest>,
    /// Packs whose directory cannot be read and that go all the same, since the index knows what
    /// was in them.
    pub broken: Vec<PackEntry>,
    /// Packs that the index knows, that are not there, and that nothing needs.
    pub stale: Vec<Digest>,
    /// What all that comes to.
    pub condemned: Condemned,
    /// Bytes of it that may belong to a backup at work.
    pub unexplained_bytes: u64,
    /// Bytes in packs that stay that nothing needs.
    pub unused_bytes: u64,
    /// Packs that cannot be read and therefore stay.
    pub unreadable: Vec<String>,
}

/// Selects what goes. `needed` and `explained` are manifests.
pub(super) fn select(
    known: &Known,
    survey: &Survey,
    (needed, explained): (&HashSet<Digest>, &HashSet<Digest>),
    options: &PruneOptions,
) -> Selection {
    let mut selection = Selection::default();
    let lists = || known.condemned.iter().map(|(_, list)| list);
    let condemned: HashSet<_> =
        lists().flat_map(|list| list.packs.iter().chain(&list.pages)).copied().collect();
    let mut candidates: Vec<(PackEntry, &Use)> = known
        .packs
        .iter()
        .filter(|(id, _)| !condemned.contains(*id))
        .filter_map(|(id, entry)| Some((*entry, survey.packs.get(id)?)))
        .collect();
    // The same plan for the same store.
    candidates.sort_unstable_by_key(|(entry, _)| (entry.content as u8, entry.id));
    selection.broken(known, survey, &condemned);
    let mut partly = Vec::new();
    for (entry, held) in candidates {
        if held.live_chunks == 0 {
            selection.add(entry, held);
            selection.dead.push(entry);
        } else {
            partly.push((entry, held));
        }
    }
    selection.rewrites(partly, options);
    let pending: HashSet<_> = lists().flat_map(|list| &list.manifests).copied().collect();
    for (id, bytes) in &known.manifests {
        if needed.contains(id) || pending.contains(id) {
            continue;
        }
        if !explained.contains(id) {
            selection.unexplained.insert(*id);
            selection.unexplained_bytes += bytes;
        }
        selection.condemned.manifests += 1;
        selection.condemned.bytes += bytes;
        selection.manifests.push(*id);
    }
    selection.bound();
    selection
}

impl Selection {
    /// Takes notice of a pack that goes.
    fn add(&mut self, entry: PackEntry, held: &Use) {
        if held.unexplained_bytes > 0 {
            self.unexplained.insert(entry.id);
            self.unexplained_bytes += entry.bytes - held.live_bytes.min(entry.bytes);
        }
        self.condemned.packs += 1;
        self.condemned.bytes += entry.bytes;
    }

    /// Packs that cannot be read stay if anything is lost that might be in them, or if nobody knows
    /// what is in them.
    fn broken(&mut self, known: &Known, survey: &Survey, condemned: &HashSet<Digest>) {
        for fault in known.cover.faults.iter().filter(|fault| !condemned.contains(&fault.id)) {
            let held = survey.absent.get(&fault.id);
            let bytes = known.faulty.get(&fault.id).copied();
            if let (Some(held), Some(bytes), 0) = (held, bytes, survey.lost_count)
                && held.live_chunks == 0
            {
                let entry = PackEntry { id: fault.id, bytes, content: fault.content };
                self.add(entry, held);
                self.broken.push(entry);
            } else {
                let key = pack::key(fault.content, &fault.id);
                self.unreadable.push(format!("{key}: {}", fault.source));
            }
        }
        let is_stale =
            |id: &&Digest| survey.absent.get(*id).is_some_and(|held| held.live_chunks == 0);
        self.stale = known.cover.missing.iter().filter(is_stale).copied().collect();
    }

    /// Chooses packs to be written anew, those with the least live part first, as far as the budget
    /// goes.
    fn rewrites(&mut self, mut partly: Vec<(PackEntry, &Use)>, options: &PruneOptions) {
        let share = |entry: &PackEntry, held: &Use| {
            let dead = held.dead_bytes(entry.bytes);
            held.live_bytes as f64 / (held.live_bytes + dead).max(1) as f64
        };
        partly.sort_by(|a, b| share(&a.0, a.1).total_cmp(&share(&b.0, b.1)));
        let mut room = options.max_rewrite_bytes;
        for (entry, held) in partly {
            if share(&entry, held) <= REWRITE_LIVE_SHARE_MAX && held.live_bytes <= room {
                room -= held.live_bytes;
                self.add(entry, held);
                self.condemned.rewritten_packs += 1;
                self.condemned.rewritten_bytes += held.live_bytes;
                self.rewrite.push(entry);
            } else {
                self.unused_bytes += held.dead_bytes(entry.bytes);
            }
        }
        // Read in the order in which they lie there.
        self.rewrite.sort_unstable_by_key(|entry| (entry.content as u8, entry.id));
    }

    /// Keeps to what a list can hold: the next prune goes on.
    fn bound(&mut self) {
        let mut room = REMOVAL_OBJECTS_MAX;
        let mut take = |len: usize| {
            let taken = len.min(room);
            room -= taken;
            taken
        };
        self.dead.truncate(take(self.dead.len()));
        self.rewrite.truncate(take(self.rewrite.len()));
        self.broken.truncate(take(self.broken.len()));
        self.manifests.truncate(take(self.manifests.len()));
    }
}
