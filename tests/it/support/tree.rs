//! Source trees: made entry by entry, with every property that a backup has to keep.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags,
};
use tempfile::TempDir;

use super::{is_root, noise, text};

/// Makes a temporary directory on the file system of the temporary directory.
pub fn temp() -> TempDir {
    tempfile::Builder::new().prefix("strongroom-it-").tempdir().expect("a temporary directory")
}

/// Makes a temporary directory where syncing costs nothing, if there is such a place.
pub fn fast_temp() -> TempDir {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("strongroom-it-");
        builder
    };
    builder().tempdir_in("/dev/shm").unwrap_or_else(|_| temp())
}

/// Returns `path`, any bytes, below `root`.
pub fn below(root: &Path, path: impl AsRef<[u8]>) -> PathBuf {
    root.join(OsStr::from_bytes(path.as_ref()))
}

/// A directory that tests fill.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the directory `root`; its parent exists.
    pub fn create(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        std::fs::create_dir(&root).unwrap();
        Self { root }
    }

    /// Takes a directory that exists.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    pub fn below(&self, path: impl AsRef<[u8]>) -> PathBuf {
        below(&self.root, path)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.below(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, path: impl AsRef<[u8]>) -> Vec<u8> {
        std::fs::read(self.below(path)).unwrap()
    }

    /// Overwrites some bytes of a file in place.
    pub fn write_at(&self, path: impl AsRef<[u8]>, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(self.below(path)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    pub fn dir(&self, path: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.below(path)).unwrap();
    }

    pub fn symlink(&self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) {
        std::os::unix::fs::symlink(OsStr::from_bytes(target.as_ref()), self.below(path)).unwrap();
    }

    pub fn hard_link(&self, path: impl AsRef<[u8]>, first: impl AsRef<[u8]>) {
        std::fs::hard_link(self.below(first), self.below(path)).unwrap();
    }

    pub fn fifo(&self, path: impl AsRef<[u8]>) {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, self.below(path), FileType::Fifo, mode, 0).unwrap();
    }

    pub fn socket(&self, path: impl AsRef<[u8]>) {
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mknodat(CWD, self.below(path), FileType::Socket, mode, 0).unwrap();
    }

    /// Makes a file of `size` bytes that is a hole but for the `data` at their offsets.
    pub fn sparse(&self, path: impl AsRef<[u8]>, size: u64, data: &[(u64, Vec<u8>)]) {
        let file = File::create(self.below(path)).unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).unwrap();
        }
    }

    pub fn mode(&self, path: impl AsRef<[u8]>, mode: u32) {
        std::fs::set_permissions(self.below(path), PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Sets the time of the last change of content, of a symlink itself too.
    pub fn mtime(&self, path: impl AsRef<[u8]>, secs: i64, nanos: i64) {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: secs, tv_nsec: nanos },
        };
        rustix::fs::utimensat(CWD, self.below(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// Sets an attribute; loudly not, where the file system keeps none.
    pub fn xattr(&self, path: impl AsRef<[u8]>, name: &str, value: &[u8]) {
        let set = rustix::fs::lsetxattr(self.below(path), name, value, XattrFlags::empty());
        if let Err(rustix::io::Errno::NOTSUP) = set {
            return eprintln!("SKIPPED: no user attributes on {}", self.root.display());
        }
        set.unwrap();
    }

    /// Makes directories inside each other until a path of `path_bytes` is reached, each with a
    /// name of `name_bytes`, and a file with content in the last one.
    pub fn deep(&self, path_bytes: usize, name_bytes: usize) {
        let name = CString::new(vec![b'd'; name_bytes]).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: OwnedFd = rustix::fs::open(&self.root, flags, Mode::empty()).unwrap();
        for _ in 0..path_bytes.div_ceil(name_bytes + 1) {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&at, c"bottom", flags, Mode::RUSR | Mode::WUSR).unwrap();
        File::from(file).write_all_at(b"at the bottom", 0).unwrap();
    }

    /// Fills the directory with every kind of entry and every attribute that a backup keeps.
    pub fn fill_with_every_kind(&self, seed: u64) {
        self.deep(9000, 200);
        self.fill_with_what_others_can_read(seed);
    }

    /// The same without paths that are longer than most programs can name.
    pub fn fill_with_what_others_can_read(&self, seed: u64) {
        self.files_of_all_sizes(seed);
        self.names_that_are_hard_to_sort_and_to_print();
        self.links_and_special_files();
        self.attributes_and_times();
        self.modes();
    }

    fn files_of_all_sizes(&self, seed: u64) {
        self.file("empty", b"");
        self.file("one byte", b"1");
        self.file("zeros", vec![0; 100_000]);
        for (number, len) in
            [100, 4095, 16_384, 16_385, 65_536, 300_000, 1_500_001, 3 << 20].into_iter().enumerate()
        {
            let seed = seed + number as u64;
            self.file(format!("sizes/noise-{len}"), noise(seed, len));
            self.file(format!("sizes/text-{len}"), text(seed, len));
        }
        self.dir("empty directory/with another");
        let data = [(1 << 20, noise(seed, 70_000)), (7 << 20, text(seed, 5000))];
        self.sparse("sparse.img", 9 << 20, &data);
        self.sparse("all hole", 2 << 20, &[]);
        self.sparse("small hole", 50_000, &[(40_000, noise(seed, 100))]);
        let zeros_inside = [noise(seed, 200_000), vec![0; 400_000], noise(seed + 1, 200_000)];
        self.file("zeros inside", zeros_inside.concat());
    }

    fn names_that_are_hard_to_sort_and_to_print(&self) {
        for name in ["order/a", "order/a-b", "order/a.b", "order/aa", "order/b/c", "order/b-c"] {
            self.file(name, name);
        }
        self.file("order/a0/b", b"between");
        self.file(b"names/not UTF-8 \xff\xfe", b"1");
        self.file("names/new\nline\ttab\\back\u{1b}[31m", b"2");
        self.file("names/ leading and trailing ", b"3");
        self.file("names/-rf", b"4");
        self.file(format!("names/{}", "n".repeat(255)), b"5");
        self.file("names/ünïcödé", b"6");
        self.file("names/...", b"7");
    }

    fn links_and_special_files(&self) {
        self.symlink("links-to-file", "sizes/noise-100");
        self.dir("links");
        self.symlink("links/dangling", "nowhere/at/all");
        self.symlink("links/absolute", "/etc/hostname");
        self.symlink("links/up", "../../../..");
        self.symlink("links/to directory", "../sizes");
        self.symlink("links/not UTF-8", b"\xff\xfe");
        self.symlink("links/long", "l".repeat(4000));
        self.file("hard/first", noise(77, 50_000));
        self.hard_link("hard/second", "hard/first");
        self.hard_link("another name", "hard/first");
        self.file("hard/large", noise(78, 2 << 20));
        self.hard_link("hard/larger name", "hard/large");
        self.fifo("fifo");
        self.socket("socket");
    }

    fn attributes_and_times(&self) {
        self.xattr("sizes/text-100", "user.origin", b"https://example.org");
        self.xattr("sizes/text-100", "user.binary", &[0, 255, 10]);
        self.xattr("sizes/noise-3145728", "user.large file", b"yes");
        self.xattr("sizes/text-4095", "user.empty", b"");
        self.xattr("sizes/text-4095", "user.long", &noise(5, 2000));
        self.xattr("order", "user.directory", b"has one too");
        self.mtime("empty", 0, 0);
        self.mtime("sizes/noise-100", 1_234_567_890, 123_456_789);
        self.mtime("sizes/text-3145728", 1, 999_999_999);
        self.mtime("one byte", -86_400, 500_000_000);
        self.mtime("links/dangling", 1_000_000_000, 7);
        self.mtime("zeros", 4_000_000_000, 1);
        self.mtime("fifo", 1_500_000_000, 5);
    }

    fn modes(&self) {
        if is_root() {
            self.file("modes/none", b"nobody else reads this");
            self.mode("modes/none", 0o000);
        }
        self.file("modes/sticky", b"");
        self.mode("modes/sticky", 0o1644);
        self.file("modes/set-id", b"#!/bin/sh\n");
        self.mode("modes/set-id", 0o6755);
        self.file("modes/all", b"");
        self.mode("modes/all", 0o777);
        for (dir, mode) in
            [("modes/read-only", 0o555), ("modes/closed", 0o000), ("modes/drop", 0o1733)]
        {
            self.file(format!("{dir}/inside"), dir);
            if is_root() || mode & 0o500 == 0o500 {
                self.mode(dir, mode);
                self.mtime(dir, 1_600_000_000, 600_000_000);
            }
        }
        self.mtime("sizes", 1_600_000_000, 1);
        self.mtime("", 1_600_000_001, 2);
    }
}
