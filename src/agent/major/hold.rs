//! What a member does before Patroni, for as long as the mark of a major upgrade keeps it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::decide::{Own, Seen, Step, decide};
use super::disk::{self, Progress, Volume};
use super::report::{Facts, MajorReport, MajorState};
use super::tool;
use super::upgrade::{self, Upgrade, previous, saying, upgrade};
use crate::agent::render::Environment;
use crate::agent::report::{AGENT_PORT, AgentReport, PostmasterState};
use crate::agent::store::Store;
use crate::api::{MajorStage, MajorUpgrade};
use crate::patroni::{DynamicConfig, Lock, REST_PORT};

/// How often the mark is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Up to here the kubelet's startup probe, which is patient for 600 s, is let wait: the liveness probe, which begins once it
/// has passed, is not, and Patroni takes seconds to answer.
const PATIENT: Duration = Duration::from_secs(400);
/// What both servers of pg_upgrade need of the users' settings: libraries that data types are in, and room for locks.
const SETTINGS: [&str; 2] = ["shared_preload_libraries", "max_locks_per_transaction"];

/// What is told while it lasts, and afterwards.
pub type Told = Arc<Mutex<Option<MajorReport>>>;

/// Tells something else.
pub fn tell(told: &Told, report: MajorReport) {
    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
}

/// Waits until Patroni may start, and does what is to be done before. Returns the mark that there is then.
///
/// # Errors
/// Where the template cannot be read.
pub async fn hold(environment: &Environment, told: &Told) -> io::Result<Option<MajorUpgrade>> {
    let template: Value = serde_json::from_slice(&std::fs::read(&environment.template)?)?;
    let scope = template.get("scope").and_then(Value::as_str).unwrap_or_default();
    let mut keeper = Keeper {
        environment,
        told,
        store: Store::new(&environment.namespace, scope),
        settings: settings(&template),
        door: None,
        facts: None,
        failed: None,
        said: String::new(),
    };
    let mark = loop {
        match keeper.look().await {
            Look::Go(mark) => break mark,
            Look::Again => {}
            Look::Later => tokio::time::sleep(LOOK).await,
        }
    };
    if let Some(door) = keeper.door.take() {
        door.close().await;
    }
    if let Some(mark) = &mark {
        let report =
            MajorReport { id: mark.id.clone(), state: MajorState::Running, ..MajorReport::default() };
        tell(told, report);
    }
    Ok(mark)
}

fn settings(template: &Value) -> Vec<(String, String)> {
    let parameters = template.pointer("/bootstrap/dcs/postgresql/parameters");
    let text = |name: &&str| Some(((*name).to_owned(), parameters?.get(name)?.as_str()?.to_owned()));
    SETTINGS.iter().filter_map(text).collect()
}

enum Look {
    Go(Option<MajorUpgrade>),
    Again,
    Later,
}

struct Keeper<'a> {
    environment: &'a Environment,
    told: &'a Told,
    store: Store,
    settings: Vec<(String, String)>,
    door: Option<Door>,
    /// What was found of the data, at which stage.
    facts: Option<(MajorStage, Facts)>,
    /// Why there is no new data.
    failed: Option<String>,
    said: String,
}

