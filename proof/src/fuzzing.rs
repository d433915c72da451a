//! Runs what is fuzzed without a fuzzer: the corpora as they are, then changed inputs for the rest
//! of the time, in two processes, so that an input that ends its process is found too.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fastrand::Rng;
use peak_alloc::PeakAlloc;
use strongroom_proof::fuzz::{TARGETS, Target, mutate};

use crate::report::Row;

/// The target whose inputs are stores.
const WHOLE: &str = "store";
/// Processes at work.
const WORKERS: u64 = 2;
/// Inputs that were taken and are changed further, of one target.
const POOL_MAX: usize = 2000;
/// How much longer than its time a worker may take, in seconds.
const PATIENCE_SECONDS: u64 = 120;

/// What `fuzz` is told.
#[derive(clap::Args)]
pub struct Options {
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The inputs to begin with, in a folder for each target.
    #[arg(long, default_value = "fuzz/corpus")]
    corpus: PathBuf,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Where inputs that show something are put.
    #[arg(long, default_value = "target/fuzz-findings")]
    findings: PathBuf,
    /// Another seed tries other changes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only tries this input of `--target`, and lets it panic.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Writes the corpora anew instead.
    #[arg(long)]
    pub write_corpus: bool,
    /// One of the processes: where it notes the input that it is at.
    #[arg(long, hide = true)]
    worker: Option<PathBuf>,
}

impl Options {
    /// Where the corpora are.
    pub fn corpus(&self) -> &Path {
        &self.corpus
    }

    fn targets(&self) -> Vec<Target> {
        let wanted = |target: &&Target| self.target.as_ref().is_none_or(|name| name == target.name);
        TARGETS.iter().filter(wanted).copied().collect()
    }
}

/// Runs it; `memory` counts what is allocated.
pub fn prove(options: &Options, memory: &'static PeakAlloc) -> anyhow::Result<Row> {
    if let Some(note) = &options.worker {
        work(options, memory, note)?;
        std::process::exit(0);
    }
    if options.targets().is_empty() {
        bail!("there is no such target");
    }
    let mut row = Row::new("fuzzed inputs");
    if let Some(path) = &options.input {
        for target in options.targets() {
            let is_taken = (target.body)(&fs::read(path)?);
            row.tried(1, format!("{} {}", target.name, if is_taken { "taken" } else { "refused" }));
        }
        return Ok(row);
    }
    let notes =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." })?;
    let spawn = |number: u64| -> anyhow::Result<(Child, PathBuf)> {
        let note = notes.path().join(format!("{number}"));
        let child = Command::new(std::env::current_exe()?)
            .args(["fuzz", "--seconds", &options.seconds.to_string()])
            .args(["--seed", &(options.seed * WORKERS + number).to_string()])
            .args(options.target.iter().flat_map(|name| ["--target", name]))
            .arg("--corpus")
            .arg(&options.corpus)
            .arg("--findings")
            .arg(&options.findings)
            .arg("--worker")
            .arg(&note)
            .stdout(Stdio::piped())
            .spawn()?;
        Ok((child, note))
    };
    let children: Vec<_> = (0..WORKERS).map(spawn).collect::<anyhow::Result<_>>()?;
    let (mut told, mut seen) = (HashSet::new(), HashSet::new());
    for (child, note) in children {
        follow(child, &note, options, &mut row, (&mut told, &mut seen))?;
    }
    row.tried(options.targets().len() as u64, "targets");
    for target in options.targets() {
        if !seen.contains(target.name) {
            row.found(format!("no input of {} was tried", target.name));
        }
    }
    Ok(row)
}

/// Takes up what one worker says, until it ends or is stopped.
fn follow(
    mut child: Child,
    note: &Path,
    options: &Options,
    row: &mut Row,
    (told, seen): (&mut HashSet<String>, &mut HashSet<String>),
) -> anyhow::Result<()> {
    let lines = BufReader::new(child.stdout.take().context("a pipe")?);
    let watched = child.id();
    let deadline = Duration::from_secs(options.seconds + PATIENCE_SECONDS);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let is_late = is_done
            .recv_timeout(deadline)
            .is_err_and(|why| matches!(why, std::sync::mpsc::RecvTimeoutError::Timeout));
        if is_late {
            let pid = nix::unistd::Pid::from_raw(watched as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    for line in lines.lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("tried", rest)) => {
                let (count, name) = rest.split_once(' ').context("a count and a name")?;
                row.tried(count.parse()?, if name == WHOLE { "stores" } else { "inputs" });
                seen.insert(name.to_owned());
            }
            Some(("found", what)) if told.insert(what.to_owned()) => row.found(what),
            _ => {}
        }
    }
    drop(done);
    let _ = watch.join();
    let status = child.wait()?;
    if !status.success() {
        let noted = fs::read(note).unwrap_or_default();
        let path = save(&options.findings, "ended", last_input(&noted).unwrap_or_default())?;
        row.found(format!("the process {status}: {}", path.display()));
    }
    Ok(())
}

