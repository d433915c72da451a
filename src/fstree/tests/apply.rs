//! Metadata: what is set, in which order, and what is withheld.

use std::fs;
use std::io::ErrorKind;

use super::*;

fn open(dir: &TempDir) -> Destination {
    Destination::open(dir.path()).unwrap()
}

/// Applies and expects nothing to say.
fn apply(destination: &Destination, path: &[u8], meta: &Meta<'_>, policy: Policy) {
    let warnings = destination.apply(path, None, meta, &policy).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn times_are_kept_to_the_nanosecond_before_1970_too() {
    let dir = temp();
    let destination = open(&dir);
    let special = Policy { special_files: true, ..Policy::default() };
    let target = b"nowhere".to_vec();
    let kinds = [Kind::File, Kind::Dir, Kind::Symlink { target }, Kind::Fifo, Kind::Socket];
    destination.create_file(b"file", 0).unwrap();
    destination.make_dir(b"directory").unwrap();
    destination.make_symlink(b"symlink", b"nowhere").unwrap();
    destination.make_special(b"fifo", &Kind::Fifo, 0o600).unwrap();
    destination.make_special(b"socket", &Kind::Socket, 0o600).unwrap();
    for kind in &kinds {
        let path = kind.name().as_bytes();
        for secs in [0, 1_700_000_000, -1, -1_000_000_000] {
            for nanos in [0, 1, 999_999_999] {
                let mtime = Time { secs, nanos };
                let meta = Meta { mtime, ..meta(kind, 0o640, 0, &[]) };
                apply(&destination, path, &meta, special);
                assert_eq!(destination.stat(path).unwrap().unwrap().mtime, mtime, "{kind:?}");
            }
        }
        let mode = destination.stat(path).unwrap().unwrap().mode;
        let expected = if kind.name() == "symlink" { 0o777 } else { 0o640 };
        assert_eq!(mode, expected, "{kind:?}");
    }
}

#[test]
fn the_open_file_is_changed_whatever_its_name_says_by_then() {
    let dir = temp();
    let destination = open(&dir);
    let file = destination.create_file(b"file", 0).unwrap();
    fs::rename(dir.path().join("file"), dir.path().join("moved")).unwrap();
    let meta = meta(&Kind::File, 0o444, 5, &[]);
    destination.apply(b"file", Some(&file), &meta, &Policy::default()).unwrap();
    let stat = destination.stat(b"moved").unwrap().unwrap();
    assert_eq!((stat.mode, stat.mtime.secs), (0o444, 5));
}

#[test]
fn applying_twice_changes_nothing() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    let xattrs = [xattr("user.a", b"1")];
    let kept = usize::from(has_user_xattrs(dir.path()));
    let xattrs = &xattrs[..kept];
    let meta = meta(&Kind::File, 0o640, 5, xattrs);
    apply(&destination, b"file", &meta, Policy::default());
    let before = destination.stat(b"file").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    apply(&destination, b"file", &meta, Policy::default());
    assert_eq!(destination.stat(b"file").unwrap(), before);
}

#[test]
fn attributes_are_brought_into_line() {
    let dir = temp();
    if !has_user_xattrs(dir.path()) {
        return;
    }
    let destination = open(&dir);
    let large = vec![3; 2000];
    let first = [xattr("user.b", &large), xattr("user.a", b"")];
    let second = [xattr("user.a", b"changed"), xattr("user.c", b"new")];
    destination.create_file(b"file", 0).unwrap();
    destination.make_dir(b"directory").unwrap();
    let source = Source::open(dir.path()).unwrap();
    for kind in [Kind::File, Kind::Dir] {
        let path = kind.name().as_bytes();
        for (xattrs, mode) in [(&first[..], 0o700), (&second, 0o755), (&[], 0o700)] {
            apply(&destination, path, &meta(&kind, mode, 0, xattrs), Policy::default());
            let mut expected = xattrs.to_vec();
            expected.sort();
            assert_eq!(source.xattrs(path, &kind).unwrap(), expected);
            assert_eq!(destination.stat(path).unwrap().unwrap().mode, mode);
        }
    }
    // A file that its owner may not even read.
    fs::write(dir.path().join("closed"), b"").unwrap();
    apply(&destination, b"closed", &meta(&Kind::File, 0o000, 0, &[]), Policy::default());
    apply(&destination, b"closed", &meta(&Kind::File, 0o000, 1, &[]), Policy::default());
    assert_eq!(destination.stat(b"closed").unwrap().unwrap().mode, 0);
}

