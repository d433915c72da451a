//! Leases: who does what at the same time. The locks are the kernel's (or the backend's): they die
//! with their holders, and nothing is judged by age. See "Locks" in `store-format.md`.

use std::time::{Duration, Instant};

use crate::backend::{self, Backend, Lock, LockMode};

/// Name of the lock that writers share.
pub const STORE_LOCK: &str = "store";
/// Name of the lock that readers of generations share.
pub const READERS_LOCK: &str = "readers";
/// Name of the lock that prune holds alone.
pub const PRUNE_LOCK: &str = "prune";
/// Name of the lock of whoever keeps the index for others.
pub const INDEX_LOCK: &str = "index";

/// Longest wait for a lock that others hold for moments only.
const MOMENT: Duration = Duration::from_secs(10);

/// A held lease.
#[derive(Debug)]
pub struct Lease {
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
    /// Others write to the store.
    #[error("the store is in use by another process that writes to it")]
    Written,
    /// Others read from the store.
    #[error("the store is in use by another process that reads from it")]
    Read,
    /// Others keep the index.
    #[error("the index is being written by another process")]
    Indexed,
    /// Another prune is at work.
    #[error("the store is being pruned by another process")]
    Pruned,
}

impl Lease {
    /// Takes a writer's lease without waiting.
    ///
    /// # Errors
    /// [`Error::Held`] if the store is locked exclusively.
    pub fn writer(backend: &dyn Backend) -> Result<Self, Error> {
        take(backend, STORE_LOCK, LockMode::Shared)?.ok_or(Error::Held)
    }

    /// Takes the store alone, without waiting: nobody writes to it.
    ///
    /// # Errors
    /// [`Error::Written`] if somebody does.
    pub fn no_writers(backend: &dyn Backend) -> Result<Self, Error> {
        take(backend, STORE_LOCK, LockMode::Exclusive)?.ok_or(Error::Written)
    }

    /// Takes a reader's lease. `None` if it cannot be had within seconds, or not at all: reading
    /// goes on without it.
    #[must_use]
    pub fn reader(backend: &dyn Backend) -> Option<Self> {
        wait(|| take(backend, READERS_LOCK, LockMode::Shared)).ok().flatten()
    }

    /// Takes the readers' lock alone, without waiting: nobody reads.
    ///
    /// # Errors
    /// [`Error::Read`] if somebody does.
    pub fn no_readers(backend: &dyn Backend) -> Result<Self, Error> {
        take(backend, READERS_LOCK, LockMode::Exclusive)?.ok_or(Error::Read)
    }

    /// Takes the lock of prune, without waiting.
    ///
    /// # Errors
    /// [`Error::Pruned`] if another has it.
    pub fn prune(backend: &dyn Backend) -> Result<Self, Error> {
        take(backend, PRUNE_LOCK, LockMode::Exclusive)?.ok_or(Error::Pruned)
    }

    /// Takes the lock of the index, without waiting; `None` if another keeps it just now, or it
    /// cannot be had.
    #[must_use]
    pub fn index(backend: &dyn Backend) -> Option<Self> {
        Self::try_index(backend).ok().flatten()
    }

    /// Takes the lock of the index, without waiting; `None` if another keeps it just now.
    ///
    /// # Errors
    /// It cannot be had, now or later.
    pub fn try_index(backend: &dyn Backend) -> Result<Option<Self>, Error> {
        take(backend, INDEX_LOCK, LockMode::Exclusive)
    }
}

fn take(backend: &dyn Backend, name: &str, mode: LockMode) -> Result<Option<Lease>, Error> {
    Ok(backend.try_lock(name, mode)?.map(|lock| Lease { _lock: lock }))
}

/// Tries until it succeeds, or fails, or [`MOMENT`] is over.
fn wait<T>(mut attempt: impl FnMut() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    let started = Instant::now();
    loop {
        let taken = attempt()?;
        if taken.is_some() || started.elapsed() >= MOMENT {
            return Ok(taken);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    #[test]
    fn leases_exclude_whom_they_must_and_nobody_else() {
        let backend = MemoryBackend::new();
        let writers = [Lease::writer(&backend).unwrap(), Lease::writer(&backend).unwrap()];
        assert!(matches!(Lease::no_writers(&backend), Err(Error::Written)));
        let reader = Lease::reader(&backend).unwrap();
        assert!(matches!(Lease::no_readers(&backend), Err(Error::Read)));
        let prune = Lease::prune(&backend).unwrap();
        assert!(matches!(Lease::prune(&backend), Err(Error::Pruned)));
        let index = Lease::index(&backend).unwrap();
        assert!(Lease::index(&backend).is_none());
        drop((writers, reader, prune, index));
        let alone = Lease::no_writers(&backend).unwrap();
        assert!(matches!(Lease::writer(&backend), Err(Error::Held)));
        drop(alone);
        assert!(Lease::no_readers(&backend).is_ok() && Lease::index(&backend).is_some());
    }
}
