//! Arguments: what the command accepts, and its help. Parsing only; nothing here looks at the
//! system or at a store.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};

mod interchange;
mod prune;

pub use interchange::{Export, ExportCanic, ExportFormat, Import, ImportCanic, ImportFormat};
pub use prune::{Pin, Prune, Undo};

use super::exit::Exit;
use super::help;
use crate::digest::Algorithm;
use crate::run::facts::Scope;
use crate::store::{Reference, parse_label};

/// Back up deployments into a content-addressed store, and get them back
///
/// A deployment is a set of members: directories or files that belong together. Each backup of a
/// deployment becomes a numbered generation. Content is cut into chunks and every chunk is stored
/// once, over all members, generations and deployments.
///
/// REF names a generation: `orders` or `orders@latest` is the newest one of the deployment orders,
/// `orders@g3` is number 3. `:MEMBER` or `:MEMBER/PATH` behind it names a part, as in
/// `orders@g3:api/etc/config.toml`.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    max_term_width = 100,
    after_help = help::EXAMPLES,
    after_long_help = exit_codes(),
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration [default: strongroom.toml, if it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRONGROOM_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Directory of the store
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STRONGROOM_STORE",
        hide_env_values = true
    )]
    pub store: Option<OsString>,
    /// Read from and write to the store at most so many bytes a second, such as 50M
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub limit_rate: Option<u64>,
    /// Print one JSON object instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress and no summary, only errors and what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print no progress
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a store in a new or empty directory
    #[command(after_help = help::INIT)]
    Init,
    /// Back up directories or files as the next generation of a deployment
    #[command(after_help = help::BACKUP)]
    Backup(Backup),
    /// Go on with a run that was interrupted or failed
    #[command(after_help = help::RESUME)]
    Resume(Resume),
    /// List runs, show one, or give one up
    #[command(subcommand, after_help = help::RUN)]
    Run(Run),
    /// Tell what is unfinished, what it needs next, and what is overdue
    #[command(after_help = help::STATUS)]
    Status(Status),
    /// Show the configuration and where each value is from
    #[command(subcommand, after_help = help::CONFIG)]
    Config(Config),
    /// List the generations of all deployments, or of one
    #[command(after_help = help::LIST)]
    List(List),
    /// Show a generation: its members, their counts and checksums
    #[command(after_help = help::SHOW)]
    Show(Show),
    /// List the members of a generation, or what is at a path
    #[command(after_help = help::LS)]
    Ls(Ls),
    /// Write a file's content to standard output
    #[command(after_help = help::CAT)]
    Cat(Cat),
    /// Compare two generations, by file and by bytes
    #[command(after_help = help::DIFF)]
    Diff(Diff),
    /// Restore a generation, a member or a path into a directory
    #[command(after_help = help::RESTORE)]
    Restore(Restore),
    /// Check that what is stored is whole
    #[command(after_help = help::VERIFY)]
    Verify(Verify),
    /// Forget generations by a policy, and remove what nothing needs
    #[command(after_help = help::PRUNE)]
    Prune(Prune),
    /// Keep a generation whatever a policy says
    #[command(after_help = help::PIN)]
    Pin(Pin),
    /// Let policies decide about a generation again
    #[command(after_help = help::UNPIN)]
    Unpin(Pin),
    /// Bring back what prune has forgotten
    #[command(after_help = help::UNDO)]
    Undo(Undo),
    /// Count what the store holds and what each generation adds
    #[command(after_help = help::STATS)]
    Stats(Stats),
    /// Take in a backup directory of another program as the next generation of a deployment
    #[command(after_help = help::IMPORT)]
    Import(Import),
    /// Write a generation as a backup directory of another program
    #[command(after_help = help::EXPORT)]
    Export(Export),
    /// Print a script that completes this command's arguments in a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(Completions),
    /// Print the manual
    #[command(after_help = help::MAN)]
    Man(Man),
}

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct Backup {
    /// The deployment that gets a new generation of the directories and files that follow
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment, conflicts_with = "all")]
    pub name: Option<String>,
    /// What to back up: with --name directories or files, each with the member's name before it;
    /// otherwise deployments of the configuration
    #[arg(value_name = "[MEMBER=]PATH|DEPLOYMENT", required_unless_present = "all")]
    pub sources: Vec<OsString>,
    /// Back up all deployments of the configuration
    #[arg(long, conflicts_with = "sources")]
    pub all: bool,
    /// Print what would be done to the members of configured deployments, and do nothing
    #[arg(long, conflicts_with = "name")]
    pub plan: bool,
    /// Which members of configured deployments
    #[arg(long, value_enum, conflicts_with = "name")]
    pub scope: Option<ScopeName>,
    /// The member for a scope that selects one, by identity or role
    #[arg(long, value_name = "MEMBER", conflicts_with = "name")]
    pub select: Option<String>,
    /// Begin at most so many operations, then stop; `resume` goes on
    #[arg(long, value_name = "N", conflicts_with = "name")]
    pub max_steps: Option<u64>,
    /// Create the store if there is none
    #[arg(long)]
    pub init: bool,
    /// Checksum stated for every member, as b3sum or sha256sum compute it; for configured
    /// deployments the configuration says which
    #[arg(long, value_name = "ALGORITHM", value_enum, default_value_t = ChecksumName::Blake3)]
    pub checksum: ChecksumName,
    /// Read every file, also those whose times and length are unchanged
    #[arg(long)]
    pub reread: bool,
    /// Store changed chunks in full, never as differences from the previous generation
    #[arg(long)]
    pub no_deltas: bool,
    /// Threads that read, hash and compress [default: one per processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The run [default: all that are unfinished]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Begin at most so many operations, then stop
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
}

