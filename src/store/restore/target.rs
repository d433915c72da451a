//! The target of a restore: where things are written, and how they come to their place.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::fstree::{self, Destination};
use crate::store::Error;

/// Name of the directory in the target that holds a restore under way.
const PARTIAL: &[u8] = b".strongroom-partial";

pub(super) struct Target {
    /// The directory that was asked for.
    outer: Destination,
    /// The directory that is written to, unless it is `outer`.
    partial: Option<Destination>,
    /// Names in `partial` that belong to this restore.
    names: Mutex<BTreeSet<Vec<u8>>>,
    /// Whether things may be there already.
    occupied: bool,
}

impl Target {
    /// Opens the target, making it if it is not there.
    pub fn open(to: &Path, overwrite: bool) -> Result<Self, Error> {
        Destination::create_dir_all_synced(to).map_err(Error::Target)?;
        let outer = Destination::open(to).map_err(Error::Target)?;
        if overwrite {
            return Ok(Self { outer, partial: None, names: Mutex::default(), occupied: true });
        }
        let resumed = outer.stat(PARTIAL).map_err(Error::Target)?.is_some();
        if !resumed && !outer.is_empty().map_err(Error::Target)? {
            return Err(Error::TargetNotEmpty { path: to.to_path_buf() });
        }
        let partial = outer.subdirectory(PARTIAL).map_err(Error::Target)?;
        let partial = Some(partial);
        Ok(Self { outer, partial, names: Mutex::default(), occupied: resumed })
    }

    /// Returns the directory that is written to.
    pub fn tree(&self) -> &Destination {
        self.partial.as_ref().unwrap_or(&self.outer)
    }

    /// Says whether things may be there already.
    pub fn is_occupied(&self) -> bool {
        self.occupied
    }

    /// Remembers that `path` belongs to this restore.
    pub fn adopt(&self, path: &[u8]) {
        if self.partial.is_some() {
            let name = path.split(|byte| *byte == b'/').next().unwrap_or_default();
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if !names.contains(name) {
                names.insert(name.to_vec());
            }
        }
    }

    /// Makes a directory that may be written into.
    pub fn make_dir(&self, path: &[u8]) -> Result<(), fstree::Error> {
        let new = self.tree().make_dir(path)?;
        if new { Ok(()) } else { self.tree().make_dir_writable(path) }
    }

    /// Removes what is at `path`, unless it is a directory.
    pub fn clear(&self, path: &[u8]) -> Result<(), fstree::Error> {
        if self.occupied {
            self.tree().remove_file(path)?;
        }
        Ok(())
    }

    /// Opens the file at `path` for writing: what is there if it may be kept, else a new one, of
    /// this length only if it is `sparse` (or large). Says whether it was there.
    pub fn open_file(
        &self,
        path: &[u8],
        bytes: u64,
        sparse: bool,
    ) -> Result<(File, bool), fstree::Error> {
        let new_bytes = if sparse { bytes } else { 0 };
        if !self.occupied {
            return Ok((self.tree().create_file(path, new_bytes)?, false));
        }
        // A file with other names is not written to: they may belong to somebody else.
        let single = self.tree().stat(path)?.is_some_and(|stat| stat.links == 1);
        if single && let Some(file) = self.tree().open_existing(path)? {
            file.set_len(bytes)
                .map_err(|error| self.tree().error("set the length of", path, error))?;
            return Ok((file, true));
        }
        Ok((self.tree().replace_file(path, new_bytes)?, false))
    }

    /// Makes everything durable and moves it to its place.
    pub fn publish(&self) -> Result<(), fstree::Error> {
        self.tree().sync_all()?;
        if let Some(partial) = &self.partial {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            for name in &*names {
                match self.move_out(partial, name) {
                    // It failed altogether, and was reported.
                    Err(error) if error.is_not_found() => {}
                    result => result?,
                }
            }
            partial.sync_dir()?;
            self.outer.sync_dir()?;
            self.outer.remove_tree(PARTIAL)?;
        }
        self.outer.sync_dir()
    }

    /// Moves a name to its place. A directory that may not be written to cannot be moved by its
    /// owner (its `..` changes): it is made writable for that moment.
    fn move_out(&self, partial: &Destination, name: &[u8]) -> Result<(), fstree::Error> {
        let moved = Destination::rename_noreplace(partial, name, &self.outer, name);
        let refused = moved.as_ref().is_err_and(fstree::Error::is_permission_denied);
        match partial.stat(name)? {
            Some(stat) if refused && stat.kind == fstree::Kind::Dir => {
                partial.make_dir_writable(name)?;
                Destination::rename_noreplace(partial, name, &self.outer, name)?;
                self.outer.set_dir_mode(name, stat.mode)
            }
            _ => moved,
        }
    }
}
