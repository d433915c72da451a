//! Paths and trees made to write or read outside of the root.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Every call that takes a path, on one path; returns the names of those that did not fail.
fn successes(destination: &Destination, path: &[u8]) -> Vec<&'static str> {
    let fifo = Kind::Fifo;
    let meta = meta(&Kind::File, 0o666, 0, &[]);
    let policy = Policy::default();
    let results = [
        ("create_file", destination.create_file(path, 1).is_ok()),
        ("replace_file", destination.replace_file(path, 1).is_ok()),
        ("open_existing", matches!(destination.open_existing(path), Ok(Some(_)))),
        ("remove_file", matches!(destination.remove_file(path), Ok(true))),
        ("make_dir", destination.make_dir(path).is_ok()),
        ("subdirectory", destination.subdirectory(path).is_ok()),
        ("make_symlink", destination.make_symlink(path, b"x").is_ok()),
        ("make_hard_link to", destination.make_hard_link(b"own", path).is_ok()),
        ("make_hard_link from", destination.make_hard_link(path, b"taken").is_ok()),
        ("make_special", destination.make_special(path, &fifo, 0o600).is_ok()),
        ("apply", destination.apply(path, None, &meta, &policy).is_ok()),
        ("make_dir_writable", destination.make_dir_writable(path).is_ok()),
        ("stat", matches!(destination.stat(path), Ok(Some(_)))),
        ("remove_tree", destination.remove_tree(path).is_ok()),
        (
            "rename from",
            Destination::rename_noreplace(destination, path, destination, b"taken").is_ok(),
        ),
        (
            "rename to",
            Destination::rename_noreplace(destination, b"own", destination, path).is_ok(),
        ),
    ];
    results.iter().filter(|(_, ok)| *ok).map(|(name, _)| *name).collect()
}

fn with_own_file(resolver: Resolver) -> (TempDir, Destination) {
    let dir = temp();
    let destination = Destination::open_with(dir.path(), Some(resolver)).unwrap();
    destination.create_file(b"own", 0).unwrap();
    (dir, destination)
}

fn outside() -> (TempDir, Vec<Node>) {
    let dir = temp();
    fs::create_dir_all(dir.path().join("dir/below")).unwrap();
    fs::write(dir.path().join("passwd"), b"root").unwrap();
    let before = walk(dir.path()).into_iter().map(Result::unwrap).collect();
    (dir, before)
}

fn assert_untouched(dir: &TempDir, before: &[Node]) {
    let after: Vec<Node> = walk(dir.path()).into_iter().map(Result::unwrap).collect();
    assert_eq!(after, before);
    assert_eq!(fs::read(dir.path().join("passwd")).unwrap(), b"root");
}

#[test]
fn nothing_is_reached_through_a_symlink_that_was_restored_first() {
    for resolver in RESOLVERS {
        let (outside, before) = outside();
        let (_dir, destination) = with_own_file(resolver);
        let target = outside.path().as_os_str().as_bytes();
        destination.make_symlink(b"a", target).unwrap();
        for path in [b"a/passwd".as_slice(), b"a/new", b"a/dir", b"a/dir/below", b"a/dir/new"] {
            assert_eq!(successes(&destination, path), [""; 0], "{path:?}");
            let error = destination.create_file(path, 0).unwrap_err();
            assert!(matches!(error, Error::Symlink { .. }), "{error}");
        }
        assert_untouched(&outside, &before);
        // Also to a place inside of the tree.
        destination.make_dir(b"real").unwrap();
        destination.make_symlink(b"inner", b"real").unwrap();
        assert_eq!(successes(&destination, b"inner/x"), [""; 0]);
    }
}

#[test]
fn nothing_is_reached_through_a_symlink_swapped_in_between_calls() {
    for resolver in RESOLVERS {
        let (outside, before) = outside();
        let (dir, destination) = with_own_file(resolver);
        destination.make_dir(b"a").unwrap();
        destination.make_dir(b"a/dir").unwrap();
        destination.create_file(b"a/dir/file", 1).unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
        symlink(outside.path(), dir.path().join("a")).unwrap();
        for path in [b"a/passwd".as_slice(), b"a/dir/file", b"a/dir/new", b"a/dir/below"] {
            assert_eq!(successes(&destination, path), [""; 0], "{path:?}");
        }
        assert_untouched(&outside, &before);
    }
}

#[test]
fn a_symlink_in_the_place_of_a_node_is_not_followed() {
    for resolver in RESOLVERS {
        let (outside, before) = outside();
        let (_dir, destination) = with_own_file(resolver);
        let place = |name: &str| outside.path().join(name).into_os_string();
        destination.make_symlink(b"file", place("passwd").as_bytes()).unwrap();
        destination.make_symlink(b"dangling", place("created").as_bytes()).unwrap();
        destination.make_symlink(b"dir", place("dir").as_bytes()).unwrap();
        for path in [b"file".as_slice(), b"dangling", b"dir"] {
            assert!(destination.create_file(path, 1).is_err());
            assert!(destination.open_existing(path).is_err());
            assert!(destination.make_dir(path).is_err());
            assert!(destination.make_dir_writable(path).is_err());
            assert!(destination.make_special(path, &Kind::Fifo, 0o666).is_err());
            for kind in [Kind::File, Kind::Dir] {
                let meta = meta(&kind, 0o777, 1, &[]);
                let policy = Policy::default();
                assert!(destination.apply(path, None, &meta, &policy).is_err());
            }
        }
        assert_untouched(&outside, &before);
        // Replacing and removing are about the symlink itself.
        destination.replace_file(b"file", 0).unwrap();
        destination.remove_tree(b"dir").unwrap();
        destination.remove_tree(b"dangling").unwrap();
        assert_untouched(&outside, &before);
    }
}

#[test]
fn paths_that_are_none_are_refused_by_every_call() {
    for resolver in RESOLVERS {
        let (_dir, destination) = with_own_file(resolver);
        let sub = destination.subdirectory(b"sub").unwrap();
        let long = vec![b'n'; 256];
        let paths: [&[u8]; 12] = [
            b"..",
            b"../own",
            b"./own",
            b"/",
            b"/etc",
            b"a/../../own",
            b"a//b",
            b"a/",
            b".",
            b"x\0y",
            b"own/..",
            &long,
        ];
        for path in paths {
            assert_eq!(successes(&sub, path), [""; 0], "{path:?}");
        }
        assert!(destination.stat(b"own").unwrap().is_some());
    }
}

#[test]
fn sources_are_not_left_through_symlinks_either() {
    let (outside, _) = outside();
    let dir = temp();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/passwd"), b"own").unwrap();
    for resolver in RESOLVERS {
        let source = Source::open_with(dir.path(), Some(resolver)).unwrap();
        source.open_file(b"a/passwd").unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
        symlink(outside.path(), dir.path().join("a")).unwrap();
        for (path, kind) in [(b"a/passwd".as_slice(), Kind::File), (b"a", Kind::Dir)] {
            let error = source.xattrs(path, &kind).unwrap_err();
            assert!(matches!(error, Error::Symlink { .. }), "{error}");
        }
        let error = source.open_file(b"a/passwd").unwrap_err();
        assert!(matches!(error, Error::Symlink { .. }), "{error}");
        fs::remove_file(dir.path().join("a")).unwrap();
        fs::rename(dir.path().join("moved"), dir.path().join("a")).unwrap();
    }
}