/// What `run` does.
#[derive(Debug, Subcommand)]
pub enum Run {
    /// List the runs
    #[command(after_help = help::RUN)]
    List {
        /// Only those of this deployment
        #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
        deployment: Option<String>,
    },
    /// Show a run: its plan, its operations and their receipts, its artifacts
    #[command(after_help = help::RUN)]
    Show {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
    },
    /// Give a run up: start what it had stopped, remove what it had staged
    #[command(after_help = help::RUN)]
    Abandon {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// Why, for the journal
        #[arg(long, value_name = "TEXT", default_value = "given up by the operator")]
        reason: String,
    },
}

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// End with code 3 if a run is unfinished or a deployment overdue
    #[arg(long)]
    pub check: bool,
}

/// What `config` does.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show every setting with where its value is from
    #[command(after_help = help::CONFIG)]
    Show,
}

/// Which members, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScopeName {
    /// One member.
    Member,
    /// One member and all below it.
    Subtree,
    /// All but the root.
    NonRootDeployment,
    /// All, the root included.
    MaintenanceRoot,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Member => Self::Member,
            ScopeName::Subtree => Self::Subtree,
            ScopeName::NonRootDeployment => Self::NonRootDeployment,
            ScopeName::MaintenanceRoot => Self::MaintenanceRoot,
        }
    }
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only this deployment
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub deployment: Option<String>,
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The generation, or a part of it
    #[arg(value_name = "REF", value_parser = reference())]
    pub reference: Reference,
}

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// The generation, member or path
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    pub reference: Reference,
    /// Also print kind, permissions, owner, length and time
    #[arg(short)]
    pub long: bool,
    /// Everything below, not only the next level
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// Arguments of `cat`.
#[derive(Debug, clap::Args)]
pub struct Cat {
    /// The file
    #[arg(value_name = "REF:PATH", value_parser = reference())]
    pub reference: Reference,
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The earlier generation, or a part of it
    #[arg(value_name = "REF", value_parser = reference())]
    pub first: Reference,
    /// The later generation, or the same part of it
    #[arg(value_name = "REF", value_parser = reference())]
    pub second: Reference,
}

