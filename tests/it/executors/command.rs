//! Services driven by configured commands: a real database, and a service that answers badly.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use strongroom::run::executor::command::{CommandConfig, CommandExecutor, ConfigError};
use strongroom::run::executor::{Call, Capabilities, Error, Executor, Fetched, State};
use strongroom::run::facts::Snapshot;
use strongroom::run::inventory::Row;
use strongroom::store::Scope;

use super::{member, script, wait_until};
use crate::support::{self, Tree, temp};

fn config(text: &str) -> CommandConfig {
    toml::from_str(text).unwrap()
}

fn executor(text: &str) -> CommandExecutor {
    CommandExecutor::new(config(text)).unwrap()
}

fn snapshot(id: &str) -> Snapshot {
    Snapshot { id: id.into(), taken_at: None, total_bytes: None }
}

#[track_caller]
fn sqlite(database: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg(database).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_live_database_is_dumped_stored_and_put_back() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: sqlite3 is not installed");
    }
    let temp = temp();
    let tree = Tree::at(temp.path());
    let database = temp.path().join("live's orders.sqlite");
    let executor = executor(&format!(
        r#"
        download = {{ argv = ["sqlite3", "{{database}}", ".backup {{dir}}/database.sqlite"] }}
        upload = {{ argv = ["cp", "{{dir}}/database.sqlite", "{{database}}.put-back"], reply = {{ format = "none" }} }}
        load = {{ argv = ["mv", "{{database}}.put-back", "{{database}}"] }}
        [variables.orders]
        database = "{}"
        "#,
        database.display()
    ));
    let capabilities = Capabilities { control: false, snapshots: false, restore: true };
    assert_eq!(executor.capabilities(), capabilities);
    let (orders, call) = (member("orders"), Call::new());

    sqlite(
        &database,
        "create table orders (id integer primary key, item text);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
        insert into orders select i, hex(randomblob(20)) from n;",
    );
    let sum = "select count(*), sum(length(item)), max(item) from orders";
    let before = sqlite(&database, sum);
    // Left over from a fetch that was interrupted.
    tree.file("staging/old/part", "gone");
    let staging = temp.path().join("staging");
    // A writer has begun and not committed: what it wrote is in the file's journal, and a copy of
    // the file would not be the database.
    let mut writer = Command::new("sqlite3");
    writer.arg(&database).stdin(std::process::Stdio::piped());
    let mut writer = writer.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = writer.stdin.take().unwrap();
    let mut output = std::io::BufReader::new(writer.stdout.take().unwrap());
    let begun = b"begin; update orders set item = 'half done' where id % 2; select 'begun';\n";
    std::io::Write::write_all(&mut input, begun).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "begun\n");
    let fetched = executor.download(&orders, None, &staging, &call).unwrap();
    assert_eq!(fetched, Fetched::Staged);
    assert!(staging.join("database.sqlite").exists());
    assert!(!staging.join("old").exists(), "staging was not emptied");
    executor.check(&orders, None, &staging).unwrap();
    drop(input);
    writer.wait().unwrap();

    let (_, store) = support::memory_store();
    support::backup(&store, &staging);
    sqlite(&database, "delete from orders where id > 3; vacuum;");
    assert_ne!(sqlite(&database, sum), before);
    assert!(support::verify(&store, Scope::Full).is_clean());
    let restored = temp.path().join("restored");
    support::restore(&store, "orders@latest", &restored);
    let uploaded = executor.upload(&orders, &restored.join(support::MEMBER), &call).unwrap();
    executor.load(&orders, &uploaded, &call).unwrap();
    assert_eq!(sqlite(&database, sum), before);
    assert_eq!(sqlite(&database, "pragma integrity_check"), "ok\n");

    // Not the database's words, but why it failed is to be read in the error.
    let gone = member("customers");
    let refused = executor.download(&gone, None, &staging, &call);
    let Err(Error::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("member customers has nothing for {database}"), "{text}");
}

/// A service of directories whose members are files, with snapshots.
const SERVICE: &str = r#"
cd "$(dirname "$0")"
verb=$1 member=$2
case $verb in
stop) echo stopped > "$member.state" ;;
start) echo running > "$member.state" ;;
status) printf '{"state": "%s", "hash": null}' "$(cat "$member.state")" ;;
create)
    mkdir -p "snapshots/$member"
    id=s$(ls "snapshots/$member" | wc -l)
    cp -r "$member" "snapshots/$member/$id"
    printf '{"snapshot": {"id": "%s", "seconds": 1700000000, "bytes": "1_024"}}' "$id" ;;
