//! Buffers of fixed number and size, which bound the memory of an ingest and are used again and
//! again (touching fresh memory costs more than copying into old).

use std::ops::{Deref, DerefMut};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A pool of buffers.
pub(super) struct Pool {
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl Pool {
    /// Makes a pool of `count` buffers with a capacity of `bytes` each.
    pub fn new(count: usize, bytes: usize) -> Self {
        let (home, free) = bounded(count);
        for _ in 0..count {
            home.send(Vec::with_capacity(bytes)).expect("room for every buffer");
        }
        Self { free, home }
    }

    /// Takes an empty buffer, waiting until one is free.
    pub fn take(&self) -> Buffer {
        let mut buffer = self.take_used();
        buffer.clear();
        buffer
    }

    /// Takes a buffer with whatever its last user left in it, waiting until one is free. For those
    /// who set its length and then overwrite every byte: a buffer that has that length already need
    /// not be filled with zeros before.
    pub fn take_used(&self) -> Buffer {
        let bytes = self.free.recv().expect("the pool holds a sender itself");
        Buffer { bytes, home: self.home.clone() }
    }
}

/// A buffer that goes back to its pool when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}
