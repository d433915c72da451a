//! Writing packs anew without what is dead in them, and the last look before a pack goes: what it
//! holds that is needed must be readable elsewhere.

use std::collections::HashSet;

use super::marks::Marks;
use crate::digest::Digest;
use crate::format::pack::{Content, Record};
use crate::format::segment::PackEntry;
use crate::index::{Location, SegmentBuilder};
use crate::limits::PENDING_CHUNKS_MAX;
use crate::pack::{self, PackBuilder};
use crate::store::chunks::read_place;
use crate::store::promote::read_pack_back;
use crate::store::{Error, Store, random};

/// Why a pack stays.
#[derive(Debug)]
pub(super) struct Stays {
    pub reason: String,
    /// What is encoded in it against these has no good copy elsewhere: they stay too.
    pub bases: Vec<Digest>,
    /// Whether it is not known what is in it.
    pub is_unreadable: bool,
}

impl Stays {
    /// Returns the packs that have the bases.
    pub fn base_packs(&self, marks: &Marks) -> HashSet<Digest> {
        let copies = self.bases.iter().flat_map(|base| marks.index.copies(base));
        let bases = copies.filter(|copy| copy.location.record.base.is_none());
        bases.map(|copy| copy.location.pack.id).collect()
    }
}

/// Says whether a pack may go that nothing needs, or that was written anew: every chunk in it that
/// is needed stays in another pack and can be read there.
pub(super) fn may_go(
    store: &Store,
    marks: &Marks,
    entry: &PackEntry,
) -> Result<Result<(), Stays>, Error> {
    let records = match directory(store, entry)? {
        Ok(records) => records,
        Err(stays) => return Ok(Err(stays)),
    };
    let mut bad = Vec::new();
    for record in &records {
        if let Err(reason) = stays_elsewhere(store, marks, entry, record)? {
            bad.push((record, reason));
        }
    }
    Ok(stays_for(bad))
}

/// Says that a pack stays if there is a reason.
fn stays_for(bad: Vec<(&Record, String)>) -> Result<(), Stays> {
    let bases = bad.iter().filter_map(|(record, _)| record.base).collect();
    let Some((_, reason)) = bad.into_iter().next() else { return Ok(()) };
    Err(Stays { reason, bases, is_unreadable: false })
}

/// Reads what is in a pack.
fn directory(store: &Store, entry: &PackEntry) -> Result<Result<Vec<Record>, Stays>, Error> {
    let PackEntry { id, bytes, content } = entry;
    match pack::read_directory(store.backend(), *content, id, *bytes, store.id()) {
        Ok(directory) => Ok(Ok(directory.records)),
        Err(pack::Error::Backend(error)) if !error.is_damage() => Err(error.into()),
        Err(error) => {
            let reason = format!("{} stays: {error}", pack::key(*content, id));
            Ok(Err(Stays { reason, bases: Vec::new(), is_unreadable: true }))
        }
    }
}

/// Checks that a chunk of a pack that goes is not needed, or that the copy that stays can be read.
fn stays_elsewhere(
    store: &Store,
    marks: &Marks,
    entry: &PackEntry,
    record: &Record,
) -> Result<Result<(), String>, Error> {
    if !marks.is_needed(&record.digest) {
        return Ok(Ok(()));
    }
    let key = pack::key(entry.content, &entry.id);
    let stays = |why: String| Ok(Err(format!("{key} stays: {why}")));
    match marks.chosen_copy(&record.digest) {
        Some(copy) if copy.pack.id != entry.id => match read_place(store, &marks.index, &copy) {
            Ok(_) => Ok(Ok(())),
            Err(fault) if fault.is_damage() => stays(format!("the other copy is bad: {fault}")),
            Err(fault) => Err(fault.into()),
        },
        _ => stays(format!("it holds chunk {}, which is needed", record.digest)),
    }
}

