//! The command, run as people run it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// The command that is tried.
#[derive(Clone)]
pub struct Tool {
    pub program: PathBuf,
}

impl Tool {
    /// Takes a command; it must be there.
    pub fn new(program: &Path) -> anyhow::Result<Self> {
        let program = std::path::absolute(program)?;
        if !program.is_file() {
            bail!("{} is not there: cargo build --release", program.display());
        }
        Ok(Self { program })
    }

    /// A command line for one store, not run yet.
    pub fn command(&self, store: &Path, args: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--store").arg(store).stdin(Stdio::null());
        for name in ["STRONGROOM_CONFIG", "STRONGROOM_STORE"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it to its end.
    pub fn run(&self, store: &Path, args: &[&OsStr]) -> anyhow::Result<Output> {
        self.command(store, args).output().context("cannot run the command")
    }

    /// Runs it, and it must succeed. Returns what it printed.
    pub fn must(&self, store: &Path, args: &[&OsStr]) -> anyhow::Result<String> {
        let output = self.run(store, args)?;
        if !output.status.success() {
            bail!("{args:?} ended with {}: {}", output.status, told(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What a command said, on one line.
pub fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim().replace('\n', " / ")
}
