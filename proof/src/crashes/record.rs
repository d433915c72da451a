//! What a command does to the disk, in order: recorded from its system calls.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::Pid;

use crate::changes;
use crate::tracer::{self, Action, Call, Watch};

/// A file, whatever its names.
pub type Inode = u64;

/// Something that a command did to files below its store. Paths are relative to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Create {
        path: String,
        inode: Inode,
    },
    MakeFolder {
        path: String,
    },
    Write {
        inode: Inode,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        inode: Inode,
        len: u64,
    },
    SyncFile {
        inode: Inode,
    },
    SyncFolder {
        path: String,
    },
    /// The name `from` is gone, and `to` is there.
    Rename {
        from: String,
        to: String,
    },
    Link {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    /// It said that it is done.
    Acknowledge,
}

/// Records a command.
pub struct Recorder {
    store: PathBuf,
    pub ops: Vec<Op>,
    pending: HashMap<Pid, Op>,
    /// What was not understood: then nothing is proven.
    pub unknown: Vec<String>,
}

impl Recorder {
    pub fn new(store: &Path) -> Self {
        let (ops, pending, unknown) = (Vec::new(), HashMap::new(), Vec::new());
        Self { store: store.to_owned(), ops, pending, unknown }
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(&self.store).ok()?;
        Some(inside.to_string_lossy().into_owned())
    }

    fn op(&mut self, call: &Call) -> Option<Op> {
        let changed = changes::changed(call)?;
        if call.number == libc::SYS_write && changed == Path::new(tracer::OUTPUT) {
            return Some(Op::Acknowledge);
        }
        let path = self.relative(&changed)?;
        let inode = || fs::metadata(fd_place(call, call.fd(0))).map_or(0, |found| found.ino());
        let from = || call.path_at(0, 1).and_then(|from| self.relative(&from));
        Some(match call.number {
            libc::SYS_openat if fs::symlink_metadata(&changed).is_ok() => return None,
            libc::SYS_openat => Op::Create { path, inode: 0 },
            libc::SYS_mkdirat => Op::MakeFolder { path },
            libc::SYS_pwrite64 => {
                let bytes = call.bytes(call.args[1], call.args[2] as usize)?;
                Op::Write { inode: inode(), offset: call.args[3], bytes }
            }
            libc::SYS_write => {
                let bytes = call.bytes(call.args[1], call.args[2] as usize)?;
                Op::Write { inode: inode(), offset: position(call)?, bytes }
            }
            libc::SYS_ftruncate => Op::Truncate { inode: inode(), len: call.args[1] },
            libc::SYS_fsync | libc::SYS_fdatasync if changed.is_dir() => Op::SyncFolder { path },
            libc::SYS_fsync | libc::SYS_fdatasync => Op::SyncFile { inode: inode() },
            libc::SYS_renameat | libc::SYS_renameat2 => Op::Rename { from: from()?, to: path },
            libc::SYS_linkat => Op::Link { from: from()?, to: path },
            libc::SYS_unlinkat => Op::Remove { path },
            libc::SYS_fchmod | libc::SYS_fchown => return None,
            number => {
                self.unknown.push(format!("system call {number} on {path}"));
                return None;
            }
        })
    }
}

impl Watch for Recorder {
    fn enter(&mut self, call: &Call) -> Action {
        if let Some(op) = self.op(call) {
            self.pending.insert(call.thread, op);
        }
        Action::Go
    }

    fn exit(&mut self, call: &Call, result: i64) -> Action {
        let Some(mut op) = self.pending.remove(&call.thread) else { return Action::Go };
        if result < 0 {
            return Action::Go;
        }
        match &mut op {
            Op::Create { inode, .. } => {
                let place = fd_place(call, result as i32);
                *inode = fs::metadata(place).map_or(0, |found| found.ino());
            }
            Op::Write { bytes, .. } => bytes.truncate(result as usize),
            _ => {}
        }
        self.ops.push(op);
        Action::Go
    }
}

fn fd_place(call: &Call, fd: i32) -> String {
    format!("/proc/{}/fd/{fd}", call.thread)
}

/// Returns where a descriptor is in its file.
fn position(call: &Call) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/fdinfo/{}", call.thread, call.fd(0))).ok()?;
    text.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok())
}
