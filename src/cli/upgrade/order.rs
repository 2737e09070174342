//! The steps of an upgrade, as the controller goes about them, and what each means for sessions.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api::{Database, PgVersion};
use crate::cli::output;
use crate::plan::{Assessment, Move, Unfit};

/// A backup that is younger than this will do.
const RECENT: SignedDuration = SignedDuration::from_hours(1);

/// Who restarts with the new release, in which order.
#[derive(Debug, PartialEq)]
pub struct Order {
    from: PgVersion,
    to: PgVersion,
    /// It goes back to what was before.
    back: bool,
    /// Where a backup goes that is taken first.
    backup: Option<String>,
    /// Replicas, the highest first.
    replicas: Vec<String>,
    /// The primary, where it is not on the new release yet.
    primary: Option<String>,
    /// Who takes over from it, as things stand.
    next: Option<String>,
    /// How many members there are.
    members: usize,
    synchronous: bool,
}

impl Order {
    /// As things stand.
    pub fn new(
        database: &Database,
        assessment: &Assessment,
        from: PgVersion,
        to: PgVersion,
        now: Timestamp,
    ) -> Self {
        let status = database.status.as_ref();
        let stays = |name: &str| {
            let instances = status.map(|status| status.instances.as_slice()).unwrap_or_default();
            let there = instances.iter().find(|instance| instance.name == name);
            there.and_then(|instance| instance.version.as_deref()) == Some(to.to_string().as_str())
        };
        let others = assessment.candidates.iter().rev().filter(|other| other.unfit != Some(Unfit::Leaving));
        let replicas: Vec<String> =
            others.map(|other| other.name.clone()).filter(|name| !stays(name)).collect();
        let primary =
            assessment.primary.as_ref().map(|primary| primary.name.clone()).filter(|name| !stays(name));
        let next = match assessment.choose(None, false) {
            Ok(chosen @ Move::Switchover { .. }) => Some(assessment.heirs(&chosen, false)),
            _ => None,
        };
        let last = status.and_then(|status| status.last_backup_time.as_ref());
        let recent = last.is_some_and(|last| now.duration_since(last.0) <= RECENT);
        let backup = database.spec.backup.as_ref().filter(|backup| backup.enabled && !recent && from != to);
        Self {
            from,
            to,
            back: false,
            backup: backup.and_then(|backup| backup.destination.clone()),
            replicas,
            primary,
            next,
            members: assessment.members().len(),
            synchronous: database.spec.synchronous,
        }
    }

    /// The same for the way back, which no backup is taken for.
    pub fn back(self) -> Self {
        Self { back: true, backup: None, ..self }
    }

    /// As text.
    pub fn render(&self, database: &Database, namespace: &str) -> String {
        let Self { from, to, .. } = self;
        let what = if self.back { "Return" } else { "Upgrade" };
        let name = database.name_any();
        let mut text = format!(
            "{what} of database {name:?} in namespace {namespace:?} from PostgreSQL {from} to {to}:\n"
        );
        let steps = self.steps();
        if steps.is_empty() {
            let _ = writeln!(text, "  no member has to be restarted");
            return text;
        }
        for (index, step) in steps.iter().enumerate() {
            let step = output::wrapped(step, 90, "").replace('\n', "\n     ");
            let _ = writeln!(text, "  {}. {step}", index + 1);
        }
        let gate = format!(
            "each member must run {to}, stream without lag{} and stay well for 10 s before the next one is touched; one that does not \
             within 10 minutes, or whose container keeps ending, gets {from} back, and nothing else is touched until --resume \
             or --abort",
            if self.synchronous { ", be listed as a synchronous standby" } else { "" }
        );
        let _ = writeln!(text, "  {}", output::wrapped(&gate, 90, "").replace('\n', "\n  "));
        text
    }

    fn steps(&self) -> Vec<String> {
        let to = self.to;
        let mut steps = Vec::new();
        steps.extend(
            self.backup
                .as_ref()
                .map(|destination| format!("a base backup is taken to {destination}; sessions go on")),
        );
        if self.members == 1 {
            steps.extend(self.primary.iter().map(|only| {
                format!("{only}, the only member, restarts with {to}: all sessions end, and nobody can read or write until it runs again")
            }));
            return steps;
        }
        for replica in &self.replicas {
            let commits = match (self.synchronous, self.members) {
                (false, _) => "",
                (true, 2) => "; meanwhile commits are on the primary alone (SyncDegraded)",
                (true, _) => "; commits wait for the others",
            };
            steps.push(format!(
                "{replica}, a replica, restarts with {to}: sessions on it end, writes go on{commits}"
            ));
        }
        let Some(primary) = &self.primary else { return steps };
        let next = self.next.as_deref().unwrap_or("a replica");
        steps.push(format!(
            "the primary's role moves from {primary} to {next}, as it stands: sessions on {primary} end, and writes are down for about \
             a second"
        ));
        let commits = if self.synchronous && self.members == 2 {
            "; meanwhile commits are on the primary alone"
        } else {
            ""
        };
        steps.push(format!("{primary}, a replica by then, restarts with {to}: writes go on{commits}"));
        steps
    }
}
