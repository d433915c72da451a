//! What unfinished runs still need: whoever removes objects from the store keeps it.

use super::runner::{self, Error};
use super::state::Outcome;
use super::{journal, state};
use crate::digest::Digest;
use crate::store::Store;

/// Returns the manifests of artifacts that unfinished runs have verified and that no generation
/// shows yet.
///
/// # Errors
/// A journal cannot be read or followed: then nobody knows what its run needs, and nothing may be
/// removed.
pub fn artifacts(store: &Store) -> Result<Vec<Digest>, Error> {
    let mut manifests = Vec::new();
    for run in journal::open_runs(store.backend())? {
        let state = runner::look(store, &run)?;
        if state.outcome != Outcome::Unfinished {
            continue;
        }
        for manifest in state.manifests() {
            let digest = manifest.parse().map_err(|_| Error::State {
                run: run.clone(),
                source: state::Error::Illegal {
                    record: 0,
                    reason: format!("{manifest} is no digest"),
                },
            })?;
            manifests.push(digest);
        }
    }
    Ok(manifests)
}
