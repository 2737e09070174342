//! dbctl's controller with a thousand databases of three members: the API server, its controllers and dbctl's controller are
//! processes of their own. Nothing runs the pods; what nodes, Patroni and agents would write and answer, this process does.

#[path = "scale/access.rs"]
mod access;
#[path = "scale/bulk.rs"]
mod bulk;
#[path = "scale/changes.rs"]
mod changes;
#[path = "scale/node.rs"]
mod node;
#[path = "scale/patroni.rs"]
mod patroni;
#[path = "scale/processes.rs"]
mod processes;
#[path = "scale/rest.rs"]
mod rest;
#[path = "scale/table.rs"]
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbctl::api::Database;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use self::access::Access;
use self::changes::Writes;
use self::patroni::Clusters;
use self::processes::{Plane, Process};
pub use self::processes::{SERVER, be_server};
use self::table::{Figures, Spread};
use super::api::databases;
use super::{Outcome, objects};

type Error = Box<dyn std::error::Error + Send + Sync>;
/// Namespace and name of a database.
type Key = (String, String);

/// How long nothing is written before the controller counts as at rest: longer than it waits before it looks again.
const REST: Duration = Duration::from_secs(40);
/// The minute that is measured.
const IDLE: Duration = Duration::from_secs(60);
/// Changes that are measured alone, and how far apart they are.
const SINGLE: usize = 300;
const APART: Duration = Duration::from_millis(250);
/// Changes at once, and how often.
const BURST: usize = 100;
const BURSTS: usize = 3;
/// The large Secrets, and as many ConfigMaps, beside which it is measured again: `FIGURES_LARGE`, else two thousand.
const LARGE: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(1800);

/// Measures, and prints what came out.
pub fn measure() -> Outcome<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    raise_limit();
    let own = tempfile::Builder::new().prefix("dbctl-scale-").tempdir_in("/tmp")?;
    // To make a thousand databases takes minutes: with FIGURES_HOME they are kept, to compare one controller with another.
    let kept = std::env::var_os("FIGURES_HOME").map(PathBuf::from);
    let directory = kept.as_deref().unwrap_or(own.path());
    std::fs::create_dir_all(directory)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(all(directory));
    runtime.shutdown_background();
    outcome.map_err(|error| error.to_string().into())
}

/// Each member's Patroni and agent are a listener of their own.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

async fn all(directory: &std::path::Path) -> Result<(), Error> {
    let plane = Plane::start(directory).await?;
    let client = plane.client.clone();
    let clusters = Arc::new(Clusters::new(client.clone(), objects::MEMBERS));
    let filled = directory.join(format!("filled-{}", databases()));
    if !filled.exists() {
        node::register(&client, databases() * objects::MEMBERS).await?;
    }
    let writes = Writes::default();
    let _pods = tokio::spawn(node::run(client.clone(), clusters.clone()));
    let _locks = tokio::spawn(clusters.clone().renew());
    let _watches = tokio::spawn(writes.clone().follow(client.clone()));

    let (began, controller) = (Instant::now(), plane.controller()?);
    if !filled.exists() {
        create(&client).await?;
    }
    clusters.all_made(databases()).await;
    settle(&client).await?;
    println!(
        "{} databases of {} members are well after {:.0} s",
        databases(),
        objects::MEMBERS,
        began.elapsed().as_secs_f64()
    );
    std::fs::write(filled, "")?;
    drop(controller);
    let case = Case { plane: &plane, clusters: &clusters, writes: &writes };
    let value = unused_value()?;
    let plain = case.measure(value).await?;
    println!("{plain}");
    let large = large();
    let began = Instant::now();
    bulk::make(&client, large).await?;
    println!(
        "made {large} Secrets and {large} ConfigMaps of 64 to 256 KiB in {:.0} s: the API server has {:.0} MB",
        began.elapsed().as_secs_f64(),
        plane.server.memory("VmRSS")?
    );
    let beside = case.measure(value + 1 + BURSTS).await?;
    println!("{beside}");
    bulk::remove(&client, large).await?;
    println!("{}", Figures::table(&[("alone", &plain), ("beside large objects", &beside)]));
    Ok(())
}

/// Minutes since 1970: databases that were kept from an earlier run have other values, and a change to what is there already
/// causes no write that could be waited for.
fn unused_value() -> Result<usize, Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(usize::try_from(now.as_secs() / 60)?)
}

fn large() -> usize {
    std::env::var("FIGURES_LARGE").ok().and_then(|text| text.parse().ok()).unwrap_or(LARGE)
}

