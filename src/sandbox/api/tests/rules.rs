//! What a real API server answers where the recordings are silent: one table per family of rules.

use serde_json::{Value, json};

use super::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// One request: method, path, type and body; then the status code and one value of the answer.
type Step<'a> = (&'a str, String, &'a str, &'a str, u16, &'a str, Value);

/// Makes the requests in order.
async fn play(steps: Vec<Step<'_>>) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    for (method, path, kind, body, code, pointer, expected) in steps {
        let request = server.request(method, &path).header("content-type", kind).body(body.to_owned());
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        let found = answer.pointer(pointer).cloned().unwrap_or(json!("$absent"));
        assert_eq!((status, found), (code, expected), "{method} {path} {body}: {answer}");
    }
    server.stop().await;
}

fn map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
        .to_string()
}

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let at = |rest: &str| format!("{MAPS}{rest}");
    let strict = || at("?fieldValidation=Strict");
    let message = "/message";
    play(vec![
        ("POST", at(""), JSON, "{not json", 400, message, json!("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({not json)")),
        ("POST", at(""), JSON, "", 400, message, json!("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)")),
        ("POST", at(""), JSON, r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#, 400, message, json!("Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion")),
        ("POST", at(""), JSON, r#"{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"x"}}"#, 400, message, json!("ConfigMap in version \"v9\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v9\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"")),
        ("POST", at(""), JSON, r#"{"metadata":{"name":"x"},"data":{"a":1}}"#, 400, message, json!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string")),
        ("POST", at(""), JSON, r#"{"metadata":{"name":"x"},"data":[]}"#, 400, message, json!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string")),
        ("POST", strict(), JSON, r#"{"zz":1,"metadata":{"name":"x","foo":1},"data":{"a":"1","a":"2"}}"#, 400, message, json!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"zz\", unknown field \"metadata.foo\", duplicate field \"data.a\"")),
        ("POST", at("?fieldManager=%07"), JSON, &map("x"), 422, "/details/kind", json!("CreateOptions")),
        ("PUT", at("/x?dryRun=Some"), JSON, &map("x"), 422, message, json!("UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")),
        ("GET", at("?limit=x"), JSON, "", 400, message, json!("strconv.ParseInt: parsing \"x\": invalid syntax")),
        ("POST", PODS.into(), JSON, r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"much"}}}]}}"#, 400, message, json!("Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")),
    ])
    .await;
}

