//! Power cuts: small file systems lose their power at random moments of a backup, a run and a
//! prune, are mounted again, and must hold everything that was acknowledged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use strongroom::run::runner;
use strongroom::store::Store;
use tempfile::TempDir;

use crate::chance::Chance;
use crate::report::Row;
use crate::scene::{self, DEPLOYMENT, MEMBER, Source};
use crate::tool::{Tool, told};
use crate::truth::{State, Truth, number_in, state_of};
use crate::volume::{self, AFTER_JOURNAL, AT_ONCE, Volume};

/// The deployment whose members are directories of the configuration.
const FLEET: &str = "fleet";
const FLEET_MEMBERS: [&str; 3] = ["hub", "shard-1", "shard-2"];
/// Longest that a command may take without power.
const PATIENCE: Duration = Duration::from_mins(1);
/// Grace period of prunes in two phases, and longer than that.
const GRACE: &str = "1ms";
const GRACE_IS_OVER: Duration = Duration::from_millis(3);

/// What is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Backup,
    Run,
    PruneAtOnce,
    Condemn,
    Collect,
}

impl Job {
    const ALL: [Self; 5] =
        [Self::Backup, Self::Run, Self::PruneAtOnce, Self::Condemn, Self::Collect];

    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backups",
            Self::Run => "runs",
            Self::PruneAtOnce | Self::Condemn | Self::Collect => "prunes",
        }
    }
}

/// Cuts the power so often, spread over all kinds of file systems.
pub fn prove(tool: &Tool, cuts: u64, seed: Option<u64>) -> anyhow::Result<Row> {
    let mut row = Row::new("power cuts");
    if let Err(why) = volume::hide_mounts() {
        return Ok(row.skip(format!("nothing can be mounted: {why:#}")));
    }
    let (mut volumes, mut missing) = (Vec::new(), Vec::new());
    for kind in ["ext4", "xfs"] {
        match Volume::new(kind) {
            Ok(volume) => volumes.push(volume),
            Err(why) => missing.push(format!("{kind}: {why:#}")),
        }
    }
    if volumes.is_empty() {
        return Ok(row.skip(format!("nothing can be mounted: {}", missing.join("; "))));
    }
    let seed = seed.unwrap_or_else(Chance::seed);
    eprintln!("power cuts: seed {seed}");
    let count = volumes.len() as u64;
    let sites: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(&volumes)
            .map(|(number, volume)| {
                let share = cuts / count + u64::from(number < cuts % count);
                scope.spawn(move || Site::work(tool, volume, share, seed.wrapping_add(number)))
            })
            .collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for site in sites {
        let site = match site {
            Ok(Ok(site)) => site,
            Ok(Err(error)) => {
                row.found(format!("{error:#}"));
                continue;
            }
            Err(_) => bail!("a thread panicked"),
        };
        site.tried.iter().for_each(|(of, count)| row.tried(*count, of.clone()));
        site.found.into_iter().for_each(|finding| row.found(finding));
    }
    for why in missing {
        eprintln!("SKIPPED: {why}");
        row.tried(0, format!("SKIPPED {why}"));
    }
    row.expect_at_least(cuts, "cuts");
    row.expect_at_least(cuts / 2, "in the middle of the work");
    Ok(row)
}

/// A store on a file system, and what it must hold.
struct Site<'a> {
    tool: &'a Tool,
    volume: &'a Volume,
    store: PathBuf,
    dir: TempDir,
    source: Source,
    fleet: Vec<Source>,
    truth: Truth,
    chance: Chance,
    /// How long each job takes undisturbed.
    durations: BTreeMap<Job, Duration>,
    tried: BTreeMap<String, u64>,
    found: Vec<String>,
}

impl<'a> Site<'a> {
    /// Makes a store on a file system and cuts its power so often.
    fn work(tool: &'a Tool, volume: &'a Volume, cuts: u64, seed: u64) -> anyhow::Result<Self> {
        let mut site = Self::new(tool, volume, seed)?;
        for job in Job::ALL {
            site.prepare(job)?;
            let started = Instant::now();
            site.undisturbed(job)?;
            site.durations.insert(job, started.elapsed());
        }
        let last = [Job::PruneAtOnce, Job::Condemn, Job::Collect];
        let jobs = last.into_iter().cycle().flat_map(|last| [Job::Backup, Job::Run, last]);
        for job in jobs.take(cuts as usize) {
            site.cut(job).with_context(|| format!("{job:?} on {}", volume.kind))?;
        }
        Ok(site)
    }

