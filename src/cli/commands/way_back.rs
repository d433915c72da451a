//! `restore --plan` and `restore --apply`: a generation back into a service; and what `run`,
//! `resume` and `status` do with restores.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::args::Restore;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, name_of, printed};
use crate::cli::exit::Exit;
use crate::cli::fleet::{self, Fleet, Loaded};
use crate::cli::json;
use crate::cli::output::{self, Align, Table, note, shell_word};
use crate::cli::progress::Job;
use crate::run::restore::plan::Error as PlanError;
use crate::run::restore::{OperationState, Plan, Report, RestoreState, Runner, Source, parse_map};
use crate::run::runner::{self, Options, Parts};
use crate::store::{IngestOptions, Reference, Store};

#[derive(Serialize)]
struct Document<'r> {
    run: &'r str,
    deployment: &'r str,
    generation: u64,
    into: &'r str,
    topology: &'r str,
    members: Vec<MemberDone<'r>>,
    left: &'r [(String, String)],
    seconds: f64,
}

#[derive(Serialize)]
struct MemberDone<'r> {
    source: &'r str,
    target: &'r str,
    bytes: u64,
    checksum: &'r str,
    module_hash: Option<&'r str>,
}

#[derive(Serialize)]
struct RunDocument<'s> {
    run: &'s str,
    kind: &'static str,
    deployment: &'s str,
    state: &'static str,
    plan: &'s Plan,
    half_loaded: bool,
    restart_required: Vec<&'s str>,
    operations: Vec<OperationLine<'s>>,
    uploads: Vec<(&'s str, &'s str)>,
}

#[derive(Serialize)]
struct OperationLine<'s> {
    sequence: u32,
    id: &'s str,
    state: &'static str,
    attempts: u32,
    receipt: Option<&'s crate::run::restore::Receipt>,
    reason: Option<&'s str>,
}

