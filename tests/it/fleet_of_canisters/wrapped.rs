//! The real `icp` behind a script that counts its calls and does harm at a chosen one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::World;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The runner is killed, and the command is not run.
    KillBefore,
    /// The runner is killed, and the command goes on without it.
    KillBeside,
    /// The command is run, and the runner is killed before it can know.
    KillAfter,
    /// The runner gets SIGINT while the command has yet to be run.
    InterruptBefore,
    /// The command is run, the runner gets SIGINT, and no answer.
    InterruptAfter,
    /// The command is run, and the runner gets SIGINT and the answer.
    InterruptAndAnswer,
}

/// The script. It works on `$here/harm`: a word for what to do, and the number of the call among
/// those whose arguments have the words in `$here/words`.
const SCRIPT: &str = r#"#!/bin/sh
here=HERE
echo "$*" >> $here/argv
case "$*" in
*"$(cat $here/words)"*) ;;
*) exec ICP "$@" ;;
esac
count=$(($(cat $here/count) + 1))
echo $count > $here/count
read harm number < $here/harm
[ $count = "$number" ] || exec ICP "$@"
case $harm in
KillBefore) kill -9 $PPID; exit 1 ;;
KillBeside) kill -9 $PPID; exec ICP "$@" ;;
KillAfter) ICP "$@"; kill -9 $PPID; exit 1 ;;
InterruptBefore) kill -INT $PPID; sleep 60; exit 1 ;;
InterruptAfter) ICP "$@" > $here/reply; kill -INT $PPID; sleep 60; exit 1 ;;
InterruptAndAnswer) ICP "$@"; code=$?; kill -INT $PPID; exit $code ;;
esac
"#;

impl World {
    /// Puts the script in the place of `icp`; it does no harm yet.
    pub fn wrap(&mut self) {
        let here = self.path("wrapped");
        fs::create_dir(&here).unwrap();
        self.script(&SCRIPT.replace("HERE", here.to_str().unwrap()));
        self.harm(Harm::KillBefore, "", 0);
    }

    /// Puts a script in the place of `icp`, in which `ICP` is the real one.
    pub fn script(&mut self, text: &str) {
        let path = self.path("icp.sh");
        fs::write(&path, text.replace("ICP", self.icp.program().to_str().unwrap())).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self.program = Some(path);
        self.configure();
    }

    /// Lets the call of that number from now on, among those with these words, go wrong.
    pub fn harm(&self, harm: Harm, words: &str, number: u64) {
        let here = self.path("wrapped");
        fs::write(here.join("words"), words).unwrap();
        fs::write(here.join("count"), "0\n").unwrap();
        fs::write(here.join("harm"), format!("{harm:?} {number}\n")).unwrap();
    }

    /// Returns the arguments of all commands so far.
    pub fn commands(&self) -> Vec<String> {
        lines(&self.path("wrapped/argv"))
    }

    /// Returns how many calls had the words.
    pub fn commands_with(&self, words: &str) -> usize {
        self.commands().iter().filter(|command| command.contains(words)).count()
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
