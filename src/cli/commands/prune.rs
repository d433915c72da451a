//! `prune`: forgets generations by a policy and removes what nothing needs.

use std::io::{self, Write};

use serde::Serialize;

use super::note_first;
use crate::cli::args::Prune;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::fleet;
use crate::cli::json::Object;
use crate::cli::output::{self, Align, Table, note};
use crate::cli::progress::Job;
use crate::clock::UnixNanos;
use crate::log::Generation;
use crate::store::{
    Condemned, Error, Kept, KeptBy, Progress, PruneOptions, PrunePlan, PruneReport, PutOff,
    Retention, Store,
};

/// How often a plan is made anew because the store was changed before it could be executed.
const PLANS_MAX: usize = 5;

#[derive(Serialize)]
struct GenerationFields<'r> {
    deployment: &'r str,
    generation: u64,
    committed: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept_by: Vec<&'static str>,
}

#[derive(Serialize)]
struct CondemnedFields {
    packs: u64,
    manifests: u64,
    bytes: u64,
    rewritten_packs: u64,
    rewritten_bytes: u64,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct DueFields {
    condemned_by: u64,
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct WaitingFields {
    condemned: String,
    due: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Done<'r> {
    forgotten: usize,
    condemned: CondemnedFields,
    removed_objects: u64,
    removed_bytes: u64,
    spared: u64,
    put_off: Vec<&'static str>,
    notes: &'r [String],
}

/// Runs the command.
///
/// # Errors
/// What is needed is not known, another prune is at work, the storage failed, or the work was
/// interrupted.
pub fn run(args: &Prune, context: &Context) -> Result<Exit, Failure> {
    let failed = |error| failure(context, error);
    let options = options(args).map_err(failed)?;
    let store = if args.apply { context.open_to_write()? } else { context.open()? };
    let job = Job::start("prune", context.progress)?;
    let result = execute(context, &store, args.apply, options, &job.progress);
    let seconds = job.finish();
    let (plan, report) = result?;
    tell(context, &plan, report.as_ref());
    let result = if context.json {
        output::stdout().and_then(|mut out| print_json(&mut out, &plan, report.as_ref(), seconds))
    } else if context.quiet {
        Ok(())
    } else {
        output::stdout().and_then(|mut out| {
            print_text(&mut out, &plan, report.as_ref())?;
            out.flush()
        })
    };
    let noted = report.as_ref().is_some_and(|report| !report.notes.is_empty());
    let damaged = noted || plan.lost_count > 0 || !plan.unreadable.is_empty();
    printed(if damaged { Exit::DAMAGE } else { Exit::DONE }, result)
}

fn options(args: &Prune) -> Result<PruneOptions, Error> {
    let counts =
        [args.keep_last, args.keep_daily, args.keep_weekly, args.keep_monthly, args.keep_yearly];
    let some = args.keep_within.is_some() || counts.iter().any(Option::is_some);
    let retention = Retention {
        last: args.keep_last,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
        within: args.keep_within,
        time_zone: Retention::time_zone(args.time_zone.as_deref().unwrap_or_default())?,
    };
    Ok(PruneOptions {
        retention: some.then_some(retention),
        deployments: args.deployments.clone(),
        forget: args.forget.clone(),
        collect_only: args.collect_only,
        grace_nanos: args.grace,
        max_rewrite_bytes: args.max_rewrite,
        roots: Vec::new(),
        accept_damaged_log: args.accept_damaged_log,
    })
}

/// Plans, and executes the plan if that is wanted. Backups that commit in between are not waited
/// for: then another plan is made. What unfinished runs need is kept.
fn execute(
    context: &Context,
    store: &Store,
    apply: bool,
    mut options: PruneOptions,
    progress: &Progress,
) -> Result<(PrunePlan, Option<PruneReport>), Failure> {
    let failed = |error| failure(context, error);
    let mut left = PLANS_MAX;
    loop {
        let roots = crate::run::roots(store);
        options.roots = roots.map_err(|error| fleet::failure(context, "prune", None, error))?;
        let plan = store.plan_prune(&options, progress).map_err(failed)?;
        if !apply {
            return Ok((plan, None));
        }
        left -= 1;
        match store.prune(&plan, progress) {
            Err(Error::Moved { .. }) if left > 0 => {}
            result => return Ok((plan, Some(result.map_err(failed)?))),
        }
    }
}

fn failure(context: &Context, error: Error) -> Failure {
    match error {
        Error::Interrupted => Failure::interrupted(
            "prune: interrupted; the store is whole, and the same command goes on",
        ),
        error => Failure::store(context, "prune", error),
    }
}

/// Tells on stderr what people should look at.
fn tell(context: &Context, plan: &PrunePlan, report: Option<&PruneReport>) {
    note_first(&plan.unreadable, |pack| format!("strongroom: prune: {pack}"));
    if plan.lost_count > 0 {
        let lost = output::counted(
            plan.lost_count,
            "chunk that is needed is",
            "chunks that are needed are",
        );
        note(&format!("strongroom: prune: {lost} in no pack that can be read"));
        note(&format!("  hint: `{}` tells what that touches", context.command("verify")));
    }
    let Some(report) = report else { return };
    note_first(&report.notes, |text| format!("strongroom: prune: {text}"));
    for put_off in &report.put_off {
        note(match put_off {
            PutOff::Readers => {
                "strongroom: prune: removing is put off to the next prune: a restore or verify is \
                 running"
            }
            PutOff::Writers => {
                "strongroom: prune: what may belong to a running backup is left to the next prune"
            }
            PutOff::Room => {
                "strongroom: prune: there is no room to write mostly dead packs anew: that is left to \
                 the next prune"
            }
        });
    }
}

fn time(time: UnixNanos) -> String {
    output::time_to_the_second(output::clock_time(time))
}

fn fields<'r>(generation: &'r Generation, reasons: &[KeptBy]) -> GenerationFields<'r> {
    GenerationFields {
        deployment: &generation.deployment,
        generation: generation.number.0,
        committed: output::time(output::clock_time(generation.committed)),
        kept_by: reasons.iter().map(|reason| reason.name()).collect(),
    }
}

