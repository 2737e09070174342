//! A proxy in front of a store that does to requests what networks, services and clocks do.
//!
//! What it is not told to touch it passes on as it came, so that signatures stay valid: the Host header too.

mod body;
mod door;
mod hostile;
mod relay;
mod rule;
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::door::{Door, Port, Turn};
use super::{Key, threads};

pub use rule::{Action, Refusal, Rule};

/// One request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// Path and query, decoded: `/bucket/key?query`.
    pub key: String,
    /// What the store answered, if it was asked and did.
    pub store: Option<u16>,
    /// What the client was answered, if it was.
    pub answer: Option<u16>,
}

impl std::fmt::Display for Asked {
    /// `PUT /bucket/key 200`, or `-` for no answer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ", self.method, self.key)?;
        match self.answer {
            Some(status) => write!(f, "{status}"),
            None => f.write_str("-"),
        }
    }
}

/// A running proxy.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    turns: mpsc::UnboundedSender<Turn>,
    threads: Option<Runtime>,
}

/// What connections share with who orders.
struct Shared {
    store: SocketAddr,
    state: Mutex<State>,
}

struct State {
    rules: Vec<Rule>,
    /// By the number of their arrival.
    asked: BTreeMap<u64, Asked>,
    arrived: u64,
    /// Set while conditions of requests are dropped: what the changed requests are signed with.
    hostile: Option<Key>,
    /// Ends the connections there are.
    connections: CancellationToken,
    /// Answers stand still while the port is a black hole.
    door: Door,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultProxy {
    /// In front of the store at that address.
    pub fn before(store: SocketAddr) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), store)
    }

    /// The same, at an address (and port, or 0) of one's choice.
    pub fn at(address: SocketAddr, store: SocketAddr) -> Self {
        let state = State {
            rules: Vec::new(),
            asked: BTreeMap::new(),
            arrived: 0,
            hostile: None,
            connections: CancellationToken::new(),
            door: Door::Open,
        };
        let shared = Arc::new(Shared { store, state: Mutex::new(state) });
        let threads = threads();
        let port = {
            let _within = threads.enter();
            Port::take(address).unwrap()
        };
        let address = port.address();
        let (turns, wishes) = mpsc::unbounded_channel();
        let serve = {
            let shared = Arc::clone(&shared);
            move |stream| {
                let connections = shared.state().connections.clone();
                tokio::spawn(relay::connection(stream, Arc::clone(&shared), connections));
            }
        };
        threads.spawn(port.run(wishes, serve));
        let proxy = Self { address, shared, turns, threads: Some(threads) };
        proxy.turn(Door::Open);
        proxy
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule behind those there are.
    pub fn rule(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.shared.state().rules.clear();
    }

    /// Drops `If-None-Match` and `If-Match` from requests, as stores do that do not know them, so what is there is
    /// overwritten. These headers are signed: what is changed is signed anew, with that key.
    pub fn ignore_conditions(&self, key: Key) {
        self.shared.state().hostile = Some(key);
    }

    /// Refuses connections and resets those there are.
    pub fn outage(&self) {
        self.turn(Door::Shut);
        self.reset_all();
    }

    /// Answers nothing any more: who connects waits, and who is connected.
    pub fn black_hole(&self) {
        self.turn(Door::Black);
    }

    /// Ends an outage or a black hole.
    pub fn restore(&self) {
        self.turn(Door::Open);
    }

    /// All requests so far, in the order in which their heads came.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.values().cloned().collect()
    }

    /// How many of that method there were.
    pub fn count(&self, method: &Method) -> usize {
        self.shared.state().asked.values().filter(|asked| asked.method == method).count()
    }

    /// Counts from nothing again; what is under way is not told of.
    pub fn forget(&self) {
        self.shared.state().asked.clear();
    }

    fn reset_all(&self) {
        let connections = std::mem::take(&mut self.shared.state().connections);
        connections.cancel();
    }

    /// Returns once it is so.
    fn turn(&self, door: Door) {
        let left_black = {
            let mut state = self.shared.state();
            std::mem::replace(&mut state.door, door) == Door::Black && door != Door::Black
        };
        let (done, wait) = std::sync::mpsc::channel();
        self.turns.send((door, done)).unwrap();
        wait.recv().unwrap();
        if left_black {
            // Those who waited within were never told anything.
            self.reset_all();
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
