//! Reads what a plan needs to know.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::cache::{Key, Seen};
use super::reconcile::Shared;
use super::resource::{namespaced, plain};
use super::retry;
use super::silence::Silence;
use crate::agent::{AGENT_PORT, AgentReport};
use crate::api::{Database, DeletionPolicy, Names};
use crate::certified;
use crate::patroni;
use crate::plan::{
    Kind, LockAge, Member, Observed, Room, SourceDatabase, View, certificate_secrets, classes_to_grow,
    is_down, name_of, needed_by,
};

/// A member on the same network answers in milliseconds; one that takes longer is as good as gone for this pass.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same where less hangs on the answer: what keeps everybody waiting is most often the old primary.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);
/// Reads by name at a time.
const LOOKUPS: usize = 8;

/// What there is of that Database.
///
/// # Errors
/// Where the API server does not answer a read by name.
pub async fn observe(with: &Shared, key: &Key, database: &Database) -> Result<Observed, kube::Error> {
    let (name, known) = (&key.1, &with.known);
    let mut observed = Observed::default();
    for Seen { kind, object, changed } in with.cache.of(key).map_err(kube::Error::SerdeError)? {
        if kind == Kind::ConfigMap && name_of(&object) == Names(name).leader() {
            observed.lock_age = LockAge::after(Instant::now().duration_since(changed));
        }
        observed.insert(kind, object);
    }
    if database.metadata.deletion_timestamp.is_some() {
        // The last look decides whether anything is left to remove.
        known.forget(key);
    }
    for (secret, held) in known.of(key, Instant::now()).map_err(kube::Error::SerdeError)? {
        observed.certificates.extend(held.map(|held| (name_of(&secret).to_owned(), held)));
        observed.insert(Kind::Secret, secret);
    }
    look_up_certificates(with, key, database, &mut observed).await?;
    look_up_missing(with, key, database, &mut observed).await?;
    let on: Vec<String> = observed
        .all(Kind::Pod)
        .filter_map(|pod| pod.pointer("/spec/nodeName")?.as_str().map(str::to_owned))
        .collect();
    observed.nodes = with.nodes.of(&on);
    observed.source = source(with, key, database, &observed).await?;
    observed.expansion = expansion(with, database, &observed).await;
    let takes_data = database.metadata.deletion_timestamp.is_some()
        && database.spec.deletion_policy == DeletionPolicy::Delete;
    observed.definition_going = takes_data && definition_going(with).await;
    observed.lock_pod = with.cache.lock_pod(key);
    observed.asked = with.asks.of(key, Instant::now());
    ask_members(&with.patroni, &with.silence, key, &mut observed).await;
    Ok(observed)
}

/// Whether it is not this Database that somebody deletes, but all of them at once, by their definition. A controller that may
/// not read definitions does what the deletion policy says.
async fn definition_going(with: &Shared) -> bool {
    let definitions: kube::Api<CustomResourceDefinition> = kube::Api::all(with.client.clone());
    let name = Database::crd_name();
    let found = retry::read(|| definitions.get_metadata_opt(name)).await;
    found.ok().flatten().is_some_and(|found| found.metadata.deletion_timestamp.is_some())
}

/// Whether volumes may grow, where they are to. Storage classes belong to the whole cluster: a controller that may not read
/// them tries.
async fn expansion(with: &Shared, database: &Database, observed: &Observed) -> BTreeMap<String, bool> {
    let classes: kube::Api<StorageClass> = kube::Api::all(with.client.clone());
    let mut found = BTreeMap::new();
    for name in classes_to_grow(database, observed) {
        match retry::read(|| classes.get_opt(&name)).await {
            Ok(Some(class)) => drop(found.insert(name, class.allow_volume_expansion == Some(true))),
            Ok(None) => {}
            Err(error) => tracing::debug!(class = %name, %error, "a storage class cannot be read"),
        }
    }
    found
}

/// The Database that this one is restored from, until it is.
async fn source(
    with: &Shared,
    key: &Key,
    database: &Database,
    observed: &Observed,
) -> Result<Option<SourceDatabase>, kube::Error> {
    let named = database.spec.restore_from.as_ref().and_then(|from| from.database.as_ref());
    let Some(name) = named.filter(|_| !View::new(&key.1, observed).initialized()) else { return Ok(None) };
    let api: kube::Api<Database> = kube::Api::namespaced(with.client.clone(), &key.0);
    let found = retry::read(|| api.get_opt(name)).await?;
    Ok(Some(SourceDatabase::of(found.as_ref())))
}

/// What the Secrets with certificates hold, without their keys.
async fn look_up_certificates(
    with: &Shared,
    key: &Key,
    database: &Database,
    observed: &mut Observed,
) -> Result<(), kube::Error> {
    let secrets: kube::Api<Secret> = kube::Api::namespaced(with.client.clone(), &key.0);
    for name in certificate_secrets(database, observed) {
        if observed.certificates.contains_key(&name) {
            continue;
        }
        let Some(mut secret) = retry::read(|| secrets.get_opt(&name)).await? else { continue };
        let held = certified::held(&secret.data.take().unwrap_or_default());
        secret.metadata.managed_fields = None;
        let object = serde_json::to_value(&secret).unwrap_or_default();
        with.known.found(key, &object, Some(held.clone()), Instant::now());
        observed.insert(Kind::Secret, object);
        observed.certificates.insert(name, held);
    }
    Ok(())
}

