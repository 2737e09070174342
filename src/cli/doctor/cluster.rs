//! What may be wrong with dbctl's own installation, and with what all databases rely on.

use jiff::Timestamp;
use serde_json::Value;

use super::evidence::{Cluster, Controllers, Definition, LeaseState, Unread};
use super::finding::{Finding, Severity, Topic};
use crate::api::ConditionType;
use crate::install::{Remedy, Versions, skew};
use crate::plan::{list, name_of, text};

/// What nobody does while no controller works.
const WORK: [Topic; 3] = [Topic::Spec, Topic::Rollout, Topic::Condition(ConditionType::UpToDate)];

/// What is wrong with it. `requests` are those that wait, which is the controller's work.
pub fn findings(cluster: &Cluster, requests: &[Topic]) -> Vec<Finding> {
    if let Some(why) = &cluster.silent {
        let what =
            if cluster.sandbox { "the sandbox does not answer" } else { "the API server does not answer" };
        let finding = Finding::new(Severity::Critical, Topic::Server, "ApiServerSilent", what)
            .because(Some(why.as_str()));
        let next = if cluster.sandbox { "sandbox up" } else { "version" };
        return vec![finding.next(format!("{} {next}", cluster.command))];
    }
    let mut all: Vec<Finding> = definition(cluster).into_iter().collect();
    all.extend(versions(cluster));
    all.extend(controller(cluster, requests));
    all
}

fn definition(cluster: &Cluster) -> Option<Finding> {
    match cluster.definition.as_ref()? {
        Definition::Missing => Some(
            Finding::new(
                Severity::Critical,
                Topic::Definition,
                "DefinitionMissing",
                "the cluster does not know the kind Database: dbctl is not installed in it",
            )
            .next(format!("{} install --wait", cluster.command))
            .explains([Topic::Controller]),
        ),
        Definition::Going => Some(
            Finding::new(
                Severity::Critical,
                Topic::Definition,
                "DefinitionGoing",
                "the definition of Databases is being deleted, and every Database with it",
            )
            .because(Some("data, Secrets and settings are kept; Databases made again take them up"))
            .next(format!("{} list -A -o yaml", cluster.command)),
        ),
        Definition::There(_) => None,
    }
}

fn versions(cluster: &Cluster) -> Vec<Finding> {
    let definition = match &cluster.definition {
        Some(Definition::There(version)) => version.as_deref(),
        _ => None,
    };
    let lease = cluster.controllers.as_ref().and_then(|controllers| controllers.lease.as_ref());
    let controller = lease.filter(|lease| lease.alive).and_then(|lease| lease.version.as_deref());
    let versions = Versions { client: &cluster.client, controller, definition };
    let found = skew(versions).into_iter().map(|advice| {
        let next = match advice.remedy {
            Remedy::Install => format!("{} install --wait", cluster.command),
            Remedy::InstallWith(version) => {
                format!("{} install --wait   # with dbctl {version}", cluster.command)
            }
            Remedy::Client(version) => format!("{} version   # and get dbctl {version}", cluster.command),
        };
        Finding::new(Severity::Warning, Topic::Other, "VersionSkew", advice.problem).next(next)
    });
    found.collect()
}

