//! A container's environment, as kubelets make it; pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector,
};

use super::sources::{Content, Ref};
use crate::api::Quantity;

/// What may be asked about the machine when a container has no limit of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub milli_cpu: i128,
    pub memory: i128,
    pub storage: i128,
}

/// What references are resolved against.
pub(super) struct Scope<'a> {
    pub pod: &'a Pod,
    /// The pod's address.
    pub address: &'a str,
    /// The node's address.
    pub host: &'a str,
    pub capacity: Capacity,
    /// ConfigMaps and Secrets that the pod refers to.
    pub contents: &'a BTreeMap<Ref, Option<Content>>,
}

/// The variables of a container in order, `$(NAME)` expanded; or what is missing.
pub(super) fn variables(scope: &Scope<'_>, container: &Container) -> Result<Vec<(String, String)>, String> {
    let mut known: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: String| {
        known.retain(|(other, _)| other != name);
        known.push((name.to_owned(), value));
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (reference, optional) = if let Some(map) = &source.config_map_ref {
            (Ref::ConfigMap(map.name.clone()), map.optional)
        } else if let Some(secret) = &source.secret_ref {
            (Ref::Secret(secret.name.clone()), secret.optional)
        } else {
            continue;
        };
        match scope.data(&reference) {
            Some(data) => {
                for (key, value) in data {
                    // What no variable can hold stays out: a ConfigMap's binaryData, most of all.
                    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
                    if let Some(text) = text {
                        put(&format!("{prefix}{key}"), text.to_owned());
                    }
                }
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{reference} not found")),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => scope.source(variable, source, container)?,
            (value, None) => {
                let value = value.as_deref().unwrap_or_default();
                let expanded = expand(value, |name| lookup(&known, name));
                Some(expanded)
            }
        };
        if let Some(value) = value {
            known.retain(|(other, _)| *other != variable.name);
            known.push((variable.name.clone(), value));
        }
    }
    Ok(known)
}

fn lookup(known: &[(String, String)], name: &str) -> Option<String> {
    known.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

/// Replaces `$(NAME)` where the name is known; `$$(NAME)` is how `$(NAME)` is said literally.
pub(super) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(literal) = after.strip_prefix('$') {
            result.push('$');
            rest = literal;
        } else if let Some((name, behind)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = behind;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

impl Scope<'_> {
    fn data(&self, reference: &Ref) -> Option<&BTreeMap<String, Vec<u8>>> {
        match self.contents.get(reference) {
            Some(Some(Content::Data(data))) => Some(data),
            _ => None,
        }
    }

    fn source(
        &self,
        variable: &EnvVar,
        source: &EnvVarSource,
        container: &Container,
    ) -> Result<Option<String>, String> {
        if let Some(field) = &source.field_ref {
            return self.field(field).map(Some);
        }
        if let Some(resource) = &source.resource_field_ref {
            return self.resource(resource, container).map(Some);
        }
        let (reference, key, optional) = if let Some(selector) = &source.config_map_key_ref {
            (Ref::ConfigMap(selector.name.clone()), &selector.key, selector.optional)
        } else if let Some(selector) = &source.secret_key_ref {
            (Ref::Secret(selector.name.clone()), &selector.key, selector.optional)
        } else {
            return Err(format!("the source of variable {} is not supported here", variable.name));
        };
        let value = match self.data(&reference) {
            Some(data) => data.get(key).ok_or_else(|| format!("couldn't find key {key} in {reference}")),
            None => Err(format!("{reference} not found")),
        };
        match value {
            Ok(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            Err(_) if optional == Some(true) => Ok(None),
            Err(message) => Err(message),
        }
    }

    /// A field of the pod, as the downward API names it.
    pub fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
        let path = selector.field_path.as_str();
        if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
            let map = match map {
                "metadata.labels" => metadata.labels.as_ref(),
                "metadata.annotations" => metadata.annotations.as_ref(),
                _ => return Err(format!("field {path} is not supported")),
            };
            return text(map.and_then(|map| map.get(key)));
        }
        match path {
            "metadata.name" => text(metadata.name.as_ref()),
            "metadata.namespace" => text(metadata.namespace.as_ref()),
            "metadata.uid" => text(metadata.uid.as_ref()),
            "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
            "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
            "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
            "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
            "status.podIP" | "status.podIPs" => Ok(self.address.to_owned()),
            "status.hostIP" | "status.hostIPs" => Ok(self.host.to_owned()),
            _ => Err(format!("field {path} is not supported")),
        }
    }

    /// A limit or request in units of the divisor, rounded up.
    pub fn resource(&self, selector: &ResourceFieldSelector, own: &Container) -> Result<String, String> {
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let named = selector.container_name.as_ref();
        let container = named
            .and_then(|name| containers.into_iter().find(|container| container.name == *name))
            .unwrap_or(own);
        let (kind, name) = selector.resource.split_once('.').unwrap_or(("", &selector.resource));
        let resources = container.resources.as_ref();
        let given = match kind {
            "limits" => resources.and_then(|resources| resources.limits.as_ref()),
            "requests" => resources.and_then(|resources| resources.requests.as_ref()),
            _ => return Err(format!("resource {} is not supported", selector.resource)),
        };
        let default = match (kind, name) {
            ("limits", "cpu") => self.capacity.milli_cpu,
            ("limits", "memory") => self.capacity.memory * 1000,
            ("limits", "ephemeral-storage") => self.capacity.storage * 1000,
            ("requests", _) => 0,
            _ => return Err(format!("resource {} is not supported", selector.resource)),
        };
        let milli = |text: &str| text.parse::<Quantity>().map(|quantity| quantity.milli());
        let value = match given.and_then(|given| given.get(name)) {
            Some(quantity) => milli(&quantity.0).map_err(|error| error.to_string())?,
            None => default,
        };
        let divisor = match &selector.divisor {
            Some(divisor) => milli(&divisor.0).map_err(|error| error.to_string())?,
            None => 1000,
        };
        let divisor = if divisor <= 0 { 1000 } else { divisor };
        Ok((value.saturating_add(divisor - 1) / divisor).to_string())
    }
}

/// A map as the downward API writes it: `key="escaped value"` lines.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("100$", "100$"),
            ("$$$(A)", "$1"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn evaluate(
        env: serde_json::Value,
        env_from: serde_json::Value,
    ) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p-0", "namespace": "ns", "uid": "u", "labels": {"a": "b\"c"}},
            "spec": {"nodeName": "n", "containers": []},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c", "env": env, "envFrom": env_from,
            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "250m"}},
        }))
        .unwrap();
        let data = |pairs: &[(&str, &str)]| {
            let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
            Some(Content::Data(data.collect()))
        };
        let contents = BTreeMap::from([
            (Ref::Secret("s".to_owned()), data(&[("password", "x y")])),
            (Ref::ConfigMap("m".to_owned()), data(&[("binary", "\0\u{1}"), ("one", "1"), ("two", "2")])),
            (Ref::ConfigMap("gone".to_owned()), None),
        ]);
        let capacity = Capacity { milli_cpu: 2000, memory: 8 << 30, storage: 0 };
        let scope =
            Scope { pod: &pod, address: "127.9.1.1", host: "127.9.0.2", capacity, contents: &contents };
        variables(&scope, &container)
    }

    fn field(name: &str, path: &str) -> serde_json::Value {
        json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    }

    #[test]
    fn variables_come_from_everywhere_and_later_ones_win() {
        let env = json!([
            {"name": "A", "value": "first"},
            field("NAME", "metadata.name"), field("IP", "status.podIP"), field("L", "metadata.labels['a']"),
            {"name": "URL", "value": "$(NAME).$(IP):$(MISSING)"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            {"name": "NOT", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k", "optional": true}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
            {"name": "P_one", "value": "over $(P_two)"},
            {"name": "A", "value": "$(A) then second"},
            {"name": "EMPTY"},
        ]);
        let from = json!([{"prefix": "P_", "configMapRef": {"name": "m"}}, {"configMapRef": {"name": "gone", "optional": true}}]);
        let found: BTreeMap<String, String> = evaluate(env, from).unwrap().into_iter().collect();
        let expected = [
            ("A", "first then second"),
            ("CPU", "2"),
            ("EMPTY", ""),
            ("IP", "127.9.1.1"),
            ("L", "b\"c"),
            ("MEM", "1024"),
            ("NAME", "p-0"),
            ("PASSWORD", "x y"),
            ("P_one", "over 2"),
            ("P_two", "2"),
            ("REQ", "1"),
            ("URL", "p-0.127.9.1.1:$(MISSING)"),
        ];
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = json!([]);
        let key = json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "nope"}}}]);
        assert_eq!(evaluate(key, none.clone()).unwrap_err(), "couldn't find key nope in secret \"s\"");
        let object = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "t", "key": "k"}}}]);
        assert_eq!(evaluate(object, none).unwrap_err(), "configmap \"t\" not found");
        let from = json!([{"configMapRef": {"name": "gone"}}]);
        assert_eq!(evaluate(json!([]), from).unwrap_err(), "configmap \"gone\" not found");
    }

    #[test]
    fn maps_are_written_as_lines() {
        let map = BTreeMap::from([("a".to_owned(), "b\"c".to_owned()), ("d".to_owned(), "e\nf".to_owned())]);
        assert_eq!(lines(Some(&map)), "a=\"b\\\"c\"\nd=\"e\\nf\"");
    }
}
