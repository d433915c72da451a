//! A store on a file system that cannot be written.

use std::process::Command;

use super::*;

/// Set to the store when this test runs itself again, where the store is read-only.
const READ_ONLY_STORE: &str = "STRONGROOM_TEST_READ_ONLY_STORE";
/// The exit code for "cannot make a read-only file system here".
const CANNOT_MOUNT: i32 = 77;

#[test]
fn a_read_only_file_system_can_be_read() {
    if let Some(path) = std::env::var_os(READ_ONLY_STORE) {
        read_only_checks(&PathBuf::from(path));
        return;
    }
    let (_dir, backend) = store_in(&std::env::temp_dir());
    for (key, bytes) in [(pack('a'), 100_000), (key("log/1"), 10)] {
        let _ = backend.put(&key, &[&noise(bytes)]).unwrap();
    }
    drop(backend.try_lock("made", LockMode::Exclusive).unwrap());

    let name = module_path!().split_once("::").unwrap().1;
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" || exit 77; \
                  exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "--user", "sh", "-c", script])
        .arg(backend.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("{name}::a_read_only_file_system_can_be_read")])
        .env(READ_ONLY_STORE, backend.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(told.contains("1 passed"), "{told}");
        }
        Ok(output) if output.status.code() == Some(CANNOT_MOUNT) || output.stdout.is_empty() => {
            eprintln!("SKIPPED: no read-only mount: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("SKIPPED: no read-only mount: {error}"),
    }
}

fn read_only_checks(path: &Path) {
    let refused = |answer: Result<(), Error>| {
        let Err(error) = answer else { panic!("it is not read-only") };
        assert!(error.to_string().contains("Read-only file system"), "{error}");
    };
    let backend = LocalBackend::open(path).unwrap();
    assert_eq!(listed(&backend, "").len(), 2);
    assert_eq!(*backend.read(&key("log/1"), 10).unwrap(), *noise(10));
    backend.read_at(&pack('a'), 50_000, &mut vec![0; 50_000]).unwrap();

    refused(backend.put(&key("log/2"), &[b"x"]).map(|_| ()));
    refused(backend.put(&pack('b'), &[b"x"]).map(|_| ()));
    refused(backend.delete(&key("log/1")));
    // Not a failure of the device, so it does not latch.
    refused(backend.put(&key("log/2"), &[b"x"]).map(|_| ()));
    assert_eq!(backend.put(&key("log/1"), &[b"x"]).unwrap(), Put::Existed);

    for name in ["made", "never-made"] {
        let first = backend.try_lock(name, LockMode::Shared).unwrap();
        let second = backend.try_lock(name, LockMode::Shared).unwrap();
        assert!(first.is_some() && second.is_some());
        refused(backend.try_lock(name, LockMode::Exclusive).map(|_| ()));
    }
}
