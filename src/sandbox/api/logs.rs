//! A pod's output, fetched from the node that runs it.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::call::Call;
use super::failure::Failure;
use super::relay::relay;

/// Longest text of a node's refusal that is passed on.
const MAX_REFUSAL: usize = 64 * 1024;

/// Answers GET of `pods/NAME/log`.
///
/// # Errors
/// 400 where no container is meant or the pod runs nowhere, 503 where the node does not answer.
pub async fn get(call: &Call, raw_query: &str) -> Result<Response, Failure> {
    let (_, pod) = call.live()?;
    let container = container(call, &pod)?;
    let (namespace, name) = (call.namespace.as_deref().unwrap_or_default(), call.name()?);
    let path = format!("/containerLogs/{namespace}/{name}/{container}?{raw_query}");
    let address = node_address(call, &pod)?;
    let request = Request::new(Body::empty());
    let mut response = relay(&address, &path, request, call.app.node_token.header(), &call.app.stop)
        .await
        .map_err(|error| Failure::unavailable(format!("failed to get the log from {address}: {error}")))?;
    if !response.status().is_success() {
        let code = response.status().as_u16();
        let text = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let text =
            text.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return Err(Failure::from_node(code, text.trim()));
    }
    response.headers_mut().entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The container that is meant: the one that is named, or the only one.
///
/// # Errors
/// 400 where it is not there, or there are several.
pub fn container(call: &Call, pod: &Value) -> Result<String, Failure> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
    };
    let own = names("containers");
    let pod_name = call.name()?;
    if let Some(wanted) = call.query.get("container") {
        let known = own.contains(&wanted) || names("initContainers").contains(&wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(Failure::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        };
    }
    match own.as_slice() {
        [one] => Ok((*one).to_owned()),
        many => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

/// Where the kubelet of the pod's node answers.
pub fn node_address(call: &Call, pod: &Value) -> Result<String, Failure> {
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(Failure::bad_request(format!("pod {} does not have a host assigned", call.name()?)));
    }
    let nodes = call.app.builtin("", "nodes")?;
    let record = call.app.store.get(&nodes.storage, node).ok_or_else(|| Failure::not_found(&nodes, node))?;
    kubelet(&nodes.load(&record)?, node)
}

/// Where the kubelet of a node answers.
///
/// # Errors
/// 503 where it has not said so.
pub fn kubelet(node: &Value, name: &str) -> Result<String, Failure> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let address = addresses.into_iter().flatten().find(|address| address["type"] == "InternalIP");
    let address = address.and_then(|address| address["address"].as_str());
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    match (address, port) {
        (Some(address), Some(port)) => Ok(format!("{address}:{port}")),
        _ => Err(Failure::unavailable(format!("node {name} has no address"))),
    }
}
