//! The test process itself: who it runs as, children of it that play a part, and mounts.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Says which part a child plays; see `child.rs`. With `_0` and so on: its arguments.
const PART: &str = "STRONGROOM_IT_PART";
/// Says that a test runs again as a child without privileges.
const UNPRIVILEGED: &str = "STRONGROOM_IT_UNPRIVILEGED";

/// Permissions do not stop this user.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs the calling test, `name` with its modules, as a user without privileges. Returns `true` to
/// that user, who does the work; for root it starts the child, and returns `false`.
#[track_caller]
pub fn as_nobody(name: &str) -> bool {
    if !is_root() {
        return true;
    }
    assert!(std::env::var_os(UNPRIVILEGED).is_none(), "the child gave up its privileges");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--include-ignored"]);
    command.env(UNPRIVILEGED, "1").env("TMPDIR", "/tmp").current_dir("/");
    match command.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            if text.is_empty() && !output.status.success() {
                eprintln!("SKIPPED: {name}: nobody cannot run {:?}", command.get_args().nth(3));
                return false;
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
        }
        Err(error) => eprintln!("SKIPPED: {name}: setpriv: {error}"),
    }
    false
}

/// Returns the part that this process is to play, if it is such a child.
pub fn part_name() -> Option<String> {
    std::env::var(PART).ok()
}

/// Returns an argument of the part.
pub fn part_argument(number: usize) -> OsString {
    std::env::var_os(format!("{PART}_{number}")).expect("as many arguments as the part has")
}

/// Runs the command and returns its answer, and the most memory that it held, in bytes.
#[track_caller]
pub fn watched(arguments: &[&str]) -> (serde_json::Value, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(["--json", "--no-progress"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    let watch = std::thread::spawn(move || {
        // The kernel keeps the peak; the last look before the end is close enough to it.
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            // A process that has ended holds no memory.
            let Some(kib) = kib else { break };
            peak = peak.max(kib * 1024);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        peak
    });
    let answer = serde_json::from_reader(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    let peak = watch.join().unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
    assert!(peak > 0, "the peak was seen");
    (answer.unwrap(), peak)
}

/// A child of the test process that plays a part with these arguments.
pub struct Child(Command);

impl Child {
    pub fn new(part: &str, arguments: &[&OsStr]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child::plays_its_part", "--nocapture"]);
        command.env(PART, part).stdin(Stdio::null());
        for (number, argument) in arguments.iter().enumerate() {
            command.env(format!("{PART}_{number}"), argument);
        }
        Self(command)
    }

    /// Runs the child to its end.
    pub fn run(mut self) -> Output {
        self.0.output().unwrap()
    }

    /// Starts the child.
    pub fn start(mut self) -> std::process::Child {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// A file system that a test mounted; unmounted when dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts a new file system of this type; `None`, loudly, if that is not possible here.
    pub fn new(kind: &str, options: &str, at: &Path) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            other => {
                eprintln!("SKIPPED: cannot mount a {kind}: {other:?}");
                None
            }
        }
    }

    /// Changes the options of the mounted file system.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "unmounted {}", self.0.display());
    }
}
