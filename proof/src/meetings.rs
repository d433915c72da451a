//! Meetings: a writer that is stopped in the middle of its backup while a whole prune passes, and
//! two writers of one deployment at once.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::chance::Chance;
use crate::processes::{
    BACKUP_MAY_SAY, PRUNE_MAY_SAY, at_the_end, finish, member_of, new_store, start,
};
use crate::report::Row;
use crate::scene::{self, DEPLOYMENT, MEMBER, Source};
use crate::tool::{Tool, told};
use crate::truth::{Truth, number_in, state_of};

/// Longest wait for a process to be stopped, or to have stored something.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried to stop a writer that may be faster, for each that must be stopped.
const ATTEMPTS: u64 = 5;
/// When a prune that is not done waits for somebody.
const WAITS: Duration = Duration::from_secs(2);
/// What comes back in the backup that is stopped, in bytes.
const RETURNING_BYTES: usize = 400_000;

/// Tries both so often.
pub fn prove(tool: &Tool, rounds: u64, seed: u64, row: &mut Row) -> anyhow::Result<()> {
    let mut meeting = Meeting::new(tool, seed)?;
    for round in 0..ATTEMPTS * rounds {
        meeting.stop_a_writer(round, row).with_context(|| format!("stopped writer {round}"))?;
        if row.count("writers stopped") >= rounds {
            break;
        }
    }
    row.expect_at_least(rounds, "writers stopped");
    row.expect_at_least(rounds / 2, "of them while things were removed");
    let mut meeting = Meeting::new(tool, seed.wrapping_add(1))?;
    let other = Source::new(&meeting.dir.path().join("other"))?;
    fs::write(other.path().join("own"), scene::noise(8, 20_000))?;
    meeting.sources.push(other);
    for round in 0..rounds {
        meeting.let_two_meet(row).with_context(|| format!("two writers {round}"))?;
    }
    row.expect_at_least(rounds, "pairs of writers");
    Ok(())
}

/// A store, and sources of one deployment.
struct Meeting<'t> {
    tool: &'t Tool,
    dir: TempDir,
    /// The last one is in use.
    stores: Vec<(TempDir, PathBuf)>,
    sources: Vec<Source>,
    truth: Truth,
    chance: Chance,
    /// How long a backup takes.
    duration: Duration,
}

impl<'t> Meeting<'t> {
    fn new(tool: &'t Tool, seed: u64) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(crate::volume::roomy_dir())?;
        let sources = vec![Source::new(&dir.path().join("one"))?];
        let stores = vec![new_store(tool)?];
        let (truth, chance) = (Truth::default(), Chance::of(seed));
        let duration = Duration::from_millis(50);
        Ok(Self { tool, dir, stores, sources, truth, chance, duration })
    }

    fn store(&self) -> &Path {
        self.stores.last().map_or(Path::new(""), |(_, store)| store)
    }

    fn start_backup(&mut self, of: usize) -> anyhow::Result<Child> {
        let source = &self.sources[of];
        self.truth.begin(DEPLOYMENT, state_of([(MEMBER, &source.files()?)]));
        let member = member_of(source);
        let arguments = ["backup", "--json", "--name", DEPLOYMENT, &member].map(OsStr::new);
        start(self.tool, self.store(), &arguments)
    }

    /// Waits for a backup, and takes down what it acknowledges. `false` if it says why not.
    fn end_backup(&mut self, of: usize, child: Child, row: &mut Row) -> anyhow::Result<bool> {
        let (output, _) = finish(child, None)?;
        if output.status.success() {
            let number = number_in(&String::from_utf8_lossy(&output.stdout))?;
            let state = state_of([(MEMBER, &self.sources[of].files()?)]);
            let name = (DEPLOYMENT.to_owned(), number);
            if self.truth.acknowledged.contains_key(&name) {
                row.found(format!("{DEPLOYMENT}@g{number} was acknowledged twice"));
            }
            self.truth.acknowledge(DEPLOYMENT, number, state);
            return Ok(true);
        }
        expect(&output, &BACKUP_MAY_SAY, "backup", row);
        Ok(false)
    }

    fn back_up(&mut self, of: usize, row: &mut Row) -> anyhow::Result<()> {
        let child = self.start_backup(of)?;
        if !self.end_backup(of, child, row)? {
            row.found("an undisturbed backup does not succeed");
        }
        Ok(())
    }