/// What only a restore into a directory knows.
const RESTORE_TO: [&str; 5] = ["to", "overwrite", "set_id_bits", "special_files", "no_owner"];

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct Restore {
    /// What to restore
    #[arg(value_name = "REF[:PATH]", value_parser = reference())]
    pub reference: Reference,
    /// Directory to restore into: new or empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["plan", "apply"])]
    pub to: Option<PathBuf>,
    /// Put the generation back into its service: upload, stop, load, start, check
    #[arg(long, conflicts_with_all = RESTORE_TO)]
    pub apply: bool,
    /// Print what --apply would do, and do nothing
    #[arg(long, conflicts_with_all = RESTORE_TO, conflicts_with = "apply")]
    pub plan: bool,
    /// JSON object that says for every member into which one it goes [default: into itself]
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    pub map: Option<PathBuf>,
    /// The configured deployment whose members are restored into [default: the generation's]
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment, conflicts_with = "to")]
    pub into: Option<String>,
    /// Apply only if the plan is still the one in this file, as `--plan --json` prints it
    #[arg(long, value_name = "FILE", requires = "apply")]
    pub reviewed: Option<PathBuf>,
    /// Begin at most so many operations, then stop; `resume` goes on
    #[arg(long, value_name = "N", requires = "apply")]
    pub max_steps: Option<u64>,
    /// Also write into a directory that is not empty: files that differ are replaced, nothing is
    /// removed
    #[arg(long)]
    pub overwrite: bool,
    /// Restore set-user-id and set-group-id bits and file capabilities
    #[arg(long)]
    pub set_id_bits: bool,
    /// Make fifos, sockets and devices
    #[arg(long)]
    pub special_files: bool,
    /// Do not give files their owners [default when not run as root]
    #[arg(long)]
    pub no_owner: bool,
    /// Threads that read, decode and write [default: two per processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Check everything but the stored chunks themselves: log, manifests, lists, index, packs' lengths
    #[arg(long, group = "scope")]
    pub structure: bool,
    /// Also read the stored bytes and compare them with their checksums: all of them, or a share
    /// such as 10% or 0.1, chosen anew each time [the default, of everything]
    #[arg(long, value_name = "SHARE", num_args = 0..=1, group = "scope")]
    #[expect(clippy::option_option, reason = "an option whose value may be left out")]
    pub read: Option<Option<OsString>>,
    /// Also decode every chunk and check its digest
    #[arg(long, group = "scope")]
    pub full: bool,
    /// Only what these refer to [default: everything]
    #[arg(value_name = "REF", value_parser = reference())]
    pub references: Vec<Reference>,
}

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
pub struct Stats {
    /// List only these generations [default: all]
    #[arg(value_name = "REF", value_parser = reference())]
    pub references: Vec<Reference>,
}

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Write one page for each command into this directory
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// A checksum algorithm by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChecksumName {
    /// BLAKE3-256.
    Blake3,
    /// SHA-256, beside BLAKE3.
    Sha256,
}

impl From<ChecksumName> for Algorithm {
    fn from(name: ChecksumName) -> Self {
        match name {
            ChecksumName::Blake3 => Self::Blake3,
            ChecksumName::Sha256 => Self::Sha256,
        }
    }
}

/// A text that is no valid value, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Parses references, whose paths may be any bytes.
fn reference() -> impl TypedValueParser<Value = Reference> {
    OsStringValueParser::new().try_map(|text| parse_reference(&text))
}

fn parse_reference(text: &OsStr) -> Result<Reference, Invalid> {
    Reference::parse(text.as_bytes()).map_err(|error| match error {
        crate::store::Error::BadReference { reason, .. } => Invalid(reason.to_owned()),
        other => Invalid(other.to_string()),
    })
}

fn parse_deployment(text: &str) -> Result<String, Invalid> {
    parse_label("deployment", text).map_err(|error| Invalid(error.to_string()))
}

fn parse_rate(text: &str) -> Result<u64, Invalid> {
    let needed = || Invalid("a number of bytes a second is needed, such as 50M".to_owned());
    parse_bytes(text).ok().filter(|bytes| *bytes > 0).ok_or_else(needed)
}

