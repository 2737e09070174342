//! Who may do what, and how a refusal is worded.

use serde_json::{Value, json};

use super::{ADMIN, Server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";

/// Who a test asks as: the administrator as somebody else.
struct As<'a>(&'a Server, &'a str, &'a [&'a str]);

impl As<'_> {
    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send_as(method, path, "application/json", body).await
    }

    async fn send_as(&self, method: &str, path: &str, kind: &str, body: Value) -> (u16, Value) {
        let Self(server, user, groups) = self;
        let mut request = server.request(method, path).header("impersonate-user", *user);
        for group in *groups {
            request = request.header("impersonate-group", *group);
        }
        let request = request.header("content-type", kind).body(body.to_string());
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, Value::Null).await
    }
}

async fn server() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    (dir, server)
}

async fn post(server: &Server, path: &str, body: Value) -> Value {
    let response = server.request("POST", path).json(&body).send().await.unwrap();
    let code = response.status().as_u16();
    let answer = response.json().await.unwrap();
    assert_eq!(code, 201, "{answer}");
    answer
}

/// Gives a user a Role of that name in `default`.
async fn grant(server: &Server, name: &str, user: &str, rules: Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    post(server, &format!("{RBAC}/namespaces/default/roles"), role).await;
    let binding = json!({
        "metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
    });
    post(server, &format!("{RBAC}/namespaces/default/rolebindings"), binding).await;
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

#[tokio::test]
async fn who_says_nothing_is_anonymous_and_who_says_nonsense_is_nobody() {
    let (_dir, server) = server().await;
    let get = async |path: &str, token: Option<&str>| {
        let mut request = server.http.get(server.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(path, None).await.0, 200, "{path}");
        assert_eq!(get(path, Some("nonsense")).await.0, 401, "{path}");
    }
    for path in ["/api", "/apis/apps/v1", "/openapi/v3", "/nowhere", "/debug/access"] {
        let (code, body) = get(path, None).await;
        let expected = format!("forbidden: User \"system:anonymous\" cannot get path {path:?}");
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, status["message"].as_str()), (403, Some(expected.as_str())));
        assert_eq!((&status["reason"], &status["details"]), (&json!("Forbidden"), &json!({})));
    }
    let (code, body) = get("/api/v1/secrets", None).await;
    assert_eq!(code, 403);
    assert!(body.contains(r#"secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"#), "{body}");
    let (code, body) = get("/api/v1/secrets", Some("nonsense")).await;
    assert_eq!(code, 401);
    assert!(body.contains(r#""reason":"Unauthorized""#), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn a_role_allows_what_it_says_from_its_writing_to_its_going() {
    let (_dir, server) = server().await;
    for name in ["a", "b"] {
        post(&server, "/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": name}})).await;
    }
    let jane = As(&server, "jane", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, status) = jane.get(&format!("{maps}/a")).await;
    let message = r#"configmaps "a" is forbidden: User "jane" cannot get resource "configmaps" in API group "" in the namespace "default""#;
    assert_eq!((code, &status["message"]), (403, &json!(message)));
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));
    let mut one = rule(&["get", "list", "watch"], "", &["configmaps"]);
    one["resourceNames"] = json!(["a"]);
    grant(&server, "reader", "jane", json!([one])).await;
    assert_eq!(jane.get(&format!("{maps}/a")).await.0, 200);
    assert_eq!(jane.get(&format!("{maps}/b")).await.0, 403);
    assert_eq!(jane.get(maps).await.0, 403, "all of them are more than one");
    assert_eq!(jane.get(&format!("{maps}?fieldSelector=metadata.name%3Da")).await.0, 200);
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/configmaps/a").await.0, 403);
    assert_eq!(jane.send("DELETE", &format!("{maps}/a"), json!({})).await.0, 403);
    assert_eq!(As(&server, "joe", &[]).get(&format!("{maps}/a")).await.0, 403);
    let role = format!("{RBAC}/namespaces/default/roles/reader");
    server.request("DELETE", &role).send().await.unwrap();
    let (code, status) = jane.get(&format!("{maps}/a")).await;
    assert_eq!(code, 403);
    let why = r#": RBAC: role.rbac.authorization.k8s.io "reader" not found"#;
    assert!(status["message"].as_str().unwrap().ends_with(why), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn an_account_may_by_its_groups_and_in_its_bindings_namespace() {
    let (dir, server) = server().await;
    post(&server, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let request = json!({"spec": {"audiences": null}});
    let token = post(&server, "/api/v1/namespaces/default/serviceaccounts/robot/token", request).await;
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let code = async |server: &Server, path: &str| {
        server.http.get(server.url(path)).bearer_auth(&token).send().await.unwrap().status().as_u16()
    };
    let (pods, sets) = ("/api/v1/namespaces/default/pods", "/apis/apps/v1/statefulsets");
    assert_eq!((code(&server, "/api").await, code(&server, pods).await), (200, 403));
    let pods_role = json!({"metadata": {"name": "pods"}, "rules": [rule(&["list"], "", &["pods"])]});
    post(&server, &format!("{RBAC}/namespaces/default/roles"), pods_role).await;
    // An account's namespace may be left out: it is the binding's.
    let binding = json!({
        "metadata": {"name": "pods"}, "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot"}],
    });
    post(&server, &format!("{RBAC}/namespaces/default/rolebindings"), binding).await;
    assert_eq!(code(&server, pods).await, 200);
    let sets_role = json!({"metadata": {"name": "sets"}, "rules": [rule(&["*"], "apps", &["*"])]});
    post(&server, &format!("{RBAC}/clusterroles"), sets_role).await;
    let binding = json!({
        "metadata": {"name": "sets"}, "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "sets"},
        "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": "system:serviceaccounts:default"}],
    });
    post(&server, &format!("{RBAC}/clusterrolebindings"), binding).await;
    assert_eq!(code(&server, sets).await, 200);
    server.stop().await;

    let again = Server::start(dir.path()).await;
    assert_eq!((code(&again, pods).await, code(&again, sets).await), (200, 200));
    assert_eq!(code(&again, "/api/v1/pods").await, 403, "in one namespace only");
    again.stop().await;
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let (_dir, server) = server().await;
    let all = ["create", "delete", "get", "patch", "update"];
    let held = json!([rule(&all, GROUP, &["roles", "rolebindings"]), rule(&["get"], "", &["pods"])]);
    grant(&server, "manager", "jane", held).await;
    let jane = As(&server, "jane", &["dev"]);
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let role = |name: &str, verbs: &[&str]| json!({"metadata": {"name": name}, "rules": [rule(verbs, "", &["pods"])]});
    assert_eq!(jane.send("POST", &roles, role("fine", &["get"])).await.0, 201);
    let (code, status) = jane.send("POST", &roles, role("more", &["get", "list", "delete"])).await;
    let message = "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"dev\" \
                   \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                   {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"delete\"]}";
    assert_eq!((code, &status["message"]), (403, &json!(message)));
    let (code, _) = jane.send("PUT", &format!("{roles}/fine"), role("fine", &["list"])).await;
    assert_eq!(code, 403, "neither later");
    let labelled = json!({"metadata": {"finalizers": ["a.example.com/b"]}});
    let patch = "application/merge-patch+json";
    post(&server, &roles, role("theirs", &["list"])).await;
    assert_eq!(jane.send_as("PATCH", &format!("{roles}/theirs"), patch, labelled).await.0, 200);
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(jane.send_as("PATCH", &format!("{roles}/theirs"), patch, labelled).await.0, 403);

    let binding = |name: &str, kind: &str, role: &str| json!({"metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}});
    assert_eq!(jane.send("POST", &bindings, binding("fine", "Role", "fine")).await.0, 201);
    assert_eq!(jane.send("POST", &bindings, binding("more", "Role", "theirs")).await.0, 403);
    let (code, status) = jane.send("POST", &bindings, binding("admin", "ClusterRole", "cluster-admin")).await;
    assert_eq!(code, 403);
    let missing =
        "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}";
    assert!(status["message"].as_str().unwrap().ends_with(missing), "{status}");
    assert_eq!(jane.send("POST", &bindings, binding("gone", "Role", "nowhere")).await.0, 404);

    let mut bind = rule(&["bind"], GROUP, &["clusterroles"]);
    bind["resourceNames"] = json!(["view"]);
    grant(&server, "binder", "jane", json!([bind, rule(&["escalate"], GROUP, &["roles"])])).await;
    assert_eq!(jane.send("POST", &bindings, binding("viewers", "ClusterRole", "view")).await.0, 201);
    assert_eq!(jane.send("POST", &bindings, binding("editors", "ClusterRole", "cluster-admin")).await.0, 403);
    assert_eq!(jane.send("POST", &roles, role("more", &["get", "list"])).await.0, 201);
    server.stop().await;
}

#[tokio::test]
async fn to_be_somebody_else_takes_the_right_to_it() {
    let (_dir, server) = server().await;
    grant(&server, "helper", "jane", json!([rule(&["impersonate"], "", &["serviceaccounts"])])).await;
    let who = async |user: &str, groups: &[&str]| {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let (code, answer) = As(&server, user, groups).send("POST", path, json!({})).await;
        assert_eq!(code, 201, "{answer}");
        answer["status"]["userInfo"].clone()
    };
    let me = who("jane", &["dev"]).await;
    assert_eq!(me, json!({"username": "jane", "groups": ["dev", "system:authenticated"]}));
    let me = who("system:serviceaccount:default:robot", &[]).await;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(me["groups"], json!(groups));
    let request = server.request("GET", "/api").header("impersonate-group", "dev");
    assert_eq!(request.send().await.unwrap().status(), 500, "groups of nobody");

    // With a token of her own, Jane may be the accounts of her namespace and nobody else.
    post(&server, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    let token = post(&server, "/api/v1/namespaces/default/serviceaccounts/robot/token", json!({})).await;
    let subject = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]);
    let binding = json!({
        "metadata": {"name": "robot"}, "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "helper"},
        "subjects": subject,
    });
    post(&server, &format!("{RBAC}/namespaces/default/rolebindings"), binding).await;
    let token = token["status"]["token"].as_str().unwrap();
    let by = async |user: &str| {
        let request = server.http.get(server.url("/api")).bearer_auth(token).header("impersonate-user", user);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(by("system:serviceaccount:default:other").await.0, 200);
    assert_eq!(by("system:serviceaccount:kube-system:other").await.0, 403);
    let (code, status) = by("root").await;
    let message = r#"users "root" is forbidden: User "system:serviceaccount:default:robot" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    assert_eq!((code, &status["message"]), (403, &json!(message)));
    server.stop().await;
}

#[tokio::test]
async fn reviews_answer_what_requests_would_be_answered() {
    let (_dir, server) = server().await;
    let mut one = rule(&["get"], "", &["pods/log"]);
    one["resourceNames"] = json!(["p"]);
    grant(&server, "reader", "jane", json!([one])).await;
    let access = "/apis/authorization.k8s.io/v1";
    let pod =
        json!({"verb": "get", "resource": "pods", "subresource": "log", "name": "p", "namespace": "default"});
    let review = |user: &str, of: Value| json!({"spec": {"user": user, "resourceAttributes": of}});
    let path = format!("{access}/subjectaccessreviews");
    let answer = post(&server, &path, review("jane", pod.clone())).await;
    let reason = r#"RBAC: allowed by RoleBinding "reader/default" of Role "reader" to User "jane""#;
    assert_eq!(answer["status"], json!({"allowed": true, "reason": reason}));
    let answer = post(&server, &path, review("joe", pod.clone())).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    let of_group = json!({"spec": {"groups": ["system:unauthenticated"], "nonResourceAttributes": {"path": "/version", "verb": "get"}}});
    assert_eq!(post(&server, &path, of_group).await["status"]["allowed"], true);
    for (spec, field) in [
        (json!({"user": "jane"}), "spec.resourceAttributes"),
        (json!({"resourceAttributes": pod}), "spec.user"),
        (
            json!({"user": "u", "resourceAttributes": {}, "nonResourceAttributes": {}}),
            "spec.nonResourceAttributes",
        ),
    ] {
        let (code, status) = {
            let response = server.request("POST", &path).json(&json!({ "spec": spec })).send().await.unwrap();
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        };
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!(field)));
    }
    let local = |space: &str| format!("{access}/namespaces/{space}/localsubjectaccessreviews");
    assert_eq!(
        post(&server, &local("default"), review("jane", pod.clone())).await["status"]["allowed"],
        true
    );
    let elsewhere = server.request("POST", &local("kube-system")).json(&review("jane", pod.clone()));
    assert_eq!(elsewhere.send().await.unwrap().status(), 422);

    let jane = As(&server, "jane", &[]);
    let own = json!({"spec": {"resourceAttributes": pod}});
    let (code, answer) = jane.send("POST", &format!("{access}/selfsubjectaccessreviews"), own).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let (code, _) = jane.send("POST", &path, review("joe", json!({"verb": "get", "resource": "pods"}))).await;
    assert_eq!(code, 403, "others' rights are not everybody's business");
    let rules = json!({"spec": {"namespace": "default"}});
    let (_, answer) = jane.send("POST", &format!("{access}/selfsubjectrulesreviews"), rules).await;
    let status = &answer["status"];
    assert_eq!(status["incomplete"], false);
    let told =
        json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["p"]});
    assert!(status["resourceRules"].as_array().unwrap().contains(&told), "{status}");
    let paths = status["nonResourceRules"].to_string();
    assert!(paths.contains("/healthz") && paths.contains("/openapi"), "{paths}");
    server.stop().await;
}

