use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::claims::{self, Claims};
use super::plan::{Action, Observed, Plan, plan};
use super::pod;
use crate::sandbox::controllers::revision::Revision;
use crate::sandbox::controllers::write::merge_patch;

fn now() -> Timestamp {
    "2026-01-01T00:00:30Z".parse().unwrap()
}

fn set(extra: Value) -> StatefulSet {
    let mut object = json!({
        "metadata": {"name": "s", "namespace": "n", "uid": "set-uid", "generation": 4},
        "spec": {
            "serviceName": "svc",
            "replicas": 3,
            "selector": {"matchLabels": {"app": "s"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {
                "metadata": {"labels": {"app": "s"}, "annotations": {"note": "1"}},
                "spec": {
                    "containers": [{"name": "one", "image": "i:2"}],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"kind": "data"}},
                                      "spec": {"accessModes": ["ReadWriteOnce"]}}],
        },
    });
    merge(&mut object, extra);
    serde_json::from_value(object).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match from {
        Value::Object(fields) => fields.into_iter().for_each(|(key, value)| merge(&mut into[key], value)),
        other => *into = other,
    }
}

/// A pod as a letter: R running and ready, U running but not ready, P pending, F failed, T terminating; small: of
/// the old revision.
fn pod(ordinal: i32, state: char) -> Arc<Pod> {
    let upper = state.to_ascii_uppercase();
    let revision = if state.is_lowercase() { "s-old" } else { "s-new" };
    let phase = match upper {
        'P' => "Pending",
        'F' => "Failed",
        _ => "Running",
    };
    let ready = if matches!(upper, 'R' | 'T') { "True" } else { "False" };
    let mut object = json!({
        "metadata": {
            "name": format!("s-{ordinal}"), "namespace": "n", "uid": format!("pod-{ordinal}"),
            "labels": {"app": "s", "controller-revision-hash": revision,
                       "statefulset.kubernetes.io/pod-name": format!("s-{ordinal}")},
        },
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:20Z"}]},
    });
    if upper == 'T' {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn claim(ordinal: i32, leaving: bool) -> (String, Arc<PersistentVolumeClaim>) {
    let name = format!("data-s-{ordinal}");
    let mut object = json!({"metadata": {"name": name, "uid": format!("claim-{ordinal}")}});
    if leaving {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    (name, Arc::new(serde_json::from_value(object).unwrap()))
}

fn run(set: &StatefulSet, pods: &[Arc<Pod>], claims: &Claims) -> Plan {
    let revision = |name: &str, image: &str| {
        let mut template = set.spec.template.clone();
        template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        Revision { name: name.into(), template }
    };
    let (current, update) = (revision("s-old", "i:1"), revision("s-new", "i:2"));
    plan(&Observed { set, pods, claims, current: &current, update: &update, now: now() })
}

/// What the plan does, as words: `+0` starts (with its claims), `-1` stops, `claims 2` makes claims only.
fn words(plan: &Plan) -> String {
    let mut words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Start { pod: Some(pod), claims } => {
                let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
                format!("+{}({image},{})", pod.metadata.name.as_ref().unwrap(), claims.len())
            }
            Action::Start { pod: None, claims } => {
                format!("claim {}", claims[0].metadata.name.as_ref().unwrap())
            }
            Action::Stop { pod, .. } => format!("-{}", pod.metadata.name.as_ref().unwrap()),
            Action::Label(pod) => format!("label {}", pod.metadata.name.as_ref().unwrap()),
            Action::Own { claim, owners } => {
                let owners: Vec<&str> = owners.iter().map(|owner| owner.uid.as_str()).collect();
                format!("own {}={}", claim.metadata.name.as_ref().unwrap(), owners.join("+"))
            }
        })
        .collect();
    words.sort();
    words.join(" ")
}

/// Pods by position: a space is a pod that is not there.
fn pods(states: &str) -> Vec<Arc<Pod>> {
    let states = states.chars().enumerate().filter(|(_, state)| *state != ' ');
    states.map(|(ordinal, state)| pod(i32::try_from(ordinal).unwrap(), state)).collect()
}

fn all_claims() -> Claims {
    (0..6).map(|ordinal| claim(ordinal, false)).collect()
}

#[test]
fn pods_are_made_replaced_and_removed_as_the_policies_say() {
    let ordered = json!({});
    let parallel = json!({"spec": {"podManagementPolicy": "Parallel"}});
    let on_delete = json!({"spec": {"podManagementPolicy": "Parallel", "updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
    for (case, policy, states, expected) in [
        ("first", &ordered, "", "+s-0(i:2,0)"),
        ("all at once", &parallel, "", "+s-0(i:2,0) +s-1(i:2,0) +s-2(i:2,0)"),
        ("next waits for unready", &ordered, "U", ""),
        ("next after ready", &ordered, "R", "+s-1(i:2,0)"),
        ("terminating is waited for", &ordered, "RT", ""),
        ("terminating does not hold up others", &parallel, "T", "+s-1(i:2,0) +s-2(i:2,0)"),
        ("failed is replaced", &ordered, "RFR", "-s-1"),
        ("failed is replaced in parallel", &parallel, "FFR", "-s-0 -s-1"),
        ("complete", &ordered, "RRR", ""),
        ("scale down from the highest", &ordered, "RRRRR", "-s-4"),
        ("scale down at once", &parallel, "RRRRR", "-s-3 -s-4"),
        ("scale down waits for terminating", &ordered, "RRRRT", ""),
        ("scale down waits for the unready in order", &ordered, "RRRUU", ""),
        ("scale down takes the only unready", &ordered, "RRRRU", "-s-4"),
        ("no scale down before all are there", &ordered, "RR R", "+s-2(i:2,0)"),
        ("rolling, highest first", &ordered, "rrr", "-s-2"),
        ("rolling goes on after ready", &ordered, "rrR", "-s-1"),
        ("rolling waits for ready", &parallel, "rrU", ""),
        ("rolling waits for terminating", &parallel, "rrT", ""),
        ("partition keeps the lower", &partition, "rrr", "-s-2"),
        ("partition is done", &partition, "rrR", ""),
        ("partition restarts the old", &partition, "r R", "+s-1(i:1,0)"),
        ("on delete leaves running ones", &on_delete, "rrr", ""),
        ("on delete starts the new", &on_delete, "r r", "+s-1(i:2,0)"),
        ("an old unready pod is rolled in parallel", &parallel, "Rur", "-s-2"),
    ] {
        let plan = run(&set(policy.clone()), &pods(states), &all_claims());
        assert_eq!(words(&plan), expected, "{case}");
    }
}

#[test]
fn a_deleted_set_starts_and_stops_nothing() {
    let set = set(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(words(&run(&set, &pods("R F"), &all_claims())), "");
}

#[test]
fn claims_come_first_and_a_leaving_claim_is_waited_for() {
    let set = set(json!({"spec": {"replicas": 1}}));
    assert_eq!(words(&run(&set, &[], &BTreeMap::new())), "+s-0(i:2,1)");
    let leaving = run(&set, &[], &BTreeMap::from([claim(0, true)]));
    assert_eq!(words(&leaving), "");
    assert!(leaving.recheck.is_some());
    // The claim went while the pod was being made.
    assert_eq!(words(&run(&set, &pods("P"), &BTreeMap::new())), "claim data-s-0");
    assert_eq!(words(&run(&set, &pods("P"), &BTreeMap::from([claim(0, true)]))), "");
}

#[test]
fn claims_are_owned_as_the_retention_policy_says() {
    let with = |deleted: &str, scaled: &str| {
        set(json!({"spec": {"replicas": 1, "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}))
    };
    let claims: Claims = (0..2).map(|ordinal| claim(ordinal, false)).collect();
    for (deleted, scaled, expected) in [
        ("Retain", "Retain", "-s-1"),
        ("Delete", "Retain", "-s-1 own data-s-0=set-uid own data-s-1=set-uid"),
        ("Retain", "Delete", "-s-1 own data-s-1=pod-1"),
        ("Delete", "Delete", "-s-1 own data-s-0=set-uid own data-s-1=pod-1"),
    ] {
        let plan = run(&with(deleted, scaled), &pods("RR"), &claims);
        assert_eq!(words(&plan), expected, "{deleted} {scaled}");
    }
    let mut owned = (*claim(0, false).1).clone();
    let other = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "other"},
                       {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "set-uid"}]);
    owned.metadata.owner_references = serde_json::from_value(other).unwrap();
    let left = claims::owners(&with("Retain", "Retain"), None, false, &owned).unwrap();
    assert_eq!(left.iter().map(|owner| owner.uid.as_str()).collect::<Vec<_>>(), ["other"]);
    assert_eq!(claims::owners(&with("Delete", "Retain"), None, false, &owned), None);
}

#[test]
fn a_pod_has_its_number_labels_and_claims() {
    let set = set(json!({}));
    let revision = Revision { name: "s-new".into(), template: set.spec.template.clone() };
    let made = serde_json::to_value(pod::build(&set, &revision, 2)).unwrap();
    let expected = json!({
        "metadata": {
            "name": "s-2", "namespace": "n", "annotations": {"note": "1"},
            "labels": {"app": "s", "controller-revision-hash": "s-new", "apps.kubernetes.io/pod-index": "2",
                       "statefulset.kubernetes.io/pod-name": "s-2"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "set-uid",
                                 "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "hostname": "s-2", "subdomain": "svc", "containers": [{"name": "one", "image": "i:2"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-s-2"}},
                        {"name": "other", "emptyDir": {}}],
        },
    });
    let expected: Pod = serde_json::from_value(expected).unwrap();
    assert_eq!(made, serde_json::to_value(expected).unwrap());
    let claim = &claims::missing(&set, 2, &BTreeMap::new())[0];
    assert_eq!(claim.metadata.name.as_deref(), Some("data-s-2"));
    let labels = claim.metadata.labels.clone().unwrap();
    assert_eq!(
        labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        ["app=s", "kind=data"]
    );
    assert_eq!(claim.metadata.owner_references, None);
}

#[test]
fn names_that_are_not_the_sets_numbers_are_not_its_pods() {
    for (name, expected) in [
        ("s-0", Some(0)),
        ("s-12", Some(12)),
        ("s-01", None),
        ("s-", None),
        ("s", None),
        ("t-1", None),
        ("s-x-1", None),
    ] {
        assert_eq!(pod::ordinal("s", name), expected, "{name}");
    }
}

#[test]
fn the_status_counts_what_is_there() {
    let on_delete = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}},
                           "status": {"replicas": 9, "currentRevision": "s-old", "collisionCount": 0}});
    let status = |set: &StatefulSet, states: &str| {
        serde_json::to_value(run(set, &pods(states), &all_claims()).status).unwrap()
    };
    assert_eq!(
        status(&set(on_delete.clone()), "rr "),
        json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "currentReplicas": 2,
               "currentRevision": "s-old", "updateRevision": "s-new", "observedGeneration": 4, "collisionCount": 0})
    );
    assert_eq!(status(&set(on_delete.clone()), "UTR")["readyReplicas"], 2);
    assert_eq!(status(&set(on_delete.clone()), "UTR")["updatedReplicas"], 2);
    assert_eq!(status(&set(on_delete), "UTR")["availableReplicas"], 1);
    // A rolling update moves the current revision along once it is through.
    assert_eq!(status(&set(json!({})), "RRU")["currentRevision"], "s-old");
    assert_eq!(status(&set(json!({})), "RRR")["currentRevision"], "s-new");
    assert_eq!(status(&set(json!({})), "RRR")["currentReplicas"], 3);
}

#[test]
fn a_pass_that_changes_nothing_writes_nothing() {
    let mut whole = set(json!({}));
    let first = run(&whole, &pods("RRR"), &all_claims());
    whole.status = Some(first.status);
    let second = run(&whole, &pods("RRR"), &all_claims());
    let (old, new) = (serde_json::to_value(&whole.status), serde_json::to_value(&second.status));
    assert_eq!(merge_patch(&old.unwrap(), &new.unwrap()), None);
    assert_eq!(words(&second), "");
    assert_eq!(second.recheck, None);
}

#[test]
fn available_means_ready_for_long_enough() {
    let set = set(json!({"spec": {"minReadySeconds": 25}}));
    let plan = run(&set, &pods("R"), &all_claims());
    assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(1), Some(0)));
    assert_eq!(words(&plan), "");
    assert_eq!(plan.recheck, Some(Duration::from_secs(15)));
}
