//! Staging: private directories where downloads wait to be ingested, and the locks that say which
//! member has work under way. The one place of the run layer that touches files.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

/// Folder of the locks, which are never deleted: a lock dies with its holders, not with its file.
const LOCKS: &str = "locks";
/// File in a run's directory: the boot of the machine that its content is of. No member has this
/// name.
const BOOT: &str = ".boot";

/// How often a lock is tried, and the time between: a quarter of a second together.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The lock of a member that has work under way; it is held as long as any copy of it is, in
/// whatever process.
pub type MemberLock = Arc<File>;

/// A staging area.
#[derive(Clone, Debug)]
pub struct Staging {
    root: PathBuf,
}

/// What went wrong with a staging area.
#[derive(Debug, thiserror::Error)]
#[error("staging: cannot {action} {}: {source}", path.display())]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { action, path, source }
}

/// Makes a directory with mode 0700, or takes one that is there and private.
fn private(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(failed("make", path)),
    }
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if !found.is_dir() {
        return Err(failed("use", path)(io::ErrorKind::NotADirectory.into()));
    }
    if found.permissions().mode() & 0o077 != 0 {
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, mode).map_err(failed("make private", path))?;
    }
    Ok(())
}

impl Staging {
    /// Opens the staging area at `root`, which is made if it is missing (not its parents).
    ///
    /// # Errors
    /// It cannot be made, or is no directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        private(root)?;
        private(&root.join(LOCKS))?;
        let root = fs::canonicalize(root).map_err(failed("find", root))?;
        Ok(Self { root })
    }

    /// Makes the directory of a run. What an earlier process left in it stays only if the machine has
    /// not gone down since: what is written here is not synced, and is whole as long as the machine
    /// runs.
    ///
    /// # Errors
    /// It cannot be made, or what is in it cannot be removed.
    pub fn open_run(&self, run: &str) -> Result<(), Error> {
        let (path, now) = (self.root.join(run), boot());
        let mark = path.join(BOOT);
        if !now.is_empty() && fs::read(&mark).is_ok_and(|found| found == now.as_bytes()) {
            return Ok(());
        }
        self.remove(run)?;
        private(&path)?;
        fs::write(&mark, now).map_err(failed("write", &mark))
    }

    /// Returns the directory of a run, which need not be there.
    #[must_use]
    pub fn run(&self, run: &str) -> PathBuf {
        self.root.join(run)
    }

    /// Removes whatever is at a path of the staging area.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(&self, path: &Path) -> Result<(), Error> {
        let removed = match fs::symlink_metadata(path) {
            Err(error) => Err(error),
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove", path)),
        }
    }

    /// Takes the rights of others over a directory of the staging area away; a file lies in one
    /// that they cannot enter.
    ///
    /// # Errors
    /// That cannot be done.
    pub fn make_private(&self, path: &Path) -> Result<(), Error> {
        let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
        if found.is_dir() { private(path) } else { Ok(()) }
    }

    /// Returns the directory of a member in a run, made if it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn member(&self, run: &str, member: &str) -> Result<PathBuf, Error> {
        let run = self.root.join(run);
        private(&run)?;
        let path = run.join(member);
        private(&path)?;
        Ok(path)
    }

    /// Removes everything of a run.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(&self, run: &str) -> Result<(), Error> {
        let path = self.root.join(run);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove", &path)),
        }
    }

    /// Removes what is in a directory of the staging area, and not itself.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn empty(&self, path: &Path) -> Result<(), Error> {
        for item in fs::read_dir(path).map_err(failed("list", path))? {
            self.discard(&item.map_err(failed("list", path))?.path())?;
        }
        Ok(())
    }

    /// Returns the names of runs that have something here.
    ///
    /// # Errors
    /// The area cannot be listed.
    pub fn runs(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for item in fs::read_dir(&self.root).map_err(failed("list", &self.root))? {
            let item = item.map_err(failed("list", &self.root))?;
            if let (Ok(name), true) = (item.file_name().into_string(), item.path().is_dir())
                && name != LOCKS
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Takes the lock that says that a member of a deployment has work under way; `None` if others
    /// hold it: another runner, or a command that has outlived its runner.
    ///
    /// # Errors
    /// The lock cannot be made.
    pub fn lock(&self, deployment: &str, member: &str) -> Result<Option<MemberLock>, Error> {
        let name = Digest::of(format!("{deployment}:{member}").as_bytes()).short();
        let path = self.root.join(LOCKS).join(name);
        let mut open = File::options();
        let file = open.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed("open", &path))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Arc::new(file))),
                // A process that is just being started has a copy of every descriptor for a moment.
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
        }
        Ok(None)
    }
}

/// Returns what tells this boot of the machine from others; empty if the system does not say.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Says whether a directory is there.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_private_and_go_with_their_run() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(&dir.path().join("staging")).unwrap();
        let member = staging.member("run-1", "api").unwrap();
        assert_eq!(fs::metadata(&member).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(member.join("file"), "x").unwrap();
        assert_eq!(staging.member("run-1", "api").unwrap(), member);
        staging.empty(&member).unwrap();
        assert_eq!(fs::read_dir(&member).unwrap().count(), 0);
        assert_eq!(staging.runs().unwrap(), ["run-1"]);
        staging.remove("run-1").unwrap();
        staging.remove("run-1").unwrap();
        assert_eq!(staging.runs().unwrap(), [""; 0]);
    }

    #[test]
    fn a_lock_is_held_until_all_who_have_it_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(&dir.path().join("staging")).unwrap();
        let held = staging.lock("orders", "api").unwrap().unwrap();
        let inherited = held.try_clone().unwrap();
        assert!(staging.lock("orders", "api").unwrap().is_none());
        assert!(staging.lock("orders", "web").unwrap().is_some());
        drop(held);
        assert!(staging.lock("orders", "api").unwrap().is_none());
        drop(inherited);
        assert!(staging.lock("orders", "api").unwrap().is_some());
    }

    #[test]
    fn what_was_staged_before_the_machine_went_down_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(&dir.path().join("staging")).unwrap();
        staging.open_run("run-1").unwrap();
        let member = staging.member("run-1", "api").unwrap();
        staging.open_run("run-1").unwrap();
        assert!(is_there(&member));
        fs::write(dir.path().join("staging/run-1").join(BOOT), "another").unwrap();
        staging.open_run("run-1").unwrap();
        assert!(!is_there(&member));
    }

    #[test]
    fn a_link_in_place_of_the_area_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("staging")).unwrap();
        assert!(Staging::open(&dir.path().join("staging")).is_err());
    }
}
