//! A pod's credentials for the API server: in place of the service account's mount, a kubeconfig file.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::Access;

/// Clients read a kubeconfig once (Patroni among them), so a token should outlast its pod.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A token and when it should be replaced.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub text: String,
    pub refresh_in: Duration,
}

/// The account a pod runs as, unless it wants no token.
pub(super) fn account(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let wanted = spec.automount_service_account_token != Some(false);
    wanted.then(|| spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default"))
}

/// Asks for a token bound to the pod.
pub(super) async fn request(client: &Client, pod: &Pod, account: &str) -> Result<Token, kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
            bound_object_ref: Some(BoundObjectReference {
                kind: Some("Pod".to_owned()),
                api_version: Some("v1".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map(|time| time.0);
    Ok(Token { text: status.token.unwrap_or_default(), refresh_in: refresh_in(Timestamp::now(), expires) })
}

/// Four fifths of what is left, as kubelets do it.
fn refresh_in(now: Timestamp, expires: Option<Timestamp>) -> Duration {
    let left = expires.map_or(LIFETIME, |expires| {
        Duration::from_secs(u64::try_from(expires.as_second() - now.as_second()).unwrap_or(0))
    });
    (left * 4 / 5).max(Duration::from_secs(10))
}

/// The kubeconfig for a token, with the file that holds the authority's certificate. JSON is YAML, and needs no quoting
/// rules.
pub(super) fn kubeconfig(access: &Access, authority: &Path, namespace: &str, token: &str) -> Vec<u8> {
    let mut cluster = json!({ "server": access.server });
    if access.authority.is_some() {
        cluster["certificate-authority"] = json!(authority);
    }
    if let Some(name) = &access.tls_server_name {
        cluster["tls-server-name"] = json!(name);
    }
    if access.insecure {
        cluster["insecure-skip-tls-verify"] = json!(true);
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": "pod", "user": {"token": token}}],
        "contexts": [{"name": "pod", "context": {"cluster": "sandbox", "user": "pod", "namespace": namespace}}],
        "current-context": "pod",
    });
    config.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_can_read_the_kubeconfig() {
        let access = Access::new("https://127.5.0.1:6443".to_owned(), "PEM".to_owned());
        let bytes = kubeconfig(&access, Path::new("/pod/ca.crt"), "ns", "abc");
        let config = kube::config::Kubeconfig::from_yaml(std::str::from_utf8(&bytes).unwrap()).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("pod"));
        let context = config.contexts[0].context.as_ref().unwrap();
        assert_eq!(context.namespace.as_deref(), Some("ns"));
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.5.0.1:6443"));
        assert_eq!(cluster.certificate_authority.as_deref(), Some("/pod/ca.crt"));
        assert_eq!((cluster.tls_server_name.as_deref(), cluster.insecure_skip_tls_verify), (None, None));
    }

    #[test]
    fn tokens_are_replaced_before_they_expire() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(refresh_in(now, Timestamp::from_second(1500).ok()), Duration::from_secs(400));
        assert_eq!(refresh_in(now, Timestamp::from_second(900).ok()), Duration::from_secs(10));
        assert_eq!(refresh_in(now, None), LIFETIME * 4 / 5);
    }

    #[test]
    fn the_account_is_the_default_one_unless_named_or_unwanted() {
        let pod =
            |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        assert_eq!(account(&pod(json!({"containers": []}))), Some("default"));
        assert_eq!(account(&pod(json!({"containers": [], "serviceAccountName": "a"}))), Some("a"));
        assert_eq!(account(&pod(json!({"containers": [], "automountServiceAccountToken": false}))), None);
    }
}
