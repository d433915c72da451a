//! Reading objects.
//!
//! Ranges are read through a few descriptors that stay open, since most reads come in runs on one
//! object. A descriptor that outlived its object's name is not used again, whoever deleted it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Stat;

use super::root::{Place, Root};
use crate::backend::{Error, Key, ObjectBytes};

/// Descriptors kept open. Far below the usual limit of 1024 per process.
const OPEN_FILES_MAX: usize = 64;

/// Objects of this size and more are mapped; below, copying is cheaper than making a map.
const MAPPED_BYTES_MIN: u64 = 64 * 1024;

/// The descriptors used last.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    files: HashMap<Key, Used>,
    /// Counts uses.
    now: u64,
    /// Counts deletions.
    deletions: u64,
}

#[derive(Debug)]
struct Used {
    file: Arc<File>,
    at: u64,
}

impl OpenFiles {
    /// Returns the descriptor of `key`, or the number of deletions so far.
    pub(super) fn find(&self, key: &Key) -> Result<Arc<File>, u64> {
        let mut recent = self.lock();
        recent.now += 1;
        let now = recent.now;
        match recent.files.get_mut(key) {
            Some(used) => {
                used.at = now;
                Ok(Arc::clone(&used.file))
            }
            None => Err(recent.deletions),
        }
    }

    /// Keeps `file`, unless something has been deleted since it was looked for: it may have been
    /// this.
    pub(super) fn keep(&self, key: &Key, file: &Arc<File>, deletions: u64) {
        let mut recent = self.lock();
        if recent.deletions != deletions {
            return;
        }
        if recent.files.len() >= OPEN_FILES_MAX {
            let oldest = recent.files.iter().min_by_key(|(_, used)| used.at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                recent.files.remove(&oldest);
            }
        }
        recent.now += 1;
        let used = Used { file: Arc::clone(file), at: recent.now };
        recent.files.insert(key.clone(), used);
    }

    /// Drops the descriptor of an object whose name is gone.
    pub(super) fn forget(&self, key: &Key) {
        let mut recent = self.lock();
        recent.deletions += 1;
        recent.files.remove(key);
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.lock().files.len()
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills `buffer` from the object at `offset`.
pub(super) fn read_at(
    root: &Root,
    files: &OpenFiles,
    key: &Key,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let place = Place::of(key)?;
    let deletions = loop {
        match files.find(key) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&*file);
                let stat = stat.map_err(|e| root.io("examine", place.path(), e))?;
                if stat.st_nlink > 0 {
                    return fill(root, key, &place, &file, &stat, offset, buffer);
                }
                files.forget(key); // Deleted by another process.
            }
            Err(deletions) => break deletions,
        }
    };
    let (file, stat) = open(root, key, &place)?;
    let file = Arc::new(file);
    files.keep(key, &file, deletions);
    fill(root, key, &place, &file, &stat, offset, buffer)
}

/// Returns the whole object.
pub(super) fn read(root: &Root, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
    let place = Place::of(key)?;
    let (file, stat) = open(root, key, &place)?;
    let actual = length(&stat);
    if actual > bytes_max {
        return Err(Error::TooLarge { key: key.clone(), bytes_max, actual });
    }
    let failed = |action, source: io::Error| root.io(action, place.path(), source);
    let bytes =
        usize::try_from(actual).map_err(|_| failed("map", io::ErrorKind::FileTooLarge.into()))?;
    if actual >= MAPPED_BYTES_MIN {
        return map(&file, bytes).map(ObjectBytes::mapped).map_err(|e| failed("map", e));
    }
    let mut buffer = vec![0; bytes];
    fill(root, key, &place, &file, &stat, 0, &mut buffer)?;
    Ok(ObjectBytes::owned(buffer))
}

/// Returns the length of the object.
pub(super) fn len(root: &Root, key: &Key) -> Result<u64, Error> {
    match root.stat_object(Place::of(key)?.path())? {
        Some(stat) => Ok(length(&stat)),
        None => Err(Error::NotFound { key: key.clone() }),
    }
}

fn open(root: &Root, key: &Key, place: &Place) -> Result<(File, Stat), Error> {
    root.open_object(place)?.ok_or_else(|| Error::NotFound { key: key.clone() })
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn fill(
    root: &Root,
    key: &Key,
    place: &Place,
    file: &File,
    stat: &Stat,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let expected = offset.saturating_add(buffer.len() as u64);
    let short = |actual| Error::Short { key: key.clone(), expected, actual };
    if expected > length(stat) {
        return Err(short(length(stat)));
    }
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Err(short(offset + filled as u64)), // Cut since it was examined.
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(root.io("read", place.path(), error)),
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a map of a file is the one thing that cannot be had without")]
fn map(file: &File, bytes: usize) -> io::Result<memmap2::Mmap> {
    // SAFETY: the bytes of a map must not change, and the file must not get shorter, while the
    // map lives. The file is an object with its final name: this module writes and cuts files only
    // before they have it, never replaces one, and deletes by removing the name, which leaves a
    // map as it is. Files are 0600 in directories that are 0700, so only a process with our own
    // rights could break this; that is outside of what any program can defend against. `bytes`
    // is the length just read from the same descriptor.
    unsafe { memmap2::MmapOptions::new().len(bytes).map(file) }
}