/// Objects of a needed name that no label showed: somebody else's, or our own that the watch has yet to tell of. Once
/// everything is there this reads nothing but, now and then, whether the Secrets still are.
async fn look_up_missing(
    with: &Shared,
    key: &Key,
    database: &Database,
    observed: &mut Observed,
) -> Result<(), kube::Error> {
    let missing: Vec<(Kind, String)> = needed_by(database, observed)
        .into_iter()
        .filter(|(kind, name)| observed.get(*kind, name).is_none())
        .collect();
    let lookups = missing.into_iter().map(|(kind, name)| async move {
        let api = namespaced(&with.client, &key.0, kind);
        // A Secret's content is not needed here.
        let found = if kind == Kind::Secret {
            retry::read(|| api.get_metadata_opt(&name))
                .await?
                .and_then(|object| serde_json::to_value(object).ok())
        } else {
            retry::read(|| api.get_opt(&name)).await?.map(plain)
        };
        Ok::<_, kube::Error>(found.map(|object| (kind, object)))
    });
    let found: Vec<_> = stream::iter(lookups).buffer_unordered(LOOKUPS).try_collect().await?;
    for (kind, object) in found.into_iter().flatten() {
        if kind == Kind::Secret {
            with.known.found(key, &object, None, Instant::now());
        }
        observed.insert(kind, object);
    }
    Ok(())
}

/// Asks every member what it is. No answer is an observation too.
async fn ask_members(patroni: &patroni::Client, silence: &Silence, key: &Key, observed: &mut Observed) {
    let whom = reachable(&key.1, observed);
    let (answers, reports) = tokio::join!(ask_each(patroni, whom.clone()), ask_agents(patroni, &whom));
    for (name, report) in reports {
        let room = report.disk.map(|disk| Room { size: disk.size, free: disk.free });
        observed.rooms.extend(room.map(|room| (name.clone(), room)));
        observed.kept.extend(report.kept.map(|kept| (name.clone(), kept)));
        observed.recovered.extend(report.recovered.map(|how| (name.clone(), how)));
        observed.majors.extend(report.major.map(|major| (name.clone(), major)));
        observed.archives.extend(report.archive.map(|archive| (name.clone(), archive)));
        observed.rotations.insert(name, report.rotations);
    }
    for (name, answer) in answers {
        match answer {
            Some(answer) => drop(observed.answers.insert(name, answer)),
            None => drop(observed.silent.insert(name, Duration::ZERO)),
        }
    }
    let claims = |name: &str| observed.answers.get(name).is_some_and(patroni::Answer::is_running_primary);
    let twice: Vec<Whom> = whom.into_iter().filter(|whom| claims(&whom.name)).collect();
    if twice.len() > 1 {
        // One answer may be from before the other member took over. Asked again, it no longer says so.
        for (name, answer) in ask_each(patroni, twice).await {
            match answer {
                Some(answer) => drop(observed.answers.insert(name, answer)),
                None => drop(observed.answers.remove(&name)),
            }
        }
    }
    silence.note(key, observed, Instant::now());
}

/// A member that can be asked.
#[derive(Clone)]
struct Whom {
    name: String,
    address: IpAddr,
    /// How long its answer is waited for.
    within: Duration,
}

fn reachable(name: &str, observed: &Observed) -> Vec<Whom> {
    let view = View::new(name, observed);
    let reach = |member: &Member<'_>| {
        let holds = view.lock.holder.as_deref() == Some(member.name);
        Some(Whom {
            name: member.name.to_owned(),
            address: member.address()?.parse().ok()?,
            within: if holds { HOLDER_TIMEOUT } else { MEMBER_TIMEOUT },
        })
    };
    view.members.iter().filter(|member| !is_down(member.pod)).filter_map(reach).collect()
}

async fn ask_each(patroni: &patroni::Client, whom: Vec<Whom>) -> Vec<(String, Option<patroni::Answer>)> {
    let answers = whom.into_iter().map(|Whom { name, address, within }| async move {
        let answer = patroni.ask(address, within).await;
        if let Err(error) = &answer {
            tracing::debug!(member = %name, %error, "a member did not answer");
        }
        (name, answer.ok())
    });
    futures::future::join_all(answers).await
}

/// Asks every member's agent what Patroni does not know.
async fn ask_agents(patroni: &patroni::Client, whom: &[Whom]) -> Vec<(String, AgentReport)> {
    let reports = whom.iter().map(|Whom { name, address, .. }| async move {
        let url = format!("http://{}/", SocketAddr::new(*address, AGENT_PORT));
        let report: AgentReport = patroni.fetch(&url, MEMBER_TIMEOUT).await.ok()?;
        Some((name.clone(), report))
    });
    futures::future::join_all(reports).await.into_iter().flatten().collect()
}