#[tokio::test]
async fn a_pods_token_says_whose_it_is() {
    let (_dir, server) = server().await;
    let space = "/api/v1/namespaces/default";
    post(&server, &format!("{space}/serviceaccounts"), json!({"metadata": {"name": "robot"}})).await;
    let node = post(&server, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n", "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]}});
    let pod = post(&server, &format!("{space}/pods"), pod).await;
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p"});
    let spec = json!({"spec": {"boundObjectRef": bound, "audiences": ["vault", "other"]}});
    let token = post(&server, &format!("{space}/serviceaccounts/robot/token"), spec.clone()).await;
    let token = token["status"]["token"].as_str().unwrap();
    let review = async |audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        post(&server, "/apis/authentication.k8s.io/v1/tokenreviews", body).await["status"].clone()
    };
    assert_eq!(review(json!([])).await["authenticated"], false, "not meant for this server");
    let status = review(json!(["x", "other"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["other"])));
    let extra = &status["user"]["extra"];
    let key = |name: &str| extra[format!("authentication.kubernetes.io/{name}")][0].clone();
    assert_eq!((key("pod-name"), key("pod-uid")), (json!("p"), pod["metadata"]["uid"].clone()));
    assert_eq!((key("node-name"), key("node-uid")), (json!("n"), node["metadata"]["uid"].clone()));
    assert!(key("credential-id").as_str().unwrap().starts_with("JTI="), "{extra}");
    post(&server, &format!("{space}/serviceaccounts"), json!({"metadata": {"name": "other"}})).await;
    let request = server.request("POST", &format!("{space}/serviceaccounts/other/token")).json(&spec);
    assert_eq!(request.send().await.unwrap().status(), 400, "the pod runs as another");
    server.stop().await;
}

