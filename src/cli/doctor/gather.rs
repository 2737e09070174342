//! Looks, at the edge: all at once, each with a limit of its own, and what cannot be seen is noted.

mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};

use super::evidence::{Cluster, Controllers, Definition, Evidence, LeaseState, Patient, Unread};
use crate::agent::AGENT_PORT;
use crate::api::{DBCTL_VERSION, Database, LABEL_DATABASE, Names, VERSION, crd};
use crate::cli::ask::{self, NoAnswer};
use crate::cli::error::{Outcome, Result};
use crate::cli::install::found;
use crate::cli::session::Session;
use crate::cli::{Context, api_error, events, output, retained, scale, version};
use crate::install::{ACCOUNT, NAMESPACE};
use crate::patroni::Lock;
use crate::plan::{CONTAINER, Kind, NodeState, Observed};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// How long one thing may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// After that long, a Lease that is renewed has been.
const RENEWED: Duration = Duration::from_secs(4);
/// How many lines of each member's log are looked at.
const LINES: i64 = 200;
/// How many databases are looked at side by side.
const AT_ONCE: usize = 8;

/// What is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The one database; all without it.
    pub name: Option<&'a str>,
    /// In all namespaces.
    pub everywhere: bool,
}

/// What was not read, so far.
#[derive(Default)]
struct Notes(Vec<Unread>);

impl Notes {
    /// Takes what was read; notes why it was not.
    fn take<T>(&mut self, what: &str, read: Result<T, Unread>) -> Option<T> {
        read.map_err(|unread| self.0.push(Unread { what: what.to_owned(), ..unread })).ok()
    }
}

fn unread(why: impl Display, forbidden: bool) -> Unread {
    Unread { what: String::new(), why: why.to_string(), forbidden }
}

/// Reads one thing, for as long as that may take.
async fn read<T>(reading: impl Future<Output = kube::Result<T>>) -> Result<T, Unread> {
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(kube::Error::Api(status))) => Err(unread(&status.message, matches!(status.code, 401 | 403))),
        Ok(Err(error)) => Err(unread(error, false)),
        Err(_) => Err(unread(format_args!("no answer within {} s", PATIENCE.as_secs()), false)),
    }
}

/// Looks at everything.
///
/// # Errors
/// Where there is no such database, or no cluster is named to look at.
pub async fn gather(context: &Context, wanted: Wanted<'_>) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    let cluster = &mut evidence.cluster;
    cluster.command = context.invocation();
    cluster.client = VERSION.to_owned();
    cluster.sandbox = context.global.sandbox;
    cluster.place = NAMESPACE.to_owned();
    // To look must not start what is down: that it is down is what is to be told.
    if context.global.sandbox
        && !matches!(Home::locate().map(Daemon::new).map(|daemon| daemon.state()), Ok(Ok(State::Ready(_))))
    {
        cluster.silent = Some("it is not running, and neither is any database in it".to_owned());
        return Ok(evidence);
    }
    let session = Session::open(context).await?;
    let mut notes = Notes::default();
    let looked = databases(context, &session, wanted, &mut evidence.cluster, &mut notes);
    let databases = Box::pin(looked).await?;
    if evidence.cluster.silent.is_some() {
        return Ok(evidence);
    }
    let patients =
        futures::stream::iter(databases.into_iter().map(|one| patient(context, &session, one, wanted)));
    let patients = patients.buffered(AT_ONCE).collect::<Vec<_>>();
    let (patients, (), kept) = tokio::join!(
        patients,
        cluster_wide(&session, wanted.everywhere, &mut evidence.cluster, &mut notes),
        read(retained::find(&session, wanted.everywhere)),
    );
    evidence.databases = patients;
    if let Some(kept) = notes.take("what deleted databases left", kept) {
        let name = |left: &retained::Retained| match wanted.everywhere {
            true => format!("{}/{}", left.namespace, left.name),
            false => left.name.clone(),
        };
        let asked = |left: &&retained::Retained| wanted.name.is_none_or(|wanted| wanted == left.name);
        evidence.retained = kept.iter().filter(asked).map(name).collect();
    }
    evidence.unread = notes.0;
    Ok(evidence)
}