#[test]
fn attributes_of_users_that_cannot_be_set_are_errors() {
    let dir = temp();
    if !has_user_xattrs(dir.path()) {
        return;
    }
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    for bad in [xattr("user.nul\0", b""), xattr("user.large", &vec![0; 70_000])] {
        let bad = [bad];
        let meta = meta(&Kind::File, 0o600, 0, &bad);
        let result = destination.apply(b"file", None, &meta, &Policy::default());
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    }
    // Linux keeps none of them on symlinks.
    destination.make_symlink(b"link", b"file").unwrap();
    let xattrs = [xattr("user.a", b"")];
    let kind = Kind::Symlink { target: b"file".to_vec() };
    let result = destination.apply(b"link", None, &meta(&kind, 0, 0, &xattrs), &Policy::default());
    assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    assert_eq!(Source::open(dir.path()).unwrap().xattrs(b"file", &Kind::File).unwrap(), []);
}

#[test]
fn attributes_that_this_user_may_not_set_are_warnings_and_the_rest_is_applied() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    let xattrs = [xattr("trusted.a", b"1"), xattr("nonsense.a", b"1")];
    let meta = meta(&Kind::File, 0o640, 5, &xattrs);
    let warnings = destination.apply(b"file", None, &meta, &Policy::default()).unwrap();
    let names: Vec<_> = warnings
        .iter()
        .map(|warning| match warning {
            Warning::XattrNotSet { name, .. } => name.as_slice(),
            _ => panic!("{warning}"),
        })
        .collect();
    let trusted =
        rustix::fs::getxattr(dir.path().join("file"), "trusted.a", &mut [0_u8; 9]).is_ok();
    let expected: [&[u8]; 2] = [b"trusted.a", b"nonsense.a"];
    assert_eq!(names, expected[usize::from(trusted)..]);
    let shown = warnings.last().unwrap().to_string();
    assert!(shown.contains("file: attribute nonsense.a not restored"), "{shown}");
    let stat = destination.stat(b"file").unwrap().unwrap();
    assert_eq!((stat.mode, stat.mtime.secs), (0o640, 5));
}

#[test]
fn file_capabilities_come_with_set_id_bits_only() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    // Version 2 of the format, effective, cap_net_raw.
    let value = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs = [xattr("security.capability", &value)];
    let meta = meta(&Kind::File, 0o755, 0, &xattrs);
    let asked = Policy { set_id_bits: true, ..Policy::default() };
    let source = Source::open(dir.path()).unwrap();
    let present = || source.xattrs(b"file", &Kind::File).unwrap().len();
    let warnings = destination.apply(b"file", None, &meta, &Policy::default()).unwrap();
    assert!(matches!(warnings[..], [Warning::CapabilitiesWithheld { .. }]));
    assert_eq!(present(), 0);
    let warnings = destination.apply(b"file", None, &meta, &asked).unwrap();
    if is_root() {
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(present(), 1);
        // Withheld also where they have been before.
        destination.apply(b"file", None, &meta, &Policy::default()).unwrap();
        assert_eq!(present(), 0);
    } else {
        assert!(matches!(warnings[..], [Warning::XattrNotSet { .. }]));
    }
}

#[test]
fn set_id_bits_are_masked_unless_asked_for() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    destination.make_dir(b"directory").unwrap();
    let asked = Policy { set_id_bits: true, ..Policy::default() };
    for kind in [Kind::File, Kind::Dir] {
        let path = kind.name().as_bytes();
        for (policy, mode) in
            [(Policy::default(), 0o1755), (asked, 0o7755), (Policy::default(), 0o1755)]
        {
            apply(&destination, path, &meta(&kind, 0o7755, 0, &[]), policy);
            assert_eq!(destination.stat(path).unwrap().unwrap().mode, mode);
        }
    }
}

