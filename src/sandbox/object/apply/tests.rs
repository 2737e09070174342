use proptest::prelude::*;

use super::*;
use crate::sandbox::object::schema::tests::any_json;

fn writer(manager: &str, second: i64) -> Writer {
    Writer {
        manager: manager.to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        now: Timestamp::from_second(1_700_000_000 + second).unwrap(),
    }
}

fn pods() -> Schema {
    Schema::builtin(&Gvk::gvk("", "v1", "Pod")).unwrap()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn apply_pod(live: Option<&Value>, spec: Value, manager: &str, second: i64) -> Result<Value, ApplyError> {
    apply(live, &pod(spec), &pods(), &writer(manager, second), false)
}

/// The entries as (manager, operation, subresource, fields).
fn entries(object: &Value) -> Vec<(String, String, Value)> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            (text("manager"), text("operation"), entry["fieldsV1"].clone())
        })
        .collect()
}

#[test]
fn an_apply_owns_what_it_names() {
    let spec = json!({
        "containers": [{"name": "one", "image": "i:1", "ports": [{"containerPort": 80}]}],
        "nodeSelector": {"a": "b"}, "tolerations": [{"key": "x"}],
    });
    let made = apply_pod(None, spec, "ctl", 0).unwrap();
    let fields = json!({"f:spec": {
        "f:containers": {"k:{\"name\":\"one\"}": {
            ".": {}, "f:name": {}, "f:image": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
        }},
        "f:nodeSelector": {}, "f:tolerations": {},
    }});
    assert_eq!(entries(&made), [("ctl".to_owned(), "Apply".to_owned(), fields)]);
    assert_eq!(made["metadata"]["managedFields"][0]["time"], "2023-11-14T22:13:20Z");
}

#[test]
fn the_same_again_changes_nothing() {
    let spec = json!({"containers": [{"name": "one", "image": "i:1"}]});
    let made = apply_pod(None, spec.clone(), "ctl", 0).unwrap();
    assert_eq!(apply_pod(Some(&made), spec, "ctl", 60).unwrap(), made);
}

#[test]
fn what_is_no_longer_named_goes_unless_another_owns_it() {
    let both = json!({"containers": [{"name": "one", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]});
    let made = apply_pod(None, both, "one", 0).unwrap();
    let shared = json!({"containers": [{"name": "one", "env": [{"name": "B", "value": "2"}]}]});
    let shared = apply_pod(Some(&made), shared, "two", 1).unwrap();
    let fewer = apply_pod(Some(&shared), json!({"containers": [{"name": "one"}]}), "one", 2).unwrap();
    assert_eq!(fewer["spec"]["containers"][0]["env"], json!([{"name": "B", "value": "2"}]));
    let none = apply_pod(Some(&fewer), json!({"containers": [{"name": "one"}]}), "two", 3).unwrap();
    assert_eq!(none["spec"]["containers"], json!([{"name": "one"}]));
}

#[test]
fn a_struct_that_is_dropped_takes_its_defaults_along() {
    let spec = json!({"containers": [{"name": "one", "readinessProbe": {"httpGet": {"port": 1}}}]});
    let mut made = apply_pod(None, spec, "one", 0).unwrap();
    crate::sandbox::object::builtin::default(&Gvk::gvk("", "v1", "Pod"), &mut made);
    assert_eq!(made["spec"]["containers"][0]["readinessProbe"]["periodSeconds"], 10);
    let less = apply_pod(Some(&made), json!({"containers": [{"name": "one"}]}), "one", 1).unwrap();
    assert!(less["spec"]["containers"][0].get("readinessProbe").is_none(), "{less}");
    assert_eq!(less["spec"]["restartPolicy"], "Always");
}

#[test]
fn conflicts_name_manager_and_field() {
    let made = apply_pod(None, json!({"containers": [{"name": "one", "image": "i:1"}]}), "one", 0).unwrap();
    let wish = json!({"containers": [{"name": "one", "image": "i:2"}]});
    let error = apply_pod(Some(&made), wish.clone(), "two", 1).unwrap_err();
    let status = error.status(&Gvk::gvk("", "v1", "Pod"), &json!({"metadata": {"name": "p"}}));
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.containers[name=\"one\"].image"
    );
    assert_eq!(status["code"], 409);
    assert_eq!(status["details"]["causes"][0]["message"], "conflict with \"one\"");
    // The same value is no conflict; both own it.
    let same = json!({"containers": [{"name": "one", "image": "i:1"}]});
    assert_eq!(entries(&apply_pod(Some(&made), same, "two", 1).unwrap()).len(), 2);
    let forced = apply(Some(&made), &pod(wish), &pods(), &writer("two", 1), true).unwrap();
    let of_one = entries(&forced).into_iter().find(|entry| entry.0 == "one").unwrap().2;
    assert_eq!(
        of_one,
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"one\"}": {".": {}, "f:name": {}}}}})
    );
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let mut object = pod(json!({"hostname": "a", "nodeName": "n"}));
    track_update(None, &mut object, &pods(), &writer("kubectl", 0));
    let wish = json!({"hostname": "b", "nodeName": "m"});
    let status = apply_pod(Some(&object), wish, "ctl", 1)
        .unwrap_err()
        .status(&Gvk::gvk("", "v1", "Pod"), &json!({"metadata": {"name": "p"}}));
    assert_eq!(
        status["message"],
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using v1:\n- .spec.hostname\n- .spec.nodeName"
    );
}

