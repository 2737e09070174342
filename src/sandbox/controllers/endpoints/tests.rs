use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};

use super::{legacy, slices};

fn service(spec: Value) -> Service {
    let object = json!({"metadata": {"name": "rw", "namespace": "n", "uid": "svc", "labels": {"team": "a"}}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "labels": {"app": "x"}},
        "spec": {"nodeName": "node", "hostname": name, "subdomain": "rw",
                 "containers": [{"name": "c", "ports": [{"name": "pg", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                   "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

fn nodes() -> BTreeMap<String, Arc<Node>> {
    let node = json!({"metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    BTreeMap::from([("node".to_owned(), Arc::new(serde_json::from_value(node).unwrap()))])
}

fn pods(values: Vec<Value>) -> Vec<Arc<Pod>> {
    values.into_iter().map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
}

/// Slices as text: ports, then each endpoint's address and conditions (r, s, t for ready, serving, terminating).
fn shown(service: &Service, pods: &[Arc<Pod>]) -> Vec<String> {
    let members = slices::members(service, pods, &nodes());
    slices::desired(service, &members, &nodes())
        .into_iter()
        .map(|slice| {
            let ports: Vec<String> = slice
                .ports
                .iter()
                .flatten()
                .map(|port| format!("{}={}", port.name.as_deref().unwrap(), port.port.unwrap()))
                .collect();
            let endpoints: Vec<String> = slice
                .endpoints
                .iter()
                .flatten()
                .map(|each| {
                    let is = each.conditions.as_ref().unwrap();
                    let flags = [(is.ready, 'r'), (is.serving, 's'), (is.terminating, 't')];
                    let flags: String = flags
                        .iter()
                        .filter(|(flag, _)| *flag == Some(true))
                        .map(|(_, letter)| letter)
                        .collect();
                    format!("{}:{flags}", each.addresses[0])
                })
                .collect();
            format!("{} {}", ports.join(","), endpoints.join(" ")).trim().to_owned()
        })
        .collect()
}

#[test]
fn conditions_follow_the_pods() {
    let plain = service(json!({"selector": {"app": "x"}, "ports": [{"port": 5432}]}));
    let all =
        service(json!({"selector": {"app": "x"}, "publishNotReadyAddresses": true, "clusterIP": "None",
                             "ports": [{"port": 5432}]}));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = pod("p", "127.1.1.1", true, 5432);
        change(&mut value);
        pods(vec![value])
    };
    for (case, pods, usual, published) in [
        ("ready", with(&|_| {}), "=5432 127.1.1.1:rs", "=5432 127.1.1.1:rs"),
        (
            "not ready",
            with(&|pod| pod["status"]["conditions"][0]["status"] = json!("False")),
            "=5432 127.1.1.1:",
            "=5432 127.1.1.1:r",
        ),
        (
            "terminating",
            with(&|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            "=5432 127.1.1.1:st",
            "=5432 127.1.1.1:rst",
        ),
        ("ended", with(&|pod| pod["status"]["phase"] = json!("Failed")), "=5432", "=5432"),
        (
            "no address",
            with(&|pod| {
                pod["status"]["podIP"] = json!(null);
                pod["status"]["podIPs"] = json!(null);
            }),
            "=5432",
            "=5432",
        ),
        ("other labels", with(&|pod| pod["metadata"]["labels"]["app"] = json!("y")), "=5432", "=5432"),
        ("no such node", with(&|pod| pod["spec"]["nodeName"] = json!("gone")), "=5432", "=5432 127.1.1.1:rs"),
    ] {
        assert_eq!(shown(&plain, &pods), [usual], "{case}");
        assert_eq!(shown(&all, &pods), [published], "{case}, published");
    }
}

#[test]
fn ports_by_number_and_name() {
    let two = pods(vec![pod("b", "127.1.1.2", true, 5433), pod("a", "127.1.1.1", true, 5432)]);
    let by_name =
        service(json!({"selector": {"app": "x"}, "ports": [{"name": "db", "port": 1, "targetPort": "pg"}]}));
    assert_eq!(shown(&by_name, &two), ["db=5432 127.1.1.1:rs", "db=5433 127.1.1.2:rs"]);
    let by_number =
        service(json!({"selector": {"app": "x"}, "ports": [{"name": "db", "port": 1, "targetPort": 8008}]}));
    assert_eq!(shown(&by_number, &two), ["db=8008 127.1.1.1:rs 127.1.1.2:rs"]);
    let missing = service(json!({"selector": {"app": "x"}, "ports": [{"port": 1, "targetPort": "http"}]}));
    assert_eq!(shown(&missing, &two), ["127.1.1.1:rs 127.1.1.2:rs"]);
}

#[test]
fn services_that_name_no_pods_have_no_slices_made() {
    for spec in
        [json!({}), json!({"selector": {}}), json!({"type": "ExternalName", "selector": {"app": "x"}})]
    {
        assert!(slices::selector(&service(spec)).is_none());
    }
}

#[test]
fn a_slice_names_its_service_pod_node_and_owner_and_keeps_its_name() {
    let service = service(json!({"selector": {"app": "x"}, "clusterIP": "None", "ports": [{"port": 5432}]}));
    let make = |ready| {
        let pods = pods(vec![pod("p", "127.1.1.1", ready, 5432)]);
        let members = slices::members(&service, &pods, &nodes());
        serde_json::to_value(&slices::desired(&service, &members, &nodes())[0]).unwrap()
    };
    let slice = make(true);
    assert_eq!(slice["metadata"]["name"], make(false)["metadata"]["name"]);
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"kubernetes.io/service-name": "rw", "team": "a", "service.kubernetes.io/headless": "",
               "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "svc");
    assert_eq!(
        slice["endpoints"][0],
        json!({"addresses": ["127.1.1.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
               "hostname": "p", "nodeName": "node", "zone": "z1",
               "targetRef": {"kind": "Pod", "name": "p", "namespace": "n", "uid": "uid-p"}})
    );
}

#[test]
fn the_older_object_tells_ready_from_unready_and_leaves_the_leaving_out() {
    let service = service(json!({"selector": {"app": "x"}, "ports": [{"port": 5432}]}));
    let mut leaving = pod("c", "127.1.1.3", true, 5432);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let pods = pods(vec![pod("a", "127.1.1.1", true, 5432), pod("b", "127.1.1.2", false, 5432), leaving]);
    let members = slices::members(&service, &pods, &nodes());
    let made = serde_json::to_value(legacy::desired(&service, &members)).unwrap();
    assert_eq!(made["subsets"].as_array().unwrap().len(), 1);
    let ips = |list: &str| -> Vec<String> {
        let list = made["subsets"][0][list].as_array().unwrap();
        list.iter().map(|each| each["ip"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ips("addresses"), ["127.1.1.1"]);
    assert_eq!(ips("notReadyAddresses"), ["127.1.1.2"]);
    assert_eq!(made["subsets"][0]["ports"], json!([{"port": 5432, "protocol": "TCP"}]));
}

#[test]
fn many_endpoints_are_cut_into_slices() {
    let service = service(json!({"selector": {"app": "x"}, "ports": [{"port": 5432}]}));
    let many: Vec<Value> =
        (0..150).map(|each| pod(&format!("p{each:03}"), &format!("127.1.2.{each}"), true, 5432)).collect();
    let pods = pods(many);
    let members = slices::members(&service, &pods, &nodes());
    let made = slices::desired(&service, &members, &nodes());
    let sizes: Vec<usize> = made.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [100, 50]);
    assert_ne!(made[0].metadata.name, made[1].metadata.name);
}
