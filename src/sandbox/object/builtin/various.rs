//! Checks of Services, ConfigMaps, Secrets, Events, RBAC objects and the like.

use serde_json::{Map, Value, json};

use super::{items, names, one_of, text};
use crate::sandbox::object::{Cause, FieldError, Gvk};

/// All data of one ConfigMap or Secret.
const DATA_MAX: usize = 1024 * 1024;
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

pub(super) fn service(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let kind = text(spec, "/type");
    let headless = text(spec, "/clusterIP") == "None";
    let ports = items(spec, "/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], "spec", errors);
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], "spec", errors);
    service_type(spec, kind, headless, errors);
    if kind == "ExternalName" && text(spec, "/externalName").is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    let mut names_seen = Vec::new();
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        service_port(port, ports.len() > 1, &path, errors);
        let name = text(port, "/name");
        if !name.is_empty() && names_seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &json!(name)));
        }
        names_seen.push(name);
        let identity = json!({"protocol": port["protocol"], "port": port["port"]});
        if seen.contains(&identity) {
            errors.push(FieldError::duplicate(path, &identity));
        }
        seen.push(identity);
    }
}

/// What does not go with a Service's type.
fn service_type(spec: &Value, kind: &str, headless: bool, errors: &mut Vec<FieldError>) {
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!("None"), &detail));
    }
    if kind == "ClusterIP" {
        let numbered = |port: &Value| port["nodePort"].as_i64().is_some_and(|number| number != 0);
        for (index, _) in items(spec, "/ports").iter().enumerate().filter(|(_, port)| numbered(port)) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("spec.ports[{index}].nodePort"), detail));
        }
    }
    let policy = text(spec, "/externalTrafficPolicy");
    let inside = matches!(kind, "ClusterIP" | "ExternalName") && items(spec, "/externalIPs").is_empty();
    if !policy.is_empty() && inside {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", &json!(policy), detail));
    }
}

fn service_port(port: &Value, named: bool, path: &str, errors: &mut Vec<FieldError>) {
    let name = text(port, "/name");
    if named && name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    if !name.is_empty() {
        for problem in names::label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &json!(name), &problem));
        }
    }
    let number = port.get("port").and_then(Value::as_i64).unwrap_or_default();
    if !(1..=65535).contains(&number) {
        errors.push(FieldError::invalid(format!("{path}.port"), &json!(number), PORT_RANGE));
    }
    if let Some(target) = port.get("targetPort").and_then(Value::as_i64).filter(|n| !(1..=65535).contains(n))
    {
        errors.push(FieldError::invalid(format!("{path}.targetPort"), &json!(target), PORT_RANGE));
    }
    one_of(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
}

fn data(map: Option<&Map<String, Value>>, field: &str, errors: &mut Vec<FieldError>) -> usize {
    let mut size = 0;
    for (key, value) in map.into_iter().flatten() {
        for problem in names::config_key(key) {
            errors.push(FieldError::invalid(format!("{field}[{key}]"), &json!(key), &problem));
        }
        size += value.as_str().map_or(0, str::len);
    }
    size
}

fn too_large(field: &str) -> FieldError {
    FieldError::new(field, Cause::TooLong, None, &format!("may not be more than {DATA_MAX} bytes"))
}

pub(super) fn config_map(object: &Value, errors: &mut Vec<FieldError>) {
    let (plain, binary) = (object["data"].as_object(), object["binaryData"].as_object());
    let size = data(plain, "data", errors) + data(binary, "binaryData", errors);
    for key in binary.into_iter().flat_map(Map::keys) {
        if plain.is_some_and(|plain| plain.contains_key(key)) {
            let detail = "duplicate of key present in data";
            errors.push(FieldError::invalid(format!("binaryData[{key}]"), &json!(key), detail));
        }
    }
    if size > DATA_MAX {
        errors.push(too_large(""));
    }
}

pub(super) fn secret(object: &Value, errors: &mut Vec<FieldError>) {
    // Sizes count decoded bytes, three for four characters.
    let size = data(object["data"].as_object(), "data", errors) / 4 * 3;
    if size > DATA_MAX {
        errors.push(too_large("data"));
    }
    let needed: &[&str] = match text(object, "/type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    let has = |key: &str| object["data"].get(key).is_some();
    for key in needed.iter().filter(|key| !has(key)) {
        errors.push(FieldError::required(format!("data[{key}]"), ""));
    }
    match text(object, "/type") {
        // One of the two is enough.
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.push(FieldError::required("data[username]", ""));
            errors.push(FieldError::required("data[password]", ""));
        }
        "kubernetes.io/service-account-token"
            if text(object, "/metadata/annotations/kubernetes.io~1service-account.name").is_empty() =>
        {
            let field = "metadata.annotations[kubernetes.io/service-account.name]";
            errors.push(FieldError::required(field, ""));
        }
        _ => {}
    }
}