    fn new(tool: &'a Tool, volume: &'a Volume, seed: u64) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(volume::roomy_dir())?;
        let source = Source::new(&dir.path().join(DEPLOYMENT))?;
        let mut config = vec!["[deployments.fleet]".to_owned()];
        let mut fleet = Vec::new();
        for member in FLEET_MEMBERS {
            let source = Source::new(&dir.path().join(member))?;
            let path = source.path().display();
            config.push("[[deployments.fleet.members]]".to_owned());
            config.push(format!("id = \"{member}\"\npath = \"{path}\""));
            fleet.push(source);
        }
        fs::write(dir.path().join("strongroom.toml"), config.join("\n"))?;
        let store = volume.path().join("store");
        tool.must(&store, &["init".as_ref()])?;
        let (durations, tried) = (BTreeMap::new(), BTreeMap::new());
        let (truth, chance, found) = (Truth::default(), Chance::of(seed), Vec::new());
        Ok(Self { tool, volume, store, dir, source, fleet, truth, chance, durations, tried, found })
    }

    fn count(&mut self, of: &str) {
        *self.tried.entry(of.to_owned()).or_default() += 1;
    }

    /// Makes that there is something to do.
    fn prepare(&mut self, job: Job) -> anyhow::Result<()> {
        match job {
            Job::Backup => {
                self.source.change()?;
                self.truth.begin(DEPLOYMENT, self.state(job)?);
            }
            Job::Run => {
                self.fleet.iter_mut().try_for_each(Source::change)?;
                self.truth.begin(FLEET, self.state(job)?);
            }
            Job::PruneAtOnce | Job::Condemn => self.truth.keep_newest(),
            Job::Collect => {
                self.truth.keep_newest();
                self.undisturbed(Job::Condemn)?;
            }
        }
        Ok(())
    }

    /// Returns the state that a backup or run finds.
    fn state(&self, job: Job) -> anyhow::Result<State> {
        if job == Job::Backup {
            return Ok(state_of([(MEMBER, &self.source.files()?)]));
        }
        let files: Vec<_> = self.fleet.iter().map(Source::files).collect::<anyhow::Result<_>>()?;
        Ok(state_of(FLEET_MEMBERS.into_iter().zip(&files)))
    }

    fn arguments(&self, job: Job) -> Vec<OsString> {
        let mut member = OsString::from(format!("{MEMBER}="));
        member.push(self.source.path());
        let config = self.dir.path().join("strongroom.toml").into_os_string();
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let prune = |grace| words(&["prune", "--keep-last", "1", "--apply", "--grace", grace]);
        match job {
            Job::Backup => {
                let mut all = words(&["backup", "--json", "--name", DEPLOYMENT]);
                all.push(member);
                all
            }
            Job::Run => {
                let mut all = words(&["backup", "--all", "--json", "--config"]);
                all.push(config);
                all
            }
            Job::PruneAtOnce => prune("0"),
            Job::Condemn | Job::Collect => {
                // What was condemned before this is due.
                std::thread::sleep(GRACE_IS_OVER);
                prune(GRACE)
            }
        }
    }

    fn start(&self, job: Job) -> anyhow::Result<Child> {
        let arguments = self.arguments(job);
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let mut command = self.tool.command(&self.store, &arguments);
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Takes down what a command that succeeded has acknowledged.
    fn acknowledge(&mut self, job: Job, output: &Output) -> anyhow::Result<()> {
        let deployment = match job {
            Job::Backup => DEPLOYMENT,
            Job::Run => FLEET,
            _ => return Ok(()),
        };
        let number = number_in(&String::from_utf8_lossy(&output.stdout))?;
        self.truth.acknowledge(deployment, number, self.state(job)?);
        Ok(())
    }

    /// Does it to its end.
    fn undisturbed(&mut self, job: Job) -> anyhow::Result<()> {
        let output = self.start(job)?.wait_with_output()?;
        if !output.status.success() {
            bail!("undisturbed, it ended with {}: {}", output.status, told(&output));
        }
        self.acknowledge(job, &output)
    }

    /// Cuts the power at some moment of a job, and looks.
    fn cut(&mut self, job: Job) -> anyhow::Result<()> {
        self.prepare(job)?;
        let moment = self.chance.time(self.durations[&job].mul_f64(1.1));
        let how = if self.chance.one_in(4) { AFTER_JOURNAL } else { AT_ONCE };
        let started = Instant::now();
        let mut child = self.start(job)?;
        std::thread::sleep(moment.saturating_sub(started.elapsed()));
        let in_the_middle = child.try_wait()?.is_none();
        self.volume.cut(how)?;
        let output = ended(child, started)?;
        self.volume.mount_again()?;
        self.count("cuts");
        self.count(&format!("of {}", job.name()));
        if in_the_middle {
            self.count("in the middle of the work");
        } else {
            self.durations.insert(job, moment);
        }
        let when = format!("{}: {job:?} cut after {moment:?} (way {how})", self.volume.kind);
        // The command says that the storage failed, or that something cannot be read.
        if !matches!(output.status.code(), Some(0 | 1 | 4)) {
            self.find(&when, &format!("{}: {}", output.status, told(&output)));
        }
        if output.status.success() {
            self.acknowledge(job, &output)?;
        }
        self.look(job, &when, Some(&output))?;
        if job.name() == "prunes" {
            // What was not forgotten yet is forgotten now.
            self.truth.keep_newest();
        }
        self.undisturbed(job).with_context(|| format!("repeated after {when}"))?;
        self.look(job, &format!("{when}, repeated"), None)
    }

    fn find(&mut self, when: &str, what: &str) {
        self.found.push(format!("{when}: {what}"));
    }

    /// Compares the store with what must be there. After a job that was done to its end there is
    /// no `output`, and no debris either.
    fn look(&mut self, job: Job, when: &str, output: Option<&Output>) -> anyhow::Result<()> {
        let store = scene::open(&self.store).with_context(|| when.to_owned())?;
        for wrong in self.truth.check(&store) {
            self.find(when, &wrong);
        }
        let in_tmp = fs::read_dir(self.store.join("tmp"))?.count();
        match output {
            Some(output) => {
                if in_tmp > 0 {
                    self.count("left files in tmp");
                }
                if job == Job::Run {
                    for wrong in self.told_too_early(&store, output)? {
                        self.find(when, &wrong);
                    }
                }
            }
            None if in_tmp > 0 => self.find(when, &format!("{in_tmp} files are left in tmp")),
            None => {}
        }
        let visible = self.truth.acknowledged.len();
        if output.is_none() && job.name() == "prunes" && visible != 2 {
            self.find(when, &format!("{visible} generations can be seen after a prune to 2"));
        }
        Ok(())
    }

    /// Returns the steps that a run said to be completed and that its journal does not know.
    fn told_too_early(&self, store: &Store, output: &Output) -> anyhow::Result<Vec<String>> {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = text.lines().filter_map(|line| {
            let (step, state) = line.strip_prefix("strongroom: ")?.split_once(": ")?;
            state.starts_with("completed").then_some(step)
        });
        let Some(run) = runner::unfinished(store, FLEET)? else {
            let state = self.state(Job::Run)?;
            let is_there = self.truth.acknowledged.values().any(|found| *found == state);
            let lost = told.filter(|_| !is_there);
            return Ok(lost.map(|step| format!("{step} was told, and the run is lost")).collect());
        };
        let state = runner::look(store, &run)?;
        let is_done = |step: &str| {
            state.with_states().any(|(operation, state)| operation.id == step && state.is_done())
        };
        let lost = told.filter(|step| !is_done(step));
        Ok(lost.map(|step| format!("{step} was told, and its journal has lost it")).collect())
    }
}

/// Waits for the end of a command that has lost its storage.
fn ended(mut child: Child, started: Instant) -> anyhow::Result<Output> {
    while child.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!("a command hangs after a power cut: {}", told(&output));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(child.wait_with_output()?)
}
