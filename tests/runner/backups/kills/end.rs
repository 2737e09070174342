//! What must hold when all is over.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dbctl::patroni::SUPERUSER;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::{Bench, password};
use crate::backups::cluster::{Contents, NAME, archived_up_to_now};
use crate::backups::wal::{postgres, tool};
use crate::journeys::ready_with;
use crate::proof::check::lost;
use crate::proof::clients::WRITERS;
use crate::support::Answer;

/// A row: who wrote it, and which of its own it is.
type Row = (u32, u64);

/// A restore to the end.
struct Restored {
    from: String,
    rows: usize,
    /// Rows of the primary that it lacks, and those that it has and the primary has not.
    differs: usize,
    /// Acknowledged rows that it lacks, but for those that only the primary had, as status said.
    lost: usize,
    /// What `pg_amcheck` said, where it found something.
    damage: String,
    seconds: f64,
}

/// What was found.
pub(super) struct Verdict {
    acknowledged: usize,
    /// Those that are listed, and what a verification says where it is not that they are good.
    listed: Vec<(String, Option<String>)>,
    /// Those that the destination holds.
    held: Vec<String>,
    gaps: usize,
    conflicts: usize,
    restored: Vec<Restored>,
}

impl Bench {
    /// Ends all writing, and looks at everything.
    pub(super) fn end(&self) -> Verdict {
        self.cluster.notes.stopped.store(true, Ordering::Relaxed);
        ready_with(&self.sandbox, NAME, self.members);
        let acknowledged = self.cluster.notes.history.lock().unwrap().rows.len();
        let rows = self.runtime.block_on(self.cluster.rows(&[0; WRITERS as usize])).unwrap();
        let rows: HashSet<Row> = rows.into_iter().collect();
        let last = archived_up_to_now(&self.sandbox, &self.place());
        let contents = Contents::of(&self.place());
        let mut held = contents.good();
        held.reverse();
        let oldest = contents.backups.iter().find_map(|found| found.good()).unwrap().start_lsn;
        let names = self.sandbox.run(&["backups", NAME, "-o", "name"]).ok();
        let listed: Vec<String> = names.stdout.lines().map(str::to_owned).collect();
        let verified = listed.iter().map(|id| (id.clone(), self.verify(id))).collect();
        let ends = [listed.first().unwrap(), listed.last().unwrap()];
        let restored = ends.iter().zip(1..).map(|(id, number)| self.restore(id, number, acknowledged, &rows));
        Verdict {
            acknowledged,
            listed: verified,
            held,
            gaps: contents.gaps(oldest, last).len(),
            conflicts: contents.conflicts().len(),
            restored: restored.collect(),
        }
    }

    /// What is wrong with a backup.
    fn verify(&self, id: &str) -> Option<String> {
        let answer = self.sandbox.run(&["backup", "verify", NAME, "--backup", id, "--wait"]);
        (answer.code != 0).then_some(answer.stderr)
    }

    /// Restores all that the archive holds behind that backup.
    fn restore(&self, id: &str, number: usize, acknowledged: usize, rows: &HashSet<Row>) -> Restored {
        let start = Instant::now();
        let copy = format!("end{number}");
        self.sandbox
            .run(&["restore", &copy, "--from", NAME, "--backup", id, "--replicas", "1", "--wait"])
            .ok();
        let all = "select writer, n from written";
        let answer = self.sandbox.run(&["connect", &copy, "--", "-XAtq", "-c", all]).ok();
        let row = |line: &str| {
            let (writer, n) = line.split_once('|').unwrap();
            (writer.parse().unwrap(), n.parse().unwrap())
        };
        let found: HashSet<Row> = answer.stdout.lines().map(row).collect();
        let history = self.cluster.notes.history.lock().unwrap();
        let lost = lost(&history, acknowledged, &|_| 0, &found).into_iter().filter(|lost| !lost.degraded);
        let restored = Restored {
            from: id.to_owned(),
            rows: found.len(),
            differs: found.symmetric_difference(rows).count(),
            lost: lost.count(),
            damage: self.amcheck(&copy),
            seconds: start.elapsed().as_secs_f64(),
        };
        self.sandbox.run(&["delete", &copy, "--yes", "--deletion-policy", "delete"]).ok();
        restored
    }

    /// What PostgreSQL finds wrong with the tables and B-trees of a database.
    fn amcheck(&self, database: &str) -> String {
        let (address, password) = self.runtime.block_on(async {
            let pods = Api::<Pod>::default_namespaced(self.sandbox.client().await);
            let pod = pods.get(&format!("{database}-0")).await.unwrap();
            (pod.status.unwrap().pod_ip.unwrap(), password(&self.sandbox, database).await)
        });
        let mut amcheck = tool(&postgres(), "pg_amcheck");
        amcheck.args(["--all", "--heapallindexed", "--install-missing", "-U", SUPERUSER, "-h", &address]);
        let answer = Answer::from(amcheck.env("PGPASSWORD", password).output().unwrap());
        if answer.code == 0 { String::new() } else { answer.transcript() }
    }
}

impl Verdict {
    pub(super) fn print(&self) {
        println!(
            "\n{} rows acknowledged; {} gaps and {} conflicts",
            self.acknowledged, self.gaps, self.conflicts
        );
        println!("\nlisted backup{:53}verified", "");
        for (id, problem) in &self.listed {
            println!("{id:66}{}", problem.as_deref().unwrap_or("good"));
        }
        println!(
            "\nrestored to the end from{:42}{:>8}{:>9}{:>7}{:>7}  pg_amcheck",
            "", "rows", "differs", "lost", "s"
        );
        for restored in &self.restored {
            let Restored { from, rows, differs, lost, damage, seconds } = restored;
            let damage = if damage.is_empty() { "clean" } else { damage };
            println!("{from:66}{rows:8}{differs:9}{lost:7}{seconds:7.1}  {damage}");
        }
    }

    /// Fails where something that must hold does not.
    #[track_caller]
    pub(super) fn judge(&self) {
        let ids: Vec<&String> = self.listed.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, self.held.iter().collect::<Vec<_>>(), "listed, and in the destination");
        assert!(!ids.is_empty() && self.acknowledged > 0 && self.restored.len() == 2, "nothing was shown");
        assert!(self.listed.iter().all(|(_, problem)| problem.is_none()), "a listed backup is not good");
        assert_eq!((self.gaps, self.conflicts), (0, 0), "gaps and conflicts of the archive");
        for Restored { from, differs, lost, damage, .. } in &self.restored {
            assert_eq!((*differs, *lost, damage.as_str()), (0, 0, ""), "restored from {from}");
        }
    }
}
