//! `backup` of configured deployments: plans them, runs the plans, goes on with unfinished runs.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::args::Backup;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::fleet::{self, Fleet, Loaded};
use crate::cli::json;
use crate::cli::output::{self, note};
use crate::cli::progress::Job;
use crate::run::plan::Plan;
use crate::run::runner::{self, Parts, Report, Runner};
use crate::run::state::Outcome;
use crate::store::{IngestOptions, Store};

#[derive(Serialize)]
struct Document<'r> {
    deployments: Vec<Done<'r>>,
    failed: Vec<Failed>,
    seconds: f64,
}

#[derive(Serialize)]
struct Done<'r> {
    deployment: &'r str,
    run: &'r str,
    generation: u64,
    manifest: &'r str,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    chunks_new: u64,
    chunks_reused: u64,
    packs_written: u64,
    members: Vec<MemberDone<'r>>,
    left: &'r [(String, String)],
}

#[derive(Serialize)]
struct MemberDone<'r> {
    member: &'r str,
    manifest: &'r str,
    files: u64,
    bytes: u64,
    bytes_read: u64,
    checksum: Checksum<'r>,
}

#[derive(Serialize)]
struct Checksum<'r> {
    algorithm: &'r str,
    value: &'r str,
}

#[derive(Serialize)]
struct Failed {
    deployment: String,
    reason: String,
}

#[derive(Serialize)]
struct Plans<'p> {
    plans: &'p [Plan],
}

/// Runs the command for the deployments that are named, or all.
///
/// # Errors
/// There is no configuration, or nothing is configured.
pub fn run(args: &Backup, context: &Context) -> Result<Exit, Failure> {
    let Some(loaded) = context.config()? else {
        let hint = "write strongroom.toml, or give --name DEPLOYMENT and directories";
        return Err(Failure::usage("backup: no configuration was found").with_hint(hint));
    };
    let names = names(args, loaded)?;
    let job = Job::start("backup", false)?;
    if args.plan {
        let plans = names.iter().map(|name| {
            let fleet = Fleet::load(loaded, name)?;
            fleet.plan(loaded, args.scope.map(Into::into), args.select.as_deref(), &job.progress)
        });
        let plans = plans.collect::<Result<Vec<_>, Failure>>()?;
        return print_plans(context, &plans);
    }
    let store = if args.init { context.open_or_create()?.0 } else { context.open_to_write()? };
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for name in &names {
        match one(args, context, loaded, &store, name, &job) {
            Ok(report) => done.push(report),
            Err(failure) => {
                failure.report();
                let interrupted = failure.exit() == Exit::INTERRUPTED;
                failures.push((name.clone(), failure));
                if interrupted {
                    break;
                }
            }
        }
    }
    let seconds = job.finish();
    print(context, &done, failures, seconds)
}

fn names(args: &Backup, loaded: &Loaded) -> Result<Vec<String>, Failure> {
    let configured = &loaded.config.deployments;
    if args.all {
        let names: Vec<_> = configured.keys().cloned().collect();
        if names.is_empty() {
            let text = format!("{}: no deployments are configured", loaded.path.display());
            return Err(Failure::usage(text));
        }
        return Ok(names);
    }
    let names = args.sources.iter().map(|word| match word.to_str() {
        Some(name) if configured.contains_key(name) => Ok(name.to_owned()),
        _ => {
            let text = format!("backup: {:?} is no configured deployment", word.to_string_lossy());
            let known: Vec<_> = configured.keys().map(String::as_str).collect();
            let hint = format!(
                "configured are: {}; directories are backed up with --name DEPLOYMENT",
                known.join(", ")
            );
            Err(Failure::usage(text).with_hint(hint))
        }
    });
    names.collect()
}

