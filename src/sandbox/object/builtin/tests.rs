use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sandbox::object::schema::tests::any_json;

fn gvk(group: &str, kind: &str) -> Gvk {
    Gvk::gvk(group, "v1", kind)
}

fn named(mut object: Value) -> Value {
    object["metadata"] = json!({"name": "x", "namespace": "ns"});
    object
}

fn found(errors: Vec<FieldError>) -> Vec<String> {
    errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

/// What creating the object, defaulted, is refused with.
fn refused(group: &str, kind: &str, object: Value) -> Vec<String> {
    let gvk = gvk(group, kind);
    let mut object = named(object);
    default(&gvk, &mut object);
    prepare_create(&gvk, &mut object);
    found(validate_create(&gvk, &object))
}

/// What a change of a field is refused with.
fn change(group: &str, kind: &str, object: Value, pointer: &str, value: Value) -> Vec<String> {
    let gvk = gvk(group, kind);
    let mut old = named(object);
    default(&gvk, &mut old);
    let mut new = old.clone();
    *new.pointer_mut(pointer).unwrap() = value;
    prepare_update(&gvk, &mut new, &old);
    found(validate_update(&gvk, &new, &old))
}

fn container() -> Value {
    json!({"name": "c", "image": "i:1"})
}

fn stateful_set() -> Value {
    json!({"spec": {
        "serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()]}},
    }})
}

#[test]
fn names_of_kinds() {
    let cases = [
        ("ConfigMap", "a.b-c", true),
        ("ConfigMap", "Upper", false),
        ("ConfigMap", "-a", false),
        ("Namespace", "a.b", false),
        ("Service", "1a", false),
        ("Service", "a1", true),
    ];
    for (kind, name, good) in cases {
        let object = json!({"metadata": {"name": name}});
        assert_eq!(metadata(&gvk("", kind), &object).is_empty(), good, "{kind} {name}");
    }
    let role = json!({"metadata": {"name": "system:Node"}});
    assert!(metadata(&gvk("rbac.authorization.k8s.io", "Role"), &role).is_empty());
}

#[test]
fn metadata_messages() {
    let label = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                 for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                     must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let cases = [
        (json!({"name": "N"}), format!("metadata.name: Invalid value: \"N\": {subdomain}")),
        (
            json!({"name": "n", "labels": {"k": "-v"}}),
            format!("metadata.labels: Invalid value: \"-v\": {label}"),
        ),
        (json!({}), "metadata.name: Required value: name or generateName is required".to_owned()),
    ];
    for (metadata, expected) in cases {
        let object = json!({"metadata": metadata});
        assert_eq!(found(super::metadata(&gvk("", "ConfigMap"), &object)), [expected]);
    }
}

#[test]
fn finalizers_are_not_added_to_what_is_going() {
    let old = json!({"metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!([]);
    assert!(metadata_update(&gvk("", "ConfigMap"), &new, &old).is_empty());
    new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
    let errors = found(metadata_update(&gvk("", "ConfigMap"), &new, &old));
    assert_eq!(
        errors,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
          finalizers []string{\"c/d\"}"
        ]
    );
}

#[test]
fn pods_are_filled_in() {
    let mut pod = named(json!({"spec": {
        "containers": [{
            "name": "c", "image": "reg:5000/i@sha256:1", "ports": [{"containerPort": 1}],
            "resources": {"limits": {"cpu": "1"}},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {"httpGet": {"port": 1}},
        }],
        "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}],
        "serviceAccountName": "own",
    }}));
    default(&gvk("", "Pod"), &mut pod);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1"}));
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    let probe = json!({
        "httpGet": {"port": 1, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    });
    assert_eq!(container["readinessProbe"], probe);
    let volumes = json!([{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}]);
    assert_eq!(pod["spec"]["volumes"], volumes);
    assert_eq!(pod["spec"]["serviceAccount"], "own");
    prepare_create(&gvk("", "Pod"), &mut pod);
    assert_eq!(pod["spec"]["serviceAccountName"], "own");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    assert_eq!(pod["metadata"]["generation"], 1);
}

#[test]
fn quality_of_service() {
    let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let cases = [
        (json!({}), "BestEffort"),
        (json!({"limits": both, "requests": both}), "Guaranteed"),
        (json!({"limits": both}), "Guaranteed"),
        (json!({"requests": both}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
    ];
    for (resources, expected) in cases {
        assert_eq!(pods::qos_class(&pod(resources.clone())), expected, "{resources}");
    }
}

#[test]
fn pods_that_are_refused() {
    let cases = [
        (json!({"containers": []}), vec!["spec.containers: Required value"]),
        (json!({"containers": [{"name": "c"}]}), vec!["spec.containers[0].image: Required value"]),
        (
            json!({"containers": [container(), container()]}),
            vec!["spec.containers[1].name: Duplicate value: \"c\""],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}),
            vec![
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            json!({"containers": [container()], "restartPolicy": "Maybe"}),
            vec![
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {}}]}),
            vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(refused("", "Pod", json!({"spec": spec})), expected, "{spec}");
    }
}

#[test]
fn pods_hardly_change() {
    let pod = json!({"spec": {"containers": [container()], "nodeSelector": {"a": "b"}}});
    assert!(change("", "Pod", pod.clone(), "/spec/containers/0/image", json!("i:2")).is_empty());
    for (pointer, value) in [
        ("/spec/containers/0/name", json!("d")),
        ("/spec/nodeSelector", json!({})),
        ("/spec/restartPolicy", json!("Never")),
    ] {
        let errors = change("", "Pod", pod.clone(), pointer, value);
        assert!(
            errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than"),
            "{errors:?}"
        );
    }
    assert_eq!(
        change("", "Pod", pod, "/spec/containers", json!([])),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn a_wrong_type_is_refused_at_last() {
    let mut set = stateful_set();
    set["spec"]["replicas"] = json!("two");
    let errors = refused("apps", "StatefulSet", set);
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .contains("cannot unmarshal string into Go struct field StatefulSet.spec.replicas of type int32")
    );
}

#[test]
fn stateful_sets_change_only_where_they_may() {
    for (pointer, value, good) in [
        ("/spec/replicas", json!(5), true),
        ("/spec/template/spec/containers/0/image", json!("i:2"), true),
        ("/spec/updateStrategy", json!({"type": "OnDelete"}), true),
        ("/spec/serviceName", json!("other"), false),
        ("/spec/podManagementPolicy", json!("Parallel"), false),
    ] {
        let errors = change("apps", "StatefulSet", stateful_set(), pointer, value);
        assert_eq!(errors.is_empty(), good, "{pointer}: {errors:?}");
    }
}

#[test]
fn the_generation_counts_changes_of_the_spec() {
    let gvk = gvk("apps", "StatefulSet");
    let mut old = named(stateful_set());
    default(&gvk, &mut old);
    prepare_create(&gvk, &mut old);
    assert_eq!(old["metadata"]["generation"], 1);
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    labelled["status"] = json!({"replicas": 9});
    prepare_update(&gvk, &mut labelled, &old);
    assert_eq!((&labelled["metadata"]["generation"], &labelled["status"]), (&json!(1), &old["status"]));
    let mut scaled = old.clone();
    scaled["spec"]["replicas"] = json!(2);
    prepare_update(&gvk, &mut scaled, &old);
    assert_eq!(scaled["metadata"]["generation"], 2);
}

#[test]
fn a_status_write_keeps_the_rest() {
    let gvk = gvk("apps", "Deployment");
    let old = json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 0}});
    let mut new = json!({"metadata": {"name": "x", "managedFields": [], "annotations": {"c": "d"}}, "spec": {"replicas": 9}, "status": {"replicas": 1}});
    prepare_status_update(&gvk, &mut new, &old);
    let expected = json!({
        "metadata": {"name": "x", "labels": {"a": "b"}, "annotations": {"c": "d"}, "managedFields": []},
        "spec": {"replicas": 1}, "status": {"replicas": 1},
    });
    assert_eq!(new, expected);
}

#[test]
fn jobs_find_their_pods() {
    let gvk = gvk("batch", "Job");
    let mut job = named(
        json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container()]}}}}),
    );
    job["metadata"]["uid"] = json!("u");
    default(&gvk, &mut job);
    prepare_create(&gvk, &mut job);
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "x");
    assert!(validate_create(&gvk, &job).is_empty());
    let always = json!({"spec": {"template": {"spec": {"containers": [container()]}}}});
    assert_eq!(
        refused("batch", "Job", always),
        [
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\""
        ]
    );
}

