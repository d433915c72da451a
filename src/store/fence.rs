//! The fence between writers and prune: a generation is not committed if something that it needs was
//! collected since its writer chose what to reuse. See `docs/decisions/013-prune.md`.

use std::collections::HashSet;

use super::keeping::{Covered, Lists};
use super::reach::{Reach, walk_artifact};
use super::{Error, PageFault, Store, manifest_key};
use crate::digest::Digest;
use crate::format::record::CommitNumber;
use crate::index::Snapshot;
use crate::log::Log;

/// The number of the last commit record when a writer began to choose what to reuse: everything that
/// it chooses was in a pack that no record up to this one collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Baseline(pub CommitNumber);

impl Baseline {
    /// Nothing is known: whatever was ever collected may be relied on.
    pub const NONE: Self = Self(CommitNumber(0));
}

/// What a commit has looked at.
pub(super) struct Fence<'s> {
    store: &'s Store,
    /// The last record that was taken into account.
    looked_at: CommitNumber,
    manifests: Vec<Digest>,
}

impl<'s> Fence<'s> {
    /// Guards the commit of a generation: its manifest, and those of its artifacts.
    pub fn new(store: &'s Store, baseline: Baseline, manifests: Vec<Digest>) -> Self {
        Self { store, looked_at: baseline.0, manifests }
    }

    /// Looks at the records that are new since the last look.
    ///
    /// # Errors
    /// [`Error::TakenAway`] if something is gone; [`Error::NewerRecords`]; the storage failed.
    pub fn look(&mut self, log: &Log) -> Result<(), Error> {
        if let Some(kind) = log.unknown_kind() {
            return Err(Error::NewerRecords { kind });
        }
        let is_collected = log.state().collections_after(self.looked_at).next().is_some();
        if is_collected {
            self.look_at_all()?;
        }
        self.looked_at = log.position().number;
        Ok(())
    }

    /// Fails unless everything that the generation needs is there, in packs that no collection
    /// lists.
    fn look_at_all(&self) -> Result<(), Error> {
        let store = self.store;
        let Covered { removal, .. } = store.cover(false, Lists::Needed)?;
        let index = store.index()?.snapshot();
        let mut walk = Walk { index, pages: HashSet::new(), taken: None, fault: None };
        for id in &self.manifests {
            let taken = || Error::TakenAway { digest: *id };
            if removal.manifests.contains(id) {
                return Err(taken());
            }
            match store.backend().len(&manifest_key(id)) {
                Ok(_) => {}
                Err(crate::backend::Error::NotFound { .. }) => return Err(taken()),
                Err(error) => return Err(error.into()),
            }
            if let Ok(artifact) = store.artifact(id) {
                walk_artifact(store, &artifact, &mut walk);
            } else {
                // The manifest of the generation, then: any other error is one there too.
                store.generation(id)?;
            }
        }
        match (walk.taken, walk.fault) {
            (Some(digest), _) => Err(Error::TakenAway { digest }),
            (None, Some(fault)) => Err(fault.into()),
            (None, None) => Ok(()),
        }
    }
}

/// A walk over everything that artifacts need, up to the first thing that is gone.
struct Walk {
    index: Snapshot,
    /// Pages that were entered.
    pages: HashSet<Digest>,
    taken: Option<Digest>,
    fault: Option<PageFault>,
}

impl Walk {
    fn is_over(&self) -> bool {
        self.taken.is_some() || self.fault.is_some()
    }
}

impl Reach for Walk {
    fn page(&mut self, digest: &Digest) -> bool {
        self.chunk(digest);
        !self.is_over() && self.pages.insert(*digest)
    }

    fn chunk(&mut self, digest: &Digest) {
        if !self.is_over() && !self.index.keeps(digest) {
            self.taken = Some(*digest);
        }
    }

    fn fault(&mut self, fault: PageFault) {
        self.fault.get_or_insert(fault);
    }
}
