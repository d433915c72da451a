//! `restore`: a generation, a member or a path back into a directory.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{note_first, note_missing, open_tree, way_back};
use crate::cli::args::Restore;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, name_of, printed};
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output::{self, note};
use crate::cli::progress::Job;
use crate::store::{Error, RestoreOptions, RestoreReport, Tree};

#[derive(Serialize)]
struct Report<'r> {
    deployment: &'r str,
    generation: u64,
    to: String,
    files: u64,
    dirs: u64,
    symlinks: u64,
    specials: u64,
    specials_skipped: u64,
    bytes: u64,
    bytes_written: u64,
    bytes_kept: u64,
    seconds: f64,
    failures: Vec<FailureFields<'r>>,
    warnings: &'r [String],
}

#[derive(Serialize)]
struct FailureFields<'r> {
    path: &'r str,
    reason: &'r str,
    damage: bool,
}

/// Runs the command.
///
/// # Errors
/// There is nothing of that name, the target cannot be used at all, or the work was interrupted.
pub fn run(args: &Restore, context: &Context) -> Result<Exit, Failure> {
    // Without a directory it goes into the service.
    let Some(to) = &args.to else { return way_back::run(args, context) };
    let store = context.open()?;
    let tree = open_tree(context, &store, "restore", &args.reference)?;
    if args.reference.path.is_none() && !context.quiet {
        note_missing(&tree.name(), &tree.manifest.missing);
    }
    let options = RestoreOptions {
        overwrite: args.overwrite,
        owner: !args.no_owner && rustix::process::geteuid().is_root(),
        set_id_bits: args.set_id_bits,
        special_files: args.special_files,
        threads: args.threads.unwrap_or(0),
    };
    let job = Job::start("restore", context.progress)?;
    let result = store.restore(&tree, to, &options, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| match error {
        Error::Interrupted => Failure::interrupted(format!(
            "restore {}: interrupted; the same command goes on where it stopped",
            name_of(&args.reference)
        )),
        error => Failure::at(context, "restore", &args.reference, error),
    })?;
    note_problems(context, &report);
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "restore", &json_report(to, &tree, &report, seconds));
        }
        if context.summary() {
            write_summary(&mut out, to, &tree, &report, seconds)?;
        }
        out.flush()
    });
    printed(exit_of(&report), result)
}

fn exit_of(report: &RestoreReport) -> Exit {
    if report.failures.iter().any(|failure| failure.damage) {
        Exit::DAMAGE
    } else if report.failures.is_empty() {
        Exit::DONE
    } else {
        Exit::PARTLY
    }
}

fn note_problems(context: &Context, report: &RestoreReport) {
    note_first(&report.failures, |failure| {
        format!("strongroom: not restored: {}: {}", failure.path, failure.reason)
    });
    note_first(&report.warnings, |warning| format!("strongroom: {warning}"));
    if report.specials_skipped > 0 {
        let skipped = output::counted(
            report.specials_skipped,
            "fifo, socket or device was",
            "fifos, sockets and devices were",
        );
        note(&format!("strongroom: {skipped} left out (--special-files makes them)"));
    }
    if exit_of(report) == Exit::DAMAGE {
        let verify = context.command("verify --full");
        note(&format!(
            "  hint: an older generation may hold these paths whole; `{verify}` tells what is damaged"
        ));
    }
}

fn json_report<'r>(
    to: &Path,
    tree: &'r Tree,
    report: &'r RestoreReport,
    seconds: f64,
) -> Report<'r> {
    Report {
        deployment: &tree.generation.deployment,
        generation: tree.generation.number.0,
        to: to.to_string_lossy().into_owned(),
        files: report.files,
        dirs: report.dirs,
        symlinks: report.symlinks,
        specials: report.specials,
        specials_skipped: report.specials_skipped,
        bytes: report.bytes,
        bytes_written: report.bytes_written,
        bytes_kept: report.bytes_kept,
        seconds,
        failures: report
            .failures
            .iter()
            .map(|failure| FailureFields {
                path: &failure.path,
                reason: &failure.reason,
                damage: failure.damage,
            })
            .collect(),
        warnings: &report.warnings,
    }
}

fn write_summary(
    out: &mut dyn Write,
    to: &Path,
    tree: &Tree,
    report: &RestoreReport,
    seconds: f64,
) -> io::Result<()> {
    let failed = match report.failures.len() as u64 {
        0 => String::new(),
        failed => format!("; {} not restored", output::counted(failed, "path", "paths")),
    };
    writeln!(
        out,
        "{} to {}: {}, {}; {} written, {} kept, in {}{failed}",
        tree.name(),
        output::printable(&to.to_string_lossy()),
        output::counted(report.files, "file", "files"),
        output::bytes(report.bytes),
        output::bytes(report.bytes_written),
        output::bytes(report.bytes_kept),
        output::seconds(seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RestoreFailure;

    #[test]
    fn damage_weighs_more_than_a_target_that_refuses() {
        let failure = |damage| RestoreFailure { path: "a".into(), reason: "b".into(), damage };
        let exit = |failures| exit_of(&RestoreReport { failures, ..RestoreReport::default() });
        assert_eq!(exit(vec![]), Exit::DONE);
        assert_eq!(exit(vec![failure(false)]), Exit::PARTLY);
        assert_eq!(exit(vec![failure(false), failure(true)]), Exit::DAMAGE);
    }
}
