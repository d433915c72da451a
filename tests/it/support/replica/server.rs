//! The replica itself: a listener, its connections, and what tests ask of it.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use candid::Principal;
use ciborium::value::Value;

use super::calls::{self, Reply};
use super::faults::{Fault, Switches, Times};
use super::http::{self, Answer};
use super::model::{Canister, Rejection, Snapshot, State, hex};
use super::wire::{self, Key, Request, Tree};

/// A call that reached the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Of the management canister, or `read_state`.
    pub method: String,
    pub canister: Principal,
    /// What a switch did to it.
    pub fault: Option<Fault>,
}

/// An Internet Computer on 127.0.0.1, gone when dropped.
pub struct Replica {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    key: Key,
    world: Mutex<World>,
    is_closing: AtomicBool,
}

#[derive(Default)]
struct World {
    canisters: BTreeMap<Principal, Canister>,
    switches: Switches,
    log: Vec<Call>,
    /// Outcomes by request id: a request that comes again is not done again.
    outcomes: HashMap<[u8; 32], Reply>,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
}

impl Replica {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            key: Key::new(),
            world: Mutex::default(),
            is_closing: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        let listener = thread::spawn(move || listening.listen(&listener));
        Self { shared, address, listener: Some(listener) }
    }

    /// What `icp -n` takes.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `icp -k` takes.
    pub fn root_key_hex(&self) -> String {
        hex(&self.shared.key.public_der())
    }

    pub fn add_canister(&self, canister: Canister) {
        let replaced = self.shared.world().canisters.insert(canister.id, canister);
        assert!(replaced.is_none(), "{} is there already", replaced.unwrap().id);
    }

    /// Lets `change` see and change a canister, between calls.
    #[track_caller]
    pub fn with<T>(&self, id: Principal, change: impl FnOnce(&mut Canister) -> T) -> T {
        let mut world = self.shared.world();
        change(world.canisters.get_mut(&id).expect("a canister that the test has added"))
    }

    #[track_caller]
    pub fn memory(&self, id: Principal) -> Arc<Vec<u8>> {
        self.with(id, |canister| Arc::clone(&canister.image.wasm_memory))
    }

    #[track_caller]
    pub fn stable(&self, id: Principal) -> Arc<Vec<u8>> {
        self.with(id, |canister| Arc::clone(&canister.image.stable_memory))
    }

    #[track_caller]
    pub fn module(&self, id: Principal) -> Arc<Vec<u8>> {
        self.with(id, |canister| Arc::clone(&canister.image.module))
    }

    #[track_caller]
    pub fn state(&self, id: Principal) -> State {
        self.with(id, |canister| canister.state)
    }

    #[track_caller]
    pub fn set_state(&self, id: Principal, state: State) {
        self.with(id, |canister| canister.state = state);
    }

    /// The snapshots of a canister, oldest first.
    #[track_caller]
    pub fn snapshots(&self, id: Principal) -> Vec<Snapshot> {
        self.with(id, |canister| canister.snapshots.clone())
    }

    /// Lets calls of `method` (or `read_state`) for a canister go wrong. Of several switches for
    /// one call, the one set first decides.
    pub fn fail(&self, id: Principal, method: &str, times: Times, fault: Fault) {
        self.shared.world().switches.set(id, method, times, fault);
    }

    /// Takes all switches back.
    pub fn clear_faults(&self) {
        self.shared.world().switches.clear();
    }

    /// All calls so far, in the order in which they came.
    pub fn log(&self) -> Vec<Call> {
        self.shared.world().log.clone()
    }

    pub fn clear_log(&self) {
        self.shared.world().log.clear();
    }

    /// How often `method` was called for a canister.
    pub fn count(&self, id: Principal, method: &str) -> usize {
        let is_it = |call: &&Call| call.canister == id && call.method == method;
        self.shared.world().log.iter().filter(is_it).count()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let connections = std::mem::take(&mut self.shared.world().connections);
        for (stream, _) in &connections {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, thread) in connections {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.is_closing.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Ok(other_end) = stream.try_clone() else { continue };
            let shared = Arc::clone(self);
            // A client that goes away is no failure of the replica.
            let serve = move || drop(http::serve(stream, |request| shared.answer(request)));
            let mut world = self.world();
            world.connections.retain(|(_, thread)| !thread.is_finished());
            world.connections.push((other_end, thread::spawn(serve)));
        }
    }

    fn answer(&self, request: &http::Request) -> Answer {
        let answer = self.route(request);
        answer.unwrap_or_else(|error| {
            eprintln!("replica: {}: {error}", request.path);
            Answer::Whole { code: 400, body: error.into_bytes() }
        })
    }

    /// Finds out what is asked, by the path of the request.
    fn route(&self, request: &http::Request) -> Result<Answer, String> {
        let parts: Vec<_> = request.path.trim_start_matches('/').split('/').collect();
        match (request.is_post, parts.as_slice()) {
            (false, ["api", "v2", "status"]) => {
                Ok(Answer::Whole { code: 200, body: self.status() })
            }
            (true, ["api", version, "canister", id, "call"]) => {
                let Request::Call { id: request_id, sender, method, arg } =
                    Request::decode(&request.body)?
                else {
                    return Err("not a call".to_owned());
                };
                let target = calls::target(&arg).map_err(|rejection| rejection.message)?;
                if Principal::from_text(id).ok() != Some(target) {
                    return Err(format!("a call to {id} is about {target}"));
                }
                let can_answer_at_once = *version != "v2";
                Ok(self.call(request_id, target, sender, &method, &arg, can_answer_at_once))
            }
            (true, ["api", _, "canister", id, "read_state"]) => {
                let Request::ReadState { paths } = Request::decode(&request.body)? else {
                    return Err("not a question for state".to_owned());
                };
                let id = Principal::from_text(id).map_err(|error| error.to_string())?;
                Ok(self.read_state(id, &paths))
            }
            _ => Err("no such path".to_owned()),
        }
    }

    fn status(&self) -> Vec<u8> {
        wire::cbor_map([
            ("root_key", Value::Bytes(self.key.public_der())),
            ("replica_health_status", "healthy".into()),
        ])
    }

    fn call(
        &self,
        request_id: [u8; 32],
        canister: Principal,
        sender: Principal,
        method: &str,
        arg: &[u8],
        can_answer_at_once: bool,
    ) -> Answer {
        let before = self.world().outcomes.get(&request_id).cloned();
        let (outcome, fault) = match before {
            Some(outcome) => (outcome, None),
            None => {
                let fault = self.note(canister, method);
                if fault == Some(Fault::LoseRequest) {
                    return Answer::Nothing;
                }
                let mut world = self.world();
                let mut outcome = world.run(canister, sender, method, arg, fault);
                if let (Some(Fault::Flip), Ok(reply)) = (fault, &mut outcome) {
                    // The data is the last thing in the reply.
                    *reply.last_mut().unwrap() ^= 1;
                }
                if method != "read_canister_snapshot_data" || !can_answer_at_once {
                    world.outcomes.insert(request_id, outcome.clone());
                }
                (outcome, fault)
            }
        };
        if fault == Some(Fault::AnswerLater) || !can_answer_at_once {
            self.world().outcomes.insert(request_id, outcome);
            return Answer::Whole { code: 202, body: Vec::new() };
        }
        let body = match &outcome {
            Ok(_) => {
                let mut tree = Tree::default();
                wire::insert_outcome(&mut tree, &request_id, &outcome);
                self.certificate(tree, fault, "certificate", &[("status", "replied")])
            }
            Err(rejection) => wire::cbor_map([
                ("status", "non_replicated_rejection".into()),
                ("reject_code", rejection.code.into()),
                ("reject_message", rejection.message.as_str().into()),
                ("error_code", rejection.error_code.into()),
            ]),
        };
        deliver(body, fault)
    }

    fn read_state(&self, id: Principal, paths: &[Vec<Vec<u8>>]) -> Answer {
        let fault = self.note(id, "read_state");
        if fault == Some(Fault::LoseRequest) {
            return Answer::Nothing;
        }
        let mut tree = Tree::default();
        let world = self.world();
        if let Some(canister) = world.canisters.get(&id) {
            let path = |leaf: &str| [b"canister".to_vec(), id.as_slice().to_vec(), leaf.into()];
            let controllers = canister.controllers.iter();
            let controllers = controllers.map(|one| Value::Bytes(one.as_slice().to_vec()));
            let controllers = wire::cbor(&Value::Array(controllers.collect()));
            tree.insert(&path("controllers"), controllers);
            tree.insert(&path("module_hash"), canister.module_hash().to_vec());
        }
        for path in paths {
            let [root, request_id, ..] = path.as_slice() else { continue };
            let outcome = request_id
                .as_slice()
                .try_into()
                .ok()
                .and_then(|request_id| Some((request_id, world.outcomes.get(&request_id)?)));
            if let Some((request_id, outcome)) = outcome.filter(|_| root == b"request_status") {
                wire::insert_outcome(&mut tree, &request_id, outcome);
            }
        }
        drop(world);
        deliver(self.certificate(tree, fault, "certificate", &[]), fault)
    }

    /// Wraps a certificate of `tree` in a map with more fields.
    fn certificate(
        &self,
        tree: Tree,
        fault: Option<Fault>,
        name: &str,
        more: &[(&str, &str)],
    ) -> Vec<u8> {
        let certificate = self.key.certify(tree, fault == Some(Fault::Forge));
        let mut fields: Vec<_> = more.iter().map(|(k, v)| (Value::from(*k), (*v).into())).collect();
        fields.push((name.into(), Value::Bytes(certificate)));
        wire::cbor(&Value::Map(fields))
    }

    /// Writes a call down, and waits if a switch says so.
    fn note(&self, canister: Principal, method: &str) -> Option<Fault> {
        let fault = {
            let mut world = self.world();
            let fault = world.switches.next(canister, method);
            world.log.push(Call { method: method.to_owned(), canister, fault });
            fault
        };
        if let Some(Fault::Delay(total)) = fault {
            const STEP: Duration = Duration::from_millis(10);
            let mut left = total;
            while !left.is_zero() && !self.is_closing.load(Ordering::SeqCst) {
                thread::sleep(left.min(STEP));
                left = left.saturating_sub(STEP);
            }
        }
        fault
    }
}

impl World {
    fn run(
        &mut self,
        id: Principal,
        sender: Principal,
        method: &str,
        arg: &[u8],
        fault: Option<Fault>,
    ) -> Reply {
        let canister = self.canisters.get_mut(&id).ok_or_else(|| Rejection::no_canister(id))?;
        match fault {
            Some(Fault::Refuse) => Err(Rejection::refused()),
            Some(Fault::StayStopping) => {
                canister.state = State::Stopping;
                Err(Rejection::stop_timed_out())
            }
            Some(Fault::SayStopped) => {
                let reply = calls::run(canister, sender, method, arg)?;
                canister.state = State::Stopping;
                Ok(reply)
            }
            _ => calls::run(canister, sender, method, arg),
        }
    }
}

/// Sends an answer off, or what a fault leaves of it.
fn deliver(body: Vec<u8>, fault: Option<Fault>) -> Answer {
    match fault {
        Some(Fault::LoseReply) => Answer::Nothing,
        Some(Fault::Truncate) => Answer::Half(body),
        Some(Fault::Garbage) => Answer::Whole { code: 200, body: vec![0x9f; 100] },
        _ => Answer::Whole { code: 200, body },
    }
}
