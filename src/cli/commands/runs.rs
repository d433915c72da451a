//! `run`, `resume` and `status`: what runs there are, where they stand, and how they go on.

use std::io::{self, Write};

use serde::Serialize;

use super::way_back::{self, Again};
use crate::cli::args::{Resume, Run, Status};
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::fleet::{self, Fleet};
use crate::cli::json;
use crate::cli::output::{self, Align, Table};
use crate::cli::progress::Job;
use crate::clock::UnixNanos;
use crate::run::any::{self, AnyRun};
use crate::run::journal;
use crate::run::runner::{self, Parts, Runner};
use crate::run::state::{OperationState, Outcome, RunState};
use crate::store::{IngestOptions, Store};

#[derive(Serialize)]
struct RunLine {
    run: String,
    kind: &'static str,
    deployment: String,
    state: &'static str,
    generation: Option<u64>,
    operations_done: usize,
    operations: usize,
    /// Whether nothing of it is left to be removed.
    cleaned: bool,
    started: String,
    last: String,
    problem: Option<String>,
}

impl RunLine {
    /// Says whether something remains to be done.
    fn is_open(&self) -> bool {
        self.state == "unfinished" || (self.problem.is_none() && !self.cleaned)
    }
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<RunLine>,
}

#[derive(Serialize)]
struct RunDocument<'s> {
    run: &'s str,
    kind: &'static str,
    deployment: &'s str,
    state: &'static str,
    plan: &'s crate::run::plan::Plan,
    restart_required: Vec<&'s str>,
    operations: Vec<OperationLine<'s>>,
    artifacts: Vec<ArtifactLine<'s>>,
}

#[derive(Serialize)]
struct OperationLine<'s> {
    sequence: u32,
    id: &'s str,
    state: &'static str,
    receipt: Option<&'s crate::run::event::Receipt>,
    reason: Option<&'s str>,
}

#[derive(Serialize)]
struct ArtifactLine<'s> {
    member: &'s str,
    state: &'static str,
    next: Option<&'static str>,
}

fn time(nanos: i64) -> String {
    output::time_to_the_second(output::clock_time(UnixNanos(nanos)))
}

fn line(run: String, state: Result<AnyRun, runner::Error>) -> RunLine {
    match state {
        Ok(state) => {
            let (operations, times) = (state.lines(), state.times());
            RunLine {
                run,
                kind: state.kind().name(),
                deployment: state.deployment().to_owned(),
                state: state.outcome(),
                generation: state.generation(),
                operations_done: operations.iter().filter(|line| line.is_done).count(),
                operations: operations.len(),
                cleaned: state.is_cleaned(),
                started: time(times.0),
                last: time(times.1),
                problem: None,
            }
        }
        Err(error) => RunLine {
            run,
            kind: "unknown",
            deployment: String::new(),
            state: "unreadable",
            generation: None,
            operations_done: 0,
            operations: 0,
            cleaned: false,
            started: String::new(),
            last: String::new(),
            problem: Some(error.to_string()),
        },
    }
}

fn lines(context: &Context, store: &Store) -> Result<Vec<RunLine>, Failure> {
    let failed = |error| fleet::failure(context, "list runs", None, runner::Error::Journal(error));
    let names = journal::runs(store.backend()).map_err(failed)?;
    Ok(names.into_iter().map(|run| line(run.clone(), any::look(store, &run))).collect())
}

/// Runs `run`.
///
/// # Errors
/// There is no such run, or the storage failed.
pub fn run(args: &Run, context: &Context) -> Result<Exit, Failure> {
    match args {
        Run::List { deployment } => list(context, deployment.as_deref()),
        Run::Show { run } => show(context, run),
        Run::Abandon { run, reason } => abandon(context, run, reason),
    }
}

fn list(context: &Context, deployment: Option<&str>) -> Result<Exit, Failure> {
    let mut runs = lines(context, &context.open()?)?;
    runs.retain(|run| deployment.is_none_or(|name| run.deployment == name));
    let damaged = runs.iter().any(|run| run.problem.is_some());
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "run-list", &Runs { runs });
        }
        write_runs(&mut out, &runs)?;
        out.flush()
    });
    printed(if damaged { Exit::DAMAGE } else { Exit::DONE }, result)
}