list)
    separator=
    printf '{"snapshots": ['
    for id in $(ls "snapshots/$member" 2>/dev/null); do
        printf '%s{"snapshot": {"id": "%s"}}' "$separator" "$id"; separator=,
    done
    printf ']}' ;;
download) cp -r "snapshots/$member/$3/." "$4" ;;
upload) mkdir -p "snapshots/$member"; cp -r "$3/." "snapshots/$member/up"; echo up ;;
load) rm -r "$member"; cp -r "snapshots/$member/$3" "$member" ;;
delete) rm -r "snapshots/$member/$3" ;;
inventory) printf '[{"id": "root"}, {"id": "leaf", "parent": "root", "role": "shop"}]' ;;
*) exit 64 ;;
esac
"#;

const SERVICE_CONFIG: &str = r#"
name = "shelf"
environment = "test"
stop = { argv = ["PROGRAM", "stop", "{member}"] }
start = { argv = ["PROGRAM", "start", "{member}"] }
status = { argv = ["PROGRAM", "status", "{member}"], reply = { format = "json", state = "/state", module-hash = "/hash" } }
create = { argv = ["PROGRAM", "create", "{member}"], reply = { format = "json", id = "/snapshot/id", taken-at = "/snapshot/seconds", taken-at-unit = "seconds", size = "/snapshot/bytes" } }
list = { argv = ["PROGRAM", "list", "{member}"], reply = { format = "json", items = "/snapshots", id = "/snapshot/id" } }
download = { argv = ["PROGRAM", "download", "{member}", "{snapshot}", "{dir}"] }
upload = { argv = ["PROGRAM", "upload", "{member}", "{dir}"] }
load = { argv = ["PROGRAM", "load", "{member}", "{snapshot}"] }
delete = { argv = ["PROGRAM", "delete", "{member}", "{snapshot}"] }
inventory = { argv = ["PROGRAM", "inventory"], reply = { format = "json", id = "/id", role = "/role", parent = "/parent" } }
"#;

#[test]
fn a_service_with_snapshots_goes_all_the_way_and_back() {
    let temp = temp();
    let tree = Tree::at(temp.path());
    let program = script(&temp.path().join("service"), SERVICE);
    let executor = executor(&SERVICE_CONFIG.replace("PROGRAM", program.to_str().unwrap()));
    let all = Capabilities { control: true, snapshots: true, restore: true };
    assert_eq!(executor.capabilities(), all);
    assert_eq!((executor.name(), executor.environment()), ("shelf", "test"));
    let call = Call::new();
    let rows = executor.inventory(&call).unwrap().unwrap();
    let leaf = Row { id: "leaf".into(), parent: Some("root".into()), ..member("leaf") };
    assert_eq!(rows[1], Row { role: Some("shop".into()), ..leaf });
    let leaf = &rows[1];
    tree.file("leaf/data", "before");
    tree.file("leaf.state", "running\n");

    assert_eq!(executor.status(leaf, &call).unwrap().state, State::Running);
    executor.stop(leaf, &call).unwrap();
    assert_eq!(executor.status(leaf, &call).unwrap().state, State::Stopped);
    assert_eq!(executor.snapshots(leaf, &call).unwrap(), []);
    let created = executor.create(leaf, &call).unwrap();
    let (taken_at, total_bytes) = (Some(1_700_000_000_000_000_000), Some(1024));
    assert_eq!(created, Snapshot { taken_at, total_bytes, ..snapshot("s0") });
    assert_eq!(executor.snapshots(leaf, &call).unwrap(), [snapshot("s0")]);
    executor.start(leaf, &call).unwrap();
    tree.dir("staging");
    let staging = temp.path().join("staging");
    let fetched = executor.download(leaf, Some(&created), &staging, &call).unwrap();
    assert_eq!((fetched, tree.read("staging/data")), (Fetched::Staged, b"before".to_vec()));

    tree.file("leaf/data", "after");
    let uploaded = executor.upload(leaf, &staging, &call).unwrap();
    executor.load(leaf, &uploaded, &call).unwrap();
    assert_eq!(tree.read("leaf/data"), b"before");
    for snapshot in [&created, &uploaded] {
        executor.delete(leaf, snapshot, &call).unwrap();
    }
    assert_eq!(executor.snapshots(leaf, &call).unwrap(), []);
}