fn condemned_fields(condemned: &Condemned) -> CondemnedFields {
    let Condemned { packs, manifests, bytes, rewritten_packs, rewritten_bytes } = *condemned;
    let freed_bytes = condemned.freed_bytes();
    CondemnedFields { packs, manifests, bytes, rewritten_packs, rewritten_bytes, freed_bytes }
}

fn print_json(
    out: &mut dyn Write,
    plan: &PrunePlan,
    report: Option<&PruneReport>,
    seconds: f64,
) -> io::Result<()> {
    let mut object = Object::document(out, "prune")?;
    object.field("applied", &report.is_some())?;
    let mut forgotten = object.array("forgotten")?;
    for generation in &plan.forgotten {
        forgotten.push(&fields(generation, &[]))?;
    }
    forgotten.end()?;
    let mut kept = object.array("kept")?;
    for Kept { generation, reasons } in &plan.kept {
        kept.push(&fields(generation, reasons))?;
    }
    kept.end()?;
    let mut due = object.array("due")?;
    for found in &plan.due {
        let (objects, bytes) = (found.objects, found.bytes);
        due.push(&DueFields { condemned_by: found.number.0, objects, bytes })?;
    }
    due.end()?;
    let mut waiting = object.array("waiting")?;
    for found in &plan.waiting {
        let (condemned, due) = (time(found.condemned), time(found.due));
        waiting.push(&WaitingFields { condemned, due, bytes: found.bytes })?;
    }
    waiting.end()?;
    object.field("unfinished", &plan.unfinished)?;
    object.field("condemned", &condemned_fields(&plan.condemned))?;
    object.field("unexplained_bytes", &plan.unexplained_bytes)?;
    object.field("unused_bytes", &plan.unused_bytes)?;
    object.field("unreadable", &plan.unreadable)?;
    object.field("lost_chunks", &plan.lost_count)?;
    object.field("grace_seconds", &(plan.grace_nanos / 1_000_000_000))?;
    let done = report.map(|report| Done {
        forgotten: report.forgotten.len(),
        condemned: condemned_fields(&report.condemned),
        removed_objects: report.removed_objects,
        removed_bytes: report.removed_bytes,
        spared: report.spared,
        put_off: report.put_off.iter().map(|put_off| put_off_name(*put_off)).collect(),
        notes: &report.notes,
    });
    object.field("done", &done)?;
    object.field("seconds", &seconds)?;
    object.finish()
}

