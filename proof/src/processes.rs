//! Processes: writers, prunes, verifications and restores work on one store at the same time and
//! are killed at random. Then nothing that was acknowledged may be lost but by a legal decision to
//! forget it. `meetings` has the cases in which everything but the moment is settled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use strongroom::format::record::Event;
use strongroom::store::Store;
use tempfile::TempDir;

use crate::chance::Chance;
use crate::report::Row;
use crate::scene::{self, Files, MEMBER, Source};
use crate::tool::{Tool, told};
use crate::truth::{Name, Truth, number_in, state_of};
use crate::volume;

/// How many generations of each deployment a prune keeps.
const KEPT: usize = 2;
/// The deployments of the writers: two have one of their own, two share one.
const WRITERS: [&str; 4] = ["alone", "apart", "shared", "shared"];
/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// What backups may say when they do not succeed, and are right to.
pub const BACKUP_MAY_SAY: [&str; 2] = [
    // Prune without a grace period is at work.
    "the store is locked exclusively by another process",
    // Prune was faster, twice.
    "prune has removed",
];
/// The same for prunes.
pub const PRUNE_MAY_SAY: [&str; 2] = [
    // Without a grace period nobody may write.
    "the store is in use by another process that writes to it",
    // Whenever it made a plan, somebody committed.
    "the store was changed since the plan was made",
];
/// The same for undo.
const UNDO_MAY_SAY: [&str; 2] = [
    "nothing was forgotten that could be brought back",
    "the store is locked exclusively by another process",
];

/// What all threads share.
struct Place<'a> {
    tool: &'a Tool,
    dir: &'a Path,
    store: PathBuf,
    truth: Mutex<Truth>,
    results: Mutex<Results>,
    is_over: AtomicBool,
    seed: u64,
}

#[derive(Default)]
struct Results {
    tried: BTreeMap<&'static str, u64>,
    found: Vec<String>,
}

/// Lets everybody work for so long, then the cases in which one writer is stopped, or two meet.
pub fn prove(tool: &Tool, seconds: u64, rounds: u64, seed: Option<u64>) -> anyhow::Result<Row> {
    let mut row = Row::new("processes");
    let seed = seed.unwrap_or_else(Chance::seed);
    eprintln!("processes: seed {seed}");
    let dir = tempfile::tempdir_in(volume::roomy_dir())?;
    crowd(tool, dir.path(), Duration::from_secs(seconds), seed, &mut row)?;
    if let Err(error) = crate::meetings::prove(tool, rounds, seed, &mut row) {
        row.found(format!("{error:#}"));
    }
    Ok(row)
}

/// Makes a directory for a store, and the store.
pub fn new_store(tool: &Tool) -> anyhow::Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir_in(volume::roomy_dir())?;
    let store = dir.path().join("store");
    tool.must(&store, &["init".as_ref()])?;
    Ok((dir, store))
}

fn crowd(tool: &Tool, dir: &Path, time: Duration, seed: u64, row: &mut Row) -> anyhow::Result<()> {
    let store = dir.join("store");
    tool.must(&store, &["init".as_ref()])?;
    let place = Place {
        tool,
        dir,
        store,
        truth: Mutex::default(),
        results: Mutex::default(),
        is_over: AtomicBool::new(false),
        seed,
    };
    let errors: Vec<_> = std::thread::scope(|scope| {
        let place = &place;
        let mut threads = Vec::new();
        for number in 0..WRITERS.len() {
            threads.push(scope.spawn(move || place.write(number)));
        }
        threads.push(scope.spawn(|| place.prune()));
        threads.push(scope.spawn(|| place.verify()));
        threads.push(scope.spawn(|| place.restore()));
        std::thread::sleep(time);
        place.is_over.store(true, Ordering::Relaxed);
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        });
        results.filter_map(Result::err).collect()
    });
    errors.iter().for_each(|error| row.found(format!("{error:#}")));
    let results = place.results.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    results.found.into_iter().for_each(|finding| row.found(finding));
    results.tried.iter().for_each(|(of, count)| row.tried(*count, *of));
    let truth = place.truth.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let opened = scene::open(&place.store)?;
    for wrong in at_the_end(&opened, &truth, KEPT) {
        row.found(wrong);
    }
    row.tried(truth.acknowledged.len() as u64, "acknowledged");
    for of in ["kills", "collections"] {
        row.expect_at_least(time.as_secs() / 5, of);
    }
    Ok(())
}

