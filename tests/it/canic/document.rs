//! "Facts of a deployment" in `store-format.md` is what is written and read.

use serde_json::Value;
use strongroom::run::facts::{DeploymentFacts, EXTENSION, SCHEMA};
use strongroom::run::inventory::Row;
use strongroom::run::topology::topology_hash;
use strongroom::store::Extension;

fn section() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("store-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("\n## Facts of a deployment\n").unwrap();
    rest.split_once("\n## ").unwrap().0.to_owned()
}

fn example() -> String {
    let section = section();
    let (_, rest) = section.split_once("```json\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn parse(text: &str) -> Result<Option<DeploymentFacts>, strongroom::run::facts::Error> {
    let value = text.as_bytes().to_vec();
    DeploymentFacts::find(&[Extension { name: EXTENSION.to_owned(), value }])
}

#[test]
fn the_example_is_read_and_written_as_it_stands() {
    let facts = parse(&example()).unwrap().unwrap();
    let again: Value = serde_json::from_slice(&facts.to_extension().value).unwrap();
    let pretty = serde_json::to_string_pretty(&facts).unwrap();
    assert_eq!(pretty.trim(), example().trim());
    assert_eq!(again, serde_json::from_str::<Value>(&example()).unwrap());
    let root = Row { id: facts.root.unwrap(), role: Some("root".into()), ..Row::default() };
    let member = facts.members[0].clone();
    let row = Row {
        id: member.id,
        role: member.role,
        kind: None,
        parent: member.parent,
        module_hash: member.module_hash,
    };
    assert_eq!(facts.topology_hash, topology_hash(&[root, row]).hash);
}

#[test]
fn every_field_of_the_example_is_described() {
    fn names(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                all.push(name.clone());
                names(value, all);
            }),
            Value::Array(items) => items.iter().for_each(|item| names(item, all)),
            _ => {}
        }
    }
    let (section, mut all) = (section(), Vec::new());
    names(&serde_json::from_str(&example()).unwrap(), &mut all);
    assert!(all.len() > 20, "{all:?}");
    for name in all {
        assert!(section.contains(&format!("`{name}`")), "{name}");
    }
    assert!(
        section.contains(&format!("`{EXTENSION}`")) && section.contains(&format!("`{SCHEMA}`"))
    );
}

#[test]
fn other_schemas_and_fields_are_refused() {
    let newer = example().replace("deployment/1", "deployment/2").replace("\"run\"", "\"flight\"");
    let error = parse(&newer).unwrap_err().to_string();
    assert!(error.contains("deployment/2"), "{error}");
    let more = example().replacen("\"depth\"", "\"width\": 1, \"depth\"", 1);
    assert!(parse(&more).unwrap_err().to_string().contains("unknown field `width`"));
}
