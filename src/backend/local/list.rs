//! Listing objects, in the order of their keys.
//!
//! A folder's entries are sorted in memory, one folder at a time; packs are listed fan-out folder
//! by fan-out folder. Whatever cannot be an object's name is skipped; whatever has such a name and
//! cannot be examined fails the listing, because a shorter list would be taken for evidence.

use std::os::fd::{BorrowedFd, OwnedFd};

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
    let mut packs = None;
    while let Some(visit) = pending.pop() {
        match (visit, &packs) {
            (Visit::Object(key, bytes), _) => each(key, bytes),
            (Visit::Folder(folder), _) if folder == PACKS => {
                packs = root.find_folder(PACKS)?;
                pending.extend((0..=u8::MAX).rev().map(Visit::FanOut));
            }
            (Visit::Folder(folder), _) => pending.extend(folder_entries(root, &folder)?),
            (Visit::FanOut(byte), Some(packs)) => pending.extend(pack_entries(root, packs, byte)?),
            (Visit::FanOut(_), None) => {}
        }
    }
    Ok(())
}

/// Returns what is in a folder of keys, last first.
fn folder_entries(root: &Root, folder: &str) -> Result<Vec<Visit>, Error> {
    let Some(opened) = root.find_folder(folder)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    visit_names(root, folder, opened, |opened, name| {
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

/// Returns the packs of one fan-out folder, last first. `packs` is the folder above it: opened once,
/// because there are 256 below it however small the store is.
fn pack_entries(root: &Root, packs: &OwnedFd, byte: u8) -> Result<Vec<Visit>, Error> {
    let prefix = format!("{byte:02x}");
    let folder = format!("{PACKS}/{prefix}");
    let Some(opened) = root.find_folder_in(packs, &prefix, &folder)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    visit_names(root, &folder, opened, |opened, name| {
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
    opened: OwnedFd,
    mut each: impl FnMut(BorrowedFd<'_>, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |errno| root.io("list", folder, errno);
    let mut entries = Dir::new(opened).map_err(failed)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().to_str() {
            each(entries.fd().map_err(failed)?, name)?;
        }
    }
    Ok(())
}

/// Examines `name` in `folder`; `None` if it has been deleted since it was listed.
fn examine(
    root: &Root,
    folder: BorrowedFd<'_>,
    name: &str,
    path: &str,
) -> Result<Option<Stat>, Error> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(root.io("examine", path, errno)),
    }
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
