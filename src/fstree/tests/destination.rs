//! Creating, replacing, renaming and removing.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use super::*;

fn open(dir: &TempDir) -> Destination {
    Destination::open(dir.path()).unwrap()
}

#[test]
fn new_files_are_sparse_private_and_never_replace() {
    let dir = temp();
    for resolver in RESOLVERS {
        let destination = Destination::open_with(dir.path(), Some(resolver)).unwrap();
        let file = destination.create_file(b"file", 1 << 30).unwrap();
        file.write_all_at(b"end", (1 << 30) - 3).unwrap();
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, (1 << 30) - 3).unwrap();
        assert_eq!(&bytes, b"end");
        let stat = destination.stat(b"file").unwrap().unwrap();
        assert_eq!((stat.mode, stat.size_bytes), (0o600, 1 << 30));
        assert!(stat.allocated_bytes < 1 << 20);
        assert!(destination.create_file(b"file", 0).is_err());
        assert_eq!(destination.stat(b"file").unwrap().unwrap().size_bytes, 1 << 30);

        destination.replace_file(b"file", 0).unwrap();
        assert_eq!(destination.stat(b"file").unwrap().unwrap().size_bytes, 0);
        assert!(destination.remove_file(b"file").unwrap());
        assert!(!destination.remove_file(b"file").unwrap());
        assert!(destination.stat(b"file").unwrap().is_none());
        assert!(destination.stat(b"none/file").unwrap().is_none());
    }
}

#[test]
fn directories_are_made_once_and_never_out_of_something_else() {
    let dir = temp();
    let destination = open(&dir);
    assert!(destination.make_dir(b"a").unwrap());
    assert!(!destination.make_dir(b"a").unwrap());
    assert!(!destination.make_dir(b"").unwrap());
    assert!(destination.make_dir(b"a/b").unwrap());
    assert!(destination.make_dir(b"none/b").unwrap_err().is_not_found());
    assert_eq!(destination.stat(b"a/b").unwrap().unwrap().mode, 0o700);
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink("a", dir.path().join("link")).unwrap();
    for (path, kind) in [(b"file".as_slice(), "file"), (b"link", "symlink")] {
        let error = destination.make_dir(path).unwrap_err();
        assert!(matches!(error, Error::NotADirectory { actual, .. } if actual == kind), "{error}");
        assert!(destination.subdirectory(path).is_err());
    }
    let below = destination.subdirectory(b"a/c").unwrap();
    assert!(below.is_empty().unwrap());
    below.create_file(b"file", 0).unwrap();
    assert!(!below.is_empty().unwrap());
    assert!(dir.path().join("a/c/file").exists());
    assert!(!destination.is_empty().unwrap());
}

#[test]
fn a_destination_is_a_directory() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = Destination::open(&dir.path().join("file")).unwrap_err();
    assert!(matches!(error, Error::NotADirectory { actual: "file", .. }));
    let error = Destination::open(&dir.path().join("none")).unwrap_err();
    assert!(error.is_not_found());
    symlink(".", dir.path().join("here")).unwrap();
    Destination::open(&dir.path().join("here")).unwrap();
}

#[test]
fn only_regular_files_are_opened_to_be_rewritten() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"old").unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    symlink("file", dir.path().join("symlink")).unwrap();
    for resolver in RESOLVERS {
        let destination = Destination::open_with(dir.path(), Some(resolver)).unwrap();
        for kind in [Kind::Fifo, Kind::Socket] {
            let path = kind.name().as_bytes();
            if destination.stat(path).unwrap().is_none() {
                destination.make_special(path, &kind, 0o600).unwrap();
            }
        }
        assert!(destination.open_existing(b"none").unwrap().is_none());
        assert!(destination.open_existing(b"none/file").unwrap().is_none());
        let file = destination.open_existing(b"file").unwrap().unwrap();
        file.write_all_at(b"new", 0).unwrap();
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for name in ["directory", "symlink", "fifo", "socket"] {
            let error = destination.open_existing(name.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::WrongKind { actual, .. } if actual == name), "{error}");
        }
    }
}

#[test]
fn symlinks_keep_any_target_and_impossible_ones_are_refused() {
    let dir = temp();
    let destination = open(&dir);
    let longest = vec![b'x'; 4095];
    let targets: [&[u8]; 4] = [b"\xff/../..", b"/etc/passwd", b"//", &longest];
    for (path, target) in [b"a", b"b", b"c", b"d"].into_iter().zip(targets) {
        destination.make_symlink(path, target).unwrap();
        let target = target.to_vec();
        assert_eq!(destination.stat(path).unwrap().unwrap().kind, Kind::Symlink { target });
    }
    assert!(destination.make_symlink(b"a", b"again").is_err());
    for target in [b"".as_slice(), b"a\0b", &[b'x'; 4096]] {
        let error = destination.make_symlink(b"e", target).unwrap_err();
        assert!(matches!(error, Error::BadTarget { .. }), "{error}");
    }
}

#[test]
fn hard_links_are_of_the_symlink_itself() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    destination.make_symlink(b"link", b"file").unwrap();
    destination.make_hard_link(b"file", b"file2").unwrap();
    destination.make_hard_link(b"link", b"link2").unwrap();
    let stat = |path: &[u8]| destination.stat(path).unwrap().unwrap();
    assert_eq!(stat(b"file"), stat(b"file2"));
    assert_eq!(stat(b"link"), stat(b"link2"));
    assert_eq!((stat(b"file").links, stat(b"link").links), (2, 2));
    assert!(destination.make_hard_link(b"file", b"link").is_err());
}

