//! `strongroom import canic` and `strongroom export canic`: what they print, and how they end.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::original::{self, APP, Wanted, accept, id};
use crate::support::{Tree, fast_temp};

/// Runs the command on the store beside the other directories; returns its code and all it said.
fn strongroom(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(arguments).env("STRONGROOM_STORE", "store").env("NO_COLOR", "1");
    let output = command.current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn json(dir: &Path, arguments: &[&str]) -> Value {
    let (code, out, errors) = strongroom(dir, arguments);
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_backup_goes_in_and_out_by_the_command() {
    let dir = fast_temp();
    original::backup(&dir.path().join("theirs"), &Wanted::everything());
    let import = ["import", "canic", "theirs", "--name", "fleet", "--json"];
    let (code, _, errors) = strongroom(dir.path(), &import);
    assert_eq!(code, 10, "{errors}");

    let first = json(dir.path(), &[&import[..], &["--init"]].concat());
    assert_eq!(first["schema"], "strongroom.import/1");
    assert_eq!((&first["created"], &first["generation"]), (&true.into(), &1.into()));
    assert_eq!((&first["backup"], &first["format"]), (&"run-1".into(), &"canic".into()));
    assert_eq!(first["members"].as_array().unwrap().len(), 4);
    assert_eq!(first["members"][1]["role"], "app");
    assert_eq!(first["members"][1]["checksum"]["algorithm"], "sha256");
    let again = json(dir.path(), &import);
    assert_eq!((&again["created"], &again["generation"]), (&false.into(), &1.into()));
    assert_eq!(again["members"], first["members"]);

    let export = ["export", "canic", "fleet", "--to", "ours"];
    let exported = json(dir.path(), &[&export[..], &["--json"]].concat());
    assert_eq!(exported["schema"], "strongroom.export/1");
    assert_eq!(exported["members"][1]["checksum"], first["members"][1]["checksum"]);
    accept(&dir.path().join("ours"));

    let (code, out, errors) = strongroom(dir.path(), &export);
    assert_eq!((code, out.as_str()), (1, ""), "{errors}");
    assert!(
        errors.contains("not an empty directory") && errors.contains("hint: choose"),
        "{errors}"
    );

    let text = ["import", "canic", "ours", "--name", "copy"];
    let (code, out, errors) = strongroom(dir.path(), &text);
    assert_eq!(code, 0, "{errors}");
    assert!(out.starts_with("copy@g1: backup run-1, 4 members, 28 files, "), "{out}");
    let (_, out, _) = strongroom(dir.path(), &text);
    assert!(out.starts_with("copy@g1 holds backup run-1 already"), "{out}");
    let (_, quiet, errors) = strongroom(dir.path(), &[&text[..], &["--quiet"]].concat());
    assert_eq!((quiet, errors), (String::new(), String::new()));
}

#[test]
fn what_is_refused_is_told_with_a_way_out() {
    let dir = fast_temp();
    let theirs = dir.path().join("theirs");
    original::backup(&theirs, &Wanted::everything());
    let import = ["import", "canic", "theirs", "--name", "fleet"];
    assert_eq!(strongroom(dir.path(), &["init"]).0, 0);
    Tree::at(theirs.join(id(APP))).file("wasm_memory.bin", b"changed");
    let (code, out, errors) = strongroom(dir.path(), &import);
    assert_eq!((code, out.as_str()), (1, ""));
    let told = format!("import theirs: {}: its artifact has the checksum ", id(APP));
    assert!(
        errors.contains(&told) && errors.contains("hint: import a copy that is whole"),
        "{errors}"
    );

    std::fs::write(theirs.join("backup-plan.json"), b"{\"extra\":1}").unwrap();
    let (_, _, errors) = strongroom(dir.path(), &import);
    assert!(errors.contains("backup-plan.json: unknown field `extra`"), "{errors}");

    let plain = ["backup", "--name", "plain", "theirs"];
    assert_eq!(strongroom(dir.path(), &plain).0, 0);
    let (code, _, errors) = strongroom(dir.path(), &["export", "canic", "plain", "--to", "ours"]);
    assert_eq!(code, 1);
    assert!(errors.contains("made from plain directories"), "{errors}");
    assert!(errors.contains("`strongroom restore plain --to ours --store store`"), "{errors}");
    for usage in [
        &["export", "canic", "plain:theirs", "--to", "ours"][..],
        &["import", "canic", "theirs"],
        &["import", "tar", "theirs", "--name", "x"],
        &["import"],
    ] {
        let (code, _, errors) = strongroom(dir.path(), usage);
        assert_eq!(code, 2, "{usage:?}: {errors}");
    }
}
