//! `import` and `export`: backup directories of other programs, taken in and given out.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::args::{Export, ExportCanic, ExportFormat, Import, ImportCanic, ImportFormat};
use crate::cli::context::Context;
use crate::cli::errors::{Failure, name_of, printed};
use crate::cli::exit::Exit;
use crate::cli::json::{self, Checksum};
use crate::cli::output::{self, Align, Table, note, shell_word};
use crate::cli::progress::Job;
use crate::digest::{Algorithm, hex};
use crate::interchange::canic::{
    self, Error, ExportOptions, ExportReport, ImportOptions, ImportReport,
};
use crate::store;

#[derive(Serialize)]
struct ImportFields<'r> {
    format: &'static str,
    backup: &'r str,
    deployment: &'r str,
    generation: u64,
    committed: String,
    created: bool,
    store_created: bool,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    seconds: f64,
    members: Vec<MemberFields<'r>>,
}

#[derive(Serialize)]
struct ExportFields<'r> {
    format: &'static str,
    backup: &'r str,
    generation: &'r str,
    to: String,
    bytes_written: u64,
    seconds: f64,
    members: Vec<MemberFields<'r>>,
    loosened_units: &'r [String],
    warnings: &'r [String],
}

#[derive(Serialize)]
struct MemberFields<'r> {
    member: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'r str>,
    files: u64,
    bytes: u64,
    checksum: Checksum,
}

fn checksum(value: &[u8; 32]) -> Checksum {
    Checksum { algorithm: Algorithm::Sha256.name(), value: hex(value) }
}

/// Runs `import`.
///
/// # Errors
/// The directory is not taken in, the storage failed, or the work was interrupted; nothing became
/// visible.
pub fn import(args: &Import, context: &Context) -> Result<Exit, Failure> {
    let ImportFormat::Canic(args) = &args.format;
    let (store, store_created) =
        if args.init { context.open_or_create()? } else { (context.open_to_write()?, false) };
    let options = ImportOptions { threads: args.threads.unwrap_or(0) };
    let job = Job::start("import", context.progress)?;
    let result = canic::import(&store, &args.dir, &args.name, &options, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| import_failure(context, args, error))?;
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            let fields = import_fields(&report, store_created, seconds);
            return json::print(&mut out, "import", &fields);
        }
        if context.summary() {
            write_imported(&mut out, &report, seconds)?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

/// Runs `export`.
///
/// # Errors
/// The generation cannot be given out, the target cannot be used, or the work was interrupted.
pub fn export(args: &Export, context: &Context) -> Result<Exit, Failure> {
    let ExportFormat::Canic(args) = &args.format;
    let store = context.open()?;
    let options = ExportOptions { threads: args.threads.unwrap_or(0) };
    let job = Job::start("export", context.progress)?;
    let result = canic::export(&store, &args.reference, &args.to, &options, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| export_failure(context, args, error))?;
    for unit in &report.loosened {
        note(&format!(
            "strongroom: unit {unit:?} is written as single: its roles are also those of other members"
        ));
    }
    super::note_first(&report.restored.warnings, |warning| format!("strongroom: {warning}"));
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "export", &export_fields(args, &report, seconds));
        }
        if context.summary() {
            write_exported(&mut out, args, &report, seconds)?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn import_failure(context: &Context, args: &ImportCanic, error: Error) -> Failure {
    let what = format!("import {}", args.dir.display());
    let hint = match &error {
        Error::Store(store::Error::Interrupted) => {
            let text = "interrupted; what is stored so far is kept and reused by the same command";
            return Failure::interrupted(format!("{what}: {text}"));
        }
        Error::Unfinished { .. } => "let canic-backup finish the run, then import it".to_owned(),
        Error::Checksum { .. } | Error::NoArtifact { .. } => {
            let (name, dir) = (shell_word(&args.name), args.dir.to_string_lossy());
            let dir = shell_word(&dir);
            let backup = context.command(&format!("backup --name {name} {dir}"));
            format!("import a copy that is whole; `{backup}` keeps the directory as it is")
        }
        Error::NotABackup { .. } => {
            "give the directory that canic-backup was told to write to".to_owned()
        }
        Error::Json { .. } | Error::Field { .. } => {
            "only what canic-backup 0.68.2 writes is read".to_owned()
        }
        _ => return failure(context, &what, error),
    };
    failure(context, &what, error).with_hint(hint)
}

fn export_failure(context: &Context, args: &ExportCanic, error: Error) -> Failure {
    let named = name_of(&args.reference);
    let what = format!("export {named}");
    let hint = match &error {
        Error::Store(store::Error::Interrupted) => {
            let text = "interrupted; the same command goes on where it stopped";
            return Failure::interrupted(format!("{what}: {text}"));
        }
        Error::NoFacts { .. } | Error::Lacks { .. } => {
            let (named, to) = (shell_word(&named), args.to.to_string_lossy());
            let to = shell_word(&to);
            let restore = context.command(&format!("restore {named} --to {to}"));
            format!("`{restore}` brings its members back as they were")
        }
        Error::Part => "leave out ':' and what follows".to_owned(),
        Error::Occupied { .. } => "choose a directory that is new or empty".to_owned(),
        Error::Busy { .. } => "run the same command again when it is done".to_owned(),
        _ => return failure(context, &what, error),
    };
    failure(context, &what, error).with_hint(hint)
}

fn failure(context: &Context, what: &str, error: Error) -> Failure {
    match error {
        Error::Store(error) => Failure::store(context, what, error),
        Error::Damaged { .. } | Error::NotRestored { damage: true, .. } => {
            let verify = context.command("verify --full");
            let hint = format!("`{verify}` finds everything that is damaged and what it touches");
            Failure::damaged(format!("{what}: {error}")).with_hint(hint)
        }
        Error::Part | Error::NoName { .. } => Failure::usage(format!("{what}: {error}")),
        error => Failure::failed(format!("{what}: {error}")),
    }
}

fn import_fields(report: &ImportReport, store_created: bool, seconds: f64) -> ImportFields<'_> {
    let made = &report.generation;
    let members = report.members.iter().map(|done| MemberFields {
        member: &done.member,
        role: done.role.as_deref(),
        snapshot: Some(&done.snapshot),
        files: done.files,
        bytes: done.bytes,
        checksum: checksum(&done.checksum),
    });
    ImportFields {
        format: "canic",
        backup: &report.backup,
        deployment: &made.deployment,
        generation: made.number.0,
        committed: output::time(output::clock_time(made.committed)),
        created: report.created,
        store_created,
        bytes_read: report.stats.bytes_read,
        bytes_new: report.stats.bytes_new,
        bytes_stored: report.stats.bytes_stored,
        seconds,
        members: members.collect(),
    }
}

