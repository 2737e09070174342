//! Subresources that are connections to elsewhere: into a pod through its node, or to whatever answers HTTP.

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde_json::Value;

use super::call::Call;
use super::failure::Failure;
use super::logs::{container, node_address};
use super::registry::Subresource;
use super::relay::{RelayError, relay};
use super::request::Target;

/// Answers a request for a subresource that connects.
///
/// # Errors
/// 4xx for what cannot be meant, 503 where nobody answers.
pub async fn serve(call: &Call, request: Request) -> Result<Response, Failure> {
    match call.subresource {
        Some(Subresource::Exec) => into_container(call, request, "exec").await,
        Some(Subresource::Attach) => into_container(call, request, "attach").await,
        Some(Subresource::PortForward) => port_forward(call, request).await,
        Some(Subresource::Proxy) => proxy(call, request).await,
        _ => Err(Failure::method_not_allowed()),
    }
}

/// `pods/NAME/exec` and `attach`.
async fn into_container(call: &Call, request: Request, verb: &str) -> Result<Response, Failure> {
    check_method(request.method())?;
    let (_, pod) = call.live()?;
    let container = container(call, &pod)?;
    check_phase(&pod)?;
    let query = kubelet_query(request.uri().query().unwrap_or_default())?;
    let (namespace, name) = (call.namespace.as_deref().unwrap_or_default(), call.name()?);
    let path = format!("/{verb}/{namespace}/{name}/{container}?{query}");
    to_node(call, &node_address(call, &pod)?, &path, request).await
}

async fn port_forward(call: &Call, request: Request) -> Result<Response, Failure> {
    check_method(request.method())?;
    let (_, pod) = call.live()?;
    let ports = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let ports: Vec<String> =
        ports.filter(|(name, _)| name == "ports").map(|(_, value)| value.into_owned()).collect();
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(ports.iter().map(|port| ("port", port)))
        .finish();
    let (namespace, name) = (call.namespace.as_deref().unwrap_or_default(), call.name()?);
    let path = format!("/portForward/{namespace}/{name}?{query}");
    to_node(call, &node_address(call, &pod)?, &path, request).await
}

fn check_method(method: &Method) -> Result<(), Failure> {
    if matches!(*method, Method::GET | Method::POST) { Ok(()) } else { Err(Failure::method_not_allowed()) }
}

/// Nothing runs in a pod that has ended.
fn check_phase(pod: &Value) -> Result<(), Failure> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let message =
            format!("cannot exec or attach to a container in a completed pod; current phase is {phase}");
        return Err(Failure::bad_request(message));
    }
    Ok(())
}

/// The options as kubelets name them.
fn kubelet_query(query: &str) -> Result<String, Failure> {
    let is_true = |value: &str| matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE");
    let mut wanted = form_urlencoded::Serializer::new(String::new());
    let mut streams = 0;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let kubelets = match &*name {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "tty" => "tty",
            "command" => {
                wanted.append_pair("command", &value);
                continue;
            }
            _ => continue,
        };
        if is_true(&value) {
            streams += usize::from(kubelets != "tty");
            wanted.append_pair(kubelets, "1");
        }
    }
    if streams == 0 {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(wanted.finish())
}

/// `nodes/NAME/proxy`, `pods/NAME/proxy` and `services/NAME/proxy`.
async fn proxy(call: &Call, request: Request) -> Result<Response, Failure> {
    let tail = Target::parse(request.uri().path()).map(|target| target.tail).unwrap_or_default();
    let path = if tail.is_empty() { "/".to_owned() } else { tail };
    let path = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match &*call.resource.plural {
        "nodes" => {
            let (_, node) = call.live()?;
            let address = super::logs::kubelet(&node, call.name()?)?;
            to_node(call, &address, &path, request).await
        }
        "pods" => {
            let address = pod_address(call)?;
            to_address(call, &address, &path, request).await
        }
        "services" => {
            let address = service_address(call)?;
            to_address(call, &address, &path, request).await
        }
        _ => Err(Failure::no_such_path()),
    }
}

/// A name as proxies take it: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn proxied_name(name: &str) -> Result<(&str, &str), Failure> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((name, "")),
        [name, port] | ["http" | "", name, port] => Ok((name, port)),
        ["https", ..] => Err(Failure::bad_request("https: only http can be passed on here")),
        _ => Err(Failure::bad_request(format!("invalid proxy request {name:?}"))),
    }
}

