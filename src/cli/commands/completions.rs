//! `completions`: a script for a shell.

use std::io::Write;

use clap::CommandFactory;
use serde::Serialize;

use crate::cli::args::{Args, Completions};
use crate::cli::context::Context;
use crate::cli::errors::Failure;
use crate::cli::exit::Exit;
use crate::cli::{json, output};

#[derive(Serialize)]
struct Report {
    shell: String,
    script: String,
}

/// Runs the command.
///
/// # Errors
/// Standard output failed.
pub fn run(args: &Completions, context: &Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "strongroom", &mut script);
    let mut out = output::stdout()?;
    if context.json {
        let script = String::from_utf8_lossy(&script).into_owned();
        let report = Report { shell: args.shell.to_string(), script };
        json::print(&mut out, "completions", &report)?;
    } else {
        out.write_all(&script)?;
        out.flush()?;
    }
    Ok(Exit::DONE)
}
