//! Steps made ready to be run: arguments read, replies checked against what the step needs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use super::config::{CommandConfig, ConfigError, Format, Reply, Step};
use super::template::{Known, Template, Values};

const QUERY: Duration = Duration::from_mins(1);
const CONTROL: Duration = Duration::from_mins(10);
const SNAPSHOT: Duration = Duration::from_mins(30);
const TRANSFER: Duration = Duration::from_hours(24);

/// What all that is known of a step's kind.
pub struct Kind {
    /// Its name in the configuration.
    pub name: &'static str,
    placeholders: &'static [&'static str],
    /// Its time limit if none is configured.
    limit: Duration,
    /// Places in a JSON reply that it may name; the first, if any, has to be.
    places: &'static [&'static str],
}

const MEMBER: &[&str] = &["member", "role", "parent", "environment"];
const MEMBER_DIR: &[&str] = &["member", "role", "parent", "environment", "dir"];
const MEMBER_SNAPSHOT: &[&str] = &["member", "role", "parent", "environment", "snapshot"];
const ALL: &[&str] = &["member", "role", "parent", "environment", "snapshot", "dir"];
const SNAPSHOT_PLACES: &[&str] = &["id", "taken-at", "size"];

pub const STOP: Kind = Kind { name: "stop", placeholders: MEMBER, limit: CONTROL, places: &[] };
pub const START: Kind = Kind { name: "start", ..STOP };
pub const STATUS: Kind =
    Kind { name: "status", placeholders: MEMBER, limit: QUERY, places: &["state", "module-hash"] };
pub const CREATE: Kind =
    Kind { name: "create", placeholders: MEMBER, limit: SNAPSHOT, places: SNAPSHOT_PLACES };
pub const LIST: Kind = Kind {
    name: "list",
    placeholders: MEMBER,
    limit: QUERY,
    places: &["id", "taken-at", "size", "items"],
};
pub const DOWNLOAD: Kind =
    Kind { name: "download", placeholders: ALL, limit: TRANSFER, places: &[] };
/// A download where there are no snapshots.
pub const DUMP: Kind = Kind { placeholders: MEMBER_DIR, ..DOWNLOAD };
pub const UPLOAD: Kind =
    Kind { name: "upload", placeholders: MEMBER_DIR, limit: TRANSFER, places: SNAPSHOT_PLACES };
pub const LOAD: Kind =
    Kind { name: "load", placeholders: MEMBER_SNAPSHOT, limit: SNAPSHOT, places: &[] };
pub const DELETE: Kind = Kind { name: "delete", limit: CONTROL, ..LOAD };
pub const INVENTORY: Kind = Kind {
    name: "inventory",
    placeholders: &["environment"],
    limit: QUERY,
    places: &["id", "role", "kind", "parent", "module-hash", "items"],
};
/// The place of files that are read in place: no command, but a template all the same.
pub const PATH: Kind =
    Kind { name: "path", placeholders: MEMBER, limit: Duration::ZERO, places: &[] };

/// A step that can be run.
#[derive(Clone, Debug)]
pub struct Ready {
    pub name: &'static str,
    pub program: String,
    args: Vec<Template>,
    pub limit: Duration,
    pub success_codes: Vec<i32>,
    pub refused_codes: Vec<i32>,
    pub reply: Reply,
}

impl Ready {
    pub fn new(step: &Step, kind: &Kind, config: &CommandConfig) -> Result<Self, ConfigError> {
        let name = kind.name;
        let mut args = Vec::with_capacity(step.argv.len());
        for argument in &step.argv {
            args.push(template(argument, kind, config)?);
        }
        let no_program = |reason| {
            let argument = step.argv.first().cloned().unwrap_or_default();
            ConfigError::Argument { step: name, argument, reason }
        };
        if step.argv.first().is_none_or(String::is_empty) {
            return Err(no_program("argv begins with a program"));
        }
        if !args.remove(0).is_fixed() {
            return Err(no_program("no placeholder may choose the program"));
        }
        check_reply(&step.reply, kind)?;
        Ok(Self {
            name,
            program: step.argv[0].clone(),
            args,
            limit: step.timeout.unwrap_or(kind.limit),
            success_codes: step.success_codes.clone(),
            refused_codes: step.refused_codes.clone(),
            reply: step.reply.clone(),
        })
    }

    /// Returns the arguments of a call. After a fixed `--` nothing is an option.
    pub fn args(&self, values: &Values) -> Result<Vec<OsString>, String> {
        let mut filled: Vec<OsString> = Vec::with_capacity(self.args.len());
        let mut only_values = false;
        for argument in &self.args {
            let value = argument.fill(values, only_values)?;
            only_values |= argument.is_fixed() && value == "--";
            filled.push(value);
        }
        Ok(filled)
    }

    /// Says whether an argument uses a placeholder.
    pub fn uses(&self, name: &str) -> bool {
        self.args.iter().any(|argument| argument.uses(name))
    }
}

/// Reads an argument of a step.
pub fn template(text: &str, kind: &Kind, config: &CommandConfig) -> Result<Template, ConfigError> {
    let variables: BTreeSet<&str> = match kind.name {
        "inventory" => BTreeSet::new(),
        _ => config.variables.values().flatten().map(|(name, _)| name.as_str()).collect(),
    };
    let known = Known { step: kind.name, builtin: kind.placeholders, variables: &variables };
    let template = Template::parse(text, &known)?;
    if template.uses("environment") && config.environment.is_empty() {
        let reason = "{environment} is used, and 'environment' is not configured";
        return Err(ConfigError::Argument { step: kind.name, argument: text.to_owned(), reason });
    }
    Ok(template)
}

fn check_reply(reply: &Reply, kind: &Kind) -> Result<(), ConfigError> {
    let wrong = |reason: String| Err(ConfigError::Reply { step: kind.name, reason });
    let given = [
        ("items", &reply.items),
        ("id", &reply.id),
        ("state", &reply.state),
        ("module-hash", &reply.module_hash),
        ("taken-at", &reply.taken_at),
        ("size", &reply.size),
        ("role", &reply.role),
        ("kind", &reply.kind),
        ("parent", &reply.parent),
    ];
    let given = given.into_iter().filter_map(|(name, at)| at.as_deref().map(|at| (name, at)));
    let given: Vec<_> = given.collect();
    if kind.places.is_empty() {
        return if *reply == Reply::default() {
            Ok(())
        } else {
            wrong("nothing in the reply of this step is looked at".to_owned())
        };
    }
    match reply.format {
        Format::None if kind.name != "upload" => {
            return wrong("this step has to reply something".to_owned());
        }
        Format::None | Format::Plain => {
            if let Some((name, _)) = given.first() {
                return wrong(format!("'{name}' needs format = \"json\""));
            }
        }
        Format::Json => {
            let needed = kind.places[0];
            if !given.iter().any(|(name, _)| *name == needed) {
                return wrong(format!("where '{needed}' stands in the JSON has to be said"));
            }
        }
    }
    for (name, pointer) in given {
        if !kind.places.contains(&name) {
            return wrong(format!("'{name}' means nothing in this step"));
        }
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return wrong(format!("'{name}': {pointer:?} is no JSON pointer: it begins with '/'"));
        }
    }
    Ok(())
}
