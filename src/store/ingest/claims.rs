//! Claims: chunks that some unit of this ingest has taken upon itself to store and that the index
//! does not have yet. Whoever comes second only refers to them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;

const SHARDS: usize = 64;

pub(super) struct Claims {
    shards: [Mutex<HashSet<Digest>>; SHARDS],
}

impl Default for Claims {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Claims {
    /// Claims a chunk; `false` if it is claimed already.
    pub fn claim(&self, digest: Digest) -> bool {
        let shard = &self.shards[usize::from(digest.0[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(digest)
    }

    /// Forgets chunks that the index has now.
    pub fn release(&self, digests: impl Iterator<Item = Digest>) {
        for digest in digests {
            let shard = &self.shards[usize::from(digest.0[0]) % SHARDS];
            shard.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        }
    }
}
