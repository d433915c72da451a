//! The walk: order, kinds, exclusion, and trees that change meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

#[test]
fn every_kind_is_walked_with_names_of_any_bytes() {
    let dir = temp();
    let destination = Destination::open(dir.path()).unwrap();
    fs::create_dir(below(&dir, b"dir\xfe")).unwrap();
    fs::write(below(&dir, b"dir\xfe/file\xff\n"), b"content").unwrap();
    destination.make_symlink(b"link", b"no\xffwhere").unwrap();
    destination.make_special(b"pipe", &Kind::Fifo, 0o600).unwrap();
    destination.make_special(b"sock", &Kind::Socket, 0o600).unwrap();
    let device = Kind::CharDevice { major: 1, minor: 3 };
    let block = Kind::BlockDevice { major: 259, minor: 70_000 };
    if is_root() {
        destination.make_special(b"tty", &device, 0o600).unwrap();
        destination.make_special(b"xvd", &block, 0o600).unwrap();
    }

    let nodes: Vec<Node> = walk(dir.path()).into_iter().map(Result::unwrap).collect();
    let found: Vec<_> =
        nodes.iter().map(|node| (node.path.as_slice(), node.stat.kind.clone())).collect();
    let target = b"no\xffwhere".to_vec();
    let mut expected = vec![
        (b"".as_slice(), Kind::Dir),
        (b"dir\xfe", Kind::Dir),
        (b"dir\xfe/file\xff\n", Kind::File),
        (b"link", Kind::Symlink { target }),
        (b"pipe", Kind::Fifo),
        (b"sock", Kind::Socket),
    ];
    if is_root() {
        expected.push((b"tty", device));
        expected.push((b"xvd", block));
    }
    assert_eq!(found, expected);

    let file = &nodes[2].stat;
    let known = fs::metadata(below(&dir, b"dir\xfe/file\xff\n")).unwrap();
    assert_eq!(file.mode, known.mode() & 0o7777);
    assert_eq!((file.uid, file.gid), (known.uid(), known.gid()));
    assert_eq!((file.device, file.inode), (known.dev(), known.ino()));
    assert_eq!((file.size_bytes, file.links), (7, 1));
    assert_eq!(file.allocated_bytes, known.blocks() * 512);
    assert_eq!(file.mtime.secs, known.mtime());
    assert_eq!(i64::from(file.mtime.nanos), known.mtime_nsec());
    assert_eq!(file.ctime.secs, known.ctime());
    assert_eq!(i64::from(file.ctime.nanos), known.ctime_nsec());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_walk_finds_everything_in_the_order_of_paths(
        paths in prop::collection::btree_set("[ab\u{1}.-]{1,12}(/[ab\u{1}.-]{1,3}){0,4}", 0..40)
    ) {
        let dir = temp();
        let mut expected = vec![Vec::new()];
        for path in paths.iter().filter(|path| check_path(path.as_bytes()).is_ok()) {
            if fs::create_dir_all(dir.path().join(path)).is_ok() {
                for (slash, _) in path.match_indices('/') {
                    expected.push(path[..slash].into());
                }
                expected.push(path.clone().into());
            }
        }
        expected.sort_by(|a, b| compare_paths(a, b));
        expected.dedup();
        prop_assert_eq!(walked_paths(dir.path()), expected);
    }
}

