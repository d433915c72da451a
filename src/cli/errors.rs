//! Errors as people see them: `strongroom: <what failed>: <cause>`, a hint with a command that can
//! be run, and the exit code.
//!
//! The library says what is wrong; which code that is and what to do about it is decided here, and
//! only here.

use std::error::Error as StdError;
use std::io;

use super::context::Context;
use super::exit::Exit;
use super::output::{escaped, note, printable, shell_word};
use crate::store::{Error, PageFault, Reference};
use crate::{backend, lease};

/// Why a command ends without having done everything.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// `<what failed>: <cause>`; nothing if there is nobody to tell.
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The arguments are wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::USAGE, message: message.into(), hint: None }
    }

    /// Something failed that has no code of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::FAILED, message: message.into(), hint: None }
    }

    /// Something stored is damaged.
    pub fn damaged(message: impl Into<String>) -> Self {
        Self { exit: Exit::DAMAGE, message: message.into(), hint: None }
    }

    /// Another process has what is needed.
    pub fn locked(message: impl Into<String>) -> Self {
        Self { exit: Exit::LOCKED, message: message.into(), hint: None }
    }

    /// A signal ended the work.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { exit: Exit::INTERRUPTED, message: message.into(), hint: None }
    }

    /// The store could not do something; `what` is what was to be done.
    pub fn store(context: &Context, what: &str, error: Error) -> Self {
        let message = match &error {
            Error::Interrupted => format!("{what}: interrupted"),
            Error::NotAFile { .. } => format!("{what}: not a regular file"),
            _ => format!("{what}: {error}"),
        };
        Self { exit: exit_of(&error), message, hint: hint_of(context, &error) }
    }

    /// As [`Self::store`], for work on what a reference points to.
    pub fn at(context: &Context, verb: &str, reference: &Reference, error: Error) -> Self {
        let named = name_of(reference);
        let hint = match &error {
            Error::UnknownPath { member, .. } => {
                let member = format!("{}:{member}", generation_of(reference));
                let ls = context.command(&format!("ls -R {}", shell_word(&member)));
                Some(format!("`{ls}` lists the paths that are there"))
            }
            Error::NotAFile { .. } => {
                let ls = context.command(&format!("ls {}", shell_word(&named)));
                Some(format!("`{ls}` lists a directory; `strongroom restore` brings it back"))
            }
            _ => None,
        };
        let failure = Self::store(context, &format!("{verb} {named}"), error);
        Self { hint: hint.or(failure.hint), ..failure }
    }

    /// Replaces the hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says whether this is only that nobody reads standard output any more.
    pub fn is_closed_pipe(&self) -> bool {
        self.message.is_empty()
    }

    /// Returns what failed, and why.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns how the command ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells the failure on stderr.
    pub fn report(&self) {
        if !self.message.is_empty() {
            note(&format!("strongroom: {}", self.message));
        }
        if let Some(hint) = &self.hint {
            note(&format!("  hint: {hint}"));
        }
    }
}

impl From<io::Error> for Failure {
    /// Standard output failed. A reader that has gone wants no more: that ends quietly.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::DONE, message: String::new(), hint: None };
        }
        Self::failed(format!("write to standard output: {error}"))
    }
}

/// Ends a command whose outcome stands whether or not it can be printed: a closed pipe does not
/// change it.
///
/// # Errors
/// Standard output failed otherwise.
pub fn printed(exit: Exit, result: io::Result<()>) -> Result<Exit, Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit),
    }
}

/// Returns a reference as it is written.
pub fn name_of(reference: &Reference) -> String {
    match &reference.path {
        Some(path) => format!("{}:{}", generation_of(reference), escaped(path)),
        None => generation_of(reference),
    }
}

fn generation_of(reference: &Reference) -> String {
    use crate::store::Which;
    match reference.which {
        Which::Latest => reference.deployment.clone(),
        Which::Number(number) => format!("{}@{number}", reference.deployment),
    }
}

/// Says whether a path leads nowhere.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns the code for an error of the library.
pub fn exit_of(error: &Error) -> Exit {
    match error {
        Error::NotAStore { .. } => Exit::NO_STORE,
        Error::Lease(error) if !matches!(error, lease::Error::Backend(_)) => Exit::LOCKED,
        Error::Interrupted => Exit::INTERRUPTED,
        Error::BadReference { .. }
        | Error::BadLabel(_)
        | Error::DuplicateMember { .. }
        | Error::KeepsNothing
        | Error::UnknownTimeZone { .. }
        | Error::Members { .. } => Exit::USAGE,
        Error::NotKnown { .. } => Exit::DAMAGE,
        error if error.is_damage() => Exit::DAMAGE,
        _ => Exit::FAILED,
    }
}

