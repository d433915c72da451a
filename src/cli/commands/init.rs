//! `init`: creates a store.

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output;
use crate::store::Store;

#[derive(Serialize)]
struct Report {
    store: String,
    id: String,
    created: String,
}

/// Runs the command.
///
/// # Errors
/// There is a store already, or the directory cannot be used.
pub fn run(context: &Context) -> Result<Exit, Failure> {
    let store = context.create()?;
    let result = print(context, &store);
    printed(Exit::DONE, result)
}

fn print(context: &Context, store: &Store) -> std::io::Result<()> {
    use std::io::Write;
    let (place, id) = (store.backend().location(), store.id().to_string());
    let mut out = output::stdout()?;
    if context.json {
        let created = output::time(output::clock_time(store.header().created));
        return json::print(&mut out, "init", &Report { store: place, id, created });
    }
    if context.summary() {
        writeln!(out, "created the store {id} in {}", output::printable(&place))?;
    }
    out.flush()
}
