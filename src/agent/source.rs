//! From whom a base backup is taken. Pure.

use std::net::IpAddr;

use crate::patroni::Answer;

/// How far a replica may be behind, in bytes of WAL: a segment.
const BEHIND: i64 = 16 << 20;

/// A member, and what its Patroni says.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// What it says.
    pub answer: Answer,
}

/// The member to take it from, and the primary: a replica that streams, close behind on the primary's timeline, so that the
/// primary has no work with it; else the primary. A replica that is not connected would give a backup of the past.
///
/// # Errors
/// Where no primary answers; with the reason.
pub fn choose<'a>(heard: &'a [Heard], holder: Option<&str>) -> Result<(&'a Heard, &'a Heard), String> {
    let holder = holder.ok_or("nobody holds the leader lock")?;
    let primary = heard
        .iter()
        .find(|member| member.name == holder)
        .ok_or_else(|| format!("{holder} holds the leader lock, and its Patroni does not answer"))?;
    if !primary.answer.is_running_primary() {
        return Err(format!("{holder} holds the leader lock, and does not run as primary"));
    }
    let position = primary.answer.xlog.location;
    let fit = |member: &&Heard| {
        let answer = &member.answer;
        let received = answer.xlog.received_location.zip(position);
        answer.is_running_replica()
            && answer.replication_state.as_deref() == Some("streaming")
            && answer.timeline == primary.answer.timeline
            && received.is_some_and(|(received, position)| position - received <= BEHIND)
    };
    let behind = |member: &&Heard| std::cmp::Reverse(member.answer.xlog.received_location);
    let replica = heard.iter().filter(fit).min_by_key(behind);
    Ok((replica.unwrap_or(primary), primary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn heard(name: &str, answer: Value) -> Heard {
        Heard {
            name: name.to_owned(),
            address: IpAddr::from([127, 0, 0, 1]),
            answer: serde_json::from_value(answer).unwrap(),
        }
    }

    fn primary() -> Heard {
        heard(
            "db-0",
            json!({ "role": "primary", "state": "running", "timeline": 2, "xlog": { "location": 50 << 20 } }),
        )
    }

    fn replica(name: &str, state: &str, timeline: i64, received: i64) -> Heard {
        heard(
            name,
            json!({ "role": "replica", "state": "running", "timeline": timeline, "replication_state": state,
                "xlog": { "received_location": received << 20 } }),
        )
    }

    #[test]
    fn a_fit_replica_is_preferred() {
        for (replicas, from) in [
            (vec![], "db-0"),
            (vec![replica("db-1", "streaming", 2, 50)], "db-1"),
            (vec![replica("db-1", "streaming", 2, 40), replica("db-2", "streaming", 2, 49)], "db-2"),
            (vec![replica("db-1", "streaming", 2, 20)], "db-0"),
            (vec![replica("db-1", "streaming", 1, 50)], "db-0"),
            (vec![replica("db-1", "in archive recovery", 2, 50)], "db-0"),
            (vec![heard("db-1", json!({ "role": "replica", "state": "starting" }))], "db-0"),
        ] {
            let all: Vec<Heard> = std::iter::once(primary()).chain(replicas).collect();
            let (chosen, primary) = choose(&all, Some("db-0")).unwrap();
            assert_eq!((chosen.name.as_str(), primary.name.as_str()), (from, "db-0"));
        }
    }

    #[test]
    fn without_a_primary_there_is_none() {
        let replica = replica("db-1", "streaming", 2, 50);
        for (all, holder, says) in [
            (vec![replica.clone()], None, "nobody holds the leader lock"),
            (vec![replica.clone()], Some("db-0"), "its Patroni does not answer"),
            (vec![replica], Some("db-1"), "does not run as primary"),
        ] {
            assert!(choose(&all, holder).unwrap_err().contains(says));
        }
    }
}
