//! What an entry of a tree is, and its attributes, as they are stored: see "Entries" in
//! `store-format.md`.

/// A point in time: `secs` seconds after 1970-01-01T00:00:00Z (negative before it), plus `nanos`
/// nanoseconds, below 1,000,000,000.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// Nanoseconds to add to them.
    pub nanos: u32,
}

/// What a node of a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points: any bytes but NUL, not interpreted here.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// The driver.
        major: u32,
        /// The device of that driver.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver.
        major: u32,
        /// The device of that driver.
        minor: u32,
    },
}

impl Kind {
    /// Returns the kind's name for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
        }
    }
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Xattr {
    /// Its name with the namespace, such as `user.origin`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}
