//! Who reads a controller's metrics, where the controller has the role that it has in a cluster.

use k8s_openapi::api::rbac::v1::ClusterRoleBinding;

use super::*;
use crate::install::METRICS_READER;

impl Cluster {
    /// Status and text of an answer to who asks for metrics.
    pub(super) async fn read_metrics(&self, token: Option<&str>) -> (u16, String) {
        // Nobody knows the certificate.
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
        let mut request = client.get(format!("https://{}/metrics", self.metrics));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Makes an account, and a token of it.
    async fn account(&self, name: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.client.clone());
        let account = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }

    async fn let_read(&self, account: &str) {
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        let binding = json!({
            "metadata": { "name": account },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": METRICS_READER },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": "default" }],
        });
        bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    }
}

async fn serving(cluster: &Cluster) {
    eventually("metrics are served", || async {
        tokio::net::TcpStream::connect(cluster.metrics).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn only_who_may_read_them_gets_metrics() {
    let cluster = Cluster::start(lax_definition()).await;
    serving(&cluster).await;
    let (reader, other) = (cluster.account("reader").await, cluster.account("other").await);
    cluster.let_read("reader").await;
    assert_eq!(cluster.read_metrics(None).await.0, 401);
    assert_eq!(cluster.read_metrics(Some("made-up")).await.0, 401);
    // What is signed by this very server for somebody else is not for this.
    assert_eq!(cluster.read_metrics(Some(&format!("{reader}x"))).await.0, 401);
    let (code, text) = cluster.read_metrics(Some(&other)).await;
    assert_eq!(code, 403);
    assert!(text.contains("system:serviceaccount:default:other") && text.contains(METRICS_READER), "{text}");
    for _ in 0..2 {
        let (code, page) = cluster.read_metrics(Some(&reader)).await;
        assert_eq!(code, 200);
        assert!(page.contains("dbctl_build_info") && !page.contains(&reader), "{page}");
    }
    cluster.stop().await;
}

/// Nobody is let in by a controller that may not ask, and it goes on working.
#[tokio::test]
async fn without_the_right_to_ask_nobody_is_let_in() {
    let mut role = rbac(NAMESPACE, Scope::Cluster);
    let rules = role[1]["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"][0] != "subjectaccessreviews");
    let cluster = Cluster::start_with(lax_definition(), &role).await;
    serving(&cluster).await;
    let reader = cluster.account("reader").await;
    cluster.let_read("reader").await;
    let (code, text) = cluster.read_metrics(Some(&reader)).await;
    assert_eq!(code, 503, "{text}");
    assert_eq!(cluster.read_metrics(Some("made-up")).await.0, 401);
    cluster.create_database("db", json!({})).await;
    eventually("it works", || cluster.has(Kind::StatefulSet, "db")).await;
    // As soon as it may, they are.
    for object in rbac(NAMESPACE, Scope::Cluster) {
        apply(&cluster.client, "test", object).await.unwrap();
    }
    eventually("it may ask", || async { cluster.read_metrics(Some(&reader)).await.0 == 200 }).await;
    cluster.stop().await;
}
