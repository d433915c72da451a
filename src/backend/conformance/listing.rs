//! The checks of [`Backend::list`].

use std::collections::BTreeMap;

use super::{Failure, create, key, listed, pack};
use crate::backend::{Backend, Error};

pub(super) fn is_sorted(backend: &dyn Backend) -> Result<(), Failure> {
    let mut expected = BTreeMap::new();
    // `-` and `.` sort before `/`, digits and letters behind: nesting must not disturb the order.
    for text in ["log/b", "log/a/z", "log/a-z", "log/a.z", "log/a0", "log/a/b/c", "log/zz", "log/0"]
    {
        expected.insert(text.to_owned(), text.len() as u64);
    }
    for start in ["ff", "00", "a0", "0f1", "0f0", "9"] {
        let key = pack(start)?;
        expected.insert(key.to_string(), key.as_str().len() as u64 + start.len() as u64);
    }
    expected.insert("store".to_owned(), 5);
    for (text, &size) in expected.iter().rev() {
        create(backend, &key(text)?, &vec![b'x'; usize::try_from(size).unwrap_or(0)])?;
    }
    for folder in ["log", "packs", ""] {
        let found = listed(backend, folder)?;
        let wanted: Vec<(String, u64)> = expected
            .iter()
            .filter(|(text, _)| folder.is_empty() || text.starts_with(&format!("{folder}/")))
            .map(|(text, size)| (text.clone(), *size))
            .collect();
        ensure!(found == wanted, "list of {folder:?} is {found:?}, not {wanted:?}");
    }
    Ok(())
}

pub(super) fn is_limited_to_its_folder(backend: &dyn Backend) -> Result<(), Failure> {
    for text in ["log/a", "log-old/a", "log.1", "log0/a", "lo/a", "runs/log/a", "log/sub/b"] {
        create(backend, &key(text)?, b"x")?;
    }
    for (folder, wanted) in [
        ("log", &["log/a", "log/sub/b"][..]),
        ("log/sub", &["log/sub/b"]),
        ("runs", &["runs/log/a"]),
        ("lo", &["lo/a"]),
        ("log/a", &[]),
        ("log/a/b", &[]),
        ("none", &[]),
        ("none/at/all", &[]),
        ("packs", &[]),
    ] {
        let found: Vec<String> = listed(backend, folder)?.into_iter().map(|(key, _)| key).collect();
        ensure!(found == wanted, "list of {folder:?} is {found:?}, not {wanted:?}");
    }
    Ok(())
}

pub(super) fn may_call_back(backend: &dyn Backend) -> Result<(), Failure> {
    for text in ["runs/1", "runs/2", "runs/3"] {
        create(backend, &key(text)?, b"x")?;
    }
    let mut results = Vec::new();
    backend.list("runs", &mut |key, _| results.push(backend.delete(&key)))?;
    ensure!(results.len() == 3, "{} of 3 listed", results.len());
    results.into_iter().collect::<Result<(), Error>>()?;
    let found = listed(backend, "runs")?;
    ensure!(found.is_empty(), "{found:?} is left");
    Ok(())
}

pub(super) fn refuses_bad_folders(backend: &dyn Backend) -> Result<(), Failure> {
    for folder in ["..", "/", "packs/", "../x", "/etc", "a//b", "A", ".hidden", "tmp", "locks"] {
        match listed(backend, folder) {
            Err(_) => {}
            Ok(found) => return Err(Failure(format!("list of {folder:?} is {found:?}"))),
        }
    }
    Ok(())
}