#[test]
fn owners_change_only_when_asked_and_set_id_bits_outlive_it() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    destination.make_symlink(b"link", b"file").unwrap();
    let link = Kind::Symlink { target: b"file".to_vec() };
    let ours = destination.stat(b"file").unwrap().unwrap();
    let all = Policy { owner: true, set_id_bits: true, special_files: true };
    for (path, kind) in [(b"file".as_slice(), &Kind::File), (b"link", &link)] {
        let meta = Meta { uid: 12345, gid: 54321, ..meta(kind, 0o6755, 9, &[]) };
        apply(&destination, path, &meta, Policy::default());
        let stat = destination.stat(path).unwrap().unwrap();
        assert_eq!((stat.uid, stat.gid), (ours.uid, ours.gid));
        let result = destination.apply(path, None, &meta, &all);
        if !is_root() {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Io { ref source, .. }
                if source.kind() == ErrorKind::PermissionDenied));
            continue;
        }
        assert!(result.unwrap().is_empty());
        let stat = destination.stat(path).unwrap().unwrap();
        assert_eq!((stat.uid, stat.gid, stat.mtime), (12345, 54321, meta.mtime));
        if kind == &Kind::File {
            assert_eq!(stat.mode, 0o6755);
        }
    }
}

#[test]
fn special_files_are_left_alone_unless_asked_for() {
    let dir = temp();
    let destination = open(&dir);
    destination.make_special(b"fifo", &Kind::Fifo, 0o600).unwrap();
    let meta = meta(&Kind::Fifo, 0o666, 0, &[]);
    let before = destination.stat(b"fifo").unwrap();
    let warnings = destination.apply(b"fifo", None, &meta, &Policy::default()).unwrap();
    assert!(matches!(warnings[..], [Warning::SpecialFileWithheld { kind: "fifo", .. }]));
    assert_eq!(destination.stat(b"fifo").unwrap(), before);
}

#[test]
fn values_that_no_node_can_have_are_refused_before_anything_is_changed() {
    let dir = temp();
    let destination = open(&dir);
    destination.create_file(b"file", 0).unwrap();
    let before = destination.stat(b"file").unwrap();
    let good = meta(&Kind::File, 0o644, 0, &[]);
    let now = Time { secs: 0, nanos: (1 << 30) - 1 };
    let bad = [
        Meta { mode: 0o10000, ..good },
        Meta { uid: u32::MAX, ..good },
        Meta { gid: u32::MAX, ..good },
        Meta { mtime: now, ..good },
    ];
    for meta in bad {
        let result = destination.apply(b"file", None, &meta, &Policy::default());
        assert!(matches!(result, Err(Error::OutOfRange { .. })), "{result:?}");
    }
    assert_eq!(destination.stat(b"file").unwrap(), before);
}

#[test]
fn a_node_of_another_kind_is_refused_and_nothing_waits() {
    let dir = temp();
    let destination = open(&dir);
    for kind in [Kind::Fifo, Kind::Socket] {
        destination.make_special(kind.name().as_bytes(), &kind, 0o600).unwrap();
    }
    destination.make_dir(b"directory").unwrap();
    destination.create_file(b"file", 0).unwrap();
    let target = b"file".to_vec();
    for path in ["fifo", "socket", "directory", "file"] {
        for kind in [Kind::File, Kind::Dir, Kind::Symlink { target: target.clone() }] {
            if kind.name() == path {
                continue;
            }
            let meta = meta(&kind, 0o666, 0, &[]);
            let result = destination.apply(path.as_bytes(), None, &meta, &Policy::default());
            let error = result.unwrap_err();
            let stopped = matches!(error, Error::WrongKind { actual, .. } if actual == path);
            let not_a_dir = matches!(error, Error::Io { .. });
            assert!(stopped || not_a_dir, "{error}");
        }
    }
}

#[test]
fn a_read_only_tree_is_restored_and_restored_over() {
    let dir = temp();
    let destination = open(&dir);
    let policy = Policy::default();
    let dirs: [&[u8]; 3] = [b"", b"a", b"a/b"];
    for round in 0..2 {
        for path in dirs {
            destination.make_dir(path).unwrap();
            destination.make_dir_writable(path).unwrap();
        }
        let file = destination.replace_file(b"a/b/file", 10).unwrap();
        let meta_file = meta(&Kind::File, 0o444, round, &[]);
        destination.apply(b"a/b/file", Some(&file), &meta_file, &policy).unwrap();
        for path in dirs.iter().rev() {
            apply(&destination, path, &meta(&Kind::Dir, 0o555, round - 5, &[]), policy);
        }
        for node in walk(dir.path()) {
            let Node { path, stat } = node.unwrap();
            let expected = match stat.kind {
                Kind::Dir => (0o555, round - 5),
                _ => (0o444, round),
            };
            assert_eq!((stat.mode, stat.mtime.secs), expected, "{path:?}");
            assert_eq!(stat.mtime.nanos, 123_456_789);
        }
    }
    destination.make_dir_writable(b"").unwrap();
    destination.remove_tree(b"a").unwrap();
}
