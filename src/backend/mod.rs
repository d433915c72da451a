//! Backends: the only way to storage.
//!
//! A backend maps keys to immutable objects. It gives them no meaning beyond their key, and it
//! owns durability: when [`Backend::put`] returns, the object survives a power cut under its
//! final name (`DURABILITY`: create in `tmp/`, write, sync, publish without replacing, sync the
//! directory). See "Publishing" in `store-format.md`.
//!
//! The trait has no default methods, so that a wrapper cannot miss one. One conformance suite
//! ([`conformance`]) runs on every implementation.

use std::fmt;
use std::ops::Deref;

pub mod conformance;
mod local;
mod memory;
mod throttle;

pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use throttle::ThrottledBackend;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// Folders that belong to backends: unfinished objects and locks. No key is in them.
pub const RESERVED: [&str; 2] = ["tmp", "locks"];

/// The name of an object: components of `[a-z0-9._-]` separated by `/`.
///
/// No component is empty or starts with a dot, so a key never leaves the store. The first one is
/// none of [`RESERVED`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// [`Error::BadKey`] if `text` is empty, longer than [`KEY_BYTES_MAX`], holds anything else
    /// than the characters above or is reserved.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        };
        let reserved = RESERVED.contains(&text.split('/').next().unwrap_or_default());
        if text.len() <= KEY_BYTES_MAX && text.split('/').all(good) && !reserved {
            Ok(Self(text))
        } else {
            Err(Error::BadKey { text })
        }
    }

    /// Returns the key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What [`Backend::put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// The object is new and durable.
    Created,
    /// The key had an object already; it is unchanged and `bytes` were not stored. It is durable.
    Existed,
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// With others that share.
    Shared,
    /// Alone.
    Exclusive,
}

/// A held lock; dropping it, or the end of the process, releases it.
pub trait Lock: Send + Sync + fmt::Debug {}

/// The bytes of a whole object, mapped or owned.
pub struct ObjectBytes(Inner);

enum Inner {
    Owned(Vec<u8>),
    Shared(std::sync::Arc<Vec<u8>>),
    Mapped(memmap2::Mmap),
}

impl ObjectBytes {
    /// Wraps bytes in memory.
    #[must_use]
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self(Inner::Owned(bytes))
    }

    pub(crate) fn shared(bytes: std::sync::Arc<Vec<u8>>) -> Self {
        Self(Inner::Shared(bytes))
    }

    pub(crate) fn mapped(map: memmap2::Mmap) -> Self {
        Self(Inner::Mapped(map))
    }
}

impl Deref for ObjectBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Owned(bytes) => bytes,
            Inner::Shared(bytes) => bytes,
            Inner::Mapped(map) => map,
        }
    }
}

impl fmt::Debug for ObjectBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectBytes({} bytes)", self.len())
    }
}

/// Storage of immutable objects.
///
/// Object-safe and shared between threads. Every method may be called at any time, also after
/// errors; a backend that can no longer promise durability (a failed sync) latches: every later
/// `put`, `overwrite` and `delete` fails with [`Error::Latched`], reads go on.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Stores the concatenation of `parts` under `key` if the key has no object yet: atomic, never
    /// replacing, and durable when it returns, in both outcomes.
    ///
    /// # Errors
    /// Any error leaves either no object or the whole object under `key`; the caller may try
    /// again.
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error>;

    /// Stores the concatenation of `parts` under `key` in place of the object that is there, if
    /// there is one: atomic and durable when it returns. Only for an object that is known to be
    /// damaged and whose bytes follow from its name: everything else is written once.
    ///
    /// # Errors
    /// Any error leaves either what was there or the whole new object.
    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error>;

    /// Fills `buffer` from the object at `offset`, entirely.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Short`] if the object ends before the buffer is full.
    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// Returns the whole object, mapped into memory where that is possible. For objects whose
    /// readers check what they read and can be rebuilt (index segments), and for small ones.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::TooLarge`] if the object is larger than `bytes_max`.
    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error>;

    /// Returns the length of the object in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn len(&self, key: &Key) -> Result<u64, Error>;

    /// Calls `each` with the key and length of every object below the folder `folder` (such as
    /// `packs`, or empty for all objects), sorted by key. Unfinished objects are not listed. A
    /// folder without objects is empty, not an error.
    ///
    /// # Errors
    /// A listing that cannot be completed is an error, never a shorter list.
    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error>;

    /// Removes the object durably. Removing what does not exist succeeds.
    ///
    /// # Errors
    /// Any error leaves the object whole or gone.
    fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Tries to take the lock called `name` without waiting; `None` if others hold it in a way
    /// that excludes `mode`.
    ///
    /// # Errors
    /// The backend cannot lock (a read-only store cannot be locked exclusively).
    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error>;

    /// Says where the store is, for messages to people.
    fn location(&self) -> String;
}

/// Stores an object whose name follows from its bytes. If the key has an object already that is not
/// these bytes, it is damaged, and is replaced: otherwise what was lost once could never be stored
/// again.
///
/// # Errors
/// The backend's.
pub fn put_or_repair(backend: &dyn Backend, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
    loop {
        if backend.put(key, &[bytes])? == Put::Created {
            return Ok(Put::Created);
        }
        match backend.read(key, bytes.len() as u64) {
            Ok(stored) if *stored == *bytes => return Ok(Put::Existed),
            Ok(_) | Err(Error::TooLarge { .. }) => {
                backend.overwrite(key, &[bytes])?;
                return Ok(Put::Created);
            }
            // Removed in between.
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What went wrong on a backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that is no key.
    #[error("{text:?} is not a valid object key")]
    BadKey {
        /// The text.
        text: String,
    },
    /// The object does not exist.
    #[error("{key}: no such object")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The object ends too early.
    #[error("{key}: ends at byte {actual}, {expected} expected")]
    Short {
        /// The object.
        key: Key,
        /// Bytes that had to be there.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// The object is larger than its kind may be.
    #[error("{key}: {actual} bytes, at most {bytes_max} allowed")]
    TooLarge {
        /// The object.
        key: Key,
        /// The bound.
        bytes_max: u64,
        /// The object's length.
        actual: u64,
    },
    /// The storage refused or failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A store is to be created where something is already.
    #[error("{path} is not empty (it holds {found:?})")]
    NotEmpty {
        /// The directory.
        path: String,
        /// One of the things in it.
        found: String,
    },
    /// An earlier write or sync failed, so nothing more is written through this backend.
    #[error("writing stopped after an earlier failure: {first}")]
    Latched {
        /// The first failure.
        first: String,
    },
}

impl Error {
    /// Says whether the object is missing or has an impossible length: damage, where it should be
    /// there; not a failure of the storage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Short { .. } | Self::TooLarge { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_the_store() {
        let longest = "k".repeat(KEY_BYTES_MAX);
        for text in ["store", "log/00000000000000000001", "a/b-c_d.e", "tmp-1", "x/tmp", &longest] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
        let too_long = "k".repeat(KEY_BYTES_MAX + 1);
        let bad = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a/.b", "A", "a b", "ä"];
        let reserved = ["tmp", "tmp/x", "locks", "locks/store", "a\0", "a\\b", &too_long];
        for text in bad.into_iter().chain(reserved) {
            assert!(matches!(Key::new(text), Err(Error::BadKey { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_key_knows_its_name() {
        assert_eq!(Key::new("log/a/b").unwrap().name(), "b");
        assert_eq!(Key::new("store").unwrap().name(), "store");
    }
}
