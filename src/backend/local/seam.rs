//! The system calls that publishing consists of.
//!
//! Outside of this module's own tests these are the plain calls. In the tests they are recorded,
//! and can be made to fail, so that the order of the protocol and its answer to every failure are
//! checked and not believed.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::root::{DIRECTORY_MODE, Root};

#[cfg(not(test))]
pub(super) use silent::Seam;

#[cfg(test)]
pub(super) use script::{Answer, Seam};

/// A step of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Direct,
    Write,
    Truncate,
    SyncFile,
    MakeFolder,
    Rename,
    Replace,
    Link,
    SyncFolder,
    Unlink,
}

trait Enter {
    /// Announces a step. In tests it may fail, or be given fewer bytes than it asked for.
    fn enter(&self, step: Step, path: &str, bytes: usize) -> Result<usize, Errno>;
}

impl Root {
    /// Creates a file that was not there, for writing.
    pub(super) fn create_file(&self, path: &str, mode: Mode) -> Result<File, Errno> {
        self.seam.enter(Step::Create, path, 0)?;
        // Readable as well: a lock on a descriptor for writing only is refused by some network
        // file systems.
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, path, flags, mode).map(File::from)
    }

    /// Switches unbuffered writing on or off.
    pub(super) fn set_direct(&self, file: &File, path: &str, direct: bool) -> Result<(), Errno> {
        self.seam.enter(Step::Direct, path, 0)?;
        let flags = rustix::fs::fcntl_getfl(file)?;
        rustix::fs::fcntl_setfl(
            file,
            if direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT },
        )
    }

    /// Writes some of `bytes` at `offset`.
    pub(super) fn write_some(
        &self,
        file: &File,
        path: &str,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        let allowed = self.seam.enter(Step::Write, path, bytes.len())?;
        rustix::io::pwrite(file, &bytes[..allowed], offset)
    }

    /// Sets the file's length.
    pub(super) fn truncate(&self, file: &File, path: &str, bytes: u64) -> Result<(), Errno> {
        self.seam.enter(Step::Truncate, path, 0)?;
        rustix::fs::ftruncate(file, bytes)
    }

    /// Syncs a file's bytes and length.
    pub(super) fn sync_file(&self, file: &File, path: &str) -> Result<(), Errno> {
        self.seam.enter(Step::SyncFile, path, 0)?;
        rustix::fs::fsync(file)
    }

    /// Syncs the names in an opened folder.
    pub(super) fn sync_folder(&self, folder: impl AsFd, path: &str) -> Result<(), Errno> {
        self.seam.enter(Step::SyncFolder, path, 0)?;
        rustix::fs::fsync(folder)
    }

    /// Makes a folder.
    pub(super) fn make_folder(&self, path: &str) -> Result<(), Errno> {
        self.seam.enter(Step::MakeFolder, path, 0)?;
        rustix::fs::mkdirat(&self.fd, path, DIRECTORY_MODE)
    }

    /// Renames `from` to `to`, which must not exist.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.seam.enter(Step::Rename, to, 0)?;
        rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE)
    }

    /// Renames `from` to `to`, which is replaced if it exists.
    pub(super) fn replace(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.seam.enter(Step::Replace, to, 0)?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to)
    }

    /// Gives `from` the second name `to`, which must not exist.
    pub(super) fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.seam.enter(Step::Link, to, 0)?;
        rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())
    }

    /// Removes a name.
    pub(super) fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.seam.enter(Step::Unlink, path, 0)?;
        rustix::fs::unlinkat(&self.fd, path, AtFlags::empty())
    }
}

#[cfg(not(test))]
mod silent {
    use rustix::io::Errno;

    use super::{Enter, Step};

    /// Lets every step pass.
    #[derive(Debug)]
    pub(in super::super) struct Seam;

    impl Seam {
        pub(in super::super) fn new() -> Self {
            Self
        }
    }

    impl Enter for Seam {
        fn enter(&self, _: Step, _: &str, bytes: usize) -> Result<usize, Errno> {
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod script {
    use std::sync::Mutex;

    use rustix::io::Errno;

    use super::{Enter, Step};

    /// What a step answers instead of doing its work.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) enum Answer {
        Fail(Errno),
        /// The step is given at most so many bytes.
        AtMost(usize),
    }

    /// Records the steps, and answers as told.
    #[derive(Debug, Default)]
    pub(in super::super) struct Seam(Mutex<Script>);

    #[derive(Debug, Default)]
    struct Script {
        steps: Vec<(Step, String)>,
        /// Each answers once, or for ever.
        answers: Vec<(Step, Answer, bool)>,
    }

    impl Enter for Seam {
        fn enter(&self, step: Step, path: &str, bytes: usize) -> Result<usize, Errno> {
            let mut script = self.0.lock().unwrap();
            if script.steps.last().is_none_or(|last| last.0 != step || last.1 != path) {
                script.steps.push((step, path.to_owned()));
            }
            let Some(at) = script.answers.iter().position(|answer| answer.0 == step) else {
                return Ok(bytes);
            };
            let (_, answer, always) = script.answers[at];
            if !always {
                script.answers.remove(at);
            }
            match answer {
                Answer::Fail(errno) => Err(errno),
                Answer::AtMost(most) => Ok(bytes.min(most)),
            }
        }
    }

    impl Seam {
        pub(in super::super) fn new() -> Self {
            Self::default()
        }

        pub(in super::super) fn once(&self, step: Step, answer: Answer) {
            self.0.lock().unwrap().answers.push((step, answer, false));
        }

        pub(in super::super) fn always(&self, step: Step, answer: Answer) {
            self.0.lock().unwrap().answers.push((step, answer, true));
        }

        /// Returns the steps since the last call; repeated ones on one path count once.
        pub(in super::super) fn take_steps(&self) -> Vec<(Step, String)> {
            std::mem::take(&mut self.0.lock().unwrap().steps)
        }
    }
}
