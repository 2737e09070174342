//! What is shown before anything is done: who leads, who would, and what that costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cli::{output, ui};
use crate::plan::{Assessment, Candidate, Move, size};

/// What is shown.
pub struct Preview<'a> {
    /// The database.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// What there is to choose from.
    pub assessment: &'a Assessment,
    /// What would be done, where it is not refused.
    pub chosen: Option<&'a Move>,
    /// The candidate was named, and not chosen.
    pub named: bool,
    /// Why members did not answer.
    pub silent: &'a BTreeMap<String, String>,
}

impl Preview<'_> {
    /// The whole text.
    pub fn render(&self) -> String {
        let mut text = format!("Failover of database {:?} in namespace {:?}:\n", self.name, self.namespace);
        let _ = writeln!(text, "  primary    {}", self.primary());
        if let Some(chosen) = self.chosen {
            let _ = writeln!(text, "  candidate  {}", self.candidate(chosen));
        }
        let _ = write!(text, "\n{}", self.table());
        let unfit = self.assessment.candidates.iter().filter_map(|candidate| {
            candidate.unfit.as_ref().map(|unfit| format!("  {} {unfit}\n", candidate.name))
        });
        text.extend(unfit);
        self.unasked(&mut text);
        if let Some(chosen) = self.chosen {
            text.push('\n');
            text.push_str(&self.cost(chosen));
        }
        text
    }

    fn primary(&self) -> String {
        let Some(primary) = &self.assessment.primary else {
            return "none: nobody holds the leader lock".to_owned();
        };
        let node = place(primary.node.as_deref(), primary.cordoned);
        match &primary.problem {
            None => format!("{}{node}, healthy", primary.name),
            Some(problem) => format!("{}{node}, which {problem}", primary.name),
        }
    }

    fn candidate(&self, chosen: &Move) -> String {
        let found = self.assessment.candidate(chosen.to());
        let node = found.map(|found| place(found.node.as_deref(), found.cordoned)).unwrap_or_default();
        if self.named {
            return format!("{}{node}, as asked for", chosen.to());
        }
        let heirs = self.assessment.heirs(chosen, false);
        if heirs == chosen.to() { format!("{heirs}{node}, chosen: the fittest") } else { heirs }
    }

    fn table(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        if let Some(primary) = &self.assessment.primary {
            let state = if primary.problem.is_some() { "not well" } else { "running" };
            rows.push(vec![
                primary.name.clone(),
                "primary".to_owned(),
                state.to_owned(),
                number(primary.timeline),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
        rows.extend(self.assessment.candidates.iter().map(row));
        ui::table(&["MEMBER", "ROLE", "STATE", "TIMELINE", "LAG", "BEHIND", "FIT"], rows)
    }

    /// Where members could not be asked, what is shown is older than it looks.
    fn unasked(&self, text: &mut String) {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (member, why) in self.silent {
            by_reason.entry(why).or_default().push(member);
        }
        for (why, members) in by_reason {
            let _ =
                writeln!(text, "  not asked: {} ({why}); what was last written is shown", members.join(", "));
        }
    }

    fn cost(&self, chosen: &Move) -> String {
        let (ends, loss) = match chosen {
            Move::Switchover { from, .. } => (
                format!(
                    "all on {from} end, and their open transactions are rolled back; clients can connect again through Service {} \
                     after about a second; those on replicas stay",
                    self.name
                ),
                format!("nothing: {from} stops in good order, and whoever takes over has everything before"),
            ),
            Move::Failover { loss, .. } => (
                format!("those on replicas stay; clients connect again through Service {}", self.name),
                loss.to_string(),
            ),
        };
        let mut text = String::new();
        for (label, what) in [("sessions", ends), ("lost", loss)] {
            let _ = writeln!(text, "  {label:<9}  {}", indented(&what));
        }
        text
    }
}

/// Wrapped to a terminal's width, behind the labels.
fn indented(what: &str) -> String {
    output::wrapped(what, 67, "").replace('\n', "\n             ")
}

fn place(node: Option<&str>, cordoned: bool) -> String {
    let Some(node) = node else { return String::new() };
    let cordoned = if cordoned { ", which is cordoned" } else { "" };
    format!(" on {node}{cordoned}")
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn row(candidate: &Candidate) -> Vec<String> {
    vec![
        candidate.name.clone(),
        "replica".to_owned(),
        candidate.state.clone(),
        number(candidate.timeline),
        candidate.lag_bytes.map_or_else(|| "-".to_owned(), size),
        candidate.lag_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")),
        if candidate.unfit.is_none() { "yes".to_owned() } else { "no".to_owned() },
    ]
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::api::Database;
    use crate::plan::{Kind, NodeState, Observed, assess};
    use serde_json::{Value, json};

    /// What every test here is about.
    pub fn database() -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": { "name": "db" },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" } },
        }))
        .unwrap()
    }

    fn map(observed: &mut Observed, name: &str, annotations: Value) {
        observed.insert(Kind::ConfigMap, json!({ "metadata": { "name": name, "annotations": annotations } }));
    }

    fn answer(observed: &mut Observed, name: &str, value: Value) {
        observed.answers.insert(name.to_owned(), serde_json::from_value(value).unwrap());
    }

    fn replica(received: i64) -> Value {
        json!({ "role": "replica", "state": "running", "timeline": 2, "replication_state": "streaming", "xlog": {
            "received_location": received, "replayed_location": received,
            "replayed_timestamp": "2026-11-22 10:00:00.000000+00:00" } })
    }

    fn three() -> Observed {
        let mut observed = Observed::default();
        map(
            &mut observed,
            "db-leader",
            json!({ "leader": "db-0", "optime": "5000000", "renewTime": "2026-11-22T10:00:00Z" }),
        );
        map(
            &mut observed,
            "db-sync",
            json!({ "leader": "db-0", "sync_standby": "db-1,db-2", "quorum": "1" }),
        );
        map(
            &mut observed,
            "db-config",
            json!({ "initialize": "7", "config": "{\"synchronous_mode\":\"quorum\"}" }),
        );
        for ordinal in 0..3 {
            let labels = json!({ "db.example.com/database": "db" });
            observed.insert(
                Kind::Pod,
                json!({
                    "metadata": { "name": format!("db-{ordinal}"), "labels": labels },
                    "spec": { "nodeName": format!("node-{ordinal}") },
                    "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
                }),
            );
        }
        answer(
            &mut observed,
            "db-0",
            json!({ "role": "primary", "state": "running", "timeline": 2, "xlog": { "location": 5_000_000 } }),
        );
        answer(&mut observed, "db-1", replica(5_000_000));
        answer(&mut observed, "db-2", replica(2_000_000));
        observed
    }

    fn now() -> jiff::Timestamp {
        "2026-11-22T10:00:07Z".parse().unwrap()
    }

    /// A healthy database, whose third member lags.
    pub fn healthy() -> (Assessment, Observed) {
        let observed = three();
        (assess("db", &observed, now()), observed)
    }

    fn render(observed: &Observed, to: Option<&str>, force: bool, silent: &[(&str, &str)]) -> String {
        let assessment = assess("db", observed, now());
        let chosen = assessment.choose(to, force);
        let silent = silent.iter().map(|(member, why)| ((*member).to_owned(), (*why).to_owned())).collect();
        let preview = Preview {
            name: "db",
            namespace: "shop",
            assessment: &assessment,
            chosen: chosen.as_ref().ok(),
            named: to.is_some(),
            silent: &silent,
        };
        let text = preview.render();
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
        match chosen {
            Ok(_) => text,
            Err(refusal) => format!("{text}REFUSED: {refusal}"),
        }
    }

    #[test]
    fn a_switchover_names_its_candidate_and_its_cost() {
        let (_, mut observed) = healthy();
        observed.nodes.insert("node-0".into(), NodeState { cordoned: true, out_of_service: false });
        insta::assert_snapshot!(render(&observed, None, false, &[]), @r#"
        Failover of database "db" in namespace "shop":
          primary    db-0 on node-0, which is cordoned, healthy
          candidate  db-1 on node-1, chosen: the fittest

        MEMBER   ROLE      STATE       TIMELINE   LAG       BEHIND   FIT
        db-0     primary   running     2          -         -        -
        db-1     replica   streaming   2          0 bytes   0 s      yes
        db-2     replica   streaming   2          2.8 MiB   7 s      no
          db-2 lags by 2.8 MiB

          sessions   all on db-0 end, and their open transactions are rolled back;
                     clients can connect again through Service db after about a second;
                     those on replicas stay
          lost       nothing: db-0 stops in good order, and whoever takes over has
                     everything before
        "#);
    }

    #[test]
    fn a_member_that_lags_is_refused() {
        insta::assert_snapshot!(render(&three(), Some("db-2"), false, &[]), @r#"
        Failover of database "db" in namespace "shop":
          primary    db-0 on node-0, healthy

        MEMBER   ROLE      STATE       TIMELINE   LAG       BEHIND   FIT
        db-0     primary   running     2          -         -        -
        db-1     replica   streaming   2          0 bytes   0 s      yes
        db-2     replica   streaming   2          2.8 MiB   7 s      no
          db-2 lags by 2.8 MiB
        REFUSED: db-2 lags by 2.8 MiB; ask again when it has caught up; db-1 can take over now
        "#);
    }

    #[test]
    fn members_that_cannot_be_asked_are_named() {
        let mut observed = three();
        observed.answers.clear();
        for (name, status) in [
            (
                "db-0",
                json!({ "role": "primary", "state": "running", "timeline": 2, "xlog_location": 5_000_000 }),
            ),
            (
                "db-1",
                json!({ "role": "replica", "state": "running", "replication_state": "streaming", "timeline": 2, "receive_lsn": 4_999_000, "replay_lsn": 4_999_000 }),
            ),
        ] {
            let mut pod = observed.get(Kind::Pod, name).unwrap().clone();
            pod["metadata"]["annotations"] = json!({ "status": status.to_string() });
            observed.insert(Kind::Pod, pod);
        }
        let why = "you may not forward ports to pods";
        insta::assert_snapshot!(render(&observed, None, false, &[("db-0", why), ("db-1", why), ("db-2", why)]), @r#"
        Failover of database "db" in namespace "shop":
          primary    db-0 on node-0, healthy
          candidate  db-1 on node-1, chosen: the fittest

        MEMBER   ROLE      STATE       TIMELINE   LAG          BEHIND   FIT
        db-0     primary   running     2          -            -        -
        db-1     replica   streaming   2          1000 bytes   -        yes
        db-2     replica   starting    -          -            -        no
          db-2 is starting
          not asked: db-0, db-1, db-2 (you may not forward ports to pods); what was last written is shown

          sessions   all on db-0 end, and their open transactions are rolled back;
                     clients can connect again through Service db after about a second;
                     those on replicas stay
          lost       nothing: db-0 stops in good order, and whoever takes over has
                     everything before
        "#);
    }

    #[test]
    fn without_a_primary_what_is_lost_is_said_in_words() {
        let mut observed = three();
        observed.answers.remove("db-0");
        observed.lock_age = crate::plan::LockAge::Expired;
        observed.silent.insert("db-0".into(), std::time::Duration::from_secs(30));
        map(&mut observed, "db-sync", json!({ "leader": "db-0", "sync_standby": "", "quorum": "0" }));
        let silent = [("db-0", "no answer within 2 s")];
        insta::assert_snapshot!(render(&observed, None, false, &silent), @r#"
        Failover of database "db" in namespace "shop":
          primary    db-0 on node-0, which does not answer and does not renew the leader lock

        MEMBER   ROLE      STATE       TIMELINE   LAG       BEHIND   FIT
        db-0     primary   not well    -          -         -        -
        db-1     replica   streaming   2          0 bytes   0 s      yes
        db-2     replica   streaming   2          2.8 MiB   7 s      no
          db-2 lacks 2.8 MiB that db-1 has
          not asked: db-0 (no answer within 2 s); what was last written is shown
        REFUSED: no primary is running (db-0 does not answer and does not renew the leader lock): Patroni elects a fit member by itself within seconds where no commit is at stake. --force promotes db-1 now: whatever db-0 wrote after 2026-11-22T10:00:00Z, when it was last heard of, is lost, and nothing older
        "#);
        insta::assert_snapshot!(render(&observed, None, true, &silent), @r#"
        Failover of database "db" in namespace "shop":
          primary    db-0 on node-0, which does not answer and does not renew the leader lock
          candidate  db-1 on node-1, chosen: the fittest

        MEMBER   ROLE      STATE       TIMELINE   LAG       BEHIND   FIT
        db-0     primary   not well    -          -         -        -
        db-1     replica   streaming   2          0 bytes   0 s      yes
        db-2     replica   streaming   2          2.8 MiB   7 s      no
          db-2 lacks 2.8 MiB that db-1 has
          not asked: db-0 (no answer within 2 s); what was last written is shown

          sessions   those on replicas stay; clients connect again through Service db
          lost       whatever db-0 wrote after 2026-11-22T10:00:00Z, when it was last
                     heard of, is lost, and nothing older
        "#);
    }
}