/// Who works, or why nobody does.
fn controller(cluster: &Cluster, requests: &[Topic]) -> Option<Finding> {
    let controllers = cluster.controllers.as_ref().filter(|_| !cluster.sandbox)?;
    let place = &cluster.place;
    if controllers.lease.as_ref().is_some_and(|lease| lease.alive) {
        return standby(cluster, controllers);
    }
    let none = |code, what: String| {
        Finding::new(Severity::Problem, Topic::Controller, code, what)
            .explains(WORK.into_iter().chain(requests.iter().cloned()))
    };
    let (ready, wanted) = controllers.deployment.unwrap_or_default();
    let asked = controllers.deployment.map(|_| format!("the Deployment has {ready} of {wanted} ready"));
    let told: Vec<String> = asked.into_iter().chain(stories(&controllers.pods)).collect();
    let look = format!("kubectl -n {place} describe deployment,pods");
    let finding = match (&controllers.lease, controllers.deployment) {
        (Some(LeaseState { holder, renewed, .. }), deployment) => {
            let holder = holder.split('_').next().unwrap_or(holder);
            let what = format!("no controller works: {holder} no longer renews its Lease in {place}");
            let why = (!told.is_empty()).then(|| told.join("; "));
            let finding = none("ControllerSilent", what).because(why).since(*renewed);
            finding.next(if deployment.is_some() { look } else { install(cluster) })
        }
        (None, Some(_)) => none("ControllerDown", format!("no controller works in {place}"))
            .because(Some(told.join("; ")))
            .next(look),
        // One that was told to work without a Lease cannot be seen. What waits for it can.
        (None, None) => {
            let severity = if requests.is_empty() { Severity::Warning } else { Severity::Problem };
            let what = format!("no controller is seen in {place}: no Lease, no Deployment");
            let mut finding = none("ControllerMissing", what).next(install(cluster));
            finding.severity = severity;
            finding
        }
    };
    Some(finding.because_default(
        "Patroni goes on electing primaries; changes, upgrades, restores and deletions wait",
    ))
}

fn install(cluster: &Cluster) -> String {
    format!("{} install --wait", cluster.command)
}

/// One works, and those that should stand by do not.
fn standby(cluster: &Cluster, controllers: &Controllers) -> Option<Finding> {
    let (ready, wanted) = controllers.deployment?;
    (ready < wanted).then(|| {
        let what = format!("{ready} of {wanted} controllers are ready in {}: one works", cluster.place);
        let why = stories(&controllers.pods).join("; ");
        Finding::new(Severity::Warning, Topic::Other, "ControllerNotReady", what)
            .because(Some(why))
            .next(format!("kubectl -n {} get pods", cluster.place))
    })
}

/// What keeps pods from being ready, in the kubelet's words.
fn stories(pods: &[Value]) -> Vec<String> {
    pods.iter().filter_map(|pod| Some(format!("{}: {}", name_of(pod), story(pod)?))).collect()
}

/// Why a pod's first container that does not run does not.
pub fn story(pod: &Value) -> Option<String> {
    let unscheduled = list(pod, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if let Some(condition) = unscheduled {
        return text(condition, "/message").map(str::to_owned);
    }
    let statuses =
        list(pod, "/status/initContainerStatuses").iter().chain(list(pod, "/status/containerStatuses"));
    statuses.into_iter().find_map(|status| {
        let waiting = ["/state/waiting", "/state/terminated"].iter().find_map(|at| status.pointer(at))?;
        let reason =
            text(waiting, "/reason").filter(|reason| !["PodInitializing", "Completed"].contains(reason))?;
        let said = text(status, "/lastState/terminated/message").or_else(|| text(waiting, "/message"));
        let said = said.and_then(|said| said.lines().rfind(|line| !line.trim().is_empty()));
        Some(said.map_or_else(|| reason.to_owned(), |said| format!("{reason}: {}", said.trim())))
    })
}

/// What could not be read is said, and is no more than that.
pub fn unread(unread: &[Unread]) -> Vec<Finding> {
    let told = unread.iter().map(|Unread { what, why, forbidden }| {
        let severity = if *forbidden { Severity::Note } else { Severity::Warning };
        let code = if *forbidden { "MayNotRead" } else { "NotRead" };
        Finding::new(
            severity,
            Topic::Other,
            code,
            format!("{what} could not be read: what is wrong there is not told"),
        )
        .because(Some(why.as_str()))
    });
    told.collect()
}

/// Databases that are deleted, and whose data was kept.
pub fn retained(names: &[String], command: &str) -> Option<Finding> {
    (!names.is_empty()).then(|| {
        let what = format!("data of deleted databases is kept: {}", names.join(", "));
        let all = if names.iter().any(|name| name.contains('/')) { " -A" } else { "" };
        Finding::new(Severity::Note, Topic::Other, "DataRetained", what)
            .next(format!("{command} list --retained{all}"))
    })
}

/// Since when a condition of an object is as it is.
pub fn since(object: &Value, kind: &str) -> Option<Timestamp> {
    let condition = list(object, "/status/conditions").iter().find(|condition| condition["type"] == kind)?;
    text(condition, "/lastTransitionTime")?.parse().ok()
}
