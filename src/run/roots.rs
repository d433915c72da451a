//! What unfinished runs still need of the store: whoever removes objects from it keeps that.

use super::error::Error;
use super::{any, journal, state};
use crate::digest::Digest;
use crate::store::Store;

/// Returns the manifests of artifacts that unfinished backups have verified and that no generation
/// shows yet, and of those that unfinished restores have not uploaded yet.
///
/// # Errors
/// A journal cannot be read or followed: then nobody knows what its run needs, and nothing may be
/// removed.
pub fn roots(store: &Store) -> Result<Vec<Digest>, Error> {
    let mut manifests = Vec::new();
    for run in journal::open_runs(store.backend())? {
        let state = any::look(store, &run)?;
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
