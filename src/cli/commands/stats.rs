//! `stats`: what the store holds and what each generation adds.

use std::io::{self, Write};

use serde::Serialize;

use super::split_name;
use crate::cli::args::Stats;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output::{self, Align, Table};
use crate::cli::progress::Job;
use crate::store::{Error, GenerationStats, StatsReport};

#[derive(Serialize)]
struct Report<'r> {
    logical_bytes: u64,
    unique_bytes: u64,
    referenced_stored_bytes: u64,
    chunks: u64,
    delta_chunks: u64,
    delta_stored_bytes: u64,
    delta_saved_bytes: u64,
    packs: u64,
    pack_bytes: u64,
    page_bytes: u64,
    index_bytes: u64,
    manifest_bytes: u64,
    log_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    generations: Vec<GenerationFields<'r>>,
}

#[derive(Serialize)]
struct GenerationFields<'r> {
    deployment: &'r str,
    generation: Option<u64>,
    logical_bytes: u64,
    unique_bytes: u64,
    added_bytes: u64,
    added_stored_bytes: u64,
    freed_stored_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// Something cannot be read, a reference does not resolve, or the work was interrupted.
pub fn run(args: &Stats, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let job = Job::start("stats", context.progress)?;
    let result = store.stats(&args.references, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| match error {
        Error::Interrupted => Failure::interrupted("stats: interrupted"),
        error => Failure::store(context, "stats", error),
    })?;
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "stats", &json_report(&report, seconds));
        }
        write_text(&mut out, &report)?;
        out.flush()
    });
    printed(Exit::DONE, result)
}

fn json_report(report: &StatsReport, seconds: f64) -> Report<'_> {
    Report {
        logical_bytes: report.logical_bytes,
        unique_bytes: report.unique_bytes,
        referenced_stored_bytes: report.referenced_stored_bytes,
        chunks: report.chunks,
        delta_chunks: report.delta_chunks,
        delta_stored_bytes: report.delta_stored_bytes,
        delta_saved_bytes: report.delta_saved_bytes,
        packs: report.packs,
        pack_bytes: report.pack_bytes,
        page_bytes: report.page_bytes,
        index_bytes: report.index_bytes,
        manifest_bytes: report.manifest_bytes,
        log_bytes: report.log_bytes,
        stored_bytes: report.stored_bytes(),
        seconds,
        generations: report.generations.iter().map(generation_fields).collect(),
    }
}

fn generation_fields(stats: &GenerationStats) -> GenerationFields<'_> {
    GenerationFields {
        deployment: &stats.deployment,
        generation: split_name(&stats.generation).1,
        logical_bytes: stats.logical_bytes,
        unique_bytes: stats.unique_bytes,
        added_bytes: stats.added_bytes,
        added_stored_bytes: stats.added_stored_bytes,
        freed_stored_bytes: stats.freed_stored_bytes,
    }
}

fn write_text(out: &mut dyn Write, report: &StatsReport) -> io::Result<()> {
    let mut head = Table::new([("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    let mut line = |name: &str, bytes: u64, note: String| {
        head.row([name.to_owned(), output::bytes(bytes), note]);
    };
    let (chunks, packs) = (report.chunks, report.packs);
    line("content", report.logical_bytes, "all files of all generations".to_owned());
    line("distinct", report.unique_bytes, output::counted(chunks, "chunk", "chunks"));
    line("stored", report.stored_bytes(), "everything in the store".to_owned());
    line("  packs", report.pack_bytes, output::counted(packs, "pack", "packs"));
    let unused = output::bytes(report.pack_bytes.saturating_sub(report.referenced_stored_bytes));
    line(
        "  in use",
        report.referenced_stored_bytes,
        format!("{unused} of the packs is not, or is tables"),
    );
    if report.delta_chunks > 0 {
        let deltas = output::counted(report.delta_chunks, "chunk", "chunks");
        let saved = output::bytes(report.delta_saved_bytes);
        line("  deltas", report.delta_stored_bytes, format!("{deltas}, which save {saved}"));
    }
    line("  lists", report.page_bytes, String::new());
    line("  index", report.index_bytes, String::new());
    line("  manifests", report.manifest_bytes, String::new());
    line("  log", report.log_bytes, String::new());
    head.write(out)?;
    if report.generations.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new([
        ("GENERATION", Align::Left),
        ("CONTENT", Align::Right),
        ("DISTINCT", Align::Right),
        ("ADDED", Align::Right),
        ("STORED", Align::Right),
        ("ITS OWN", Align::Right),
    ]);
    for stats in &report.generations {
        table.row([
            stats.generation.clone(),
            output::bytes(stats.logical_bytes),
            output::bytes(stats.unique_bytes),
            output::bytes(stats.added_bytes),
            output::bytes(stats.added_stored_bytes),
            output::bytes(stats.freed_stored_bytes),
        ]);
    }
    table.write(out)
}