/// The databases that are meant. Also tells whether there is anybody to ask.
async fn databases(
    context: &Context,
    session: &Session,
    wanted: Wanted<'_>,
    cluster: &mut Cluster,
    notes: &mut Notes,
) -> Result<Vec<Database>> {
    let namespaced: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let api = if wanted.everywhere { Api::all(session.client.clone()) } else { namespaced.clone() };
    let mut listed = match tokio::time::timeout(PATIENCE, api.list(&ListParams::default())).await {
        Ok(Ok(list)) => list.items,
        // An API server that answers, if only to refuse.
        Ok(Err(kube::Error::Api(status))) => {
            // Whoever may not list may still look at one.
            if let (Some(name), 403) = (wanted.name, status.code) {
                return Ok(vec![scale::get(context, session, &namespaced, name, "examine it").await?]);
            }
            let there = status.code != 404;
            if there {
                let refused = unread(&status.message, false);
                let _: Option<()> = notes.take("databases", Err(refused));
            }
            return Ok(Vec::new());
        }
        Ok(Err(error)) => {
            cluster.silent = Some(api_error::root_cause(&error));
            return Ok(Vec::new());
        }
        Err(_) => {
            cluster.silent = Some(format!("no answer within {} s", PATIENCE.as_secs()));
            return Ok(Vec::new());
        }
    };
    if let Some(name) = wanted.name {
        listed.retain(|database| database.name_any() == name);
        if listed.is_empty() {
            let doing = format!("examine database {name:?}");
            return match scale::get(context, session, &namespaced, name, &doing).await {
                Ok(database) => Ok(vec![database]),
                Err(error) if error.outcome == Outcome::NotFound => Err(error
                    .hint(format!("{} list --retained shows what deleted ones left", context.invocation()))),
                Err(error) => Err(error),
            };
        }
    }
    Ok(listed)
}

/// The definition, and who works.
async fn cluster_wide(session: &Session, everywhere: bool, cluster: &mut Cluster, notes: &mut Notes) {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let name = crd().name_any();
    let (definition, controllers) =
        tokio::join!(read(definitions.get_opt(&name)), controllers(session, everywhere));
    cluster.definition = notes.take("the definition of Databases", definition).map(|found| match found {
        None => Definition::Missing,
        Some(found) if found.metadata.deletion_timestamp.is_some() => Definition::Going,
        Some(found) => Definition::There(found.annotations().get(DBCTL_VERSION).cloned()),
    });
    if !cluster.sandbox {
        let what = format!("the controller in namespace {NAMESPACE}");
        let found = notes.take(&what, controllers);
        cluster.controllers = found.map(|(place, found)| {
            cluster.place = place;
            found
        });
    }
}

