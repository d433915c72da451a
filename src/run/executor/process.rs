//! External commands, run with care: a program and its arguments, never a shell; a cleared
//! environment; a process group of their own; a time limit; outputs that are read at the same time
//! and bounded. What they print is untrusted, and an exit code says nothing of what happened.
//!
//! A command's standard input is the lock file of its [`Call`], or nothing. The lock belongs to the
//! open file, so it is held as long as the command or anything that it started keeps its standard
//! input, also after the runner's death. Background services detach from standard input, so one
//! that a command starts for good does not keep the lock.
//!
//! Invariant: no command outlives [`Command::run`], and none stays behind as a zombie. Only what a
//! command that ended by itself left in the background lives on.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::text::{last_words, printable, shown_command};
use super::{Call, Error};
use crate::limits::{KIB, MIB};

/// Most bytes of standard output that a command may write; one that writes more is killed.
pub const STDOUT_BYTES_MAX: usize = 4 * MIB;
/// How much of the end of standard error is kept, in bytes.
pub const STDERR_BYTES_MAX: usize = 64 * KIB;
/// Time between asking a command to stop and killing it.
const GRACE: Duration = Duration::from_secs(10);
/// How often the user's interruption is looked for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Bytes of one read, and reads of one turn: a turn takes more than any pipe holds.
const READ_BYTES: usize = 64 * KIB;
const READS_MAX: usize = 32;

/// A command to be run, any number of times.
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    limit: Duration,
    grace: Duration,
}

/// What a command that ended left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote to standard output, [`STDOUT_BYTES_MAX`] at most.
    pub stdout: Vec<u8>,
    /// The end of what it wrote to standard error, [`STDERR_BYTES_MAX`] at most.
    pub stderr: Vec<u8>,
    /// The command, for people.
    command: String,
}

impl Command {
    /// A command of this program, a path or a name that is looked for in `PATH`, that may take
    /// `limit` if its call does not say otherwise. It has no environment but `PATH` and `HOME`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>, limit: Duration) -> Self {
        let program = program.as_ref().to_owned();
        let (args, env) = (Vec::new(), Vec::new());
        let mut new = Self { program, args, env, directory: None, limit, grace: GRACE };
        new.inherit("PATH").inherit("HOME");
        new
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives it a variable of this process's environment, if there is one.
    pub fn inherit(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        if let Some(value) = std::env::var_os(&name) {
            self.env(name, value);
        }
        self
    }

    /// Sets the directory that it works in; else it is this process's.
    pub fn directory(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets the time between asking it to stop (SIGTERM to its process group) and killing it.
    pub fn grace(&mut self, grace: Duration) -> &mut Self {
        self.grace = grace;
        self
    }

    /// Returns the command for people: long arguments are shortened, control characters escaped.
    #[must_use]
    pub fn shown(&self) -> String {
        shown_command(std::iter::once(&self.program).chain(&self.args).map(OsString::as_os_str))
    }

    /// Runs the command to its end, whatever its exit code is.
    ///
    /// # Errors
    /// [`Error::Refused`] if it could not be started; [`Error::Unknown`] if it took too long or
    /// wrote more than [`STDOUT_BYTES_MAX`]; [`Error::Interrupted`].
    pub fn run(&self, call: &Call) -> Result<Output, Error> {
        if call.is_interrupted() {
            return Err(Error::Interrupted);
        }
        let limit = call.timeout.unwrap_or(self.limit);
        let deadline = Instant::now().checked_add(limit);
        let mut running = self.start(call)?;
        let lost = |error: io::Error| {
            Error::Unknown(format!("{}: lost sight of it: {error}", self.shown()))
        };
        let mut ending: Option<(Ending, Instant)> = None;
        while !running.has_ended().map_err(lost)? {
            running.wait_and_read().map_err(lost)?;
            let now = Instant::now();
            match &ending {
                None => {
                    if let Some(why) = running.reason_to_end(call, deadline, now) {
                        running.signal(Signal::TERM);
                        ending = Some((why, now + self.grace));
                    }
                }
                Some((_, kill_at)) if now >= *kill_at => running.signal(Signal::KILL),
                Some(_) => {}
            }
        }
        if ending.is_some() {
            // What did not go with its leader. The leader is not waited for yet, so the group's
            // number is still its own.
            running.signal(Signal::KILL);
        }
        // What it wrote before it ended is in the pipes by now; whoever else holds them is not
        // waited for.
        running.read().map_err(lost)?;
        let too_much = running.wrote_too_much();
        let output = running.finish(self.shown()).map_err(lost)?;
        match ending {
            Some((Ending::Interrupted, _)) => Err(Error::Interrupted),
            Some((Ending::TimeLimit, _)) => {
                let limit = format!("did not end within {} s", limit.as_secs_f64());
                Err(Error::Unknown(output.failure(&limit)))
            }
            Some((Ending::TooMuchOutput, _)) => Err(Error::Unknown(output.too_much())),
            None if too_much => Err(Error::Unknown(output.too_much())),
            None => Ok(output),
        }
    }

    fn start(&self, call: &Call) -> Result<Running, Error> {
        let refused = |error: io::Error| {
            Error::Refused(format!("{}: cannot be started: {error}", self.shown()))
        };
        let input = match &call.lock {
            Some(lock) => Stdio::from(lock.try_clone().map_err(refused)?),
            None => Stdio::null(),
        };
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(n, v)| (n, v)));
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let child = command.spawn().map_err(refused)?;
        Running::new(child)
            .map_err(|error| Error::Unknown(format!("{}: lost sight of it: {error}", self.shown())))
    }
}

