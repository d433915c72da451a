//! Deployments that are configured in `strongroom.toml`, and need no service: what the commands say
//! of them, and a database that a configured command dumps and puts back.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{noise, temp, watched};

fn command(dir: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.current_dir(dir).args(words.split(' ')).stdin(Stdio::null());
    command.env_remove("STRONGROOM_STORE").env_remove("STRONGROOM_CONFIG");
    command
}

#[track_caller]
fn ends_with(code: i32, mut command: Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    output
}

#[track_caller]
fn json(mut command: Command) -> Value {
    command.arg("--json");
    serde_json::from_slice(&ends_with(0, command).stdout).unwrap()
}

fn two_directories(settings: &str) -> tempfile::TempDir {
    let dir = temp();
    for name in ["docs", "pages"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), name).unwrap();
    }
    let member =
        |name: &str| format!("[[deployments.{name}.members]]\nid = '{name}'\npath = '{name}'\n");
    let text = format!("{settings}{}{}", member("docs"), member("pages"));
    fs::write(dir.path().join("strongroom.toml"), text).unwrap();
    dir
}

#[test]
fn config_show_says_where_each_value_is_from() {
    let dir = two_directories("store = 'store'\n[deployments.docs]\nchecksum = 'sha256'\n");
    let shown = |mut command: Command, key: &str| {
        command.stderr(Stdio::null());
        let document = json(command);
        let settings = document["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["key"] == key).unwrap();
        [&found["value"], &found["from"]].map(|text| text.as_str().unwrap().to_owned())
    };
    let show = || command(dir.path(), "config show");
    assert_eq!(shown(show(), "deployments.docs.checksum"), ["sha256", "file"]);
    assert_eq!(shown(show(), "deployments.pages.checksum"), ["blake3", "default"]);
    assert_eq!(shown(show(), "store")[1], "file");
    let mut named = show();
    named.env("STRONGROOM_STORE", "elsewhere");
    assert_eq!(shown(named, "store"), ["elsewhere", "STRONGROOM_STORE"]);
    let named = command(dir.path(), "--store third config show");
    assert_eq!(shown(named, "store"), ["third", "option --store"]);
    let text = ends_with(0, show()).stdout;
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.starts_with("deployments.docs.checksum")).unwrap();
    assert_eq!(line.split_whitespace().last(), Some("file"), "{text}");
}

#[test]
fn status_tells_what_is_overdue() {
    let every = "[deployments.docs]\nevery = '1ns'\n[deployments.pages]\nevery = '26h'\n";
    let dir = two_directories(&format!("store = 'store'\n{every}"));
    ends_with(0, command(dir.path(), "init"));
    let overdue = |deployment: &str| {
        let status = json(command(dir.path(), "status"));
        let lines = status["deployments"].as_array().unwrap();
        let line = lines.iter().find(|line| line["deployment"] == deployment).unwrap();
        line["overdue"].as_bool().unwrap()
    };
    // There is no generation at all.
    assert!(overdue("docs") && overdue("pages"));
    ends_with(0, command(dir.path(), "backup --all"));
    assert!(overdue("docs"), "a nanosecond is over");
    assert!(!overdue("pages"));
    let said = ends_with(3, command(dir.path(), "status --check")).stdout;
    let said = String::from_utf8(said).unwrap();
    let line = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("docs: g1").ends_with("OVERDUE") && !line("pages: g1").ends_with("OVERDUE"));
}

/// What the guide of executors shows: a live database is dumped, and put back.
#[test]
fn a_database_is_dumped_by_a_command_and_put_back() {
    let sqlite = |path: &Path, sql: &str| {
        let output = Command::new("sqlite3").arg(path).arg(sql).output()?;
        assert!(output.status.success(), "{output:?}");
        Ok::<_, std::io::Error>(String::from_utf8(output.stdout).unwrap())
    };
    let dir = temp();
    let database = dir.path().join("orders.sqlite");
    let fill = "create table t (n integer, text);
        with recursive c(n) as (select 1 union all select n + 1 from c where n < 5000)
        insert into t select n, hex(randomblob(40)) from c;";
    if let Err(error) = sqlite(&database, fill) {
        return eprintln!("SKIPPED: sqlite3: {error}");
    }
    let text = format!(
        "store = 'store'\n[deployments.shop]\nauthority = 'declared'\nscope = 'maintenance-root'\n\
         [deployments.shop.command]\n\
         download = {{ argv = ['sqlite3', '{{database}}', '.backup {{dir}}/database.sqlite'] }}\n\
         upload = {{ argv = ['cp', '{{dir}}/database.sqlite', '{{database}}.put-back'], reply = {{ format = 'none' }} }}\n\
         load = {{ argv = ['mv', '{{database}}.put-back', '{{database}}'] }}\n\
         [[deployments.shop.members]]\nid = 'orders'\nvariables = {{ database = '{}' }}\n",
        database.display()
    );
    fs::write(dir.path().join("strongroom.toml"), text).unwrap();
    let all = "select count(*), sum(n), group_concat(text) from t";
    let before = sqlite(&database, all).unwrap();
    ends_with(0, command(dir.path(), "backup --init shop"));
    sqlite(&database, "update t set text = 'oh no'; delete from t where n > 17").unwrap();
    let done = json(command(dir.path(), "backup shop"));
    let done = &done["deployments"][0];
    assert!(done["bytes_stored"].as_u64().unwrap() < 100_000, "{done}");
    assert_ne!(sqlite(&database, all).unwrap(), before);
    ends_with(0, command(dir.path(), "restore shop@g1 --apply"));
    assert_eq!(sqlite(&database, all).unwrap(), before);
    let staged = fs::read_dir(dir.path().join("store/staging")).unwrap();
    assert_eq!(staged.count(), 1, "only locks");
}

/// A night of many members at once, and the next one.
#[test]
fn two_hundred_directories_are_backed_up_within_the_memory_bound() {
    const MEMBERS: u64 = 200;
    const MEMORY_MAX: u64 = 300 << 20;
    let dir = temp();
    let file = |member| dir.path().join(format!("{member}/stable_memory.bin"));
    let mut text = String::from("store = 'store'\n");
    for member in 0..MEMBERS {
        fs::create_dir(dir.path().join(member.to_string())).unwrap();
        fs::write(file(member), noise(member, 2_000_000)).unwrap();
        text += &format!("[[deployments.orders.members]]\nid = 'm{member}'\npath = '{member}'\n");
    }
    let configuration = dir.path().join("strongroom.toml");
    fs::write(&configuration, text).unwrap();
    let night = || {
        let configuration = configuration.to_str().unwrap();
        watched(&["--quiet", "--config", configuration, "backup", "--init", "--all"])
    };
    let (first, peak) = night();
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
    let new = |answer: &Value| answer["deployments"][0]["bytes_new"].as_u64();
    assert_eq!(new(&first), Some(MEMBERS * 2_000_000), "{first}");
    fs::write(file(7), noise(7777, 2_000_000)).unwrap();
    let (second, peak) = night();
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
    assert_eq!(new(&second), Some(2_000_000), "{second}");
}
