//! `dbctl version`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::error::{CliError, Result};
use super::install::found::{Controller, labels};
use super::install::place;
use super::output::{self, Document};
use super::session::Session;
use super::{Context, ui};
use crate::api::{DBCTL_VERSION, VERSION, crd};
use crate::install::{ACCOUNT, Advice, Remedy, Versions, skew};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// How long a cluster may take to answer: the client's version is known without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tell the versions of dbctl here and in the cluster
///
/// That of the controller is what the one that works says of itself, that of the definition is what is written on it. Where they
/// do not go together, it says what comes of it and what to do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl version
  dbctl version --client -o json")]
pub struct VersionArgs {
    /// Only this program's; this asks no cluster
    #[arg(long)]
    client: bool,

    /// How to print them
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Document>,
}

/// A version, if it is known, and a word about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Part {
    version: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

impl Part {
    fn known(version: impl Into<String>, note: impl Into<String>) -> Self {
        Self { version: Some(version.into()), note: note.into() }
    }

    fn unknown(note: impl Into<String>) -> Self {
        Self { version: None, note: note.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Report {
    client: Part,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<Part>,
    /// What does not go together, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skew: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Where standard output cannot be written. A cluster that does not answer is no error.
pub async fn run(context: &Context, args: VersionArgs) -> Result<()> {
    let client = Part::known(VERSION, "");
    let (controller, definition) = if args.client { (None, None) } else { in_cluster(context).await };
    let version = |part: &Option<Part>| part.as_ref().and_then(|part| part.version.clone());
    let (of_controller, of_definition) = (version(&controller), version(&definition));
    let advice = skew(Versions {
        client: VERSION,
        controller: of_controller.as_deref(),
        definition: of_definition.as_deref(),
    });
    let skew = advice.iter().map(|advice| words(&context.invocation(), advice)).collect();
    let report = Report { client, controller, definition, skew };
    match args.output {
        Some(format) => context.ui.data(output::document(format, &report)?)?,
        None => context.ui.data(text(&report))?,
    }
    for problem in &report.skew {
        context.ui.warn(problem);
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let parts = [
        ("client", Some(&report.client)),
        ("controller", report.controller.as_ref()),
        ("definition", report.definition.as_ref()),
    ];
    let rows = parts.into_iter().filter_map(|(name, part)| {
        let Part { version, note } = part?;
        Some(vec![name.to_owned(), version.clone().unwrap_or_else(|| "unknown".to_owned()), note.clone()])
    });
    ui::table(&["PART", "VERSION", "NOTE"], rows)
}

fn words(command: &str, advice: &Advice) -> String {
    let remedy = match &advice.remedy {
        Remedy::Install => format!("run {command} install"),
        Remedy::InstallWith(version) => format!("run install with dbctl {version}"),
        Remedy::Client(version) => format!("use dbctl {version} here"),
    };
    format!("{}: {remedy}", advice.problem)
}

/// The controller's and the definition's.
async fn in_cluster(context: &Context) -> (Option<Part>, Option<Part>) {
    let unknown = |error: &CliError| {
        let part = Part::unknown(error.message.trim_start_matches("failed to ").to_owned());
        (Some(part.clone()), Some(part))
    };
    let (session, own) = match open(context).await {
        Ok(opened) => opened,
        Err(error) => return unknown(&error),
    };
    let controller = async {
        match own {
            Some(version) => Ok(Part::known(version, "the sandbox's own")),
            None => controller(&session, &place(context)).await,
        }
    };
    let both = async { tokio::join!(controller, definition(&session)) };
    match tokio::time::timeout(PATIENCE, both).await {
        Ok((controller, definition)) => {
            let part = |found: Result<Part, kube::Error>, what: &str| {
                found.unwrap_or_else(|error| {
                    Part::unknown(super::api_error::explain(&session, what, &error).message.replacen(
                        "failed to ",
                        "cannot ",
                        1,
                    ))
                })
            };
            (Some(part(controller, "see the controller")), Some(part(definition, "see the definition")))
        }
        Err(_) => unknown(&CliError::failed(format!(
            "no answer from the cluster within {}",
            humantime::format_duration(PATIENCE)
        ))),
    }
}

/// A session; in the sandbox with the version of its process. A sandbox that does not run is not started for this.
async fn open(context: &Context) -> Result<(Session, Option<String>)> {
    if !context.global.sandbox {
        return Ok((Session::open(context).await?, None));
    }
    let home = Home::locate().map_err(CliError::failed)?;
    match Daemon::new(home.clone()).state() {
        Ok(State::Ready(record)) => {
            Ok((Session::of_sandbox(context, home).await?, Some(record.version.clone())))
        }
        _ => Err(CliError::failed("the sandbox does not run")),
    }
}

async fn definition(session: &Session) -> Result<Part, kube::Error> {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let name = crd().name_any();
    Ok(match definitions.get_opt(&name).await? {
        None => Part::unknown(format!("{name} is not in the cluster")),
        Some(found) => match found.annotations().get(DBCTL_VERSION) {
            Some(version) => Part::known(version, name),
            None => Part::unknown(format!(
                "{name} does not say whose it is: a dbctl of before versions were noted"
            )),
        },
    })
}

async fn controller(session: &Session, namespace: &str) -> Result<Part, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(session.client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(session.client.clone(), namespace);
    let (everything, ours) = (ListParams::default(), ListParams::default().labels(&labels()));
    let (leases, deployments) = tokio::try_join!(leases.list(&everything), deployments.list(&ours))?;
    let deployment = deployments.iter().map(Controller::of).next();
    Ok(working(&leases.items, deployment.as_ref(), namespace, Timestamp::now()))
}

/// Whose Lease it is, one that works or has.
pub struct Tenancy<'a> {
    /// Who holds it, or did.
    pub holder: &'a str,
    /// That one's version.
    pub version: Option<&'a str>,
    /// Seconds since it was last heard of; clocks of two machines differ.
    pub silent: i64,
    /// For how many seconds it may be silent.
    pub lease: i64,
}

/// Reads it from a Lease of dbctl's controllers; `None` for any other, and for one that nobody held.
pub fn tenancy(lease: &Lease, now: Timestamp) -> Option<Tenancy<'_>> {
    let name = lease.metadata.name.as_deref()?;
    let ours = name.strip_prefix(ACCOUNT).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let spec = lease.spec.as_ref().filter(|_| ours)?;
    let version = lease.annotations().get(DBCTL_VERSION).map(String::as_str);
    Some(Tenancy {
        holder: spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?,
        version,
        silent: now.duration_since(spec.renew_time.as_ref()?.0).as_secs(),
        lease: spec.lease_duration_seconds.unwrap_or(0).into(),
    })
}

/// What the controller that works says of itself: it alone knows. A Deployment knows only what it asks for.
fn working(leases: &[Lease], deployment: Option<&Controller>, namespace: &str, now: Timestamp) -> Part {
    let asked = deployment.map(|controller| {
        let version = controller.version.as_deref().unwrap_or("an unknown version");
        format!("the Deployment asks for {version}, {} of {} ready", controller.ready, controller.replicas)
    });
    let held = leases.iter().filter_map(|lease| tenancy(lease, now)).min_by_key(|held| held.silent);
    let place = format!("namespace {namespace:?}");
    match (held, asked) {
        // A minute more than it may be silent is no difference of clocks any more.
        (Some(held), asked) if held.silent <= held.lease + 60 => {
            let holder = held.holder.split('_').next().unwrap_or(held.holder);
            let asked = asked.map(|asked| format!("; {asked}")).unwrap_or_default();
            let note = format!("{holder} in {place} works{asked}");
            match held.version {
                Some(version) => Part::known(version, note),
                None => Part::unknown(format!("{note}; it is of before versions were noted")),
            }
        }
        (Some(held), asked) => {
            let since = humantime::format_duration(Duration::from_secs(held.silent.unsigned_abs()));
            let asked = asked.map(|asked| format!("; {asked}")).unwrap_or_default();
            Part::unknown(format!("none works in {place}: the last was heard of {since} ago{asked}"))
        }
        (None, Some(asked)) => Part::unknown(format!("none works in {place}: {asked}")),
        (None, None) => Part::unknown(format!("none in {place}; dbctl install makes one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(name: &str, holder: &str, renewed: i64, version: Option<&str>) -> Lease {
        let annotations = version.map(|version| json!({ DBCTL_VERSION: version }));
        let renewed =
            Timestamp::from_second(renewed).unwrap().strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
        serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed },
        }))
        .unwrap()
    }

    #[test]
    fn the_controller_that_works_speaks_for_itself() {
        let deployment = Controller {
            namespace: "ops".to_owned(),
            watch: None,
            version: Some("1.3.0".to_owned()),
            replicas: 2,
            ready: 1,
        };
        let now = Timestamp::from_second(10_000).unwrap();
        let one = |lease: Lease, deployment| working(&[lease], deployment, "ops", now);
        let asks = "the Deployment asks for 1.3.0, 1 of 2 ready";
        // In the middle of a rollout the old one works.
        assert_eq!(
            one(lease(ACCOUNT, "pod-1_x", 9990, Some("1.2.0")), Some(&deployment)),
            Part::known("1.2.0", format!("pod-1 in namespace \"ops\" works; {asks}"))
        );
        // One that is run by hand.
        assert_eq!(
            one(lease(ACCOUNT, "dbctl_x", 9990, Some("1.2.0")), None),
            Part::known("1.2.0", "dbctl in namespace \"ops\" works")
        );
        let cases = [
            (lease(ACCOUNT, "pod-1_x", 9990, None), "before versions were noted"),
            (lease(ACCOUNT, "pod-1_x", 9000, Some("1.2.0")), "heard of 16m 40s ago"),
            (lease(ACCOUNT, "", 9990, Some("1.2.0")), "none works in namespace \"ops\": the Deployment"),
            (lease("dbctl-controllers", "x", 9990, Some("1.2.0")), "none works"),
        ];
        for (lease, wanted) in cases {
            let part = one(lease, Some(&deployment));
            assert!(part.version.is_none() && part.note.contains(wanted), "{part:?}");
        }
        assert!(working(&[], None, "ops", now).note.contains("dbctl install"));
        // Of a namespace's own, and of several the one heard of last.
        let several = [
            lease(ACCOUNT, "old_x", 9000, Some("1.1.0")),
            lease("dbctl-controller-shop", "new_x", 9999, Some("1.2.0")),
        ];
        assert_eq!(working(&several, None, "ops", now).version.as_deref(), Some("1.2.0"));
    }

    #[test]
    fn versions_are_listed_below_each_other() {
        let mut report = Report {
            client: Part::known("1.2.0", ""),
            controller: Some(Part::known("1.1.0", "pod-1 works")),
            definition: Some(Part::unknown("not in the cluster")),
            skew: vec![],
        };
        insta::assert_snapshot!(text(&report), @r"
        PART         VERSION   NOTE
        client       1.2.0
        controller   1.1.0     pod-1 works
        definition   unknown   not in the cluster
        ");
        (report.controller, report.definition) = (None, None);
        assert_eq!(
            output::document(Document::Json, &report).unwrap(),
            "{\n  \"client\": {\n    \"version\": \"1.2.0\"\n  }\n}\n"
        );
    }

    #[test]
    fn advice_ends_with_what_to_type() {
        let advice = |remedy| Advice { problem: "p".to_owned(), remedy };
        for (remedy, wanted) in [
            (Remedy::Install, "p: run dbctl --context x install"),
            (Remedy::InstallWith("2.0.0".to_owned()), "p: run install with dbctl 2.0.0"),
            (Remedy::Client("2.0.0".to_owned()), "p: use dbctl 2.0.0 here"),
        ] {
            assert_eq!(words("dbctl --context x", &advice(remedy)), wanted);
        }
    }
}