#[test]
fn ordinary_writes_own_what_they_change() {
    let mut object = pod(json!({"hostname": "a", "subdomain": "s"}));
    track_update(None, &mut object, &pods(), &writer("one", 0));
    let fields = json!({"f:spec": {"f:hostname": {}, "f:subdomain": {}}});
    assert_eq!(entries(&object), [("one".to_owned(), "Update".to_owned(), fields)]);
    let before = object.clone();
    track_update(Some(&before), &mut object, &pods(), &writer("two", 1));
    assert_eq!(object, before);
    object["spec"]["hostname"] = json!("b");
    object["metadata"]["labels"] = json!({"x": "y"});
    track_update(Some(&before), &mut object, &pods(), &writer("two", 1));
    let one = json!({"f:spec": {"f:subdomain": {}}});
    let two = json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:hostname": {}}});
    let update = "Update".to_owned();
    assert_eq!(entries(&object), [("one".into(), update.clone(), one), ("two".into(), update, two)]);
}

#[test]
fn what_the_server_sets_is_nobodys() {
    let gvk = Gvk::gvk("", "v1", "Pod");
    let mut object = pod(json!({"containers": [{"name": "one", "image": "i:1"}]}));
    object["metadata"]["uid"] = json!("u");
    crate::sandbox::object::builtin::default(&gvk, &mut object);
    crate::sandbox::object::builtin::prepare_create(&gvk, &mut object);
    track_update(None, &mut object, &pods(), &writer("one", 0));
    let fields = &entries(&object)[0].2;
    for server in ["f:serviceAccountName", "f:tolerations", "f:priority", "f:preemptionPolicy"] {
        assert!(fields["f:spec"].get(server).is_none(), "{server} in {fields}");
    }
    assert!(
        fields.get("f:status").is_none() && fields["f:spec"].get("f:restartPolicy").is_some(),
        "{fields}"
    );
}

