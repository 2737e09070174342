//! Campaigns for the Lease at the API server, and keeps it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::election::{Election, Record, Step, Terms};
use super::{Claim, now};
use crate::api::{DBCTL_VERSION, VERSION};

/// Where the Lease is, and who wants it.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A name that no other process has, and no earlier one had.
    pub identity: String,
    /// How long things take.
    pub terms: Terms,
}

/// Why a controller has the Lease no more, or never will.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another has it, or the API server could not be reached for so long that another may.
    #[error(
        "keep Lease {namespace}/{name}: it could not be renewed in time, or another controller has taken it over"
    )]
    Lost {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It may not even be read or created.
    #[error("take Lease {namespace}/{name}: {source}")]
    Refused {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server says.
        source: Box<kube::Error>,
    },
}

/// A candidacy, from the first look to the end.
#[derive(Debug)]
pub struct Tenure {
    claim: Claim,
    held: watch::Receiver<bool>,
    seen: watch::Receiver<bool>,
    stop: CancellationToken,
    /// Until its end has been told.
    task: Option<JoinHandle<Result<(), LeaseError>>>,
}

impl Tenure {
    /// Begins to campaign.
    pub fn begin(client: Client, config: LeaseConfig) -> Self {
        let (claim, stop) = (Claim::none(), CancellationToken::new());
        let (tell, held) = watch::channel(false);
        let (tell_seen, seen) = watch::channel(false);
        let api = Api::namespaced(client, &config.namespace);
        let election = Election::new(config.identity.clone(), config.terms);
        let campaign =
            Campaign { api, config, election, claim: claim.clone(), tell, tell_seen, stop: stop.clone() };
        Self { claim, held, seen, stop, task: Some(tokio::spawn(campaign.run())) }
    }

    /// Until when it may act.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// Becomes true once the Lease is held.
    pub fn held(&self) -> watch::Receiver<bool> {
        self.held.clone()
    }

    /// Becomes true once it is known who holds the Lease.
    pub fn seen(&self) -> watch::Receiver<bool> {
        self.seen.clone()
    }

    /// Ends when the Lease is lost, or cannot be had.
    pub async fn lost(&mut self) -> LeaseError {
        if let Some(task) = &mut self.task {
            let ended = task.await;
            self.task = None;
            if let Ok(Err(error)) = ended {
                return error;
            }
        }
        // Only a stop ends it otherwise, and whoever stops it does not wait here.
        std::future::pending().await
    }