impl Keeper<'_> {
    async fn look(&mut self) -> Look {
        let map = match self.store.read("config").await {
            Ok(map) => map,
            Err(error) => {
                // Patroni would wait for it as well.
                self.say(format!("waiting until it is known whether an upgrade is under way: {error}"));
                return Look::Later;
            }
        };
        let mark = match MajorUpgrade::parse(&map) {
            Ok(Some(mark)) => mark,
            Ok(None) => return Look::Go(None),
            Err(error) => {
                self.say(format!("waiting: the mark of an upgrade cannot be read: {error}"));
                return Look::Later;
            }
        };
        match self.step(&mark, &map).await {
            Ok(look) => look,
            Err(words) => {
                self.say(format!("failed to {words}"));
                self.report(&mark, MajorState::Waiting, words, None).await;
                Look::Later
            }
        }
    }

    fn say(&mut self, words: String) {
        if self.said != words {
            tracing::info!("{words}");
            self.said = words;
        }
    }

    fn volume(&self, mark: &MajorUpgrade) -> Volume {
        Volume::new(&self.environment.data, &mark.id)
    }

    fn programs(&self) -> u8 {
        self.environment.major.as_deref().and_then(|major| major.parse().ok()).unwrap_or_default()
    }

    async fn step(&mut self, mark: &MajorUpgrade, map: &Value) -> Result<Look, String> {
        let volume = self.volume(mark);
        let own = Own {
            name: &self.environment.name,
            programs: self.programs(),
            identifier: disk::system_identifier(volume.data()).map(|id| id.to_string()),
            progress: volume.progress().map_err(|error| format!("read the volume: {error}"))?,
            keeps: volume.keeps(),
        };
        let holder = if matches!(mark.stage, MajorStage::Opened | MajorStage::Returning) {
            let lock = self.store.read("leader").await.map_err(|error| error.to_string())?;
            Lock::of(&lock).holder
        } else {
            None
        };
        let seen = Seen { initialize: DynamicConfig::of(map).initialize, holder };
        match decide(mark, &own, &seen) {
            Step::Go => Ok(Look::Go(Some(mark.clone()))),
            Step::SetAside => {
                volume.set_aside().map_err(|error| format!("move the old data aside: {error}"))?;
                tracing::info!("the old data is at {}; this member is cloned anew", volume.old().display());
                Ok(Look::Go(Some(mark.clone())))
            }
            Step::Undo => {
                blocking(move || volume.undo())
                    .await
                    .map_err(|error| format!("put the old data back: {error}"))?;
                tracing::info!("the old data is back in its place");
                Ok(Look::Again)
            }
            Step::Upgrade if self.failed.is_none() => {
                self.upgrade(mark).await;
                Ok(Look::Again)
            }
            Step::Upgrade | Step::Wait => {
                self.say(format!("waiting: the upgrade to {} is at stage {:?}", mark.to, mark.stage));
                self.wait(mark, own.progress).await?;
                Ok(Look::Later)
            }
        }
    }

    async fn wait(&mut self, mark: &MajorUpgrade, progress: Progress) -> Result<(), String> {
        let facts = self.facts(mark).await?;
        let (state, words) = match (mark.stage, &self.failed, &progress) {
            (MajorStage::Upgrading, Some(words), _) => (MajorState::Failed, words.clone()),
            (MajorStage::Upgrading | MajorStage::Clearing, _, Progress::Swapped(_)) => {
                (MajorState::Made, String::new())
            }
            (MajorStage::Undoing | MajorStage::Returning, ..) => (MajorState::Undone, String::new()),
            _ => (MajorState::Waiting, String::new()),
        };
        let made = match progress {
            Progress::Swapped(made) => Some(made),
            _ => None,
        };
        let report = MajorReport { id: mark.id.clone(), state, words, data: facts, made };
        self.publish(report).await;
        Ok(())
    }

    async fn upgrade(&mut self, mark: &MajorUpgrade) {
        self.report(mark, MajorState::Upgrading, "preparing".to_owned(), None).await;
        let with = Upgrade {
            id: mark.id.clone(),
            data: self.environment.data.clone(),
            from: mark.from,
            to: mark.to,
            link: mark.link,
            sockets: self.environment.sockets.clone(),
            settings: self.settings.clone(),
        };
        let (told, id, data) = (Arc::clone(self.told), mark.id.clone(), with.data.clone());
        let telling = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let words = saying(&data).unwrap_or_default();
                let state = MajorState::Upgrading;
                tell(&told, MajorReport { id: id.clone(), state, words, ..MajorReport::default() });
            }
        };
        let result = tokio::select! {
            result = upgrade(&with) => result,
            () = telling => return,
        };
        self.facts = None;
        match result {
            Ok(made) => {
                tracing::info!("upgraded to {} in {} ms ({})", mark.to, made.milliseconds, made.method);
            }
            Err(error) => {
                tracing::error!("failed to {error}");
                self.failed = Some(error.to_string());
            }
        }
    }

    /// What the data is, found once for each stage: nobody changes it meanwhile.
    async fn facts(&mut self, mark: &MajorUpgrade) -> Result<Option<Facts>, String> {
        if let Some((stage, facts)) = &self.facts
            && *stage == mark.stage
        {
            return Ok(Some(facts.clone()));
        }
        let data = &self.environment.data;
        let Some(major) = disk::major(data).map_err(|error| error.to_string())? else { return Ok(None) };
        let programs: Option<PathBuf> = if major == self.programs() {
            None
        } else {
            Some(previous(mark.from).map_err(|error: upgrade::UpgradeError| error.to_string())?)
        };
        let text = tool::control(programs.as_deref(), data).await.map_err(|error| error.to_string())?;
        let control = tool::parsed(&text).ok_or("read the control file: it lacks what every release has")?;
        let facts = Facts {
            major,
            shut_down: control.is_shut_down_primary(),
            timeline: control.timeline,
            checkpoint: control.checkpoint,
            system_identifier: disk::system_identifier(data).map(|id| id.to_string()).unwrap_or_default(),
        };
        self.facts = Some((mark.stage, facts.clone()));
        Ok(Some(facts))
    }

    async fn report(&mut self, mark: &MajorUpgrade, state: MajorState, words: String, data: Option<Facts>) {
        let report = MajorReport { id: mark.id.clone(), state, words, data, made: None };
        self.publish(report).await;
    }

    async fn publish(&mut self, report: MajorReport) {
        tell(self.told, report);
        if self.door.is_none() {
            match Door::open(self.environment, self.told).await {
                Ok(door) => self.door = Some(door),
                Err(error) => self.say(format!("failed to listen: {error}")),
            }
        }
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Who answers in the place of Patroni and of the agent that it is not yet: the kubelet would take the container for hung.
struct Door(Vec<JoinHandle<()>>);

impl Door {
    async fn open(environment: &Environment, told: &Told) -> io::Result<Self> {
        let told = Arc::clone(told);
        let report = move || {
            let major = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let report =
                AgentReport { postmaster: PostmasterState::Stopped, major, ..AgentReport::default() };
            async move { Json(report) }
        };
        let agent = Router::new().route("/", get(report));
        let opened = Instant::now();
        // Never ready.
        let patroni = Router::new()
            .route("/liveness", get(move || async move { liveness(opened.elapsed()) }))
            .fallback(|| async { StatusCode::SERVICE_UNAVAILABLE });
        let mut tasks = Vec::new();
        for (port, router) in [(AGENT_PORT, agent), (REST_PORT, patroni)] {
            let listener = TcpListener::bind(SocketAddr::new(everywhere(environment), port)).await?;
            tasks.push(tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::warn!("failed to answer on port {port}: {error}");
                }
            }));
        }
        Ok(Self(tasks))
    }

    /// The ports are free then.
    async fn close(self) {
        for task in self.0 {
            task.abort();
            let _ = task.await;
        }
    }
}

fn liveness(waited: Duration) -> StatusCode {
    if waited < PATIENT { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

fn everywhere(environment: &Environment) -> IpAddr {
    environment.listen.unwrap_or(match environment.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    })
}
