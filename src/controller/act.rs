//! Carries out what was planned.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{self, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::asks::Asking;
use super::certificates::{self, MakeError};
use super::mark;
use super::random::{self, NoRandomness};
use super::resource::{namespaced, plain};
use super::retry;
use super::rotation;
use crate::api::{Database, DatabaseStatus, FIELD_MANAGER, FINALIZER, LABEL_ROLE, Names};
use crate::patroni::{self, Credentials, LEADER, Lock, PatroniError, REST_USER};
use crate::plan::{
    Action, Apply, Event, Kind, Observed, ROTATED, Release, Rotate, SecretPlan, View, ended, internal,
    name_of, uid_of,
};

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The API server refused or did not answer.
    #[error("{doing}: {source}")]
    Api {
        /// What was tried.
        doing: String,
        /// What came of it.
        source: Box<kube::Error>,
    },
    /// Somebody was faster: the next pass sees it.
    #[error("{doing}: it has changed meanwhile")]
    Conflict {
        /// What was tried.
        doing: String,
    },
    /// The primary's role has moved onto a member that was to be removed.
    #[error("remove members: the primary may be among them")]
    LeaderMoved,
    /// Patroni refused or did not answer.
    #[error(transparent)]
    Patroni(#[from] PatroniError),
    /// A member has no address (any more).
    #[error("reach {0}: it has no address")]
    NoAddress(String),
    /// The internal Secret lacks a password.
    #[error("read Secret {0}: it lacks {1}")]
    NoPassword(String, &'static str),
    /// The time in which this controller may act is over, or it does not know better.
    #[error("act: this controller does not hold its Lease any more")]
    NotLeader,
    /// No certificate could be made.
    #[error(transparent)]
    Certificate(#[from] MakeError),
    /// No password could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl ActError {
    /// Nothing is wrong but that the pass was based on something older.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::LeaderMoved => true,
            // Patroni's own compare-and-swap.
            Self::Patroni(PatroniError::Refused { status, .. }) => *status == reqwest::StatusCode::CONFLICT,
            _ => false,
        }
    }
}

pub(super) fn on(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> ActError {
    let doing = doing.into();
    move |source| match source {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
            ActError::Conflict { doing }
        }
        source => ActError::Api { doing, source: Box::new(source) },
    }
}

/// Carries out one pass's actions for one Database.
pub struct Actor<'a> {
    client: &'a Client,
    patroni: &'a patroni::Client,
    reporter: &'a Reporter,
    database: &'a Database,
    observed: &'a Observed,
    namespace: String,
    name: String,
    /// Moves with our own writes, so that a later one in the same pass is not taken for a stale one.
    version: Option<String>,
}

impl<'a> Actor<'a> {
    /// For that Database, as it was seen.
    pub fn new(
        client: &'a Client,
        patroni: &'a patroni::Client,
        reporter: &'a Reporter,
        database: &'a Database,
        observed: &'a Observed,
    ) -> Self {
        Self {
            client,
            patroni,
            reporter,
            database,
            observed,
            namespace: database.namespace().unwrap_or_default(),
            name: database.name_any(),
            version: database.resource_version(),
        }
    }