    /// Prunes beside a stopped writer; says whether something was removed. If the writer was stopped
    /// while it kept the index, prune waits for it, and it goes on.
    fn prune(&self, grace: &str, writer: Pid, row: &mut Row) -> anyhow::Result<bool> {
        let words = ["prune", "--apply", "--json", "--keep-last", "1", "--grace", grace];
        let mut child = start(self.tool, self.store(), &words.map(OsStr::new))?;
        let started = Instant::now();
        while child.try_wait()?.is_none() {
            if started.elapsed() > WAITS {
                row.tried(1, "of them waited for");
                kill(writer, Signal::SIGCONT)?;
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let (output, _) = finish(child, None)?;
        if !output.status.success() {
            expect(&output, if grace == "0" { &PRUNE_MAY_SAY[..1] } else { &[] }, "prune", row);
        }
        Ok(!String::from_utf8_lossy(&output.stdout).contains("\"removed_objects\":0,"))
    }

    /// A file is backed up, is gone, and is there again when a backup is stopped; meanwhile prune
    /// removes the generation that had it.
    fn stop_a_writer(&mut self, round: u64, row: &mut Row) -> anyhow::Result<()> {
        let returning = self.sources[0].path().join("returning");
        fs::write(&returning, scene::noise(9000 + round, RETURNING_BYTES))?;
        let started = Instant::now();
        self.back_up(0, row)?;
        self.duration = started.elapsed();
        fs::remove_file(&returning)?;
        self.sources[0].change()?;
        self.back_up(0, row)?;
        fs::write(&returning, scene::noise(9000 + round, RETURNING_BYTES))?;
        fs::write(self.sources[0].path().join("new"), scene::noise(20_000 + round, 300_000))?;

        let mut child = self.start_backup(0)?;
        self.wait_for_the_moment(round, &mut child)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        if stop(pid, &mut child)? {
            row.tried(1, "writers stopped");
            if round % 3 == 2 {
                self.prune("0", pid, row)?;
            }
            let mut has_removed = false;
            for _ in 0..3 {
                has_removed |= self.prune("1ms", pid, row)?;
                std::thread::sleep(Duration::from_millis(3));
            }
            row.tried(u64::from(has_removed), "of them while things were removed");
            kill(pid, Signal::SIGCONT)?;
        } else {
            row.tried(1, "writers that were faster");
        }
        if !self.end_backup(0, child, row)? {
            row.tried(1, "of them that said why not");
            self.back_up(0, row)?;
        }
        self.look(1, &format!("round {round}"), row)
    }

    /// Waits for any moment of a backup; in half of the rounds for one behind its first pack.
    fn wait_for_the_moment(&mut self, round: u64, child: &mut Child) -> anyhow::Result<()> {
        let moment = self.chance.time(self.duration);
        if round.is_multiple_of(2) {
            std::thread::sleep(moment);
            return Ok(());
        }
        let started = Instant::now();
        let before = packs(self.store())?;
        while packs(self.store())? == before && child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("a backup stores nothing");
            }
        }
        std::thread::sleep(moment / 16);
        Ok(())
    }

    /// Two writers of one deployment begin at about the same time.
    fn let_two_meet(&mut self, row: &mut Row) -> anyhow::Result<()> {
        for source in &mut self.sources {
            source.change()?;
        }
        let first = self.start_backup(0)?;
        std::thread::sleep(self.chance.time(Duration::from_millis(15)));
        let second = self.start_backup(1)?;
        let first = self.end_backup(0, first, row)?;
        let second = self.end_backup(1, second, row)?;
        if !first && !second {
            row.found("of two writers neither has committed");
        }
        row.tried(1, "pairs of writers");
        row.tried(u64::from(first && second), "of them both committed");
        // Nothing is ever forgotten here.
        self.look(usize::MAX, "two writers", row)?;
        // So that the store stays small.
        if self.truth.acknowledged.len() > 20 {
            self.stores.push(new_store(self.tool)?);
            self.truth = Truth::default();
        }
        Ok(())
    }

    fn look(&self, keep: usize, when: &str, row: &mut Row) -> anyhow::Result<()> {
        let store = scene::open(self.store())?;
        for wrong in at_the_end(&store, &self.truth, keep) {
            row.found(format!("{when}: {wrong}"));
        }
        Ok(())
    }
}

/// Takes it down if a command failed in another way than it may.
fn expect(output: &Output, may_say: &[&str], what: &str, row: &mut Row) {
    let said = told(output);
    if !may_say.iter().any(|allowed| said.contains(allowed)) {
        row.found(format!("{what} ended with {}: {said}", output.status));
    }
}

/// Stops a process, and waits until all its threads are. `false` if it has ended before.
fn stop(pid: Pid, child: &mut Child) -> anyhow::Result<bool> {
    let started = Instant::now();
    // Who has ended and was waited for is nobody, or soon somebody else.
    if child.try_wait()?.is_some() {
        return Ok(false);
    }
    kill(pid, Signal::SIGSTOP)?;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        let mut states =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        // The state stands behind the name, which is in parentheses.
        let is_stopped =
            |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        if states.all(is_stopped) {
            return Ok(true);
        }
        if started.elapsed() > PATIENCE {
            bail!("a process cannot be stopped");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Counts the packs of a store.
fn packs(store: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for folder in fs::read_dir(store.join("packs"))? {
        count += fs::read_dir(folder?.path())?.count();
    }
    Ok(count)
}
