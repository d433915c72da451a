//! `list`: the generations of all deployments, or of one.

use std::io::Write;

use serde::Serialize;

use super::note_damaged_commits;
use crate::cli::args::List;
use crate::cli::context::Context;
use crate::cli::errors::Failure;
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::output::{self, Align, Table, note};
use crate::log::Generation;
use crate::store::{Error, Reference, Store, Which};

/// What is shown of a generation. What a damaged manifest would tell is not known.
#[derive(Serialize)]
struct Row {
    deployment: String,
    generation: u64,
    committed: String,
    members: Option<u64>,
    bytes: Option<u64>,
    files: Option<u64>,
    partial: Option<bool>,
    pinned: bool,
}

/// Runs the command.
///
/// # Errors
/// The log cannot be read, or there is no such deployment.
pub fn run(args: &List, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let failed = |error| Failure::store(context, "list", error);
    // What the log shows now stays until it was described.
    let _reading = store.read_lease();
    let log = store.log().map_err(failed)?;
    let mut generations = log.generations();
    if let Some(deployment) = &args.deployment {
        generations.retain(|generation| generation.deployment == *deployment);
        if generations.is_empty() {
            let deployment = deployment.clone();
            let reference = Reference { deployment, which: Which::Latest, path: None };
            store.resolve(&reference).map_err(failed)?;
        }
    }
    generations.sort_by(|a, b| (&a.deployment, a.number).cmp(&(&b.deployment, b.number)));
    note_damaged_commits(context, &log);
    let mut whole = log.damaged().is_empty();
    let state = log.state();
    let rows = generations.iter().map(|generation| {
        let (mut row, faults) = describe(&store, generation);
        row.pinned = state.pins().contains(&generation.name());
        whole &= faults.is_empty();
        for fault in &faults {
            note(&format!("strongroom: list: {fault}"));
        }
        row
    });
    if context.json {
        print_json(rows)?;
    } else {
        print_table(rows)?;
    }
    Ok(if whole { Exit::DONE } else { Exit::DAMAGE })
}

/// Reads what a generation's manifests tell, and says what is wrong with them.
fn describe(store: &Store, generation: &Generation) -> (Row, Vec<Error>) {
    let mut row = Row {
        deployment: generation.deployment.clone(),
        generation: generation.number.0,
        committed: output::time(output::clock_time(generation.committed)),
        members: None,
        bytes: None,
        files: None,
        partial: None,
        pinned: false,
    };
    let manifest = match store.generation(&generation.manifest) {
        Ok(manifest) => manifest,
        Err(error) => return (row, vec![error]),
    };
    row.members = Some(manifest.members.len() as u64);
    row.partial = Some(!manifest.missing.is_empty());
    let (mut bytes, mut files, mut faults) = (0u64, 0u64, Vec::new());
    for member in &manifest.members {
        match store.artifact(&member.artifact) {
            Ok(artifact) => {
                bytes = bytes.saturating_add(artifact.counts.bytes);
                files = files.saturating_add(artifact.counts.files);
            }
            Err(error) => faults.push(error),
        }
    }
    if faults.is_empty() {
        (row.bytes, row.files) = (Some(bytes), Some(files));
    }
    (row, faults)
}

fn print_json(rows: impl Iterator<Item = Row>) -> Result<(), Failure> {
    let mut out = output::stdout()?;
    let mut object = Object::document(&mut out, "list")?;
    let mut generations = object.array("generations")?;
    for row in rows {
        generations.push(&row)?;
    }
    generations.end()?;
    Ok(object.finish()?)
}

fn print_table(rows: impl Iterator<Item = Row>) -> Result<(), Failure> {
    let unknown = || "?".to_owned();
    let mut table = Table::new([
        ("GENERATION", Align::Left),
        ("COMMITTED", Align::Left),
        ("MEMBERS", Align::Right),
        ("FILES", Align::Right),
        ("BYTES", Align::Right),
        ("", Align::Left),
    ]);
    let mut empty = true;
    for row in rows {
        empty = false;
        let state = match (row.partial, row.pinned) {
            (Some(true), false) => "partial",
            (Some(true), true) => "partial, pinned",
            (Some(false), pinned) if row.bytes.is_some() => {
                if pinned {
                    "pinned"
                } else {
                    ""
                }
            }
            _ => "damaged",
        };
        table.row([
            format!("{}@g{}", row.deployment, row.generation),
            row.committed.split_once('.').map_or(row.committed.clone(), |(s, _)| format!("{s}Z")),
            row.members.map_or_else(unknown, output::count),
            row.files.map_or_else(unknown, output::count),
            row.bytes.map_or_else(unknown, output::bytes),
            state.to_owned(),
        ]);
    }
    let mut out = output::stdout()?;
    if empty {
        note("strongroom: the store has no generations yet");
    } else {
        table.write(&mut out)?;
    }
    Ok(out.flush()?)
}