    /// Carries out one action; returns what Patroni is to be asked for, for the caller to start.
    ///
    /// # Errors
    /// Where it could not be carried out.
    pub async fn act(&mut self, action: &Action) -> Result<Option<Asking>, ActError> {
        match action {
            Action::AddFinalizer => self.finalizers(true).await?,
            Action::RemoveFinalizer => self.finalizers(false).await?,
            Action::Create(kind, body) => self.create(*kind, body).await?,
            Action::CreateSecret(plan) => self.create_secret(plan).await?,
            Action::Rotate(rotate) => self.rotate(rotate).await?,
            Action::Secure(securing) => {
                let secrets = Api::namespaced(self.client.clone(), &self.namespace);
                certificates::secure(&secrets, securing, jiff::Timestamp::now()).await?;
            }
            Action::Apply(apply) => self.apply(apply).await?,
            Action::Delete { kind, name, uid } => self.delete(*kind, name, uid.as_deref()).await?,
            Action::ReplacePod { pod, uid, may_lead } => self.replace_pod(pod, uid, *may_lead).await?,
            Action::Annotate { name, version, annotations } => {
                self.annotate(name, version.as_deref(), annotations).await?;
            }
            Action::Orphan { name, uid } => self.orphan(name, uid.as_deref()).await?,
            Action::PatchClaim { name, uid, patch } => {
                self.patch_claim(name, uid.as_deref(), patch).await?;
            }
            Action::PatchPatroniConfig { member, patch } => {
                let (address, credentials) = (self.address(member)?, self.credentials().await?);
                self.patroni.patch_config(address, &credentials, patch).await?;
            }
            Action::Ask { ask, cause } => {
                return Ok(Some(Asking {
                    address: self.address(ask.whom())?,
                    ask: ask.clone(),
                    cause: cause.clone(),
                    credentials: self.credentials().await?,
                }));
            }
            Action::StripRole { pod, version } => self.strip_role(pod, version.as_deref()).await?,
            Action::ReleaseLock(release) => self.release_lock(release).await?,
            Action::Mark(marking) => {
                mark::write(self.client, &self.namespace, &self.name, marking).await?;
            }
            Action::PatchStatus(status) => self.patch_status(status).await?,
            Action::PublishEvent(event) => self.publish(event).await,
        }
        Ok(None)
    }

    /// The Database, for events.
    pub fn reference(&self) -> ObjectReference {
        self.database.object_ref(&())
    }