/// Who works for the databases that are looked at, and where: in dbctl's own namespace, or beside them.
async fn controllers(session: &Session, everywhere: bool) -> Result<(String, Controllers), Unread> {
    let mut places = vec![NAMESPACE.to_owned(), session.namespace.clone()];
    places.dedup();
    let own = format!("{ACCOUNT}-{}", session.namespace);
    let works = |lease: &Lease| {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        everywhere || name == ACCOUNT || name == own
    };
    let found = join_all(places.iter().map(|place| controllers_in(session, place, &works))).await;
    let mut unread = None;
    let mut all = Vec::new();
    for (place, found) in places.into_iter().zip(found) {
        match found {
            Ok(found) => all.push((place, found)),
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    let rank = |(_, found): &(String, Controllers)| match &found.lease {
        Some(lease) if lease.alive => 0,
        _ if found.deployment.is_some() => 1,
        Some(_) => 2,
        None => 3,
    };
    all.sort_by_key(rank);
    match (all.into_iter().next(), unread) {
        // Where one place cannot be seen, nobody knows that nobody works.
        (Some(found), unread) if rank(&found) == 0 || unread.is_none() => Ok(found),
        (_, Some(unread)) => Err(unread),
        (found, None) => Ok(found.unwrap_or_else(|| (NAMESPACE.to_owned(), Controllers::default()))),
    }
}

async fn controllers_in(
    session: &Session,
    place: &str,
    works: &impl Fn(&Lease) -> bool,
) -> Result<Controllers, Unread> {
    let client = || session.client.clone();
    let leases: Api<Lease> = Api::namespaced(client(), place);
    let deployments: Api<Deployment> = Api::namespaced(client(), place);
    let pods: Api<Pod> = Api::namespaced(client(), place);
    let ours = ListParams::default().labels(&found::labels());
    let everything = ListParams::default();
    let (all, deployments, pods) =
        tokio::join!(read(leases.list(&everything)), read(deployments.list(&ours)), read(pods.list(&ours)));
    let (all, deployments) = (all?, deployments?);
    let mut lease = newest(&all.items, works);
    // Clocks of two machines differ: one that is renewed while somebody looks is alive, whatever the time.
    if let Some(quiet) = lease.clone().filter(|lease| !lease.alive) {
        tokio::time::sleep(RENEWED).await;
        let again = newest(&read(leases.list(&everything)).await?.items, works);
        lease =
            again.map(|again| LeaseState { alive: again.alive || again.renewed != quiet.renewed, ..again });
    }
    let deployment = deployments.iter().map(found::Controller::of).next();
    Ok(Controllers {
        lease,
        deployment: deployment.map(|deployment| (deployment.ready, deployment.replicas)),
        pods: pods.into_iter().flatten().filter_map(|pod| serde_json::to_value(pod).ok()).collect(),
    })
}

/// The Lease that was renewed last.
fn newest(leases: &[Lease], works: &impl Fn(&Lease) -> bool) -> Option<LeaseState> {
    let now = Timestamp::now();
    let held = leases
        .iter()
        .filter(|lease| works(lease))
        .filter_map(|lease| Some((lease, version::tenancy(lease, now)?)));
    held.min_by_key(|(_, held)| held.silent).map(|(lease, held)| LeaseState {
        holder: held.holder.to_owned(),
        version: held.version.map(str::to_owned),
        renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
        alive: held.silent <= held.lease,
    })
}

/// One database, with all that there is of it.
async fn patient(context: &Context, session: &Session, database: Database, wanted: Wanted<'_>) -> Patient {
    let name = database.name_any();
    let mut session = session.clone();
    let mut patient = Patient::of(database);
    patient.command = context.invocation();
    if let Some(namespace) = patient.database.namespace() {
        if wanted.everywhere && namespace != session.namespace {
            patient.command.push_str(&format!(" -n {}", output::shell_word(&namespace)));
        }
        session.namespace = namespace;
    }
    let kubectl = || format!("kubectl -n {}", output::shell_word(&session.namespace));
    patient.kubectl = session.place.sandbox().is_none().then(kubectl);
    let mut notes = Notes::default();
    Box::pin(objects(&session, &name, &mut patient, &mut notes)).await;
    let on = pods_nodes(&patient.observed);
    let secrets = secrets::Wanted::by(&patient);
    let ((), nodes, secrets) = tokio::join!(
        ask_members(&session, &mut patient, &mut notes),
        nodes(&session, &on),
        secrets.look(&session),
    );
    patient.nodes = notes.take("nodes", nodes).unwrap_or_default();
    secrets.note(&mut patient, &mut notes);
    patient.observed.nodes = states(&patient);
    patient.unread = notes.0;
    patient
}

/// The objects that belong to it.
async fn objects(session: &Session, name: &str, patient: &mut Patient, notes: &mut Notes) {
    let (client, namespace) = (&session.client, &session.namespace);
    let labelled = ListParams::default().labels(&format!("{LABEL_DATABASE}={name}"));
    let everything = ListParams::default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let all_events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let set = Names(name).main();
    let (pods, maps, slices, claims, jobs, set, all_events) = tokio::join!(
        read(pods.list(&labelled)),
        read(maps.list(&labelled)),
        read(slices.list(&labelled)),
        read(claims.list(&labelled)),
        read(jobs.list(&labelled)),
        read(sets.get_opt(&set)),
        read(all_events.list(&everything)),
    );
    let observed = &mut patient.observed;
    let pods = notes.take("pods", pods);
    pods.iter().flatten().for_each(|pod| ask::insert(observed, Kind::Pod, pod));
    let maps = notes.take("ConfigMaps", maps);
    maps.iter().flatten().for_each(|map| ask::insert(observed, Kind::ConfigMap, map));
    let slices = notes.take("EndpointSlices", slices);
    slices.iter().flatten().for_each(|slice| ask::insert(observed, Kind::EndpointSlice, slice));
    let claims = notes.take("claims", claims);
    claims.iter().flatten().for_each(|claim| ask::insert(observed, Kind::PersistentVolumeClaim, claim));
    let jobs = notes.take("Jobs", jobs);
    jobs.iter().flatten().for_each(|job| ask::insert(observed, Kind::Job, job));
    let set = notes.take("the StatefulSet", set).flatten();
    set.iter().for_each(|set| ask::insert(observed, Kind::StatefulSet, set));
    let lock = observed.get(Kind::ConfigMap, &Names(name).leader()).map(Lock::of).unwrap_or_default();
    observed.lock_age = ask::lock_age(&lock, Timestamp::now());
    let told = notes.take("events", all_events);
    patient.events = told.into_iter().flatten().filter(|event| events::concerns(name, event)).collect();
}

/// The members that are there.
fn members(patient: &Patient) -> Vec<String> {
    let name = patient.database.name_any();
    let names = Names(&name);
    let pods = patient.observed.all(Kind::Pod).map(crate::plan::name_of);
    pods.filter(|pod| names.ordinal(pod).is_some()).map(str::to_owned).collect()
}

/// What members and their agents say, and what they logged last.
async fn ask_members(session: &Session, patient: &mut Patient, notes: &mut Notes) {
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

fn pods_nodes(observed: &Observed) -> BTreeSet<String> {
    let nodes = observed.all(Kind::Pod).filter_map(|pod| crate::plan::text(pod, "/spec/nodeName"));
    nodes.map(str::to_owned).collect()
}

/// The nodes, and which of them are gone.
async fn nodes(
    session: &Session,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, Option<serde_json::Value>>, Unread> {
    let api: Api<Node> = Api::all(session.client.clone());
    let found = join_all(names.iter().map(|name| read(api.get_opt(name)))).await;
    let mut all = BTreeMap::new();
    for (name, node) in names.iter().zip(found) {
        all.insert(name.clone(), node?.and_then(|node| serde_json::to_value(node).ok()));
    }
    Ok(all)
}

fn states(patient: &Patient) -> BTreeMap<String, NodeState> {
    let read = |node: &serde_json::Value| serde_json::from_value::<Node>(node.clone()).ok();
    let known = patient.nodes.iter().filter_map(|(name, node)| Some((name.clone(), read(node.as_ref()?)?)));
    known.map(|(name, node)| (name, NodeState::from(&node))).collect()
}
