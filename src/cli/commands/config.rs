//! `config`: what is configured, and where each value is from.

use std::io::Write;

use serde::Serialize;

use crate::cli::args::Config as Args;
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::fleet::Fleet;
use crate::cli::json;
use crate::cli::output::{self, Align, Table};
use crate::store::IngestOptions;

#[derive(Serialize)]
struct Document {
    file: Option<String>,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    from: &'static str,
}

const FILE: &str = "file";
const DEFAULT: &str = "default";

/// Runs the command.
///
/// # Errors
/// The configuration cannot be read, or is refused.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let Args::Show = args;
    let loaded = context.config()?;
    let mut settings = Vec::new();
    let mut add = |key: String, value: String, from| settings.push(Setting { key, value, from });
    if let Ok(store) = context.store_path() {
        let is_option = |word: std::ffi::OsString| {
            word == "--store" || word.as_encoded_bytes().starts_with(b"--store=")
        };
        let from = match context.store_was_named() {
            false => FILE,
            true if std::env::args_os().any(is_option) => "option --store",
            true => "STRONGROOM_STORE",
        };
        add("store".into(), store.display().to_string(), from);
    }
    if let Some(loaded) = loaded {
        for name in loaded.config.deployments.keys() {
            let fleet = Fleet::load(loaded, name)?;
            deployment(context, &fleet, loaded, &mut add)?;
        }
    }
    let file = loaded.map(|loaded| loaded.path.display().to_string());
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "config", &Document { file, settings });
        }
        match &file {
            Some(file) => writeln!(out, "file: {file}")?,
            None => writeln!(out, "file: none")?,
        }
        let heads = [("KEY", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)];
        let mut table = Table::new(heads);
        for setting in settings {
            table.row([setting.key, setting.value, setting.from.to_owned()]);
        }
        table.write(&mut out)?;
        out.flush()
    });
    printed(Exit::DONE, result)
}

/// Adds the settings of one deployment as they are in force.
fn deployment(
    context: &Context,
    fleet: &Fleet<'_>,
    loaded: &crate::cli::fleet::Loaded,
    add: &mut impl FnMut(String, String, &'static str),
) -> Result<(), Failure> {
    let settings = fleet.settings;
    let request = settings.request(&fleet.name, &*fleet.executor, &fleet.members, None, None);
    let request = request.map_err(|error| Failure::usage(error.to_string()))?;
    let from = |set: bool| if set { FILE } else { DEFAULT };
    let mut set = |key: &str, value: String, from| {
        add(format!("deployments.{}.{key}", fleet.name), value, from);
    };
    let explicit =
        settings.executor.is_some() || settings.command.is_some() || settings.icp.is_some();
    set("executor", request.executor.clone(), from(explicit));
    set("environment", request.environment.clone(), from(!request.environment.is_empty()));
    set("scope", request.scope.name().to_owned(), from(settings.scope.is_some()));
    if let Some(selector) = &request.selector {
        set("select", selector.clone(), FILE);
    }
    if let Some(root) = &request.root {
        set("root", root.clone(), FILE);
    }
    set("checksum", plain(&request.checksum), from(settings.checksum.is_some()));
    set("quiescence", plain(&request.quiescence), from(settings.quiescence.is_some()));
    set("authority", plain(&request.authority), from(settings.authority.is_some()));
    if let Some(every) = &settings.every {
        set("every", every.clone(), FILE);
    }
    if context.store_path().is_ok() {
        let options = fleet.options(context, loaded, IngestOptions::default())?;
        let staging = options.staging.display().to_string();
        set("staging", staging, from(loaded.config.staging.is_some()));
        set("concurrency", options.concurrency.to_string(), from(settings.concurrency.is_some()));
        let settle = format!("{} s", options.settle.as_secs());
        set("settle", settle, from(settings.settle.is_some()));
        let keep = (!options.delete_snapshots).to_string();
        set("keep-snapshots", keep, from(settings.keep_snapshots.is_some()));
    }
    set("members", fleet.members.len().to_string(), from(!fleet.members.is_empty()));
    Ok(())
}

/// Returns a value as it is written in the file.
fn plain<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        other => other.map_or_else(|_| String::new(), |value| value.to_string()),
    }
}
