//! The store in memory, for tests and for trying things out.
//!
//! Keeps the promises of [`Backend`] as far as memory can: clones are handles to one store, so
//! "opening it again" is a clone, and locks exclude each other between clones.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Error, Key, Lock, LockMode, ObjectBytes, Put};

/// A store in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryBackend {
    objects: Arc<Mutex<Objects>>,
    locks: Arc<Mutex<Locks>>,
}

type Objects = BTreeMap<Key, Arc<Vec<u8>>>;
type Locks = BTreeMap<String, Holders>;

/// Who holds a lock. One that nobody holds has no entry.
#[derive(Debug)]
enum Holders {
    Shared(usize),
    Exclusive,
}

impl MemoryBackend {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the object's bytes whatever they were: for tests of damage.
    #[doc(hidden)]
    pub fn replace(&self, key: &Key, bytes: Vec<u8>) {
        self.objects().insert(key.clone(), Arc::new(bytes));
    }

    /// Loses the object, and returns what it was: for tests of damage.
    #[doc(hidden)]
    #[must_use = "an object that was not there cannot be lost"]
    pub fn remove_raw(&self, key: &Key) -> Option<Arc<Vec<u8>>> {
        self.objects().remove(key)
    }

    /// Whatever panicked while it held the mutex: each change is one call on the map.
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key) -> Result<Arc<Vec<u8>>, Error> {
        let found = self.objects().get(key).map(Arc::clone);
        found.ok_or_else(|| Error::NotFound { key: key.clone() })
    }
}

impl Backend for MemoryBackend {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        let bytes = parts.concat();
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(Put::Existed);
        }
        objects.insert(key.clone(), Arc::new(bytes));
        Ok(Put::Created)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.objects().insert(key.clone(), Arc::new(parts.concat()));
        Ok(())
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let bytes = self.find(key)?;
        let actual = bytes.len() as u64;
        let expected = offset.saturating_add(buffer.len() as u64);
        let range = usize::try_from(offset).ok().zip(usize::try_from(expected).ok());
        match range.and_then(|(start, end)| bytes.get(start..end)) {
            Some(found) => {
                buffer.copy_from_slice(found);
                Ok(())
            }
            None => Err(Error::Short { key: key.clone(), expected, actual }),
        }
    }

    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
        let bytes = self.find(key)?;
        let actual = bytes.len() as u64;
        if actual > bytes_max {
            return Err(Error::TooLarge { key: key.clone(), bytes_max, actual });
        }
        Ok(ObjectBytes::shared(bytes))
    }

    fn len(&self, key: &Key) -> Result<u64, Error> {
        Ok(self.find(key)?.len() as u64)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
        let found: Vec<(Key, u64)> = if folder.is_empty() {
            self.objects().iter().map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect()
        } else {
            let prefix = format!("{}/", Key::new(folder)?);
            let start = Bound::Excluded(Key::new(folder)?);
            let objects = self.objects();
            objects
                .range((start, Bound::Unbounded))
                // Names that continue the folder's with `-` or `.` sort in between.
                .take_while(|(key, _)| key.as_str().starts_with(folder))
                .filter(|(key, _)| key.as_str().starts_with(&prefix))
                .map(|(key, bytes)| (key.clone(), bytes.len() as u64))
                .collect()
        };
        // Without the mutex: `each` may call the backend.
        for (key, size_bytes) in found {
            each(key, size_bytes);
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.objects().remove(key);
        Ok(())
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        if Key::new(name).is_err() || name.contains('/') {
            return Err(Error::BadKey { text: name.to_owned() });
        }
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        match (locks.get_mut(name), mode) {
            (None, LockMode::Shared) => {
                locks.insert(name.to_owned(), Holders::Shared(1));
            }
            (None, LockMode::Exclusive) => {
                locks.insert(name.to_owned(), Holders::Exclusive);
            }
            (Some(Holders::Shared(count)), LockMode::Shared) => *count += 1,
            (Some(_), _) => return Ok(None),
        }
        Ok(Some(Box::new(Held { locks: Arc::clone(&self.locks), name: name.to_owned() })))
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

/// A held lock.
#[derive(Debug)]
struct Held {
    locks: Arc<Mutex<Locks>>,
    name: String,
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        match locks.get_mut(&self.name) {
            Some(Holders::Shared(count)) if *count > 1 => *count -= 1,
            _ => {
                locks.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn conforms() {
        conformance::run(&|| Box::new(MemoryBackend::new()));
    }

    #[test]
    fn clones_share_objects_and_locks() {
        let first = MemoryBackend::new();
        let second = first.clone();
        assert_eq!(first.put(&key("index/a"), &[b"x"]).unwrap(), Put::Created);
        assert_eq!(second.len(&key("index/a")).unwrap(), 1);
        let held = first.try_lock("store", LockMode::Exclusive).unwrap();
        assert!(held.is_some());
        assert!(second.try_lock("store", LockMode::Shared).unwrap().is_none());
        drop(held);
        assert!(second.try_lock("store", LockMode::Shared).unwrap().is_some());
    }

    #[test]
    fn damage_helpers_change_and_lose_objects() {
        let backend = MemoryBackend::new();
        backend.replace(&key("index/a"), b"damaged".to_vec());
        assert_eq!(&*backend.read(&key("index/a"), 7).unwrap(), b"damaged");
        assert!(backend.remove_raw(&key("index/a")).is_some());
        assert!(matches!(backend.len(&key("index/a")), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_read_object_outlives_its_deletion() {
        let backend = MemoryBackend::new();
        let _ = backend.put(&key("index/a"), &[b"bytes"]).unwrap();
        let read = backend.read(&key("index/a"), 5).unwrap();
        backend.delete(&key("index/a")).unwrap();
        assert_eq!(&*read, b"bytes");
    }
}
