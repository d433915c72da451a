//! Replies of configured commands, read as the configuration says.

use serde_json::Value;

use super::config::{Format, Reply, States, Unit};
use crate::run::executor::text::{ID_BYTES_MAX, checked_id};
use crate::run::executor::{State, Status, reply};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;

/// The identity of a snapshot whose upload replies nothing.
pub const UPLOADED: &str = "uploaded";

/// Reads the reply of `status`.
pub fn status(stdout: &[u8], reply: &Reply, states: &States) -> Result<Status, String> {
    if reply.format == Format::Plain {
        let state = state_of(first_line(stdout)?, states);
        return Ok(Status { state, module_hash: None });
    }
    let json = json(stdout)?;
    let state = needed(&json, reply.state.as_deref(), "state")?;
    let state = state_of(reply::text("state", state)?, states);
    Ok(Status { state, module_hash: module_hash(&json, reply)? })
}

/// Reads the reply of `create` or `upload`.
pub fn snapshot(stdout: &[u8], reply: &Reply) -> Result<Snapshot, String> {
    match reply.format {
        Format::None => Ok(named(UPLOADED.to_owned())),
        Format::Plain => Ok(named(checked_id("snapshot", first_line(stdout)?)?)),
        Format::Json => snapshot_in(&json(stdout)?, reply),
    }
}

/// Reads the reply of `list`.
pub fn snapshots(stdout: &[u8], reply: &Reply) -> Result<Vec<Snapshot>, String> {
    let snapshots: Vec<Snapshot> = if reply.format == Format::Plain {
        let ids = lines(stdout)?.map(|line| checked_id("snapshot", line).map(named));
        ids.collect::<Result<_, _>>()?
    } else {
        let json = json(stdout)?;
        items(&json, reply)?
            .iter()
            .map(|item| snapshot_in(item, reply))
            .collect::<Result<_, _>>()?
    };
    let mut ids: Vec<_> = snapshots.iter().map(|snapshot| &snapshot.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("snapshot '{}' is listed twice", pair[0])),
        None => Ok(snapshots),
    }
}

/// Reads the reply of `inventory`. Whoever takes it checks identities and parents.
pub fn rows(stdout: &[u8], reply: &Reply) -> Result<Vec<Row>, String> {
    if reply.format == Format::Plain {
        let row = |id: &str| Ok(Row { id: checked_id("member", id)?, ..Row::default() });
        return lines(stdout)?.map(row).collect();
    }
    let json = json(stdout)?;
    let row = |item: &Value| {
        let id = needed(item, reply.id.as_deref(), "id")?;
        Ok(Row {
            id: reply::id("member", id)?,
            role: short_text(item, reply.role.as_deref(), "role")?,
            kind: short_text(item, reply.kind.as_deref(), "kind")?,
            parent: short_text(item, reply.parent.as_deref(), "parent")?,
            module_hash: module_hash(item, reply)?,
        })
    };
    items(&json, reply)?.iter().map(row).collect()
}

fn named(id: String) -> Snapshot {
    Snapshot { id, taken_at: None, total_bytes: None }
}

fn utf8(stdout: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(stdout).map_err(|_| "it is not UTF-8".to_owned())
}

fn lines(stdout: &[u8]) -> Result<impl Iterator<Item = &str>, String> {
    Ok(utf8(stdout)?.lines().map(str::trim).filter(|line| !line.is_empty()))
}

fn first_line(stdout: &[u8]) -> Result<&str, String> {
    lines(stdout)?.next().ok_or_else(|| "it is empty".to_owned())
}

fn json(stdout: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(stdout).map_err(|error| format!("it is not JSON: {error}"))
}

/// Finds a value that may be missing or null.
fn found<'a>(json: &'a Value, pointer: Option<&str>) -> Option<&'a Value> {
    pointer.and_then(|pointer| json.pointer(pointer)).filter(|value| !value.is_null())
}

fn needed<'a>(json: &'a Value, pointer: Option<&str>, what: &str) -> Result<&'a Value, String> {
    let at = pointer.unwrap_or_default();
    found(json, pointer).ok_or_else(|| format!("it has no {what} at {at:?}"))
}

fn items<'a>(json: &'a Value, reply: &Reply) -> Result<&'a Vec<Value>, String> {
    let items = needed(json, Some(reply.items.as_deref().unwrap_or_default()), "list")?;
    items.as_array().ok_or_else(|| "the list is no array".to_owned())
}

fn state_of(word: &str, states: &States) -> State {
    let is = |words: &[String]| words.iter().any(|known| known.eq_ignore_ascii_case(word.trim()));
    if is(&states.running) {
        State::Running
    } else if is(&states.stopping) {
        State::Stopping
    } else if is(&states.stopped) {
        State::Stopped
    } else {
        State::Unknown
    }
}

fn module_hash(json: &Value, reply: &Reply) -> Result<Option<String>, String> {
    let hash = found(json, reply.module_hash.as_deref());
    hash.map(|hash| reply::sha256("module hash", hash)).transpose()
}

fn short_text(json: &Value, pointer: Option<&str>, what: &str) -> Result<Option<String>, String> {
    let Some(value) = found(json, pointer) else { return Ok(None) };
    let text = reply::text(what, value)?;
    if text.is_empty() || text.len() > ID_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!("{what} is empty, longer than {ID_BYTES_MAX} bytes or not printable"));
    }
    Ok(Some(text.to_owned()))
}

