//! Every system call that changes something fails, in every way, once and for ever; a disk that is
//! full from the beginning, and one that becomes read-only in the middle.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::changes;
use crate::parallel;
use crate::report::Row;
use crate::scene;
use crate::stage::{Stage, Work};
use crate::tool::{Tool, told};
use crate::tracer::{self, Action, Call, End, Watch};

/// The works whose calls fail.
const WORKS: [Work; 4] = [Work::Next, Work::AtOnce, Work::Collect, Work::Restore];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Errno(Errno),
    ShortWrite,
}

const FAULTS: [Fault; 7] = [
    Fault::Errno(Errno::EIO),
    Fault::Errno(Errno::ENOSPC),
    Fault::Errno(Errno::EDQUOT),
    Fault::Errno(Errno::EMFILE),
    Fault::Errno(Errno::EINTR),
    Fault::Errno(Errno::EROFS),
    Fault::ShortWrite,
];

/// Lets one call fail, or that and all behind it.
struct Failing {
    below: PathBuf,
    at: u64,
    fault: Fault,
    for_ever: bool,
    calls: u64,
    failed: u64,
}

impl Watch for Failing {
    fn enter(&mut self, call: &Call) -> Action {
        if !changes::is_change_below(call, &self.below) {
            return Action::Go;
        }
        self.calls += 1;
        let is_now = self.calls == self.at || (self.for_ever && self.calls > self.at);
        match self.fault {
            Fault::Errno(errno) if is_now => {
                self.failed += 1;
                Action::Fail(errno)
            }
            Fault::ShortWrite if is_now && changes::is_write(call) && call.args[2] > 1 => {
                self.failed += 1;
                Action::Shorten(call.args[2] / 2)
            }
            _ => Action::Go,
        }
    }
}

/// Tries them all; of calls only every `step`th.
pub fn prove(tool: &Tool, step: u64) -> anyhow::Result<Row> {
    let mut row = Row::new("failing system calls, full and read-only disks");
    let dir = tempfile::tempdir_in(scene::fast_dir())?;
    for work in WORKS {
        let stage = Stage::new(tool, work, dir.path().join(format!("{work:?}")))?;
        let place = tempfile::tempdir_in(dir.path())?;
        stage.copy(place.path())?;
        let mut counting = failing(place.path(), (0, Fault::Errno(Errno::EIO), false));
        let end = tracer::run(&stage.command(tool, place.path()), &mut counting)?;
        ensure!(end == End::Exited(0), "{work:?} ended with {end:?}");
        println!("{work:?}: {} calls that change something", counting.calls);
        let mut cases = Vec::new();
        for at in (1..=counting.calls).step_by(step as usize) {
            for fault in FAULTS {
                cases.push((at, fault, false));
                // Nobody can go on where every call is interrupted for ever.
                if fault != Fault::Errno(Errno::EINTR) {
                    cases.push((at, fault, true));
                }
            }
        }
        let results = parallel::map(&cases, |case| one(tool, &stage, *case, dir.path()));
        for (case, result) in cases.iter().zip(results) {
            match result {
                Ok(None) => {}
                Ok(Some(wrong)) => {
                    row.tried(1, "faults");
                    for wrong in wrong {
                        row.found(format!("{work:?} {case:?}: {wrong}"));
                    }
                }
                Err(error) => row.found(format!("{work:?} {case:?}: {error:#}")),
            }
        }
    }
    if nix::unistd::geteuid().is_root() {
        full_disk(tool, dir.path(), &mut row)?;
        becomes_read_only(tool, dir.path(), &mut row)?;
    } else {
        println!("SKIPPED: small and read-only disks need root");
    }
    Ok(row)
}

fn failing(place: &Path, (at, fault, for_ever): (u64, Fault, bool)) -> Failing {
    Failing { below: place.to_owned(), at, fault, for_ever, calls: 0, failed: 0 }
}

/// Tries one; `None` if nothing failed.
fn one(
    tool: &Tool,
    stage: &Stage,
    case: (u64, Fault, bool),
    dir: &Path,
) -> anyhow::Result<Option<Vec<String>>> {
    let place = tempfile::tempdir_in(dir)?;
    stage.copy(place.path())?;
    let mut failing = failing(place.path(), case);
    let end = tracer::run(&stage.command(tool, place.path()), &mut failing)?;
    if failing.failed == 0 {
        return Ok(None);
    }
    let mut wrong = Vec::new();
    match end {
        End::Exited(0) if stage.work != Work::Restore => {
            wrong = stage.after.check(&scene::open(&place.path().join("store"))?);
        }
        // Of a panic, and of a signal, nobody can make anything.
        End::Exited(101) | End::Killed(_) => wrong.push(format!("ended with {end:?}")),
        End::Exited(_) => {}
    }
    wrong.extend(stage.check(tool, place.path())?);
    Ok(Some(wrong))
}