fn write_runs(out: &mut dyn Write, runs: &[RunLine]) -> io::Result<()> {
    let mut table = Table::new([
        ("RUN", Align::Left),
        ("DEPLOYMENT", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("DONE", Align::Right),
        ("LAST", Align::Left),
    ]);
    for run in runs {
        let state = match (run.generation, &run.problem) {
            (Some(generation), _) => format!("{} g{generation}", run.state),
            (None, Some(problem)) => format!("{}: {problem}", run.state),
            (None, None) => run.state.to_owned(),
        };
        let done = format!("{}/{}", run.operations_done, run.operations);
        let (name, deployment) = (run.run.clone(), run.deployment.clone());
        table.row([name, deployment, run.kind.to_owned(), state, done, run.last.clone()]);
    }
    table.write(out)
}

fn show(context: &Context, run: &str) -> Result<Exit, Failure> {
    let store = context.open()?;
    let what = format!("show the run {run}");
    let any =
        any::look(&store, run).map_err(|error| fleet::failure(context, &what, None, error))?;
    let result = output::stdout().and_then(|mut out| {
        match &any {
            AnyRun::Restore(state) => way_back::show(&mut out, context, run, state, any.outcome())?,
            AnyRun::Backup(state) if context.json => {
                json::print(&mut out, "run", &document(run, state, any.outcome()))?;
            }
            AnyRun::Backup(state) => write_run(&mut out, run, state, any.outcome())?,
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn document<'s>(run: &'s str, state: &'s RunState, word: &'static str) -> RunDocument<'s> {
    let operations = state.with_states().map(|(operation, state)| OperationLine {
        sequence: operation.sequence,
        id: &operation.id,
        state: state.name(),
        receipt: match state {
            OperationState::Completed(receipt) => receipt.as_ref(),
            _ => None,
        },
        reason: match state {
            OperationState::Failed { reason, .. } | OperationState::Skipped { reason } => {
                Some(reason)
            }
            _ => None,
        },
    });
    let artifacts = state.plan.targets.iter().map(|target| {
        let artifact = state.artifact(&target.row.id);
        ArtifactLine { member: &target.row.id, state: artifact.name(), next: artifact.next_step() }
    });
    RunDocument {
        run,
        kind: "backup",
        deployment: &state.plan.request.deployment,
        state: word,
        plan: &state.plan,
        restart_required: state.to_restart(),
        operations: operations.collect(),
        artifacts: artifacts.collect(),
    }
}

fn write_run(out: &mut dyn Write, run: &str, state: &RunState, word: &str) -> io::Result<()> {
    let request = &state.plan.request;
    writeln!(out, "{run}: {} by {}, {word}", request.deployment, request.executor)?;
    if let Outcome::Abandoned { reason } = &state.outcome {
        writeln!(out, "  {reason}")?;
    }
    for member in state.to_restart() {
        writeln!(out, "  {member} was stopped by this run and not started again")?;
    }
    for (operation, state) in state.with_states() {
        let reason = match state {
            OperationState::Failed { reason, .. } | OperationState::Skipped { reason } => {
                format!(": {reason}")
            }
            _ => String::new(),
        };
        writeln!(
            out,
            "  {:>4}  {:<10} {}{reason}",
            operation.sequence,
            state.name(),
            operation.id
        )?;
    }
    for target in &state.plan.targets {
        let artifact = state.artifact(&target.row.id);
        let next = artifact.next_step().map_or_else(String::new, |step| format!(", next: {step}"));
        writeln!(out, "  artifact {}: {}{next}", target.row.id, artifact.name())?;
    }
    Ok(())
}

fn abandon(context: &Context, run: &str, reason: &str) -> Result<Exit, Failure> {
    let loaded = fleet::need_config(context, "run abandon")?;
    let store = context.open_to_write()?;
    let what = format!("abandon {run}");
    let failed = |error| fleet::failure(context, &what, None, error);
    let job = Job::start("run abandon", false)?;
    let state = match any::look(&store, run).map_err(failed)? {
        AnyRun::Backup(state) => state,
        AnyRun::Restore(state) => {
            let again = Again { context, loaded, store: &store, job: &job, run };
            return again.abandon(&state, reason).map(|()| Exit::DONE);
        }
    };
    let fleet = Fleet::load(loaded, &state.plan.request.deployment)?;
    let tell = fleet::tell(context.quiet);
    let parts = Parts {
        store: &store,
        executor: &*fleet.executor,
        progress: &job.progress,
        observer: &tell,
    };
    let options = fleet.options(context, loaded, IngestOptions::default())?;
    let runner = Runner::resume(parts, run, options).map_err(failed)?;
    runner.abandon(reason).map_err(failed)?;
    Ok(Exit::DONE)
}

/// Runs `resume`.
///
/// # Errors
/// There is nothing to resume, or it failed again.
pub fn resume(args: &Resume, context: &Context) -> Result<Exit, Failure> {
    let loaded = fleet::need_config(context, "resume")?;
    let store = context.open_to_write()?;
    let failed = |error| fleet::failure(context, "resume", None, error);
    let names = match &args.run {
        Some(run) => vec![run.clone()],
        None => {
            let runs = lines(context, &store)?;
            runs.into_iter().filter(RunLine::is_open).map(|run| run.run).collect()
        }
    };
    if names.is_empty() && !context.quiet {
        output::note("strongroom: no run is unfinished");
    }
    let job = Job::start("resume", false)?;
    for run in names {
        let again = Again { context, loaded, store: &store, job: &job, run: &run };
        match any::look(&store, &run).map_err(failed)? {
            AnyRun::Restore(state) if state.is_abandoned() => again.abandon(&state, "")?,
            AnyRun::Restore(state) => again.resume(&state, args.max_steps)?,
            AnyRun::Backup(state) => resume_backup(&again, &state, args.max_steps)?,
        }
    }
    Ok(Exit::DONE)
}

fn resume_backup(again: &Again, state: &RunState, max_steps: Option<u64>) -> Result<(), Failure> {
    let Again { context, loaded, store, job, run } = *again;
    let fleet = Fleet::load(loaded, &state.plan.request.deployment)?;
    let tell = fleet::tell(context.quiet);
    let mut options = fleet.options(context, loaded, IngestOptions::default())?;
    options.steps_max = max_steps;
    let parts =
        Parts { store, executor: &*fleet.executor, progress: &job.progress, observer: &tell };
    let what = format!("resume {run}");
    let failed = |error| fleet::failure(context, &what, Some(run), error);
    let runner = Runner::resume(parts, run, options).map_err(failed)?;
    if let Outcome::Abandoned { .. } = state.outcome {
        return runner.abandon("").map_err(failed);
    }
    let report = runner.run().map_err(failed)?;
    for (what, why) in &report.left {
        output::note(&format!("strongroom: could not be removed: {what}: {why}"));
    }
    if !context.quiet {
        let (deployment, generation) = (&report.deployment, report.generation);
        output::note(&format!("strongroom: {deployment}@g{generation} is durable"));
    }
    Ok(())
}

#[derive(Serialize)]
struct StatusDocument {
    deployments: Vec<DeploymentLine>,
    unfinished: Vec<RunLine>,
}

#[derive(Serialize)]
struct DeploymentLine {
    deployment: String,
    generation: Option<u64>,
    committed: Option<String>,
    overdue: bool,
}

/// Runs `status`.
///
/// # Errors
/// The storage failed.
pub fn status(args: &Status, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let mut unfinished = lines(context, &store)?;
    unfinished.retain(|run| run.is_open() || run.problem.is_some());
    let deployments = deployments(context, &store)?;
    let late = deployments.iter().any(|line| line.overdue) || !unfinished.is_empty();
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "status", &StatusDocument { deployments, unfinished });
        }
        write_status(&mut out, &deployments, &unfinished)?;
        for run in unfinished.iter().filter(|run| run.problem.is_none()) {
            match any::look(&store, &run.run) {
                Ok(AnyRun::Backup(state)) => write_next(&mut out, &state)?,
                Ok(AnyRun::Restore(state)) => way_back::write_next(&mut out, &state)?,
                Err(_) => {}
            }
        }
        out.flush()
    });
    printed(if late && args.check { Exit::PARTLY } else { Exit::DONE }, result)
}

