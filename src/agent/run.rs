//! The resident parent of Patroni.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tokio::signal::unix::{SignalKind, signal};

use super::admit::admit;
use super::attic;
use super::children::{Ended, code};
use super::guard;
use super::major;
use super::member::Member;
use super::postmaster::Postmaster;
use super::release::{Outcome, after_end, checkpoint};
use super::restoring::Note;
use super::security;
use super::serve::{self, room};
use super::start::{AgentError, Prepared, environment, prepare, private_directory};
use super::watchdog::Reason;
use crate::api::MajorUpgrade;

/// Prepares the pod's directories, runs Patroni, and ends when it does, with its exit code.
///
/// # Errors
/// Where Patroni cannot be started.
pub fn run() -> Result<ExitCode, AgentError> {
    let environment = environment()?;
    // An upgrade starts PostgreSQL too, by settings that name these.
    private_directory(&environment.sockets)?;
    security::ready(&environment)?;
    // One thread: it waits nearly all the time, and each thread would have memory of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Runtime)?;
    let result = runtime.block_on(async {
        let mut end = signal(SignalKind::terminate()).map_err(AgentError::Runtime)?;
        let told = major::Told::default();
        let mark = tokio::select! {
            mark = major::hold(&environment, &told) => mark.map_err(AgentError::Runtime)?,
            _ = end.recv() => return Ok(ExitCode::SUCCESS),
        };
        let mut prepared = prepare(environment)?;
        prepared.member.major = told;
        Box::pin(reside(prepared, mark)).await
    });
    // A disk that hangs must not keep the container.
    runtime.shutdown_background();
    result
}

/// How the container ends.
enum End {
    /// Patroni ended.
    Patroni(u8),
    /// The lock was handed over, and nothing is left to be done.
    HandedOver,
    /// The watchdog ended it.
    Fenced(Reason),
}

async fn reside(prepared: Prepared, mark: Option<MajorUpgrade>) -> Result<ExitCode, AgentError> {
    let Prepared { config, member, told } = prepared;
    // The first process of a container ends by no signal that it does not listen for.
    let mut end = signal(SignalKind::terminate()).map_err(AgentError::Runtime)?;
    tokio::select! {
        admitted = admit(&member, &told) => admitted?,
        _ = end.recv() => return Ok(ExitCode::SUCCESS),
    }
    // It may have been moved aside.
    private_directory(&member.environment.data)?;
    let member = Arc::new(member);
    let listener = serve::listen(&member.environment).await.map_err(AgentError::Listen)?;
    // As the first process of a container it inherits orphans anyway.
    set_child_subreaper(Some(getpid())).map_err(|errno| AgentError::Runtime(errno.into()))?;
    let mut signals = Signals::new().map_err(AgentError::Runtime)?;
    let (patroni, _, ended) =
        member.children.spawn(Command::new("patroni").arg(config.path())).map_err(AgentError::Execute)?;
    tokio::spawn({
        let member = Arc::clone(&member);
        async move {
            if let Err(error) = serve::serve(listener, member).await {
                tracing::warn!("failed to answer on port {}: {error}", super::AGENT_PORT);
            }
        }
    });
    tokio::spawn(attic::keep(Arc::clone(&member)));
    if let Some(mark) = mark {
        tokio::spawn(major::follow(Arc::clone(&member), mark));
    }
    tokio::spawn(super::passwords::watch(Arc::clone(&member)));
    tokio::spawn(super::stale::watch(Arc::clone(&member)));
    tokio::spawn(security::watch(Arc::clone(&member), patroni, config));
    let end = tokio::select! {
        code = patroni_ends(ended) => End::Patroni(code),
        () = signals.pass_on(patroni, &member) => End::Patroni(0),
        () = follow_postgres(&member) => End::HandedOver,
        reason = guard::watch(&member) => End::Fenced(reason),
    };
    Ok(match end {
        End::Patroni(code) => {
            last_words(&member.environment.data);
            ExitCode::from(code)
        }
        End::HandedOver => {
            // PostgreSQL is gone and so is the lock: Patroni would only sleep a while.
            let _ = kill_process(patroni, Signal::KILL);
            ExitCode::SUCCESS
        }
        End::Fenced(reason) => {
            guard::note(&member, &reason).await;
            // The container's last line, and so its termination message.
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    })
}

/// Why a database was not restored stands far above what Patroni says of it: this is the container's last line.
fn last_words(data: &Path) {
    if let Ok(Some(Note { failure: Some(reason), .. })) = Note::read(data) {
        eprintln!("{reason}");
    }
}

async fn patroni_ends(ended: Ended) -> u8 {
    ended.await.map_or(1, code)
}

/// Sees each PostgreSQL come and go. Returns where one was handed over for good.
async fn follow_postgres(member: &Member) {
    loop {
        let postmaster = Postmaster::appear(&member.environment.data).await;
        member.set_running(true);
        postmaster.end().await;
        member.set_running(false);
        // What recovers a backup is no database's yet.
        if Note::read(&member.environment.data).is_ok_and(|note| note.is_some()) {
            continue;
        }
        if after_end(member).await == Outcome::Released && member.is_ending() {
            return;
        }
    }
}

/// How long a PostgreSQL without room may try to stop in order, and then to stop at all.
const IN_ORDER: Duration = Duration::from_secs(15);
const AT_ONCE: Duration = Duration::from_secs(5);

/// An orderly stop ends with a checkpoint, which needs room: without, it may never end. What was committed is in the WAL, so
/// PostgreSQL is told to end at once then, and recovers when it has room again.
async fn end_without_room(member: &Member) {
    for (patience, signal) in [(IN_ORDER, Signal::QUIT), (AT_ONCE, Signal::KILL)] {
        tokio::time::sleep(patience).await;
        if !Postmaster::signal(&member.environment.data, signal) {
            return;
        }
        tracing::warn!("PostgreSQL has no room to stop in order: it was sent {signal:?}");
    }
}

/// The signals that a container's first process gets.
struct Signals {
    child: tokio::signal::unix::Signal,
    others: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let passed = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];
        let listen = |kind: Signal| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?));
        Ok(Self {
            child: signal(SignalKind::child())?,
            others: passed.into_iter().map(listen).collect::<std::io::Result<_>>()?,
        })
    }

    /// Passes everything on to Patroni, and reaps. Never returns.
    async fn pass_on(&mut self, patroni: Pid, member: &Arc<Member>) {
        loop {
            let any = futures::future::select_all(
                self.others.iter_mut().map(|(kind, stream)| Box::pin(async { (stream.recv().await, *kind) })),
            );
            tokio::select! {
                _ = self.child.recv() => member.children.reap(),
                ((_, kind), _, _) = any => {
                    let first = !member.is_ending();
                    if matches!(kind, Signal::TERM | Signal::INT | Signal::QUIT) {
                        member.end();
                    }
                    let patroni = move || {
                        // It may have ended already.
                        let _ = kill_process(patroni, kind);
                    };
                    if kind == Signal::TERM && first {
                        let member = Arc::clone(member);
                        tokio::spawn(async move {
                            let full = room(&member.environment.data).is_some_and(|disk| disk.is_full());
                            if !full {
                                checkpoint(&member).await;
                            }
                            patroni();
                            if full {
                                end_without_room(&member).await;
                            }
                        });
                    } else {
                        patroni();
                    }
                }
            }
        }
    }
}
