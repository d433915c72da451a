//! Metadata of restored nodes.
//!
//! Owns the order in which owner, attributes, mode and times are set, and the policy about rights
//! that a restored tree must not gain unasked. Works on descriptors, so that what is changed is
//! what was looked at.
//!
//! The order: a change of owner clears set-id bits and file capabilities, so it comes first;
//! attributes hold access lists, which change the mode, so the mode comes after them; times come
//! last, because nothing after them may touch the node. A directory's own metadata is applied after
//! that of everything in it: then a read-only directory is no obstacle and its time stays.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::destination::Destination;
use super::error::{Error, Warning};
use super::node::NodeFd;
use super::stat::stat_fd;
use super::{Kind, Stat, Time, Xattr};

/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = 0o6000;

/// Gives rights at execution, as the set-id bits do.
const CAPABILITIES: &[u8] = b"security.capability";

/// Attributes that the running system itself puts on files. Where a backup has none of them, they
/// are no leftovers to remove.
const SYSTEM_OWNED: [&[u8]; 6] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"security.apparmor",
    b"security.SMACK64",
    b"system.nfs4_acl",
];

/// The metadata that a node shall have.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// What the node is; it has been created before.
    pub kind: &'a Kind,
    /// Permissions, set-id and sticky bits. Symlinks have none.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// All extended attributes, in any order.
    pub xattrs: &'a [Xattr],
}

/// What a restored tree may get that gives rights. The default is nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Owners and groups; otherwise everything belongs to whoever restores.
    pub owner: bool,
    /// Set-user-id and set-group-id bits, and file capabilities.
    pub set_id_bits: bool,
    /// Metadata of fifos, sockets and devices, which are restored on request only.
    pub special_files: bool,
}

impl Destination {
    /// Brings the metadata of the node at `path` (the root, if empty) into line with `meta`:
    /// owner, attributes (those that `meta` lacks are removed, but for labels that the system puts
    /// on files itself), mode, time of change. What is right already is not touched.
    ///
    /// `file` is the node, if it is open; then `path` serves messages only. Call it for a directory
    /// after everything below it.
    ///
    /// Returns what could not be brought into line for want of privileges or of support by the file
    /// system: attributes in other namespaces than `user.`, and any attribute where the file system
    /// has none at all.
    ///
    /// # Errors
    /// Anything else that fails; [`Error::WrongKind`] if the node is not of the kind that `meta`
    /// says; [`Error::OutOfRange`] for values that no node can have.
    pub fn apply(
        &self,
        path: &[u8],
        file: Option<&File>,
        meta: &Meta<'_>,
        policy: &Policy,
    ) -> Result<Vec<Warning>, Error> {
        self.check_meta(path, meta)?;
        let special = !matches!(meta.kind, Kind::File | Kind::Dir | Kind::Symlink { .. });
        if special && !policy.special_files {
            return Ok(vec![Warning::SpecialFileWithheld {
                path: self.entry(path),
                kind: meta.kind.name(),
            }]);
        }
        let node = match file {
            Some(file) => NodeFd::Open(file.as_fd()),
            None => self.open_for_meta(path, meta.kind)?,
        };
        let failed = |action| move |errno| self.system_error(action, path, errno);
        let stat = stat_fd(node.as_fd()).map_err(failed("stat"))?;
        if super::type_of(&stat.kind) != super::type_of(meta.kind) {
            return Err(Error::WrongKind {
                path: self.entry(path),
                expected: meta.kind.name(),
                actual: stat.kind.name(),
            });
        }
        let mut change = Change {
            destination: self,
            path,
            node,
            meta,
            policy,
            mode_unsure: false,
            warnings: Vec::new(),
        };
        change.set_owner(&stat)?;
        change.set_xattrs()?;
        change.set_mode(&stat)?;
        if stat.mtime != meta.mtime {
            let done = change.node.set_mtime(meta.mtime);
            done.map_err(failed("set the times of"))?;
        }
        Ok(change.warnings)
    }

    /// Gives the owner all permissions on the directory at `path`, so that a tree can be written
    /// over one with read-only directories. The rest of its mode stays.
    ///
    /// # Errors
    /// The system's answer.
    pub fn make_dir_writable(&self, path: &[u8]) -> Result<(), Error> {
        let failed = |errno| self.system_error("make writable", path, errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let node = NodeFd::Path(self.open_node("make writable", path, flags)?);
        let mode = stat_fd(node.as_fd()).map_err(failed)?.mode;
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        node.set_mode(mode | 0o700).map_err(failed)
    }

    /// Gives the directory at `path`, which may be read, this mode, durably.
    ///
    /// # Errors
    /// The system's answer.
    pub fn set_dir_mode(&self, path: &[u8], mode: u32) -> Result<(), Error> {
        let action = "change the mode of";
        let node = self.open_node(action, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let set = rustix::fs::fchmod(&node, rustix::fs::Mode::from_raw_mode(mode))
            .and_then(|()| rustix::fs::fsync(&node));
        set.map_err(|errno| self.system_error(action, path, errno))
    }

    fn check_meta(&self, path: &[u8], meta: &Meta<'_>) -> Result<(), Error> {
        self.check_range(path, "mode", meta.mode.into(), 0o7777)?;
        // The largest number means "leave it" to the system.
        self.check_range(path, "owner", meta.uid.into(), u64::from(u32::MAX) - 1)?;
        self.check_range(path, "group", meta.gid.into(), u64::from(u32::MAX) - 1)?;
        // Larger ones mean "now" and "leave it".
        self.check_range(path, "nanoseconds", meta.mtime.nanos.into(), 999_999_999)
    }

    fn open_for_meta(&self, path: &[u8], kind: &Kind) -> Result<NodeFd<'static>, Error> {
        let action = "open for metadata";
        if matches!(kind, Kind::File | Kind::Dir) {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            match self.open_node(action, path, flags) {
                // Without permission to read, or a socket: the kind is checked by the caller.
                Err(Error::Io { source, .. })
                    if [Errno::ACCESS, Errno::NXIO]
                        .map(|errno| Some(errno.raw_os_error()))
                        .contains(&source.raw_os_error()) => {}
                result => return result.map(NodeFd::Owned),
            }
        }
        self.open_node(action, path, OFlags::PATH).map(NodeFd::Path)
    }
}

/// One node on its way to its metadata.
struct Change<'a> {
    destination: &'a Destination,
    path: &'a [u8],
    node: NodeFd<'a>,
    meta: &'a Meta<'a>,
    policy: &'a Policy,
    /// The mode may have changed since it was looked at.
    mode_unsure: bool,
    warnings: Vec<Warning>,
}

