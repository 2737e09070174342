//! Faults as clients meet them.

use std::io::{Read, Write};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ADMIN, Server};

const SOON: Duration = Duration::from_secs(10);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn server() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    (dir, server)
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "1"}})
}

impl Server {
    async fn fault(&self, spec: Value) -> (u16, Value) {
        self.tell("PUT", "/debug/faults", spec).await
    }

    async fn tell(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.request(method, path).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Opens a watch, and reads it by lines; the end of the lines says how the watch ended.
    async fn lines(&self, query: &str) -> tokio::sync::mpsc::UnboundedReceiver<Result<Value, String>> {
        let path = format!("{MAPS}?watch=true&{query}");
        let response = self.request("GET", &path).send().await.unwrap();
        assert!(response.status().is_success());
        let (send, lines) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut body = response.bytes_stream();
            while let Some(chunk) = body.next().await {
                let line = match chunk {
                    Ok(chunk) => Ok(serde_json::from_slice(&chunk).unwrap()),
                    Err(error) => Err(error.to_string()),
                };
                let _ = send.send(line);
            }
        });
        lines
    }
}

#[tokio::test]
async fn an_error_strikes_before_a_write_or_after_it() {
    let (_dir, server) = server().await;
    for (after, there) in [(false, 404), (true, 200)] {
        let errors = json!([{"status": 500, "rate": 1, "after": after}]);
        let spec = json!({"errors": errors, "for": {"verbs": ["create"], "resources": ["configmaps"]}});
        assert_eq!(server.fault(spec).await.0, 200);
        let (code, body) = server.tell("POST", MAPS, map("a")).await;
        assert_eq!((code, &body["reason"]), (500, &json!("InternalError")), "{body}");
        assert_eq!(server.tell("GET", &format!("{MAPS}/a"), json!(null)).await.0, there);
        // What would have failed anyhow fails as it would have.
        let expected = if after { 400 } else { 500 };
        assert_eq!(server.tell("POST", MAPS, json!({"kind": "Pod"})).await.0, expected);
    }
    let status = &server.tell("GET", "/debug/faults", json!(null)).await.1["status"];
    assert_eq!(status["errors"], json!({"500": 2}), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_in_a_hurry_is_told_when_to_come_back() {
    let (_dir, server) = server().await;
    server.fault(json!({"errors": [{"status": 429, "rate": 1, "retryAfterSeconds": 7}]})).await;
    let response = server.request("GET", MAPS).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["details"]["retryAfterSeconds"], 7);
    // The administrator's own endpoint is spared.
    assert_eq!(server.tell("DELETE", "/debug/faults", json!(null)).await, (200, json!({})));
    assert_eq!(server.request("GET", MAPS).send().await.unwrap().status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn faults_clear_themselves() {
    let (_dir, server) = server().await;
    let (_, told) =
        server.fault(json!({"errors": [{"status": 503, "rate": 1}], "durationMs": 50, "seed": 3})).await;
    assert_eq!((told["seed"].as_u64(), told["status"]["until"].is_string()), (Some(3), true));
    let cleared = async { while server.request("GET", MAPS).send().await.unwrap().status() != 200 {} };
    timeout(SOON, cleared).await.unwrap();
    assert_eq!(server.tell("GET", "/debug/faults", json!(null)).await.1, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn what_is_asked_for_must_make_sense() {
    let (_dir, server) = server().await;
    let (code, body) = server.fault(json!({"latency": 5})).await;
    assert_eq!(code, 400);
    assert!(body["message"].as_str().unwrap().contains("unknown field `latency`"), "{body}");
    let (code, body) = server.fault(json!({"errors": [{"status": 418, "rate": 0.5}]})).await;
    assert_eq!((code, &body["details"]["causes"][0]["field"]), (422, &json!("errors[0].status")));
    assert_eq!(server.tell("GET", "/debug/faults", json!(null)).await.1, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn only_administrators_ask_for_faults() {
    let (_dir, server) = server().await;
    server
        .tell("POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "a"}}))
        .await;
    let path = "/api/v1/namespaces/default/serviceaccounts/a/token";
    let (_, token) = server.tell("POST", path, json!({"spec": {}})).await;
    let token = token["status"]["token"].as_str().unwrap();
    let url = server.url("/debug/faults");
    let response =
        server.http.put(url).bearer_auth(token).json(&json!({"outage": true})).send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(server.tell("GET", "/debug/faults", json!(null)).await.1, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn watches_are_cut_off_without_an_end() {
    let (_dir, server) = server().await;
    let mut lines = server.lines("resourceVersion=0").await;
    server.tell("POST", MAPS, map("a")).await;
    assert_eq!(timeout(SOON, lines.recv()).await.unwrap().unwrap().unwrap()["type"], "ADDED");
    server.fault(json!({"watchDropRate": 1, "for": {"resources": ["configmaps"]}})).await;
    let last = timeout(SOON, lines.recv()).await.unwrap().unwrap();
    assert!(last.is_err(), "a cut, not an end: {last:?}");
    server.stop().await;
}

#[tokio::test]
async fn stalled_watches_say_nothing_until_they_go_on() {
    let (_dir, server) = server().await;
    let mut lines = server.lines("resourceVersion=0&timeoutSeconds=1").await;
    server.fault(json!({"watchStall": true})).await;
    for name in ["a", "b"] {
        server.tell("POST", MAPS, map(name)).await;
    }
    // Not even the end that the client has asked for comes.
    assert!(timeout(Duration::from_millis(1500), lines.recv()).await.is_err());
    server.tell("DELETE", "/debug/faults", json!(null)).await;
    for name in ["a", "b"] {
        let event = timeout(SOON, lines.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(event["object"]["metadata"]["name"], name);
    }
    server.stop().await;
}

#[tokio::test]
async fn expired_watches_end_with_410_and_cannot_be_resumed() {
    let (_dir, server) = server().await;
    let (_, made) = server.tell("POST", MAPS, map("a")).await;
    let before = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.tell("POST", MAPS, map("b")).await;
    let mut lines = server.lines(&format!("resourceVersion={before}")).await;
    assert_eq!(timeout(SOON, lines.recv()).await.unwrap().unwrap().unwrap()["type"], "ADDED");
    server.fault(json!({"expireWatches": true})).await;
    let ends = |event: Value| {
        let status = &event["object"];
        assert_eq!((&event["type"], &status["code"]), (&json!("ERROR"), &json!(410)), "{event}");
        assert_eq!(status["reason"], "Expired");
    };
    ends(timeout(SOON, lines.recv()).await.unwrap().unwrap().unwrap());
    assert!(timeout(SOON, lines.recv()).await.unwrap().is_none());
    let mut old = server.lines(&format!("resourceVersion={before}")).await;
    ends(timeout(SOON, old.recv()).await.unwrap().unwrap().unwrap());
    // From a new list on it works: this is one compaction and not a state.
    let (_, list) = server.tell("GET", MAPS, json!(null)).await;
    let now = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut new = server.lines(&format!("resourceVersion={now}")).await;
    server.tell("POST", MAPS, map("c")).await;
    assert_eq!(timeout(SOON, new.recv()).await.unwrap().unwrap().unwrap()["type"], "ADDED");
    server.stop().await;
}

/// A request over the machine's own socket.
fn locally(dir: &std::path::Path, method: &str, path: &str, body: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(dir.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_the_port_is_closed_and_connections_are_reset() {
    let (dir, server) = server().await;
    let mut lines = server.lines("resourceVersion=0").await;
    // Asked for over the socket, as the command does: the outage may strike the asker's connection before the answer.
    let asked = locally(dir.path(), "PUT", "/debug/faults", r#"{"outage": true}"#);
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    let last = timeout(SOON, lines.recv()).await.unwrap().unwrap();
    assert!(last.is_err(), "{last:?}");
    let error = std::net::TcpStream::connect(server.running.address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // The machine's own socket still answers, and ends it.
    assert!(locally(dir.path(), "GET", MAPS, "").starts_with("HTTP/1.1 200"));
    assert!(locally(dir.path(), "DELETE", "/debug/faults", "").starts_with("HTTP/1.1 200"));
    let back = async {
        while !server.request("GET", MAPS).send().await.is_ok_and(|response| response.status() == 200) {}
    };
    timeout(SOON, back).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_can_reset_some_users_requests_only() {
    let (_dir, server) = server().await;
    let users = json!({"users": ["system:serviceaccount:*"]});
    server.fault(json!({"outage": "reset", "for": users})).await;
    assert_eq!(server.request("GET", MAPS).send().await.unwrap().status(), 200);
    server.fault(json!({"outage": "reset"})).await;
    for path in [MAPS, "/healthz"] {
        let mut stream = std::net::TcpStream::connect(server.running.address).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{path}");
    }
    // The administrator's endpoint answers on the same port.
    assert_eq!(server.tell("DELETE", "/debug/faults", json!(null)).await.0, 200);
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
    server.stop().await;
}
