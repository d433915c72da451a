//! Directories read in place.

use strongroom::run::executor::{
    Call, Capabilities, DirExecutor, Error, Evidence, Executor, Fetched,
};

use super::member;
use crate::support::temp;

#[test]
fn directories_are_left_where_they_are() {
    let temp = temp();
    let executor = DirExecutor::new([("files", temp.path())]);
    let none = Capabilities { control: false, snapshots: false, restore: false };
    assert_eq!(executor.capabilities(), none);
    let call = Call::new();
    assert_eq!(executor.inventory(&call).unwrap(), None);
    let fetched = executor.download(&member("files"), None, "nowhere".as_ref(), &call).unwrap();
    assert_eq!(fetched, Fetched::InPlace(temp.path().to_owned()));
    assert_eq!(executor.check(&member("files"), None, temp.path()).unwrap(), [""; 0]);
    let authority = executor.authority(&member("files"), &call).unwrap();
    assert!(matches!(authority.read, Evidence::Proven(_)), "{authority:?}");
    assert!(matches!(executor.stop(&member("files"), &call), Err(Error::Unsupported { .. })));
}

#[test]
fn what_is_not_there_is_refused() {
    let temp = temp();
    let gone = temp.path().join("gone");
    let executor = DirExecutor::new([("a", gone)]);
    let call = Call::new();
    for id in ["a", "b"] {
        let refused = executor.download(&member(id), None, temp.path(), &call);
        let Err(Error::Refused(text)) = refused else { panic!("{refused:?}") };
        assert!(text.starts_with(&format!("member {id}")), "{text}");
    }
    let authority = executor.authority(&member("a"), &call).unwrap();
    assert!(matches!(authority.read, Evidence::NotProven(_)), "{authority:?}");
}
