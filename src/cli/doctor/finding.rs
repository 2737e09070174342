//! What is wrong, and how one thing leads to another: the cause is said first, and what comes of it below it.

use jiff::Timestamp;
use serde::Serialize;

use crate::api::ConditionType;

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nobody can write, or data is in danger.
    Critical,
    /// Something does not work that should.
    Problem,
    /// It works, and will not for ever; or it is not known whether it does.
    Warning,
    /// Nothing is wrong, and it is good to know.
    Note,
}

/// What a finding is about. The order is that of causes: only what comes earlier can be the cause of what comes later, so
/// nothing ever explains itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The API server.
    Server,
    /// The definition of Databases.
    Definition,
    /// That somebody has told dbctl to keep its hands off.
    Pause,
    /// The controller.
    Controller,
    /// A node.
    Node(String),
    /// A Secret.
    Secret(String),
    /// That WAL reaches the backups' destination.
    Archiving,
    /// A member's claim.
    Claim(String),
    /// Room on a member's volume.
    Room(String),
    /// Work that stops members on purpose.
    Work,
    /// That a member runs.
    Member(String),
    /// That a member follows the primary.
    Replication(String),
    /// An upgrade, or any other change of the members' pods.
    Rollout,
    /// That somebody can write.
    Writes,
    /// That commits are on more than one member.
    Commits,
    /// Backups other than the archiving of WAL.
    Backups,
    /// A request of that id.
    Request(String),
    /// That the newest spec is answered.
    Spec,
    /// A condition that says no more than what is found anyway, or what nothing else was found for.
    Condition(ConditionType),
    /// What nothing leads to.
    Other,
}

/// One thing that is wrong, or good to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The Database that it is about, as `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// One CamelCase word that stays the same, for programs.
    pub code: &'static str,
    /// What is so, in one sentence without a full stop.
    pub what: String,
    /// Why, in the words of whoever knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// What it leads to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consequences: Vec<String>,
    /// What to type next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// What it is about.
    #[serde(skip)]
    pub topic: Topic,
    /// What it leads to, where that is found.
    #[serde(skip)]
    pub explains: Vec<Topic>,
}

impl Finding {
    /// What is so.
    pub fn new(severity: Severity, topic: Topic, code: &'static str, what: impl Into<String>) -> Self {
        Self {
            severity,
            database: None,
            code,
            what: what.into(),
            why: None,
            since: None,
            consequences: Vec::new(),
            next: Vec::new(),
            topic,
            explains: Vec::new(),
        }
    }

    /// Says why. Nothing said leaves it as it is.
    #[must_use]
    pub fn because(mut self, why: Option<impl Into<String>>) -> Self {
        let why = why.map(Into::into).filter(|why| !why.trim().is_empty());
        self.why = why.or(self.why);
        self
    }

    /// Says why, where nothing better is known.
    #[must_use]
    pub fn because_default(self, why: &str) -> Self {
        if self.why.is_some() { self } else { self.because(Some(why)) }
    }

    /// Says since when.
    #[must_use]
    pub fn since(mut self, since: Option<Timestamp>) -> Self {
        self.since = since.or(self.since);
        self
    }

    /// Says what to type.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// Says what it leads to.
    #[must_use]
    pub fn explains(mut self, topics: impl IntoIterator<Item = Topic>) -> Self {
        self.explains.extend(topics);
        self
    }

    /// Whether this is the cause of the other one.
    fn leads_to(&self, other: &Finding) -> bool {
        let place = self.database.is_none() || self.database == other.database;
        place && self.topic < other.topic && self.explains.contains(&other.topic)
    }

    /// A condition repeats what is found anyway; where there is a cause, it need not be said again.
    fn repeats(&self) -> bool {
        matches!(self.topic, Topic::Condition(_))
    }
}

