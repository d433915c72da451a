//! `backup`: makes the next generation of a deployment.

use std::io::{self, Write};

use serde::Serialize;

use super::{note_first, reasons};
use crate::cli::args::Backup;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::json::{self, Checksum};
use crate::cli::members;
use crate::cli::output::{self, Align, Table, note};
use crate::cli::progress::Job;
use crate::digest::hex;
use crate::fstree::identity_of;
use crate::store::{BackupReport, DurableArtifact, Error, IngestOptions, MemberSource};

#[derive(Serialize)]
struct Report<'r> {
    deployment: &'r str,
    generation: Option<u64>,
    committed: Option<String>,
    store_created: bool,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    chunks_new: u64,
    chunks_reused: u64,
    chunks_in_place: u64,
    chunks_encoded: u64,
    chunks_delta: u64,
    bytes_saved_by_deltas: u64,
    packs_written: u64,
    page_packs_written: u64,
    seconds: f64,
    members: Vec<MemberReport<'r>>,
    failed: Vec<FailedReport<'r>>,
}

#[derive(Serialize)]
struct MemberReport<'r> {
    member: &'r str,
    manifest: String,
    files: u64,
    dirs: u64,
    symlinks: u64,
    specials: u64,
    bytes: u64,
    bytes_read: u64,
    files_unchanged: u64,
    checksum: Checksum,
}

#[derive(Serialize)]
struct FailedReport<'r> {
    member: &'r str,
    reasons: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// The storage failed, or the work was interrupted; nothing became visible.
pub fn run(args: &Backup, context: &Context) -> Result<Exit, Failure> {
    let Some(name) = &args.name else { return super::fleet_backup::run(args, context) };
    let sources = args.sources.iter().map(|word| members::source(word));
    let sources: Vec<_> = sources.collect::<Result<_, _>>()?;
    let (store, created) =
        if args.init { context.open_or_create()? } else { (context.open_to_write()?, false) };
    let options = IngestOptions {
        algorithm: args.checksum.into(),
        reread: args.reread,
        deltas: !args.no_deltas,
        threads: args.threads.unwrap_or(0),
        exclude: exclude_store(context, &sources)?,
    };
    let job = Job::start("backup", context.progress)?;
    let result = store.backup(name, &sources, &options, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| failure(context, name, error))?;
    let exit = if report.failed.is_empty() { Exit::DONE } else { Exit::PARTLY };
    note_failed(name, &report);
    let result = if context.json {
        let report = json_report(name, &report, created, seconds);
        output::stdout().and_then(|mut out| json::print(&mut out, "backup", &report))
    } else if context.quiet {
        Ok(())
    } else {
        output::stdout().and_then(|mut out| {
            write_summary(&mut out, &report, seconds)?;
            out.flush()
        })
    };
    printed(exit, result)
}

/// Returns the identity of the store's directory, which no backup holds.
fn exclude_store(context: &Context, sources: &[MemberSource]) -> Result<Vec<(u64, u64)>, Failure> {
    let path = context.store_path()?;
    let store = identity_of(path).map_err(|error| Failure::failed(format!("backup: {error}")))?;
    for source in sources {
        if identity_of(&source.path).is_ok_and(|source| source == store) {
            let member = &source.member;
            return Err(Failure::usage(format!("the source of {member} is the store itself")));
        }
    }
    Ok(vec![store])
}

fn failure(context: &Context, deployment: &str, error: Error) -> Failure {
    let interrupted = matches!(error, Error::Interrupted);
    let what = format!("backup of {deployment}");
    if interrupted {
        let text = "interrupted; what is stored so far is kept and reused by the next backup";
        return Failure::interrupted(format!("{what}: {text}"));
    }
    Failure::store(context, &what, error)
}

fn note_failed(deployment: &str, report: &BackupReport) {
    for (member, faults) in &report.failed {
        note_first(faults, |fault| format!("strongroom: member {member}: {fault}"));
    }
    if report.failed.is_empty() {
        return;
    }
    let lack = match &report.generation {
        Some(made) => {
            let failed = report.failed.len() as u64;
            let members = output::counted(failed, "member that failed", "members that failed");
            format!("{deployment}@{} lacks {members}", made.number)
        }
        None => format!("no generation of {deployment} was made, because every member failed"),
    };
    note(&format!("strongroom: {lack}"));
    note("  hint: run the same command again when their sources can be read and do not change");
}

fn json_report<'r>(
    deployment: &'r str,
    report: &'r BackupReport,
    store_created: bool,
    seconds: f64,
) -> Report<'r> {
    let stats = &report.stats;
    let made = report.generation.as_ref();
    Report {
        deployment,
        generation: made.map(|made| made.number.0),
        committed: made.map(|made| output::time(output::clock_time(made.committed))),
        store_created,
        bytes_read: stats.bytes_read,
        bytes_new: stats.bytes_new,
        bytes_stored: stats.bytes_stored,
        chunks_new: stats.chunks_new,
        chunks_reused: stats.chunks_reused,
        chunks_in_place: stats.chunks_in_place,
        chunks_encoded: stats.chunks_encoded,
        chunks_delta: stats.chunks_delta,
        bytes_saved_by_deltas: stats.bytes_saved_by_deltas,
        packs_written: stats.packs_written,
        page_packs_written: stats.page_packs_written,
        seconds,
        members: report.artifacts.iter().map(member_report).collect(),
        failed: report
            .failed
            .iter()
            .map(|(member, faults)| FailedReport { member, reasons: reasons(faults) })
            .collect(),
    }
}

fn member_report(done: &DurableArtifact) -> MemberReport<'_> {
    MemberReport {
        member: &done.member,
        manifest: done.manifest.to_hex(),
        files: done.counts.files,
        dirs: done.counts.dirs,
        symlinks: done.counts.symlinks,
        specials: done.counts.specials,
        bytes: done.counts.bytes,
        bytes_read: done.summary.bytes_read,
        files_unchanged: done.summary.files_unchanged,
        checksum: Checksum { algorithm: done.algorithm.name(), value: hex(&done.checksum) },
    }
}

fn write_summary(out: &mut dyn Write, report: &BackupReport, seconds: f64) -> io::Result<()> {
    let Some(made) = &report.generation else { return Ok(()) };
    let sum = |each: fn(&DurableArtifact) -> u64| report.artifacts.iter().map(each).sum::<u64>();
    let (files, bytes) = (sum(|done| done.counts.files), sum(|done| done.counts.bytes));
    writeln!(
        out,
        "{}@{}: {}, {}, {}; {} new, {} stored, in {}",
        made.deployment,
        made.number,
        output::counted(report.artifacts.len() as u64, "member", "members"),
        output::counted(files, "file", "files"),
        output::bytes(bytes),
        output::bytes(report.stats.bytes_new),
        output::bytes(report.stats.bytes_stored),
        output::seconds(seconds),
    )?;
    let mut table = Table::new([
        ("", Align::Left),
        ("", Align::Right),
        ("", Align::Right),
        ("", Align::Right),
        ("", Align::Left),
    ]);
    for done in &report.artifacts {
        table.row([
            format!("  {}", done.member),
            output::counted(done.counts.files, "file", "files"),
            output::bytes(done.counts.bytes),
            format!("{} unchanged", output::count(done.summary.files_unchanged)),
            format!("{} {}", done.algorithm, hex(&done.checksum)),
        ]);
    }
    table.write(out)
}