#[tokio::test]
async fn to_apply_what_is_not_there_takes_the_right_to_create() {
    let (_dir, server) = server().await;
    grant(&server, "patcher", "jane", json!([rule(&["patch"], "", &["configmaps"])])).await;
    let jane = As(&server, "jane", &[]);
    let path = |name: &str| format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=t");
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}});
    let (code, status) =
        jane.send_as("PATCH", &path("a"), "application/apply-patch+yaml", body.clone()).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("cannot create resource"), "{status}");
    post(&server, "/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}})).await;
    assert_eq!(jane.send_as("PATCH", &path("a"), "application/apply-patch+yaml", body).await.0, 200);
    let log =
        server.request("GET", "/debug/access").send().await.unwrap().json::<Vec<Value>>().await.unwrap();
    let asked = log.iter().find(|line| line["user"] == "jane" && line["verb"] == "create").unwrap();
    assert_eq!(
        (&asked["allowed"], &asked["count"]),
        (&json!(false), &json!(1)),
        "the second question is counted"
    );
    server.stop().await;
}

#[tokio::test]
async fn every_decision_is_counted() {
    let (_dir, server) = server().await;
    let jane = As(&server, "jane", &[]);
    for _ in 0..3 {
        jane.get("/api/v1/namespaces/default/pods").await;
    }
    let log = server.request("GET", "/debug/access").send().await.unwrap().json::<Value>().await.unwrap();
    let line = json!({"user": "jane", "verb": "list", "group": "", "resource": "pods", "subresource": "",
        "namespace": "default", "allowed": false, "code": "4xx", "count": 3});
    assert!(log.as_array().unwrap().contains(&line), "{log}");
    assert_eq!(jane.get("/debug/access").await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn the_policy_is_repaired_at_a_start_and_additions_stay() {
    let (dir, server) = server().await;
    let patch = async |server: &Server, path: &str, body: Value| {
        let request = server.request("PATCH", path).header("content-type", "application/merge-patch+json");
        assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200);
    };
    let (viewer, basic) = (
        format!("{RBAC}/clusterroles/system:public-info-viewer"),
        format!("{RBAC}/clusterroles/system:basic-user"),
    );
    let extra = json!({"verbs": ["get"], "nonResourceURLs": ["/more"]});
    patch(&server, &viewer, json!({"rules": [extra]})).await;
    let off = json!({"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    patch(&server, &basic, off).await;
    assert_eq!(server.http.get(server.url("/version")).send().await.unwrap().status(), 403);
    server.stop().await;

    let again = Server::start(dir.path()).await;
    assert_eq!(again.http.get(again.url("/version")).send().await.unwrap().status(), 200);
    let get = async |path: &str| {
        let response = again.http.get(again.url(path)).bearer_auth(ADMIN).send().await.unwrap();
        response.json::<Value>().await.unwrap()
    };
    assert!(get(&viewer).await["rules"].as_array().unwrap().contains(&extra));
    assert_eq!(get(&basic).await["rules"].as_array().map_or(0, Vec::len), 0);
    again.stop().await;
}
