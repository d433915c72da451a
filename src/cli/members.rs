//! The sources of a backup as people write them: `[MEMBER=]PATH`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::errors::Failure;
use super::output::{escaped, shell_word};
use crate::store::{MemberSource, parse_label};

/// Says how a word is to be read; what is there on the file system decides only where the word
/// could mean two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading<'w> {
    /// A path whose last component names the member.
    Path(&'w Path),
    /// A member and its path.
    Named(&'w str, &'w Path),
    /// Both are there.
    Ambiguous(&'w str, &'w Path),
}

/// Reads `A=B`: a member and a path if `A` is a valid name, unless only a file called `A=B` is
/// there.
fn read(word: &OsStr, exists: impl Fn(&Path) -> bool) -> Reading<'_> {
    let whole = Path::new(word);
    let bytes = word.as_bytes();
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else { return Reading::Path(whole) };
    let Ok(name) = std::str::from_utf8(&bytes[..at]) else { return Reading::Path(whole) };
    if parse_label("member", name).is_err() {
        return Reading::Path(whole);
    }
    let path = Path::new(OsStr::from_bytes(&bytes[at + 1..]));
    match (exists(whole), exists(path)) {
        (true, true) => Reading::Ambiguous(name, path),
        (true, false) => Reading::Path(whole),
        (false, _) => Reading::Named(name, path),
    }
}

/// Returns the member and the path that a word means.
///
/// # Errors
/// The word is ambiguous, has no path, or its path has no last component that can name a member.
pub fn source(word: &OsStr) -> Result<MemberSource, Failure> {
    let shown = escaped(word.as_bytes());
    if word.is_empty() {
        return Err(
            Failure::usage("a source is empty").with_hint("a source is PATH or MEMBER=PATH")
        );
    }
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    let (member, path) = match read(word, exists) {
        Reading::Path(path) => (name_of(path)?, path),
        Reading::Named(name, path) => (name.to_owned(), path),
        Reading::Ambiguous(name, path) => {
            let path = escaped(path.as_os_str().as_bytes());
            return Err(Failure::usage(format!(
                "{shown:?} is both a path and the member {name:?} with the path {path:?}"
            ))
            .with_hint(format!(
                "write {} for the path or {} for the member",
                shell_word(&format!("./{shown}")),
                shell_word(&format!("{name}=./{path}")),
            )));
        }
    };
    if path.as_os_str().is_empty() {
        return Err(Failure::usage(format!("{shown:?} has no path"))
            .with_hint("a source is PATH or MEMBER=PATH"));
    }
    Ok(MemberSource { member, path: absolute(path) })
}

/// Returns the path from the root on, so that what is recorded makes sense elsewhere. Symlinks
/// stay as they are.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the last component of the path, which names the member.
fn name_of(path: &Path) -> Result<String, Failure> {
    let shown = escaped(path.as_os_str().as_bytes());
    // Where nothing is, the backup reports the member as failed under the name it was given.
    let real = path.canonicalize().unwrap_or_else(|_| absolute(path));
    let name = real.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let reason = match std::str::from_utf8(name) {
        Ok(name) => match parse_label("member", name) {
            Ok(name) => return Ok(name),
            Err(_) if name.is_empty() => "it has no last component".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(_) => "its last component is not UTF-8".to_owned(),
    };
    Err(Failure::usage(format!("{shown:?} gives no name for a member: {reason}"))
        .with_hint(format!("write the name before it: {}", shell_word(&format!("NAME={shown}")))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading<'w>(word: &'w str, there: &[&str]) -> Reading<'w> {
        read(OsStr::new(word), |path| there.iter().any(|name| Path::new(name) == path))
    }

    #[test]
    fn words_are_members_if_what_is_before_the_sign_can_be_one() {
        let path = |text| Reading::Path(Path::new(text));
        assert_eq!(reading("/srv/api", &[]), path("/srv/api"));
        assert_eq!(reading("api=/srv/a=b", &[]), Reading::Named("api", Path::new("/srv/a=b")));
        assert_eq!(reading("/srv/a=b", &[]), path("/srv/a=b"));
        assert_eq!(reading("./a=b", &["b"]), path("./a=b"));
        assert_eq!(reading("=b", &["b"]), path("=b"));
        assert_eq!(reading("a=", &[]), Reading::Named("a", Path::new("")));
    }

    #[test]
    fn what_is_there_decides_only_where_both_could_be_meant() {
        assert_eq!(reading("a=b", &[]), Reading::Named("a", Path::new("b")));
        assert_eq!(reading("a=b", &["b"]), Reading::Named("a", Path::new("b")));
        assert_eq!(reading("a=b", &["a=b"]), Reading::Path(Path::new("a=b")));
        assert_eq!(reading("a=b", &["a=b", "b"]), Reading::Ambiguous("a", Path::new("b")));
        assert_eq!(reading("a=./b", &["a=b", "./b"]), Reading::Named("a", Path::new("./b")));
    }

    #[test]
    fn names_come_from_the_real_path() {
        let dir = tempfile::tempdir().unwrap();
        let api = dir.path().join("api");
        std::fs::create_dir(&api).unwrap();
        let link = dir.path().join("current");
        std::os::unix::fs::symlink("api", &link).unwrap();
        let made = source(link.as_os_str()).unwrap();
        assert_eq!(made, MemberSource { member: "api".into(), path: link });
        let dots = source(api.join(".").as_os_str()).unwrap();
        assert_eq!(dots.member, "api");
        assert!(source(OsStr::new("/")).is_err());
        assert!(source(OsStr::new("a=")).is_err());
        assert!(source(OsStr::from_bytes(b"/nowhere/\xff")).is_err());
    }
}
