//! The command line: arguments, progress, text and JSON over the public API of the library.
//!
//! A thin layer: it decides nothing about what is stored. Data goes to stdout, everything else to
//! stderr; every command prints one JSON object if `--json` is given, and ends with a code of
//! [`exit`]. Does not own: formats, or anything that a user of the library would miss.

mod args;
mod commands;
mod context;
mod errors;
pub mod exit;
mod fleet;
mod help;
mod json;
mod members;
mod output;
mod progress;
mod signals;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use context::Context;
use exit::Exit;

/// Runs the command with the arguments of the process and returns how it ends.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and the version are no errors; clap prints them to stdout.
            let exit = if error.use_stderr() { Exit::USAGE } else { Exit::DONE };
            let _ = error.print();
            return exit.into();
        }
    };
    run(args).into()
}

fn run(args: Args) -> Exit {
    let context = Context::new(args.global);
    let result = match &args.command {
        Command::Init => commands::init::run(&context),
        Command::Backup(args) => commands::backup::run(args, &context),
        Command::Resume(args) => commands::runs::resume(args, &context),
        Command::Run(args) => commands::runs::run(args, &context),
        Command::Status(args) => commands::runs::status(args, &context),
        Command::Config(args) => commands::config::run(args, &context),
        Command::List(args) => commands::list::run(args, &context),
        Command::Show(args) => commands::show::run(args, &context),
        Command::Ls(args) => commands::ls::run(args, &context),
        Command::Cat(args) => commands::cat::run(args, &context),
        Command::Diff(args) => commands::diff::run(args, &context),
        Command::Restore(args) => commands::restore::run(args, &context),
        Command::Verify(args) => commands::verify::run(args, &context),
        Command::Prune(args) => commands::prune::run(args, &context),
        Command::Pin(args) => commands::pin::run(args, true, &context),
        Command::Unpin(args) => commands::pin::run(args, false, &context),
        Command::Undo(args) => commands::pin::undo(args, &context),
        Command::Stats(args) => commands::stats::run(args, &context),
        Command::Import(args) => commands::interchange::import(args, &context),
        Command::Export(args) => commands::interchange::export(args, &context),
        Command::Completions(args) => commands::completions::run(args, &context),
        Command::Man(args) => commands::man::run(args, &context),
    };
    result.unwrap_or_else(|failure| {
        failure.report();
        failure.exit()
    })
}
