use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::class::{Class, Found, default_of, of, standard};
use super::{claim, volume};

fn class(name: &str, fields: Value) -> Arc<StorageClass> {
    let mut object = json!({"metadata": {"name": name}, "provisioner": "sandbox.dbctl", "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    for (key, value) in fields.as_object().unwrap() {
        object[key] = value.clone();
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn default_class(name: &str) -> Arc<StorageClass> {
    let meta = json!({"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}});
    class(name, json!({"metadata": meta}))
}

fn claim(change: &dyn Fn(&mut Value)) -> PersistentVolumeClaim {
    let mut object = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "volumeMode": "Filesystem",
                 "resources": {"requests": {"storage": "2Gi"}}},
        "status": {"phase": "Pending"},
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn of_claim(uid: Option<&str>, size: &str) -> Arc<PersistentVolume> {
    let object = json!({
        "metadata": {"name": "pvc-u", "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
                 "claimRef": {"namespace": "n", "name": "c", "uid": uid}},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn found() -> Found {
    let (name, reclaim) = ("standard".to_owned(), "Delete".to_owned());
    Found::Here(Class { name, at_once: false, reclaim, expands: true })
}

#[test]
fn a_claim_is_of_the_class_it_names_or_of_the_default_one() {
    let named = |class: Value| claim(&|object| object["spec"]["storageClassName"] = class.clone());
    let classes = [
        default_class("standard"),
        class("slow", json!({"volumeBindingMode": "Immediate"})),
        class("hand", json!({"provisioner": "kubernetes.io/no-provisioner"})),
    ];
    let here = |name: &str, at_once| {
        let (name, reclaim) = (name.to_owned(), "Delete".to_owned());
        Found::Here(Class { name, at_once, reclaim, expands: true })
    };
    for (wanted, any, expected) in [
        (json!("standard"), false, here("standard", false)),
        (json!("slow"), false, here("slow", true)),
        (json!(null), false, here("standard", false)),
        (json!(""), true, Found::Nobody),
        (json!("hand"), true, Found::Nobody),
        (json!("fast-ssd"), true, here("fast-ssd", false)),
        (json!("fast-ssd"), false, Found::Missing("fast-ssd".into())),
    ] {
        assert_eq!(of(&named(wanted.clone()), &classes, any), expected, "{wanted}");
    }
    assert_eq!(of(&named(json!(null)), &[], true), Found::Nobody);
}

#[test]
fn the_standard_class_is_made_once_and_is_the_default_unless_another_is() {
    let made = Arc::new(standard(&[]).unwrap());
    assert_eq!(default_of(std::slice::from_ref(&made)), Some(&*made));
    assert_eq!(standard(&[made]), None);
    let mut other = (*default_class("other")).clone();
    other.provisioner = "elsewhere".into();
    let second = Arc::new(standard(&[Arc::new(other.clone())]).unwrap());
    assert_eq!(default_of(&[second, Arc::new(other.clone())]), Some(&other));
}

#[test]
fn a_claim_goes_from_step_to_step_until_it_is_bound() {
    let none: [Arc<PersistentVolume>; 0] = [];
    let unprotected = claim(&|object| object["metadata"]["finalizers"] = json!(null));
    assert_eq!(claim::step(&unprotected, &none, &found()), claim::Step::Protect);
    // Without a node it waits, silently.
    assert_eq!(claim::step(&claim(&|_| {}), &none, &found()), claim::Step::Rest);

    let placed = |object: &mut Value| {
        object["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "node"});
    };
    let claim::Step::Provision(made) = claim::step(&claim(&placed), &none, &found()) else { panic!() };
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(made["metadata"]["name"], "pvc-u");
    assert_eq!(made["spec"]["csi"], json!({"driver": "sandbox.dbctl", "volumeHandle": "pvc-u"}));
    assert_eq!(made["spec"]["capacity"]["storage"], "2Gi");
    assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert_eq!(made["spec"]["claimRef"]["uid"], "u");

    let volumes = [of_claim(Some("u"), "2Gi")];
    assert_eq!(claim::step(&claim(&placed), &volumes, &found()), claim::Step::Bind("pvc-u".into()));

    let bound = |object: &mut Value| {
        object["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        object["spec"]["volumeName"] = json!("pvc-u");
    };
    let claim::Step::Report(status) = claim::step(&claim(&bound), &volumes, &found()) else { panic!() };
    let status = serde_json::to_value(status).unwrap();
    assert_eq!(
        status,
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}})
    );
    let done = |object: &mut Value| {
        bound(object);
        object["status"] = status.clone();
    };
    assert_eq!(claim::step(&claim(&done), &volumes, &found()), claim::Step::Rest);

    let grown = claim(&|object| {
        done(object);
        object["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
    });
    assert_eq!(
        claim::step(&grown, &volumes, &found()),
        claim::Step::Grow(Arc::clone(&volumes[0]), Quantity("3Gi".into()))
    );
    // The volume has grown, and its file system has not.
    let larger = [of_claim(Some("u"), "3Gi")];
    let claim::Step::Report(status) = claim::step(&grown, &larger, &found()) else { panic!() };
    let pending = serde_json::to_value(&status).unwrap();
    assert_eq!(
        (&pending["capacity"], &pending["allocatedResources"], &pending["conditions"][0]["type"]),
        (&json!({"storage": "2Gi"}), &json!({"storage": "3Gi"}), &json!("FileSystemResizePending"))
    );
    let waits = claim(&|object| {
        done(object);
        object["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
        object["status"] = pending.clone();
        object["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(claim::step(&waits, &larger, &found()), claim::Step::Rest);
    // Then the node says that it is done.
    let finished = claim(&|object| {
        done(object);
        object["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
        object["status"]["capacity"]["storage"] = json!("3Gi");
    });
    assert_eq!(claim::step(&finished, &larger, &found()), claim::Step::Rest);
    assert_eq!(claim::step(&claim(&done), &none, &found()), {
        let lost = serde_json::from_value(json!({"phase": "Lost"})).unwrap();
        claim::Step::Report(Box::new(lost))
    });
}

#[test]
fn a_claim_that_nobody_serves_says_so_and_a_leaving_one_is_let_go() {
    let missing = Found::Missing("fast-ssd".into());
    let claim::Step::Complain("ProvisioningFailed", note) = claim::step(&claim(&|_| {}), &[], &missing)
    else {
        panic!()
    };
    assert!(note.contains("\"fast-ssd\" not found"), "{note}");
    let leaving =
        |object: &mut Value| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(claim::step(&claim(&leaving), &[], &found()), claim::Step::Unprotect);
}

#[test]
fn a_volume_set_aside_by_hand_is_taken_and_anothers_is_not() {
    let named = claim(&|object| object["spec"]["volumeName"] = json!("pvc-u"));
    let aside = of_claim(None, "2Gi");
    assert_eq!(claim::step(&named, &[Arc::clone(&aside)], &found()), claim::Step::Reserve(aside));
    let other = [of_claim(Some("other"), "2Gi")];
    assert!(matches!(claim::step(&named, &other, &found()), claim::Step::Complain("FailedBinding", _)));
    assert_eq!(claim::step(&claim(&|_| {}), &other, &found()), claim::Step::Rest);
}

#[test]
fn a_volume_follows_its_claim() {
    let bound = claim(&|object| object["spec"]["volumeName"] = json!("pvc-u"));
    let successor = claim(&|object| object["metadata"]["uid"] = json!("u2"));
    let with = |volume: Arc<PersistentVolume>, phase: &str, deleting: bool| {
        let mut volume = serde_json::to_value(&*volume).unwrap();
        volume["status"] = json!({"phase": phase});
        if deleting {
            volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value::<PersistentVolume>(volume).unwrap()
    };
    use volume::Step;
    for (case, volume, claim, expected) in [
        ("new", with(of_claim(Some("u"), "1Gi"), "Pending", false), Some(&bound), Step::Phase("Bound")),
        ("settled", with(of_claim(Some("u"), "1Gi"), "Bound", false), Some(&bound), Step::Rest),
        ("claim gone", with(of_claim(Some("u"), "1Gi"), "Bound", false), None, Step::Phase("Released")),
        (
            "claim replaced",
            with(of_claim(Some("u"), "1Gi"), "Bound", false),
            Some(&successor),
            Step::Phase("Released"),
        ),
        ("released", with(of_claim(Some("u"), "1Gi"), "Released", false), None, Step::Rest),
        ("set aside", with(of_claim(None, "1Gi"), "Pending", false), None, Step::Phase("Available")),
        ("deleted while bound", with(of_claim(Some("u"), "1Gi"), "Bound", true), Some(&bound), Step::Rest),
        ("deleted", with(of_claim(Some("u"), "1Gi"), "Released", true), None, Step::Unprotect),
    ] {
        assert_eq!(volume::step(&volume, claim), expected, "{case}");
    }
}

#[test]
fn quantities_of_storage() {
    for (text, expected) in [
        ("0", 0),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("1000m", 1),
        ("1500m", 2),
        ("5G", 5_000_000_000),
        ("1e3", 1000),
        ("2E", 2_000_000_000_000_000_000),
        ("potatoes", 0),
    ] {
        assert_eq!(volume::bytes(&Quantity(text.into())), expected, "{text}");
    }
}
