//! `show`: a generation, its members, and in JSON every file with its checksums.

use std::io::{self, Write};

use serde::Serialize;

use super::entries::{FileFields, Links, full_path};
use super::{exit_for, note_missing, open_tree};
use crate::cli::args::Show;
use crate::cli::context::Context;
use crate::cli::errors::{self, Failure};
use crate::cli::exit::Exit;
use crate::cli::json::{Array, Checksum, Object, Text};
use crate::cli::output::{self, Align, Table, note};
use crate::digest::hex;
use crate::store::{Counts, Member, Store, Tree};

#[derive(Serialize)]
struct GenerationFields<'t> {
    deployment: &'t str,
    generation: u64,
    commit: u64,
    committed: String,
    started: String,
    finished: String,
    manifest: String,
    partial: bool,
    missing: Vec<MissingFields<'t>>,
    unreadable: Vec<UnreadableFields<'t>>,
}

#[derive(Serialize)]
struct MissingFields<'t> {
    member: &'t str,
    reason: &'t str,
}

#[derive(Serialize)]
struct UnreadableFields<'t> {
    member: &'t str,
    reason: &'t str,
}

#[derive(Serialize)]
struct MemberFields<'t> {
    member: &'t str,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_bytes: Option<String>,
    started: String,
    manifest: String,
    counts: CountFields,
    checksum: Checksum,
}

#[derive(Serialize)]
struct CountFields {
    files: u64,
    dirs: u64,
    symlinks: u64,
    specials: u64,
    bytes: u64,
}

impl From<Counts> for CountFields {
    fn from(counts: Counts) -> Self {
        let Counts { files, dirs, symlinks, specials, bytes } = counts;
        Self { files, dirs, symlinks, specials, bytes }
    }
}

/// Runs the command.
///
/// # Errors
/// There is no such generation, or it cannot be read.
pub fn run(args: &Show, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let tree = open_tree(context, &store, "show", &args.reference)?;
    let exit = exit_for(&tree);
    let mut out = output::stdout()?;
    if !context.json {
        write_text(&mut out, &tree)?;
        out.flush()?;
        note_missing(&tree.name(), &tree.manifest.missing);
        return Ok(exit);
    }
    let mut object = Object::document(&mut out, "show")?;
    object.fields(&generation_fields(&tree))?;
    let mut members = object.array("members")?;
    let mut exit = exit;
    for member in &tree.members {
        let mut object = members.object()?;
        object.fields(&member_fields(member))?;
        let mut files = object.array("files")?;
        let found = write_files(&mut files, &store, &tree, member)?;
        files.end()?;
        object.end()?;
        if found != Exit::DONE && exit != Exit::DAMAGE {
            exit = found;
        }
    }
    members.end()?;
    object.finish()?;
    Ok(exit)
}

fn generation_fields(tree: &Tree) -> GenerationFields<'_> {
    let missing = &tree.manifest.missing;
    GenerationFields {
        deployment: &tree.generation.deployment,
        generation: tree.generation.number.0,
        commit: tree.generation.commit.0,
        committed: output::time(output::clock_time(tree.generation.committed)),
        started: output::time(output::clock_time(tree.manifest.started)),
        finished: output::time(output::clock_time(tree.manifest.finished)),
        manifest: tree.generation.manifest.to_hex(),
        partial: !missing.is_empty(),
        missing: missing
            .iter()
            .map(|missing| MissingFields { member: &missing.name, reason: &missing.reason })
            .collect(),
        unreadable: tree
            .unreadable
            .iter()
            .map(|(member, reason)| UnreadableFields { member, reason })
            .collect(),
    }
}

fn member_fields(member: &Member) -> MemberFields<'_> {
    let artifact = &member.artifact;
    let Text { text, exact } = Text::of(&artifact.source);
    MemberFields {
        member: &member.name,
        source: text,
        source_bytes: exact,
        started: output::time(output::clock_time(artifact.started)),
        manifest: member.id.to_hex(),
        counts: artifact.counts.into(),
        checksum: Checksum { algorithm: artifact.algorithm.name(), value: hex(&artifact.checksum) },
    }
}

/// Writes the regular files of a member. What cannot be read is told on stderr and in the exit.
fn write_files(
    files: &mut Array<'_>,
    store: &Store,
    tree: &Tree,
    member: &Member,
) -> Result<Exit, Failure> {
    let (mut exit, mut links) = (Exit::DONE, Links::new(store, member));
    let mut fault = |error: &dyn std::fmt::Display, found: Exit| {
        note(&format!("strongroom: show {}: member {}: {error}", tree.name(), member.name));
        if exit != Exit::DAMAGE {
            exit = found;
        }
    };
    let entries = match store.entries_below(&member.artifact, &tree.path) {
        Ok(entries) => entries,
        Err(error) => {
            fault(&error, errors::exit_of(&error));
            return Ok(exit);
        }
    };
    for entry in entries {
        let facts = match &entry {
            Ok(entry) => links.facts(entry),
            Err(page) => {
                fault(page, errors::exit_of_page(page));
                continue;
            }
        };
        match (entry, facts) {
            (Ok(entry), Ok(Some(facts))) => {
                files.push(&FileFields::of(&full_path(&member.name, &entry.path), &facts))?;
            }
            (_, Err(error)) => fault(&error, errors::exit_of(&error)),
            _ => {}
        }
    }
    Ok(exit)
}

fn write_text(out: &mut dyn Write, tree: &Tree) -> io::Result<()> {
    let time = |time| output::time_to_the_second(output::clock_time(time));
    let mut head = Table::new([("", Align::Left), ("", Align::Left)]);
    head.row(["generation".into(), tree.name()]);
    head.row(["started".into(), time(tree.manifest.started)]);
    head.row(["committed".into(), time(tree.generation.committed)]);
    head.row(["manifest".into(), tree.generation.manifest.to_hex()]);
    head.write(out)?;
    writeln!(out)?;
    let mut table = Table::new([
        ("MEMBER", Align::Left),
        ("FILES", Align::Right),
        ("DIRS", Align::Right),
        ("LINKS", Align::Right),
        ("SPECIAL", Align::Right),
        ("BYTES", Align::Right),
        ("CHECKSUM", Align::Left),
        ("SOURCE", Align::Left),
    ]);
    for Member { name, artifact, .. } in &tree.members {
        let counts = &artifact.counts;
        table.row([
            name.clone(),
            output::count(counts.files),
            output::count(counts.dirs),
            output::count(counts.symlinks),
            output::count(counts.specials),
            output::bytes(counts.bytes),
            format!("{}:{}", artifact.algorithm, hex(&artifact.checksum)),
            output::escaped(&artifact.source),
        ]);
    }
    table.write(out)
}