/// Returns the code for a list page that cannot be read.
pub fn exit_of_page(fault: &PageFault) -> Exit {
    if fault.is_damage() { Exit::DAMAGE } else { Exit::FAILED }
}

/// Returns what to do about an error.
fn hint_of(context: &Context, error: &Error) -> Option<String> {
    let run = |command: &str| format!("`{}`", context.command(command));
    let hint = match error {
        Error::NotAStore { .. } => {
            let backup = context.command("backup --init");
            format!("{} creates one, and so does `{backup} ...`", run("init"))
        }
        Error::Exists { .. } => format!("it can be used as it is: {}", run("list")),
        Error::Backend(backend::Error::NotEmpty { .. }) => {
            "a store is created in a new or empty directory; choose another one".to_owned()
        }
        Error::NeedsNewer { .. } => format!(
            "install a newer strongroom than {} to write; reading works with this one",
            env!("CARGO_PKG_VERSION")
        ),
        Error::UnknownDeployment { known, .. } if known.is_empty() => {
            format!("the store is empty; {} makes a first generation", run("backup --name NAME PATH"))
        }
        Error::UnknownDeployment { known, .. } => {
            format!("there is {}; {} shows them", some_of(known), run("list"))
        }
        Error::UnknownGeneration { deployment, newest, .. } => format!(
            "the newest is {deployment}@{newest}; {} shows all",
            run(&format!("list {}", shell_word(deployment)))
        ),
        Error::UnknownMember { known, .. } => format!("its members are {}", some_of(known)),
        Error::DuplicateMember { .. } => "write NAME=PATH to name members apart".to_owned(),
        Error::TargetNotEmpty { .. } => {
            "add --overwrite to write into it (files that differ are replaced, nothing is removed), \
             or choose another directory"
                .to_owned()
        }
        Error::Lease(error) if !matches!(error, lease::Error::Backend(_)) => {
            "run the same command again when the other process is done".to_owned()
        }
        Error::Forgotten { name, can_return: true } => {
            format!("{} brings it back", run(&format!("undo {}", shell_word(&name.to_string()))))
        }
        Error::Pinned { name } => {
            format!("{} lets it go", run(&format!("unpin {}", shell_word(&name.to_string()))))
        }
        Error::KeepsNothing => {
            "say what to keep, such as --keep-daily 7 --keep-monthly 12, or what to forget".to_owned()
        }
        Error::NotKnown { .. } => format!(
            "nothing was changed; {} tells what is damaged, and a generation that cannot be read can \
             be forgotten by its number",
            run("verify --structure")
        ),
        Error::Moved { .. } => "run the same command again".to_owned(),
        Error::TakenAway { .. } => "run the same command again: what is missing is stored again".to_owned(),
        error if error.needs_newer() => {
            format!("install a newer strongroom than {}", env!("CARGO_PKG_VERSION"))
        }
        Error::Header { .. } => {
            "nothing else is touched: put back the object `store` from a copy of this store".to_owned()
        }
        error if error.is_damage() => {
            format!("{} finds everything that is damaged and what it touches", run("verify --full"))
        }
        error => return system_hint(context, error),
    };
    Some(hint)
}

/// Returns what to do about an answer of the operating system.
fn system_hint(context: &Context, error: &Error) -> Option<String> {
    let target = matches!(error, Error::Target(_));
    let place = match context.store_path() {
        Ok(store) if !target => format!("the store {}", store.display()),
        _ => "the target".to_owned(),
    };
    let kept = if target {
        "run the same command again: what is in place is kept"
    } else {
        "run the same command again: what is stored so far is kept and reused"
    };
    match system_error(error)?.kind() {
        io::ErrorKind::StorageFull if target => {
            Some(format!("free space on the file system of {place}, then {kept}"))
        }
        io::ErrorKind::StorageFull => Some(format!(
            "free space on the file system of {place} (a reserve was left for `strongroom prune`), \
             then {kept}"
        )),
        io::ErrorKind::QuotaExceeded => {
            Some(format!("raise the quota on the file system of {place}, then {kept}"))
        }
        io::ErrorKind::ReadOnlyFilesystem if !target => Some(format!(
            "the file system of {place} is read-only: it can be read, but not written to"
        )),
        io::ErrorKind::PermissionDenied => {
            Some(format!("check the owner and the permissions of {place}"))
        }
        _ => None,
    }
}

