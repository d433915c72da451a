//! What an artifact needs: its list pages and chunks, one after the other, in memory for one path
//! through each list.

use std::cell::RefCell;

use super::list::ListIter;
use super::{PageFault, Store};
use crate::digest::Digest;
use crate::format::manifest::{Artifact, Chunks, Entry};
use crate::format::page::{ChunkRef, ListRef};

/// Who looks at what an artifact needs.
pub(super) trait Reach {
    /// Takes notice of a list page, and says whether to read it: not if it was read before, or if
    /// nothing more is wanted.
    fn page(&mut self, digest: &Digest) -> bool;

    /// Takes notice of a chunk, any number of times.
    fn chunk(&mut self, digest: &Digest);

    /// Takes notice of a page that cannot be read: what it needs is not known.
    fn fault(&mut self, fault: PageFault);
}

/// Walks everything that an artifact needs but the bases of its chunks.
pub(super) fn walk_artifact(store: &Store, artifact: &Artifact, reach: &mut dyn Reach) {
    let reach = RefCell::new(reach);
    let entries = ListIter::<Entry>::new(store, &artifact.entries);
    entries.walk(
        |page| reach.borrow_mut().page(page),
        |entry| match entry {
            Ok(entry) => match entry.content().map(|content| &content.chunks) {
                Some(Chunks::Inline(chunks)) => {
                    for chunk in chunks.iter().filter(|chunk| !chunk.is_hole()) {
                        reach.borrow_mut().chunk(&chunk.digest);
                    }
                }
                Some(Chunks::List(list)) => walk_chunks(store, list, &reach),
                None => {}
            },
            Err(fault) => reach.borrow_mut().fault(fault),
        },
    );
}

fn walk_chunks(store: &Store, list: &ListRef, reach: &RefCell<&mut dyn Reach>) {
    ListIter::<ChunkRef>::new(store, list).walk(
        |page| reach.borrow_mut().page(page),
        |chunk| match chunk {
            Ok(chunk) if chunk.is_hole() => {}
            Ok(chunk) => reach.borrow_mut().chunk(&chunk.digest),
            Err(fault) => reach.borrow_mut().fault(fault),
        },
    );
}
