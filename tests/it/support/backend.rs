//! A backend that counts what goes through it, fails on demand, and calls the test back.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use strongroom::backend::{Backend, Error, Key, Lock, LockMode, ObjectBytes, Put};

/// What went through, by folder (`store`, `packs`, `pages`, `index`, `manifests`, `log`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub puts: BTreeMap<String, u64>,
    pub bytes_put: BTreeMap<String, u64>,
    /// Reads of whole objects and of ranges.
    pub gets: BTreeMap<String, u64>,
    pub bytes_got: BTreeMap<String, u64>,
    pub deletes: u64,
}

impl Counts {
    pub fn puts_of(&self, folder: &str) -> u64 {
        self.puts.get(folder).copied().unwrap_or(0)
    }

    pub fn bytes_got_of(&self, folder: &str) -> u64 {
        self.bytes_got.get(folder).copied().unwrap_or(0)
    }
}

/// When a put fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing was stored.
    Before,
    /// The object was stored, and only the answer is lost.
    After,
}

type Hook = Arc<dyn Fn(&Key) + Send + Sync>;

#[derive(Default)]
struct State {
    counts: Counts,
    puts: u64,
    fail_put: Option<(u64, Errno, When)>,
    failing_for_ever: Option<Errno>,
    read_only: bool,
}

/// The wrapper. Clones share everything.
#[derive(Clone)]
pub struct TestBackend {
    inner: Arc<dyn Backend>,
    state: Arc<Mutex<State>>,
    before_put: Option<Hook>,
    after_put: Option<Hook>,
    before_read: Option<Hook>,
}

impl TestBackend {
    pub fn new(inner: impl Backend + 'static) -> Self {
        Self {
            inner: Arc::new(inner),
            state: Arc::default(),
            before_put: None,
            after_put: None,
            before_read: None,
        }
    }

    /// Calls `hook` before every put.
    pub fn before_put(mut self, hook: impl Fn(&Key) + Send + Sync + 'static) -> Self {
        self.before_put = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` after every put that succeeded.
    pub fn after_put(mut self, hook: impl Fn(&Key) + Send + Sync + 'static) -> Self {
        self.after_put = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` before every read of an object or a range.
    pub fn before_read(mut self, hook: impl Fn(&Key) + Send + Sync + 'static) -> Self {
        self.before_read = Some(Arc::new(hook));
        self
    }

    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    pub fn reset(&self) {
        self.state().counts = Counts::default();
    }

    /// Lets the put number `number`, counted from 1 and from now on, fail once.
    pub fn fail_put(&self, number: u64, errno: Errno, when: When) {
        let mut state = self.state();
        state.puts = 0;
        state.fail_put = Some((number, errno, when));
    }

    /// Lets every put from now on fail, until `None`.
    pub fn fail_all_puts(&self, errno: Option<Errno>) {
        self.state().failing_for_ever = errno;
    }

    /// Refuses puts, deletes and exclusive locks, as a read-only medium does.
    pub fn make_read_only(&self) {
        self.state().read_only = true;
    }

    /// Says whether the failure that was asked for has happened.
    pub fn has_failed(&self) -> bool {
        self.state().fail_put.is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn got(&self, key: &Key, bytes: u64) {
        let folder = folder_of(key);
        let counts = &mut self.state().counts;
        *counts.gets.entry(folder.clone()).or_default() += 1;
        *counts.bytes_got.entry(folder).or_default() += bytes;
    }

    fn refuse(&self, action: &'static str, key: &str) -> Result<(), Error> {
        if self.state().read_only { Err(io_error(action, key, Errno::ROFS)) } else { Ok(()) }
    }
}

fn folder_of(key: &Key) -> String {
    key.as_str().split('/').next().unwrap_or_default().to_owned()
}

fn io_error(action: &'static str, path: &str, errno: Errno) -> Error {
    let source = io::Error::from_raw_os_error(errno.raw_os_error());
    Error::Io { action, path: path.to_owned(), source }
}

impl fmt::Debug for TestBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestBackend({:?})", self.inner)
    }
}

impl Backend for TestBackend {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.refuse("write", key.as_str())?;
        let fault = {
            let mut state = self.state();
            if let Some(errno) = state.failing_for_ever {
                return Err(io_error("write", key.as_str(), errno));
            }
            state.puts += 1;
            let (number, puts) = (state.puts, &mut state.fail_put);
            puts.take_if(|(at, ..)| *at == number)
        };
        if let Some((_, errno, When::Before)) = fault {
            return Err(io_error("write", key.as_str(), errno));
        }
        if let Some(hook) = &self.before_put {
            hook(key);
        }
        let put = self.inner.put(key, parts)?;
        if put == Put::Created {
            let bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>();
            let counts = &mut self.state().counts;
            *counts.puts.entry(folder_of(key)).or_default() += 1;
            *counts.bytes_put.entry(folder_of(key)).or_default() += bytes;
        }
        if let Some((_, errno, When::After)) = fault {
            return Err(io_error("sync", key.as_str(), errno));
        }
        if let Some(hook) = &self.after_put {
            hook(key);
        }
        Ok(put)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.refuse("write", key.as_str())?;
        if let Some(errno) = self.state().failing_for_ever {
            return Err(io_error("write", key.as_str(), errno));
        }
        self.inner.overwrite(key, parts)
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        if let Some(hook) = &self.before_read {
            hook(key);
        }
        self.got(key, buffer.len() as u64);
        self.inner.read_at(key, offset, buffer)
    }

    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
        if let Some(hook) = &self.before_read {
            hook(key);
        }
        let bytes = self.inner.read(key, bytes_max)?;
        self.got(key, bytes.len() as u64);
        Ok(bytes)
    }

    fn len(&self, key: &Key) -> Result<u64, Error> {
        self.inner.len(key)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
        self.inner.list(folder, each)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.refuse("delete", key.as_str())?;
        self.state().counts.deletes += 1;
        self.inner.delete(key)
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        if mode == LockMode::Exclusive {
            self.refuse("lock", name)?;
        }
        self.inner.try_lock(name, mode)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
