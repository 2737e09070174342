//! A small world for tests: it carries out actions on what is observed, and does what the cluster and Patroni would.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::object::{label, owners, uid_of};
use super::text::{at, list, number, text};
use super::*;
use crate::api::{LABEL_ROLE, Names};
use crate::patroni::CONFIG_KEY;

/// Annotation of a pod whose StatefulSet was deleted without it.
const LEFT: &str = "test/left";

/// One namespace with one Database in it, or none any more.
pub struct World {
    pub database: Option<Database>,
    pub observed: Observed,
    pub events: Vec<Event>,
    /// What Patroni was asked for.
    pub asked: Vec<Ask>,
    /// Why it does nothing of that.
    pub refuses: Option<String>,
    /// Releases whose pods never become well.
    pub broken: Vec<String>,
    /// Pods that were replaced, each with the release of the one before.
    pub replaced: Vec<(String, String)>,
    pub now: jiff::Timestamp,
    /// The system identifier of the data in each claim, by the claim's uid.
    volumes: BTreeMap<String, String>,
    /// Of those, what the data is: that of the restore in place of that id, or of before the first.
    contents: BTreeMap<String, String>,
    /// What each volume keeps besides.
    pub aside: BTreeMap<String, String>,
    /// The restore in place that each volume has followed.
    followed: BTreeMap<String, String>,
    /// The last line of a member that cannot restore.
    pub unrestorable: Option<String>,
    serial: u64,
}

pub fn database(spec: Value) -> Database {
    let mut base = json!({ "replicas": 3, "version": "16.15", "storage": { "size": "1Gi" } });
    json_patch::merge(&mut base, &spec);
    serde_json::from_value(json!({
        "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
        "metadata": { "name": "db", "namespace": "ns", "uid": "uid-1", "generation": 1, "resourceVersion": "1" },
        "spec": base,
    }))
    .unwrap()
}

impl World {
    pub fn new(database: Database) -> Self {
        Self {
            database: Some(database),
            observed: Observed::default(),
            events: Vec::new(),
            asked: Vec::new(),
            refuses: None,
            broken: Vec::new(),
            replaced: Vec::new(),
            now: jiff::Timestamp::from_second(1_000_000).unwrap(),
            volumes: BTreeMap::new(),
            contents: BTreeMap::new(),
            aside: BTreeMap::new(),
            followed: BTreeMap::new(),
            unrestorable: None,
            serial: 1,
        }
    }

    /// A world in which the Database has settled.
    pub fn settled(spec: Value) -> Self {
        let mut world = Self::new(database(spec));
        world.settle();
        world
    }

    pub fn plan(&self) -> Plan {
        plan(self.database.as_ref().unwrap(), &self.observed, &Settings::default(), self.now)
    }

    /// Changes the spec, as a user does.
    pub fn edit(&mut self, spec: Value) {
        let database = self.database.as_mut().unwrap();
        let mut whole = serde_json::to_value(&database.spec).unwrap();
        json_patch::merge(&mut whole, &spec);
        database.spec = serde_json::from_value(whole).unwrap();
        database.metadata.generation = database.metadata.generation.map(|generation| generation + 1);
    }

