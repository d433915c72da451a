//! What docs/executors.md tells people to write.

use std::path::Path;

use strongroom::run::config::Config;

#[test]
fn examples_in_the_documentation_make_executors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/executors.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut made = Vec::new();
    for block in blocks {
        let config = Config::parse(block, Path::new("/etc/strongroom")).unwrap();
        for (name, deployment) in &config.deployments {
            let executor = deployment.make_executor(name, &deployment.members).unwrap();
            let able = executor.capabilities();
            let able = [able.control, able.snapshots, able.restore].map(u8::from);
            made.push(format!("{name}: {} {} {able:?}", executor.name(), executor.environment()));
        }
    }
    let expected = [
        "website: dir  [0, 0, 0]",
        "shop: command  [0, 0, 1]",
        "mail: command  [1, 0, 0]",
        "wiki: zfs rack-2 [1, 1, 0]",
        "game: icp production [1, 1, 1]",
        "game: icp https://icp-api.io [1, 1, 1]",
    ];
    assert_eq!(made, expected);
}