fn named(call: &Call, resource: &str, name: &str) -> Result<Value, Failure> {
    let resource = call.app.builtin("", resource)?;
    let record = call.app.store.get(&resource.storage, &resource.key(call.namespace.as_deref(), name));
    Ok(resource.load(&*record.ok_or_else(|| Failure::not_found(&resource, name))?)?)
}

/// Where a pod listens: at the port that is named, or at its first.
fn pod_address(call: &Call) -> Result<String, Failure> {
    let (name, port) = proxied_name(call.name()?)?;
    let pod = named(call, "pods", name)?;
    let address = pod.pointer("/status/podIP").and_then(Value::as_str);
    let address = address.ok_or_else(|| Failure::bad_request(format!("pod {name} has no address yet")))?;
    let ports = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let first = ports.filter_map(|container| container.pointer("/ports/0/containerPort")?.as_u64()).next();
    let port = if port.is_empty() { first.unwrap_or(80).to_string() } else { port.to_owned() };
    Ok(format!("{address}:{port}"))
}

/// One of a Service's ready endpoints, for the port that is named, or the only one.
fn service_address(call: &Call) -> Result<String, Failure> {
    let (name, wanted) = proxied_name(call.name()?)?;
    let service = named(call, "services", name)?;
    let none = || {
        Failure::unavailable(format!(
            "no endpoints available for service {:?}",
            call.name().unwrap_or_default()
        ))
    };
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let port = ports.into_iter().flatten().find(|port| {
        wanted.is_empty()
            || port["name"] == wanted
            || port["port"].as_u64().is_some_and(|own| own.to_string() == wanted)
    });
    let port_name = port.ok_or_else(none)?["name"].as_str().unwrap_or_default();
    let slices = call.app.builtin("discovery.k8s.io", "endpointslices")?;
    let prefix = format!("{}/", call.namespace.as_deref().unwrap_or_default());
    for (_, record) in call.app.store.list(&slices.storage, &prefix, None).items {
        let slice = slices.load(&record)?;
        let label = slice.pointer("/metadata/labels/kubernetes.io~1service-name");
        if label.and_then(Value::as_str) == Some(name)
            && let Some(address) = ready_address(&slice, port_name)
        {
            return Ok(address);
        }
    }
    Err(none())
}

fn ready_address(slice: &Value, port_name: &str) -> Option<String> {
    let ports = slice["ports"].as_array()?;
    let port =
        ports.iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name)?["port"].as_u64()?;
    let endpoints = slice["endpoints"].as_array()?;
    let ready = endpoints
        .iter()
        .find(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)))?;
    Some(format!("{}:{port}", ready.pointer("/addresses/0")?.as_str()?))
}

async fn to_address(call: &Call, address: &str, path: &str, request: Request) -> Result<Response, Failure> {
    relay(address, path, request, None, &call.app.stop).await.map_err(|error| unreachable(&error))
}

async fn to_node(call: &Call, address: &str, path: &str, request: Request) -> Result<Response, Failure> {
    let token = call.app.node_token.header();
    relay(address, path, request, token, &call.app.stop).await.map_err(|error| unreachable(&error))
}

fn unreachable(error: &RelayError) -> Failure {
    Failure::unavailable(format!("error trying to reach service: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_port() {
        let split = |name| proxied_name(name).ok();
        assert_eq!(split("db"), Some(("db", "")));
        assert_eq!(split("db:8008"), Some(("db", "8008")));
        assert_eq!(split("http:db:web"), Some(("db", "web")));
        assert_eq!(split(":db:80"), Some(("db", "80")));
        assert_eq!(split("https:db:443"), None);
    }

    #[test]
    fn an_endpoint_that_is_not_ready_is_not_asked() {
        let slice = serde_json::json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}}]});
        assert_eq!(ready_address(&slice, "b").as_deref(), Some("10.0.0.2:2"));
        assert_eq!(ready_address(&slice, "c"), None);
    }

    #[test]
    fn options_are_renamed_for_kubelets() {
        let query =
            kubelet_query("command=sh&command=-c&command=a+b&stdin=true&stdout=1&stderr=false&tty=true");
        assert_eq!(query.unwrap(), "command=sh&command=-c&command=a+b&input=1&output=1&tty=1");
        assert!(kubelet_query("command=true&tty=true").is_err());
    }
}
