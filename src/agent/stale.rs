//! A replica that can never stream again, because the WAL that it needs is gone from the primary: Patroni would have it ask
//! for ever. It is told to copy the primary's data anew, but only where its own is certain to hold nothing that the primary
//! lacks; what has diverged is Patroni's to rewind.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Lsn, text};
use super::member::Member;
use super::release::addresses;
use crate::patroni::{Answer, DynamicConfig, Lock, REWIND_USER, TimelineEnd};

/// How often it is looked.
const PAUSE: Duration = Duration::from_secs(5);
/// How many looks in a row must find it so.
const LOOKS: u32 = 3;
/// A member or a short query that takes longer says nothing.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a replica's position means, seen from the primary. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It streams, or something else is the matter: nothing is to be done.
    Fine,
    /// Everything that it has is part of the primary's history, up to there.
    Behind(Lsn),
}

/// Judges by both members' own word, and where timelines ended.
fn standing(own: &Answer, primary: &Answer, history: &[TimelineEnd]) -> Standing {
    let streams = own.replication_state.as_deref() == Some("streaming");
    if !own.is_running_replica() || streams || own.pause || !primary.is_running_primary() {
        return Standing::Fine;
    }
    let has = own.xlog.received_location.max(own.xlog.replayed_location);
    let (Some(has), Some(own), Some(leads)) = (has, own.timeline, primary.timeline) else {
        return Standing::Fine;
    };
    let end = if own == leads {
        primary.xlog.location
    } else {
        // The first fork on the way from there.
        history.iter().filter(|end| end.timeline >= own && end.timeline < leads).map(|end| end.lsn).min()
    };
    match end {
        Some(end) if own <= leads && has <= end => Standing::Behind(has),
        _ => Standing::Fine,
    }
}

/// Looks for ever.
pub(super) async fn watch(member: Arc<Member>) {
    let mut found = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        found = match look(&member).await {
            Some(position) => {
                tracing::info!("the WAL at {} is gone from the primary", text(position));
                found + 1
            }
            None => 0,
        };
        if found >= LOOKS {
            found = 0;
            start_anew(&member).await;
        }
    }
}

/// The position from which the primary has nothing any more.
async fn look(member: &Member) -> Option<Lsn> {
    let own = member.patroni.ask(member.environment.address, PATIENCE).await.ok()?;
    if own.replication_state.as_deref() == Some("streaming") || !own.is_running_replica() {
        return None;
    }
    let lock = member.store.read("leader").await.ok()?;
    let holder = Lock::of(&lock).holder.filter(|holder| *holder != member.environment.name)?;
    let (_, address) = addresses(&lock).into_iter().find(|(name, _)| *name == holder)?;
    let primary = member.patroni.ask(address, PATIENCE).await.ok()?;
    let history = DynamicConfig::of(&member.store.read("config").await.ok()?).history;
    match standing(&own, &primary, &history) {
        Standing::Behind(position) => is_gone(member, address, position).await.then_some(position),
        Standing::Fine => None,
    }
}

/// Whether the primary says that it has no file with what follows that position, whatever the file's timeline.
async fn is_gone(member: &Member, primary: IpAddr, position: Lsn) -> bool {
    // The user of pg_rewind may list files.
    let Some(password) = super::passwords::here(REWIND_USER) else { return false };
    let sql = format!(
        "select right(pg_walfile_name('{}'::pg_lsn), 16) < min(right(name, 16)) \
         from pg_ls_dir('pg_wal', false, false) as name where name ~ '^[0-9A-F]{{24}}$'",
        text(position.saturating_add(1))
    );
    let host = primary.to_string();
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--host", &host])
        .args(["--username", REWIND_USER, "--dbname", "postgres", "--command", &sql])
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "2");
    if member.environment.security.is_some() {
        let trusted = super::security::Copies::below(&member.environment.sockets).trusted();
        command.env("PGSSLMODE", "verify-ca").env("PGSSLROOTCERT", trusted);
    }
    match member.children.output(&mut command, PATIENCE).await {
        Ok(answer) => answer.trim() == "t",
        Err(error) => {
            tracing::debug!("failed to ask the primary what WAL it has: {error}");
            false
        }
    }
}

/// Has Patroni copy the primary's data anew; it refuses where it finds that unwise.
async fn start_anew(member: &Member) {
    let Some(credentials) = &member.credentials() else { return };
    tracing::warn!("this member's data is too old to follow the primary: it is copied anew");
    if let Err(error) = member.patroni.reinitialize(member.environment.address, credentials).await {
        tracing::warn!("failed to have the data copied anew: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patroni::Positions;

    fn answer(role: &str, timeline: i64, at: i64) -> Answer {
        let xlog = if role == "primary" {
            Positions { location: Some(at), ..Positions::default() }
        } else {
            Positions { received_location: Some(at), replayed_location: Some(at - 1), ..Positions::default() }
        };
        Answer {
            role: role.into(),
            state: "running".into(),
            timeline: Some(timeline),
            xlog,
            ..Answer::default()
        }
    }

    fn end(timeline: i64, lsn: i64) -> TimelineEnd {
        TimelineEnd { timeline, lsn, ..TimelineEnd::default() }
    }

    #[test]
    fn only_data_that_the_primary_has_all_of_may_be_given_up() {
        let history = [end(1, 100), end(2, 90), end(3, 300)];
        let of = |own: &Answer, primary: &Answer| standing(own, primary, &history);
        let primary = answer("primary", 4, 500);
        for (timeline, at, expected) in [
            (4, 400, Standing::Behind(400)),
            // Ahead of the primary: somebody may want to know what that is.
            (4, 501, Standing::Fine),
            (3, 300, Standing::Behind(300)),
            (3, 301, Standing::Fine),
            // A later fork was before the end of this timeline.
            (1, 90, Standing::Behind(90)),
            (1, 95, Standing::Fine),
            (5, 10, Standing::Fine),
        ] {
            assert_eq!(of(&answer("replica", timeline, at), &primary), expected, "{timeline} {at}");
        }
        let streams = Answer { replication_state: Some("streaming".into()), ..answer("replica", 4, 400) };
        let paused = Answer { pause: true, ..answer("replica", 4, 400) };
        let stopped = Answer { state: "stopped".into(), ..answer("replica", 4, 400) };
        let unknown = Answer { timeline: None, ..answer("replica", 4, 400) };
        for own in [streams, paused, stopped, unknown, answer("primary", 4, 400)] {
            assert_eq!(of(&own, &primary), Standing::Fine, "{own:?}");
        }
        assert_eq!(of(&answer("replica", 4, 400), &answer("replica", 4, 500)), Standing::Fine);
        assert_eq!(standing(&answer("replica", 1, 4), &primary, &[]), Standing::Fine, "no history, no proof");
    }
}
