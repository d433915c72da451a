//! Switches for what goes wrong, set by tests.

use std::time::Duration;

use candid::Principal;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The work is done, and the connection is closed without an answer.
    LoseReply,
    /// The connection is closed before anything is done.
    LoseRequest,
    /// Nothing is done; a rejection says so.
    Refuse,
    /// For `stop_canister`: the canister goes on stopping, and the call is rejected because it
    /// took too long. (So does the Internet Computer while calls of the canister are open.)
    StayStopping,
    /// For `stop_canister`: the canister goes on stopping, and the call succeeds all the same.
    SayStopped,
    /// The work is done; half of the answer comes, then the connection is closed.
    Truncate,
    /// The work is done; the answer is bytes without a meaning.
    Garbage,
    /// The work is done, and the answer's signature is wrong.
    Forge,
    /// For `read_canister_snapshot_data`: one bit of the data differs, rightly signed.
    Flip,
    /// The work is done; the caller is told to ask later, and then finds the answer.
    AnswerLater,
    /// The work waits.
    Delay(Duration),
}

/// Which calls a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Only the n-th call after the switch was set; the first is 1.
    Nth(usize),
    Always,
}

/// All switches that are set.
#[derive(Default)]
pub struct Switches(Vec<Switch>);

struct Switch {
    canister: Principal,
    method: String,
    times: Times,
    fault: Fault,
    calls_seen: usize,
}

impl Switches {
    pub fn set(&mut self, canister: Principal, method: &str, times: Times, fault: Fault) {
        let method = method.to_owned();
        self.0.push(Switch { canister, method, times, fault, calls_seen: 0 });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a call, and returns what goes wrong with it: the first switch set decides.
    pub fn next(&mut self, canister: Principal, method: &str) -> Option<Fault> {
        let mut found = None;
        let is_for = |switch: &&mut Switch| switch.canister == canister && switch.method == method;
        for switch in self.0.iter_mut().filter(is_for) {
            switch.calls_seen += 1;
            let is_now = match switch.times {
                Times::Nth(number) => switch.calls_seen == number,
                Times::Always => true,
            };
            if is_now && found.is_none() {
                found = Some(switch.fault);
            }
        }
        found
    }
}
