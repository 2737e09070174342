//! The recordings of a real API server, replayed against these functions alone: a server of some two hundred lines
//! without a store, a clock or a network. What only a real server can answer (missing objects, stale versions,
//! controllers) is left to the whole server's replay.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::{ApplyError, Writer, apply, track_update};
use super::schema::{Schema, strict_message};
use super::selector::{FieldSelector, LabelSelector};
use super::{Gvk, builtin, error, invalid, patch, table};

const RESOURCES: &[(&str, &str, &str)] = &[
    ("", "configmaps", "ConfigMap"),
    ("", "secrets", "Secret"),
    ("", "services", "Service"),
    ("", "pods", "Pod"),
    ("", "events", "Event"),
    ("", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("apps", "statefulsets", "StatefulSet"),
    ("batch", "jobs", "Job"),
    ("batch", "cronjobs", "CronJob"),
    ("coordination.k8s.io", "leases", "Lease"),
    ("events.k8s.io", "events", "Event"),
    ("rbac.authorization.k8s.io", "roles", "Role"),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition"),
];
const GROUP: &str = "tabcdef.example.com";

/// What a path names.
struct Target {
    gvk: Gvk,
    plural: String,
    schema: Schema,
    custom: Option<Value>,
    name: Option<String>,
    subresource: String,
    query: BTreeMap<String, String>,
}

#[derive(Default)]
struct Server {
    objects: BTreeMap<(String, String), Value>,
    definition: Option<Value>,
    made: usize,
}

type Answer = (u64, Value);

impl Server {
    fn target(&self, path: &str) -> Target {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version) = match parts.remove(0) {
            "api" => ("", parts.remove(0)),
            _ => (parts.remove(0), parts.remove(0)),
        };
        if parts[0] == "namespaces" && parts.len() > 2 {
            parts.drain(..2);
        }
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| {
                (key.to_owned(), percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
            })
            .collect();
        let custom = self.definition.clone().filter(|_| group == GROUP);
        let (kind, schema) = match &custom {
            Some(definition) => {
                let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
                ("Widget", Schema::from_crd(schema).unwrap())
            }
            None => {
                let found = RESOURCES.iter().find(|(g, plural, _)| *g == group && *plural == parts[0]);
                let kind = found.unwrap_or_else(|| panic!("unknown {path}")).2;
                (kind, Schema::builtin(&Gvk::gvk(group, version, kind)).unwrap())
            }
        };
        Target {
            gvk: Gvk::gvk(group, version, kind),
            plural: parts[0].to_owned(),
            schema,
            custom,
            name: parts.get(1).map(|name| (*name).to_owned()),
            subresource: parts.get(2).copied().unwrap_or_default().to_owned(),
            query,
        }
    }

    fn handle(&mut self, step: &Value) -> Answer {
        let mut target = self.target(step["path"].as_str().unwrap());
        let (body, kind) = (&step["body"], step["type"].as_str().unwrap_or_default());
        let result = match (step["method"].as_str().unwrap(), target.name.clone()) {
            ("GET", Some(name)) => Ok((200, self.objects[&(target.plural, name)].clone())),
            ("GET", None) => self.list(&target, step["accept"].as_str().unwrap_or_default()),
            ("POST", _) => self.create(&target, body.clone()),
            ("PUT", Some(name)) => self.replace(&target, &name, body.clone()),
            ("PATCH", Some(name)) => {
                target.name = Some(name.clone());
                self.patch(&target, &name, body, kind)
            }
            (other, _) => panic!("{other}"),
        };
        result.unwrap_or_else(|status| (status["code"].as_u64().unwrap(), status))
    }

    fn list(&self, target: &Target, accept: &str) -> Result<Answer, Value> {
        let bad =
            |error: super::selector::SelectorError| error::status(400, "BadRequest", &error.0, Value::Null);
        let labels = target.query.get("labelSelector").map_or("", String::as_str);
        let labels = LabelSelector::parse(labels).map_err(bad)?;
        let fields = target.query.get("fieldSelector").map_or("", String::as_str);
        let fields = FieldSelector::parse(fields, &target.gvk, &[]).map_err(bad)?;
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|((plural, _), object)| {
                *plural == target.plural && labels.matches_object(object) && fields.matches(object)
            })
            .map(|(_, object)| builtin::convert(object, &target.gvk))
            .collect();
        if accept.contains("as=Table") {
            let columns =
                target.custom.as_ref().map(|it| &it["spec"]["versions"][0]["additionalPrinterColumns"]);
            let items: Vec<&Value> = items.iter().collect();
            let include = table::IncludeObject::default();
            let now = Timestamp::now();
            return Ok((200, table::render(&target.gvk, columns, &items, &json!({}), include, now)));
        }
        let partial = accept.contains("as=PartialObjectMetadataList");
        let items: Vec<Value> = items
            .into_iter()
            .map(|mut item| {
                if partial {
                    return table::partial(&item);
                }
                item.as_object_mut().unwrap().remove("kind");
                item
            })
            .collect();
        let kind =
            if partial { "PartialObjectMetadataList".to_owned() } else { format!("{}List", target.gvk.kind) };
        Ok((200, json!({"kind": kind, "items": items})))
    }

    /// Decoding, pruning and defaulting.
    fn read(&self, target: &Target, mut object: Value) -> Result<Value, Value> {
        let bad = |text: &str| error::status(400, "BadRequest", text, Value::Null);
        let unknown = target.schema.unknown_fields(&object);
        if !unknown.is_empty() && target.query.get("fieldValidation").is_some_and(|mode| mode == "Strict") {
            return Err(bad(&strict_message(&target.gvk, &unknown)));
        }
        if target.custom.is_none() {
            target.schema.decode(&target.gvk, &object).map_err(|text| bad(&text))?;
        }
        target.schema.prune(&mut object);
        if target.custom.is_some() {
            target.schema.default(&mut object);
        } else {
            builtin::default(&target.gvk, &mut object);
        }
        Ok(object)
    }

    fn refuse(target: &Target, object: &Value, errors: &[super::FieldError]) -> Result<(), Value> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(invalid(&target.gvk.group, &target.gvk.kind, name, errors))
        }
    }

    fn create(&mut self, target: &Target, object: Value) -> Result<Answer, Value> {
        let mut object = self.read(target, object)?;
        self.made += 1;
        if let Some(prefix) = object.pointer("/metadata/generateName").and_then(Value::as_str) {
            object["metadata"]["name"] = json!(format!("{prefix}{}", self.made));
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.made));
        object["metadata"]["resourceVersion"] = json!(self.made.to_string());
        object["metadata"]["namespace"] = json!("ns");
        let mut errors;
        if target.custom.is_some() {
            object.as_object_mut().unwrap().remove("status");
            object["metadata"]["generation"] = json!(1);
            errors = builtin::metadata(&target.gvk, &object);
            errors.extend(target.schema.validate(&object, None));
        } else {
            if target.gvk.kind == "Service" && object["spec"]["clusterIP"].is_null() {
                object["spec"]["clusterIP"] = json!("127.1.255.9");
            }
            builtin::prepare_create(&target.gvk, &mut object);
            errors = builtin::validate_create(&target.gvk, &object);
        }
        Self::refuse(target, &object, &errors)?;
        track_update(None, &mut object, &target.schema, &writer(target, "tests"));
        if target.gvk.kind == "CustomResourceDefinition" {
            self.definition = Some(object.clone());
        }
        Ok((201, self.store(target, object)))
    }

    fn store(&mut self, target: &Target, object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.insert((target.plural.clone(), name), object.clone());
        object
    }

    fn replace(&mut self, target: &Target, name: &str, mut object: Value) -> Result<Answer, Value> {
        let old = self.objects[&(target.plural.clone(), name.to_owned())].clone();
        for field in ["uid", "namespace", "resourceVersion", "generation"] {
            if let Some(value) = old["metadata"].get(field) {
                object["metadata"][field] = value.clone();
            }
        }
        self.write(target, &old, object, true)
    }

    /// Stores a changed object.
    fn write(&mut self, target: &Target, old: &Value, object: Value, track: bool) -> Result<Answer, Value> {
        let mut object = self.read(target, object)?;
        let errors = if target.subresource == "status" {
            builtin::prepare_status_update(&target.gvk, &mut object, old);
            match target.custom {
                Some(_) => target.schema.validate(&object, Some(old)),
                None => builtin::validate_status_update(&target.gvk, &object, old),
            }
        } else if target.custom.is_some() {
            object["status"] = old["status"].clone();
            if object["status"].is_null() {
                object.as_object_mut().unwrap().remove("status");
            }
            let generation = old["metadata"]["generation"].as_i64().unwrap();
            object["metadata"]["generation"] = json!(generation + i64::from(object["spec"] != old["spec"]));
            let mut errors = builtin::metadata_update(&target.gvk, &object, old);
            errors.extend(target.schema.validate(&object, Some(old)));
            errors
        } else {
            builtin::prepare_update(&target.gvk, &mut object, old);
            builtin::validate_update(&target.gvk, &object, old)
        };
        Self::refuse(target, &object, &errors)?;
        if track {
            track_update(Some(old), &mut object, &target.schema, &writer(target, "tests"));
        }
        Ok((200, self.store(target, object)))
    }

    fn patch(&mut self, target: &Target, name: &str, body: &Value, kind: &str) -> Result<Answer, Value> {
        let live = self.objects.get(&(target.plural.clone(), name.to_owned())).cloned();
        let failed = |error: patch::PatchError| error.status();
        let patched = match (kind, &live) {
            ("application/apply-patch+yaml", _) => return self.apply(target, live.as_ref(), body),
            (_, None) => panic!("nothing to patch"),
            ("application/json-patch+json", Some(live)) => patch::json_patch(live, body).map_err(failed)?,
            ("application/merge-patch+json", Some(live)) => patch::merge_patch(live, body).map_err(failed)?,
            (_, Some(live)) => patch::strategic_patch(live, body, &target.schema).map_err(failed)?,
        };
        self.write(target, &live.unwrap_or_default(), patched, true)
    }

    fn apply(&mut self, target: &Target, live: Option<&Value>, body: &Value) -> Result<Answer, Value> {
        let manager = target.query.get("fieldManager").map_or("", String::as_str);
        let force = target.query.get("force").is_some_and(|force| force == "true");
        let applied = apply(live, body, &target.schema, &writer(target, manager), force)
            .map_err(|error: ApplyError| error.status(&target.gvk, &json!({"metadata": {"name": "x"}})))?;
        match live {
            None => {
                let managed = applied["metadata"]["managedFields"].clone();
                let (code, mut object) = self.create(target, applied)?;
                object["metadata"]["managedFields"] = managed;
                Ok((code, self.store(target, object)))
            }
            Some(live) if applied == *live => Ok((200, applied)),
            Some(live) => self.write(target, live, applied, false),
        }
    }
}

