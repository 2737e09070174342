//! What members and their agents say of themselves.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};

use super::{Notes, read, unread};
use crate::agent::AGENT_PORT;
use crate::api::Names;
use crate::cli::ask::{self, NoAnswer};
use crate::cli::doctor::evidence::Patient;
use crate::cli::session::Session;
use crate::plan::{CONTAINER, Kind, name_of};

/// How many lines of each member's log are looked at.
const LINES: i64 = 200;

/// The members that are there.
fn members(patient: &Patient) -> Vec<String> {
    let name = patient.database.name_any();
    let names = Names(&name);
    let pods = patient.observed.all(Kind::Pod).map(name_of);
    pods.filter(|pod| names.ordinal(pod).is_some()).map(str::to_owned).collect()
}

/// What members and their agents say, and what they logged last.
pub async fn ask(session: &Session, patient: &mut Patient, notes: &mut Notes) {
    let members = members(patient);
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let params =
        LogParams { container: Some(CONTAINER.to_owned()), tail_lines: Some(LINES), ..Default::default() };
    let (pods, params) = (&pods, &params);
    let asked = join_all(members.iter().map(|member| async move {
        tokio::join!(
            ask::ask(session, member),
            ask::fetch(session, member, AGENT_PORT, "/"),
            read(pods.logs(member, params)),
        )
    }));
    let mut forbidden = false;
    for (member, (answer, report, logged)) in members.iter().zip(asked.await) {
        match answer {
            Ok(answer) => drop(patient.observed.answers.insert(member.clone(), answer)),
            // Who may not ask does not know whether anybody is silent.
            Err((NoAnswer::Forbidden, _)) => forbidden = true,
            Err((why, silence)) => {
                patient.observed.silent.insert(member.clone(), silence);
                patient.silent.insert(member.clone(), why.to_string());
            }
        }
        if let Some(report) = report.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            patient.reports.insert(member.clone(), report);
        }
        match logged {
            Ok(text) => drop(patient.logs.insert(member.clone(), text)),
            // A container that has not run has no log; that it has not is told by its pod.
            Err(error) if error.forbidden => {
                let _: Option<()> = notes.take(&format!("the log of {member}"), Err(error));
            }
            Err(_) => {}
        }
    }
    if forbidden {
        let refused = unread(NoAnswer::Forbidden, true);
        let _: Option<()> = notes.take("what members say of themselves", Err(refused));
    }
}
