//! What unfinished runs need of the store: artifacts that no generation shows yet.

use super::journal;
use super::runner::{Error, look};
use super::state::Outcome;
use crate::digest::Digest;
use crate::store::{self, Store};

/// Returns the manifests of the artifacts of all runs that can be resumed, which prune must keep.
///
/// # Errors
/// A journal cannot be read: then nobody knows what its run needs.
pub fn roots(store: &Store) -> Result<Vec<Digest>, Error> {
    let mut roots = Vec::new();
    for run in journal::open_runs(store.backend())? {
        let state = look(store, &run)?;
        if state.outcome != Outcome::Unfinished {
            continue;
        }
        for manifest in state.manifests() {
            let reason = || format!("{manifest:?} is no manifest");
            let what = || format!("the journal of the run {run}");
            let unknown = |_| store::Error::NotKnown { what: what(), reason: reason() };
            roots.push(manifest.parse().map_err(unknown)?);
        }
    }
    Ok(roots)
}