/// Backs up one deployment: goes on with its unfinished run, or begins one.
fn one(
    args: &Backup,
    context: &Context,
    loaded: &Loaded,
    store: &Store,
    name: &str,
    job: &Job,
) -> Result<Report, Failure> {
    let what = format!("backup of {name}");
    let fleet = Fleet::load(loaded, name)?;
    let ingest = IngestOptions {
        reread: args.reread,
        deltas: !args.no_deltas,
        threads: args.threads.unwrap_or(0),
        ..IngestOptions::default()
    };
    let mut options = fleet.options(context, loaded, ingest)?;
    options.steps_max = args.max_steps;
    let tell = fleet::tell(context.quiet);
    let parts =
        Parts { store, executor: &*fleet.executor, progress: &job.progress, observer: &tell };
    let failed = |run: Option<&str>, error| fleet::failure(context, &what, run, error);
    let scope = args.scope.map(Into::into);
    let plan = || fleet.plan(loaded, scope, args.select.as_deref(), &job.progress);
    if let Some(run) = runner::unfinished(store, name).map_err(|error| failed(None, error))? {
        let runner = Runner::resume(parts, &run, options.clone());
        let runner = runner.map_err(|error| failed(Some(&run), error))?;
        if let Outcome::Abandoned { .. } = runner.state().outcome {
            runner.abandon("").map_err(|error| failed(Some(&run), error))?;
            return one(args, context, loaded, store, name, job);
        }
        // What it has stopped must not wait for a plan that cannot be made.
        let must_go_on = runner.state().mutated || !runner.state().to_restart().is_empty();
        if must_go_on || plan()?.id == runner.state().plan.id {
            note(&format!("strongroom: going on with the run {run} of {name}"));
            return runner.run().map_err(|error| failed(Some(&run), error));
        }
        note(&format!(
            "strongroom: the run {run} of {name} had done nothing that counts; planning anew"
        ));
        let reason = "nothing that counts was done, and the plan is another one now";
        runner.abandon(reason).map_err(|error| failed(Some(&run), error))?;
    }
    let runner = Runner::start(parts, &plan()?, options).map_err(|error| failed(None, error))?;
    let run = runner.name().to_owned();
    runner.run().map_err(|error| failed(Some(&run), error))
}

fn print_plans(context: &Context, plans: &[Plan]) -> Result<Exit, Failure> {
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "backup-plan", &Plans { plans });
        }
        for plan in plans {
            write_plan(&mut out, plan)?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn write_plan(out: &mut dyn Write, plan: &Plan) -> io::Result<()> {
    let request = &plan.request;
    writeln!(
        out,
        "{}: {} of {} members by {}",
        request.deployment,
        plan.targets.len(),
        plan.inventory.len(),
        request.executor
    )?;
    writeln!(out, "  scope {}, root {}", request.scope.name(), plan.root)?;
    writeln!(out, "  topology {}", plan.topology_hash)?;
    for operation in &plan.operations {
        writeln!(out, "  {:>4}  {}", operation.sequence, operation.id)?;
    }
    Ok(())
}

fn print(
    context: &Context,
    done: &[Report],
    failures: Vec<(String, Failure)>,
    seconds: f64,
) -> Result<Exit, Failure> {
    let (names, failures): (Vec<_>, Vec<_>) = failures.into_iter().unzip();
    let exit = fleet::exit_of(done.len(), &failures);
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            let failed = names.into_iter().zip(&failures).map(|(deployment, failure)| Failed {
                deployment,
                reason: failure.message().to_owned(),
            });
            let deployments = done.iter().map(document).collect();
            let document = Document { deployments, failed: failed.collect(), seconds };
            return json::print(&mut out, "backup-all", &document);
        }
        if !context.quiet {
            for report in done {
                write_summary(&mut out, report)?;
            }
        }
        out.flush()
    });
    for (what, why) in done.iter().flat_map(|report| &report.left) {
        note(&format!("strongroom: could not be removed: {what}: {why}"));
    }
    printed(exit, result)
}

fn document(report: &Report) -> Done<'_> {
    let stats = &report.stats;
    let members = report.members.iter().map(|member| MemberDone {
        member: &member.member,
        manifest: &member.manifest,
        files: member.files,
        bytes: member.bytes,
        bytes_read: member.bytes_read,
        checksum: Checksum { algorithm: &member.algorithm, value: &member.checksum },
    });
    Done {
        deployment: &report.deployment,
        run: &report.run,
        generation: report.generation,
        manifest: &report.manifest,
        bytes_read: stats.bytes_read,
        bytes_new: stats.bytes_new,
        bytes_stored: stats.bytes_stored,
        chunks_new: stats.chunks_new,
        chunks_reused: stats.chunks_reused,
        packs_written: stats.packs_written,
        members: members.collect(),
        left: &report.left,
    }
}

fn write_summary(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let bytes = report.members.iter().map(|member| member.bytes).sum();
    writeln!(
        out,
        "{}@g{}: {}, {}; stored {}",
        report.deployment,
        report.generation,
        output::counted(report.members.len() as u64, "member", "members"),
        output::bytes(bytes),
        output::bytes(report.stats.bytes_stored),
    )
}
