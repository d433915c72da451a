//! Leases: who may write. A writer shares the lease of the store; whoever removes objects will
//! take it alone. The lock is the kernel's (or the backend's): it dies with its holder, and
//! nothing is judged by age.

use crate::backend::{self, Backend, Lock, LockMode};

/// Name of the lock that writers share.
pub const STORE_LOCK: &str = "store";

/// A writer's lease; while it is held, nothing that a writer may reference is removed.
#[derive(Debug)]
pub struct WriterLease {
    _lock: Box<dyn Lock>,
}

/// Why a lease was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend cannot lock.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// Somebody holds the store alone.
    #[error("the store is locked exclusively by another process")]
    Held,
}

impl WriterLease {
    /// Takes a writer's lease without waiting.
    ///
    /// # Errors
    /// [`Error::Held`] if the store is locked exclusively.
    pub fn acquire(backend: &dyn Backend) -> Result<Self, Error> {
        match backend.try_lock(STORE_LOCK, LockMode::Shared)? {
            Some(lock) => Ok(Self { _lock: lock }),
            None => Err(Error::Held),
        }
    }
}