/// Runs `restore --plan` and `restore --apply`.
///
/// # Errors
/// There is no plan, or the restore did not come to its end.
pub fn run(args: &Restore, context: &Context) -> Result<Exit, Failure> {
    let loaded = fleet::need_config(context, "restore")?;
    let store = if args.plan { context.open()? } else { context.open_to_write()? };
    let into = args.into.as_deref().unwrap_or(&args.reference.deployment);
    let fleet = Fleet::load(loaded, into)?;
    let plan = plan(args, context, &store, &fleet)?;
    if args.plan {
        return print_plan(context, &plan);
    }
    if let Some(path) = &args.reviewed {
        let shown = path.display();
        let reviewed = Plan::parse(&fleet::read(path)?)
            .map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
        if reviewed != plan {
            let text = format!("{shown}: the plan is not this one any more");
            return Err(Failure::usage(text).with_hint("look at it again with --plan"));
        }
    }
    let ingest = IngestOptions { threads: args.threads.unwrap_or(0), ..IngestOptions::default() };
    let options = fleet.options(context, loaded, ingest)?;
    let options = Options { steps_max: args.max_steps, ..options };
    let job = Job::start("restore", false)?;
    let tell = fleet::tell(context.quiet);
    let parts = Parts {
        store: &store,
        executor: &*fleet.executor,
        progress: &job.progress,
        observer: &tell,
    };
    let what = format!("restore {}", name_of(&args.reference));
    let failed = |run: Option<&str>, error| failure(context, &what, run, error);
    let runner = Runner::start(parts, &plan, options).map_err(|error| failed(None, error))?;
    let name = runner.name().to_owned();
    let report = runner.run().map_err(|error| failed(Some(&name), error))?;
    let seconds = job.finish();
    note_left(&report);
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "restore-apply", &document(&report, seconds));
        }
        if context.summary() {
            write_summary(&mut out, &report, seconds)?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn plan(
    args: &Restore,
    context: &Context,
    store: &Store,
    fleet: &Fleet<'_>,
) -> Result<Plan, Failure> {
    let refused = |error| refuse(context, &args.reference, error);
    let map = match &args.map {
        None => None,
        Some(path) => {
            let map = parse_map(&fleet::read(path)?);
            Some(map.map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?)
        }
    };
    let authority = fleet.settings.authority_needed(&fleet.name);
    let authority = authority.map_err(|error| Failure::usage(error.to_string()))?;
    let source = Source::read(store, &args.reference).map_err(refused)?;
    source.plan(&fleet.name, &*fleet.executor, authority, map).map_err(refused)
}

fn refuse(context: &Context, reference: &Reference, error: PlanError) -> Failure {
    let named = name_of(reference);
    let message = format!("restore {named}: {error}");
    let to = || {
        let to = context.command(&format!("restore {} --to DIR", shell_word(&named)));
        format!("`{to}` brings it back into a directory")
    };
    match error {
        PlanError::Store(error) => Failure::at(context, "restore", reference, error),
        PlanError::NoFacts { .. } | PlanError::Executor { .. } | PlanError::Path { .. } => {
            Failure::usage(message).with_hint(to())
        }
        PlanError::Incomplete { .. } => Failure::failed(message).with_hint(to()),
        PlanError::Fixed { .. } => {
            let hint = "`identity` in the configuration was `fixed` when it was backed up";
            Failure::usage(message).with_hint(hint)
        }
        PlanError::UnknownSource { .. }
        | PlanError::Unmapped { .. }
        | PlanError::SameTarget { .. }
        | PlanError::Target(_) => Failure::usage(message)
            .with_hint("a map is {\"member\": \"member to restore into\", …}"),
        _ => Failure::failed(message),
    }
}

/// Makes a failure of what ended a restore: as for backups, but that the same command does not go
/// on with it.
fn failure(context: &Context, what: &str, run: Option<&str>, error: runner::Error) -> Failure {
    let own = matches!(
        error.cause(),
        runner::Error::InFlight { .. }
            | runner::Error::Locked { .. }
            | runner::Error::Unfinished { .. }
    );
    let failure = fleet::failure(context, what, run, error);
    match run {
        Some(run) if !own => {
            let resume = context.command(&format!("resume {}", shell_word(run)));
            failure.with_hint(format!("`{resume}` goes on from here"))
        }
        _ => failure,
    }
}

fn note_left(report: &Report) {
    for (what, why) in &report.left {
        note(&format!("strongroom: left at the service: {what}: {why}"));
    }
}

fn print_plan(context: &Context, plan: &Plan) -> Result<Exit, Failure> {
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            // The document is the plan itself, so that it can be given to --reviewed.
            serde_json::to_writer(&mut out, plan)?;
            writeln!(out)?;
        } else {
            write_plan(&mut out, plan)?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn write_plan(out: &mut dyn Write, plan: &Plan) -> io::Result<()> {
    let request = &plan.request;
    let bytes = plan.members.iter().map(|member| member.bytes).sum();
    let place = [&request.executor, &request.environment].map(String::as_str).join(" ");
    writeln!(
        out,
        "{} into {} by {}: {}, {}",
        plan.generation_name(),
        request.into,
        place.trim(),
        output::counted(plan.members.len() as u64, "member", "members"),
        output::bytes(bytes),
    )?;
    let columns = [
        ("MEMBER", Align::Left),
        ("INTO", Align::Left),
        ("BYTES", Align::Right),
        ("CODE", Align::Left),
    ];
    let mut table = Table::new(columns);
    for member in &plan.members {
        let code = member.module_hash.clone().unwrap_or_else(|| "not known".to_owned());
        let (source, target) = (member.source.clone(), member.target.clone());
        table.row([source, target, output::bytes(member.bytes), code]);
    }
    table.write(out)?;
    for operation in &plan.operations {
        writeln!(out, "  {:>4}  {}", operation.sequence, operation.id)?;
    }
    writeln!(out, "plan {}", plan.id)
}

fn document(report: &Report, seconds: f64) -> Document<'_> {
    let members = report.members.iter().map(|member| MemberDone {
        source: &member.source,
        target: &member.target,
        bytes: member.bytes,
        checksum: &member.checksum,
        module_hash: member.module_hash.as_deref(),
    });
    Document {
        run: &report.run,
        deployment: &report.deployment,
        generation: report.generation,
        into: &report.into,
        topology: &report.topology,
        members: members.collect(),
        left: &report.left,
        seconds,
    }
}

fn write_summary(out: &mut dyn Write, report: &Report, seconds: f64) -> io::Result<()> {
    let bytes = report.members.iter().map(|member| member.bytes).sum();
    writeln!(
        out,
        "{}@g{} into {}: {} restored and running, {}, in {}",
        report.deployment,
        report.generation,
        report.into,
        output::counted(report.members.len() as u64, "member", "members"),
        output::bytes(bytes),
        output::seconds(seconds),
    )
}

/// A restore that is gone on with, and what that needs.
pub struct Again<'c> {
    /// The command's context.
    pub context: &'c Context,
    /// The configuration.
    pub loaded: &'c Loaded,
    /// The store.
    pub store: &'c Store,
    /// The work.
    pub job: &'c Job,
    /// The run.
    pub run: &'c str,
}