/// Makes an executor whose every command is `sh -c TEXT`.
fn answering(text: &str) -> CommandExecutor {
    let mut config = config(&SERVICE_CONFIG.replace("PROGRAM", "sh"));
    let steps = [
        &mut config.stop,
        &mut config.start,
        &mut config.status,
        &mut config.create,
        &mut config.list,
        &mut config.download,
        &mut config.upload,
        &mut config.load,
        &mut config.delete,
        &mut config.inventory,
    ];
    for step in steps.into_iter().flatten() {
        let rest = step.argv.split_off(2);
        step.argv[1] = "-c".into();
        step.argv.push(text.replace('{', "{{").replace('}', "}}"));
        step.argv.extend(rest);
        step.refused_codes = vec![2];
    }
    CommandExecutor::new(config).unwrap()
}

#[test]
fn replies_that_cannot_be_trusted_say_nothing_of_what_was_done() {
    let call = Call::new();
    for reply in [
        "echo done",
        "printf '\\377\\376\\000'",
        "echo '{}'",
        "echo '{\"snapshot\": {\"id\": \"../../etc\"}, \"snapshots\": [{\"snapshot\": {\"id\": \"/\"}}]}'",
        "echo '{\"snapshot\": {\"id\": \"--force\"}, \"state\": 1, \"snapshots\": 7}'",
        "head -c 1000000 /dev/zero | tr '\\000' '['",
        "true",
    ] {
        let executor = answering(reply);
        let member = member("a");
        let failures = [
            executor.status(&member, &call).map(drop),
            executor.create(&member, &call).map(drop),
            executor.snapshots(&member, &call).map(drop),
            executor.inventory(&call).map(drop),
        ];
        for failure in failures {
            let Err(Error::Unknown(text)) = failure else { panic!("{reply}: {failure:?}") };
            assert!(text.contains("its reply cannot be used") && text.len() < 2000, "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}

#[test]
fn exit_codes_tell_what_was_refused_from_what_nobody_knows() {
    let (call, member) = (Call::new(), member("a"));
    let refused = answering("echo no such option >&2; exit 2").stop(&member, &call);
    let Err(Error::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("exit status: 2; it said: no such option"), "{text}");
    for script in ["exit 1", "kill -9 $$"] {
        let failed = answering(script).create(&member, &call);
        assert!(matches!(failed, Err(Error::Unknown(_))), "{failed:?}");
    }
    let code = "status = { argv = ['sh', '-c', 'echo inactive; exit 3'], success-codes = [0, 3] }
        stop = { argv = ['true'] }\nstart = { argv = ['true'] }\npath = '/'";
    let status = executor(code).status(&member, &call).unwrap();
    assert_eq!(status.state, State::Stopped);
}

#[test]
fn a_download_that_leaves_nothing_has_failed_and_an_upload_of_nothing_is_refused() {
    let temp = temp();
    let executor = answering("true");
    let (call, member) = (Call::new(), member("a"));
    let failed = executor.download(&member, Some(&snapshot("s")), temp.path(), &call);
    let Err(Error::Unknown(text)) = failed else { panic!("{failed:?}") };
    assert!(text.contains("it left nothing in"), "{text}");
    let without = executor.download(&member, None, temp.path(), &call);
    assert!(matches!(without, Err(Error::Refused(_))), "{without:?}");
    for dir in [temp.path().to_owned(), temp.path().join("gone")] {
        let refused = executor.upload(&member, &dir, &call);
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
}

#[test]
fn values_stay_inside_their_argument_and_are_never_options() {
    let temp = temp();
    let trace = temp.path().join("trace");
    let text = format!(
        "download = {{ argv = ['sh', '-c', 'printf \"%s|\" \"$@\" > \"$0\"', '{}', '{{member}}', 'x{{member}}', '--', '{{member}}', '{{dir}}'] }}",
        trace.display()
    );
    let executor = executor(&text);
    let call = Call::new();
    for hostile in ["a b", "$(touch pwned)", "`x`; exit 1", "'\"", "{dir}", "*"] {
        // Staging is emptied first, so what the call before has written is gone.
        executor.download(&member(hostile), None, temp.path(), &call).unwrap();
        let written = std::fs::read_to_string(&trace).unwrap();
        let expected = format!("{hostile}|x{hostile}|--|{hostile}|{}|", temp.path().display());
        assert_eq!(written, expected);
    }
    let refused = executor.download(&member("--output=x"), None, temp.path(), &call);
    let Err(Error::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("taken for an option"), "{text}");
}

#[test]
fn files_are_read_in_place_where_a_template_says() {
    let temp = temp();
    Tree::at(temp.path()).file("a/data", "x");
    let path = format!("path = '{}/{{member}}'", temp.path().display());
    let (executor, call) = (executor(&path), Call::new());
    let none = Capabilities { control: false, snapshots: false, restore: false };
    assert_eq!(executor.capabilities(), none);
    let fetched = executor.download(&member("a"), None, "nowhere".as_ref(), &call).unwrap();
    assert_eq!(fetched, Fetched::InPlace(temp.path().join("a")));
    let gone = executor.download(&member("b"), None, "nowhere".as_ref(), &call);
    assert!(matches!(gone, Err(Error::Refused(_))), "{gone:?}");
    let relative = CommandExecutor::new(config("path = '{member}'")).unwrap();
    let refused = relative.download(&member("a"), None, "nowhere".as_ref(), &call);
    let Err(Error::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("not absolute"), "{text}");
}

#[test]
fn a_command_takes_as_long_as_its_own_limit_says() {
    let text = "path = '/'\nstart = { argv = ['true'] }\nstatus = { argv = ['true'] }
        stop = { argv = ['sleep', '1000'], timeout = '100ms' }";
    let late = executor(text).stop(&member("a"), &Call::new());
    let Err(Error::Unknown(text)) = late else { panic!("{late:?}") };
    assert!(text.contains("did not end within 0.1 s"), "{text}");
}

#[test]
fn a_command_under_way_is_interrupted() {
    let temp = temp();
    let ready = temp.path().join("ready");
    let executor = answering(&format!("echo > {}; exec sleep 1000", ready.display()));
    let call = Call::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("it runs", || ready.exists());
            call.interrupted.store(true, Ordering::Relaxed);
        });
        assert!(matches!(executor.stop(&member("a"), &call), Err(Error::Interrupted)));
    });
}

#[test]
fn configurations_that_make_no_sense_are_refused_with_a_reason() {
    for (text, reason) in [
        ("", "exactly one of them is needed"),
        ("path = '/x'\ndownload = { argv = ['x', '{dir}'] }", "exactly one of them is needed"),
        (
            "path = '/x/{membre}'",
            "path: {membre} is no placeholder here; there are: {member}, {role}",
        ),
        ("path = '/x/{snapshot}'", "is no placeholder here"),
        ("download = { argv = ['x', '{dir}', '{snapshot}'] }", "{snapshot} is no placeholder"),
        ("download = { argv = ['x'] }", "no argument uses {dir}"),
        ("download = { argv = [] }", "argv begins with a program"),
        ("download = { argv = ['{member}', '{dir}'] }", "no placeholder may choose the program"),
        ("path = '/{environment}'", "'environment' is not configured"),
        ("path = '/'\nstop = { argv = ['x'] }", "stop needs start"),
        ("path = '/'\nload = { argv = ['x'] }", "load needs upload"),
        ("path = '/'\ndelete = { argv = ['x'] }", "delete needs create"),
        ("path = '/'\ncreate = { argv = ['x'] }", "create needs list"),
        ("path = '/'\ncreate = { argv = ['x'] }\nlist = { argv = ['x'] }", "create needs download"),
        ("path = '/'\nvariables.a.Dir = 'x'", "a name consists of"),
        ("path = '/'\nvariables.a.dir = 'x'", "has a meaning of its own"),
        ("path = '/'\nvariables.a.x = ''", "its value is empty"),
        ("path = '/'\nstates.stopped = ['Up']", "\"up\" stands for two states"),
        ("path = '/'\ninventory = { argv = ['x', '{member}'] }", "there are: {environment}"),
        (
            "path = '/'\ninventory = { argv = ['x'], reply = { format = 'json' } }",
            "where 'id' stands in the JSON has to be said",
        ),
        ("path = '/'\ninventory = { argv = ['x'], reply = { id = '/a' } }", "needs format"),
        (
            "path = '/'\ninventory = { argv = ['x'], reply = { format = 'json', id = 'a' } }",
            "begins with '/'",
        ),
        (
            "path = '/'\ninventory = { argv = ['x'], reply = { format = 'json', id = '', size = '' } }",
            "'size' means nothing in this step",
        ),
        ("path = '/'\ninventory = { argv = ['x'], reply = { format = 'none' } }", "has to reply"),
        (
            "download = { argv = ['x', '{dir}'], reply = { format = 'json' } }",
            "nothing in the reply of this step is looked at",
        ),
    ] {
        let error: ConfigError = CommandExecutor::new(config(text)).unwrap_err();
        assert!(error.to_string().contains(reason), "{text}\n{error}");
    }
    for unknown in ["shell = 'x'", "stop = { argv = ['x'], cwd = '/' }", "stop = 'echo a; echo b'"]
    {
        assert!(toml::from_str::<CommandConfig>(unknown).is_err(), "{unknown}");
    }
}
