//! A small file system in an image that can lose its power.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use tempfile::TempDir;

/// Longest wait until a file system is no longer busy.
const BUSY_TRIES: u32 = 200;

/// Flushes the file system's own journal before the power goes, but no data.
pub const AFTER_JOURNAL: u32 = 1;
/// Writes nothing at all any more.
pub const AT_ONCE: u32 = 2;

/// A mounted image. It is unmounted when this value is dropped; should the process be killed, with
/// its mount namespace.
pub struct Volume {
    /// The kind of file system.
    pub kind: &'static str,
    image: PathBuf,
    place: PathBuf,
    _dir: TempDir,
}

/// Hides all mounts of this process, and of the threads and processes that it starts from now on,
/// from everybody else: with the last of them they are gone.
///
/// # Errors
/// This is not root, or a container that may not do so.
pub fn hide_mounts() -> anyhow::Result<()> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("this is not root");
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("mounts cannot be hidden")
}

impl Volume {
    /// Makes and mounts a file system of a kind, `ext4` or `xfs`.
    pub fn new(kind: &'static str) -> anyhow::Result<Self> {
        let (size_bytes, options): (u64, &[&str]) = match kind {
            "xfs" => (320 << 20, &["-q"]),
            _ => (64 << 20, &["-q", "-F"]),
        };
        let dir = tempfile::tempdir_in(roomy_dir())?;
        let (image, place) = (dir.path().join("image"), dir.path().join("mounted"));
        fs::create_dir(&place)?;
        File::create(&image)?.set_len(size_bytes)?;
        run(Command::new(format!("mkfs.{kind}")).args(options).arg(&image))?;
        let volume = Self { kind, image, place, _dir: dir };
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Takes its power away: [`AT_ONCE`] or [`AFTER_JOURNAL`]. Everything fails there afterwards.
    pub fn cut(&self, how: u32) -> anyhow::Result<()> {
        shutdown::shut_down(&File::open(&self.place)?, how).context("no power cut")
    }

    /// Mounts it again, as after a power cut.
    pub fn mount_again(&self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(Command::new("mount")
            .args(["-o", "loop", "-t", self.kind])
            .args([&self.image, &self.place]))
    }

    fn unmount(&self) -> anyhow::Result<()> {
        for _ in 0..BUSY_TRIES {
            match nix::mount::umount(&self.place) {
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(10)),
                result => return result.context("cannot be unmounted"),
            }
        }
        bail!("{} stays busy", self.place.display())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            let _ = nix::mount::umount2(&self.place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Returns a place for what need not survive: in memory, if there is enough.
pub fn roomy_dir() -> PathBuf {
    const NEEDED_BYTES: u64 = 1 << 30;
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory)
        .map(|stat| stat.blocks_available() * stat.fragment_size());
    if free.is_ok_and(|free| free >= NEEDED_BYTES) {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", crate::tool::told(&output));
    }
    Ok(())
}

/// The only call that the standard library and `nix` have no safe function for.
#[expect(unsafe_code, reason = "an ioctl")]
mod shutdown {
    use super::{AsRawFd, File};

    // XFS_IOC_GOINGDOWN, which ext4 knows by the same number as EXT4_IOC_SHUTDOWN.
    nix::ioctl_read!(going_down, b'X', 125, u32);

    /// Ends all writing to the file system of an open directory.
    pub fn shut_down(place: &File, how: u32) -> nix::Result<()> {
        let mut how = how;
        // SAFETY: the descriptor is open while `place` is borrowed, and the kernel reads one `u32`
        // at the pointer, which is valid until the call returns.
        unsafe { going_down(place.as_raw_fd(), &raw mut how) }.map(|_| ())
    }
}
