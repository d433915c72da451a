//! Keeping the index: in line with the packs that are there, and with what is being removed.
//!
//! Whoever writes segments for packs that it did not make itself, or deletes segments, holds the
//! lock of the index, and looks in this order after it got it: the log, the segments, the packs. So
//! a pack that prune collects is never added behind prune's back. Who does not get the lock keeps
//! what it finds in memory.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::{Error, Store};
use crate::backend::{self, Key};
use crate::digest::Digest;
use crate::format::frame::FRAME_BYTES_MAX;
use crate::format::header::Access;
use crate::format::removal;
use crate::index::{self, Cover, Index, Removals, Snapshot};
use crate::lease::Lease;
use crate::log::Log;

/// Folder of the lists of objects to be removed.
pub(super) const REMOVALS: &str = "removals";

/// What is under removal.
#[derive(Debug, Default)]
pub(super) struct UnderRemoval {
    /// Packs.
    pub packs: Removals,
    /// Manifests that count as gone.
    pub manifests: HashSet<Digest>,
}

/// The index in line with everything else, at one moment.
pub(super) struct Covered {
    pub cover: Cover,
    pub log: Log,
    pub removal: UnderRemoval,
}

/// How a list of objects that are being removed must be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lists {
    /// What cannot be read is an error: for writers, who might rely on what it lists. What damaged
    /// records may collect counts too.
    Needed,
    /// What cannot be read lists nothing: for readers, who check what they read, and for prune.
    Wanted,
}

impl Store {
    /// Returns the index, with segments that other processes have written or removed since it was
    /// opened.
    pub(super) fn fresh_index(&self) -> Result<&Index, Error> {
        let index = self.index()?;
        index.refresh(self.backend())?;
        Ok(index)
    }

    /// Brings the index in line with the packs. With `writable`, what it lacks is stored if nobody
    /// else is keeping the index just now.
    pub(super) fn cover(&self, writable: bool, lists: Lists) -> Result<Covered, Error> {
        let index = self.index()?;
        let lease = writable.then(|| Lease::index(self.backend())).flatten();
        let log = self.log()?;
        let (log, removal) = self.under_removal(log, lists)?;
        index.refresh(self.backend())?;
        let cover = index::cover(index, self.backend(), lease.is_some(), &removal.packs)?;
        Ok(Covered { cover, log, removal })
    }

    /// Merges segments, unless somebody else keeps the index just now.
    pub(super) fn merge_index(&self) -> Result<(), Error> {
        let index = self.index()?;
        if let Some(_lease) = Lease::index(self.backend()) {
            index.refresh(self.backend())?;
            index::merge(index, self.backend())?;
        }
        Ok(())
    }

    /// Makes the index anew, once in the life of this value, because it lacks a chunk that a
    /// manifest refers to: somebody removed a part of it, or packs came from elsewhere.
    pub(super) fn recover_index(&self) -> Option<Snapshot> {
        let index = self.index().ok()?;
        once(&self.recovered, index, || drop(self.rebuild_index(index)));
        Some(index.snapshot())
    }

    /// Adds packs to the index, in memory and once in the life of this value, that no segment names:
    /// of writers that were killed before their segment.
    pub(super) fn covered_index(&self) -> Option<Snapshot> {
        let index = self.index().ok()?;
        once(&self.covered, index, || drop(self.cover(false, Lists::Wanted)));
        self.recover_damaged_index().or_else(|| Some(index.snapshot()))
    }

    /// Makes the index anew if a chunk is not where it says because a segment is damaged: large ones
    /// are not compared with their checksums when they are opened.
    pub(super) fn recover_damaged_index(&self) -> Option<Snapshot> {
        let index = self.index().ok()?;
        let is_damaged = || index.snapshot().segments().iter().any(|s| s.check().is_err());
        if *self.doubted.get_or_init(is_damaged) { self.recover_index() } else { None }
    }

    /// Makes the index anew from the packs: written to the store where that is possible and nobody
    /// else keeps it just now, else in memory.
    pub(super) fn rebuild_index(&self, index: &Index) -> Result<Cover, Error> {
        let lease = (self.access == Access::ReadWrite).then(|| Lease::index(self.backend()));
        let lease = lease.flatten();
        let log = self.log();
        let is_new = |log: &Log| log.records().is_empty() && log.damaged().is_empty();
        self.rebuilt.store(!log.as_ref().is_ok_and(is_new), Ordering::Relaxed);
        let removal = match log {
            Ok(log) => self.under_removal(log, Lists::Wanted)?.1,
            Err(_) => UnderRemoval::default(),
        };
        // What others have removed from it must not come back from memory.
        index.refresh(self.backend())?;
        if lease.is_some()
            && let Ok(cover) = index::rebuild(index, self.backend(), true, &removal.packs)
        {
            return Ok(cover);
        }
        Ok(index::rebuild(index, self.backend(), false, &removal.packs)?)
    }

    /// Returns what is under removal, as the log says, and the log, which is read again if the lists
    /// that it names are gone because all was done meanwhile.
    pub(super) fn under_removal(
        &self,
        mut log: Log,
        lists: Lists,
    ) -> Result<(Log, UnderRemoval), Error> {
        let mut result = self.try_under_removal(&log, lists);
        for _ in 0..3 {
            match result {
                Err(Error::Backend(backend::Error::NotFound { .. })) => {
                    log = self.log()?;
                    result = self.try_under_removal(&log, lists);
                }
                _ => break,
            }
        }
        Ok((log, result?))
    }

    fn try_under_removal(&self, log: &Log, lists: Lists) -> Result<UnderRemoval, Error> {
        let (state, mut under) = (log.state(), UnderRemoval::default());
        for collection in state.collecting() {
            // What only may be under removal stays readable, and prune has to judge it.
            if lists == Lists::Wanted && !collection.is_certain {
                continue;
            }
            match self.removal_list(&collection.list) {
                Ok(list) => {
                    under.packs.gone.extend(list.packs.iter().chain(&list.pages));
                    under.manifests.extend(list.manifests);
                }
                Err(_) if lists == Lists::Wanted => {}
                Err(error) => return Err(error),
            }
        }
        for condemned in state.condemned() {
            // What cannot be read can never be collected.
            if let Ok(list) = self.removal_list(&condemned.list) {
                under.packs.condemned.extend(list.packs.iter().chain(&list.pages));
            }
        }
        Ok(under)
    }

    /// Reads a list of objects to be removed.
    pub(super) fn removal_list(&self, id: &Digest) -> Result<removal::List, Error> {
        let key = removal_key(id);
        let bytes = self.backend.read(&key, FRAME_BYTES_MAX as u64)?;
        let actual = Digest::of(&bytes);
        if actual != *id {
            let what = "removal list";
            let source = crate::format::Error::Checksum { what, expected: *id, actual };
            return Err(Error::Manifest { key, source });
        }
        removal::List::decode(&bytes).map_err(|source| Error::Manifest { key, source })
    }
}

/// Returns the key of a list of objects to be removed.
pub(super) fn removal_key(id: &Digest) -> Key {
    Key::new(format!("{REMOVALS}/{id}")).expect("a digest is a valid name")
}

/// Does something to the index that was not done yet, or whose effect was kept in memory only and
/// has been left since.
fn once(done: &Mutex<Option<u64>>, index: &Index, work: impl FnOnce()) {
    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
    if *done != Some(index.left()) {
        work();
        *done = Some(index.left());
    }
}
