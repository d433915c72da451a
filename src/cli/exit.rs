//! Exit codes of the command: part of its interface, shown by `strongroom --help`.
//!
//! Owns the numbers and their meaning; which error has which code is `super::errors`'s.

use std::process::ExitCode;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Exit(u8);

impl Exit {
    /// What was asked for is done.
    pub const DONE: Self = Self(0);
    /// It failed; nothing visible was changed.
    pub const FAILED: Self = Self(1);
    /// The arguments are wrong; nothing was tried.
    pub const USAGE: Self = Self(2);
    /// A part is done: `backup` has members that failed, `restore` paths that the target refused.
    pub const PARTLY: Self = Self(3);
    /// Something stored is damaged.
    pub const DAMAGE: Self = Self(4);
    /// `diff` found differences.
    pub const DIFFERENCES: Self = Self(5);
    /// There is no store.
    pub const NO_STORE: Self = Self(10);
    /// Another process has locked the store.
    pub const LOCKED: Self = Self(11);
    /// The key does not open the store.
    pub const WRONG_KEY: Self = Self(12);
    /// The storage cannot give a guarantee that the store needs.
    pub const BACKEND_LACKS: Self = Self(13);
    /// Interrupted by a signal; running the same command again goes on.
    pub const INTERRUPTED: Self = Self(130);

    /// Every code with its meaning, in order.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::DONE, "done"),
        (Self::FAILED, "failed"),
        (Self::USAGE, "wrong usage"),
        (Self::PARTLY, "partly done: some members or paths failed"),
        (Self::DAMAGE, "damage found in the store"),
        (Self::DIFFERENCES, "diff found differences"),
        (Self::NO_STORE, "no store there"),
        (Self::LOCKED, "the store is locked by another process"),
        (Self::WRONG_KEY, "wrong key"),
        (Self::BACKEND_LACKS, "the storage lacks a guarantee that the store needs"),
        (Self::INTERRUPTED, "interrupted; the same command goes on"),
    ];

    /// Returns the number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_the_documented_ones_in_order() {
        let codes: Vec<_> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 130]);
    }
}