/// Parses a number of bytes with K, M, G, T or nothing behind it (powers of 1024).
fn parse_bytes(text: &str) -> Result<u64, Invalid> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => Some(0),
        "K" | "KB" | "KIB" => Some(10),
        "M" | "MB" | "MIB" => Some(20),
        "G" | "GB" | "GIB" => Some(30),
        "T" | "TB" | "TIB" => Some(40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    match (number, unit) {
        (Some(number), Some(unit)) if number <= u64::MAX >> unit => Ok(number << unit),
        _ => Err(Invalid("a number of bytes is needed, such as 50M".to_owned())),
    }
}

fn parse_threads(text: &str) -> Result<usize, Invalid> {
    /// More than any machine has processors.
    const THREADS_MAX: usize = 4096;
    let threads = text.parse().ok().filter(|threads| (1..=THREADS_MAX).contains(threads));
    threads.ok_or_else(|| Invalid(format!("a number from 1 to {THREADS_MAX} is needed")))
}

/// What follows `--read`: it takes a word that may also be the first REF.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadValue {
    /// A share, above 0 and up to 1.
    Share(f64),
    /// Not a share but a reference.
    Reference(Reference),
}

/// Parses what follows `--read`: `10%` and `0.1` are shares, anything else is a reference.
///
/// # Errors
/// A number that is no share, or a text that is no reference either.
pub fn parse_read_value(text: &OsStr) -> Result<ReadValue, Invalid> {
    let number = text.to_str().and_then(|text| match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse().ok(),
    });
    match number {
        Some(share) if share > 0.0 && share <= 1.0 => Ok(ReadValue::Share(share)),
        Some(_) => {
            Err(Invalid("a share is above 0% and up to 100%, or above 0 and up to 1".into()))
        }
        None => parse_reference(text).map(ReadValue::Reference),
    }
}

/// Returns the examples and the table of exit codes.
fn exit_codes() -> String {
    use std::fmt::Write as _;
    let mut text = format!("{}\n\nExit codes:\n", help::EXAMPLES);
    for (exit, meaning) in Exit::ALL {
        let _ = writeln!(text, "{:>5}  {meaning}", exit.code());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"strongroom").chain(line))
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_examples() {
        fn check(command: &clap::Command, path: &str) {
            for command in command.get_subcommands() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                let example = format!("{path} {}", command.get_name());
                assert!(help.contains(&example), "{example}");
                check(command, &example);
            }
        }
        check(&Args::command(), "strongroom");
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [["--json", "-q", "list"], ["list", "--json", "--quiet"]] {
            let args = parse(&line).unwrap();
            assert!(args.global.json && args.global.quiet);
        }
    }

    #[test]
    fn paths_need_not_be_utf_8() {
        let word = OsStr::from_bytes(b"orders@g3:api/\xff");
        let line = [OsStr::new("strongroom"), OsStr::new("cat"), word];
        let Command::Cat(cat) = Args::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(cat.reference.path.as_deref(), Some(&b"api/\xff"[..]));
    }

    #[test]
    fn bad_values_are_refused_with_the_reason() {
        let cases: [(&[&str], &str); 5] = [
            (&["show", "orders@3"], "after '@' comes 'latest' or 'g' and a number"),
            (&["backup", "--name", "a/b", "."], "holds '/'"),
            (&["backup", "--name", "a"], "required"),
            (&["backup", "--name", "a", "--threads", "0", "."], "from 1 to"),
            (&["verify", "--full", "--structure"], "cannot be used with"),
        ];
        for (line, reason) in cases {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(Exit::USAGE.code()));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn shares_are_told_from_references() {
        let read = |text: &str| parse_read_value(OsStr::new(text));
        for (text, share) in [("10%", 0.1), ("0.1", 0.1), ("100%", 1.0), ("1", 1.0), (".5", 0.5)] {
            assert_eq!(read(text).unwrap(), ReadValue::Share(share), "{text}");
        }
        for bad in ["0", "0%", "101%", "2", "-1", "nan", "inf", "orders@3"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let ReadValue::Reference(reference) = read("orders@g3").unwrap() else { panic!() };
        assert_eq!(reference.deployment, "orders");
    }
}