impl Change<'_> {
    fn set_owner(&mut self, stat: &Stat) -> Result<(), Error> {
        let (uid, gid) = (self.meta.uid, self.meta.gid);
        if !self.policy.owner || (stat.uid, stat.gid) == (uid, gid) {
            return Ok(());
        }
        self.mode_unsure = true;
        self.node.set_owner(uid, gid).map_err(|errno| self.error("change the owner of", errno))
    }

    fn set_xattrs(&mut self) -> Result<(), Error> {
        let present = match self.node.xattr_names() {
            Ok(names) => names,
            // Without `/proc` a symlink or special file cannot be asked; it matters only if
            // something is to be set.
            Err(Errno::NOENT) if self.meta.xattrs.is_empty() => Vec::new(),
            Err(errno) => return Err(self.error("list the attributes of", errno)),
        };
        for name in present {
            let wanted = self.meta.xattrs.iter().any(|xattr| xattr.name == name);
            if !wanted && !SYSTEM_OWNED.contains(&name.as_slice()) {
                self.remove_xattr(name)?;
            }
        }
        for xattr in self.meta.xattrs {
            self.set_xattr(xattr)?;
        }
        Ok(())
    }

    fn remove_xattr(&mut self, name: Vec<u8>) -> Result<(), Error> {
        self.mode_unsure = true;
        let Err(errno) = self.node.remove_xattr(&name) else {
            return Ok(());
        };
        if !is_tolerable(&name, errno) {
            return Err(self.error("remove an attribute of", errno));
        }
        self.warnings.push(Warning::XattrNotRemoved {
            path: self.destination.entry(self.path),
            name,
            source: errno.into(),
        });
        Ok(())
    }

    fn set_xattr(&mut self, xattr: &Xattr) -> Result<(), Error> {
        let Xattr { name, value } = xattr;
        if name == CAPABILITIES && !self.policy.set_id_bits {
            let path = self.destination.entry(self.path);
            self.warnings.push(Warning::CapabilitiesWithheld { path });
            return self.remove_if_present(name);
        }
        if let Ok(Some(present)) = self.node.xattr(name)
            && present == *value
        {
            return Ok(());
        }
        self.mode_unsure = true;
        let Err(errno) = self.node.set_xattr(name, value) else {
            return Ok(());
        };
        if !is_tolerable(name, errno) {
            return Err(self.error("set an attribute of", errno));
        }
        self.warnings.push(Warning::XattrNotSet {
            path: self.destination.entry(self.path),
            name: name.clone(),
            source: errno.into(),
        });
        Ok(())
    }

    fn remove_if_present(&mut self, name: &[u8]) -> Result<(), Error> {
        match self.node.xattr(name) {
            Ok(Some(_)) => self.remove_xattr(name.to_vec()),
            _ => Ok(()),
        }
    }

    fn set_mode(&mut self, stat: &Stat) -> Result<(), Error> {
        if matches!(self.meta.kind, Kind::Symlink { .. }) {
            return Ok(());
        }
        let withheld = if self.policy.set_id_bits { 0 } else { SET_ID_BITS };
        let mode = self.meta.mode & !withheld;
        if !self.mode_unsure && stat.mode == mode {
            return Ok(());
        }
        let failed = |errno| self.error("change the mode of", errno);
        self.node.set_mode(mode).map_err(failed)?;
        if mode & SET_ID_BITS != 0 {
            // For a group that the user is not in, the system drops the bit and reports success.
            let set = stat_fd(self.node.as_fd()).map_err(failed)?.mode;
            if set != mode {
                let path = self.destination.entry(self.path);
                self.warnings.push(Warning::SetIdNotSet { path });
            }
        }
        Ok(())
    }

    fn error(&self, action: &'static str, errno: Errno) -> Error {
        self.destination.system_error(action, self.path, errno)
    }
}

/// Tells whether an attribute may be missing with a warning: the file system has no such attributes,
/// or they are the administrator's and this user is not.
fn is_tolerable(name: &[u8], errno: Errno) -> bool {
    match errno {
        Errno::NOTSUP => true,
        Errno::PERM | Errno::ACCESS => !name.starts_with(b"user."),
        _ => false,
    }
}
