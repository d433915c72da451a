//! Parts that children of the test process play: to be killed, or to be a second process.

/// Not a test of its own: what a child does that a test has started for a purpose.
#[test]
fn plays_its_part() {}
