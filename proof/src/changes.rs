//! Which system calls change what is on disk, and where.

use std::path::{Path, PathBuf};

use nix::libc;

use crate::tracer::Call;

/// How a call names what it changes.
enum Names {
    /// By a descriptor in its first argument.
    Fd,
    /// By a folder's descriptor and a path.
    At(usize, usize),
}

fn names(call: &Call) -> Option<Names> {
    Some(match call.number {
        libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_writev
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_syncfs
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_fchmod
        | libc::SYS_fchown
        | libc::SYS_fsetxattr => Names::Fd,
        libc::SYS_openat if call.args[2] as i32 & libc::O_CREAT != 0 => Names::At(0, 1),
        libc::SYS_mkdirat | libc::SYS_unlinkat | libc::SYS_fchmodat | libc::SYS_fchownat => {
            Names::At(0, 1)
        }
        libc::SYS_utimensat if call.args[1] == 0 => Names::Fd,
        libc::SYS_utimensat => Names::At(0, 1),
        libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => Names::At(2, 3),
        libc::SYS_symlinkat => Names::At(1, 2),
        _ => return None,
    })
}

/// Returns what a call changes, if it is a call that changes files.
pub fn changed(call: &Call) -> Option<PathBuf> {
    match names(call)? {
        Names::Fd => call.path_of(call.fd(0)),
        Names::At(folder, path) => call.path_at(folder, path),
    }
}

/// Says whether a call changes something below a folder.
pub fn is_change_below(call: &Call, folder: &Path) -> bool {
    changed(call).is_some_and(|path| path.starts_with(folder))
}

/// Says whether a call writes bytes, so that it may write fewer than it was asked to.
pub fn is_write(call: &Call) -> bool {
    matches!(call.number, libc::SYS_write | libc::SYS_pwrite64)
}