/// Says what is wrong when everybody is done and prunes kept the newest so many of each deployment.
pub fn at_the_end(store: &Store, truth: &Truth, keep: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    match lawful(store, keep) {
        Ok(forgotten) => {
            let mut left = truth.clone();
            left.acknowledged.retain(|name, _| !forgotten.contains(name));
            // Compares with what is left, and verifies everything.
            wrong.extend(left.check(store));
        }
        Err(error) => wrong.push(format!("{error:#}")),
    }
    wrong
}

/// Follows the commit log, and returns what is forgotten; fails if something was forgotten that the
/// policy keeps.
fn lawful(store: &Store, keep: usize) -> anyhow::Result<BTreeSet<Name>> {
    let log = store.log()?;
    // Of each deployment, in the order of the log: whether it can be seen.
    let mut all: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    for record in log.records() {
        match &record.event {
            Event::Promote { deployment, generation, .. } => {
                all.entry(deployment.clone()).or_default().push((generation.0, true));
            }
            Event::Forget(names) => {
                for name in names {
                    let seen = all.entry(name.deployment.clone()).or_default();
                    let newer = seen.iter().rev().filter(|(_, seen)| *seen);
                    let kept: Vec<_> = newer.take(keep).map(|(number, _)| *number).collect();
                    if kept.contains(&name.generation.0) {
                        bail!("{name} was forgotten, one of the newest {keep}: {kept:?}");
                    }
                }
                set(&mut all, names, false)?;
            }
            Event::Undo(names) => set(&mut all, names, true)?,
            _ => {}
        }
    }
    let mut forgotten = BTreeSet::new();
    for (deployment, generations) in all {
        for (number, _) in generations.iter().filter(|(_, seen)| !*seen) {
            forgotten.insert((deployment.clone(), *number));
        }
    }
    Ok(forgotten)
}

fn set(
    all: &mut BTreeMap<String, Vec<(u64, bool)>>,
    names: &[strongroom::store::GenerationName],
    seen: bool,
) -> anyhow::Result<()> {
    for name in names {
        let generations = all.entry(name.deployment.clone()).or_default();
        let own = generations.iter_mut().find(|(number, _)| *number == name.generation.0);
        own.with_context(|| format!("{name} is not in the log"))?.1 = seen;
    }
    Ok(())
}

