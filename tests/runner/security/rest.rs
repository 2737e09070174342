//! The REST API of Patroni: everybody may ask, who changes something needs the password, and that may change.

use std::net::IpAddr;

use reqwest::{Client, Method, StatusCode};

use super::{Content, NAME, addresses, change, secret};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// A change that changes nothing.
const NOTHING: &str = r#"{"dbctl":null}"#;

/// What is answered to that.
async fn asked(
    address: IpAddr,
    port: u16,
    method: &Method,
    path: &str,
    password: Option<&str>,
) -> StatusCode {
    let request = Client::new().request(method.clone(), format!("http://{address}:{port}{path}"));
    let request = if *method == Method::GET { request } else { request.body(NOTHING) };
    let request = match password {
        Some(password) => request.basic_auth("dbctl", Some(password)),
        None => request,
    };
    request.send().await.unwrap().status()
}

#[test]
fn nothing_is_changed_without_the_password_and_that_may_change() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::new();
    if !sandbox.is_own() {
        return;
    }
    sandbox.run(&["create", NAME, "--replicas", "2", "--storage", "1Gi", "--wait"]).ok();
    let runtime = runtime();
    let (members, _) = runtime.block_on(addresses(&sandbox, 2));
    let old = runtime.block_on(secret(&sandbox, "db-internal"))["rest-password"].clone();
    let writes = [
        (Method::PATCH, "/config"),
        (Method::PUT, "/config"),
        (Method::POST, "/restart"),
        (Method::POST, "/reload"),
        (Method::POST, "/reinitialize"),
        (Method::POST, "/switchover"),
        (Method::POST, "/failover"),
        (Method::POST, "/failsafe"),
        (Method::DELETE, "/switchover"),
        (Method::DELETE, "/restart"),
    ];
    let refuses = async |password: Option<&str>| {
        for address in &members {
            for (method, path) in &writes {
                let answer = asked(*address, 8008, method, path, password).await;
                assert_eq!(answer, StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    };
    runtime.block_on(async {
        refuses(None).await;
        refuses(Some("wrong")).await;
        for (port, path) in [(8008, "/liveness"), (8008, "/patroni"), (8009, "/"), (8009, "/metrics")] {
            assert_eq!(asked(members[0], port, &Method::GET, path, None).await, StatusCode::OK, "{path}");
        }
        // The agent changes nothing for anybody.
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = asked(members[0], 8009, &method, "/", Some(&old)).await;
            assert_eq!(answer, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
        assert_eq!(asked(members[0], 8008, &Method::PATCH, "/config", Some(&old)).await, StatusCode::OK);
        change(&sandbox, "db-internal", Content::from([("rest-password".to_owned(), "another".to_owned())]))
            .await;
    });
    eventually("every member has the other password", || {
        runtime.block_on(async {
            for address in &members {
                let answer = asked(*address, 8008, &Method::PATCH, "/config", Some("another")).await;
                if answer != StatusCode::OK {
                    return Err(answer.to_string());
                }
            }
            refuses(Some(&old)).await;
            Ok(())
        })
    });
    // The controller has it too.
    sandbox.run(&["failover", NAME, "--yes", "--wait"]).ok();
    ready_with(&sandbox, NAME, 2);
    // It is nowhere to be seen.
    for (id, arguments) in sandbox.processes() {
        assert!(!arguments.contains(&old) && !arguments.contains("another"), "{id}: {arguments}");
    }
    let seen = [sandbox.database(NAME).to_string(), sandbox.run(&["events", NAME]).ok().stdout];
    assert!(seen.iter().all(|text| !text.contains(&old)));
}