/// Puts what follows from something else below it, and sorts the rest: the worst first, of two that are as bad the cause
/// first. A cause is as bad as the worst of what it leads to.
pub fn settle(findings: Vec<Finding>) -> Vec<Finding> {
    let causes: Vec<Option<usize>> = findings.iter().map(|finding| cause(&findings, finding)).collect();
    let root = |mut index: usize| {
        // Causes come before what they lead to in the order of topics, so this ends.
        while let Some(before) = causes.get(index).copied().flatten() {
            index = before;
        }
        index
    };
    let mut roots: Vec<Finding> = findings.clone();
    for (index, finding) in findings.iter().enumerate() {
        let at = root(index);
        if let Some(cause) = roots.get_mut(at).filter(|_| at != index) {
            cause.severity = cause.severity.min(finding.severity);
            if !finding.repeats() && !cause.consequences.contains(&finding.what) {
                cause.consequences.push(finding.what.clone());
            }
            for command in &finding.next {
                // One step is enough to begin with; what its consequences would have had is told by the cause.
                if cause.next.is_empty() {
                    cause.next.push(command.clone());
                }
            }
        }
    }
    let mut left: Vec<Finding> = roots
        .into_iter()
        .zip(&causes)
        .filter(|(_, cause)| cause.is_none())
        .map(|(finding, _)| finding)
        .collect();
    left.sort_by(|a, b| {
        (a.severity, &a.topic, &a.database, a.code).cmp(&(b.severity, &b.topic, &b.database, b.code))
    });
    left
}

/// The first cause of a finding, that which is nearest to the root.
fn cause(findings: &[Finding], finding: &Finding) -> Option<usize> {
    let causes = findings.iter().enumerate().filter(|(_, other)| other.leads_to(finding));
    causes.min_by_key(|(_, other)| (&other.topic, other.severity)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, topic: Topic, explains: &[Topic]) -> Finding {
        let what = format!("{topic:?}");
        Finding::new(severity, topic, "Code", what).explains(explains.iter().cloned())
    }

    #[test]
    fn the_root_is_said_once_with_all_that_comes_of_it() {
        use Severity::{Critical, Note, Problem};
        let member = || Topic::Member("db-0".into());
        let ready = Topic::Condition(ConditionType::Ready);
        let all = vec![
            finding(Critical, Topic::Writes, &[]),
            finding(Problem, member(), &[Topic::Writes, ready.clone()]),
            finding(Note, Topic::Other, &[]),
            finding(Problem, ready, &[]),
            finding(Problem, Topic::Node("n".into()), &[member()]),
        ];
        let told = settle(all);
        let whats: Vec<_> = told.iter().map(|finding| (finding.severity, finding.what.as_str())).collect();
        assert_eq!(whats, [(Critical, "Node(\"n\")"), (Note, "Other")]);
        assert_eq!(told[0].consequences, ["Writes", "Member(\"db-0\")"]);
    }

    #[test]
    fn nothing_is_lost_where_two_blame_each_other() {
        let (room, archive) = (Topic::Room("db-0".into()), Topic::Archiving);
        let all = vec![
            finding(Severity::Problem, room.clone(), std::slice::from_ref(&archive)),
            finding(Severity::Problem, archive, &[room]),
        ];
        let told = settle(all);
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0].topic, told[0].consequences.len()), (&Topic::Archiving, 1));
    }

    #[test]
    fn one_database_explains_nothing_of_another() {
        let of = |name: &str, mut finding: Finding| {
            finding.database = Some(name.to_owned());
            finding
        };
        let writes = || finding(Severity::Critical, Topic::Writes, &[]);
        let member = || finding(Severity::Problem, Topic::Member("db-0".into()), &[Topic::Writes]);
        let told = settle(vec![of("a/db", writes()), of("b/db", member())]);
        assert_eq!(told.len(), 2);
        // What is the whole cluster's explains any of them.
        let server = finding(Severity::Problem, Topic::Controller, &[Topic::Writes]);
        assert_eq!(settle(vec![of("a/db", writes()), of("b/db", writes()), server]).len(), 1);
    }
}
