//! Listing objects, in the order of their keys.
//!
//! A folder's entries are sorted in memory, one folder at a time; packs are listed fan-out folder
//! by fan-out folder. Whatever cannot be an object's name is skipped; whatever has such a name and
//! cannot be examined fails the listing, because a shorter list would be taken for evidence.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::root::{PACKS, Root, is_pack_name};
use crate::backend::{Error, Key};

/// What is still to be visited.
enum Visit {
    Object(Key, u64),
    /// A folder of keys, empty for all of them.
    Folder(String),
    /// One of the 256 folders of [`PACKS`].
    FanOut(u8),
}

/// Calls `each` with the key and the length of every object below `folder`.
pub(super) fn list(root: &Root, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
    if !folder.is_empty() {
        let folder = Key::new(folder)?;
        if folder.as_str().starts_with("packs/") {
            return Ok(()); // Keys have no folders there; the fan-out is not theirs.
        }
    }
    let mut pending = vec![Visit::Folder(folder.to_owned())];
    while let Some(visit) = pending.pop() {
        match visit {
            Visit::Object(key, bytes) => each(key, bytes),
            Visit::Folder(folder) if folder == PACKS => {
                pending.extend((0..=u8::MAX).rev().map(Visit::FanOut));
            }
            Visit::Folder(folder) => pending.extend(folder_entries(root, &folder)?),
            Visit::FanOut(byte) => pending.extend(pack_entries(root, byte)?),
        }
    }
    Ok(())
}

/// Returns what is in a folder of keys, last first.
fn folder_entries(root: &Root, folder: &str) -> Result<Vec<Visit>, Error> {
    let mut found = Vec::new();
    visit_names(root, folder, |opened, name| {
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let Ok(key) = Key::new(path.as_str()) else {
            return Ok(());
        };
        let Some(stat) = examine(root, opened, name, &path)? else {
            return Ok(());
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => found.push((path, Visit::Object(key, length(&stat)))),
            // A folder's objects sort by what follows the slash.
            FileType::Directory => found.push((format!("{path}/"), Visit::Folder(path))),
            _ => return Err(root.not_a_file(&path)),
        }
        Ok(())
    })?;
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    Ok(found.into_iter().map(|(_, visit)| visit).collect())
}

/// Returns the packs of one fan-out folder, last first.
fn pack_entries(root: &Root, byte: u8) -> Result<Vec<Visit>, Error> {
    let prefix = format!("{byte:02x}");
    let folder = format!("{PACKS}/{prefix}");
    let mut found = Vec::new();
    visit_names(root, &folder, |opened, name| {
        if !is_pack_name(name) || !name.starts_with(&prefix) {
            return Ok(());
        }
        let path = format!("{folder}/{name}");
        let Some(stat) = examine(root, opened, name, &path)? else {
            return Ok(());
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(root.not_a_file(&path));
        }
        found.push((Key::new(format!("{PACKS}/{name}"))?, length(&stat)));
        Ok(())
    })?;
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    Ok(found.into_iter().map(|(key, bytes)| Visit::Object(key, bytes)).collect())
}

/// Calls `each` with every name in `folder` that is text, and with the opened folder.
fn visit_names(
    root: &Root,
    folder: &str,
    mut each: impl FnMut(&OwnedFd, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(opened) = root.find_folder(folder)? else {
        return Ok(());
    };
    for entry in Dir::read_from(&opened).map_err(|e| root.io("list", folder, e))? {
        let entry = entry.map_err(|e| root.io("list", folder, e))?;
        if let Ok(name) = entry.file_name().to_str() {
            each(&opened, name)?;
        }
    }
    Ok(())
}

/// Examines `name` in `folder`; `None` if it has been deleted since it was listed.
fn examine(root: &Root, folder: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>, Error> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(root.io("examine", path, errno)),
    }
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
