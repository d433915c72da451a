//! Creating a store's directory.

use std::io;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::root::{DIRECTORY_MODE, PACKS, Root, TMP, retry};
use crate::backend::Error;

/// The folders of a new store. Others appear when a key needs them.
const FOLDERS: [&str; 8] = [TMP, PACKS, "pages", "index", "manifests", "log", "removals", "runs"];

/// What an empty file system has in its root.
const NOT_OURS: &[u8] = b"lost+found";

/// Creates the directory at `path`, and the store's folders in it, durably.
pub(super) fn create(path: &Path) -> Result<Root, Error> {
    let made = make_path(path)?;
    let root = Root::open(path)?;
    refuse_if_not_empty(&root)?;
    rustix::fs::fchmod(&root.fd, DIRECTORY_MODE).map_err(|e| root.io("set mode of", "", e))?;

    let fan_out = (0..=u8::MAX).map(|byte| format!("{PACKS}/{byte:02x}"));
    for folder in FOLDERS.into_iter().map(str::to_owned).chain(fan_out) {
        match root.make_folder(&folder) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(root.io("create", &folder, errno)),
        }
    }
    // A synced name brings an empty folder with it; what is in a folder needs the folder's sync.
    let packs = root.open_folder(PACKS).map_err(|e| root.io("open", PACKS, e))?;
    root.sync_folder(packs, PACKS).map_err(|e| root.io("sync", PACKS, e))?;
    root.sync_folder(&root.fd, "").map_err(|e| root.io("sync", "", e))?;
    sync_parent(&root, made)?;
    Ok(root)
}

/// Makes the directory `path` and those above it that are missing; returns whether `path` is new.
fn make_path(path: &Path) -> Result<bool, Error> {
    let failed = |action, path: &Path, errno: Errno| Error::Io {
        action,
        path: path.display().to_string(),
        source: errno.into(),
    };
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|at| !at.as_os_str().is_empty())
        .take_while(
            |at| matches!(at.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound),
        )
        .collect();
    for &at in missing.iter().rev() {
        match rustix::fs::mkdir(at, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("create", at, errno)),
        }
        if at != path {
            // `path` itself is synced when it has its content.
            let parent = at.join("..");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            retry(|| rustix::fs::open(&parent, flags, Mode::empty()))
                .and_then(rustix::fs::fsync)
                .map_err(|errno| failed("sync", &parent, errno))?;
        }
    }
    Ok(!missing.is_empty())
}

fn refuse_if_not_empty(root: &Root) -> Result<(), Error> {
    let entries = Dir::read_from(&root.fd).map_err(|e| root.io("list", "", e))?;
    for entry in entries {
        let entry = entry.map_err(|e| root.io("list", "", e))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes() == NOT_OURS {
            continue;
        }
        let found = name.to_string_lossy().into_owned();
        if !is_bare_folder(root, &found)? {
            return Err(Error::NotEmpty { path: root.path.display().to_string(), found });
        }
    }
    Ok(())
}

/// Says whether `name` is a folder of a store in which there is no object: what a creation that was
/// killed leaves. Unfinished objects in `tmp` count as none.
fn is_bare_folder(root: &Root, name: &str) -> Result<bool, Error> {
    let fan_out = name.strip_prefix("packs/").is_some_and(|byte| byte.len() == 2);
    if !FOLDERS.contains(&name) && !fan_out {
        return Ok(false);
    }
    let failed = |errno| root.io("list", name, errno);
    let folder = match root.open_folder(name) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    };
    for entry in Dir::read_from(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let inner = entry.file_name();
        let bare = matches!(inner.to_bytes(), b"." | b"..")
            || name == TMP
            || (name == PACKS
                && is_bare_folder(root, &format!("{PACKS}/{}", inner.to_string_lossy()))?);
        if !bare {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Syncs the name of the root in its parent. If the root was there before, its parent may be
/// closed to us, and its name is as durable as whoever made it wanted.
fn sync_parent(root: &Root, made: bool) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match retry(|| rustix::fs::openat(&root.fd, "..", flags, Mode::empty())) {
        Ok(parent) => root.sync_folder(parent, "..").map_err(|e| root.io("sync", "..", e)),
        Err(Errno::ACCESS | Errno::PERM) if !made => Ok(()),
        Err(errno) => Err(root.io("open", "..", errno)),
    }
}