fn put_off_name(put_off: PutOff) -> &'static str {
    match put_off {
        PutOff::Readers => "readers",
        PutOff::Writers => "writers",
        PutOff::Room => "room",
    }
}

fn print_text(
    out: &mut dyn Write,
    plan: &PrunePlan,
    report: Option<&PruneReport>,
) -> io::Result<()> {
    let mut table = Table::new([("", Align::Left), ("", Align::Left), ("", Align::Left)]);
    let row = |generation: &Generation, state: String| {
        [generation.name().to_string(), time(generation.committed), state]
    };
    let mut all: Vec<(&Generation, Option<&[KeptBy]>)> =
        plan.forgotten.iter().map(|forgotten| (forgotten, None)).collect();
    all.extend(plan.kept.iter().map(|kept| (&kept.generation, Some(&kept.reasons[..]))));
    all.sort_by_key(|(generation, _)| (&generation.deployment, generation.number));
    for (generation, reasons) in all {
        let state = match reasons {
            None => "forget".to_owned(),
            Some(reasons) => {
                let names: Vec<_> = reasons.iter().map(|reason| reason.name()).collect();
                format!("keep: {}", names.join(", "))
            }
        };
        table.row(row(generation, state));
    }
    table.write(out)?;
    match report {
        None => write_plan(out, plan),
        Some(report) => write_report(out, plan, report),
    }
}

fn write_plan(out: &mut dyn Write, plan: &PrunePlan) -> io::Result<()> {
    let forgotten = plan.forgotten.len() as u64;
    writeln!(out, "would forget {}", output::counted(forgotten, "generation", "generations"))?;
    let due: u64 = plan.due.iter().map(|due| due.bytes).sum();
    writeln!(out, "would remove {} now, which earlier prunes condemned", output::bytes(due))?;
    write_condemned(out, "would condemn", &plan.condemned, plan.grace_nanos)?;
    write_waiting(out, plan)?;
    if plan.unused_bytes > 0 {
        let unused = output::bytes(plan.unused_bytes);
        writeln!(out, "{unused} that nothing needs stay in packs that are mostly in use")?;
    }
    writeln!(out, "nothing was changed: add --apply to do this")
}

fn write_report(out: &mut dyn Write, plan: &PrunePlan, report: &PruneReport) -> io::Result<()> {
    let forgotten = report.forgotten.len() as u64;
    writeln!(out, "forgot {}", output::counted(forgotten, "generation", "generations"))?;
    writeln!(
        out,
        "removed {}, {}",
        output::counted(report.removed_objects, "object", "objects"),
        output::bytes(report.removed_bytes)
    )?;
    if report.spared > 0 {
        let spared = output::counted(report.spared, "object", "objects");
        writeln!(out, "spared {spared} that something needs again")?;
    }
    if plan.grace_nanos > 0 {
        write_condemned(out, "condemned", &report.condemned, plan.grace_nanos)?;
    }
    write_waiting(out, plan)
}

fn write_condemned(
    out: &mut dyn Write,
    verb: &str,
    condemned: &Condemned,
    grace_nanos: i64,
) -> io::Result<()> {
    let Condemned { packs, manifests, bytes, rewritten_packs, rewritten_bytes } = *condemned;
    write!(
        out,
        "{verb} {} and {}, {}",
        output::counted(packs, "pack", "packs"),
        output::counted(manifests, "manifest", "manifests"),
        output::bytes(bytes)
    )?;
    if rewritten_packs > 0 {
        let copied = output::bytes(rewritten_bytes);
        write!(
            out,
            " ({copied} of it copied out of {})",
            output::counted(rewritten_packs, "pack", "packs")
        )?;
    }
    if grace_nanos > 0 && bytes > 0 {
        let grace = output::seconds(grace_nanos as f64 / 1e9);
        write!(out, "; a prune in {grace} or later removes them")?;
    }
    writeln!(out)
}

fn write_waiting(out: &mut dyn Write, plan: &PrunePlan) -> io::Result<()> {
    for waiting in &plan.waiting {
        let (bytes, due) = (output::bytes(waiting.bytes), time(waiting.due));
        writeln!(out, "{bytes} condemned before can be removed from {due} on")?;
    }
    Ok(())
}