fn export_fields<'r>(
    args: &ExportCanic,
    report: &'r ExportReport,
    seconds: f64,
) -> ExportFields<'r> {
    let members = report.members.iter().map(|done| MemberFields {
        member: &done.member,
        role: None,
        snapshot: None,
        files: done.files,
        bytes: done.bytes,
        checksum: checksum(&done.checksum),
    });
    ExportFields {
        format: "canic",
        backup: &report.backup,
        generation: &report.generation,
        to: args.to.to_string_lossy().into_owned(),
        bytes_written: report.restored.bytes_written,
        seconds,
        members: members.collect(),
        loosened_units: &report.loosened,
        warnings: &report.restored.warnings,
    }
}

/// A member in a summary: name, files, bytes, checksum.
type Line<'r> = (&'r str, u64, u64, &'r [u8; 32]);

fn write_imported(out: &mut dyn Write, report: &ImportReport, seconds: f64) -> io::Result<()> {
    let made = &report.generation;
    let name = format!("{}@{}", made.deployment, made.number);
    let backup = output::printable(&report.backup);
    if report.created {
        write!(out, "{name}: backup {backup}, ")?;
    } else {
        write!(out, "{name} holds backup {backup} already, no generation was made: ")?;
    }
    let members: Vec<Line<'_>> =
        report.members.iter().map(|m| (&*m.member, m.files, m.bytes, &m.checksum)).collect();
    write_totals(out, &members)?;
    writeln!(
        out,
        "; {} new, {} stored, in {}",
        output::bytes(report.stats.bytes_new),
        output::bytes(report.stats.bytes_stored),
        output::seconds(seconds),
    )?;
    write_members(out, &members)
}

fn write_exported(
    out: &mut dyn Write,
    args: &ExportCanic,
    report: &ExportReport,
    seconds: f64,
) -> io::Result<()> {
    let to = args.to.to_string_lossy();
    write!(
        out,
        "{} to {}: backup {}, ",
        report.generation,
        output::printable(&to),
        output::printable(&report.backup)
    )?;
    let members: Vec<Line<'_>> =
        report.members.iter().map(|m| (&*m.member, m.files, m.bytes, &m.checksum)).collect();
    write_totals(out, &members)?;
    writeln!(
        out,
        "; {} written, in {}",
        output::bytes(report.restored.bytes_written),
        output::seconds(seconds),
    )?;
    write_members(out, &members)
}

fn write_totals(out: &mut dyn Write, members: &[Line<'_>]) -> io::Result<()> {
    write!(
        out,
        "{}, {}, {}",
        output::counted(members.len() as u64, "member", "members"),
        output::counted(members.iter().map(|line| line.1).sum(), "file", "files"),
        output::bytes(members.iter().map(|line| line.2).sum()),
    )
}

fn write_members(out: &mut dyn Write, members: &[Line<'_>]) -> io::Result<()> {
    let columns = [("", Align::Left), ("", Align::Right), ("", Align::Right), ("", Align::Left)];
    let mut table = Table::new(columns);
    for (name, files, bytes, checksum) in members {
        table.row([
            format!("  {name}"),
            output::counted(*files, "file", "files"),
            output::bytes(*bytes),
            format!("sha256 {}", hex(*checksum)),
        ]);
    }
    table.write(out)
}