/// An event lies in its object's namespace; those about objects without one lie in `default`.
fn event_namespace(object: &Value, reference: &str, errors: &mut Vec<FieldError>) {
    let about = text(object, &format!("/{reference}/namespace"));
    let own = text(object, "/metadata/namespace");
    let fits = if about.is_empty() {
        own == "default" || own == "kube-system" || own.is_empty()
    } else {
        own == about
    };
    if !fits {
        let value = json!(about);
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", &value, detail));
    }
}

pub(super) fn core_event(object: &Value, errors: &mut Vec<FieldError>) {
    event_namespace(object, "involvedObject", errors);
}

pub(super) fn event(object: &Value, errors: &mut Vec<FieldError>) {
    event_namespace(object, "regarding", errors);
    if object.get("eventTime").is_none_or(Value::is_null) {
        errors.push(FieldError::required("eventTime", ""));
    }
    let reporter = text(object, "/reportingController");
    if reporter.is_empty() {
        errors.push(FieldError::required("reportingController", ""));
    } else {
        for problem in names::qualified(reporter) {
            errors.push(FieldError::invalid("reportingController", &json!(reporter), &problem));
        }
    }
    for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let value = text(object, &format!("/{field}"));
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if value.len() > max {
            errors.push(FieldError::invalid(
                field,
                &json!(""),
                &format!("can have at most {max} characters"),
            ));
        }
    }
    if text(object, "/note").len() > 1024 {
        errors.push(FieldError::invalid("message", &json!(""), "can have at most 1024 characters"));
    }
    let kind = text(object, "/type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(FieldError::invalid("type", &json!(""), &format!("has invalid value: {kind}")));
    }
}

pub(super) fn disruption_budget(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        errors.push(FieldError::invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let Some(value) = spec.get(field) else { continue };
        let path = format!("spec.{field}");
        match value {
            Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
                errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
            }
            Value::String(share) => {
                let number = share.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
                match number {
                    None => {
                        let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. \
                                      '1%',  or '93%', regex used for validation is '[0-9]+%')";
                        errors.push(FieldError::invalid(path, value, detail));
                    }
                    Some(101..) => {
                        errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
                    }
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }
}

pub(super) fn lease(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let seconds = spec.get("leaseDurationSeconds").filter(|value| value.as_i64().is_some_and(|n| n <= 0));
    if let Some(value) = seconds {
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", value, "must be greater than 0"));
    }
    super::not_negative(spec, "leaseTransitions", "spec", errors);
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(object, "/addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !["FQDN", "IPv4", "IPv6"].contains(&kind) {
        errors.push(FieldError::not_supported("addressType", &json!(kind), ["FQDN", "IPv4", "IPv6"]));
    }
    for (index, endpoint) in items(object, "/endpoints").iter().enumerate() {
        if items(endpoint, "/addresses").is_empty() {
            let path = format!("endpoints[{index}].addresses");
            errors.push(FieldError::required(path, "must contain at least 1 address"));
        }
    }
}

pub(super) fn role(gvk: &Gvk, object: &Value, errors: &mut Vec<FieldError>) {
    for (index, rule) in items(object, "/rules").iter().enumerate() {
        let path = format!("rules[{index}]");
        if items(rule, "/verbs").is_empty() {
            let detail = "verbs must contain at least one value";
            errors.push(FieldError::required(format!("{path}.verbs"), detail));
        }
        if !items(rule, "/nonResourceURLs").is_empty() {
            if gvk.kind == "Role" {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(
                    format!("{path}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            continue;
        }
        if items(rule, "/apiGroups").is_empty() {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(format!("{path}.apiGroups"), detail));
        }
        if items(rule, "/resources").is_empty() {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(format!("{path}.resources"), detail));
        }
    }
}

pub(super) fn binding(gvk: &Gvk, object: &Value, errors: &mut Vec<FieldError>) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let role = &object["roleRef"];
    if text(role, "/apiGroup") != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", &role["apiGroup"], [GROUP]));
    }
    let kinds: &[&str] = if gvk.kind == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "/kind")) {
        errors.push(FieldError::not_supported(
            "roleRef.kind",
            &json!(text(role, "/kind")),
            kinds.iter().copied(),
        ));
    }
    if text(role, "/name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in items(object, "/subjects").iter().enumerate() {
        let path = format!("subjects[{index}]");
        if text(subject, "/name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        let kind = text(subject, "/kind");
        if !["ServiceAccount", "User", "Group"].contains(&kind) {
            let allowed = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(format!("{path}.kind"), &json!(kind), allowed));
        }
        // A RoleBinding's own namespace stands in for one that is left out.
        if kind == "ServiceAccount"
            && gvk.kind == "ClusterRoleBinding"
            && text(subject, "/namespace").is_empty()
        {
            errors.push(FieldError::required(format!("{path}.namespace"), ""));
        }
    }
}
