//! Tests of the file system module, on the file system of the temporary directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::beneath::Resolver;
use super::*;

mod apply;
mod deep;
mod destination;
mod hostile;
mod paths;
mod source;
mod walk;

/// Both ways to open below a root; every test of safety runs with both.
const RESOLVERS: [Resolver; 2] = [Resolver::Kernel, Resolver::Components];

/// Sources and destinations are shared between threads; a walk may move to another one.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn moved<T: Send>() {}
    shared::<Source>();
    shared::<Destination>();
    shared::<Error>();
    moved::<Walk>();
};

/// Permissions of files and directories do not stop this user.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn below(dir: &TempDir, path: &[u8]) -> PathBuf {
    dir.path().join(OsStr::from_bytes(path))
}

fn walk(root: &Path) -> Vec<Result<Node, Error>> {
    walk_with(root, WalkOptions::default())
}

fn walk_with(root: &Path, options: WalkOptions) -> Vec<Result<Node, Error>> {
    Source::open(root).unwrap().walk(options).collect()
}

fn walked_paths(root: &Path) -> Vec<Vec<u8>> {
    let node = |node: Result<Node, Error>| node.unwrap().path;
    walk(root).into_iter().map(node).collect()
}

fn meta<'a>(kind: &'a Kind, mode: u32, secs: i64, xattrs: &'a [Xattr]) -> Meta<'a> {
    Meta {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time { secs, nanos: 123_456_789 },
        xattrs,
    }
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}

/// Tells, loudly if not, whether `dir` keeps attributes of users.
fn has_user_xattrs(dir: &Path) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(dir, "user.strongroom.probe", b"1", flags);
    if set.is_err() {
        eprintln!("SKIPPED: {} keeps no user attributes", dir.display());
        return false;
    }
    rustix::fs::removexattr(dir, "user.strongroom.probe").unwrap();
    true
}
