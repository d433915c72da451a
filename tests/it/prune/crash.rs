//! A prune that dies after any of its operations: what was visible is whole, and the next prune
//! goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::backend::{Backend, Error, Key, Lock, LockMode, MemoryBackend, ObjectBytes, Put};
use strongroom::store::{Progress, PruneOptions, Store};

use super::{History, bytes_in, collect_only, five_generations, keep_last, name, prune_all};
use crate::support::{assert_clean, copy_of, memory_store, open};

/// Changes nothing any more after so many changes.
#[derive(Debug)]
pub struct Mortal {
    inner: MemoryBackend,
    left: AtomicU64,
    pub done: AtomicU64,
}

impl Mortal {
    pub fn new(inner: MemoryBackend, changes: u64) -> Self {
        Self { inner, left: AtomicU64::new(changes), done: AtomicU64::new(0) }
    }

    fn change(&self, path: &str) -> Result<(), Error> {
        let live =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if live.is_ok() {
            self.done.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let source = std::io::Error::other("dead");
        Err(Error::Io { action: "change", path: path.to_owned(), source })
    }
}

impl Backend for Mortal {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.change(key.as_str())?;
        self.inner.put(key, parts)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.change(key.as_str())?;
        self.inner.overwrite(key, parts)
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.inner.read_at(key, offset, buffer)
    }

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
        self.change(key.as_str())?;
        self.inner.delete(key)
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        self.inner.try_lock(name, mode)
    }

    fn location(&self) -> String {
        "mortal".to_owned()
    }
}

/// A store with something to do for every step of a prune: something condemned that is due, something
/// to forget, packs to write anew.
fn busy_store() -> (MemoryBackend, [History; 2]) {
    let (backend, store) = memory_store();
    let orders = five_generations(&store, "orders", 1);
    let mails = five_generations(&store, "mails", 900);
    let forget = PruneOptions { forget: vec![name("mails", 1)], ..collect_only() };
    super::prune(&store, &forget);
    (backend, [orders, mails])
}

fn assert_whole(backend: &MemoryBackend, histories: &[History; 2], what: &str) {
    let store = open(backend.clone());
    assert_clean(&store);
    for history in histories {
        let numbers = history.assert_restores(&store);
        assert!(numbers.contains(&5), "{what}");
    }
}

#[test]
fn a_prune_that_dies_after_any_change_leaves_a_whole_store_and_the_next_completes_it() {
    let (whole, histories) = busy_store();
    let done = copy_of(&whole);
    prune_all(&open(done.clone()), &keep_last(2));
    let lean = bytes_in(&done, "packs") + bytes_in(&done, "pages");
    let mut changes = 0;
    loop {
        let backend = copy_of(&whole);
        let mortal = Arc::new(Mortal::new(backend.clone(), changes));
        let store = Store::open(Arc::clone(&mortal) as Arc<dyn Backend>).unwrap();
        let plan = store.plan_prune(&keep_last(2), &Progress::default());
        let result = plan.and_then(|plan| store.prune(&plan, &Progress::default()));
        let died = result.is_err();
        drop(store);
        assert_whole(&backend, &histories, &format!("{changes} changes"));
        // And a second death on the way back.
        for more in [2, 5] {
            let store = Store::open(Arc::new(Mortal::new(backend.clone(), more))).unwrap();
            let plan = store.plan_prune(&keep_last(2), &Progress::default());
            let _ = plan.and_then(|plan| store.prune(&plan, &Progress::default()));
            drop(store);
            assert_whole(&backend, &histories, &format!("{changes} and {more} changes"));
        }
        prune_all(&open(backend.clone()), &keep_last(2));
        assert_whole(&backend, &histories, "in the end");
        let bytes = bytes_in(&backend, "packs") + bytes_in(&backend, "pages");
        assert!(bytes <= lean * 11 / 10, "{changes}: {bytes} bytes stay instead of {lean}");
        if !died {
            let done = mortal.done.load(Ordering::Relaxed);
            assert!(done >= 12, "{done} changes to die between");
            return;
        }
        changes += 1;
    }
}
