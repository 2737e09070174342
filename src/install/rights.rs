//! What the controller may do at the Kubernetes API, as a table.
//!
//! It holds what the controller's own calls need, and what it grants to members' pods in their Role: an API server
//! lets nobody grant what they do not hold, unless they may `escalate` or `bind`, which amounts to everything.

use crate::api::GROUP;

/// Verbs on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core one.
    pub group: &'static str,
    /// The resource, with its subresource where it is about one.
    pub resource: &'static str,
    /// The verbs, never `*`.
    pub verbs: &'static [&'static str],
    /// What they are for: verbs, divided by blanks, and their purpose. Each verb occurs once.
    pub why: &'static [(&'static str, &'static str)],
}

impl Rule {
    /// The resource with its group, as `statefulsets.apps`, and its subresource behind a slash.
    pub fn qualified(&self) -> String {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        qualified(self.group, resource, subresource)
    }
}

/// A resource in one word.
pub fn qualified(group: &str, resource: &str, subresource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{resource}{dot}{group}{slash}{subresource}")
}

type Why = &'static [(&'static str, &'static str)];

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str], why: Why) -> Rule {
    Rule { group, resource, verbs, why }
}

/// Everything that the controller may do. Each verb is used; a test runs it with nothing else and counts.
///
/// Objects of a Database are found by a watch on its label (`list`, `watch`) and, before anything is made, by name (`get`),
/// since one of that name may be somebody else's. An apply of what is not there yet needs both `create` and `patch`.
pub const RULES: &[Rule] = &[
    // The finalizer is part of the object itself.
    rule(
        GROUP,
        "databases",
        &["list", "watch", "patch"],
        &[
            ("list watch", "what is asked for, and each change of it"),
            ("patch", "the finalizer, which holds a deleted Database until its data is dealt with"),
        ],
    ),
    rule(
        GROUP,
        "databases/status",
        &["patch"],
        &[("patch", "what is so: members, conditions, what is under way")],
    ),
    // The garbage collector removes these three.
    rule(
        "",
        "serviceaccounts",
        &["get", "list", "watch", "create", "patch"],
        &[(FOUND, SEEN), (APPLIED, "whom a database's pods act as")],
    ),
    rule(
        "rbac.authorization.k8s.io",
        "roles",
        &["get", "list", "watch", "create", "patch"],
        &[(FOUND, SEEN), (APPLIED, "what those may do: that database's ConfigMaps and pods, for Patroni")],
    ),
    rule(
        "rbac.authorization.k8s.io",
        "rolebindings",
        &["get", "list", "watch", "create", "patch"],
        &[(FOUND, SEEN), (APPLIED, "that they may")],
    ),
    rule(
        "",
        "services",
        &["get", "list", "watch", "create", "patch"],
        &[(FOUND, SEEN), (APPLIED, "the addresses of the primary, the replicas and each member")],
    ),
    rule(
        "discovery.k8s.io",
        "endpointslices",
        &["list", "watch"],
        &[("list watch", "whether the write Service leads to the primary")],
    ),
    rule(
        "apps",
        "statefulsets",
        &["get", "list", "watch", "create", "patch", "delete"],
        &[
            (FOUND, SEEN),
            (APPLIED, "the members"),
            ("delete", "without its pods, where volumes grow: the size for new ones cannot be changed"),
        ],
    ),
    rule(
        "policy",
        "poddisruptionbudgets",
        &["get", "list", "watch", "create", "patch", "delete"],
        &[
            (FOUND, SEEN),
            (APPLIED, "that drains take one member at a time"),
            ("delete", "where one member is left, which no drain should wait for"),
        ],
    ),
    // One Job for each backup that is asked for; Jobs go by themselves.
    rule(
        "batch",
        "cronjobs",
        &["get", "list", "watch", "create", "patch", "delete"],
        &[
            (FOUND, SEEN),
            (APPLIED, "the schedules of backups and of their verification"),
            ("delete", "where those are turned off"),
        ],
    ),
    rule(
        "batch",
        "jobs",
        &["get", "list", "watch", "create"],
        &[
            (FOUND, "whether it was made already, and how it goes"),
            ("create", "a backup, a verification or a rehearsal that was asked for"),
        ],
    ),
    // `patch` is for Patroni, which keeps the role label, and for the label that a dead primary leaves; `delete` for pods
    // that somebody cut off from their StatefulSet.
    rule(
        "",
        "pods",
        &["get", "list", "watch", "patch", "delete"],
        &[
            (FOUND, "how members are"),
            (
                "patch",
                "the role's label, which Patroni keeps and a dead primary leaves; a note that passwords have changed, upon which \
                 the kubelet brings the files up to date at once",
            ),
            ("delete", "a member that is to start anew: upgrades, larger volumes, restores"),
        ],
    ),
    // What outlives a Database goes by the controller's hand, where the deletion policy says so.
    rule(
        "",
        "configmaps",
        &["get", "list", "watch", "create", "patch", "delete"],
        &[
            (FOUND, "Patroni's lock, settings and history, and the catalog of backups"),
            (APPLIED, "Patroni's configuration, and what is noted beside the data"),
            ("delete", FOR_GOOD),
        ],
    ),
    rule(
        "",
        "persistentvolumeclaims",
        &["get", "list", "watch", "patch", "delete"],
        &[
            (FOUND, "sizes, and whose data it is"),
            ("patch", "a larger size; whose data it is"),
            ("delete", FOR_GOOD),
        ],
    ),
    // Neither `list` nor `watch`: they would show the content of every Secret there is, and RBAC knows no labels to narrow
    // them by. Names it knows, but only as a list of whole ones, and a Database's name is the user's choice. So a Secret is
    // read by the name that dbctl gives it, and one whose name is not known cannot be.
    rule(
        "",
        "secrets",
        &["get", "create", "patch", "delete"],
        &[
            (
                "get",
                "by name: whether those of the Database are there, how to log in at Patroni, and when certificates end",
            ),
            ("create", "passwords, once, and certificates"),
            ("patch", "certificates that are due, whom users are to trust, and passwords that are to change"),
            ("delete", FOR_GOOD),
        ],
    ),
    // Of the whole cluster, so a Role for one namespace goes without: then a cordoned node moves no primary, and a node that
    // is vouched to be off proves nothing.
    rule(
        "",
        "nodes",
        &["list", "watch"],
        &[(
            "list watch",
            "cordoned nodes, which primaries leave; those vouched to be off (not with `--watch-namespace`)",
        )],
    ),
    // The same holds for these: without, whether volumes may grow is found out by trying.
    rule(
        "storage.k8s.io",
        "storageclasses",
        &["get"],
        &[("get", "whether volumes may grow (not with `--watch-namespace`)")],
    ),
    // That of Databases: with it deleted, no Database takes its data along.
    rule(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        &["get"],
        &[(
            "get",
            "whether the definition is being deleted: then no data goes with a Database (not with `--watch-namespace`)",
        )],
    ),
    rule(
        "events.k8s.io",
        "events",
        &["create", "patch"],
        &[("create patch", "what happens, and that it happens again")],
    ),
    // Tokens and paths belong to no namespace, so these are granted in the whole cluster in any case. Neither shows or changes
    // anything but an answer.
    rule(
        "authentication.k8s.io",
        TOKEN_REVIEWS,
        &["create"],
        &[("create", "whose token it is that somebody asks for metrics with")],
    ),
    rule(
        "authorization.k8s.io",
        ACCESS_REVIEWS,
        &["create"],
        &[("create", "whether they may get `/metrics`")],
    ),
];