fn snapshot_in(json: &Value, reply: &Reply) -> Result<Snapshot, String> {
    let id = reply::id("snapshot", needed(json, reply.id.as_deref(), "id")?)?;
    let taken_at = found(json, reply.taken_at.as_deref());
    let taken_at = taken_at.map(|value| time(value, reply.taken_at_unit)).transpose()?;
    let size = found(json, reply.size.as_deref());
    let total_bytes = size.map(|value| reply::number("size", value)).transpose()?;
    Ok(Snapshot { id, taken_at, total_bytes })
}

/// Returns nanoseconds since 1970.
fn time(value: &Value, unit: Unit) -> Result<u64, String> {
    let wrong = || "the time is not between 1970 and 2554".to_owned();
    let stated = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if let Some(time) = stated {
        return u64::try_from(time.as_nanosecond()).map_err(|_| wrong());
    }
    let factor = match unit {
        Unit::Nanoseconds => 1,
        Unit::Milliseconds => 1_000_000,
        Unit::Seconds => 1_000_000_000,
    };
    reply::number("time", value)?.checked_mul(factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_replies_are_first_lines_or_all_lines() {
        let plain = Reply::default();
        let states = States::default();
        for (word, state) in [
            ("Running\n", State::Running),
            ("\n  active \nsince yesterday", State::Running),
            ("deactivating", State::Stopping),
            ("INACTIVE", State::Stopped),
            ("failed", State::Unknown),
        ] {
            let known = status(word.as_bytes(), &plain, &states).unwrap();
            assert_eq!(known, Status { state, module_hash: None }, "{word}");
        }
        assert!(status(b" \n", &plain, &states).is_err());
        assert_eq!(snapshot(b"s1\nother words\n", &plain).unwrap(), named("s1".into()));
        let ids: Vec<_> = snapshots(b"b\r\na\n\n", &plain).unwrap();
        assert_eq!(ids, [named("b".into()), named("a".into())]);
        assert_eq!(snapshots(b"", &plain).unwrap(), []);
        assert_eq!(rows(b"a\nb\n", &plain).unwrap().len(), 2);
        for hostile in [&b"\xff\n"[..], b"a/b", b"--all", b"a b", b"x\x1b[m"] {
            assert!(snapshot(hostile, &plain).is_err());
            assert!(snapshots(hostile, &plain).is_err());
            assert!(rows(hostile, &plain).is_err());
        }
        assert!(snapshots(b"a\nb\na\n", &plain).unwrap_err().contains("twice"));
    }

    #[test]
    fn json_replies_are_read_where_the_configuration_points() {
        let reply = Reply {
            format: Format::Json,
            items: Some("/list".into()),
            id: Some("/name".into()),
            taken_at: Some("/when".into()),
            size: Some("/bytes".into()),
            ..Reply::default()
        };
        let text = br#"{"list": [{"name": "a", "when": "1_000", "bytes": 7, "more": {}},
            {"name": 12, "when": "1970-01-01T00:00:01Z"}, {"name": "c", "bytes": null}]}"#;
        let list = snapshots(text, &reply).unwrap();
        let first = Snapshot { id: "a".into(), taken_at: Some(1000), total_bytes: Some(7) };
        assert_eq!(list[0], first);
        assert_eq!((list[1].id.as_str(), list[1].taken_at), ("12", Some(1_000_000_000)));
        assert_eq!(list[2], named("c".into()));
        let seconds = Reply { taken_at_unit: Unit::Seconds, ..reply.clone() };
        assert_eq!(snapshots(text, &seconds).unwrap()[0].taken_at, Some(1_000_000_000_000));
        for wrong in [
            &br#"{"list": {}}"#[..],
            br#"{"list": [{"name": "../a"}]}"#,
            br#"{"list": [{}]}"#,
            br#"{"list": [{"name": "a", "bytes": -1}]}"#,
            br#"{"list": [{"name": "a", "when": "1900-01-01T00:00:00Z"}]}"#,
            br#"{"list": [{"name": "a", "when": "yesterday"}]}"#,
            br#"{"list": [{"name": "a"}]"#,
            b"[]",
            b"",
        ] {
            assert!(snapshots(wrong, &reply).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert!(snapshots(&b"[".repeat(1 << 20), &reply).is_err());
    }

    #[test]
    fn members_and_states_are_read_from_json_too() {
        let reply = Reply {
            format: Format::Json,
            id: Some("/id".into()),
            role: Some("/labels/role".into()),
            parent: Some("/parent".into()),
            module_hash: Some("/hash".into()),
            state: Some("/state".into()),
            ..Reply::default()
        };
        let hash = "0a".repeat(32);
        let text = format!(
            r#"[{{"id": "a", "labels": {{"role": "root"}}, "hash": "0x{hash}"}},
            {{"id": "b", "parent": "a"}}]"#
        );
        let rows = rows(text.as_bytes(), &reply).unwrap();
        assert_eq!(
            (rows[0].role.as_deref(), rows[0].module_hash.as_ref()),
            (Some("root"), Some(&hash))
        );
        assert_eq!(rows[1].parent.as_deref(), Some("a"));
        let long = format!(r#"[{{"id": "a", "parent": "{}"}}]"#, "x".repeat(300));
        assert!(super::rows(long.as_bytes(), &reply).is_err());
        let text = format!(r#"{{"state": "up", "hash": "{hash}"}}"#);
        let status = status(text.as_bytes(), &reply, &States::default()).unwrap();
        assert_eq!(status, Status { state: State::Running, module_hash: Some(hash) });
        assert!(super::status(b"{}", &reply, &States::default()).is_err());
    }

    #[test]
    fn an_upload_may_reply_nothing() {
        let none = Reply { format: Format::None, ..Reply::default() };
        assert_eq!(snapshot(b"chatter", &none).unwrap().id, UPLOADED);
    }
}