/// Returns the answer of the operating system behind an error.
fn system_error(error: &Error) -> Option<&io::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(system) = error.downcast_ref() {
            return Some(system);
        }
        next = error.source();
    }
    None
}

/// Returns names for a sentence, not all if they are many.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| printable(name)).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Global;
    use crate::digest::Digest;
    use crate::format;
    use crate::store::{ChunkFault, ChunkReason, PageReason};

    fn context() -> Context {
        let store = Some("/backup/my store".into());
        Context::new(Global {
            config: None,
            store,
            limit_rate: None,
            json: false,
            quiet: false,
            no_progress: true,
        })
    }

    fn io(kind: io::ErrorKind) -> backend::Error {
        let path = "/backup/my store/tmp/1".to_owned();
        backend::Error::Io { action: "write", path, source: kind.into() }
    }

    fn fault(reason: ChunkReason) -> ChunkFault {
        ChunkFault { digest: Digest::of(b""), place: None, reason }
    }

    #[test]
    fn missing_bytes_are_damage_and_unreadable_ones_are_not() {
        let page = |reason| {
            let digest = Digest::of(b"");
            let reason = Box::new(reason);
            Error::from(PageFault { digest, first: Vec::new(), after: None, reason })
        };
        let unknown = || fault(ChunkReason::Unknown);
        let unreadable = || fault(ChunkReason::Backend(io(io::ErrorKind::PermissionDenied)));
        let key = crate::backend::Key::new("manifests/x").unwrap();
        for damage in [
            Error::from(unknown()),
            Error::from(fault(ChunkReason::Base(Box::new(unknown())))),
            page(PageReason::Chunk(Box::new(unknown()))),
            Error::Backend(backend::Error::NotFound { key }),
        ] {
            assert_eq!(exit_of(&damage), Exit::DAMAGE, "{damage}");
            assert!(hint_of(&context(), &damage).unwrap().contains("verify --full"));
        }
        for other in [
            Error::from(unreadable()),
            page(PageReason::Chunk(Box::new(unreadable()))),
            Error::Backend(io(io::ErrorKind::PermissionDenied)),
            Error::Header {
                location: String::new(),
                source: format::Error::Newer { what: "store", actual: 2, supported: 1 },
            },
        ] {
            assert_eq!(exit_of(&other), Exit::FAILED, "{other}");
        }
    }

    #[test]
    fn codes_follow_the_cause() {
        let cases = [
            (Error::NotAStore { location: String::new() }, Exit::NO_STORE),
            (Error::Lease(lease::Error::Held), Exit::LOCKED),
            (Error::Interrupted, Exit::INTERRUPTED),
            (Error::DuplicateMember { member: "a".into() }, Exit::USAGE),
            (Error::Exists { location: String::new() }, Exit::FAILED),
        ];
        for (error, exit) in cases {
            assert_eq!(exit_of(&error), exit, "{error}");
        }
    }

    #[test]
    fn hints_hold_commands_that_can_be_run() {
        let hint = |error| hint_of(&context(), &error).unwrap();
        let no_store = hint(Error::NotAStore { location: String::new() });
        assert!(no_store.contains("`strongroom init --store '/backup/my store'`"), "{no_store}");
        let known = vec!["api".to_owned(), "db".to_owned()];
        let unknown = hint(Error::UnknownDeployment { name: "x".into(), known });
        assert!(unknown.contains("there is api, db; `strongroom list"), "{unknown}");
        let full = hint(Error::Backend(io(io::ErrorKind::StorageFull)));
        assert!(full.contains("free space") && full.contains("kept and reused"), "{full}");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(closed()).exit(), Exit::DONE);
        assert_eq!(printed(Exit::PARTLY, Err(closed())).unwrap(), Exit::PARTLY);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(printed(Exit::DONE, Err(full)).unwrap_err().exit(), Exit::FAILED);
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let names: Vec<_> = (0..12).map(|n| format!("n{n}")).collect();
        assert!(some_of(&names).ends_with("n9 and 2 more"));
    }
}
