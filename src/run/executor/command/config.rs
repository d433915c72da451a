//! Configuration of a [`CommandExecutor`](super::CommandExecutor): what a person writes, and what
//! can be wrong with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a service is driven by external commands. What it can do follows from the steps that are
/// there; see [`CommandExecutor::new`](super::CommandExecutor::new).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CommandConfig {
    /// The executor's name in receipts; `command` if empty.
    pub name: String,
    /// The network or environment that the members live in: `{environment}`.
    pub environment: String,
    /// Names of the variables that commands get from this process's environment, beside `PATH` and
    /// `HOME`.
    pub env: Vec<String>,
    /// The directory that commands work in; else this process's.
    pub directory: Option<PathBuf>,
    /// Further placeholders: for each member, names and values.
    pub variables: BTreeMap<String, BTreeMap<String, String>>,
    /// Words for states in the replies of `status`.
    pub states: States,
    /// Where a member's files are read in place, an absolute path with placeholders; instead of
    /// `download`.
    pub path: Option<String>,
    /// Stops a member.
    pub stop: Option<Step>,
    /// Starts a member.
    pub start: Option<Step>,
    /// Says whether a member runs.
    pub status: Option<Step>,
    /// Makes a snapshot of a member.
    pub create: Option<Step>,
    /// Lists the snapshots of a member.
    pub list: Option<Step>,
    /// Writes a snapshot, or the member's content, into `{dir}`.
    pub download: Option<Step>,
    /// Uploads the content of a snapshot from `{dir}`.
    pub upload: Option<Step>,
    /// Loads an uploaded snapshot into a member.
    pub load: Option<Step>,
    /// Removes a snapshot.
    pub delete: Option<Step>,
    /// Lists the members.
    pub inventory: Option<Step>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// The program and its arguments, with placeholders in the arguments.
    pub argv: Vec<String>,
    /// How long it may take, such as `10m`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "super::super::limit::option"
    )]
    pub timeout: Option<Duration>,
    /// Exit codes that mean that it did what it should.
    #[serde(default = "zero")]
    pub success_codes: Vec<i32>,
    /// Exit codes that mean that it certainly did nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_codes: Vec<i32>,
    /// What it replies on standard output.
    #[serde(default)]
    pub reply: Reply,
}

fn zero() -> Vec<i32> {
    vec![0]
}

/// What a command replies, and where in it things stand. In a reply of the format `plain`, the
/// first line is the identity or the state; in a list, each line is an identity. In `json`, each
/// place is a JSON pointer (RFC 6901), in a list relative to its item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Reply {
    /// The format.
    pub format: Format,
    /// The array of a list; `""`, the whole reply, if it is not given.
    pub items: Option<String>,
    /// The identity of a snapshot or member.
    pub id: Option<String>,
    /// The state of a member.
    pub state: Option<String>,
    /// SHA-256 of a member's code.
    pub module_hash: Option<String>,
    /// When a snapshot was taken: a number in `taken-at-unit`, or a text as in RFC 3339.
    pub taken_at: Option<String>,
    /// What a number in `taken-at` counts since 1970.
    pub taken_at_unit: Unit,
    /// The size of a snapshot in bytes.
    pub size: Option<String>,
    /// The role of a member.
    pub role: Option<String>,
    /// What sort of thing a member is.
    pub kind: Option<String>,
    /// The member above a member.
    pub parent: Option<String>,
}

/// The format of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Lines of text.
    #[default]
    Plain,
    /// JSON.
    Json,
    /// Nothing: only `upload` may reply nothing. Its snapshot has the identity `uploaded`.
    None,
}

/// A unit of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// 10^-9 seconds.
    #[default]
    Nanoseconds,
    /// 10^-3 seconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

/// Words for states, compared without regard to case. A word that is in none of the lists means
/// that the service does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct States {
    /// Words for a member that runs.
    pub running: Vec<String>,
    /// Words for one that has been told to stop and has not yet.
    pub stopping: Vec<String>,
    /// Words for one that is stopped.
    pub stopped: Vec<String>,
}

impl Default for States {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            running: words(&["running", "active", "started", "online", "up"]),
            stopping: words(&["stopping", "deactivating"]),
            stopped: words(&["stopped", "inactive", "exited", "offline", "down"]),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A placeholder that does not exist or means nothing in this step.
    #[error("{step}: {{{name}}} is no placeholder here; there are: {known}")]
    UnknownPlaceholder {
        /// The step.
        step: &'static str,
        /// The placeholder.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An argument that cannot be one.
    #[error("{step}: argument {argument:?}: {reason}")]
    Argument {
        /// The step.
        step: &'static str,
        /// The argument.
        argument: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A step that needs another.
    #[error("{have} needs {missing}, which is not configured: {why}")]
    Missing {
        /// The step that is there.
        have: &'static str,
        /// The step that is not.
        missing: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// A step whose reply is not described as it has to be.
    #[error("{step}: reply: {reason}")]
    Reply {
        /// The step.
        step: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// No way to a member's content, or two.
    #[error(
        "a member's content comes from 'download' or from 'path': exactly one of them is needed"
    )]
    Content,
    /// A variable that cannot be one.
    #[error("variable {name:?} of member {member}: {reason}")]
    Variable {
        /// The member.
        member: String,
        /// The variable.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A word that stands for two states.
    #[error("states: {word:?} stands for two states")]
    State {
        /// The word.
        word: String,
    },
}
