//! External commands: their limits, what they inherit, and what becomes of them.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strongroom::run::executor::process::{Command, STDERR_BYTES_MAX, STDOUT_BYTES_MAX};
use strongroom::run::executor::{Call, Error};

use super::{LONG, wait_until};
use crate::support::{Child, temp};

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh", LONG);
    command.args(["-c", script]);
    command
}

/// Says whether a process runs; a zombie does not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn locked(path: &Path) -> File {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.unwrap();
    file.try_lock().unwrap();
    file
}

fn is_free(path: &Path) -> bool {
    match File::open(path).unwrap().try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
}

#[test]
fn both_outputs_are_read_while_the_command_runs() {
    // More than pipes hold, in turns: a reader of one at a time would wait for ever.
    let output =
        sh("for i in 1 2 3; do head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; \
        done; echo end; echo last words >&2; exit 7");
    let output = output.run(&Call::new()).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout.len(), 3_000_004);
    assert!(output.stdout.ends_with(b"\0end\n"));
    assert_eq!(output.stderr.len(), STDERR_BYTES_MAX);
    assert!(output.stderr.ends_with(b"\0last words\n"));
}

#[test]
fn errors_carry_the_command_its_exit_code_and_its_last_words() {
    let output = sh("seq 1 100000 >&2; printf '\\033[2Jfalse\\n' >&2; exit 3");
    let ended = output.run(&Call::new()).unwrap().ended();
    assert!(ended.starts_with("sh -c 'seq 1 100000"), "{ended}");
    assert!(ended.contains("ended with exit status: 3; it said: "), "{ended}");
    assert!(ended.ends_with(" | 99999 | 100000 | \\u{1b}[2Jfalse"), "{ended}");
    let killed = sh("kill -9 $$").run(&Call::new()).unwrap();
    assert!(killed.ended().contains("signal: 9"), "{}", killed.ended());
}

#[test]
fn more_output_than_allowed_is_an_error_and_the_command_is_killed() {
    let most = format!("head -c {STDOUT_BYTES_MAX} /dev/zero");
    let output = sh(&most).run(&Call::new()).unwrap();
    assert_eq!(output.stdout.len(), STDOUT_BYTES_MAX);
    // Seen at the end of a command that ends in time, and in the middle of one that never would.
    for script in [format!("{most}; echo"), "echo $$ >&2; exec yes".into()] {
        let result = sh(&script).run(&Call::new());
        let Err(Error::Unknown(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("wrote more than 4 MiB"), "{text}");
        if let Some((_, pid)) = text.split_once("it said: ") {
            assert!(!is_alive(pid), "{text}");
        }
    }
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let call = Call { timeout: Some(Duration::from_millis(100)), ..Call::new() };
    let result = sh("echo busy >&2; exec sleep 1000").run(&call);
    let Err(Error::Unknown(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("did not end within 0.1 s"), "{text}");
    // The command's own limit counts where the call has none.
    let mut command = Command::new("sleep", Duration::from_millis(100));
    let result = command.arg("1000").run(&Call::new());
    assert!(matches!(result, Err(Error::Unknown(_))), "{result:?}");
}

#[test]
fn an_interruption_ends_the_whole_group_even_one_that_does_not_listen() {
    let temp = temp();
    let pids = temp.path().join("pids");
    let mut command = sh(&format!(
        "trap '' TERM; sh -c 'while :; do sleep 0.05; done' & echo $$ $! > {0}.tmp; \
        mv {0}.tmp {0}; while :; do sleep 0.05; done",
        pids.display()
    ));
    command.grace(Duration::from_millis(50));
    let call = Call::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("both run", || pids.exists());
            call.interrupted.store(true, Ordering::Relaxed);
        });
        let result = command.run(&call);
        assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    });
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        wait_until("the group is gone", || !is_alive(pid));
    }
    // Reaped, too: not even a zombie.
    let leader = pids.split_whitespace().next().unwrap();
    assert!(!Path::new(&format!("/proc/{leader}")).exists());
}

#[test]
fn a_command_that_ends_when_asked_may_tidy_up_first() {
    let temp = temp();
    let (ready, tidy) = (temp.path().join("ready"), temp.path().join("tidy"));
    let command = sh(&format!(
        "trap 'echo > {}; exit 0' TERM; echo > {}; while :; do sleep 0.02; done",
        tidy.display(),
        ready.display()
    ));
    let call = Call::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("it runs", || ready.exists());
            call.interrupted.store(true, Ordering::Relaxed);
        });
        // Its exit code 0 says nothing: it was interrupted.
        assert!(matches!(command.run(&call), Err(Error::Interrupted)));
    });
    assert!(tidy.exists());
}