/// Returns the input that a worker noted last.
fn last_input(noted: &[u8]) -> Option<&[u8]> {
    let (length, rest) = noted.split_first_chunk()?;
    rest.get(..u64::from_le_bytes(*length) as usize)
}

fn save(folder: &Path, name: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let digest = blake3::hash(input).to_hex();
    let path = folder.join(format!("{name}-{}", &digest[..12]));
    fs::write(&path, input)?;
    Ok(path)
}

thread_local! {
    /// Where the last panic was, and what it said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What one worker has of one target.
struct Trial<'a> {
    target: Target,
    memory: &'static PeakAlloc,
    note: &'a File,
    findings: &'a Path,
    tried: u64,
    told: HashSet<String>,
    slowest: Duration,
    most_bytes: usize,
}

impl Trial<'_> {
    /// Tries an input; says whether it was taken.
    fn input(&mut self, input: &[u8]) -> anyhow::Result<bool> {
        // The length first: cutting the file off each time would take longer than most inputs.
        self.note.write_all_at(&(input.len() as u64).to_le_bytes(), 0)?;
        self.note.write_all_at(input, 8)?;
        self.tried += 1;
        self.memory.reset_peak_usage();
        let before = self.memory.current_usage();
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (self.target.body)(input)));
        self.slowest = self.slowest.max(started.elapsed());
        let bytes = self.memory.peak_usage().saturating_sub(before);
        self.most_bytes = self.most_bytes.max(bytes);
        if bytes > self.target.memory_mib << 20 {
            self.found(input, "memory", &format!("{} MiB for {} bytes", bytes >> 20, input.len()))?;
        }
        if result.is_err() {
            let what = PANIC.take();
            let place = what.split(": ").next().unwrap_or_default().to_owned();
            self.found(input, &place, &what)?;
        }
        Ok(result.unwrap_or(false))
    }

    fn found(&mut self, input: &[u8], place: &str, what: &str) -> anyhow::Result<()> {
        if self.told.insert(place.to_owned()) {
            let name = self.target.name;
            let path = save(self.findings, name, input)?;
            println!("found {name}: {}: {}", what.replace('\n', " "), path.display());
        }
        Ok(())
    }
}

fn work(options: &Options, memory: &'static PeakAlloc, note: &Path) -> anyhow::Result<()> {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
    let note = File::create(note)?;
    let mut rng = Rng::with_seed(options.seed);
    let targets = options.targets();
    let weights: u32 = targets.iter().map(|target| target.weight).sum();
    for target in targets {
        let mut pool = corpus(&options.corpus.join(target.name))?;
        let share = Duration::from_secs(options.seconds) * target.weight / weights;
        let mut trial = Trial {
            target,
            memory,
            note: &note,
            findings: &options.findings,
            tried: 0,
            told: HashSet::new(),
            slowest: Duration::ZERO,
            most_bytes: 0,
        };
        let started = Instant::now();
        for input in &pool {
            trial.input(input)?;
        }
        let seeds = pool.len();
        while started.elapsed() < share {
            let mut input = pool[rng.usize(0..pool.len())].clone();
            mutate::mutate(&mut input, &pool[..seeds], &mut rng);
            if trial.input(&input)? && input.len() < 20_000 {
                if pool.len() < POOL_MAX {
                    pool.push(input);
                } else {
                    let place = rng.usize(seeds..POOL_MAX);
                    pool[place] = input;
                }
            }
        }
        println!("tried {} {}", trial.tried, target.name);
        eprintln!(
            "{}: {} inputs, at most {} KiB and {} ms",
            target.name,
            trial.tried,
            trial.most_bytes >> 10,
            trial.slowest.as_millis()
        );
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn corpus(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    for item in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        paths.push(item?.path());
    }
    paths.sort_unstable();
    if paths.is_empty() {
        bail!("{} is empty", folder.display());
    }
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}
