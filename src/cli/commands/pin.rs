//! `pin`, `unpin` and `undo`: what people say about generations beside backing up and pruning.

use std::io::Write;

use serde::Serialize;

use crate::cli::args::{Pin, Undo};
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output;
use crate::store::{Error, GenerationName, Which};

#[derive(Serialize)]
struct PinReport {
    deployment: String,
    generation: u64,
    pinned: bool,
    changed: bool,
}

#[derive(Serialize)]
struct UndoReport {
    generations: Vec<NameFields>,
}

#[derive(Serialize)]
struct NameFields {
    deployment: String,
    generation: u64,
}

/// Runs `pin`, or `unpin`.
///
/// # Errors
/// There is no such generation, or the storage failed.
pub fn run(args: &Pin, pin: bool, context: &Context) -> Result<Exit, Failure> {
    let verb = if pin { "pin" } else { "unpin" };
    let store = context.open_to_write()?;
    let failed = |error| Failure::at(context, verb, &args.reference, error);
    if args.reference.path.is_some() {
        return Err(Failure::usage(format!("{verb}: a generation is pinned as a whole")));
    }
    let name = match args.reference.which {
        Which::Number(generation) => {
            GenerationName { deployment: args.reference.deployment.clone(), generation }
        }
        Which::Latest => store.resolve(&args.reference).map_err(failed)?.name(),
    };
    let changed = if pin { store.pin(&name) } else { store.unpin(&name) }.map_err(failed)?;
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            let (deployment, generation) = (name.deployment.clone(), name.generation.0);
            let report = PinReport { deployment, generation, pinned: pin, changed };
            return json::print(&mut out, verb, &report);
        }
        if !context.quiet {
            let state = if pin { "pinned" } else { "not pinned" };
            let already = if changed { "" } else { " already" };
            writeln!(out, "{name} is{already} {state}")?;
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}

/// Runs `undo`.
///
/// # Errors
/// A generation was collected, there is nothing to be brought back, or the storage failed.
pub fn undo(args: &Undo, context: &Context) -> Result<Exit, Failure> {
    let store = context.open_to_write()?;
    let brought = store.undo(&args.generations);
    let brought = brought.map_err(|error: Error| Failure::store(context, "undo", error))?;
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            let fields = |name: &GenerationName| NameFields {
                deployment: name.deployment.clone(),
                generation: name.generation.0,
            };
            let report = UndoReport { generations: brought.iter().map(fields).collect() };
            return json::print(&mut out, "undo", &report);
        }
        if !context.quiet {
            for name in &brought {
                writeln!(out, "{name} is visible again")?;
            }
            if brought.is_empty() {
                writeln!(out, "nothing was forgotten of these")?;
            }
        }
        out.flush()
    });
    printed(Exit::DONE, result)
}