    pub fn delete(&mut self) {
        self.database.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(self.now));
    }

    /// `kubectl delete --cascade=orphan`, up to where the Database itself is still there.
    pub fn orphan(&mut self) {
        self.delete();
        let finalizers = &mut self.database.as_mut().unwrap().metadata.finalizers;
        finalizers.get_or_insert_default().push("orphan".to_owned());
        assert_eq!(
            self.plan()
                .actions
                .iter()
                .filter(|action| !matches!(action, Action::PatchStatus(_) | Action::PublishEvent(_)))
                .count(),
            0
        );
        for kind in Kind::ALL {
            let owned =
                self.observed.all(kind).filter(|o| owners(o).iter().any(|owner| owner["kind"] == "Database"));
            let owned: Vec<String> = owned.map(|object| name_of(object).to_owned()).collect();
            for name in owned {
                self.change(kind, &name, json!({ "metadata": { "ownerReferences": null } }));
            }
        }
        let finalizers = &mut self.database.as_mut().unwrap().metadata.finalizers;
        finalizers.get_or_insert_default().retain(|name| name != "orphan");
    }

    /// A new Database of the same name.
    pub fn recreate(&mut self, spec: Value) {
        assert!(self.database.is_none());
        let mut again = database(spec);
        again.metadata.uid = Some("uid-2".to_owned());
        self.database = Some(again);
    }

    /// One pass of which only the first `limit` actions are carried out.
    pub fn pass(&mut self, limit: usize) -> Plan {
        let plan = self.plan();
        for action in plan.actions.iter().take(limit) {
            self.act(action);
        }
        self.now += jiff::SignedDuration::from_secs(2);
        plan
    }

    /// Passes, with the cluster moving between them, until nothing changes any more.
    pub fn settle(&mut self) {
        let (mut passes, begun) = (0, self.now);
        while passes < 40 {
            let before = self.observed.clone();
            let acted = self.database.is_some() && !self.pass(usize::MAX).actions.is_empty();
            self.step();
            // A rollout waits for time to pass.
            let rolls = self.database.is_some() && self.note().is_some_and(|note| note.halted.is_none());
            if !acted && !rolls && self.same(&before) {
                return;
            }
            passes += usize::from(!rolls);
            assert!(
                self.now < begun + jiff::SignedDuration::from_hours(2),
                "it rolls for ever: {:?}",
                self.note()
            );
        }
        panic!("it never settles: {:#?}", self.plan().actions);
    }

    /// What is noted of a rollout.
    pub fn note(&self) -> Option<rollout::Note> {
        let map = self.observed.get(Kind::ConfigMap, "db-config")?;
        serde_json::from_str(map["metadata"]["annotations"][rollout::ROLLOUT].as_str()?).ok()
    }

    /// Releases that pods are made for, by member.
    pub fn releases(&self) -> Vec<String> {
        let own = self.observed.all(Kind::Pod).filter(|pod| !owners(pod).is_empty());
        own.map(|pod| label(pod, LABEL_VERSION).unwrap_or_default().to_owned()).collect()
    }

    fn same(&self, before: &Observed) -> bool {
        before.asked == self.observed.asked
            && Kind::ALL.into_iter().all(|kind| before.all(kind).eq(self.observed.all(kind)))
    }

    pub fn get(&self, kind: Kind, name: &str) -> &Value {
        self.observed.get(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    pub fn change(&mut self, kind: Kind, name: &str, patch: Value) {
        let mut object = self.get(kind, name).clone();
        json_patch::merge(&mut object, &patch);
        self.observed.insert(kind, object);
    }

    fn put(&mut self, kind: Kind, mut object: Value) {
        if uid_of(&object).is_none() {
            self.serial += 1;
            object["metadata"]["uid"] = json!(format!("object-{}", self.serial));
        }
        self.observed.insert(kind, object);
    }

    fn act(&mut self, action: &Action) {
        let Some(database) = self.database.as_mut() else { return };
        match action {
            Action::AddFinalizer => database.metadata.finalizers = Some(vec![FINALIZER.to_owned()]),
            Action::RemoveFinalizer => self.collect_garbage(),
            Action::Create(kind, body) => {
                assert!(self.observed.get(*kind, name_of(body)).is_none(), "made twice");
                self.put(*kind, body.clone());
            }
            Action::CreateSecret(secret) => {
                assert!(self.observed.get(Kind::Secret, name_of(&secret.body)).is_none(), "made twice");
                self.put(Kind::Secret, secret.body.clone());
            }
            Action::Rotate(rotate) => {
                let told = json!({ "metadata": { "annotations": { ROTATED: rotate.id } } });
                for (secret, _) in &rotate.secrets {
                    self.change(Kind::Secret, secret, told.clone());
                }
                for pod in &rotate.pods {
                    self.change(Kind::Pod, pod, told.clone());
                }
            }
            Action::Secure(securing) => self.secure(securing),
            Action::Apply(apply) => self.apply(apply),
            Action::Delete { kind, name, uid } => {
                let gone = self.observed.remove(*kind, name).unwrap();
                assert_eq!(uid_of(&gone), uid.as_deref());
                self.observed.certificates.remove(name).filter(|_| *kind == Kind::Secret);
                if let Some(volume) = uid_of(&gone) {
                    self.volumes.remove(volume);
                }
            }
            Action::ReplacePod { pod, uid, may_lead } => {
                // As the actor does: after a fresh read of the lock.
                if !may_lead && self.leader() == Some(pod) {
                    return;
                }
                let gone = self.observed.remove(Kind::Pod, pod).unwrap();
                assert_eq!(uid_of(&gone), Some(uid.as_str()));
                let down =
                    self.pods().into_iter().filter(|other| !is_well(self.get(Kind::Pod, other))).count();
                assert!(!is_well(&gone) || down == 0, "{pod} is replaced while another member is down");
                let wanted = self
                    .observed
                    .get(Kind::StatefulSet, "db")
                    .map_or(0, |set| number(set, "/spec/replicas").unwrap());
                assert!(
                    self.pods().len() as i32 + 1 >= wanted,
                    "{pod} is replaced while another member is not there"
                );
                let release = label(&gone, LABEL_VERSION).unwrap_or_default().to_owned();
                self.replaced.push((pod.clone(), release));
                self.observed.answers.remove(pod);
            }
            Action::Orphan { name, uid } => {
                let gone = self.observed.remove(Kind::StatefulSet, name).unwrap();
                assert_eq!(uid_of(&gone), uid.as_deref());
                for pod in self.pods() {
                    let left =
                        json!({ "metadata": { "ownerReferences": null, "annotations": { LEFT: "yes" } } });
                    self.change(Kind::Pod, &pod, left);
                }
            }
            Action::PatchClaim { name, uid, patch } => {
                assert_eq!(uid_of(self.get(Kind::PersistentVolumeClaim, name)), uid.as_deref());
                self.change(Kind::PersistentVolumeClaim, name, patch.clone());
                if patch.get("spec").is_none() {
                    return;
                }
                let size =
                    self.get(Kind::PersistentVolumeClaim, name)["spec"]["resources"]["requests"]["storage"]
                        .clone();
                self.change(
                    Kind::PersistentVolumeClaim,
                    name,
                    json!({ "status": { "capacity": { "storage": size } } }),
                );
            }
            Action::PatchPatroniConfig { patch, .. } => self.patch_config(patch),
            Action::Ask { ask, cause } => {
                let busy = self.observed.asked.as_ref();
                assert!(busy.is_none_or(|asked| asked.outcome != AskOutcome::UnderWay), "two at once");
                self.asked.push(ask.clone());
                let (ask, cause, outcome) = (ask.clone(), cause.clone(), AskOutcome::UnderWay);
                self.observed.asked = Some(Asked { ask, cause, outcome });
            }
            Action::Annotate { name, annotations, .. } => {
                self.change(Kind::ConfigMap, name, json!({ "metadata": { "annotations": annotations } }));
            }
            Action::StripRole { pod, .. } => {
                self.change(Kind::Pod, pod, json!({ "metadata": { "labels": { LABEL_ROLE: null } } }));
            }
            Action::ReleaseLock(release) => {
                let lock = self.get(Kind::ConfigMap, "db-leader");
                assert_eq!(text(lock, "/metadata/resourceVersion"), Some(release.version.as_str()));
                let free = json!({ "metadata": { "annotations": { "leader": null } } });
                self.change(Kind::ConfigMap, "db-leader", free);
            }
            Action::Mark(marking) => self.mark(marking),
            Action::PatchStatus(status) => database.status = Some((**status).clone()),
            Action::PublishEvent(event) => self.events.push(event.clone()),
        }
    }

    /// Certificates as they are told of, without any content.
    fn certificate(&mut self, names: &[String], days: i64, by: Option<String>) -> Certificate {
        self.serial += 1;
        let fingerprint = format!("certificate-{}", self.serial);
        let day = jiff::SignedDuration::from_hours(24);
        Certificate {
            serial: self.serial.to_string(),
            not_before: self.now,
            not_after: self.now + day * i32::try_from(days).unwrap(),
            names: names.to_vec(),
            signed_by: Some(by.unwrap_or_else(|| fingerprint.clone())),
            fingerprint,
        }
    }

    fn secure(&mut self, securing: &Securing) {
        let version_of = |world: &Self, name: &str| {
            let secret = world.observed.get(Kind::Secret, name)?;
            text(secret, "/metadata/resourceVersion").map(str::to_owned)
        };
        let (name, seen) = match securing {
            Securing::MakeAuthority { body, .. } => (name_of(body).to_owned(), None),
            Securing::RenewAuthority { name, version } => (name.clone(), version.clone()),
            Securing::Certify { body, version, .. } => (name_of(body).to_owned(), version.clone()),
            Securing::Trust { to, version, .. } => (to.clone(), version.clone()),
        };
        assert_eq!(version_of(self, &name), seen, "{securing:?}");
        let mut held = self.observed.certificates.get(&name).cloned().unwrap_or_default();
        let mut annotations = json!({});
        match securing {
            Securing::MakeAuthority { before, .. } => {
                let made = self.certificate(&[], 3650, None);
                let before = self.observed.certificates.get(before).cloned().unwrap_or_default();
                held = Held {
                    trusted: [vec![made.clone()], before.trusted].concat(),
                    certificate: Some(made),
                    problem: None,
                };
            }
            Securing::RenewAuthority { .. } => {
                let made = self.certificate(&[], 3650, None);
                held.trusted.insert(0, made.clone());
                held.certificate = Some(made);
            }
            Securing::Certify { authority, names, .. } => {
                let authority = self.observed.certificates[authority].clone();
                let by = authority.certificate.map(|by| by.fingerprint);
                let certificate = Some(self.certificate(names, 90, by));
                held = Held { certificate, trusted: authority.trusted, problem: None };
            }
            Securing::Trust { from, note, .. } => {
                held.trusted = self.observed.certificates[from].trusted.clone();
                annotations = note.as_ref().map_or(annotations, |note| json!({ TOLD: note }));
            }
        }
        self.serial += 1;
        let mut secret = self.observed.get(Kind::Secret, &name).cloned().unwrap_or_else(
            || json!({ "metadata": { "name": name, "namespace": "ns", "labels": Names("db").labels() } }),
        );
        json_patch::merge(
            &mut secret,
            &json!({ "metadata": { "resourceVersion": self.serial.to_string(), "annotations": annotations } }),
        );
        self.put(Kind::Secret, secret);
        if !matches!(securing, Securing::Trust { note: Some(_), .. }) {
            self.observed.certificates.insert(name, held);
        }
    }

    /// As the API server: what is applied replaces what was applied before, and defaults are filled in.
    fn apply(&mut self, apply: &Apply) {
        let name = name_of(&apply.body).to_owned();
        let old = self.observed.get(apply.kind, &name).cloned();
        assert_eq!(old.as_ref().and_then(uid_of), apply.uid.as_deref());
        let mut object = apply.body.clone();
        if let Some(old) = old.as_ref().filter(|_| Names("db").patroni_objects().contains(&name)) {
            // Patroni wrote the rest.
            let ours = std::mem::replace(&mut object, old.clone());
            // What is left out of an apply goes.
            let none = json!({ RELEASE: null, notes::ARCHIVE: null, rollout::ROLLOUT: null });
            json_patch::merge(&mut object, &json!({ "metadata": { "annotations": none } }));
            json_patch::merge(&mut object, &ours);
        } else if let Some(old) = &old {
            for kept in ["/metadata/uid", "/status", "/metadata/generation"] {
                if let Some(value) = at(old, kept) {
                    let (parent, key) = kept.rsplit_once('/').unwrap();
                    object.pointer_mut(parent).unwrap()[key] = value.clone();
                }
            }
        }
        match apply.kind {
            Kind::StatefulSet => {
                if let Some(old) = &old {
                    assert_eq!(
                        list(old, "/spec/volumeClaimTemplates").len(),
                        list(&object, "/spec/volumeClaimTemplates").len()
                    );
                    assert_eq!(at(old, "/spec/selector"), at(&object, "/spec/selector"), "immutable");
                }
                object["spec"]["revisionHistoryLimit"] = json!(10);
                object["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] = json!("Filesystem");
                object["spec"]["volumeClaimTemplates"][0]["status"] = json!({ "phase": "Pending" });
                let generation = old.and_then(|old| number(&old, "/metadata/generation")).unwrap_or(0);
                object["metadata"]["generation"] = json!(generation + 1);
            }
            Kind::Service if at(&object, "/spec/clusterIP").is_none() => {
                object["spec"]["clusterIP"] = json!("10.0.0.1");
            }
            _ => {}
        }
        self.put(apply.kind, object);
    }

    /// As the controller writes it, after a fresh look.
    fn mark(&mut self, marking: &Marking) {
        assert!(marking.with == With::Nothing || self.pods().is_empty(), "somebody runs on the data");
        let data = [
            ("db-leader", vec!["leader", "optime", "failsafe"]),
            ("db-sync", vec!["leader", "sync_standby", "quorum"]),
            ("db-config", vec!["initialize", "history"]),
        ];
        let annotations =
            |world: &Self, map: &str| world.get(Kind::ConfigMap, map)["metadata"]["annotations"].clone();
        let mut own = json!(marking.annotations);
        match marking.with {
            With::Nothing | With::Gone => {}
            With::Noted => {
                let mut noted = json!({});
                for (map, keys) in &data {
                    let all = annotations(self, map);
                    keys.iter().for_each(|key| noted[*map][*key] = all[*key].clone());
                }
                own[crate::api::REPLACED] = json!(noted.to_string());
            }
            With::Forgotten => {
                for (map, keys) in &data {
                    let none: serde_json::Map<_, _> =
                        keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
                    self.change(Kind::ConfigMap, map, json!({ "metadata": { "annotations": none } }));
                }
            }
            With::PutBack => {
                let noted = annotations(self, "db-config")[crate::api::REPLACED].clone();
                let noted: Value =
                    noted.as_str().map_or_else(|| json!({}), |text| serde_json::from_str(text).unwrap());
                for (map, said) in noted.as_object().unwrap() {
                    self.change(Kind::ConfigMap, map, json!({ "metadata": { "annotations": said } }));
                }
            }
        }
        self.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": own } }));
    }

    /// What the agents do before Patroni starts; returns whether it may. Pods of an older template wait for ever.
    fn admit(&mut self, pods: &[String]) -> bool {
        let Ok(Some(mark)) = crate::api::Mark::of(self.get(Kind::ConfigMap, "db-config")) else {
            return true;
        };
        let id = mark.id.to_string();
        let file = self.get(Kind::ConfigMap, "db-patroni")["data"][CONFIG_KEY].as_str().unwrap();
        let file: Value = serde_json::from_str(file).unwrap();
        if mark.stage < crate::api::Stage::Restoring || file["dbctl"]["restore"] != id.as_str() {
            return false;
        }
        for pod in pods {
            let volume = self.volume(pod);
            if self.followed.insert(volume.clone(), id.clone()).as_deref() == Some(&id) {
                continue;
            }
            let data = self.volumes.remove(&volume).zip(self.contents.remove(&volume));
            match data {
                Some(data) if !mark.undo => drop(self.aside.insert(volume, data.1)),
                data if mark.undo => {
                    let old = self.aside.remove(&volume).or(data.map(|(_, content)| content));
                    if let Some(old) = old {
                        self.volumes.insert(volume.clone(), "7710".to_owned());
                        self.contents.insert(volume, old);
                    }
                }
                _ => {}
            }
        }
        true
    }

    fn volume(&self, pod: &str) -> String {
        let claim = self.observed.get(Kind::PersistentVolumeClaim, &format!("data-{pod}"));
        claim.and_then(uid_of).unwrap_or_default().to_owned()
    }

    /// What each member's data is.
    pub fn contents(&self) -> Vec<String> {
        self.pods()
            .iter()
            .map(|pod| self.contents.get(&self.volume(pod)).cloned().unwrap_or_default())
            .collect()
    }

    fn collect_garbage(&mut self) {
        let uid = self.database.take().and_then(|database| database.metadata.uid);
        for kind in Kind::ALL {
            let gone: Vec<String> = self
                .observed
                .all(kind)
                .filter(|object| owners(object).iter().any(|owner| owner["uid"].as_str() == uid.as_deref()))
                .map(|object| name_of(object).to_owned())
                .collect();
            gone.iter().for_each(|name| drop(self.observed.remove(kind, name)));
        }
    }

    /// The StatefulSet controller, the nodes, Patroni and the EndpointSlice controller do what they do.
    pub fn step(&mut self) {
        self.carry_out();
        self.stateful_set();
        self.patroni();
        self.endpoints();
    }

    /// What Patroni is asked for.
    fn carry_out(&mut self) {
        let Some(mut asked) = self.observed.asked.take() else { return };
        if asked.outcome == AskOutcome::UnderWay {
            asked.outcome = match &self.refuses {
                Some(why) => AskOutcome::Failed(why.clone()),
                None => self.patroni_does(&asked.ask),
            };
        }
        self.observed.asked = Some(asked);
    }

    fn patroni_does(&mut self, ask: &Ask) -> AskOutcome {
        match ask {
            Ask::Switchover { leader, candidate, .. } => {
                if self.leader() != Some(leader) || !self.pods().contains(candidate) {
                    return AskOutcome::Failed("leader name does not match".to_owned());
                }
                self.restart(leader);
                self.lead(candidate);
            }
            Ask::Failover { candidate } => self.lead(candidate),
            Ask::Restart { member } => self.restart(member),
        }
        AskOutcome::Done("done".to_owned())
    }

    /// Its PostgreSQL starts anew, which only those tell that are asked.
    fn restart(&mut self, member: &str) {
        let now = self.now.to_string();
        if let Some(answer) = self.observed.answers.get_mut(member) {
            answer.postmaster_start_time = Some(now);
        }
    }

    pub fn stateful_set(&mut self) {
        // One without an owner is a foreign one of the tests.
        let set = self.observed.get(Kind::StatefulSet, "db").filter(|set| !owners(set).is_empty()).cloned();
        let replicas = set.as_ref().and_then(|set| number(set, "/spec/replicas")).unwrap_or(0);
        let surplus: Vec<String> = self
            .observed
            .all(Kind::Pod)
            .filter(|pod| !owners(pod).is_empty())
            .map(|pod| name_of(pod).to_owned())
            .filter(|name| Names("db").ordinal(name).is_none_or(|ordinal| ordinal >= replicas))
            .collect();
        surplus.iter().for_each(|name| drop(self.observed.remove(Kind::Pod, name)));
        let Some(mut set) = set else { return };
        let revision = compare::hash(&set["spec"]["template"]);
        set["status"] =
            json!({ "updateRevision": revision, "observedGeneration": set["metadata"]["generation"] });
        for ordinal in 0..replicas {
            self.ensure_member(&set, ordinal, &revision);
        }
        self.observed.insert(Kind::StatefulSet, set);
    }

    fn ensure_member(&mut self, set: &Value, ordinal: i32, revision: &str) {
        let (claim, pod) = (Names("db").claim(ordinal), Names("db").member(ordinal));
        if self.observed.get(Kind::PersistentVolumeClaim, &claim).is_none() {
            let template = set["spec"]["volumeClaimTemplates"][0].clone();
            let mut labels = template["metadata"]["labels"].clone();
            json_patch::merge(&mut labels, &set["spec"]["selector"]["matchLabels"]);
            self.put(
                Kind::PersistentVolumeClaim,
                json!({
                    "metadata": { "name": claim, "namespace": "ns", "labels": labels },
                    "spec": template["spec"], "status": { "phase": "Bound", "capacity": template["spec"]["resources"]["requests"] },
                }),
            );
        }
        if self.observed.get(Kind::Pod, &pod).is_some_and(|pod| pod["metadata"]["annotations"][LEFT] == "yes")
        {
            let owner = json!({ "kind": "StatefulSet", "name": "db", "uid": uid_of(set) });
            let adopted =
                json!({ "metadata": { "ownerReferences": [owner], "annotations": { LEFT: null } } });
            self.change(Kind::Pod, &pod, adopted);
        }
        if self.observed.get(Kind::Pod, &pod).is_none() {
            let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
            labels["controller-revision-hash"] = json!(revision);
            let owner = json!({ "kind": "StatefulSet", "name": "db", "uid": uid_of(set) });
            let ready = !self.broken.iter().any(|release| labels[LABEL_VERSION] == release.as_str());
            let annotations = set["spec"]["template"]["metadata"]["annotations"].clone();
            let restarts = if ready { 0 } else { 3 };
            self.put(
                Kind::Pod,
                json!({
                    "metadata": { "name": pod, "namespace": "ns", "labels": labels, "annotations": annotations,
                        "ownerReferences": [owner], "creationTimestamp": self.now },
                    "spec": { "nodeName": "node", "volumes": set["spec"]["template"]["spec"]["volumes"] },
                    "status": {
                        "podIP": format!("10.1.0.{ordinal}"),
                        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": self.now }],
                        "containerStatuses": [{ "name": CONTAINER, "restartCount": restarts }],
                    },
                }),
            );
        }
    }

    pub fn pods(&self) -> Vec<String> {
        let left = |pod: &&Value| at(pod, "/metadata/annotations").is_some_and(|all| all.get(LEFT).is_some());
        let own = self.observed.all(Kind::Pod).filter(|pod| !owners(pod).is_empty() || left(pod));
        own.map(|pod| name_of(pod).to_owned()).collect()
    }

    pub fn leader(&self) -> Option<&str> {
        text(self.observed.get(Kind::ConfigMap, "db-leader")?, "/metadata/annotations/leader")
    }

    /// Whether every member that is asked for has data, or nobody has.
    pub fn volumes_are_filled(&self) -> bool {
        let set = self.observed.get(Kind::StatefulSet, "db");
        let asked = set.and_then(|set| number(set, "/spec/replicas")).unwrap_or(0);
        let filled = |ordinal| {
            let claim = self.observed.get(Kind::PersistentVolumeClaim, &Names("db").claim(ordinal));
            claim.and_then(uid_of).is_some_and(|uid| self.volumes.contains_key(uid))
        };
        self.volumes.is_empty() || (0..asked).all(filled)
    }

    /// Patroni's synchronous mode, as it runs.
    pub fn mode(&self) -> Value {
        let config = text(self.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/config").unwrap();
        serde_json::from_str::<Value>(config).unwrap()["synchronous_mode"].clone()
    }

    /// What a member answers when asked, or that it does not.
    pub fn answer(&mut self, member: &str, answer: Option<crate::patroni::Answer>) {
        match answer {
            Some(answer) => drop(self.observed.answers.insert(member.to_owned(), answer)),
            None => drop(self.observed.answers.remove(member)),
        }
    }

    pub fn lead(&mut self, pod: &str) {
        self.change(
            Kind::ConfigMap,
            "db-leader",
            json!({ "metadata": { "annotations": { "leader": pod } } }),
        );
        // Those that answer say so too.
        for (name, answer) in &mut self.observed.answers {
            let leads = name == pod;
            answer.role = if leads { "primary" } else { "replica" }.to_owned();
            answer.replication_state = (!leads).then(|| "streaming".to_owned());
        }
        self.observed.lock_age = LockAge::Fresh;
        self.patroni();
        self.endpoints();
    }

    fn patch_config(&mut self, patch: &Value) {
        let object = self.get(Kind::ConfigMap, "db-config");
        let mut config: Value =
            serde_json::from_str(text(object, "/metadata/annotations/config").unwrap()).unwrap();
        json_patch::merge(&mut config, patch);
        let annotations = json!({ "config": config.to_string() });
        self.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
    }

    fn patroni(&mut self) {
        let pods = self.pods();
        if self.leader().is_some_and(|leader| !pods.iter().any(|pod| pod == leader)) {
            self.change(
                Kind::ConfigMap,
                "db-leader",
                json!({ "metadata": { "annotations": { "leader": null } } }),
            );
        }
        if pods.is_empty() {
            return;
        }
        for name in Names("db").patroni_objects() {
            // A member makes what it misses.
            if self.observed.get(Kind::ConfigMap, &name).is_none() {
                let labels = Names("db").labels();
                self.put(
                    Kind::ConfigMap,
                    json!({ "metadata": { "name": name, "namespace": "ns", "labels": labels } }),
                );
            }
        }
        if !self.admit(&pods) {
            return;
        }
        if let Some(line) = &self.unrestorable
            && text(self.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/initialize").is_none()
        {
            let ended = json!({ "name": CONTAINER, "state": { "waiting": {} }, "lastState": { "terminated": { "message": line } } });
            self.change(Kind::Pod, &pods[0], json!({ "status": { "containerStatuses": [ended] } }));
            return;
        }
        self.bootstrap(&pods);
        if self.leader().is_none() {
            self.change(
                Kind::ConfigMap,
                "db-leader",
                json!({ "metadata": { "annotations": { "leader": pods.iter().find(|pod| self.is_up(pod)) } } }),
            );
        }
        let Some(leader) = self.leader().map(str::to_owned) else { return };
        let failsafe: serde_json::Map<_, _> = pods.iter().map(|pod| (pod.clone(), json!("url"))).collect();
        let failsafe = Value::Object(failsafe).to_string();
        self.change(
            Kind::ConfigMap,
            "db-leader",
            json!({ "metadata": { "annotations": { "optime": "100", "failsafe": failsafe } } }),
        );
        let standbys: Vec<&str> =
            pods.iter().filter(|pod| **pod != leader && self.is_up(pod)).map(String::as_str).collect();
        let quorum = standbys.len().saturating_sub(1).to_string();
        let standbys = if self.mode() == json!("quorum") { standbys.join(",") } else { String::new() };
        let sync = json!({ "leader": leader, "sync_standby": standbys, "quorum": quorum });
        self.change(Kind::ConfigMap, "db-sync", json!({ "metadata": { "annotations": sync } }));
        for pod in pods.iter().filter(|pod| self.is_up(pod)).cloned().collect::<Vec<_>>() {
            self.member_status(&pod, pod == leader);
        }
    }

    fn is_up(&self, pod: &str) -> bool {
        is_well(self.get(Kind::Pod, pod))
    }

    /// Whoever leads writes its own identity again. Where nobody leads, a member with an empty volume makes the database
    /// by the rendered file, if there is such a member: the worst that the race can come to.
    fn bootstrap(&mut self, pods: &[String]) {
        let volumes: Vec<String> = pods.iter().map(|pod| self.volume(pod)).collect();
        let file = self.get(Kind::ConfigMap, "db-patroni")["data"][CONFIG_KEY].as_str().unwrap();
        let file: Value = serde_json::from_str(file).unwrap();
        let restores = file["dbctl"]["restore"].as_str().filter(|_| file["bootstrap"]["method"] == "dbctl");
        let restores = restores.map(str::to_owned);
        let known = text(self.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/initialize")
            .map(str::to_owned);
        let leads = self.leader().and_then(|leader| pods.iter().position(|pod| pod == leader));
        let identity = known.unwrap_or_else(|| {
            let first =
                leads.or_else(|| volumes.iter().position(|volume| !self.volumes.contains_key(volume)));
            let held = self.volumes.get(&volumes[first.unwrap_or_default()]).cloned();
            held.unwrap_or_else(|| {
                let bare = self.volumes.is_empty() || restores.is_some();
                assert!(bare, "an empty database beside data: {:?}", self.volumes);
                "7710".to_owned()
            })
        });
        let source = leads.and_then(|leads| self.contents.get(&volumes[leads]).cloned());
        let source = source.or_else(|| volumes.iter().find_map(|volume| self.contents.get(volume).cloned()));
        let source = source.or(restores).unwrap_or_else(|| "before".to_owned());
        for volume in volumes {
            self.volumes.insert(volume.clone(), identity.clone());
            self.contents.entry(volume).or_insert_with(|| source.clone());
        }
        let config =
            text(self.get(Kind::ConfigMap, "db-config"), "/metadata/annotations/config").map(str::to_owned);
        let config = config.unwrap_or_else(|| file["bootstrap"]["dcs"].to_string());
        let annotations = json!({ "initialize": identity, "config": config });
        self.change(Kind::ConfigMap, "db-config", json!({ "metadata": { "annotations": annotations } }));
    }

    fn member_status(&mut self, pod: &str, leads: bool) {
        let status = if leads {
            json!({ "state": "running", "role": "primary", "timeline": 1, "xlog_location": 100 })
        } else {
            json!({ "state": "running", "role": "replica", "replication_state": "streaming", "timeline": 1, "replay_lsn": 100 })
        };
        let role = if leads { "primary" } else { "replica" };
        self.change(
            Kind::Pod,
            pod,
            json!({ "metadata": { "annotations": { "status": status.to_string() }, "labels": { LABEL_ROLE: role } } }),
        );
    }

    fn endpoints(&mut self) {
        if self.observed.get(Kind::Service, "db").is_none() {
            drop(self.observed.remove(Kind::EndpointSlice, "db-x"));
            return;
        }
        let endpoints: Vec<Value> = self
            .observed
            .all(Kind::Pod)
            .filter(|pod| label(pod, LABEL_ROLE) == Some("primary"))
            .map(|pod| json!({ "targetRef": { "name": name_of(pod) }, "conditions": { "ready": true } }))
            .collect();
        let labels = json!({ "kubernetes.io/service-name": "db", "db.example.com/database": "db" });
        let slice = json!({ "metadata": { "name": "db-x", "namespace": "ns", "labels": labels }, "endpoints": endpoints });
        self.observed.insert(Kind::EndpointSlice, Arc::new(slice));
    }
}

/// Its containers run and are ready.
fn is_well(pod: &Value) -> bool {
    list(pod, "/status/conditions").iter().all(|condition| condition["status"] == "True")
}