    fn databases(&self) -> Api<Database> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn finalizers(&mut self, add: bool) -> Result<(), ActError> {
        let mut finalizers = self.database.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        finalizers.extend(add.then(|| FINALIZER.to_owned()));
        let patch = json!({ "metadata": { "resourceVersion": self.version, "finalizers": finalizers } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let (api, patch) = (self.databases(), Patch::Merge(patch));
        let patched = retry::write(|| api.patch_metadata(&self.name, &params, &patch)).await;
        match patched {
            Ok(patched) => self.version = patched.metadata.resource_version,
            Err(kube::Error::Api(status)) if !add && status.is_not_found() => {}
            Err(error) => return Err(on("change the Database's finalizers")(error)),
        }
        Ok(())
    }

    async fn create(&self, kind: Kind, body: &Value) -> Result<(), ActError> {
        let doing = format!("make {kind} {}", name_of(body));
        let object = serde_json::from_value(body.clone())
            .map_err(|error| on(doing.clone())(kube::Error::SerdeError(error)))?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api = namespaced(self.client, &self.namespace, kind);
        retry::write(|| api.create(&params, &object)).await.map_err(on(doing)).map(drop)
    }

    async fn create_secret(&self, plan: &SecretPlan) -> Result<(), ActError> {
        let mut data = BTreeMap::new();
        for key in &plan.random {
            data.insert(key.clone(), random::password()?);
        }
        let filled = plan.text.iter().map(|(key, template)| {
            let value = data
                .iter()
                .fold(template.clone(), |text, (key, value)| text.replace(&format!("{{{key}}}"), value));
            (key.clone(), value)
        });
        let filled: BTreeMap<String, String> = filled.collect();
        data.extend(filled);
        let mut body = plan.body.clone();
        body["stringData"] = json!(data);
        self.create(Kind::Secret, &body).await
    }

    async fn apply(&self, apply: &Apply) -> Result<(), ActError> {
        let name = name_of(&apply.body);
        if let Some(below) = apply.leader_below {
            self.check_leader(below).await?;
        }
        // Where nothing was seen, something may have appeared meanwhile. An apply would merge into it whatever does not
        // conflict: everything with what another Database made, since that has the same field manager.
        if apply.uid.is_none() && apply.kind != Kind::StatefulSet {
            return self.create(apply.kind, &apply.body).await;
        }
        let mut body = apply.body.clone();
        let mut params = PatchParams::apply(FIELD_MANAGER);
        // What was seen is ours, and so are our fields in it, whoever wrote them, as long as it is that very object. A
        // StatefulSet of another differs in its selector, which is a conflict without force; made by an apply, it loses
        // what is no longer applied.
        if let Some(uid) = &apply.uid {
            body["metadata"]["uid"] = json!(uid);
            params = params.force();
        }
        let api = namespaced(self.client, &self.namespace, apply.kind);
        let patch = Patch::Apply(&body);
        retry::write(|| api.patch(name, &params, &patch))
            .await
            .map_err(on(format!("apply {} {name}", apply.kind)))
            .map(drop)
    }

    /// The leader lock by a fresh read: what the watch has told may be older than a failover.
    async fn lock(&self) -> Result<Option<Lock>, ActError> {
        let leader = Names(&self.name).leader();
        let api = namespaced(self.client, &self.namespace, Kind::ConfigMap);
        let lock = retry::read(|| api.get_opt(&leader)).await.map_err(on("read the leader lock"))?;
        Ok(lock.map(plain).map(|lock| Lock::of(&lock)))
    }

    async fn check_leader(&self, below: i32) -> Result<(), ActError> {
        let holder = self.lock().await?.and_then(|lock| lock.holder);
        let ordinal = holder.and_then(|holder| Names(&self.name).ordinal(&holder));
        if ordinal.is_some_and(|ordinal| ordinal < below) { Ok(()) } else { Err(ActError::LeaderMoved) }
    }

    /// What the watch told may be older than a failover to that very member.
    async fn replace_pod(&self, pod: &str, uid: &str, may_lead: bool) -> Result<(), ActError> {
        if !may_lead && self.lock().await?.and_then(|lock| lock.holder).as_deref() == Some(pod) {
            return Err(ActError::Conflict { doing: format!("replace pod {pod}") });
        }
        self.delete(Kind::Pod, pod, Some(uid)).await
    }

    async fn strip_role(&self, pod: &str, version: Option<&str>) -> Result<(), ActError> {
        let holder = self.lock().await?.and_then(|lock| lock.holder);
        let doing = format!("take the role of primary from pod {pod}");
        if holder.as_deref() == Some(pod) {
            return Err(ActError::Conflict { doing });
        }
        let labels = json!({ LABEL_ROLE: null });
        let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version, "labels": labels } }));
        let (api, params) = (namespaced(self.client, &self.namespace, Kind::Pod), PatchParams::default());
        match retry::write(|| api.patch_metadata(pod, &params, &patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(on(doing)(error)),
        }
    }

    /// The Secrets, and then the pods: a kubelet brings the files of a pod that has changed up to date at once.
    async fn rotate(&self, rotate: &Rotate) -> Result<(), ActError> {
        let secrets = Api::namespaced(self.client.clone(), &self.namespace);
        for (name, keys) in &rotate.secrets {
            rotation::rotate(&secrets, name, keys, &rotate.id).await?;
        }
        let (pods, params) = (namespaced(self.client, &self.namespace, Kind::Pod), PatchParams::default());
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { ROTATED: rotate.id } } }));
        for pod in &rotate.pods {
            match retry::write(|| pods.patch_metadata(pod, &params, &patch)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(on(format!("tell pod {pod} of new passwords"))(error)),
            }
        }
        Ok(())
    }

    /// Not tried again: the first try may have been heard, and then it is a conflict.
    async fn annotate(
        &self,
        name: &str,
        version: Option<&str>,
        annotations: &serde_json::Map<String, Value>,
    ) -> Result<(), ActError> {
        let patch =
            Patch::Merge(json!({ "metadata": { "resourceVersion": version, "annotations": annotations } }));
        let maps = namespaced(self.client, &self.namespace, Kind::ConfigMap);
        let doing = format!("write annotations of ConfigMap {name}");
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        maps.patch_metadata(name, &params, &patch).await.map_err(on(doing)).map(drop)
    }

    /// What proves the holder dead is read once more, since the watch of pods may be behind that of the lock; then the lock
    /// is released only if it is still the very one that was seen. This is what Patroni itself writes to release it.
    async fn release_lock(&self, release: &Release) -> Result<(), ActError> {
        let Release { holder, version, pod_uid, .. } = release;
        let doing = format!("release the leader lock for {holder}");
        if let Some(uid) = pod_uid {
            let pods = namespaced(self.client, &self.namespace, Kind::Pod);
            let pod = retry::read(|| pods.get_opt(holder)).await.map_err(on(doing.clone()))?.map(plain);
            let proven = pod.is_some_and(|pod| uid_of(&pod) == Some(uid) && ended(&pod).is_some());
            if !proven {
                return Err(ActError::Conflict { doing });
            }
        }
        let annotations = json!({ LEADER: null });
        let patch =
            Patch::Merge(json!({ "metadata": { "resourceVersion": version, "annotations": annotations } }));
        let locks = namespaced(self.client, &self.namespace, Kind::ConfigMap);
        let name = Names(&self.name).leader();
        // Not tried again: the first try may have been heard.
        locks.patch_metadata(&name, &PatchParams::default(), &patch).await.map_err(on(doing)).map(drop)
    }

    async fn delete(&self, kind: Kind, name: &str, uid: Option<&str>) -> Result<(), ActError> {
        let preconditions =
            uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        let api = namespaced(self.client, &self.namespace, kind);
        match retry::write(|| api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(on(format!("delete {kind} {name}"))(error)),
        }
    }

    async fn orphan(&self, name: &str, uid: Option<&str>) -> Result<(), ActError> {
        let preconditions =
            uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::orphan() };
        let api = namespaced(self.client, &self.namespace, Kind::StatefulSet);
        match retry::write(|| api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(on(format!("replace StatefulSet {name}"))(error)),
        }
    }

    async fn patch_claim(&self, name: &str, uid: Option<&str>, patch: &Value) -> Result<(), ActError> {
        let mut patch = patch.clone();
        patch["metadata"]["uid"] = json!(uid);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = namespaced(self.client, &self.namespace, Kind::PersistentVolumeClaim);
        let patch = Patch::Merge(patch);
        retry::write(|| api.patch(name, &params, &patch))
            .await
            .map_err(on(format!("change claim {name}")))
            .map(drop)
    }

    fn address(&self, member: &str) -> Result<IpAddr, ActError> {
        let view = View::new(&self.name, self.observed);
        let address = view.member(member).and_then(|member| member.address()?.parse().ok());
        address.ok_or_else(|| ActError::NoAddress(member.to_owned()))
    }

    async fn credentials(&self) -> Result<Credentials, ActError> {
        let name = Names(&self.name).internal_secret();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = retry::read(|| api.get(&name)).await.map_err(on(format!("read Secret {name}")))?;
        let bytes = secret.data.and_then(|mut data| data.remove(internal::REST));
        let password = bytes.and_then(|bytes| String::from_utf8(bytes.0).ok());
        let password = password.map(|password| password.trim_end_matches(['\r', '\n']).to_owned());
        let password = password.ok_or(ActError::NoPassword(name, internal::REST))?;
        Ok(Credentials { username: REST_USER.to_owned(), password })
    }

    /// With the version that was seen: a status computed from an older object is not written over a newer one.
    async fn patch_status(&mut self, status: &DatabaseStatus) -> Result<(), ActError> {
        let body = json!({
            "apiVersion": Database::api_version(&()),
            "kind": Database::kind(&()),
            "metadata": { "name": self.name, "namespace": self.namespace, "resourceVersion": self.version },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let (api, patch) = (self.databases(), Patch::Apply(&body));
        let patched = retry::write(|| api.patch_status(&self.name, &params, &patch)).await;
        match patched {
            Ok(patched) => self.version = patched.metadata.resource_version,
            // It went while we looked.
            Err(kube::Error::Api(error)) if error.is_not_found() => {}
            Err(error) => return Err(on("write the Database's status")(error)),
        }
        Ok(())
    }

    /// An event that cannot be published is no reason to stop.
    async fn publish(&self, event: &Event) {
        // The shared recorder counts repeats by reason and keeps the first one's words; these tell of changes.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        publish(&recorder, &self.reference(), event).await;
    }
}

/// Tells of something on an object.
pub async fn publish(recorder: &Recorder, about: &ObjectReference, event: &Event) {
    let kube_event = events::Event {
        type_: if event.warning { EventType::Warning } else { EventType::Normal },
        reason: event.reason.clone(),
        // The API refuses notes of more than a kilobyte.
        note: Some(event.message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&kube_event, about).await {
        tracing::warn!(reason = %event.reason, %error, "an event was not published");
    }
}
