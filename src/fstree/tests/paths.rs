//! Paths inside a tree: order, rules, display.

use proptest::prelude::*;

use super::*;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

#[test]
fn a_directory_comes_before_its_children_and_they_before_its_longer_siblings() {
    let sorted: [&[u8]; 9] =
        [b"", b"a", b"a/\x01", b"a/b", b"a/b/c", b"a\x01", b"a-b", b"a.b", b"b"];
    for (i, a) in sorted.iter().enumerate() {
        for (j, b) in sorted.iter().enumerate() {
            assert_eq!(compare_paths(a, b), i.cmp(&j), "{a:?} {b:?}");
        }
    }
}

proptest! {
    #[test]
    fn paths_compare_as_their_lists_of_components(
        a in prop::collection::vec("[a-c.-]{1,3}", 1..4),
        b in prop::collection::vec("[a-c.-]{1,3}", 1..4),
    ) {
        let (joined_a, joined_b) = (a.join("/"), b.join("/"));
        prop_assert_eq!(compare_paths(joined_a.as_bytes(), joined_b.as_bytes()), a.cmp(&b));
    }
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    let name = vec![b'n'; NAME_BYTES_MAX];
    let refused: [(&[u8], PathError); 10] = [
        (b"/", PathError::EmptyName),
        (b"/a", PathError::EmptyName),
        (b"a/", PathError::EmptyName),
        (b"a//b", PathError::EmptyName),
        (b".", PathError::DotName),
        (b"..", PathError::DotName),
        (b"a/../b", PathError::DotName),
        (b"a/.", PathError::DotName),
        (b"a\0b", PathError::Nul),
        (b"a/\0", PathError::Nul),
    ];
    for (path, error) in refused {
        assert_eq!(check_path(path), Err(error), "{path:?}");
    }
    let long = [name.as_slice(), b"n"].concat();
    assert_eq!(check_path(&long), Err(PathError::NameTooLong { bytes: 256 }));
    let long = vec![name.as_slice(); PATH_BYTES_MAX / 256 + 1].join(&b'/');
    let bytes = long.len();
    assert_eq!(check_path(&long), Err(PathError::TooLong { bytes }));
    assert_eq!(check_path(&long[..PATH_BYTES_MAX - 1]), Ok(()));

    for path in [b"".as_slice(), b"a", b"...", b".a/..b", b"\xff/\n", &name] {
        assert_eq!(check_path(path), Ok(()), "{path:?}");
    }
}

#[test]
fn the_messages_of_path_errors_state_the_limits() {
    let name = PathError::NameTooLong { bytes: 1 }.to_string();
    assert!(name.contains(&NAME_BYTES_MAX.to_string()), "{name}");
    let path = PathError::TooLong { bytes: 1 }.to_string();
    assert!(path.contains(&PATH_BYTES_MAX.to_string()), "{path}");
}

#[test]
fn errors_show_the_exact_bytes_of_a_path() {
    let dir = temp();
    let destination = Destination::open(dir.path()).unwrap();
    let path = "gr\u{fc}n\\".as_bytes();
    let path = [path, b"\xff\n"].concat();
    let error = destination.make_hard_link(&path, b"b").unwrap_err();
    assert_eq!(error.path().in_tree(), b"b");
    let error = destination.create_file(&[&path, b"/x".as_slice()].concat(), 0);
    let error = error.unwrap_err();
    let shown = format!("create {}/gr\u{fc}n\\\\\\xff\\x0a/x: ", dir.path().display());
    assert!(error.to_string().starts_with(&shown), "{error}");
    assert_eq!(error.path().in_tree(), [&path, b"/x".as_slice()].concat());
    assert!(error.is_not_found());
}
