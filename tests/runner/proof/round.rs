//! A fault, what came of it, and the wait until nothing is left of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kube::api::DeleteParams;

use super::chance::{Fault, Role};
use super::check::{self, Lost};
use super::clients::WRITERS;
use super::cluster::{Cluster, Member};
use super::faults::{Kind, delete, strike};
use super::history::Handover;

/// The longest wait for a whole cluster after its faults are over.
const PATIENCE: Duration = Duration::from_secs(150);
/// The longest wait for one before anything is done to it.
const START: Duration = Duration::from_secs(300);
/// How often it is asked whether it is whole again.
const LOOK: Duration = Duration::from_millis(100);
/// Whole is what was written to so recently.
const FRESH: Duration = Duration::from_millis(500);
/// How many of a writer's newest rows are looked for once more at the next look: their answers may have come late.
const OVERLAP: u64 = 200;

/// What came of a fault.
#[derive(Clone, Debug)]
pub struct Round {
    pub what: String,
    pub kind: Kind,
    /// Whether it was the primary alone that was struck.
    pub plain: bool,
    pub began: Duration,
    /// The longest time in which no write was acknowledged, and when it began.
    pub gap: (Duration, Duration),
    /// How long until all was well; none where it never was.
    pub healed: Option<Duration>,
    /// Whether writes were acknowledged at the end.
    pub writable: bool,
    pub handovers: Vec<Handover>,
    /// What writers were told instead of an acknowledgement, and how often.
    pub told: BTreeMap<String, usize>,
    pub lost: Vec<Lost>,
    /// What could not be done, or what was still wrong.
    pub trouble: Option<String>,
}

/// Goes through rounds with one cluster.
pub struct Rounds<'a> {
    pub cluster: &'a Cluster,
    /// Up to which of each writer's rows all have been looked for.
    checked: Vec<u64>,
}

