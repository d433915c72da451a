//! Paths inside a tree: raw bytes, components joined by `/`, the root itself empty. See "Paths" in
//! `store-format.md`.

use std::cmp::Ordering;

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// Compares two paths inside a tree component by component: the order of a walk that visits
/// directories before their children and siblings by the bytes of their names.
///
/// `/` sorts below every other byte, so `a/b` comes before `a-b`.
#[must_use]
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((&x, &y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Checks a path inside a tree: components joined by `/`, each a possible name of a directory
/// entry. The empty path is the root itself and passes.
///
/// # Errors
/// The first rule that is broken: [`NAME_BYTES_MAX`] and [`PATH_BYTES_MAX`] bound the lengths;
/// components are not empty, hold no NUL, and are neither `.` nor `..`.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong { bytes: path.len() });
    }
    check_components(path)?;
    match path.split(|&byte| byte == b'/').map(<[u8]>::len).max() {
        Some(bytes) if bytes > NAME_BYTES_MAX => Err(PathError::NameTooLong { bytes }),
        _ => Ok(()),
    }
}

/// Checks what safety needs, without the bounds of the format: a source may hold more than a
/// store accepts, and must be readable all the same for its owner to be told.
pub(crate) fn check_components(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Ok(());
    }
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" => return Err(PathError::EmptyName),
            b"." | b".." => return Err(PathError::DotName),
            _ if name.contains(&0) => return Err(PathError::Nul),
            _ => {}
        }
    }
    Ok(())
}

/// Why a text is no path inside a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Two slashes in a row, or one at an end.
    #[error("a name in it is empty")]
    EmptyName,
    /// A NUL byte, which no name can hold.
    #[error("a name in it holds a NUL byte")]
    Nul,
    /// `.` or `..`.
    #[error("a name in it is `.` or `..`")]
    DotName,
    /// A name longer than [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX).
    #[error("a name in it has {bytes} bytes, at most 255 are possible")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A path longer than [`PATH_BYTES_MAX`](crate::limits::PATH_BYTES_MAX).
    #[error("it has {bytes} bytes, at most 65536 are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The root where only a node below it can be meant.
    #[error("it names the root itself")]
    Root,
}