#[test]
fn claims_grow_once_bound() {
    let claim = |phase: &str| {
        json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "volumeName": "v",
                     "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": phase, "capacity": {"storage": "2Gi"}},
        })
    };
    let size = "/spec/resources/requests/storage";
    let bound = |value: &str| change("", "PersistentVolumeClaim", claim("Bound"), size, json!(value));
    assert!(bound("3Gi").is_empty());
    assert!(bound("2048Mi").is_empty());
    assert_eq!(
        bound("1Gi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    let pending = change("", "PersistentVolumeClaim", claim("Pending"), size, json!("3Gi"));
    assert!(pending[0].starts_with("spec: Forbidden: spec is immutable after creation"), "{pending:?}");
}

#[test]
fn services_keep_their_address() {
    let service =
        json!({"spec": {"clusterIP": "127.1.255.3", "clusterIPs": ["127.1.255.3"], "ports": [{"port": 1}]}});
    assert_eq!(
        change("", "Service", service.clone(), "/spec/clusterIP", json!("127.1.255.4")),
        ["spec.clusterIPs[0]: Invalid value: [\"127.1.255.4\"]: may not change once set"]
    );
    assert!(change("", "Service", service.clone(), "/spec/clusterIP", json!("")).is_empty());
    assert!(change("", "Service", service, "/spec/type", json!("ExternalName")).len() == 1);
    assert_eq!(
        refused("", "Service", json!({"spec": {"ports": [{"port": 1}, {"port": 2}]}})),
        ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]
    );
}