/// Copies live chunks into new packs.
pub(super) struct Rewriter<'a> {
    store: &'a Store,
    marks: &'a Marks,
    open: [Option<PackBuilder>; 2],
    segment: SegmentBuilder,
    body: Vec<u8>,
}

impl<'a> Rewriter<'a> {
    pub fn new(store: &'a Store, marks: &'a Marks) -> Result<Self, Error> {
        store.index()?;
        let (open, segment) = ([None, None], SegmentBuilder::default());
        Ok(Self { store, marks, open, segment, body: Vec::new() })
    }

    /// Copies what stays of a pack, as it is encoded, and returns how many bytes. A copy of a chunk
    /// with base keeps it, and a copy of a base has none. Every chunk is decoded and compared with
    /// its name first.
    pub fn rewrite(&mut self, entry: &PackEntry) -> Result<Result<u64, Stays>, Error> {
        let records = match directory(self.store, entry)? {
            Ok(records) => records,
            Err(stays) => return Ok(Err(stays)),
        };
        // All of it is looked at before anything is copied.
        let (mut live, mut bad) = (Vec::new(), Vec::new());
        for record in &records {
            let location = Location { pack: *entry, record: *record };
            if !self.is_chosen(&location) {
                if let Err(reason) = stays_elsewhere(self.store, self.marks, entry, record)? {
                    bad.push((record, reason));
                }
                continue;
            }
            match read_place(self.store, &self.marks.index, &location) {
                Ok(_) => live.push(location),
                Err(fault) if fault.is_damage() => {
                    let key = pack::key(entry.content, &entry.id);
                    bad.push((record, format!("{key} stays: {fault}")));
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        if let Err(stays) = stays_for(bad) {
            return Ok(Err(stays));
        }
        let mut copied = 0;
        for location in live {
            copied += u64::from(location.record.stored_bytes);
            self.copy(&location)?;
        }
        Ok(Ok(copied))
    }

    fn is_chosen(&self, location: &Location) -> bool {
        let copies = self.marks.index.copies(&location.record.digest);
        copies.into_iter().any(|copy| {
            self.marks.is_chosen(copy.place)
                && copy.location.pack.id == location.pack.id
                && copy.location.record.offset == location.record.offset
        })
    }

    fn copy(&mut self, location: &Location) -> Result<(), Error> {
        let Location { pack: entry, record } = location;
        let key = pack::key(entry.content, &entry.id);
        self.body.resize(record.stored_bytes as usize, 0);
        self.store.backend().read_at(&key, u64::from(record.offset), &mut self.body)?;
        let slot = entry.content as usize;
        if self.open[slot].as_ref().is_some_and(|open| !open.has_room(self.body.len())) {
            self.close(slot)?;
        }
        let open = match &mut self.open[slot] {
            Some(open) => open,
            None => {
                let made = PackBuilder::new(entry.content, self.store.id(), Vec::new());
                self.open[slot].insert(made.salted(random()?))
            }
        };
        let Record { digest, plain_bytes, encoding, base, .. } = *record;
        open.push(digest, plain_bytes, encoding, base, &self.body);
        Ok(())
    }

    fn close(&mut self, slot: usize) -> Result<(), Error> {
        let Some(open) = self.open[slot].take() else { return Ok(()) };
        let pack = open.finish();
        let _ = pack.publish(self.store.backend())?;
        read_pack_back(self.store.backend(), &pack.entry)?;
        self.segment.add_pack(pack.entry, &pack.records);
        if self.segment.len() >= PENDING_CHUNKS_MAX {
            self.segment.flush(self.store.index()?, self.store.backend())?;
        }
        Ok(())
    }

    /// Makes everything that was copied durable: packs, then an index segment for them.
    pub fn finish(mut self) -> Result<(), Error> {
        for content in [Content::Chunks, Content::Pages] {
            self.close(content as usize)?;
        }
        Ok(self.segment.flush(self.store.index()?, self.store.backend())?)
    }
}