#[test]
fn the_status_has_entries_of_its_own() {
    let mut object = pod(json!({"hostname": "a"}));
    track_update(None, &mut object, &pods(), &writer("one", 0));
    let before = object.clone();
    object["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let status = Writer { subresource: "status".to_owned(), ..writer("one", 1) };
    track_update(Some(&before), &mut object, &pods(), &status);
    let all = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    let own = all.iter().find(|entry| entry["subresource"] == "status").unwrap();
    assert_eq!(own["fieldsV1"]["f:status"]["f:phase"], json!({}));
    let condition = &own["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Ready\"}"];
    assert_eq!(*condition, json!({".": {}, "f:type": {}, "f:status": {}}));
}

#[test]
fn the_order_of_merged_lists() {
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["containers"].as_array().unwrap();
        list.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    };
    let containers = |names: &[&str]| json!({"containers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let cases: [(&[&str], &[&str], &[&str]); 5] = [
        (&["a"], &["b"], &["a", "b"]),
        (&["a", "side"], &["a"], &["a", "side"]),
        (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
        (&["x", "a"], &["n", "a"], &["x", "n", "a"]),
        (&["a", "b"], &["a", "n", "b"], &["a", "n", "b"]),
    ];
    for (live, applied, expected) in cases {
        let live = apply_pod(None, containers(live), "one", 0).unwrap();
        let merged = apply_pod(Some(&live), containers(applied), "two", 1).unwrap();
        assert_eq!(names(&merged), expected, "{applied:?}");
    }
}

#[test]
fn bad_applies_are_refused() {
    let twice = json!({"containers": [{"name": "a"}, {"name": "a"}]});
    let status = apply_pod(None, twice, "one", 0)
        .unwrap_err()
        .status(&Gvk::gvk("", "v1", "Pod"), &json!({"metadata": {"name": "p"}}));
    assert_eq!(status["code"], 500);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with(".spec.containers: duplicate entries for key [name=\"a\"]")
    );
    let nameless = apply_pod(None, json!({"containers": [{"image": "a"}]}), "one", 0).unwrap_err();
    assert!(matches!(nameless, ApplyError::Untyped(_)));
    let mut managed = pod(json!({}));
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let error = apply(None, &managed, &pods(), &writer("one", 0), false).unwrap_err();
    assert_eq!(
        error.status(&Gvk::gvk("", "v1", "Pod"), &json!({"metadata": {"name": "p"}}))["message"],
        "metadata.managedFields must be nil"
    );
}

#[test]
fn what_was_there_before_tracking_belongs_to_somebody() {
    let live = pod(json!({"hostname": "a"}));
    let status = apply_pod(Some(&live), json!({"hostname": "b"}), "ctl", 0)
        .unwrap_err()
        .status(&Gvk::gvk("", "v1", "Pod"), &json!({"metadata": {"name": "p"}}));
    assert!(
        status["message"].as_str().unwrap().contains("conflict with \"before-first-apply\" using v1"),
        "{status}"
    );
}

#[test]
fn old_updates_are_put_together() {
    let mut object = pod(json!({}));
    for index in 0..15 {
        let before = object.clone();
        object["metadata"]["labels"][format!("l{index}")] = json!("x");
        track_update(Some(&before), &mut object, &pods(), &writer(&format!("m{index}"), index));
    }
    let found = entries(&object);
    assert_eq!(found.len(), 10);
    assert_eq!(found[0].0, "ancient-changes");
    assert_eq!(found[0].2["f:metadata"]["f:labels"].as_object().unwrap().len(), 7);
}

#[test]
fn default_managers() {
    let cases = [
        ("kubectl/v1.36.2 (linux/amd64)", "kubectl"),
        ("Mozilla/5.0 (X11)", "Mozilla"),
        ("", "unknown"),
        ("dbctl", "dbctl"),
    ];
    for (agent, expected) in cases {
        assert_eq!(default_manager(agent), expected);
    }
}

/// Objects with keyed lists, sets, maps and scalars, some of them shared by two appliers.
fn configuration() -> impl Strategy<Value = Value> {
    let containers = prop::collection::btree_map("[a-c]", prop::option::of("[xy]"), 0..3).prop_map(|items| {
        items
            .into_iter()
            .map(|(name, image)| match image {
                Some(image) => json!({"name": name, "image": image}),
                None => json!({"name": name}),
            })
            .collect::<Vec<Value>>()
    });
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let finalizers = prop::collection::btree_set("[a-c]", 0..3);
    (containers, labels, finalizers, prop::option::of("[xy]")).prop_map(
        |(containers, labels, finalizers, host)| {
            let mut object = pod(json!({"containers": containers}));
            object["metadata"] = json!({"name": "p", "labels": labels, "finalizers": finalizers});
            if let Some(host) = host {
                object["spec"]["hostname"] = json!(host);
            }
            object
        },
    )
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(one in configuration(), two in configuration()) {
        let schema = pods();
        let made = apply(None, &one, &schema, &writer("one", 0), true).unwrap();
        let both = apply(Some(&made), &two, &schema, &writer("two", 1), true).unwrap();
        let again = apply(Some(&both), &two, &schema, &writer("two", 2), true).unwrap();
        prop_assert_eq!(again, both);
    }

    #[test]
    fn an_owner_that_lets_go_leaves_only_what_others_own(one in configuration(), two in configuration()) {
        let schema = pods();
        let alone = apply(None, &one, &schema, &writer("one", 0), true).unwrap();
        let both = apply(Some(&alone), &two, &schema, &writer("two", 1), true).unwrap();
        let nothing = pod(json!({}));
        let left = apply(Some(&both), &nothing, &schema, &writer("two", 2), true).unwrap();
        prop_assert!(entries(&left).iter().all(|entry| entry.0 != "two" || entry.2 == json!({"f:spec": {}})), "{}", left);
        let last = apply(Some(&left), &nothing, &schema, &writer("one", 3), true).unwrap();
        prop_assert_eq!(last["spec"].get("hostname"), None);
        let rest = last["spec"]["containers"].as_array().map_or(0, Vec::len);
        prop_assert_eq!(rest, 0, "{}", last);
    }

    #[test]
    fn tracking_never_fails(old in any_json(), new in any_json()) {
        let wrap = |spec: Value| pod(spec);
        let (old, mut new) = (wrap(old), wrap(new));
        track_update(Some(&old), &mut new, &pods(), &writer("one", 0));
        let once = new.clone();
        track_update(Some(&once), &mut new, &pods(), &writer("one", 9));
        prop_assert_eq!(new, once);
    }

    #[test]
    fn field_sets_survive_being_written(object in any_json()) {
        let set = walk::field_set(Some(&pods()), &pod(object));
        prop_assert_eq!(FieldSet::from_json(&set.to_json()), set);
    }
}