#[test]
fn a_directory_of_many_entries_is_sorted_whatever_its_reads_return() {
    let dir = temp();
    let mut expected = vec![Vec::new()];
    for i in 0..2000_u32 {
        let name = format!("{}-with-a-name-of-some-length", i.wrapping_mul(2_654_435_769));
        fs::write(dir.path().join(&name), b"").unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    assert_eq!(walked_paths(dir.path()), expected);
}

#[test]
fn hard_links_show_as_one_inode_with_several_links() {
    let dir = temp();
    fs::write(dir.path().join("a"), b"x").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let nodes: Vec<Node> = walk(dir.path()).into_iter().map(Result::unwrap).collect();
    assert_eq!(nodes[1].stat, nodes[2].stat);
    assert_eq!(nodes[1].stat.links, 2);
}

#[test]
fn excluded_directories_are_neither_given_out_nor_entered() {
    let dir = temp();
    fs::create_dir_all(dir.path().join("a/store/objects")).unwrap();
    fs::create_dir_all(dir.path().join("b/store")).unwrap();
    let options = |path: &Path| WalkOptions {
        exclude_dir: vec![(0, 0), identity_of(path).unwrap()],
        ..WalkOptions::default()
    };
    let nodes = walk_with(dir.path(), options(&dir.path().join("a/store")));
    let paths: Vec<_> = nodes.into_iter().map(|node| node.unwrap().path).collect();
    let expected: [&[u8]; 4] = [b"", b"a", b"b", b"b/store"];
    assert_eq!(paths, expected);
    assert_eq!(walk_with(dir.path(), options(dir.path())).len(), 0);
    fs::write(dir.path().join("file"), b"").unwrap();
    assert!(matches!(
        identity_of(&dir.path().join("file")),
        Err(Error::NotADirectory { actual: "file", .. })
    ));
}

#[test]
fn a_walk_of_one_file_system_gives_out_mount_points_but_does_not_enter_them() {
    // Small, and with a file system of its own inside on nearly every machine.
    let dev = Path::new("/dev");
    let walk = |one_file_system| {
        let options = WalkOptions { one_file_system, ..WalkOptions::default() };
        walk_with(dev, options).into_iter().filter_map(Result::ok)
    };
    let (device, _) = identity_of(dev).unwrap();
    let mounts: Vec<_> =
        walk(true).filter(|node| node.stat.device != device).map(|node| node.path).collect();
    let is_below = |node: &Node| {
        let mut slashes = node.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.any(|(slash, _)| mounts.iter().any(|mount| node.path[..slash] == **mount))
    };
    if !walk(false).any(|node| is_below(&node)) {
        eprintln!("SKIPPED: nothing with an entry is mounted below /dev");
        return;
    }
    assert!(!mounts.is_empty());
    assert!(!walk(true).any(|node| is_below(&node)));
}

#[test]
fn an_entry_that_vanishes_is_an_error_and_its_siblings_follow() {
    let dir = temp();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    let mut walk = Source::open(dir.path()).unwrap().walk(WalkOptions::default());
    assert_eq!(walk.next().unwrap().unwrap().path, b"");
    assert_eq!(walk.next().unwrap().unwrap().path, b"a");
    fs::remove_file(dir.path().join("b")).unwrap();
    let error = walk.next().unwrap().unwrap_err();
    assert_eq!(error.path().in_tree(), b"b");
    assert!(error.is_not_found(), "{error}");
    assert_eq!(walk.next().unwrap().unwrap().path, b"c");
    assert!(walk.next().is_none());
    assert!(walk.next().is_none());
}

#[test]
fn a_directory_that_cannot_be_opened_is_an_error_and_its_siblings_follow() {
    let dir = temp();
    fs::create_dir_all(dir.path().join("a/below")).unwrap();
    fs::write(dir.path().join("b"), b"").unwrap();
    let mut walk = Source::open(dir.path()).unwrap().walk(WalkOptions::default());
    walk.next();
    assert_eq!(walk.next().unwrap().unwrap().path, b"a");
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    let error = walk.next().unwrap().unwrap_err();
    assert_eq!(error.path().in_tree(), b"a");
    assert_eq!(walk.next().unwrap().unwrap().path, b"b");
    assert!(walk.next().is_none());
}

#[test]
fn a_directory_without_permission_to_read_is_an_error_and_its_siblings_follow() {
    if is_root() {
        eprintln!("SKIPPED: permissions do not stop this user");
        return;
    }
    let dir = temp();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/hidden"), b"").unwrap();
    fs::write(dir.path().join("b"), b"").unwrap();
    let permissions = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(dir.path().join("a"), permissions(0o000)).unwrap();
    let nodes = walk(dir.path());
    fs::set_permissions(dir.path().join("a"), permissions(0o700)).unwrap();
    assert_eq!(nodes.len(), 4);
    assert_eq!(nodes[1].as_ref().unwrap().path, b"a");
    let error = nodes[2].as_ref().unwrap_err();
    assert_eq!(error.path().in_tree(), b"a");
    assert!(error.to_string().starts_with("open "), "{error}");
    assert_eq!(nodes[3].as_ref().unwrap().path, b"b");
}

#[test]
fn a_directory_swapped_for_another_one_is_not_walked_under_its_name() {
    let dir = temp();
    let outside = temp();
    fs::create_dir(outside.path().join("secret")).unwrap();
    for swap_in_symlink in [false, true] {
        fs::create_dir_all(dir.path().join("a/x")).unwrap();
        let mut walk = Source::open(dir.path()).unwrap().walk(WalkOptions::default());
        walk.next();
        assert_eq!(walk.next().unwrap().unwrap().path, b"a");
        let moved = dir.path().join(format!("z{swap_in_symlink}"));
        fs::rename(dir.path().join("a"), moved).unwrap();
        if swap_in_symlink {
            symlink(outside.path(), dir.path().join("a")).unwrap();
        } else {
            fs::create_dir_all(dir.path().join("a/y")).unwrap();
        }
        let error = walk.next().unwrap().unwrap_err();
        assert_eq!(error.path().in_tree(), b"a");
        assert_eq!(matches!(error, Error::Changed { .. }), !swap_in_symlink);
        let rest: Vec<Node> = walk.map(Result::unwrap).collect();
        assert!(rest.iter().all(|node| !node.path.starts_with(b"a")));
        let _ = fs::remove_dir_all(dir.path().join("a"));
    }
}

#[test]
fn a_root_that_is_a_file_is_the_only_node() {
    let dir = temp();
    fs::write(dir.path().join("file"), b"x").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    for name in ["file", "link"] {
        let nodes = walk(&dir.path().join(name));
        assert_eq!(nodes.len(), 1);
        let node = nodes[0].as_ref().unwrap();
        assert_eq!((node.path.as_slice(), &node.stat.kind), (b"".as_slice(), &Kind::File));
    }
}

#[test]
fn a_root_that_is_a_symlink_to_a_directory_is_followed() {
    let dir = temp();
    fs::create_dir_all(dir.path().join("real/below")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    assert_eq!(walked_paths(&dir.path().join("link")), [b"".as_slice(), b"below"]);
}

#[test]
fn a_root_that_does_not_exist_is_an_error() {
    let error = Source::open(&temp().path().join("none")).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
