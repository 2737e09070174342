//! Looks, at the edge: all at once, each with a limit of its own, and what cannot be seen is noted.

mod controllers;
mod members;
mod objects;
mod secrets;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::evidence::{Cluster, Evidence, Patient, Unread};
use crate::api::{Database, VERSION};
use crate::cli::error::{Outcome, Result};
use crate::cli::session::Session;
use crate::cli::{Context, api_error, namespace, output, retained, scale};
use crate::install::NAMESPACE;
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// How long one thing may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);
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
        controllers::cluster_wide(&session, wanted.everywhere, &mut evidence.cluster, &mut notes),
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
    if listed.is_empty() && wanted.name.is_none() && !wanted.everywhere {
        let spaces: Api<Namespace> = Api::all(session.client.clone());
        let found = read(spaces.get_metadata_opt(&session.namespace)).await;
        // Whoever may not know is told nothing.
        if matches!(found, Ok(None)) {
            return Err(namespace::missing(&session.namespace, "examine databases", &context.invocation()));
        }
    }
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
    Box::pin(objects::objects(&session, &name, &mut patient, &mut notes)).await;
    let on = objects::pods_nodes(&patient.observed);
    let secrets = secrets::Wanted::by(&patient);
    let ((), nodes, secrets) = tokio::join!(
        members::ask(&session, &mut patient, &mut notes),
        objects::nodes(&session, &on),
        secrets.look(&session),
    );
    patient.nodes = notes.take("nodes", nodes).unwrap_or_default();
    secrets.note(&mut patient, &mut notes);
    patient.observed.nodes = objects::states(&patient);
    patient.unread = notes.0;
    patient
}
