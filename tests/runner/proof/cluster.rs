//! One replicated PostgreSQL under test, dbctl's or Patroni's alone: where it is, and what can be seen of it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dbctl::api::{Database, Names};
use dbctl::patroni::{APP_NAME, REST_USER};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::clients::{self, Notes, PORT, WRITERS};
use super::session::{Login, Session, trusting};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a member that is gone from the API is still asked: its processes may live on.
const AFTERLIFE: Duration = Duration::from_secs(60);
/// The namespace of everything.
pub const NAMESPACE: &str = "default";

/// Who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The sandbox with that home.
    Dbctl {
        home: PathBuf,
    },
    PatroniAlone,
}

/// A member's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub address: Option<IpAddr>,
    pub ready: bool,
    pub ending: bool,
    /// How often its container was started anew. Kubernetes waits longer each time, up to minutes.
    pub restarts: i32,
}

/// What was seen at one look.
#[derive(Clone, Debug)]
pub struct Sight {
    pub at: Duration,
    pub members: Vec<Member>,
    /// The holder of the leader lock.
    pub leader: Option<String>,
    /// Who confirms commits.
    pub standbys: Vec<String>,
    /// What dbctl says is wrong, if anything.
    pub complaint: Option<String>,
}

/// One of them.
pub struct Cluster {
    pub name: String,
    pub keeper: Keeper,
    pub count: usize,
    pub synchronous: bool,
    pub client: Client,
    pub service: SocketAddr,
    pub login: Login,
    pub rest: (String, String),
    pub selector: String,
    pub notes: Arc<Notes>,
    sight: Mutex<Option<Sight>>,
}

impl Cluster {
    /// A Database that is there.
    pub async fn of_dbctl(
        client: Client,
        home: PathBuf,
        name: &str,
        count: usize,
        synchronous: bool,
        start: Instant,
    ) -> Self {
        let names = Names(name);
        let secret = async |secret: String, key: &str| {
            let found = Api::<Secret>::default_namespaced(client.clone()).get(&secret).await.unwrap();
            String::from_utf8(found.data.unwrap()[key].0.clone()).unwrap()
        };
        let password = secret(names.app_secret(), "password").await;
        let tls = Some(trusting(client.clone(), name).await);
        let login = Login { user: APP_NAME.to_owned(), password, database: APP_NAME.to_owned(), tls };
        let rest = (REST_USER.to_owned(), secret(names.internal_secret(), "rest-password").await);
        let labels: Vec<String> =
            names.selector().iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self {
            name: name.to_owned(),
            keeper: Keeper::Dbctl { home },
            count,
            synchronous,
            service: service(&client, name).await,
            client,
            login,
            rest,
            selector: labels.join(","),
            notes: Arc::new(Notes::new(start)),
            sight: Mutex::default(),
        }
    }

    /// The parts of one that Patroni runs alone.
    pub async fn of_patroni(client: Client, name: &str, count: usize, start: Instant) -> Self {
        let login = Login {
            user: "postgres".into(),
            password: super::alone::PASSWORD.into(),
            database: "postgres".into(),
            tls: None,
        };
        Self {
            name: name.to_owned(),
            keeper: Keeper::PatroniAlone,
            count,
            synchronous: true,
            service: service(&client, name).await,
            client,
            login,
            rest: ("patroni".to_owned(), super::alone::PASSWORD.to_owned()),
            selector: super::alone::selector(name),
            notes: Arc::new(Notes::new(start)),
            sight: Mutex::default(),
        }
    }

