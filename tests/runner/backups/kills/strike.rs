//! What dies, and when: by chance, from a seed.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::proof::cluster::Cluster;
use crate::stores::{Action, FaultProxy, Rule};
use crate::support::{Sandbox, eventually};

/// Who is killed, or what the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process that takes a backup.
    Backup,
    /// A member's `wal-push`.
    Push,
    /// The primary's PostgreSQL.
    Postgres,
    /// The primary's pod, with all in it.
    Primary,
    /// A replica's.
    Replica,
    /// Nobody, but the replica that a backup is taken of becomes the primary meanwhile.
    Promotion,
    /// The store is gone, and its connections are reset.
    Outage,
    /// It answers nothing.
    Silence,
    /// It does what it is asked, and nobody hears of it.
    LostAnswers,
}

/// How often each comes, in parts of their sum.
const MIX: [(Kind, u32); 9] = [
    (Kind::Backup, 5),
    (Kind::Push, 5),
    (Kind::Postgres, 3),
    (Kind::Primary, 3),
    (Kind::Replica, 1),
    (Kind::Promotion, 1),
    (Kind::Outage, 3),
    (Kind::Silence, 1),
    (Kind::LostAnswers, 2),
];

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: Kind,
    /// How long after a backup was asked for.
    pub after: Duration,
    /// How long what lasts does; and where a process is killed, how old it is then at least.
    pub time: Duration,
    /// Which one, where there are several.
    pub which: usize,
}

/// All steps of a seed.
pub fn steps(seed: u64) -> impl Iterator<Item = Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        let mut place = random.u32(0..MIX.iter().map(|(_, weight)| weight).sum());
        let kind = MIX.iter().find_map(|(kind, weight)| {
            let found = place < *weight;
            place = place.saturating_sub(*weight);
            found.then_some(*kind)
        });
        Step {
            kind: kind.unwrap_or(Kind::Backup),
            after: Duration::from_millis(random.u64(0..2500)),
            time: Duration::from_millis(random.u64(0..2500)),
            which: random.usize(..),
        }
    })
}

/// The processes of the sandbox's pods with these words in their command lines.
fn processes(sandbox: &Sandbox, words: &str) -> Vec<u32> {
    let all = sandbox.processes().into_iter();
    all.filter(|(_, command)| command.contains(words)).map(|(id, _)| id).collect()
}

/// Kills one; whether it was there to be killed.
fn kill(id: u32) -> bool {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    id.is_some_and(|id| kill_process(id, Signal::KILL).is_ok())
}

/// Does it, to its end; returns what was done. Where a process has ended by itself meanwhile, the next one is struck.
pub fn strike(sandbox: &Sandbox, cluster: &Cluster, proxy: &FaultProxy, step: Step) -> String {
    proxy.forget();
    std::thread::sleep(step.after);
    let pod = |name: &str, only: &[&str]| {
        sandbox.run(&[&["sandbox", "fault", "pod", name, "--kill"][..], only].concat()).ok();
        format!("{name}'s {}", if only.is_empty() { "pod" } else { "postgres" })
    };
    let (primary, replicas) = cluster.roles().expect("it was whole");
    match step.kind {
        Kind::Backup => eventually("a backup was killed", || {
            let found = processes(sandbox, "agent backup");
            if found.is_empty() {
                // Refused where one is on its way.
                let answer = sandbox.run(&["backup-now", &cluster.name]);
                return Err(answer.transcript());
            }
            std::thread::sleep(step.time);
            let struck = found.iter().filter(|id| kill(**id)).count();
            if struck > 0 { Ok("the process of a backup".to_owned()) } else { Err("it was done".to_owned()) }
        }),
        Kind::Push => loop {
            let found = processes(sandbox, "wal-push");
            if found.is_empty() {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            std::thread::sleep(step.time / 16);
            if kill(found[step.which % found.len()]) {
                break "a wal-push".to_owned();
            }
        },
        Kind::Postgres => pod(&primary.name, &["--only", "postgres -D"]),
        Kind::Primary => pod(&primary.name, &[]),
        Kind::Replica => pod(&replicas[step.which % replicas.len()].name, &[]),
        Kind::Promotion => {
            let data = "base.0000.tar.zst";
            proxy.rule(Rule::new(Action::Hang).key(data));
            eventually("a backup sends its data", || {
                if proxy.asked().iter().any(|asked| asked.key.contains(data) && asked.answer.is_none()) {
                    return Ok(());
                }
                // Refused where one is on its way.
                Err(sandbox.run(&["backup-now", &cluster.name]).transcript())
            });
            sandbox.run(&["failover", &cluster.name, "--yes", "--wait"]).ok();
            proxy.clear();
            // Ends what hangs.
            proxy.outage();
            proxy.restore();
            format!("{}, as it hands over", primary.name)
        }
        Kind::Outage | Kind::Silence | Kind::LostAnswers => {
            match step.kind {
                Kind::Outage => proxy.outage(),
                Kind::Silence => proxy.black_hole(),
                _ => proxy.rule(Rule::new(Action::ResetAfter)),
            }
            std::thread::sleep(step.time);
            proxy.clear();
            proxy.restore();
            format!("the store, for {:.1} s", step.time.as_secs_f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_says_everything_and_every_kind_comes() {
        let run = |seed| steps(seed).take(50).collect::<Vec<_>>();
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let kinds: BTreeSet<Kind> = run(1).iter().map(|step| step.kind).collect();
        assert_eq!(kinds.len(), MIX.len());
    }
}