impl<'a> Rounds<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, checked: vec![0; WRITERS as usize] }
    }

    /// Waits for a whole cluster that is written to, in which nobody was restarted more often than that: Kubernetes
    /// holds a container back for longer with each restart, as if it had failed by itself.
    pub async fn ready(&self, restarts: i32) {
        self.pause(false);
        loop {
            let since = self.cluster.notes.now();
            if let Err(trouble) = self.whole(since, START).await {
                panic!("{} never was whole: {trouble}: {:?}", self.cluster.name, self.cluster.sight());
            }
            let members = self.cluster.sight().map(|sight| sight.members).unwrap_or_default();
            let Some(worn) = members.iter().find(|member| member.restarts > restarts) else { return };
            if delete(self.cluster, worn, &DeleteParams::default()).await.is_ok() {
                self.gone(worn).await;
            }
        }
    }

    /// Waits until that pod is no more.
    async fn gone(&self, member: &Member) {
        let deadline = Instant::now() + START;
        let is_there =
            || self.cluster.sight().is_none_or(|sight| sight.members.iter().any(|m| m.uid == member.uid));
        while is_there() {
            assert!(Instant::now() < deadline, "{} is never gone", member.name);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nobody writes for a while, or everybody again.
    pub fn pause(&self, paused: bool) {
        self.cluster.notes.paused.store(paused, Ordering::Relaxed);
    }

    /// Strikes a whole cluster.
    pub async fn one(&mut self, fault: Fault, second: Option<(Duration, Fault)>) -> Round {
        let (leader, replicas) = self.cluster.roles().expect("a whole cluster has a primary");
        let pick = |fault: Fault| match fault.on {
            Role::Primary => &leader,
            // Which one is the seed's to say, like all the rest.
            Role::Replica => &replicas[fault.time.subsec_millis() as usize % replicas.len()],
        };
        let target = pick(fault).clone();
        let other = second.map(|(_, second)| pick(second).clone());
        let began = self.cluster.notes.now();
        let strikes = async {
            let later = async {
                let (Some((delay, second)), Some(member)) = (second, other.as_ref()) else {
                    return Ok(Instant::now());
                };
                tokio::time::sleep(delay).await;
                strike(self.cluster, second.kind, member, second.time).await
            };
            tokio::join!(strike(self.cluster, fault.kind, &target, fault.time), later)
        };
        let (first, later) = strikes.await;
        let trouble = first.as_ref().err().or(later.as_ref().err()).cloned();
        for over in [&first, &later].into_iter().flatten() {
            tokio::time::sleep_until((*over).into()).await;
        }
        let healed = self.whole(self.cluster.notes.now(), PATIENCE).await;
        let mut what = describe(fault, &target);
        if let (Some((delay, second)), Some(member)) = (second, &other) {
            what = format!("{what}, {:.1} s later {}", delay.as_secs_f64(), describe(second, member));
        }
        let mut round = self.account(began, what, fault.kind).await;
        round.plain = second.is_none() && fault.on == Role::Primary;
        match healed {
            Ok(()) => {
                round.healed = Some(self.cluster.notes.now() - began);
                round.writable = true;
            }
            Err(trouble) => round.trouble = Some(trouble),
        }
        round.trouble = trouble.or(round.trouble);
        round
    }

    /// What is to be told of the time since then.
    async fn account(&mut self, began: Duration, what: String, kind: Kind) -> Round {
        let lost = self.look_for_rows().await;
        let now = self.cluster.notes.now();
        let history = self.cluster.notes.history.lock().unwrap();
        let writable = history.rows.last().is_some_and(|row| row.acked + FRESH > now - FRESH);
        Round {
            what,
            kind,
            plain: true,
            began,
            gap: history.longest_gap(began, now),
            healed: None,
            writable: writable && lost.is_ok(),
            handovers: history.handovers(began),
            told: history.told(began),
            trouble: lost.as_ref().err().cloned(),
            lost: lost.unwrap_or_default(),
        }
    }

    /// Waits until the cluster is whole, as seen after `since`, and writes are acknowledged.
    async fn whole(&self, since: Duration, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.cluster.notes.now();
            let written = {
                let history = self.cluster.notes.history.lock().unwrap();
                history.rows.last().is_some_and(|row| row.acked + FRESH > now && row.acked > since)
            };
            let ailment =
                self.cluster.ailment(since).or((!written).then(|| "no write is acknowledged".to_owned()));
            match ailment {
                None => return Ok(()),
                Some(ailment) if Instant::now() > deadline => return Err(ailment),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Looks for the acknowledged rows that have not been looked for yet.
    async fn look_for_rows(&mut self) -> Result<Vec<Lost>, String> {
        let above: Vec<u64> = self.checked.iter().map(|n| n.saturating_sub(OVERLAP)).collect();
        let (lost, told) = look(self.cluster, &above).await?;
        let history = self.cluster.notes.history.lock().unwrap();
        for row in history.rows[..told].iter().rev().take(10_000) {
            let checked = &mut self.checked[row.writer as usize - 1];
            *checked = row.n.max(*checked);
        }
        Ok(lost)
    }
}

/// The acknowledged rows above those that are not there, and how many had been acknowledged when they were looked for.
async fn look(cluster: &Cluster, above: &[u64]) -> Result<(Vec<Lost>, usize), String> {
    let told = cluster.notes.history.lock().unwrap().rows.len();
    let deadline = Instant::now() + Duration::from_secs(20);
    let found: HashSet<(u32, u64)> = loop {
        match cluster.rows(above).await {
            Ok(rows) if !rows.is_empty() => break rows.into_iter().collect(),
            _ if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            Ok(_) => return Err("no rows can be read from a primary".to_owned()),
            Err(error) => return Err(error),
        }
    };
    let history = cluster.notes.history.lock().unwrap();
    Ok((check::lost(&history, told, &|writer| above[writer as usize - 1], &found), told))
}

/// All acknowledged rows that are not there at the end.
pub async fn lost_at_the_end(cluster: &Cluster) -> Vec<Lost> {
    look(cluster, &[0; WRITERS as usize]).await.expect("the table can be read at the end").0
}

fn describe(fault: Fault, member: &Member) -> String {
    if !fault.kind.strikes_a_member() {
        return format!("{} for {:.0} s", fault.kind, fault.time.as_secs_f64());
    }
    let role = if fault.on == Role::Primary { "primary" } else { "replica" };
    let time =
        if fault.kind.lasts() { format!(" for {:.0} s", fault.time.as_secs_f64()) } else { String::new() };
    format!("{} {} ({role}){time}", fault.kind, member.name)
}
