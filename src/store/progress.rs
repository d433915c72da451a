//! Progress of long work, and the wish to stop it: counters that a front end may watch from another
//! thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Error;

/// Counters of one piece of work. Counting is approximate; reports carry the exact numbers.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries, objects or chunks done, whatever the work counts.
    pub items: AtomicU64,
    /// Bytes done.
    pub bytes: AtomicU64,
    /// Bytes known to be ahead, done ones included; grows while they are discovered.
    pub bytes_total: AtomicU64,
    interrupted: Arc<AtomicBool>,
}

impl Progress {
    /// Counts one item.
    pub fn item(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `bytes` as done.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` as ahead.
    pub fn expect(&self, bytes: u64) {
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Asks the work to stop at the next good place; everything stored so far stays usable.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Returns the flag that [`Progress::interrupt`] sets, for work that is not the store's.
    #[must_use]
    pub fn interrupt_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupted)
    }

    /// Returns counters of their own for a part of the work, which stops with the whole.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { interrupted: Arc::clone(&self.interrupted), ..Self::default() }
    }

    /// Says whether the work shall stop.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Fails if the work shall stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<(), Error> {
        if self.is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