    /// Gives it back, so that another need not wait. Nothing may act any more.
    pub async fn give_back(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// Whoever held it is gone without a word: nobody renews it for them.
impl Drop for Tenure {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Campaign {
    api: Api<Lease>,
    config: LeaseConfig,
    election: Election,
    claim: Claim,
    tell: watch::Sender<bool>,
    tell_seen: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Campaign {
    async fn run(mut self) -> Result<(), LeaseError> {
        let result = self.campaign().await;
        self.claim.extend(None);
        result
    }

    async fn campaign(&mut self) -> Result<(), LeaseError> {
        let mut step = self.look().await?;
        loop {
            step = match step {
                Step::Lost => return Err(self.lost()),
                Step::Wait(pause) => {
                    if self.stopped_within(pause).await {
                        return Ok(());
                    }
                    self.look().await?
                }
                Step::Create | Step::Take { .. } => {
                    let pause = self.write(&step).await?;
                    let held = self.election.deadline();
                    self.claim.extend(held);
                    self.tell
                        .send_if_modified(|told| std::mem::replace(told, held.is_some()) != held.is_some());
                    if self.stopped_within(pause).await {
                        self.give_back().await;
                        return Ok(());
                    }
                    // A holder that knows the version renews without a look.
                    if pause == self.config.terms.renew {
                        self.election.step(now())
                    } else {
                        self.look().await?
                    }
                }
            };
        }
    }

    /// Pauses; whether it was told to stop meanwhile.
    async fn stopped_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.stop.cancelled()).await.is_ok()
    }

    /// A request that hangs must not keep the end of the tenure from being seen.
    async fn bounded<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Option<kube::Result<T>> {
        tokio::time::timeout(self.config.terms.retry, call).await.ok()
    }

    async fn look(&mut self) -> Result<Step, LeaseError> {
        let sent = now();
        match self.bounded(self.api.get_opt(&self.config.name)).await {
            Some(Ok(lease)) => {
                self.tell_seen.send_if_modified(|seen| !std::mem::replace(seen, true));
                Ok(self.election.read(sent, lease.as_ref().map(record), now()))
            }
            Some(Err(error)) if self.is_final(&error) => Err(self.refused(error)),
            failed => {
                self.note("read", failed.and_then(Result::err));
                Ok(match self.election.deadline() {
                    Some(_) => self.election.step(now()),
                    None => Step::Wait(self.config.terms.retry),
                })
            }
        }
    }

    /// Writes it, and returns after which pause to go on.
    async fn write(&mut self, step: &Step) -> Result<Duration, LeaseError> {
        let (sent, lease) = (now(), self.lease(step));
        let params =
            PostParams { field_manager: Some(crate::api::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match step {
            Step::Create => self.bounded(self.api.create(&params, &lease)).await,
            _ => self.bounded(self.api.replace(&self.config.name, &params, &lease)).await,
        };
        let Terms { renew, retry, .. } = self.config.terms;
        match written {
            Some(Ok(lease)) => {
                self.election.wrote(sent, record(&lease), now());
                Ok(if self.election.deadline().is_some() { renew } else { retry })
            }
            // Somebody was faster: a look tells who.
            Some(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Duration::ZERO),
            Some(Err(error)) if self.is_final(&error) => Err(self.refused(error)),
            failed => {
                self.note("write", failed.and_then(Result::err));
                Ok(retry.min(renew / 4))
            }
        }
    }

    fn lease(&self, step: &Step) -> Lease {
        let (version, transitions) = match step {
            Step::Take { version, transitions, .. } => (Some(version.clone()), *transitions),
            _ => (None, 0),
        };
        let now = MicroTime(jiff::Timestamp::now());
        let anew = !matches!(step, Step::Take { anew: false, .. });
        Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                resource_version: version,
                // Of all that tell a controller's version, only this is written by one that works.
                annotations: Some([(DBCTL_VERSION.to_owned(), VERSION.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: i32::try_from(self.config.terms.lease.as_secs()).ok(),
                lease_transitions: Some(transitions),
                // For people: nobody decides by it.
                acquire_time: anew.then(|| now.clone()),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn give_back(&mut self) {
        let Step::Take { version, transitions, .. } = self.election.step(now()) else { return };
        self.claim.extend(None);
        let mut lease = self.lease(&Step::Take { version, transitions, anew: false });
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        if let Some(Err(error)) =
            self.bounded(self.api.replace(&self.config.name, &PostParams::default(), &lease)).await
        {
            tracing::warn!(%error, "failed to give back the Lease: another controller waits until it ends by itself");
        }
    }

    fn note(&self, doing: &str, error: Option<kube::Error>) {
        let error = error.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string());
        tracing::warn!(lease = %self.config.name, %error, "failed to {doing} the Lease");
    }

    /// What no further try changes, before it was ever held.
    fn is_final(&self, error: &kube::Error) -> bool {
        let refused =
            matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 422));
        refused && !*self.tell.borrow()
    }

    fn refused(&self, source: kube::Error) -> LeaseError {
        let LeaseConfig { namespace, name, .. } = self.config.clone();
        LeaseError::Refused { namespace, name, source: Box::new(source) }
    }

    fn lost(&self) -> LeaseError {
        let LeaseConfig { namespace, name, .. } = self.config.clone();
        LeaseError::Lost { namespace, name }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lease: Duration::from_secs(
            u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0).max(1),
        ),
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.resource_version().unwrap_or_default(),
    }
}
