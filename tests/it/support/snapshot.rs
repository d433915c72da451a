//! What is on disk, read without the code under test, and every difference between two such views.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};

/// One node of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Length and digest of a file, bytes of a symlink's target, numbers of a device.
    pub content: Vec<u8>,
    pub size_bytes: u64,
    pub allocated_bytes: u64,
    /// The first path of the same file, if it has several names inside the tree.
    pub same_as: Option<Vec<u8>>,
}

/// All nodes by path; the root has the empty path.
pub type Snapshot = BTreeMap<Vec<u8>, Seen>;

/// What a comparison looks at beyond kind, content, mode, time, attributes and hard links.
#[derive(Clone, Copy)]
pub struct Compare {
    pub owner: bool,
    pub set_id_bits: bool,
    /// Special files must be there; otherwise they must not.
    pub special_files: bool,
}

impl Compare {
    /// What a restore without any options gives back.
    pub const PLAIN: Self = Self { owner: false, set_id_bits: false, special_files: false };
    /// What a restore with all options gives back.
    pub const ALL: Self = Self { owner: true, set_id_bits: true, special_files: true };
}

/// Looks at the tree at `root`, whatever its depth.
pub fn snapshot(root: &Path) -> Snapshot {
    let mut walk = Walk { seen: Snapshot::new(), inodes: HashMap::new() };
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    walk.node(dir, Vec::new());
    walk.hard_links();
    walk.seen
}

struct Walk {
    seen: Snapshot,
    inodes: HashMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Walk {
    /// Takes up the node that `fd`, an `O_PATH` descriptor, is open on, and all below it.
    fn node(&mut self, fd: OwnedFd, path: Vec<u8>) {
        let mask = StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, mask).unwrap();
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let through_proc = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let content = match kind {
            FileType::RegularFile => digest(&through_proc),
            FileType::Symlink => rustix::fs::readlinkat(&fd, c"", Vec::new()).unwrap().into_bytes(),
            _ => format!("{}:{}", stat.stx_rdev_major, stat.stx_rdev_minor).into_bytes(),
        };
        let seen = Seen {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            owner: (stat.stx_uid, stat.stx_gid),
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            xattrs: xattrs(&through_proc),
            content,
            size_bytes: stat.stx_size,
            allocated_bytes: stat.stx_blocks * 512,
            same_as: None,
        };
        if kind != FileType::Directory && stat.stx_nlink > 1 {
            let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
            self.inodes.entry((device, stat.stx_ino)).or_default().push(path.clone());
        }
        self.seen.insert(path.clone(), seen);
        if kind == FileType::Directory {
            self.children(&fd, &path);
        }
    }

    fn children(&mut self, dir: &OwnedFd, path: &[u8]) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(dir, c".", flags, Mode::empty()).unwrap();
        let names: Vec<CString> = Dir::read_from(listed.as_fd())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_owned())
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        for name in names {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, &name, flags, Mode::empty()).unwrap();
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            self.node(fd, [path, separator, name.to_bytes()].concat());
        }
    }

    fn hard_links(&mut self) {
        for paths in self.inodes.values_mut() {
            paths.sort_unstable();
            for path in &paths[1..] {
                if let Some(seen) = self.seen.get_mut(path) {
                    seen.same_as = Some(paths[0].clone());
                }
            }
        }
    }
}

fn digest(path: &str) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize().as_bytes().to_vec(),
            read => hasher.update(&buffer[..read]),
        };
    }
}

fn xattrs(path: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let Ok(len) = rustix::fs::listxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let names = list[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Returns every difference, one line each.
pub fn differences(expected: &Snapshot, actual: &Snapshot, compare: Compare) -> Vec<String> {
    let mut found = Vec::new();
    let special = |seen: &Seen| {
        !matches!(seen.kind, FileType::RegularFile | FileType::Directory | FileType::Symlink)
    };
    for (path, wanted) in expected {
        let name = path.escape_ascii().to_string();
        match actual.get(path) {
            None if special(wanted) && !compare.special_files => {}
            None => found.push(format!("{name}: missing")),
            Some(_) if special(wanted) && !compare.special_files => {
                found.push(format!("{name}: there, though nobody asked for it"));
            }
            Some(seen) => {
                let text = node_differences(wanted, seen, compare);
                if !text.is_empty() {
                    found.push(format!("{name}:{text}"));
                }
            }
        }
    }
    let extra = actual.keys().filter(|path| !expected.contains_key(*path));
    found.extend(extra.map(|path| format!("{}: should not be there", path.escape_ascii())));
    found
}

fn node_differences(wanted: &Seen, seen: &Seen, compare: Compare) -> String {
    let mut text = String::new();
    let mut differ = |what: &str, wanted: String, seen: String| {
        if wanted != seen {
            let _ = write!(text, " {what} {seen} instead of {wanted};");
        }
    };
    let hex = |bytes: &[u8]| strongroom::digest::hex(&bytes[..bytes.len().min(64)]);
    let mask = if compare.set_id_bits { 0o7777 } else { 0o1777 };
    differ("kind", format!("{:?}", wanted.kind), format!("{:?}", seen.kind));
    differ("content", hex(&wanted.content), hex(&seen.content));
    if wanted.kind == FileType::RegularFile {
        differ("length", wanted.size_bytes.to_string(), seen.size_bytes.to_string());
    }
    if wanted.kind != FileType::Symlink {
        let mode = |seen: &Seen, mask| format!("{:o}", seen.mode & mask);
        differ("mode", mode(wanted, mask), mode(seen, 0o7777));
    }
    if compare.owner {
        differ("owner", format!("{:?}", wanted.owner), format!("{:?}", seen.owner));
    }
    differ("mtime", format!("{:?}", wanted.mtime), format!("{:?}", seen.mtime));
    differ("xattrs", format!("{:?}", wanted.xattrs), format!("{:?}", seen.xattrs));
    differ("hard link to", format!("{:?}", wanted.same_as), format!("{:?}", seen.same_as));
    text
}

/// Fails with every difference between the trees at two places.
#[track_caller]
pub fn assert_same_tree(expected: &Path, actual: &Path, compare: Compare) {
    assert_same_snapshot(&snapshot(expected), &snapshot(actual), compare);
}

/// Fails with every difference between two views.
#[track_caller]
pub fn assert_same_snapshot(expected: &Snapshot, actual: &Snapshot, compare: Compare) {
    let found = differences(expected, actual, compare);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// Returns what lies at and below `path`, as if it were the root.
pub fn part(snapshot: &Snapshot, path: &[u8]) -> Snapshot {
    let below = |key: &[u8]| match key.strip_prefix(path) {
        Some(b"") => Some(Vec::new()),
        Some([b'/', rest @ ..]) => Some(rest.to_vec()),
        _ => None,
    };
    snapshot.iter().filter_map(|(key, seen)| Some((below(key)?, seen.clone()))).collect()
}