impl Place<'_> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, of: &'static str) {
        if let Ok(mut results) = self.results.lock() {
            *results.tried.entry(of).or_default() += 1;
        }
    }

    fn find(&self, finding: String) {
        if let Ok(mut results) = self.results.lock() {
            results.found.push(finding);
        }
    }

    fn truth(&self, change: impl FnOnce(&mut Truth)) {
        if let Ok(mut truth) = self.truth.lock() {
            change(&mut truth);
        }
    }

    /// Runs a command, and kills it once in `of` times. Returns nothing if it was killed before its
    /// end, or said something that it may say.
    fn run(
        &self,
        chance: &mut Chance,
        of: u64,
        arguments: &[&OsStr],
        may_say: &[&str],
    ) -> anyhow::Result<Option<String>> {
        let child = start(self.tool, &self.store, arguments)?;
        let kill_after = chance.one_in(of).then(|| chance.time(Duration::from_millis(120)));
        let (output, is_killed) = finish(child, kill_after)?;
        if is_killed {
            self.count("kills");
        }
        if output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let said = told(&output);
        let was_killed = is_killed && output.status.code().is_none();
        if !was_killed && !may_say.iter().any(|allowed| said.contains(allowed)) {
            self.find(format!("{arguments:?} ended with {}: {said}", output.status));
        } else if !was_killed {
            self.count("refusals");
        }
        Ok(None)
    }

    /// Backs a source up that changes, again and again.
    fn write(&self, number: usize) -> anyhow::Result<()> {
        let deployment = WRITERS[number];
        let mut chance = Chance::of(self.seed.wrapping_add(number as u64));
        let mut source = Source::new(&self.dir.join(format!("writer-{number}")))?;
        fs::write(source.path().join("own"), scene::noise(1000 + number as u64, 20_000))?;
        let member = member_of(&source);
        while self.goes_on() {
            // What was gone comes back now and then: its chunks may be condemned by then.
            back_and_forth(&source, &mut chance)?;
            source.change()?;
            let state = state_of([(MEMBER, &source.files()?)]);
            self.truth(|truth| truth.begin(deployment, state));
            let [backup, name, json] = ["backup", "--name", "--json"].map(OsStr::new);
            let arguments = [backup, json, name, deployment.as_ref(), member.as_ref()];
            let done = self.run(&mut chance, 4, &arguments, &BACKUP_MAY_SAY)?;
            self.count("backups");
            if let Some(printed) = done {
                let number = number_in(&printed)?;
                self.truth(|truth| truth.acknowledge(deployment, number, state));
            }
            std::thread::sleep(chance.time(Duration::from_millis(200)));
        }
        Ok(())
    }

    /// Prunes in all ways, and brings back.
    fn prune(&self) -> anyhow::Result<()> {
        let mut chance = Chance::of(self.seed.wrapping_add(101));
        let keep = KEPT.to_string();
        while self.goes_on() {
            if chance.one_in(5) {
                self.run(&mut chance, 4, &["undo".as_ref()], &UNDO_MAY_SAY)?;
                self.count("undos");
            }
            let grace = ["0", "1ms", "100ms", "1s"][chance.below(4) as usize];
            let words = ["prune", "--apply", "--json", "--keep-last", &keep, "--grace", grace];
            let arguments = words.map(OsStr::new);
            let done = self.run(&mut chance, 3, &arguments, &PRUNE_MAY_SAY)?;
            self.count("prunes");
            if done.is_some_and(|said| !said.contains("\"removed_objects\":0,")) {
                self.count("collections");
            }
            std::thread::sleep(chance.time(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// Verifies everything.
    fn verify(&self) -> anyhow::Result<()> {
        let mut chance = Chance::of(self.seed.wrapping_add(102));
        while self.goes_on() {
            self.run(&mut chance, 5, &["verify".as_ref(), "--full".as_ref()], &[])?;
            self.count("verifications");
            std::thread::sleep(chance.time(Duration::from_secs(1)));
        }
        Ok(())
    }

    /// Restores the newest generation of some deployment.
    fn restore(&self) -> anyhow::Result<()> {
        let mut chance = Chance::of(self.seed.wrapping_add(103));
        let target = self.dir.join("restored");
        while self.goes_on() {
            std::thread::sleep(chance.time(Duration::from_secs(1)));
            let deployment = WRITERS[chance.below(WRITERS.len() as u64) as usize];
            let arguments = ["restore", deployment, "--to"].map(OsStr::new);
            let arguments = [&arguments[..], &[target.as_os_str()]].concat();
            let none_yet = ["no deployment"];
            if self.run(&mut chance, 5, &arguments, &none_yet)?.is_some() {
                let state = state_of([(MEMBER, &files_below(&target.join(MEMBER))?)]);
                self.truth(|truth| {
                    if !truth.begun.contains(&(deployment.to_owned(), state)) {
                        self.find(format!("a restore of {deployment} is no state of it"));
                    }
                });
                self.count("restores");
            }
            if target.exists() {
                fs::remove_dir_all(&target)?;
            }
        }
        Ok(())
    }
}

/// Removes a file of a source that was there for long, or writes it as it was.
fn back_and_forth(source: &Source, chance: &mut Chance) -> anyhow::Result<()> {
    let which = chance.below(3);
    let path = source.path().join(format!("returns-{which}"));
    if path.exists() {
        fs::remove_file(path)?;
    } else {
        fs::write(path, scene::noise(7000 + which, 30_000))?;
    }
    Ok(())
}

/// Returns a source as an argument of `backup`.
pub fn member_of(source: &Source) -> String {
    format!("{MEMBER}={}", source.path().display())
}

/// Reads all files of a directory.
pub fn files_below(dir: &Path) -> anyhow::Result<Files> {
    let (mut files, mut open) = (Files::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// Starts a command.
pub fn start(tool: &Tool, store: &Path, arguments: &[&OsStr]) -> anyhow::Result<Child> {
    let mut command = tool.command(store, arguments);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits for the end of a command, or kills it. Says whether it tried to.
pub fn finish(mut child: Child, kill_after: Option<Duration>) -> anyhow::Result<(Output, bool)> {
    let started = Instant::now();
    let mut is_killed = false;
    if let Some(moment) = kill_after {
        std::thread::sleep(moment);
        is_killed = child.try_wait()?.is_none();
        child.kill()?;
    }
    while child.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            child.kill()?;
            bail!("a command hangs: {}", told(&child.wait_with_output()?));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((child.wait_with_output()?, is_killed))
}
