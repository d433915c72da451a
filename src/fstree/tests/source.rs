//! Opening files of a source, their attributes and holes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use super::*;

fn content(file: Result<File, Error>) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn files_are_opened_below_the_root() {
    let dir = temp();
    fs::create_dir_all(below(&dir, b"a/\xff")).unwrap();
    fs::write(below(&dir, b"a/\xff/file"), b"content").unwrap();
    for resolver in RESOLVERS {
        let source = Source::open_with(dir.path(), Some(resolver)).unwrap();
        assert_eq!(content(source.open_file(b"a/\xff/file")), b"content");
        let file = source.open_file(b"a/\xff/file").unwrap();
        let stat = stat_of(&file).unwrap();
        let walked = source.walk(WalkOptions::default()).last().unwrap();
        assert_eq!(stat, walked.unwrap().stat);
    }
}

#[test]
fn the_root_file_is_opened_with_the_empty_path() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"content").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let source = Source::open(&dir.path().join(name)).unwrap();
        assert_eq!(content(source.open_file(b"")), b"content");
        // The file that was opened, not what has its name by now; and each time from its start.
        fs::rename(dir.path().join("file"), dir.path().join("moved")).unwrap();
        assert_eq!(content(source.open_file(b"")), b"content");
        fs::rename(dir.path().join("moved"), dir.path().join("file")).unwrap();
        assert!(source.open_file(b"below").is_err());
        assert_eq!(source.xattrs(b"", &Kind::File).unwrap(), []);
    }
}

#[test]
fn nothing_but_a_regular_file_is_opened_and_nothing_waits() {
    let dir = temp();
    let destination = Destination::open(dir.path()).unwrap();
    destination.make_dir(b"dir").unwrap();
    destination.make_special(b"fifo", &Kind::Fifo, 0o600).unwrap();
    destination.make_special(b"socket", &Kind::Socket, 0o600).unwrap();
    destination.make_symlink(b"symlink", b"dir").unwrap();
    fs::write(dir.path().join("dir/file"), b"").unwrap();
    for resolver in RESOLVERS {
        let source = Source::open_with(dir.path(), Some(resolver)).unwrap();
        let open = |path: &[u8]| source.open_file(path).unwrap_err();
        for (path, kind) in
            [(b"dir".as_slice(), "directory"), (b"fifo", "fifo"), (b"", "directory")]
        {
            let error = open(path);
            assert!(matches!(error, Error::WrongKind { actual, .. } if actual == kind), "{error}");
        }
        assert!(matches!(open(b"socket"), Error::Io { .. }));
        assert!(matches!(open(b"symlink"), Error::Symlink { .. }));
        assert!(matches!(open(b"symlink/file"), Error::Symlink { .. }));
        assert!(open(b"none").is_not_found());
        for path in [b"dir/../dir/file".as_slice(), b"/etc/passwd", b"dir//file", b"dir\0"] {
            assert!(matches!(open(path), Error::BadPath { .. }));
        }
    }
}

#[test]
fn a_file_without_permissions_is_seen_but_not_opened() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"x").unwrap();
    fs::set_permissions(dir.path().join("file"), fs::Permissions::from_mode(0o000)).unwrap();
    let source = Source::open(dir.path()).unwrap();
    let node = source.walk(WalkOptions::default()).last().unwrap().unwrap();
    assert_eq!((node.stat.mode, node.stat.size_bytes), (0, 1));
    if is_root() {
        assert_eq!(content(source.open_file(b"file")), b"x");
        return;
    }
    let error = source.open_file(b"file").unwrap_err();
    assert!(matches!(error, Error::Io { ref source, .. }
        if source.kind() == std::io::ErrorKind::PermissionDenied));
    assert!(Source::open(&dir.path().join("file")).unwrap().open_file(b"").is_err());
}

#[test]
fn reading_leaves_the_access_time_of_own_files_alone() {
    let dir = temp();
    let path = dir.path().join("file");
    fs::write(&path, b"x").unwrap();
    let long_ago = std::time::UNIX_EPOCH;
    let times = fs::FileTimes::new().set_accessed(long_ago);
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    content(Source::open(dir.path()).unwrap().open_file(b"file"));
    assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), long_ago);
}

