//! Whether the namespace that is asked about is there at all.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

use super::Context;
use super::error::{CliError, Result};
use super::session::Session;

/// For where nothing was found in it. Whoever may not read namespaces is not told.
///
/// # Errors
/// Where there is no such namespace.
pub async fn check(context: &Context, session: &Session, doing: &str) -> Result<()> {
    let api: Api<Namespace> = Api::all(session.client.clone());
    match api.get_metadata_opt(&session.namespace).await {
        Ok(None) => Err(missing(&session.namespace, doing, &context.invocation())),
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// That it is not there.
pub fn missing(namespace: &str, doing: &str, command: &str) -> CliError {
    CliError::not_found(format!("failed to {doing}: there is no namespace {namespace:?}"))
        .hint(format!("name another one with -n; {command} list -A looks in all"))
}

#[cfg(test)]
mod tests {
    use super::super::error::Outcome;
    use super::super::session::Place;
    use super::*;
    use http::{Request, Response, StatusCode};
    use kube::Client;
    use kube::client::Body;

    /// A server that answers every question with that code.
    fn session(code: StatusCode) -> Session {
        let reason = if code == StatusCode::NOT_FOUND { "NotFound" } else { "Other" };
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let status = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16() });
            let found = serde_json::json!({ "metadata": { "name": "shop" } });
            let text = if code.is_success() { found } else { status }.to_string();
            Response::builder().status(code).body(Body::from(text.into_bytes()))
        });
        let client = Client::new(service, "shop");
        let place = Place::Cluster("prod".into());
        Session { client: client.clone(), streaming: client, namespace: "shop".into(), place }
    }

    #[tokio::test]
    async fn only_a_namespace_that_is_known_not_to_be_there_is_missed() {
        let check = |code| async move { check(&Context::plain(), &session(code), "list databases").await };
        let error = check(StatusCode::NOT_FOUND).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::NotFound);
        assert!(error.message.contains("there is no namespace \"shop\""), "{error:?}");
        for code in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR] {
            assert_eq!(check(code).await, Ok(()), "{code}");
        }
    }
}
