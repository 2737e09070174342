//! The restricted Pod Security Standard, as a check: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.

use serde_json::{Value, json};

use super::objects::Installation;

/// The kinds of volumes that it allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What a pod's spec breaks.
fn violations(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |ok: bool, what: String| {
        if !ok {
            found.push(what);
        }
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        check(spec[field] != json!(true), field.to_owned());
    }
    let pod = &spec["securityContext"];
    check(pod.get("sysctls").is_none(), "sysctls".to_owned());
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        for kind in kinds {
            check(VOLUMES.contains(&kind.as_str()), format!("volume {kind}"));
        }
    }
    let containers = ["containers", "initContainers"];
    for container in containers.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten()) {
        let own = &container["securityContext"];
        // A container's own word counts before that of the pod.
        let effective = |field: &str| own.get(field).unwrap_or(&pod[field]).clone();
        check(own["allowPrivilegeEscalation"] == json!(false), "allowPrivilegeEscalation".to_owned());
        check(own["privileged"] != json!(true), "privileged".to_owned());
        check(own["capabilities"]["drop"] == json!(["ALL"]), "capabilities".to_owned());
        check(own["capabilities"].get("add").is_none(), "capabilities added".to_owned());
        check(effective("runAsNonRoot") == json!(true), "runAsNonRoot".to_owned());
        check(effective("runAsUser") != json!(0), "runAsUser".to_owned());
        let profile = effective("seccompProfile")["type"].clone();
        check(
            profile == json!("RuntimeDefault") || profile == json!("Localhost"),
            "seccompProfile".to_owned(),
        );
        let ports = container["ports"].as_array().into_iter().flatten();
        check(ports.into_iter().all(|port| port.get("hostPort").is_none()), "hostPort".to_owned());
    }
    found
}

/// Every pod that dbctl makes or installs, by a name.
pub fn pods() -> Vec<(&'static str, Value)> {
    let workload = Installation::new("ops").workload();
    let mut all = crate::plan::sample_pods();
    all.push(("controller", workload.last().unwrap()["spec"]["template"].clone()));
    all
}

#[test]
fn every_pod_keeps_to_the_restricted_standard_and_writes_nowhere_else() {
    let mut all = pods();
    let mut wanted = Installation::new("ops");
    wanted.metrics_secret = Some("certificate".to_owned());
    all.push(("controller with a certificate", wanted.workload().pop().unwrap()["spec"]["template"].clone()));
    assert_eq!(all.len(), 6);
    for (name, template) in all {
        assert_eq!(violations(&template["spec"]), Vec::<String>::new(), "{name}");
        for container in template["spec"]["containers"].as_array().unwrap() {
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
        }
    }
}

#[test]
fn the_check_finds_what_is_not_restricted() {
    let good = Installation::new("ops").workload().last().unwrap()["spec"]["template"]["spec"].clone();
    let container = "/containers/0/securityContext";
    for (pointer, field, value, wanted) in [
        ("/securityContext", "runAsNonRoot", json!(false), "runAsNonRoot"),
        ("/securityContext", "runAsUser", json!(0), "runAsUser"),
        ("/securityContext", "seccompProfile", json!({ "type": "Unconfined" }), "seccompProfile"),
        (container, "allowPrivilegeEscalation", json!(true), "allowPrivilegeEscalation"),
        (container, "runAsUser", json!(0), "runAsUser"),
        (container, "capabilities", json!({ "drop": ["NET_RAW"] }), "capabilities"),
        (container, "capabilities", json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] }), "capabilities added"),
        ("", "hostNetwork", json!(true), "hostNetwork"),
        ("", "volumes", json!([{ "name": "v", "hostPath": { "path": "/" } }]), "volume hostPath"),
    ] {
        let mut spec = good.clone();
        spec.pointer_mut(pointer).unwrap()[field] = value;
        assert_eq!(violations(&spec), [wanted], "{pointer} {field}");
    }
}