    /// Makes the tables, and starts everybody who looks or writes. They end with the notes' `stopped`.
    pub async fn begin(self: &Arc<Self>) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let table = "(writer int, n bigint, member inet default inet_server_addr(), \
                     at timestamptz default clock_timestamp(), primary key (writer, n))";
        let tables = format!(
            "create table if not exists written {table}; create table if not exists probed (writer int, n bigint)"
        );
        loop {
            let made = match Session::open(self.service, &self.login).await {
                Ok(session) => session.query(&tables, Duration::from_secs(10)).await.map(drop),
                Err(error) => Err(error),
            };
            match made {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => panic!("{}: no tables: {error}", self.name),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        tokio::spawn(Arc::clone(self).watch());
        // Whose address is whose is known before anybody writes.
        while self.sight().is_none() {
            tokio::time::sleep(LOOK).await;
        }
        for writer in 1..=WRITERS {
            tokio::spawn(clients::write(Arc::clone(&self.notes), self.service, self.login.clone(), writer));
        }
    }

    /// What was seen last, and how long ago is in it.
    pub fn sight(&self) -> Option<Sight> {
        self.sight.lock().unwrap().clone()
    }

    /// Looks again and again; starts a probe for each address of a member.
    async fn watch(self: Arc<Self>) {
        let mut probes = HashMap::<IpAddr, (Arc<AtomicBool>, Instant)>::new();
        while !self.notes.stopped.load(Ordering::Relaxed) {
            if let Ok(Ok(sight)) = tokio::time::timeout(LOOK_TIMEOUT, self.look()).await {
                for member in &sight.members {
                    let Some(address) = member.address else { continue };
                    self.notes.names.lock().unwrap().insert(address, member.name.clone());
                    let begin = || {
                        let gone = Arc::new(AtomicBool::new(false));
                        let login = self.login.clone();
                        tokio::spawn(clients::probe(
                            Arc::clone(&self.notes),
                            address,
                            login,
                            Arc::clone(&gone),
                        ));
                        (gone, Instant::now())
                    };
                    probes.entry(address).or_insert_with(begin).1 = Instant::now();
                }
                probes.retain(|_, (gone, seen)| {
                    let keep = seen.elapsed() < AFTERLIFE;
                    gone.store(!keep, Ordering::Relaxed);
                    keep
                });
                *self.sight.lock().unwrap() = Some(sight);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self) -> Result<Sight, kube::Error> {
        let at = self.notes.now();
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let pods = pods.list(&ListParams::default().labels(&self.selector)).await?;
        let maps = Api::<ConfigMap>::default_namespaced(self.client.clone());
        let annotations = async |name: String| -> Result<BTreeMap<String, String>, kube::Error> {
            Ok(maps.get_opt(&name).await?.and_then(|map| map.metadata.annotations).unwrap_or_default())
        };
        let leader = annotations(format!("{}-leader", self.name)).await?.get("leader").cloned();
        let sync = annotations(format!("{}-sync", self.name)).await?;
        let standbys = sync.get("sync_standby").map(String::as_str).unwrap_or_default();
        let standbys = standbys.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let complaint = match self.keeper {
            Keeper::Dbctl { .. } => self.complaint(at).await?,
            Keeper::PatroniAlone => None,
        };
        let mut members: Vec<Member> = pods.items.iter().map(member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Sight { at, members, leader, standbys, complaint })
    }

    /// What the Database's status says is wrong; notes SyncDegraded on the way.
    async fn complaint(&self, at: Duration) -> Result<Option<String>, kube::Error> {
        let database = Api::<Database>::default_namespaced(self.client.clone()).get(&self.name).await?;
        let conditions = database.status.map(|status| status.conditions).unwrap_or_default();
        let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let degraded = find("SyncDegraded").is_some_and(|condition| condition.status == "True");
        let mut history = self.notes.history.lock().unwrap();
        history.degraded.push((at, degraded));
        let wrong = |kind: &str, good: &str| {
            let condition = find(kind)?;
            (condition.status != good).then(|| format!("{kind}={}: {}", condition.status, condition.message))
        };
        Ok(wrong("Ready", "True").or_else(|| wrong("SyncDegraded", "False")))
    }

    /// What keeps it from being whole: every member there and ready, a leader, and all others confirming commits.
    pub fn ailment(&self, since: Duration) -> Option<String> {
        let Some(sight) = self.sight().filter(|sight| sight.at > since) else {
            return Some("not looked at since".to_owned());
        };
        let ill = |member: &&Member| !member.ready || member.ending;
        if let Some(member) = sight.members.iter().find(ill) {
            return Some(format!("{} is not ready", member.name));
        }
        if sight.members.len() != self.count {
            return Some(format!("{} members instead of {}", sight.members.len(), self.count));
        }
        match &sight.leader {
            Some(leader) if sight.members.iter().any(|member| &member.name == leader) => {}
            leader => return Some(format!("the lock's holder is {leader:?}")),
        }
        if self.synchronous && sight.standbys.len() + 1 != self.count {
            return Some(format!("commits are confirmed by {:?}", sight.standbys));
        }
        sight.complaint
    }

    /// The member that holds the lock, and the others.
    pub fn roles(&self) -> Option<(Member, Vec<Member>)> {
        let sight = self.sight()?;
        let leader = sight.leader?;
        let (leaders, others): (Vec<_>, Vec<_>) =
            sight.members.into_iter().partition(|member| member.name == leader);
        Some((leaders.into_iter().next()?, others))
    }

    /// Rows in the table with a number above `above[writer - 1]`, as the write Service's server tells.
    pub async fn rows(&self, above: &[u64]) -> Result<Vec<(u32, u64)>, String> {
        let session = Session::open(self.service, &self.login).await?;
        let conditions: Vec<String> =
            above.iter().zip(1..).map(|(n, writer)| format!("(writer = {writer} and n > {n})")).collect();
        let sql = format!(
            "select writer, n from written where not pg_is_in_recovery() and ({})",
            conditions.join(" or ")
        );
        let rows = session.query(&sql, Duration::from_secs(60)).await?;
        let parsed = rows.iter().map(|row| Some((row.first()?.parse().ok()?, row.get(1)?.parse().ok()?)));
        parsed.collect::<Option<Vec<_>>>().ok_or_else(|| "rows that are no numbers".to_owned())
    }
}

fn member(pod: &Pod) -> Member {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    Member {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        ending: pod.metadata.deletion_timestamp.is_some(),
        restarts: containers.iter().map(|container| container.restart_count).sum(),
    }
}

async fn service(client: &Client, name: &str) -> SocketAddr {
    let service = Api::<Service>::default_namespaced(client.clone()).get(name).await.unwrap();
    SocketAddr::new(service.spec.unwrap().cluster_ip.unwrap().parse().unwrap(), PORT)
}