#[tokio::test]
async fn patches_that_do_not_fit() {
    let at = |rest: &str| format!("{MAPS}/m{rest}");
    let (message, field) = ("/message", "/details/causes/0/field");
    play(vec![
        ("POST", MAPS.into(), JSON, &map("m"), 201, "/data/a", json!("1")),
        ("PATCH", at(""), MERGE, "{bad", 400, message, json!("error decoding patch: invalid character 'b' looking for beginning of object key string")),
        ("PATCH", at(""), MERGE, "[]", 400, message, json!("error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}")),
        ("PATCH", at(""), OPERATIONS, r#"{"a":1}"#, 400, message, json!("error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")),
        ("PATCH", at(""), OPERATIONS, r#"[{"op":"add","value":1}]"#, 422, "/reason", json!("Invalid")),
        ("PATCH", at("?fieldValidation=Strict"), STRATEGIC, r#"{"zz":[1,{"b":null}]}"#, 422, message, json!(" \"\" is invalid: patch: Invalid value: \"map[zz:[1 map[b:<nil>]]]\": strict decoding error: unknown field \"zz\"")),
        ("PATCH", at("?fieldValidation=Strict"), MERGE, r#"{"data":{"b":"1","b":"2"}}"#, 422, field, json!("patch")),
        ("PATCH", at(""), MERGE, r#"{"metadata":{"uid":"other"}}"#, 422, field, json!("metadata.uid")),
        ("PATCH", at(""), MERGE, r#"{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}"#, 422, field, json!("metadata.deletionTimestamp")),
        ("PATCH", at(""), MERGE, r#"{"metadata":{"namespace":"other"}}"#, 400, message, json!("the namespace of the provided object does not match the namespace sent on the request")),
        ("PATCH", at(""), MERGE, r#"{"kind":"Secret"}"#, 422, field, json!("patch")),
        ("PATCH", at("?fieldManager=f"), APPLY, r#"{"apiVersion":"v1","kind":"Secret"}"#, 400, message, json!("invalid object type: /v1, Kind=Secret")),
        ("PATCH", at("?fieldManager=f"), APPLY, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"zz":1}"#, 500, message, json!("failed to create typed patch object (/m; /v1, Kind=ConfigMap): .zz: field not declared in schema")),
        ("PATCH", at("?fieldManager=f"), APPLY, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","managedFields":[]}}"#, 400, message, json!("metadata.managedFields must be nil")),
        ("PATCH", format!("{MAPS}/n?fieldManager=f"), APPLY, r#"{"apiVersion":"v1","kind":"ConfigMap"}"#, 400, message, json!("the name of the object (n based on URL) was undeterminable: name must be provided")),
        ("DELETE", at(""), JSON, r#"{"dryRun":["Some"]}"#, 422, field, json!("dryRun")),
        ("DELETE", at(""), JSON, r#"{"preconditions":{"uid":"x"}}"#, 409, "/details/kind", json!("ConfigMap")),
        ("GET", at(""), JSON, "", 200, "/data", json!({"a": "1"})),
    ])
    .await;
}

#[tokio::test]
async fn some_kinds_are_made_by_put_and_name_the_version_they_replace() {
    let lease = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},"spec":{"renewTime":"2026-01-01T00:00:00Z"}}"#;
    let path = || format!("{LEASES}/l");
    play(vec![
        ("PUT", path(), JSON, lease, 201, "/spec/renewTime", json!("2026-01-01T00:00:00.000000Z")),
        ("PUT", path(), JSON, lease, 422, "/message", json!("leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update")),
        ("PUT", format!("{MAPS}/m"), JSON, &map("m"), 404, "/reason", json!("NotFound")),
    ])
    .await;
}

#[tokio::test]
async fn services_have_ports_of_the_nodes() {
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec}).to_string();
    let first = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]}));
    let second = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]}));
    let outside = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
    let (message, port) = ("/message", "/spec/ports/0/nodePort");
    let a = || format!("{SERVICES}/a");
    play(vec![
        ("POST", SERVICES.into(), JSON, &first, 201, port, json!(30123)),
        ("POST", SERVICES.into(), JSON, &second, 422, message, json!("Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated")),
        ("POST", SERVICES.into(), JSON, &outside, 422, message, json!("Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767")),
        ("PATCH", a(), MERGE, r#"{"spec":{"ports":[{"port":81}]}}"#, 200, port, json!(30123)),
        ("PATCH", a(), MERGE, r#"{"spec":{"type":"ClusterIP"}}"#, 200, "/spec/externalTrafficPolicy", json!("$absent")),
        ("GET", a(), JSON, "", 200, port, json!("$absent")),
        ("POST", SERVICES.into(), JSON, &second, 201, port, json!(30123)),
        ("PATCH", a(), MERGE, r#"{"spec":{"type":"ExternalName","externalName":"x.y"}}"#, 200, "/spec/clusterIP", json!("$absent")),
    ])
    .await;
}

#[tokio::test]
async fn pods_keep_their_tolerations_and_their_status_may_carry_labels() {
    let pod = r#"{"metadata":{"name":"p"},"spec":{"activeDeadlineSeconds":10,"containers":[{"name":"a","image":"i:1"}]}}"#;
    let at = |rest: &str| format!("{PODS}/p{rest}");
    let field = "/details/causes/0/field";
    play(vec![
        ("POST", PODS.into(), JSON, pod, 201, "/status/phase", json!("Pending")),
        (
            "PATCH",
            at(""),
            MERGE,
            r#"{"spec":{"tolerations":[{"key":"k","operator":"Exists"}]}}"#,
            200,
            "/spec/tolerations/2/key",
            json!("node.kubernetes.io/unreachable"),
        ),
        ("PATCH", at(""), MERGE, r#"{"spec":{"tolerations":[]}}"#, 422, field, json!("spec.tolerations")),
        (
            "PATCH",
            at(""),
            MERGE,
            r#"{"spec":{"activeDeadlineSeconds":20}}"#,
            422,
            field,
            json!("spec.activeDeadlineSeconds"),
        ),
        (
            "PATCH",
            at("/status"),
            MERGE,
            r#"{"metadata":{"labels":{"x":"y"}},"status":{"phase":"Running"}}"#,
            200,
            "/metadata/labels",
            json!({"x": "y"}),
        ),
        ("POST", at("/binding"), JSON, r#"{"target":{"kind":"Node","name":"n"}}"#, 201, "/code", json!(201)),
        (
            "POST",
            PODS.into(),
            JSON,
            r#"{"metadata":{"name":"q"},"spec":{"priority":5,"containers":[{"name":"a","image":"i"}]}}"#,
            403,
            "/reason",
            json!("Forbidden"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_job_leaves_its_pods_behind_unless_told_otherwise() {
    let job = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "a", "image": "i"}]}}}})
        .to_string()
    };
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}})
    .to_string();
    play(vec![
        ("POST", JOBS.into(), JSON, &job("a"), 201, "/spec/completions", json!(1)),
        ("DELETE", format!("{JOBS}/a"), JSON, "", 200, "/metadata/finalizers", json!(["orphan"])),
        ("POST", JOBS.into(), JSON, &job("b"), 201, "/spec/completions", json!(1)),
        (
            "DELETE",
            format!("{JOBS}/b?propagationPolicy=Background"),
            JSON,
            "",
            200,
            "/status",
            json!("Success"),
        ),
        (
            "POST",
            "/api/v1/namespaces/default/persistentvolumeclaims".into(),
            JSON,
            &claim,
            201,
            "/metadata/finalizers",
            json!(["kubernetes.io/pvc-protection"]),
        ),
        (
            "POST",
            "/api/v1/namespaces".into(),
            JSON,
            r#"{"metadata":{"name":"n"}}"#,
            201,
            "/metadata/managedFields/0/fieldsV1/f:metadata/f:labels",
            json!({".": {}, "f:kubernetes.io/metadata.name": {}}),
        ),
    ])
    .await;
}
