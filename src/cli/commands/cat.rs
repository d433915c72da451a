//! `cat`: a file's content on stdout.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use serde::Serialize;

use super::entries::{Facts, FileFields, full_path};
use super::open_tree;
use crate::cli::args::Cat;
use crate::cli::context::Context;
use crate::cli::errors::Failure;
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output;
use crate::store::WriteError;

#[derive(Serialize)]
struct Report<'t> {
    deployment: &'t str,
    generation: u64,
    #[serde(flatten)]
    file: FileFields,
}

/// Runs the command.
///
/// # Errors
/// There is no such file, a chunk of it is damaged (what was written before is right), or standard
/// output failed.
pub fn run(args: &Cat, context: &Context) -> Result<Exit, Failure> {
    if args.reference.path.is_none() {
        let hint = "name the file, as in orders@g3:api/etc/config.toml";
        return Err(Failure::usage("cat needs a path: REF:PATH").with_hint(hint));
    }
    let store = context.open()?;
    let failed = |error| Failure::at(context, "cat", &args.reference, error);
    let tree = open_tree(context, &store, "cat", &args.reference)?;
    let Some(member) = tree.members.first() else { return Ok(Exit::DAMAGE) };
    let content = store.content(member, &tree.path).map_err(failed)?;
    if context.json {
        let path = full_path(&member.name, &tree.path);
        let report = Report {
            deployment: &tree.generation.deployment,
            generation: tree.generation.number.0,
            file: FileFields::of(&path, &Facts::from(&content)),
        };
        json::print(&mut output::stdout()?, "cat", &report)?;
        return Ok(Exit::DONE);
    }
    // Pieces are large: no buffer between.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match store.write_content(&content, &mut out) {
        Ok(()) => Ok(Exit::DONE),
        Err(WriteError::Store(error)) => Err(failed(error)),
        Err(WriteError::Out(error)) => Err(error.into()),
    }
}
