//! The nodes that members are on.

use serde_json::Value;

use super::Look;
use crate::cli::doctor::cluster::since;
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::plan::{OUT_OF_SERVICE, list, text};

impl Look<'_> {
    /// Nodes that are gone, silent, or about to be drained.
    pub fn nodes(&self) -> Vec<Finding> {
        let members = |node: &str| {
            let on =
                self.view.members.iter().filter(|member| text(member.pod, "/spec/nodeName") == Some(node));
            on.map(|member| member.name.to_owned()).collect::<Vec<_>>()
        };
        let of = |(name, node): (&String, &Option<Value>)| {
            let members = members(name);
            let on = format!("{} {}", members.join(", "), if members.len() == 1 { "is" } else { "are" });
            let leads = members.iter().map(|member| Topic::Member(member.clone()));
            let down = |code, what: String| {
                Finding::new(Severity::Problem, Topic::Node(name.clone()), code, what).explains(leads.clone())
            };
            let Some(node) = node else {
                let what = format!("node {name} is not there any more, and {on} on it");
                return Some(down("NodeGone", what).next(self.describe("pod", &members.join(" "))));
            };
            let ready =
                list(node, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
            if let Some(ready) = ready.filter(|ready| ready["status"] != "True") {
                let finding = down("NodeNotReady", format!("node {name} is not ready, and {on} on it"));
                let finding = finding.because(text(ready, "/message")).since(since(node, "Ready"));
                let vouched = list(node, "/spec/taints").iter().any(|taint| taint["key"] == OUT_OF_SERVICE);
                let finding = finding.next(self.describe("node", name));
                return Some(match (vouched, &self.patient.kubectl) {
                    (false, Some(_)) => finding.next(format!(
                        "kubectl taint node {name} {OUT_OF_SERVICE}=nodeshutdown:NoExecute   # only if it is off for good"
                    )),
                    _ => finding,
                });
            }
            (node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) && !members.is_empty()).then(
                || {
                    let what = format!("node {name} is cordoned, and {on} on it");
                    Finding::new(Severity::Note, Topic::Node(name.clone()), "NodeCordoned", what)
                },
            )
        };
        self.patient.nodes.iter().filter_map(of).collect()
    }
}
