use super::*;

const NOW: &str = "2026-01-02T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn cells(group: &str, kind: &str, object: &Value) -> Vec<Value> {
    let table = render(&Gvk::gvk(group, "v1", kind), None, &[object], &json!({}), IncludeObject::None, now());
    let columns = table["columnDefinitions"].as_array().unwrap().len();
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), columns, "{kind}");
    cells
}

#[test]
fn ages() {
    let cases = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (599, "9m59s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (180 * 60, "3h"),
        (3 * 3600 + 300, "3h5m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (8 * 365 * 86400, "8y"),
    ];
    for (seconds, expected) in cases {
        assert_eq!(age::human(seconds), expected, "{seconds}");
    }
}

#[test]
fn json_paths() {
    let object = json!({
        "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True", "n": 3}]},
        "metadata": {"annotations": {"a.b/c": "x"}},
    });
    let cases = [
        (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
        ("{.status.conditions[?(@.type=='Ready')].status}", json!(["True"])),
        (".status.conditions[?(@.type!=\"Ready\")].status", json!(["False"])),
        (".status.conditions[?(@.n>2)].type", json!(["Ready"])),
        (".status.conditions[?(@.n)].type", json!(["Ready"])),
        (".status.conditions[*].type", json!(["A", "Ready"])),
        (".status.conditions[0].type", json!(["A"])),
        (".status.conditions[-1].type", json!(["Ready"])),
        (".metadata.annotations['a.b/c']", json!(["x"])),
        (".metadata.annotations.a\\.b/c", json!(["x"])),
        (".nothing.here", json!([])),
    ];
    for (path, expected) in cases {
        let parsed = jsonpath::JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(json!(parsed.find(&object)), expected, "{path}");
    }
    assert_eq!(jsonpath::JsonPath::parse(".a[0"), None);
}

#[test]
fn custom_columns() {
    let columns = json!([
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1},
        {"name": "Last", "type": "date", "jsonPath": ".status.last"},
        {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
        {"name": "Gone", "type": "string", "jsonPath": ".spec.gone"},
    ]);
    let object = json!({
        "metadata": {"name": "w"}, "spec": {"size": 3, "on": true},
        "status": {"last": "2026-01-01T22:00:00Z", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let gvk = Gvk::gvk("g.io", "v1", "Widget");
    let table = render(&gvk, Some(&columns), &[&object], &json!({}), IncludeObject::Object, now());
    assert_eq!(table["rows"][0]["cells"], json!(["w", "True", 3, "120m", true, null]));
    assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    assert_eq!(table["rows"][0]["object"], object);
    let plain = render(&gvk, None, &[&object], &json!({}), IncludeObject::Metadata, now());
    assert_eq!(plain["columnDefinitions"][1]["name"], "Age");
    assert_eq!(plain["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

fn pod_status(status: Value, deleted: bool) -> String {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{}, {}], "initContainers": [{}]}, "status": status});
    if deleted {
        pod["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    cells("", "Pod", &pod)[2].as_str().unwrap().to_owned()
}

#[test]
fn what_pods_say_of_themselves() {
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
    let running = json!({"ready": true, "state": {"running": {}}});
    let cases = [
        (json!({"phase": "Pending"}), "Pending"),
        (json!({"phase": "Running", "containerStatuses": [running, running]}), "Running"),
        (
            json!({"phase": "Running", "containerStatuses": [running, waiting("CrashLoopBackOff")]}),
            "CrashLoopBackOff",
        ),
        (json!({"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")]}), "ImagePullBackOff"),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            "ExitCode:3",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}),
            "Signal:9",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}), "Init:0/1"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [waiting("ErrImagePull")]}),
            "Init:ErrImagePull",
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(pod_status(status.clone(), false), expected, "{status}");
    }
    assert_eq!(pod_status(json!({"phase": "Running"}), true), "Terminating");
}

#[test]
fn pods_count_restarts_and_ready_containers() {
    let pod = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T23:00:00Z"},
        "spec": {"containers": [{}, {}], "nodeName": "n"},
        "status": {"phase": "Running", "podIP": "127.1.1.1", "containerStatuses": [
            {"ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2026-01-01T23:55:00Z"}}},
            {"ready": false, "restartCount": 0, "state": {"running": {}}},
        ]},
    });
    let expected = json!(["p", "1/2", "Running", "2 (5m ago)", "60m", "127.1.1.1", "n", "<none>", "<none>"]);
    assert_eq!(json!(cells("", "Pod", &pod)), expected);
}

#[test]
fn built_in_kinds() {
    let at = |mut object: Value| {
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:59:00Z");
        object
    };
    let cases = [
        (
            "apps",
            "StatefulSet",
            json!({"metadata": {"name": "s"}, "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 2}}),
            json!(["s", "2/3", "60s", "c", "i"]),
        ),
        (
            "",
            "Service",
            json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "clusterIP": "127.0.0.9", "selector": {"a": "b"}, "ports": [{"port": 5432, "protocol": "TCP"}]}}),
            json!(["s", "ClusterIP", "127.0.0.9", "<none>", "5432/TCP", "60s", "a=b"]),
        ),
        (
            "",
            "ConfigMap",
            json!({"metadata": {"name": "c"}, "data": {"a": "", "b": ""}}),
            json!(["c", 2, "60s"]),
        ),
        (
            "",
            "Secret",
            json!({"metadata": {"name": "c"}, "type": "Opaque"}),
            json!(["c", "Opaque", 0, "60s"]),
        ),
        (
            "",
            "PersistentVolumeClaim",
            json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "x", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            json!(["c", "Bound", "v", "1Gi", "RWO", "x", "<unset>", "60s", "Filesystem"]),
        ),
        (
            "",
            "Namespace",
            json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}),
            json!(["n", "Active", "60s"]),
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1}}),
            json!(["b", "1", "N/A", 0, "60s"]),
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}),
            json!(["l", "me", "60s"]),
        ),
        (
            "batch",
            "Job",
            json!({"metadata": {"name": "j"}, "spec": {"completions": 1}, "status": {"startTime": "2026-01-01T23:59:30Z", "conditions": [{"type": "Complete", "status": "True"}], "completionTime": "2026-01-01T23:59:40Z", "succeeded": 1}}),
            json!(["j", "Complete", "1/1", "10s", "60s", "<none>", "<none>", "<none>"]),
        ),
        (
            "batch",
            "CronJob",
            json!({"metadata": {"name": "c"}, "spec": {"schedule": "0 3 * * *", "suspend": false}}),
            json!(["c", "0 3 * * *", "<none>", false, 0, "<none>", "60s", "<none>", "<none>", "<none>"]),
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": ["a"]}, {"addresses": ["b"]}, {"addresses": ["c"]}, {"addresses": ["d"]}]}),
            json!(["e", "IPv4", "1", "a,b,c + 1 more...", "60s"]),
        ),
        (
            "",
            "Node",
            json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}}),
            json!([
                "n",
                "Ready,SchedulingDisabled",
                "<none>",
                "60s",
                "v1",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        (
            "",
            "Event",
            json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "R", "message": "m", "involvedObject": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T23:58:00Z"}),
            json!(["2m", "Normal", "R", "pod/p", "", "", "m", "2m", 1, "e"]),
        ),
    ];
    for (group, kind, object, expected) in cases {
        assert_eq!(json!(cells(group, kind, &at(object))), expected, "{kind}");
    }
}