async fn create(client: &Client) -> Result<(), Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for number in 0..20 {
        let body = json!({ "metadata": { "name": objects::namespace(number) } });
        namespaces.create(&PostParams::default(), &serde_json::from_value(body)?).await?;
    }
    let made = stream::iter(0..databases()).map(|number| async move {
        let (namespace, name) = (objects::namespace(number), objects::name(number));
        let spec = json!({ "replicas": objects::MEMBERS, "version": "18.6", "storage": { "size": "1Gi" } });
        let body = json!({ "metadata": { "name": name }, "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "spec": spec });
        let databases: Api<Database> = Api::namespaced(client.clone(), &namespace);
        databases.create(&PostParams::default(), &serde_json::from_value(body)?).await?;
        Ok::<_, Error>(())
    });
    made.buffer_unordered(8).try_collect::<()>().await
}

/// Waits until every database is well and known to be.
async fn settle(client: &Client) -> Result<(), Error> {
    let (all, deadline) = (Api::<Database>::all(client.clone()), Instant::now() + PATIENCE);
    let mut told = Instant::now();
    loop {
        let found = all.list(&ListParams::default()).await?.items;
        let waiting: Vec<&Database> = found.iter().filter(|database| !is_well(database)).collect();
        if waiting.is_empty() && found.len() == databases() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let status = waiting.first().and_then(|database| database.status.as_ref());
            return Err(format!("{} databases never become well: {status:?}", waiting.len()).into());
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("{} of {} databases are well", found.len() - waiting.len(), databases());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn is_well(database: &Database) -> bool {
    database.status.as_ref().is_some_and(|status| {
        let met =
            |kind: &str| status.conditions.iter().any(|each| each.type_ == kind && each.status == "True");
        status.observed_generation == database.metadata.generation && met("Ready") && met("UpToDate")
    })
}

/// What is measured, with whatever else is in the cluster.
struct Case<'a> {
    plane: &'a Plane,
    clusters: &'a Clusters,
    writes: &'a Writes,
}

impl Case<'_> {
    /// Starts the controller anew and measures; `value` is the first that settings are changed to.
    async fn measure(&self, value: usize) -> Result<Figures, Error> {
        let client = &self.plane.client;
        let before = Access::so_far(client).await?;
        self.clusters.begin();
        let began = Instant::now();
        let controller = self.plane.controller()?;
        let start = self.reconciled(began).await?;
        let calls = Access::so_far(client).await?.since(&before);
        let peak = controller.memory("VmHWM")?;
        self.rest().await?;
        let (idle, processor) = self.idle(&controller).await?;
        let (resident, anonymous) = (controller.memory("VmRSS")?, controller.memory("RssAnon")?);
        let before = Access::so_far(client).await?;
        let count = SINGLE.min(databases());
        let single = changes::change(client, self.writes, (0..count).collect(), Some(APART), value).await?;
        let caused = Access::so_far(client).await?.since(&before);
        let mut burst = Vec::new();
        for round in 0..BURSTS {
            let numbers: Vec<usize> = (0..databases()).rev().take(BURST).collect();
            burst.extend(changes::change(client, self.writes, numbers, None, value + 1 + round).await?);
        }
        Ok(Figures {
            start,
            calls,
            peak,
            idle,
            processor,
            resident,
            anonymous,
            caused: caused.writes() as f64 / count as f64,
            written: caused,
            single: Spread::of(single),
            burst: Spread::of(burst),
            after: controller.memory("VmRSS")?,
        })
    }

    /// How long it takes until the members of every database have been asked, which a pass does once it has read all else.
    async fn reconciled(&self, began: Instant) -> Result<Duration, Error> {
        loop {
            match self.clusters.seen() {
                (seen, Some(last)) if seen == databases() => return Ok(last.duration_since(began)),
                (seen, _) if began.elapsed() > PATIENCE => {
                    return Err(format!("only {seen} databases were looked at").into());
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits until the controller writes nothing any more but its Lease.
    async fn rest(&self) -> Result<(), Error> {
        let (client, deadline) = (&self.plane.client, Instant::now() + PATIENCE);
        let mut last = Access::so_far(client).await?;
        let mut since = Instant::now();
        while since.elapsed() < REST {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Access::so_far(client).await?;
            let more = now.since(&last);
            if more.writes() > 0 {
                (since, last) = (Instant::now(), now);
            }
            if Instant::now() > deadline {
                return Err(format!("the controller never rests: {more}").into());
            }
        }
        Ok(())
    }

    async fn idle(&self, controller: &Process) -> Result<(Access, Duration), Error> {
        let (before, used) = (Access::so_far(&self.plane.client).await?, controller.processor()?);
        tokio::time::sleep(IDLE).await;
        let after = Access::so_far(&self.plane.client).await?;
        Ok((after.since(&before), controller.processor()? - used))
    }
}