#[test]
fn attributes_come_sorted_and_whole() {
    let dir = temp();
    if !has_user_xattrs(dir.path()) {
        return;
    }
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let long = vec![7; 3000];
    let set = |path: &str, name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(dir.path().join(path), name, value, flags).unwrap();
    };
    for path in ["file", "dir"] {
        set(path, "user.z", b"");
        set(path, "user.a\u{e9}", &long);
        set(path, "user.binary", b"\0\xff");
    }
    let expected =
        [xattr("user.a\u{e9}", &long), xattr("user.binary", b"\0\xff"), xattr("user.z", b"")];
    for resolver in RESOLVERS {
        let source = Source::open_with(dir.path(), Some(resolver)).unwrap();
        let file = source.open_file(b"file").unwrap();
        assert_eq!(xattrs_of_file(&file).unwrap(), expected);
        assert_eq!(source.xattrs(b"file", &Kind::File).unwrap(), expected);
        assert_eq!(source.xattrs(b"dir", &Kind::Dir).unwrap(), expected);
        let single = Source::open(&dir.path().join("file")).unwrap();
        assert_eq!(single.xattrs(b"", &Kind::File).unwrap(), expected);
        assert!(matches!(
            source.xattrs(b"file", &Kind::Fifo),
            Err(Error::WrongKind { expected: "fifo", actual: "file", .. })
        ));
    }
    // More names than fit into the first buffer.
    fs::create_dir(dir.path().join("many")).unwrap();
    for i in 0..60 {
        set("many", &format!("user.{i:020}"), b"");
    }
    let source = Source::open(dir.path()).unwrap();
    let xattrs = source.xattrs(b"many", &Kind::Dir).unwrap();
    assert_eq!(xattrs.len(), 60);
    assert!(xattrs.is_sorted());
}

#[test]
fn attributes_of_symlinks_are_their_own() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    let source = Source::open(dir.path()).unwrap();
    let kind = Kind::Symlink { target: b"file".to_vec() };
    if has_user_xattrs(dir.path()) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.path().join("file"), "user.of.file", b"1", flags).unwrap();
    }
    assert_eq!(source.xattrs(b"link", &kind).unwrap(), []);
    let set = |value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(dir.path().join("link"), "trusted.of.link", value, flags)
    };
    if set(b"2").is_err() {
        eprintln!("SKIPPED: trusted attributes need privileges");
        return;
    }
    assert_eq!(source.xattrs(b"link", &kind).unwrap(), [xattr("trusted.of.link", b"2")]);
}

#[test]
fn data_of_a_sparse_file_is_found_without_reading_its_holes() {
    const GIB: u64 = 1 << 30;
    const BLOCK: u64 = 64 * 1024;
    let block = vec![1; 64 * 1024];
    let dir = temp();
    let length = 100 * GIB;
    let file = Destination::open(dir.path()).unwrap().create_file(b"sparse", length).unwrap();
    let places = [0, GIB, GIB + BLOCK, 70 * GIB];
    for place in places {
        file.write_all_at(&block, place).unwrap();
    }
    file.sync_all().unwrap();
    let mut ranges = Vec::new();
    let mut offset = 0;
    while let Some(range) = next_data(&file, offset, length).unwrap() {
        offset = range.end;
        ranges.push(range);
    }
    if ranges.first() == Some(&(0..length)) {
        eprintln!("SKIPPED: the file system does not tell holes");
        return;
    }
    assert!(ranges.len() <= places.len(), "{ranges:?}");
    for place in places {
        let covers = |range: &std::ops::Range<u64>| range.contains(&place);
        assert_eq!(ranges.iter().filter(|range| covers(range)).count(), 1);
    }
    let data: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    assert!(data <= 8 * BLOCK, "{data}");

    assert_eq!(next_data(&file, 0, 100).unwrap(), Some(0..100));
    assert_eq!(next_data(&file, 10, 100).unwrap(), Some(10..100));
    assert_eq!(next_data(&file, 100, 100).unwrap(), None);
    assert_eq!(next_data(&file, GIB - 1, GIB).unwrap(), None);
    assert_eq!(next_data(&file, 99 * GIB, length).unwrap(), None);
    // Bound at open; the file has been cut since.
    file.set_len(10).unwrap();
    assert_eq!(next_data(&file, 20, length).unwrap(), None);
}