impl Output {
    /// Says what was wrong, with the command and its last words.
    #[must_use]
    pub fn failure(&self, what: &str) -> String {
        let words = last_words(&self.stderr);
        let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        format!("{}: {what}{said}", self.command)
    }

    /// Says how it ended, with the command and its last words.
    #[must_use]
    pub fn ended(&self) -> String {
        self.failure(&format!("ended with {}", self.status))
    }

    /// Says that its reply is not what it should be, with the beginning of it.
    #[must_use]
    pub fn bad_reply(&self, why: &str) -> String {
        let reply = printable(&self.stdout[..self.stdout.len().min(120)]);
        let more = if self.stdout.len() > 120 { "…" } else { "" };
        self.failure(&format!("its reply cannot be used: {why} (reply: '{reply}{more}')"))
    }

    fn too_much(&self) -> String {
        self.failure(&format!("wrote more than {} MiB", STDOUT_BYTES_MAX / MIB))
    }
}

/// Why a command is ended before it ends by itself.
enum Ending {
    Interrupted,
    TimeLimit,
    TooMuchOutput,
}

/// A started command, with its process group. Dropped, it is killed.
struct Running {
    child: Child,
    pid: Pid,
    /// Becomes readable when the command ends; none on kernels that have no such thing.
    ended: Option<OwnedFd>,
    out: Pipe<ChildStdout>,
    err: Pipe<ChildStderr>,
    is_over: bool,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let out = Pipe::new(child.stdout.take(), STDOUT_BYTES_MAX + 1, Keep::First);
        let err = Pipe::new(child.stderr.take(), STDERR_BYTES_MAX, Keep::Last);
        let running = Self { child, pid, ended, out, err, is_over: false };
        // Only now, so that an error ends the command.
        running.out.unblock()?;
        running.err.unblock()?;
        Ok(running)
    }

    /// Says whether the command has ended; it is not reaped yet.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(rustix::process::waitid(WaitId::Pid(self.pid), options)?.is_some())
    }

    /// Waits until there is something to read, the command ends, or a tick is over; and reads.
    fn wait_and_read(&mut self) -> io::Result<()> {
        let mut waiting = Vec::with_capacity(3);
        let pipes =
            [self.out.end.as_ref().map(AsFd::as_fd), self.err.end.as_ref().map(AsFd::as_fd)];
        for fd in pipes.into_iter().flatten().chain(self.ended.as_ref().map(AsFd::as_fd)) {
            waiting.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        match rustix::event::poll(&mut waiting, Some(&TICK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.read(),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.out.read()?;
        self.err.read()
    }

    fn wrote_too_much(&self) -> bool {
        self.out.bytes.len() > STDOUT_BYTES_MAX
    }

    fn reason_to_end(
        &self,
        call: &Call,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Option<Ending> {
        if call.is_interrupted() {
            Some(Ending::Interrupted)
        } else if self.wrote_too_much() {
            Some(Ending::TooMuchOutput)
        } else if deadline.is_some_and(|deadline| now >= deadline) {
            Some(Ending::TimeLimit)
        } else {
            None
        }
    }

    /// Sends a signal to the group; there may be nobody left, which is no matter.
    fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Reaps the command, which has ended.
    fn finish(mut self, command: String) -> io::Result<Output> {
        let status = self.child.wait()?;
        self.is_over = true;
        let stdout = std::mem::take(&mut self.out.bytes);
        let stderr = std::mem::take(&mut self.err.bytes);
        Ok(Output { status, stdout, stderr, command })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

enum Keep {
    First,
    Last,
}

/// The reading end of a command's output, and what of it is kept.
struct Pipe<P> {
    end: Option<P>,
    bytes: Vec<u8>,
    bytes_max: usize,
    keep: Keep,
}

impl<P: Read + AsFd> Pipe<P> {
    fn new(end: Option<P>, bytes_max: usize, keep: Keep) -> Self {
        Self { end, bytes: Vec::new(), bytes_max, keep }
    }

    fn unblock(&self) -> io::Result<()> {
        match &self.end {
            Some(pipe) => Ok(rustix::io::ioctl_fionbio(pipe, true)?),
            None => Ok(()),
        }
    }

    /// Reads what is there, or one turn of it.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.end else { return Ok(()) };
        let mut buffer = vec![0; READ_BYTES];
        for _ in 0..READS_MAX {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.end = None;
                    break;
                }
                Ok(length) => match self.keep {
                    Keep::First => {
                        let room = self.bytes_max - self.bytes.len();
                        self.bytes.extend_from_slice(&buffer[..length.min(room)]);
                    }
                    Keep::Last => {
                        self.bytes.extend_from_slice(&buffer[..length]);
                        let excess = self.bytes.len().saturating_sub(self.bytes_max);
                        self.bytes.drain(..excess);
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