fn writer(target: &Target, manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        subresource: target.subresource.clone(),
        api_version: target.gvk.api_version(),
        now: Timestamp::now(),
    }
}

/// Steps whose answer depends on what is stored, not on the object.
fn beyond(step: &Value) -> bool {
    let about_fields = step.pointer("/expect/~1details~1causes~10~1reason").is_some();
    step.get("method").is_none()
        || matches!(step["status"].as_u64(), Some(404 | 415 | 429))
        || (step["status"] == json!(409) && !about_fields)
        || step.pointer("/body/metadata/namespace").is_some()
        || step["path"].as_str().is_some_and(|path| path.ends_with("/scale"))
}

fn filled(text: &str) -> String {
    text.replace("${ns}", "ns").replace("${crdgroup}", GROUP)
}

/// Replays a recording; the number of steps that were compared.
fn replay(name: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(format!("{name}.json"));
    let recording: Value = serde_json::from_str(&filled(&std::fs::read_to_string(path).unwrap())).unwrap();
    let mut server = Server::default();
    let mut compared = 0;
    for (index, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        if beyond(step) {
            continue;
        }
        let (code, answer) = server.handle(step);
        let at = format!("{name} step {index}: {code} {answer:#}");
        assert_eq!(json!(code), step["status"], "{at}");
        for (pointer, value) in step["expect"].as_object().into_iter().flatten() {
            let found = answer.pointer(pointer).cloned().unwrap_or(json!("$absent"));
            assert_eq!(&found, value, "{pointer} of {at}");
        }
        for pointer in step["present"].as_array().into_iter().flatten() {
            assert!(answer.pointer(pointer.as_str().unwrap()).is_some(), "{pointer} of {at}");
        }
        compared += 1;
    }
    compared
}

macro_rules! recordings {
    ($($test:ident: $name:literal, $steps:literal;)*) => {
        $(#[test]
        fn $test() {
            assert_eq!(replay($name), $steps);
        })*
    };
}

recordings! {
    json_patches: "json-patch", 6;
    merge_patches: "merge-patch", 3;
    strategic_merge_patches: "strategic-merge-patch", 5;
    server_side_apply: "server-side-apply", 7;
    apply_of_nested_lists: "apply-nested-lists", 4;
    selectors: "selectors", 11;
    secrets: "secret", 4;
    names: "create-conflicts", 4;
    custom_validation: "crd-validation", 8;
    custom_defaults: "crd-defaults-and-pruning", 4;
    custom_transitions: "crd-transition-rules", 9;
    custom_tables: "crd-table", 5;
    custom_status: "crd-status-subresource", 10;
    stateful_sets: "statefulset-defaults", 4;
    services: "service", 4;
    cron_jobs: "cronjob", 4;
    claims: "pvc", 3;
    leases: "lease", 3;
    roles: "rbac-objects", 3;
}
