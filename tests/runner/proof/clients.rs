//! Those who write: several through the write Service, as an application does, and one at each member, which shows who
//! accepts writes whatever the Service says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::history::{Commit, History};
use super::session::{Login, Outcome, Session};

/// How many write through the Service.
pub const WRITERS: u32 = 4;
/// How long a writer rests after each row, and before it connects again.
const REST: Duration = Duration::from_millis(10);
const RECONNECT: Duration = Duration::from_millis(20);
/// How often a member is tried, and how long one may take to say whether it takes writes.
const PROBE: Duration = Duration::from_millis(20);
const PROBE_ANSWER: Duration = Duration::from_secs(2);
/// How often one that lets nobody in is tried.
const PROBE_AWAY: Duration = Duration::from_millis(200);
/// How many answers of a server that takes no writes a writer bears before it looks for another.
const READ_ONLY_ANSWERS: u32 = 5;
/// PostgreSQL's port.
pub const PORT: u16 = 5432;

/// What all clients of one cluster share.
#[derive(Debug)]
pub struct Notes {
    /// When all instants begin, and what time that was.
    pub start: Instant,
    pub history: Mutex<History>,
    /// The members by their addresses.
    pub names: Mutex<HashMap<IpAddr, String>>,
    /// Nobody writes while this is so.
    pub paused: AtomicBool,
    /// Everybody ends.
    pub stopped: AtomicBool,
}

impl Notes {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            history: Mutex::default(),
            names: Mutex::default(),
            paused: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        }
    }

    /// Now, on the clock of all instants.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn name(&self, address: &str) -> String {
        let names = self.names.lock().unwrap();
        let known = address.parse().ok().and_then(|address: IpAddr| names.get(&address).cloned());
        known.unwrap_or_else(|| address.to_owned())
    }

    fn refused(&self, why: String) {
        let mut history = self.history.lock().unwrap();
        history.refused.push((self.now(), why));
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits as long as there is a pause.
    async fn turn(&self) {
        while self.paused.load(Ordering::Relaxed) && !self.stopped() {
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

/// Writes numbered rows through the Service until it is stopped.
pub async fn write(notes: Arc<Notes>, service: SocketAddr, login: Login, writer: u32) {
    let mut n = 0;
    while !notes.stopped() {
        notes.turn().await;
        match Session::open(service, &login).await {
            Ok(session) => write_through(&notes, &session, writer, &mut n).await,
            Err(why) => notes.refused(why),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Writes until the session is of no use.
async fn write_through(notes: &Notes, session: &Session, writer: u32, n: &mut u64) {
    let mut refusals = 0;
    while !notes.stopped() && !notes.paused.load(Ordering::Relaxed) {
        *n += 1;
        let sent = notes.now();
        let outcome = session.insert("written", writer, *n).await;
        let acked = notes.now();
        match outcome {
            Outcome::Acked { address, timeline } => {
                let commit = Commit { writer, n: *n, sent, acked, member: notes.name(&address), timeline };
                notes.history.lock().unwrap().acknowledge(commit);
                refusals = 0;
            }
            Outcome::Unconfirmed => notes.history.lock().unwrap().unconfirmed += 1,
            Outcome::ReadOnly => {
                notes.refused("a server that takes no writes".to_owned());
                refusals += 1;
                if refusals > READ_ONLY_ANSWERS {
                    return;
                }
            }
            Outcome::Unknown(why) => {
                notes.history.lock().unwrap().unknown.push((acked, why));
                return;
            }
        }
        tokio::time::sleep(REST).await;
    }
}

/// Tries to write at a member's own address until `gone`, each time with a commit that waits for nobody else, and so
/// shows even a member that could not have confirmed it to be safe.
pub async fn probe(notes: Arc<Notes>, address: IpAddr, login: Login, gone: Arc<AtomicBool>) {
    let at = SocketAddr::new(address, PORT);
    let mut n = 0;
    while !notes.stopped() && !gone.load(Ordering::Relaxed) {
        notes.turn().await;
        let session = Session::open(at, &login).await;
        if let Ok(session) = session
            && session.query("set synchronous_commit = local", PROBE_ANSWER).await.is_ok()
        {
            probe_through(&notes, &session, &mut n).await;
        }
        tokio::time::sleep(PROBE_AWAY).await;
    }
}

async fn probe_through(notes: &Notes, session: &Session, n: &mut u64) {
    // Whoever takes no writes is asked whether that is still so: an error each time would fill its log.
    let mut takes_writes = false;
    while !notes.stopped() {
        notes.turn().await;
        if !takes_writes {
            match session.query("select pg_is_in_recovery()", PROBE_ANSWER).await {
                Ok(rows) => takes_writes = rows.iter().flatten().any(|answer| answer == "f"),
                Err(_) => return,
            }
            if !takes_writes {
                tokio::time::sleep(PROBE).await;
                continue;
            }
        }
        *n += 1;
        let sent = notes.now();
        let outcome = session.insert("probed", 0, *n).await;
        let acked = notes.now();
        match outcome {
            Outcome::Acked { address, timeline } => {
                let commit = Commit { writer: 0, n: *n, sent, acked, member: notes.name(&address), timeline };
                notes.history.lock().unwrap().accepted(&commit);
            }
            Outcome::Unconfirmed => {}
            Outcome::ReadOnly => takes_writes = false,
            Outcome::Unknown(_) => return,
        }
        tokio::time::sleep(PROBE).await;
    }
}