#[test]
fn various_refusals() {
    let cases = [
        ("", "Service", json!({"spec": {}}), "spec.ports: Required value"),
        (
            "",
            "Secret",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            "data[tls.key]: Required value",
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "rbac.authorization.k8s.io",
            "Role",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"spec": {"maxUnavailable": "101%"}}),
            "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        ("discovery.k8s.io", "EndpointSlice", json!({"endpoints": []}), "addressType: Required value"),
        ("storage.k8s.io", "StorageClass", json!({}), "provisioner: Required value"),
        (
            "",
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}}),
            "spec.resources[storage]: Required value",
        ),
    ];
    for (group, kind, object, expected) in cases {
        assert_eq!(refused(group, kind, object), [expected], "{kind}");
    }
    let key = refused("", "ConfigMap", json!({"data": {"a b": "x"}}));
    assert!(
        key[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist of"),
        "{key:?}"
    );
}

#[test]
fn definitions_are_checked() {
    let crd = |name: &str, schema: Value| {
        let mut object = json!({"spec": {
            "group": "g.example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        }});
        object["metadata"] = json!({"name": name});
        let gvk = gvk("apiextensions.k8s.io", "CustomResourceDefinition");
        default(&gvk, &mut object);
        assert_eq!(object["spec"]["names"]["listKind"], "WidgetList");
        found(validate_create(&gvk, &object))
    };
    assert!(crd("widgets.g.example.com", json!({"type": "object"})).is_empty());
    assert_eq!(
        crd("other.g.example.com", json!({"type": "object"})),
        ["metadata.name: Invalid value: \"other.g.example.com\": must be spec.names.plural+\".\"+spec.group"]
    );
    let bad = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.("}]});
    assert!(
        crd("widgets.g.example.com", bad)[0].contains(
            "openAPIV3Schema.x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self.(\","
        )
    );
}

#[test]
fn sealed_data_stays() {
    let map = json!({"immutable": true, "data": {"a": "1"}});
    assert_eq!(
        change("", "ConfigMap", map.clone(), "/data/a", json!("2")),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        change("", "ConfigMap", map, "/immutable", json!(false)),
        ["immutable: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn events_have_two_forms() {
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "message": "m", "count": 2, "source": {"component": "c"},
        "involvedObject": {"name": "p"}, "reportingComponent": "r", "type": "Normal",
    });
    let new = convert(&core, &gvk("events.k8s.io", "Event"));
    assert_eq!(new["note"], "m");
    assert_eq!(new["regarding"]["name"], "p");
    assert_eq!((&new["deprecatedCount"], &new["apiVersion"]), (&json!(2), &json!("events.k8s.io/v1")));
    assert_eq!(convert(&new, &gvk("", "Event")), core);
}

#[test]
fn cron_schedules() {
    let cron = |spec: Value| {
        let mut object = json!({"spec": spec});
        object["spec"]["jobTemplate"] =
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container()]}}}});
        refused("batch", "CronJob", object)
    };
    assert!(cron(json!({"schedule": "*/5 0 1 * mon"})).is_empty());
    assert!(cron(json!({"schedule": "@daily", "timeZone": "UTC"})).is_empty());
    assert!(cron(json!({"schedule": "61 3 * * *"}))[0].starts_with("spec.schedule: Invalid value"));
    assert!(cron(json!({"schedule": "TZ=UTC 0 3 * * *"}))[0].contains("cannot use TZ or CRON_TZ"));
    assert_eq!(
        cron(json!({"schedule": "0 3 * * *", "timeZone": "Not/AZone"})),
        ["spec.timeZone: Invalid value: \"Not/AZone\": unknown time zone Not/AZone"]
    );
}

const KINDS: [(&str, &str); 14] = [
    ("", "Pod"),
    ("", "Service"),
    ("", "Secret"),
    ("", "PersistentVolume"),
    ("apps", "StatefulSet"),
    ("apps", "Deployment"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("storage.k8s.io", "StorageClass"),
];

proptest! {
    /// Odd objects are refused by decoding; here it matters that nothing fails, and that twice is once.
    #[test]
    fn defaulting_twice_is_defaulting_once(object in any_json(), spec in any_json(), kind in 0..KINDS.len()) {
        let gvk = gvk(KINDS[kind].0, KINDS[kind].1);
        let mut object = if object.is_object() { object } else { json!({}) };
        object["spec"] = spec;
        default(&gvk, &mut object);
        let once = object.clone();
        default(&gvk, &mut object);
        prop_assert_eq!(&object, &once);
        validate_create(&gvk, &object);
        validate_update(&gvk, &object, &once);
    }
}