impl Again<'_> {
    fn with<T>(
        &self,
        state: &RestoreState,
        max_steps: Option<u64>,
        act: impl FnOnce(Runner<'_>) -> Result<T, runner::Error>,
    ) -> Result<T, Failure> {
        let Self { context, loaded, store, job, run } = *self;
        let fleet = Fleet::load(loaded, &state.plan.request.into)?;
        let options = fleet.options(context, loaded, IngestOptions::default())?;
        let options = Options { steps_max: max_steps, ..options };
        let tell = fleet::tell(context.quiet);
        let parts =
            Parts { store, executor: &*fleet.executor, progress: &job.progress, observer: &tell };
        let failed = |error| failure(context, &format!("resume {run}"), Some(run), error);
        act(Runner::resume(parts, run, options).map_err(failed)?).map_err(failed)
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// It did not come to its end.
    pub fn resume(&self, state: &RestoreState, max_steps: Option<u64>) -> Result<(), Failure> {
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is one of a runner of one lifetime, and any is needed"
        )]
        let report = self.with(state, max_steps, |runner| runner.run())?;
        note_left(&report);
        if !self.context.quiet {
            let name = state.plan.generation_name();
            note(&format!("strongroom: {name} is restored into {}", report.into));
        }
        Ok(())
    }

    /// Gives it up.
    ///
    /// # Errors
    /// A member cannot be started, or the storage failed.
    pub fn abandon(&self, state: &RestoreState, reason: &str) -> Result<(), Failure> {
        let left = self.with(state, None, |runner| runner.abandon(reason))?;
        if !left.is_empty() {
            let members = left.join(", ");
            note(&format!("strongroom: HALF RESTORED, AND THEREFORE LEFT STOPPED: {members}"));
            let generation = state.plan.generation_name();
            let again = self.context.command(&format!("restore {generation} --apply"));
            note(&format!("  hint: `{again}` restores all of them anew"));
        }
        Ok(())
    }
}

/// Prints where a restore stands.
///
/// # Errors
/// `out` fails.
pub fn show(
    out: &mut dyn Write,
    context: &Context,
    run: &str,
    state: &RestoreState,
    word: &'static str,
) -> io::Result<()> {
    let ledger = state.ledger();
    if !context.json {
        let request = &state.plan.request;
        let generation = state.plan.generation_name();
        writeln!(out, "{run}: {generation} into {} by {}, {word}", request.into, request.executor)?;
        write_next(out, state)?;
        for (operation, state) in state.with_states() {
            let reason = state.reason().map_or_else(String::new, |reason| format!(": {reason}"));
            let attempts = match ledger.attempts(operation.sequence) {
                0 | 1 => String::new(),
                more => format!(" ({more} attempts)"),
            };
            let (sequence, name) = (operation.sequence, state.name());
            writeln!(out, "  {sequence:>4}  {name:<10} {}{attempts}{reason}", operation.id)?;
        }
        return Ok(());
    }
    let operations = state.with_states().map(|(operation, state)| OperationLine {
        sequence: operation.sequence,
        id: &operation.id,
        state: state.name(),
        attempts: ledger.attempts(operation.sequence),
        receipt: match state {
            OperationState::Completed(receipt) => receipt.as_ref(),
            _ => None,
        },
        reason: state.reason(),
    });
    let uploads =
        state.uploads.iter().map(|(member, upload)| (member.as_str(), upload.id.as_str()));
    let document = RunDocument {
        run,
        kind: "restore",
        deployment: &state.plan.request.into,
        state: word,
        plan: &state.plan,
        half_loaded: state.is_half_loaded(),
        restart_required: state.to_restart(),
        operations: operations.collect(),
        uploads: uploads.collect(),
    };
    json::print(out, "run", &document)
}

/// Writes what a restore needs next.
///
/// # Errors
/// `out` fails.
pub fn write_next(out: &mut dyn Write, state: &RestoreState) -> io::Result<()> {
    let why = if state.is_half_loaded() {
        "stays stopped until all members are loaded"
    } else {
        "was stopped and not started again"
    };
    for member in state.to_restart() {
        writeln!(out, "  {member} {why}")?;
    }
    let next = state.with_states().find(|(_, state)| !state.is_done());
    match next {
        Some((operation, _)) => writeln!(out, "  next: {}", operation.id),
        None => Ok(()),
    }
}
