//! What happens when PostgreSQL has ended: Patroni is woken, or the leader lock is given up.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use super::control::{Control, Lsn, Record, last_position, text};
use super::handover::{Situation, Verdict, decide};
use super::member::Member;
use super::postmaster::is_primary;
use super::store::StoreError;
use crate::patroni::{Answer, Lock, PendingFailover, SUPERUSER, Sync};

/// PostgreSQL's own programs read a file or two.
const TOOL: Duration = Duration::from_secs(2);
/// A checkpoint may take long; what it does not write in this time, the stop writes.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// A member that takes longer to say how far it is does not count.
const ANSWER: Duration = Duration::from_secs(1);
/// How often the conditions are looked at, and for how long: Patroni needs little longer for itself.
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lock was given up.
    Released,
    /// Patroni was woken.
    Woken,
    /// Nothing was done.
    Left,
}

/// PostgreSQL has ended.
pub async fn after_end(member: &Member) -> Outcome {
    let control = control(member).await;
    if let Some(control) = control.filter(Control::is_shut_down_primary)
        && hand_over(member, &control).await
    {
        return Outcome::Released;
    }
    // When the container ends Patroni has closed its API already.
    if member.is_ending() {
        return Outcome::Left;
    }
    wake(member).await;
    Outcome::Woken
}

/// Writes out what a primary holds in memory, so that the stop that follows, in which nobody can write, is a short one.
/// Patroni does so before a switchover, but not when it is told to end.
pub async fn checkpoint(member: &Member) {
    if !is_primary(&member.environment.data) {
        return;
    }
    let sockets = member.environment.sockets.to_string_lossy();
    let arguments =
        ["--no-psqlrc", "--quiet", "--host", &sockets, "--username", SUPERUSER, "--dbname", "postgres"];
    let mut command = Command::new("psql");
    command.args(arguments).args(["--command", "CHECKPOINT"]).env("PGCONNECT_TIMEOUT", "2");
    if let Err(error) = member.children.output(&mut command, CHECKPOINT).await {
        tracing::info!("failed to write a checkpoint before the end: {error}");
    }
}

/// Has Patroni look at PostgreSQL now instead of at its next turn: it does so after each change of its configuration, and
/// this one changes nothing.
async fn wake(member: &Member) {
    let Some(credentials) = &member.credentials() else { return };
    let nothing = json!({ "dbctl": null });
    if let Err(error) = member.patroni.patch_config(member.environment.address, credentials, &nothing).await {
        tracing::info!("failed to wake Patroni: {error}");
    }
}

async fn tool(member: &Member, program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    member
        .children
        .output(&mut command, TOOL)
        .await
        .inspect_err(|error| tracing::warn!("failed to run {program}: {error}"))
        .ok()
}

async fn control(member: &Member) -> Option<Control> {
    let data = member.environment.data.to_string_lossy();
    Control::parse(&tool(member, "pg_controldata", &["-D", &data]).await?)
}

/// Where the WAL ends, as Patroni would write it.
async fn last_lsn(member: &Member, control: &Control) -> Lsn {
    let wal = member.environment.data.join("pg_wal");
    let (wal, timeline) = (wal.to_string_lossy(), control.timeline.to_string());
    let record = async |lsn: Lsn| {
        let arguments = ["--path", &wal, "--timeline", &timeline, "--start", &text(lsn), "--limit", "1"];
        Record::parse(&tool(member, "pg_waldump", &arguments).await?)
    };
    let checkpoint = record(control.checkpoint).await;
    let before = match checkpoint.filter(|record| record.is_shutdown_checkpoint(control.checkpoint)) {
        Some(checkpoint) => record(checkpoint.prev).await,
        None => None,
    };
    last_position(control.checkpoint, before.as_ref())
}

/// Gives up the lock as soon as the conditions allow it. False where it is left to Patroni.
async fn hand_over(member: &Member, control: &Control) -> bool {
    let began = Instant::now();
    let mut position = None;
    let mut waited = String::new();
    while began.elapsed() < PATIENCE {
        let (found, lsn) = tokio::join!(situation(member), async {
            match position {
                Some(position) => position,
                None => last_lsn(member, control).await,
            }
        });
        position = Some(lsn);
        match found.map(|situation| (decide(control, &situation), situation.lock.version)) {
            Ok((Verdict::Release, Some(version))) if !member.is_running() => {
                return release(member, &version, lsn, began).await;
            }
            Ok((Verdict::Leave(reason), _)) => {
                tracing::debug!("the leader lock stays Patroni's: {reason}");
                return false;
            }
            Ok((Verdict::Wait(reason), _)) => waited = reason,
            Ok((Verdict::Release, _)) => return false,
            Err(error) => waited = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::info!("left the leader lock to Patroni: {waited}");
    false
}

async fn release(member: &Member, version: &str, position: Lsn, began: Instant) -> bool {
    match member.store.release(version, position).await {
        Ok(()) => {
            let time = began.elapsed().as_millis();
            tracing::info!(
                "gave up the leader lock at {}, {time} ms after PostgreSQL had ended",
                text(position)
            );
            true
        }
        Err(error) if error.is_conflict() => {
            tracing::info!("left the leader lock to whoever wrote it meanwhile");
            false
        }
        Err(error) => {
            tracing::warn!("failed to give up the leader lock: {error}");
            false
        }
    }
}

/// Reads everything anew: the objects first, then the members at the addresses that the lock names.
async fn situation(member: &Member) -> Result<Situation, StoreError> {
    let store = &member.store;
    let (lock, sync, pending) =
        tokio::try_join!(store.read("leader"), store.read("sync"), store.read("failover"))?;
    let name = &member.environment.name;
    let addresses = addresses(&lock);
    let others = addresses.iter().filter(|(other, _)| other != name);
    let ask = others.map(async |(other, address)| (other.clone(), answer(member, *address).await));
    // Patroni has closed its API before it stops PostgreSQL for good.
    let own =
        async { if member.is_ending() { None } else { answer(member, member.environment.address).await } };
    let (others, own) = tokio::join!(join_all(ask), own);
    Ok(Situation {
        name: name.clone(),
        ending: member.is_ending(),
        state: own.map(|answer| answer.state),
        lock: Lock::of(&lock),
        sync: Sync::of(&sync),
        pending: PendingFailover::of(&pending),
        others: others.into_iter().collect(),
    })
}

async fn answer(member: &Member, address: IpAddr) -> Option<Answer> {
    member.patroni.ask(address, ANSWER).await.ok()
}

/// Where the members' Patroni listen, as the holder of the lock last wrote it for its failsafe mode.
pub(super) fn addresses(lock: &Value) -> Vec<(String, IpAddr)> {
    let text = lock.pointer("/metadata/annotations/failsafe").and_then(Value::as_str).unwrap_or_default();
    let members: std::collections::BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    let address = |url: &str| url.parse::<http::Uri>().ok()?.host()?.trim_matches(['[', ']']).parse().ok();
    members.into_iter().filter_map(|(name, url)| Some((name, address(&url)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_says_where_the_members_are() {
        let failsafe =
            r#"{"d-0":"http://10.0.0.7:8008/patroni","d-1":"http://[fd00::7]:8008/patroni","d-2":"x y"}"#;
        let lock = json!({ "metadata": { "annotations": { "failsafe": failsafe } } });
        let found = addresses(&lock);
        assert_eq!(
            found,
            [("d-0".to_owned(), "10.0.0.7".parse().unwrap()), ("d-1".to_owned(), "fd00::7".parse().unwrap())]
        );
        assert_eq!(addresses(&Value::Null), []);
    }
}