/// A file system in memory, gone when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(place: PathBuf, size: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(&place)?;
        let none: Option<&str> = None;
        mount(none, &place, Some("tmpfs"), MsFlags::empty(), Some(size))?;
        Ok(Self(place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A disk of 1 MB: backups until it is full, then a prune on the full disk, then a backup.
fn full_disk(tool: &Tool, dir: &Path, row: &mut Row) -> anyhow::Result<()> {
    let place = dir.join("small");
    let disk = Disk::new(place.join("disk"), "size=1m")?;
    let store = disk.0.join("store");
    let (mut source, mut expected) = (scene::Source::new(&place)?, scene::Expected::default());
    tool.must(&store, &["init".as_ref()])?;
    let mut number = 0;
    loop {
        number += 1;
        fs::write(source.path().join("fills"), scene::noise(1000 + number, 70_000))?;
        expected.generations.insert(number, source.files()?);
        match scene::back_up(tool, &store, &source) {
            Ok(()) => expected.acknowledged.insert(number),
            Err(error) => {
                let said = format!("{error:#}");
                if !said.contains("No space left") {
                    row.found(format!("a full disk is told as: {said}"));
                }
                break;
            }
        };
        ensure!(number < 100, "1 MB takes no end of generations");
        source.change()?;
    }
    row.tried(number, "backups to a full disk");
    let wrong = expected.check(&scene::open(&store)?);
    wrong.into_iter().for_each(|wrong| row.found(format!("full disk: {wrong}")));
    let prune = ["prune", "--keep-last", "1", "--grace", "0", "--apply"].map(AsRef::as_ref);
    let output = tool.run(&store, &prune)?;
    if !output.status.success() {
        row.found(format!("prune on a full disk: {}", told(&output)));
    }
    expected.acknowledged.retain(|known| *known == number - 1);
    let wrong = expected.check(&scene::open(&store)?);
    wrong.into_iter().for_each(|wrong| row.found(format!("pruned full disk: {wrong}")));
    if let Err(error) = scene::back_up(tool, &store, &source) {
        row.found(format!("the backup after a prune of a full disk: {error:#}"));
    }
    Ok(())
}

/// Makes the disk read-only before a call, or the next at which that can be done.
struct Freezing {
    disk: PathBuf,
    at: u64,
    calls: u64,
    is_frozen: bool,
}

impl Watch for Freezing {
    fn enter(&mut self, call: &Call) -> Action {
        if changes::is_change_below(call, &self.disk) {
            self.calls += 1;
            if self.calls >= self.at && !self.is_frozen {
                self.is_frozen = remount(&self.disk, true).is_ok();
            }
        }
        Action::Go
    }
}

fn remount(disk: &Path, read_only: bool) -> nix::Result<()> {
    let none: Option<&str> = None;
    let mut flags = MsFlags::MS_REMOUNT;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(none, disk, none, flags, none)
}

fn becomes_read_only(tool: &Tool, dir: &Path, row: &mut Row) -> anyhow::Result<()> {
    for work in [Work::Next, Work::AtOnce] {
        let stage = Stage::new(tool, work, dir.join(format!("frozen-{work:?}")))?;
        for at in 1.. {
            let disk = Disk::new(dir.join("freezing"), "size=64m")?;
            stage.copy(&disk.0)?;
            let mut freezing = Freezing { disk: disk.0.clone(), at, calls: 0, is_frozen: false };
            let end = tracer::run(&stage.command(tool, &disk.0), &mut freezing)?;
            if !freezing.is_frozen {
                break;
            }
            row.tried(1, "disks made read-only");
            if matches!(end, End::Killed(_) | End::Exited(101)) {
                row.found(format!("read-only at {at} of {work:?}: ended with {end:?}"));
            }
            let between = stage.between();
            for wrong in between.check(&scene::open(&disk.0.join("store"))?) {
                row.found(format!("read-only at {at} of {work:?}: {wrong}"));
            }
            remount(&disk.0, false)?;
            for wrong in stage.check(tool, &disk.0)? {
                row.found(format!("writable again at {at} of {work:?}: {wrong}"));
            }
        }
    }
    Ok(())
}
