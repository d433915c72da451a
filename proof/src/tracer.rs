//! A command under trace: every system call of all its threads is seen before and after it happens,
//! and may be where the command dies, or fail.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Where the output of a traced command goes: nowhere, but elsewhere than its errors.
pub const OUTPUT: &str = "/dev/zero";

/// `op` of `PTRACE_GET_SYSCALL_INFO` before a system call.
const INFO_ENTRY: u8 = 1;
/// The same behind it.
const INFO_EXIT: u8 = 2;

/// A system call of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub thread: Pid,
    /// As in `libc::SYS_*`.
    pub number: i64,
    pub args: [u64; 6],
}

impl Call {
    /// Takes an argument for a descriptor.
    pub fn fd(&self, at: usize) -> RawFd {
        self.args[at] as u32 as RawFd
    }

    /// Returns where a descriptor of the thread leads.
    pub fn path_of(&self, fd: RawFd) -> Option<PathBuf> {
        let place = if fd == libc::AT_FDCWD {
            format!("/proc/{}/cwd", self.thread)
        } else {
            format!("/proc/{}/fd/{fd}", self.thread)
        };
        std::fs::read_link(place).ok()
    }

    /// Returns what a path argument means, taken from the descriptor of a folder before it.
    pub fn path_at(&self, folder: usize, path: usize) -> Option<PathBuf> {
        let bytes = self.text(self.args[path])?;
        let folder = self.path_of(self.fd(folder))?;
        Some(folder.join(String::from_utf8(bytes).ok()?))
    }

    /// Reads a text that ends with a zero.
    pub fn text(&self, address: u64) -> Option<Vec<u8>> {
        // Up to the end of the page, so that nothing is read that may not be there.
        let mut text = Vec::new();
        while text.len() < 4096 {
            let at = address + text.len() as u64;
            let mut part = self.bytes(at, 4096 - (at % 4096) as usize)?;
            let end = part.iter().position(|byte| *byte == 0);
            part.truncate(end.unwrap_or(part.len()));
            text.extend_from_slice(&part);
            if end.is_some() {
                return Some(text);
            }
        }
        None
    }

    /// Reads memory of the command.
    pub fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        use nix::sys::uio::{RemoteIoVec, process_vm_readv};
        let mut bytes = vec![0; len];
        let remote = [RemoteIoVec { base: address as usize, len }];
        let mut local = [std::io::IoSliceMut::new(&mut bytes)];
        let read = process_vm_readv(self.thread, &mut local, &remote).ok()?;
        (read == len).then_some(bytes)
    }
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It happens.
    Go,
    /// The command dies here.
    Kill,
    /// It does not happen, and this is the answer.
    Fail(Errno),
    /// The third argument, a length, is this one.
    Shorten(u64),
}

/// Who watches.
pub trait Watch {
    /// Is asked at every stop, before and behind system calls, whether to look what it is about: that
    /// takes time. Otherwise this is what is done.
    fn stop(&mut self) -> Option<Action> {
        None
    }

    /// Is asked before a system call.
    fn enter(&mut self, _call: &Call) -> Action {
        Action::Go
    }

    /// Is told what a system call returned; the command may die here ([`Action::Kill`]).
    fn exit(&mut self, _call: &Call, _result: i64) -> Action {
        Action::Go
    }
}

/// How a traced command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed(Signal),
}

struct Tracer<'w> {
    leader: Pid,
    watch: &'w mut dyn Watch,
    /// Whether the command itself runs, and not the shell that starts it.
    is_started: bool,
    /// What was done about the call that each thread is in.
    inside: HashMap<Pid, (Call, Action)>,
}

/// Runs a command to its end, or to where `watch` lets it die.
pub fn run(command: &Command, watch: &mut dyn Watch) -> anyhow::Result<End> {
    let mut child = start(command)?;
    let leader = Pid::from_raw(child.id() as i32);
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).context("cannot trace")?;
    ptrace::interrupt(leader)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(b"\n")?;
    }
    let mut tracer = Tracer { leader, watch, is_started: false, inside: HashMap::new() };
    let end = tracer.trace();
    if end.is_err() {
        let _ = kill(leader, Signal::SIGKILL);
    }
    end
}

/// Starts a shell that becomes the command when it has read a line.
fn start(command: &Command) -> anyhow::Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read _; exec \"$@\"", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::piped());
    let output = OpenOptions::new().write(true).open(OUTPUT)?;
    shell.stdout(output).stderr(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell.spawn().context("cannot start a shell")
}

impl Tracer<'_> {
    fn trace(&mut self) -> anyhow::Result<End> {
        let any = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(any)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => self.stopped(thread)?,
                Ok(WaitStatus::PtraceEvent(thread, _, event)) => {
                    self.is_started |= event == libc::PTRACE_EVENT_EXEC;
                    go_on(thread, None)?;
                }
                Ok(WaitStatus::Stopped(thread, signal)) => go_on(thread, Some(signal))?,
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    return Ok(End::Exited(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    return Ok(End::Killed(signal));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => bail!("cannot wait for the command: {errno}"),
            }
        }
    }

    fn stopped(&mut self, thread: Pid) -> anyhow::Result<()> {
        if !self.is_started {
            return go_on(thread, None);
        }
        let action = self.watch.stop().map_or_else(|| self.look(thread), Ok);
        let action = match action {
            Ok(action) => action,
            // It was killed while it was stopped.
            Err(Errno::ESRCH) => return Ok(()),
            Err(errno) => bail!("cannot look into the command: {errno}"),
        };
        if action == Action::Kill {
            kill(self.leader, Signal::SIGKILL)?;
            return Ok(());
        }
        go_on(thread, None)
    }

    fn look(&mut self, thread: Pid) -> Result<Action, Errno> {
        let info = ptrace::syscall_info(thread)?;
        let mut registers = ptrace::getregs(thread)?;
        if info.op == INFO_ENTRY {
            let r = &registers;
            let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
            let call = Call { thread, number: r.orig_rax as i64, args };
            let action = self.watch.enter(&call);
            match action {
                Action::Fail(_) => registers.orig_rax = u64::MAX,
                Action::Shorten(len) => registers.rdx = len,
                Action::Go | Action::Kill => {}
            }
            if matches!(action, Action::Fail(_) | Action::Shorten(_)) {
                ptrace::setregs(thread, registers)?;
            }
            self.inside.insert(thread, (call, action));
            return Ok(action);
        }
        if info.op != INFO_EXIT {
            return Ok(Action::Go);
        }
        let Some((call, action)) = self.inside.remove(&thread) else { return Ok(Action::Go) };
        match action {
            Action::Fail(errno) => registers.rax = (-i64::from(errno as i32)) as u64,
            // The command relies on its registers.
            Action::Shorten(_) => registers.rdx = call.args[2],
            Action::Go | Action::Kill => {}
        }
        if matches!(action, Action::Fail(_) | Action::Shorten(_)) {
            ptrace::setregs(thread, registers)?;
        }
        Ok(self.watch.exit(&call, registers.rax as i64))
    }
}

/// Lets a thread run to its next system call, or the end of this one.
fn go_on(thread: Pid, signal: Option<Signal>) -> anyhow::Result<()> {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => bail!("cannot let the command go on: {errno}"),
    }
}
