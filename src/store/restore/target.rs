//! The target of a restore: where things are written, and how they come to their place.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::fstree::{self, Destination};
use crate::store::Error;

/// Name of the directory in the target that holds a restore under way: in a directory of its own,
/// named by what is restored, so that what another restore left behind does not get into this one.
const PARTIAL: &[u8] = b".strongroom-partial";
/// Ending of the name beside it that says: all is durable, and is being moved to its place.
const MOVING: &[u8] = b".moving";

pub(super) struct Target {
    /// The directory that was asked for.
    outer: Destination,
    /// The directory that is written to, unless it is `outer`.
    partial: Option<Partial>,
    /// Names in `partial` that belong to this restore.
    names: Mutex<BTreeSet<Vec<u8>>>,
    /// Whether things may be there already.
    occupied: bool,
}

/// A restore under way.
struct Partial {
    /// What is named [`PARTIAL`].
    holder: Destination,
    /// Name in `holder` of what is restored.
    name: Vec<u8>,
    /// The directory of that name.
    tree: Destination,
    /// Whether an earlier attempt had begun to move things to their places.
    moved: bool,
}

impl Target {
    /// Opens the target, making it if it is not there. `identity` names what is restored.
    pub fn open(to: &Path, overwrite: bool, identity: &str) -> Result<Self, Error> {
        Destination::create_dir_all_synced(to).map_err(Error::Target)?;
        let outer = Destination::open(to).map_err(Error::Target)?;
        if overwrite {
            return Ok(Self { outer, partial: None, names: Mutex::default(), occupied: true });
        }
        let (partial, occupied) = Self::open_partial(&outer, to, identity.as_bytes())?;
        Ok(Self { outer, partial: Some(partial), names: Mutex::default(), occupied })
    }

    /// Opens the directory of a restore under way, and says whether things may be in it already.
    fn open_partial(outer: &Destination, to: &Path, name: &[u8]) -> Result<(Partial, bool), Error> {
        let failed = Error::Target;
        let is_there = |path: &[u8]| outer.stat(path).map_err(failed).map(|stat| stat.is_some());
        let moving = [name, MOVING].concat();
        let moved = is_there(&[PARTIAL, b"/", &moving].concat())?;
        let resumed = moved || is_there(&[PARTIAL, b"/", name].concat())?;
        if !resumed {
            if !outer.is_empty_but(PARTIAL).map_err(failed)? {
                return Err(Error::TargetNotEmpty { path: to.to_path_buf() });
            }
            outer.remove_tree(PARTIAL).map_err(failed)?;
        }
        let holder = outer.subdirectory(PARTIAL).map_err(failed)?;
        let tree = holder.subdirectory(name).map_err(failed)?;
        Ok((Partial { holder, name: name.to_vec(), tree, moved }, resumed))
    }

    /// Returns the directory that is written to.
    pub fn tree(&self) -> &Destination {
        self.partial.as_ref().map_or(&self.outer, |partial| &partial.tree)
    }

    /// Says whether what is there may be somebody's, and stays if it cannot be restored.
    pub fn keeps_what_was(&self) -> bool {
        self.partial.is_none()
    }

    /// Remembers that `path` belongs to this restore.
    pub fn adopt(&self, path: &[u8]) {
        if let Some(partial) = &self.partial {
            let name = path.split(|byte| *byte == b'/').next().unwrap_or_default();
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if !names.contains(name) {
                if partial.moved {
                    // An earlier attempt had moved it. If it cannot come back, it is in the way
                    // later, and that is reported.
                    let _ = move_name(&self.outer, &partial.tree, name);
                }
                names.insert(name.to_vec());
            }
        }
    }

    /// Makes a directory that may be written into.
    pub fn make_dir(&self, path: &[u8]) -> Result<(), fstree::Error> {
        let new = self.tree().make_dir(path)?;
        if new { Ok(()) } else { self.tree().make_dir_writable(path) }
    }

    /// Makes the directories above `path` that are missing because their entries are lost.
    pub fn make_parents(&self, path: &[u8]) -> Result<(), fstree::Error> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(at, _)| &path[..at]).try_for_each(|dir| self.tree().make_dir(dir).map(drop))
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
        let plain = |stat: fstree::Stat| stat.kind == fstree::Kind::File && stat.links == 1;
        if self.tree().stat(path)?.is_some_and(plain) {
            match self.tree().open_existing(path) {
                Ok(Some(file)) => {
                    file.set_len(bytes)
                        .map_err(|error| self.tree().error("set the length of", path, error))?;
                    return Ok((file, true));
                }
                // A read-only file of a user without privileges.
                Err(error) if error.is_permission_denied() => {}
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((self.tree().replace_file(path, new_bytes)?, false))
    }

    /// Makes everything durable and moves it to its place.
    pub fn publish(&self) -> Result<(), fstree::Error> {
        self.tree().sync_all()?;
        if let Some(partial) = &self.partial {
            let moving = [&partial.name, MOVING].concat();
            partial.holder.make_dir(&moving)?;
            partial.holder.sync_dir()?;
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            for name in &*names {
                match move_name(&partial.tree, &self.outer, name) {
                    // It failed altogether, and was reported.
                    Err(error) if error.is_not_found() => {}
                    result => result?,
                }
            }
            partial.tree.sync_dir()?;
            self.outer.sync_dir()?;
            partial.holder.remove_tree(&partial.name)?;
            self.outer.remove_tree(PARTIAL)?;
        }
        self.outer.sync_dir()
    }
}

/// Moves a name. A directory that may not be written to cannot be moved by its owner (its `..`
/// changes): it is made writable for that moment.
fn move_name(from: &Destination, to: &Destination, name: &[u8]) -> Result<(), fstree::Error> {
    let moved = Destination::rename_noreplace(from, name, to, name);
    if !moved.as_ref().is_err_and(fstree::Error::is_permission_denied) {
        return moved;
    }
    match from.stat(name)? {
        Some(stat) if stat.kind == fstree::Kind::Dir => {
            from.make_dir_writable(name)?;
            Destination::rename_noreplace(from, name, to, name)?;
            to.set_dir_mode(name, stat.mode)
        }
        _ => moved,
    }
}
