//! The built-in executors, with real programs as the services that they drive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use strongroom::run::inventory::Row;

mod command;
mod dir;
mod docs;
mod icp;
mod icp_alone;
mod process;

pub use process::play_runner;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// A member with nothing but its identity.
fn member(id: &str) -> Row {
    Row { id: id.into(), ..Row::default() }
}

/// Writes a shell script that can be run.
fn script(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// Waits until something holds; it fails only when it never does.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited for a minute in vain: {what}");
}