#[test]
fn nothing_is_started_after_an_interruption_and_what_cannot_start_is_refused() {
    let temp = temp();
    let trace = temp.path().join("trace");
    let call = Call::new();
    call.interrupted.store(true, Ordering::Relaxed);
    let result = sh(&format!("echo > {}", trace.display())).run(&call);
    assert!(matches!(result, Err(Error::Interrupted)) && !trace.exists(), "{result:?}");
    let mut nul = Command::new("echo", LONG);
    nul.arg("a\0b");
    for command in [Command::new("strongroom-no-such-program", LONG), nul] {
        let result = command.run(&Call::new());
        let Err(Error::Refused(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("cannot be started"), "{text}");
    }
}

#[test]
fn commands_get_no_environment_but_what_is_named() {
    let (other, value) = std::env::vars_os()
        .find(|(name, value)| name != "PATH" && name != "HOME" && !value.is_empty())
        .expect("tests run with more than two variables");
    let names = |command: &Command| {
        let output = command.run(&Call::new()).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let variables = text.split_terminator('\0').map(str::to_owned);
        let mut variables: Vec<_> = variables.collect();
        variables.sort();
        variables
    };
    let mut command = Command::new("env", LONG);
    command.arg("-0");
    for variable in names(&command) {
        assert!(variable.starts_with("PATH=") || variable.starts_with("HOME="), "{variable}");
    }
    command.inherit(&other).inherit("STRONGROOM_NOT_SET").env("GIVEN", "a b");
    let named = names(&command);
    let expected = format!("{}={}", other.to_string_lossy(), value.to_string_lossy());
    assert!(named.contains(&expected) && named.contains(&"GIVEN=a b".to_owned()), "{named:?}");
    assert!(!named.iter().any(|variable| variable.starts_with("STRONGROOM_NOT_SET")));
}

#[test]
fn commands_read_nothing_and_lead_a_group_of_their_own() {
    // The test's own standard input may be anything; the command sees an end at once.
    let output = sh("cat; echo $$; cut -d ' ' -f 5 /proc/$$/stat; pwd");
    let temp = temp();
    let lock = Arc::new(locked(&temp.path().join("lock")));
    for lock in [None, Some(lock)] {
        let mut command = output.clone();
        command.directory(temp.path());
        let output = command.run(&Call { lock, ..Call::new() }).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], lines[1], "process and group");
        assert_eq!(Path::new(lines[2]), temp.path().canonicalize().unwrap());
    }
}

/// The part of a runner that is killed while its command runs.
pub fn play_runner(lock: &Path, ready: &Path, go: &Path) {
    let command = sh(&format!(
        "echo > {}; while [ ! -e {} ]; do sleep 0.02; done",
        ready.display(),
        go.display()
    ));
    let lock = Some(Arc::new(locked(lock)));
    command.run(&Call { lock, ..Call::new() }).unwrap();
}

#[test]
fn a_command_that_outlives_its_runner_keeps_the_lock() {
    let temp = temp();
    let [lock, ready, go] = ["lock", "ready", "go"].map(|name| temp.path().join(name));
    let arguments = [&lock, &ready, &go].map(|path| path.as_os_str());
    let mut runner = Child::new("runner of a command", &arguments).start();
    wait_until("the command runs", || ready.exists());
    runner.kill().unwrap();
    runner.wait().unwrap();
    assert!(!is_free(&lock), "the orphaned command holds the lock");
    std::fs::write(&go, "").unwrap();
    wait_until("the lock is free again", || is_free(&lock));
}

#[test]
fn what_a_command_starts_for_good_lives_on_without_the_lock() {
    let temp = temp();
    let path = temp.path().join("lock");
    let call = Call { lock: Some(Arc::new(locked(&path))), ..Call::new() };
    // It keeps both outputs open, and is not waited for.
    let output = sh("sleep 1000 & echo $!").run(&call).unwrap();
    let pid = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let alive = is_alive(&pid);
    drop(call);
    // Not at once: until it has detached itself, and while another thread starts a command.
    let freed = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_free(&path)
    });
    let number: i32 = pid.parse().unwrap();
    let pid = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(alive, "the service was killed with its starter");
    assert!(freed, "the service holds the lock");
}
