//! `diff`: how two generations differ, by file and by bytes.

use std::io::{self, Write};

use serde::Serialize;

use super::{note_missing, open_tree};
use crate::cli::args::Diff;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, name_of};
use crate::cli::exit::Exit;
use crate::cli::json::{Object, PathFields};
use crate::cli::output::{self, Names};
use crate::cli::progress::Job;
use crate::store::{Change, ChangeKind, DiffReport, Store, Tree};

#[derive(Serialize)]
struct SideFields<'t> {
    deployment: &'t str,
    generation: u64,
}

#[derive(Serialize)]
struct ChangeFields {
    #[serde(flatten)]
    path: PathFields,
    kind: &'static str,
    bytes_before: u64,
    bytes_after: u64,
    bytes_changed: u64,
}

#[derive(Serialize)]
struct TotalFields {
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

impl From<DiffReport> for TotalFields {
    fn from(report: DiffReport) -> Self {
        let DiffReport { added, removed, changed, metadata, bytes_added, bytes_removed } = report;
        Self { added, removed, changed, metadata, bytes_added, bytes_removed }
    }
}

/// Runs the command.
///
/// # Errors
/// One of the two cannot be read, or standard output failed.
pub fn run(args: &Diff, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let mut first = open_tree(context, &store, "diff", &args.first)?;
    let mut second = open_tree(context, &store, "diff", &args.second)?;
    let damaged = leave_out_unreadable(&mut first, &mut second);
    if !context.quiet {
        note_missing(&first.name(), &first.manifest.missing);
        if first.generation != second.generation {
            note_missing(&second.name(), &second.manifest.missing);
        }
    }
    let what = format!("diff {} {}", name_of(&args.first), name_of(&args.second));
    let mut work = Work { context, store: &store, what: &what, found: false };
    let result = work.run(&first, &second);
    let exit = match (damaged, work.found) {
        (true, _) => Exit::DAMAGE,
        (false, true) => Exit::DIFFERENCES,
        (false, false) => Exit::DONE,
    };
    match result {
        // Whoever stopped reading has seen that there are differences.
        Err(failure) if failure.is_closed_pipe() => Ok(exit),
        result => result.map(|()| exit),
    }
}

/// Leaves out members that cannot be read on one side, so that they do not look removed. Says
/// whether there are any.
fn leave_out_unreadable(first: &mut Tree, second: &mut Tree) -> bool {
    let unreadable = first.unreadable.iter().chain(&second.unreadable);
    let names: Vec<_> = unreadable.map(|(name, _)| name.clone()).collect();
    for tree in [first, second] {
        tree.members.retain(|member| !names.contains(&member.name));
    }
    !names.is_empty()
}

/// One comparison.
struct Work<'a> {
    context: &'a Context,
    store: &'a Store,
    what: &'a str,
    found: bool,
}

impl Work<'_> {
    fn run(&mut self, first: &Tree, second: &Tree) -> Result<(), Failure> {
        let mut out = output::stdout()?;
        if self.context.json {
            let mut object = Object::document(&mut out, "diff")?;
            object.field("before", &side(first))?;
            object.field("after", &side(second))?;
            let mut changes = object.array("changes")?;
            let report =
                self.compare(first, second, &mut |change| changes.push(&fields(&change)))?;
            changes.end()?;
            object.field("totals", &TotalFields::from(report))?;
            return Ok(object.finish()?);
        }
        let names = Names::for_stdout();
        let report =
            self.compare(first, second, &mut |change| write_line(&mut out, names, &change));
        out.flush()?;
        let report = report?;
        if self.context.summary() {
            writeln!(out, "{}", summary(&report))?;
        }
        Ok(out.flush()?)
    }

    /// Compares, and stops at the first change that cannot be printed.
    fn compare(
        &mut self,
        first: &Tree,
        second: &Tree,
        each: &mut dyn FnMut(Change) -> io::Result<()>,
    ) -> Result<DiffReport, Failure> {
        let job = Job::start("diff", false)?;
        let (mut printing, found) = (Ok(()), &mut self.found);
        let result = self.store.diff(first, second, &job.progress, &mut |change| {
            *found = true;
            if printing.is_ok() {
                printing = each(change);
                if printing.is_err() {
                    job.progress.interrupt();
                }
            }
        });
        printing?;
        result.map_err(|error| Failure::store(self.context, self.what, error))
    }
}

fn side(tree: &Tree) -> SideFields<'_> {
    let generation = &tree.generation;
    SideFields { deployment: &generation.deployment, generation: generation.number.0 }
}

/// Returns the kind's name in JSON and its sign at the beginning of a line.
fn kind_of(kind: ChangeKind) -> (&'static str, char) {
    match kind {
        ChangeKind::Added => ("added", '+'),
        ChangeKind::Removed => ("removed", '-'),
        ChangeKind::Content => ("content", 'M'),
        ChangeKind::Metadata => ("metadata", 'm'),
        ChangeKind::Type => ("type", 'T'),
    }
}

fn fields(change: &Change) -> ChangeFields {
    ChangeFields {
        path: PathFields::of(&change.path),
        kind: kind_of(change.kind).0,
        bytes_before: change.bytes_before,
        bytes_after: change.bytes_after,
        bytes_changed: change.bytes_changed,
    }
}

fn write_line(out: &mut dyn Write, names: Names, change: &Change) -> io::Result<()> {
    let bytes = match change.kind {
        ChangeKind::Removed => change.bytes_before,
        _ => change.bytes_changed,
    };
    write!(out, "{} {:>10}  ", kind_of(change.kind).1, output::bytes(bytes))?;
    names.write(out, &change.path)?;
    if change.bytes_before != change.bytes_after
        && matches!(change.kind, ChangeKind::Content | ChangeKind::Type)
    {
        let (before, after) = (change.bytes_before, change.bytes_after);
        write!(out, "  ({} -> {})", output::bytes(before), output::bytes(after))?;
    }
    out.write_all(b"\n")
}

fn summary(report: &DiffReport) -> String {
    if report.is_empty() {
        return "no differences".to_owned();
    }
    format!(
        "{} added, {} removed, {} changed, {} with other metadata only; {} new, {} gone",
        output::count(report.added),
        output::count(report.removed),
        output::count(report.changed),
        output::count(report.metadata),
        output::bytes(report.bytes_added),
        output::bytes(report.bytes_removed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, bytes: [u64; 3]) -> Change {
        let [bytes_before, bytes_after, bytes_changed] = bytes;
        Change { path: b"api/db".to_vec(), kind, bytes_before, bytes_after, bytes_changed }
    }

    #[test]
    fn lines_tell_what_is_new_and_what_is_gone() {
        let cases = [
            (change(ChangeKind::Added, [0, 2048, 2048]), "+    2.0 KiB  api/db\n"),
            (change(ChangeKind::Removed, [2048, 0, 0]), "-    2.0 KiB  api/db\n"),
            (
                change(ChangeKind::Content, [1024, 2048, 100]),
                "M      100 B  api/db  (1.0 KiB -> 2.0 KiB)\n",
            ),
            (change(ChangeKind::Metadata, [1024, 1024, 0]), "m        0 B  api/db\n"),
        ];
        for (change, expected) in cases {
            let mut out = Vec::new();
            write_line(&mut out, Names::Raw, &change).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