const TOKEN_REVIEWS: &str = "tokenreviews";
const ACCESS_REVIEWS: &str = "subjectaccessreviews";
/// The questions about readers of metrics: what a controller for one namespace, too, needs in the whole cluster.
pub const REVIEWS: [&str; 2] = [TOKEN_REVIEWS, ACCESS_REVIEWS];

/// What shows what there is, and why that is needed of nearly all kinds.
const FOUND: &str = "get list watch";
const SEEN: &str = "whether it is as it should be, or somebody else's";
/// Both verbs of a server-side apply.
const APPLIED: &str = "create patch";
const FOR_GOOD: &str = "with a Database whose `deletionPolicy` is `Delete`";

/// What it may do with Leases, in its own namespace only: by one, a single controller of several works.
pub const LEASES: Rule = rule(
    "coordination.k8s.io",
    "leases",
    &["get", "create", "update"],
    &[("get create update", "which of several controllers works; in the controller's own namespace only")],
);

/// Everything that the controller may do and why, as a table in Markdown: the one in README.md.
pub fn rights_table() -> String {
    let mut table = "| resource | verbs | why |\n|---|---|---|\n".to_owned();
    for rule in RULES.iter().chain([&LEASES]) {
        for (verbs, why) in rule.why {
            table.push_str(&format!("| {} | {verbs} | {why} |\n", rule.qualified()));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_verb_has_its_reason() {
        for rule in RULES.iter().chain([&LEASES]) {
            let explained: Vec<&str> =
                rule.why.iter().flat_map(|(verbs, _)| verbs.split_whitespace()).collect();
            assert_eq!(explained, rule.verbs, "{}", rule.qualified());
            assert!(rule.why.iter().all(|(_, why)| why.len() > 10), "{}", rule.qualified());
        }
    }

    #[test]
    fn the_readme_says_why() {
        let readme = include_str!("../../README.md");
        assert!(
            readme.contains(&rights_table()),
            "README.md needs what `cargo run -- generate rights` prints"
        );
    }

    /// What the controller was seen to ask for: the table that `controller::tests::access` writes and checks.
    const NEEDS: &str = include_str!("needs.txt");
    /// What it grants to members' pods, and seldom asks for itself.
    const GRANTED: [&str; 1] = ["patch pods"];

    fn covered(rules: &[(String, &str)], need: &str) -> bool {
        rules.iter().any(|(resource, verb)| need == format!("{verb} {resource}"))
    }

    #[test]
    fn a_role_without_any_one_of_its_verbs_is_too_small() {
        let all: Vec<(String, &str)> =
            RULES.iter().flat_map(|rule| rule.verbs.iter().map(|verb| (rule.qualified(), *verb))).collect();
        let lease = |need: &&str| need.ends_with(&LEASES.qualified());
        let leases: Vec<String> =
            LEASES.verbs.iter().map(|verb| format!("{verb} {}", LEASES.qualified())).collect();
        assert_eq!(
            BTreeSet::from_iter(NEEDS.lines().filter(lease)),
            leases.iter().map(String::as_str).collect()
        );
        let needs: Vec<&str> = NEEDS.lines().filter(|need| !lease(need)).chain(GRANTED).collect();
        for need in &needs {
            assert!(covered(&all, need), "the role lacks {need}");
        }
        for index in 0..all.len() {
            let mut fewer = all.clone();
            let (resource, verb) = fewer.remove(index);
            let suffices = needs.iter().all(|need| covered(&fewer, need));
            assert!(!suffices, "nothing needs {verb} {resource}");
        }
    }

    #[test]
    fn nothing_is_wild_and_nothing_runs_in_pods() {
        for rule in RULES {
            assert!(rule.verbs.iter().all(|verb| *verb != "*" && *verb != "escalate" && *verb != "bind"));
            assert!(rule.resource != "*" && rule.group != "*" && rule.resource != "pods/exec");
            // Nothing that shows Secrets whose name is not known.
            assert!(rule.resource != "secrets" || rule.verbs == ["get", "create", "patch", "delete"]);
        }
    }
}
