//! The real `icp`, with a home of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Principal, Replica};
use crate::support::temp;

/// Says where the command is; otherwise it is looked for where scripts/icp puts it.
const ICP: &str = "STRONGROOM_ICP";

/// The installed command, and what it may write to.
pub struct Icp {
    program: PathBuf,
    home: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Icp {
    /// Finds the command; `None`, loudly, where it is not installed.
    #[track_caller]
    pub fn find() -> Option<Self> {
        let program = match std::env::var_os(ICP) {
            Some(path) => PathBuf::from(path),
            None => {
                let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
                target.join("tools/icp/icp")
            }
        };
        if program.is_file() {
            return Some(Self { program, home: temp() });
        }
        let at = std::panic::Location::caller();
        let program = program.display();
        assert!(std::env::var_os(ICP).is_none(), "{ICP} is {program}, which is no program");
        // Not with a macro: the output of tests that pass is not shown.
        let lines = format!("SKIPPED: {at}: no {program}: run scripts/icp\n");
        std::io::stderr().write_all(lines.as_bytes()).unwrap();
        None
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the variables that the command is run with, and no others.
    pub fn environment(&self) -> [(&'static str, &Path); 3] {
        [("HOME", self.home.path()), ("DO_NOT_TRACK", "1".as_ref()), ("CI", "1".as_ref())]
    }

    /// Returns `icp WORDS… -n URL -k KEY`, not yet run; the words are split at spaces.
    pub fn command(&self, replica: &Replica, words: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(self.environment()).stdin(Stdio::null());
        command.current_dir(self.home.path()).args(words.split(' '));
        command.args(["-n", &replica.url(), "-k", &replica.root_key_hex()]);
        command
    }

    /// Runs `icp canister WORDS… `.
    pub fn canister(&self, replica: &Replica, words: &str) -> Said {
        Said::of(self.command(replica, &format!("canister {words}")))
    }

    /// Runs `icp canister snapshot VERB ID WORDS…`.
    pub fn snapshot(&self, replica: &Replica, verb: &str, id: Principal, words: &str) -> Said {
        self.canister(replica, format!("snapshot {verb} {id} {words}").trim_end())
    }

    /// Runs `icp canister snapshot download|upload` with a directory.
    pub fn transfer(&self, replica: &Replica, verb: &str, words: &str, directory: &Path) -> Said {
        let mut command = self.command(replica, &format!("canister snapshot {verb} {words}"));
        command.arg(if verb == "download" { "--output" } else { "--input" }).arg(directory);
        Said::of(command)
    }
}

impl Said {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Expects success; returns standard output.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Expects success; returns standard output, which is JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// Expects failure without output; returns standard error.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.stderr.lines().any(|line| line.starts_with("Error: ")), "{self:?}");
        self.stderr
    }
}