fn deployments(context: &Context, store: &Store) -> Result<Vec<DeploymentLine>, Failure> {
    let log = store.log().map_err(|error| Failure::store(context, "status", error))?;
    let newest = log.newest();
    let loaded = context.config()?;
    let configured = loaded.iter().flat_map(|loaded| loaded.config.deployments.keys());
    let mut names: Vec<String> = newest.keys().chain(configured).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let now = UnixNanos::now().0;
    let mut lines = Vec::with_capacity(names.len());
    for name in names {
        let settings = loaded.and_then(|loaded| loaded.config.deployments.get(&name));
        let every = settings.map(|settings| settings.every(&name)).transpose();
        let every = every.map_err(|error| Failure::usage(error.to_string()))?.flatten();
        let found = newest.get(&name);
        let age = found.map(|generation| now.saturating_sub(generation.committed.0));
        let overdue = every.is_some_and(|every| {
            age.is_none_or(|age| {
                i128::from(age) > i128::try_from(every.as_nanos()).unwrap_or(i128::MAX)
            })
        });
        lines.push(DeploymentLine {
            generation: found.map(|generation| generation.number.0),
            committed: found.map(|generation| time(generation.committed.0)),
            deployment: name,
            overdue,
        });
    }
    Ok(lines)
}

fn write_status(
    out: &mut dyn Write,
    deployments: &[DeploymentLine],
    unfinished: &[RunLine],
) -> io::Result<()> {
    for line in deployments {
        let newest = match (&line.generation, &line.committed) {
            (Some(generation), Some(committed)) => format!("g{generation} of {committed}"),
            _ => "no generation".to_owned(),
        };
        let overdue = if line.overdue { "  OVERDUE" } else { "" };
        writeln!(out, "{}: {newest}{overdue}", line.deployment)?;
    }
    for run in unfinished {
        match &run.problem {
            Some(problem) => writeln!(out, "run {}: unreadable: {problem}", run.run)?,
            None => writeln!(
                out,
                "{} {} of {}: {}, {} of {} operations done",
                if run.kind == "restore" { "restore" } else { "run" },
                run.run,
                run.deployment,
                match run.state {
                    "unfinished" => run.state.to_owned(),
                    ended => format!("{ended}, and not cleaned up"),
                },
                run.operations_done,
                run.operations
            )?,
        }
    }
    Ok(())
}

fn write_next(out: &mut dyn Write, state: &RunState) -> io::Result<()> {
    for member in state.to_restart() {
        writeln!(out, "  {member} was stopped and not started again")?;
    }
    for target in &state.plan.targets {
        let artifact = state.artifact(&target.row.id);
        if let Some(step) = artifact.next_step() {
            writeln!(out, "  {}: {}, next: {step}", target.row.id, artifact.name())?;
        }
    }
    Ok(())
}