#[test]
fn special_files_are_checked_before_they_are_made() {
    let dir = temp();
    let destination = open(&dir);
    for kind in [Kind::File, Kind::Dir, Kind::Symlink { target: b"x".to_vec() }] {
        let error = destination.make_special(b"x", &kind, 0o600).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
    }
    for (major, minor) in [(4096, 0), (0, 1 << 20), (u32::MAX, u32::MAX)] {
        let kind = Kind::BlockDevice { major, minor };
        let error = destination.make_special(b"x", &kind, 0o600).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
    destination.make_special(b"fifo", &Kind::Fifo, 0o7777).unwrap();
    assert_eq!(destination.stat(b"fifo").unwrap().unwrap().mode & 0o7000, 0);
}

#[test]
fn renaming_moves_trees_and_never_replaces() {
    let dir = temp();
    let destination = open(&dir);
    let staging = destination.subdirectory(b"staging").unwrap();
    let target = destination.subdirectory(b"target").unwrap();
    staging.make_dir(b"tree").unwrap();
    staging.create_file(b"tree/file", 3).unwrap();
    staging.create_file(b"other", 0).unwrap();
    Destination::rename_noreplace(&staging, b"tree", &target, b"done").unwrap();
    assert_eq!(target.stat(b"done/file").unwrap().unwrap().size_bytes, 3);
    let error = Destination::rename_noreplace(&staging, b"other", &target, b"done").unwrap_err();
    assert!(matches!(error, Error::Io { ref source, .. }
        if source.kind() == std::io::ErrorKind::AlreadyExists));
    assert_eq!(error.path().in_tree(), b"done");
    assert!(staging.stat(b"other").unwrap().is_some());
    target.make_dir(b"empty").unwrap();
    assert!(Destination::rename_noreplace(&target, b"done", &target, b"empty").is_err());
    target.sync_dir().unwrap();
    target.sync_all().unwrap();
}

#[test]
fn renaming_never_replaces_where_the_file_system_has_no_flag_for_it() {
    use std::os::fd::AsFd;

    let dir = temp();
    let destination = open(&dir);
    let root = destination.root.as_fd();
    let rename = |from: &[u8], to: &[u8]| {
        crate::fstree::destination::rename_without_flag((root, from), (root, to))
    };
    destination.make_dir(b"dir").unwrap();
    destination.create_file(b"dir/file", 0).unwrap();
    destination.create_file(b"file", 3).unwrap();
    destination.make_dir(b"empty").unwrap();
    for (from, to) in [
        (b"dir".as_slice(), b"empty".as_slice()),
        (b"dir", b"file"),
        (b"file", b"empty"),
        (b"file", b"dir"),
        (b"dir", b"dir"),
    ] {
        assert_eq!(rename(from, to), Err(rustix::io::Errno::EXIST));
    }
    // A directory into itself, and nothing at all: no debris.
    assert!(rename(b"dir", b"dir/inner").is_err());
    assert!(rename(b"none", b"new").is_err());
    assert_eq!(walk(dir.path()).len(), 5);
    rename(b"dir", b"dir2").unwrap();
    rename(b"file", b"file2").unwrap();
    let expected: [&[u8]; 5] = [b"", b"dir2", b"dir2/file", b"empty", b"file2"];
    assert_eq!(walked_paths(dir.path()), expected);
    assert_eq!(destination.stat(b"file2").unwrap().unwrap().links, 1);
}

#[test]
fn missing_directories_are_made_above_and_others_are_named() {
    let dir = temp();
    let path = dir.path().join("a/b/c");
    Destination::create_dir_all_synced(&path).unwrap();
    Destination::create_dir_all_synced(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    fs::write(dir.path().join("file"), b"").unwrap();
    for path in ["file", "file/x", "file/x/y"] {
        let error = Destination::create_dir_all_synced(&dir.path().join(path)).unwrap_err();
        assert!(matches!(error, Error::NotADirectory { actual: "file", .. }), "{error}");
        assert!(error.path().as_bytes().ends_with(b"file"));
    }
}

#[test]
fn a_tree_is_removed_with_everything_and_nothing_else() {
    let dir = temp();
    let outside = temp();
    fs::write(outside.path().join("kept"), b"").unwrap();
    let destination = open(&dir);
    fs::create_dir_all(dir.path().join("tree/a/b/c")).unwrap();
    fs::create_dir_all(dir.path().join("tree/ro/below")).unwrap();
    for i in 0..500 {
        fs::write(dir.path().join(format!("tree/a/b/{i}")), b"").unwrap();
    }
    symlink(outside.path(), dir.path().join("tree/a/out")).unwrap();
    symlink(outside.path(), dir.path().join("top")).unwrap();
    destination.make_special(b"tree/a/fifo", &Kind::Fifo, 0o600).unwrap();
    for (path, mode) in [("tree/ro/below", 0o000), ("tree/ro", 0o555)] {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    destination.remove_tree(b"tree").unwrap();
    destination.remove_tree(b"tree").unwrap();
    destination.remove_tree(b"none/tree").unwrap();
    destination.remove_tree(b"top").unwrap();
    assert!(destination.is_empty().unwrap());
    assert!(outside.path().join("kept").exists());
    assert!(destination.remove_tree(b"").is_err());
    assert!(destination.remove_tree(b"../x").is_err());
}

#[test]
fn threads_share_a_destination() {
    let dir = temp();
    let destination = open(&dir);
    for i in 0..4 {
        destination.make_dir(format!("d{i}").as_bytes()).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let destination = &destination;
            scope.spawn(move || {
                for i in 0..100 {
                    let path = format!("d{}/{thread}-{i}", i % 4);
                    destination.create_file(path.as_bytes(), 10).unwrap();
                }
            });
        }
    });
    assert_eq!(walk(dir.path()).len(), 1 + 4 + 400);
}
