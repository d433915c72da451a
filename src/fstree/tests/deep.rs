//! Trees deeper than one system call can name.

use super::*;

/// Descriptors of this process that are open on something below `dir`.
fn open_below(dir: &Path) -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}

/// Makes `levels` directories one in another, each with a file that is sorted after its
/// directory, so that a walk has to come back to every one of them.
fn make_deep(dir: &Path, name: &str, levels: usize) {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut fd = rustix::fs::open(dir, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&fd, name, Mode::RWXU).unwrap();
        let flags_file = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&fd, "z-file", flags_file, Mode::RWXU).unwrap();
        fd = rustix::fs::openat(&fd, name, flags, Mode::empty()).unwrap();
    }
}

#[test]
fn a_tree_of_2000_levels_is_walked_and_removed_with_few_descriptors() {
    let name = "n".repeat(200);
    // One component at a time, an open costs as many calls as there are levels.
    for (resolver, levels) in RESOLVERS.into_iter().zip([2000, 300]) {
        let dir = temp();
        make_deep(dir.path(), &name, levels);
        let source = Source::open_with(dir.path(), Some(resolver)).unwrap();
        let (mut dirs, mut files, mut longest, mut open_max) = (0, 0, 0, 0);
        let mut last = Vec::new();
        for node in source.walk(WalkOptions::default()) {
            let node = node.unwrap();
            assert!(node.path.is_empty() || compare_paths(&last, &node.path).is_lt());
            longest = longest.max(node.path.len());
            match node.stat.kind {
                Kind::Dir => dirs += 1,
                _ => files += 1,
            }
            if (dirs + files) % 97 == 0 {
                open_max = open_max.max(open_below(dir.path()));
            }
            last = node.path;
        }
        assert_eq!((dirs, files), (levels + 1, levels));
        assert_eq!(longest, levels * 201 - 1);
        assert!(open_max > 0 && open_max <= dirstack::DESCRIPTORS_MAX + 1, "{open_max}");

        let parent = vec![name.as_str(); levels - 1].join("/");
        let file = source.open_file(format!("{parent}/z-file").as_bytes()).unwrap();
        assert_eq!(stat_of(&file).unwrap().size_bytes, 0);
        assert_eq!(source.xattrs(parent.as_bytes(), &Kind::Dir).unwrap(), []);

        let destination = Destination::open_with(dir.path(), Some(resolver)).unwrap();
        destination.remove_tree(name.as_bytes()).unwrap();
        assert_eq!(walked_paths(dir.path()), [b"".as_slice(), b"z-file"]);
    }
}

#[test]
fn a_directory_replaced_while_the_walk_is_deep_below_it_is_not_gone_on_with() {
    const LEVELS: usize = 100;
    let dir = temp();
    make_deep(dir.path(), "d", LEVELS);
    let mut walk = Source::open(dir.path()).unwrap().walk(WalkOptions::default());
    let deepest = vec!["d"; LEVELS].join("/");
    while walk.next().unwrap().unwrap().path != deepest.as_bytes() {}
    // Of the directories that are reached again by path, the third level is another one now.
    std::fs::rename(dir.path().join("d/d/d"), dir.path().join("d/d/old")).unwrap();
    std::fs::create_dir(dir.path().join("d/d/d")).unwrap();
    std::fs::write(dir.path().join("d/d/d/z-file"), b"").unwrap();

    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for node in walk {
        match node {
            Ok(node) => files.push(node.path),
            Err(error) => errors.push(error.path().in_tree().to_vec()),
        }
    }
    // Levels whose descriptors were open, then those above, whose identity holds.
    let depth = |path: &Vec<u8>| path.split(|&byte| byte == b'/').count() - 1;
    assert_eq!(files.len() + errors.len(), LEVELS);
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|path| (2..LEVELS).contains(&depth(path))), "{errors:?}");
    assert_eq!(files.last().unwrap(), b"z-file");
    assert_eq!(files.iter().filter(|path| depth(path) < 3).count(), 3);
}

#[test]
fn a_tree_as_deep_as_the_format_allows_is_restored() {
    let dir = temp();
    let name = "d".repeat(31);
    // One component at a time, every call costs as many opens as there are levels.
    for (resolver, levels) in RESOLVERS.into_iter().zip([2000, 200]) {
        let destination = Destination::open_with(dir.path(), Some(resolver)).unwrap();
        let mut path = Vec::new();
        for level in 0..levels {
            if level > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            assert!(destination.make_dir(&path).unwrap());
        }
        let file = [&path, b"/file".as_slice()].concat();
        destination.create_file(&file, 5).unwrap();
        destination.make_symlink(&[&path, b"/link".as_slice()].concat(), b"x").unwrap();
        destination.make_hard_link(&file, b"top").unwrap();
        assert_eq!(destination.stat(&file).unwrap().unwrap().links, 2);
        while !path.is_empty() {
            let meta = meta(&Kind::Dir, 0o555, -7, &[]);
            let warnings = destination.apply(&path, None, &meta, &Policy::default()).unwrap();
            assert!(warnings.is_empty());
            let cut = path.len().saturating_sub(name.len() + 1);
            path.truncate(cut);
        }
        assert_eq!(walk(dir.path()).len(), levels + 4);
        destination.remove_tree(name.as_bytes()).unwrap();
        assert!(destination.remove_file(b"top").unwrap());
        assert!(destination.is_empty().unwrap());
    }
}
