//! A limit on what goes to and comes from a backend, for people who share a machine or a disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Backend, Error, Key, Lock, LockMode, ObjectBytes, Put};

/// Any backend, slowed down to a rate.
#[derive(Debug)]
pub struct ThrottledBackend {
    inner: Arc<dyn Backend>,
    bytes_per_second: u64,
    /// When what was transferred so far would have ended at the rate.
    paid_until: Mutex<Instant>,
}

/// Idle time counts for the transfers after it up to this much.
const SAVED_MAX: Duration = Duration::from_millis(100);

impl ThrottledBackend {
    /// Limits `inner` to `bytes_per_second`, at least one.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self { inner, bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be transferred.
    fn pay(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let wait = {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = now.checked_sub(SAVED_MAX).map_or(*paid, |earliest| earliest.max(*paid));
            *paid = start + cost;
            paid.saturating_duration_since(now)
        };
        std::thread::sleep(wait);
    }
}

impl Backend for ThrottledBackend {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.pay(parts.iter().map(|part| part.len() as u64).sum());
        self.inner.put(key, parts)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.pay(parts.iter().map(|part| part.len() as u64).sum());
        self.inner.overwrite(key, parts)
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.pay(buffer.len() as u64);
        self.inner.read_at(key, offset, buffer)
    }

    /// A map costs nothing here: it is not known how much of it will be touched.
    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
        self.inner.read(key, bytes_max)
    }

    fn len(&self, key: &Key) -> Result<u64, Error> {
        self.inner.len(key)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
        self.inner.list(folder, each)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(key)
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        self.inner.try_lock(name, mode)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{MemoryBackend, conformance};

    #[test]
    fn conforms() {
        conformance::run(&|| {
            Box::new(ThrottledBackend::new(Arc::new(MemoryBackend::new()), u64::MAX))
        });
    }

    #[test]
    fn a_transfer_takes_at_least_its_time() {
        let slow = ThrottledBackend::new(Arc::new(MemoryBackend::new()), 1 << 20);
        let key = Key::new("packs/a").unwrap();
        let started = Instant::now();
        let mut bytes = vec![0; 256 << 10];
        let _ = slow.put(&key, &[&bytes]).unwrap();
        slow.read_at(&key, 0, &mut bytes[..128 << 10]).unwrap();
        assert!(started.elapsed() + SAVED_MAX >= Duration::from_millis(375));
    }
}
