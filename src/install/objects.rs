//! The objects of an installation: what makes the controller run, and what it needs to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::network;
use super::rbac::{ACCOUNT, Scope, labels, metadata, rbac};
use super::version::label_value;
use crate::api::{FIELD_MANAGER, VERSION, crd};
use crate::plan::{Settings, container_security};

/// Where the controller serves metrics, over TLS and to those who may read them.
pub const METRICS_PORT: u16 = 8443;
/// Where it tells its kubelet how it is.
pub const HEALTH_PORT: u16 = 8080;
/// Name of the Service with the metrics of each controller.
const METRICS_SERVICE: &str = "dbctl-controller-metrics";
/// Where the certificate for metrics is, if there is one for them.
const METRICS_DIR: &str = "/etc/dbctl/metrics";
const METRICS_VOLUME: &str = "metrics-certificate";
/// The program, in the controller's image.
const PROGRAM: &str = "/usr/local/bin/dbctl";
/// A user who owns nothing; the image has no other.
const RUN_AS: i64 = 65532;
/// A bound, so that what goes wrong in it ends it, and not what else is on its node.
const MEMORY_LIMIT: &str = "512Mi";

/// What is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Where the controller runs.
    pub namespace: String,
    /// The one namespace whose Databases it works for; all without it.
    pub watch: Option<String>,
    /// The controller's image.
    pub image: String,
    /// The members' image; `{version}` stands for the PostgreSQL release.
    pub image_template: String,
    /// How many controllers there are, of which one works.
    pub replicas: i32,
    /// Name of the Secret with which images are pulled, the controller's and the members'.
    pub pull_secret: Option<String>,
    /// Name of the Secret with the certificate for metrics; without it, each controller makes its own.
    pub metrics_secret: Option<String>,
    /// Ports at which the API server may be: the Service's and its own.
    pub api_ports: Vec<u16>,
}

/// The controller's image of this version.
pub fn default_image() -> String {
    format!("dbctl/controller:{VERSION}")
}

impl Installation {
    /// What `manifests/` holds, in that namespace.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            watch: None,
            image: default_image(),
            image_template: Settings::default().image,
            replicas: 2,
            pull_secret: None,
            metrics_secret: None,
            api_ports: vec![443, 6443],
        }
    }

    /// Whose Databases it works for.
    pub fn scope(&self) -> Scope<'_> {
        self.watch.as_deref().map_or(Scope::Cluster, Scope::Namespace)
    }

    /// Everything, in the order in which it is to be made.
    ///
    /// # Errors
    /// Where the definition cannot be written as JSON.
    pub fn objects(&self) -> Result<Vec<Value>, serde_json::Error> {
        let mut all = vec![namespace_object(&self.namespace), definition()?];
        all.extend(rbac(&self.namespace, self.scope()));
        all.extend(self.policies());
        all.extend(self.workload());
        Ok(all)
    }

    /// Who may reach what over the network.
    pub fn policies(&self) -> Vec<Value> {
        let mut all = vec![network::controller(self)];
        all.extend(
            self.watch.as_deref().map(|place| network::databases_policy(Some(place), &self.namespace)),
        );
        all
    }

    /// What runs, and what stands around it.
    pub fn workload(&self) -> Vec<Value> {
        vec![self.service(), self.budget(), self.deployment()]
    }

    /// Of each controller, not of any: what they count is their own.
    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": metadata(METRICS_SERVICE, Some(&self.namespace)),
            "spec": {
                "clusterIP": "None",
                // The one that starts or waits has metrics too.
                "publishNotReadyAddresses": true,
                "selector": selector(),
                "ports": [{ "name": "metrics", "port": METRICS_PORT, "targetPort": "metrics", "protocol": "TCP" }],
            },
        })
    }

    fn budget(&self) -> Value {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": metadata(ACCOUNT, Some(&self.namespace)),
            // Not as a number that must be left: a single controller must not keep a node from being drained.
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } },
        })
    }

    fn deployment(&self) -> Value {
        let mut about = metadata(ACCOUNT, Some(&self.namespace));
        about["labels"] = versioned();
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": about,
            "spec": {
                "replicas": self.replicas,
                "selector": { "matchLabels": selector() },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "template": { "metadata": { "labels": versioned() }, "spec": self.pod() },
            },
        })
    }

    fn pod(&self) -> Value {
        let mut pod = json!({
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": true,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": RUN_AS,
                "runAsGroup": RUN_AS,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": selector() },
            }],
            "containers": [self.container()],
        });
        if let Some(secret) = &self.pull_secret {
            pod["imagePullSecrets"] = json!([{ "name": secret }]);
        }
        if let Some(secret) = &self.metrics_secret {
            pod["volumes"] = json!([{ "name": METRICS_VOLUME, "secret": { "secretName": secret } }]);
            let mount = json!({ "name": METRICS_VOLUME, "mountPath": METRICS_DIR, "readOnly": true });
            pod["containers"][0]["volumeMounts"] = json!([mount]);
        }
        pod
    }

    fn container(&self) -> Value {
        let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
        let probe = |path: &str, period: i64, failures: i64| {
            json!({
                "httpGet": { "path": path, "port": "health", "scheme": "HTTP" },
                "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures,
            })
        };
        json!({
            "name": "controller",
            "image": self.image,
            "command": [PROGRAM],
            "args": self.arguments(),
            "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
            "ports": [
                { "name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP" },
                { "name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP" },
            ],
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": MEMORY_LIMIT } },
            "securityContext": container_security(),
            // It answers once it has begun, which it does not before the API server has answered it.
            "startupProbe": probe("/healthz", 2, 60),
            "livenessProbe": probe("/healthz", 10, 6),
            "readinessProbe": probe("/readyz", 5, 2),
            // Why it ended is its last line.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    }

    fn arguments(&self) -> Vec<String> {
        let mut words = vec!["controller".to_owned()];
        words.push(format!("--metrics-address=0.0.0.0:{METRICS_PORT}"));
        words.push(format!("--health-address=0.0.0.0:{HEALTH_PORT}"));
        words.extend(self.metrics_secret.iter().map(|_| format!("--metrics-cert-dir={METRICS_DIR}")));
        words.push(format!("--image={}", self.image_template));
        words.extend(self.pull_secret.iter().map(|secret| format!("--image-pull-secret={secret}")));
        words.extend(self.watch.iter().map(|watch| format!("--namespace={watch}")));
        words
    }
}

/// The definition of Databases as plain data.
pub fn definition() -> Result<Value, serde_json::Error> {
    let mut definition = serde_json::to_value(crd())?;
    // Typed objects leave both out.
    definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
    definition["kind"] = json!("CustomResourceDefinition");
    Ok(definition)
}

/// A namespace in which only pods run that keep to the restricted standard. Those of the controller and of databases do.
///
/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
pub fn namespace_object(name: &str) -> Value {
    let mut labels = labels();
    for mode in ["enforce", "audit", "warn"] {
        labels[format!("pod-security.kubernetes.io/{mode}")] = json!("restricted");
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// What selects the controller's pods. It can never change.
pub fn selector() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("app.kubernetes.io/name", FIELD_MANAGER), ("app.kubernetes.io/component", "controller")])
}

/// Whether these labels are those of an installation's objects.
pub fn is_installed(labels: &BTreeMap<String, String>) -> bool {
    let ours = selector().into_iter().chain([("app.kubernetes.io/managed-by", FIELD_MANAGER)]);
    ours.into_iter().all(|(name, value)| labels.get(name).is_some_and(|has| has == value))
}

fn versioned() -> Value {
    let mut labels = labels();
    labels["app.kubernetes.io/version"] = json!(label_value(VERSION));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_reaches_everything() {
        let mut wanted = Installation::new("ops");
        wanted.watch = Some("shop".to_owned());
        wanted.pull_secret = Some("pull".to_owned());
        let all = wanted.objects().unwrap();
        let places: Vec<String> = all
            .iter()
            .map(|object| {
                let place = object["metadata"]["namespace"].as_str().unwrap_or("-");
                format!(
                    "{} {place}/{}",
                    object["kind"].as_str().unwrap(),
                    object["metadata"]["name"].as_str().unwrap()
                )
            })
            .collect();
        insta::assert_snapshot!(places.join("\n"), @r"
        Namespace -/ops
        CustomResourceDefinition -/databases.db.example.com
        ServiceAccount ops/dbctl-controller
        Role shop/dbctl-controller
        RoleBinding shop/dbctl-controller
        ClusterRole -/dbctl-controller-shop
        ClusterRoleBinding -/dbctl-controller-shop
        Role ops/dbctl-controller-lease
        RoleBinding ops/dbctl-controller-lease
        ClusterRole -/dbctl-metrics-reader
        NetworkPolicy ops/dbctl-controller
        NetworkPolicy shop/dbctl-databases
        Service ops/dbctl-controller-metrics
        PodDisruptionBudget ops/dbctl-controller
        Deployment ops/dbctl-controller
        ");
        let pod = &all.last().unwrap()["spec"]["template"]["spec"];
        assert_eq!(pod["imagePullSecrets"], json!([{ "name": "pull" }]));
        assert_eq!(
            pod["containers"][0]["args"],
            json!([
                "controller",
                "--metrics-address=0.0.0.0:8443",
                "--health-address=0.0.0.0:8080",
                "--image=dbctl/postgres:{version}",
                "--image-pull-secret=pull",
                "--namespace=shop"
            ])
        );
    }

    /// The arguments are the command line's own.
    #[test]
    fn the_controller_takes_the_arguments() {
        let mut wanted = Installation::new("ops");
        wanted.watch = Some("shop".to_owned());
        wanted.pull_secret = Some("pull".to_owned());
        wanted.metrics_secret = Some("certificate".to_owned());
        let words = std::iter::once("dbctl".to_owned()).chain(wanted.arguments());
        let parsed = crate::cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{:?}", parsed.err());
    }

    #[test]
    fn a_certificate_for_metrics_is_mounted_where_it_is_read() {
        let mut wanted = Installation::new("ops");
        let pod =
            |wanted: &Installation| wanted.workload().pop().unwrap()["spec"]["template"]["spec"].clone();
        assert!(pod(&wanted).get("volumes").is_none());
        wanted.metrics_secret = Some("certificate".to_owned());
        let pod = pod(&wanted);
        assert_eq!(pod["volumes"][0]["secret"]["secretName"], "certificate");
        let mount = &pod["containers"][0]["volumeMounts"][0];
        assert_eq!(mount["name"], pod["volumes"][0]["name"]);
        let told = format!("--metrics-cert-dir={}", mount["mountPath"].as_str().unwrap());
        assert!(wanted.arguments().contains(&told));
    }

    /// Probes go to the plain port, and the Service to the other.
    #[test]
    fn ports_are_those_that_the_arguments_name() {
        let wanted = Installation::new("ops");
        let (service, container) = (wanted.service(), wanted.container());
        let port = |name: &str| {
            let ports = container["ports"].as_array().unwrap();
            ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].clone()
        };
        let own = &service["spec"]["ports"][0];
        assert_eq!((&own["targetPort"], &own["port"]), (&json!("metrics"), &port("metrics")));
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "health");
        }
        for name in ["metrics", "health"] {
            let told = format!("--{name}-address=0.0.0.0:{}", port(name));
            assert!(wanted.arguments().contains(&told), "{told}");
        }
        let policy = network::controller(&wanted);
        let reached = &policy["spec"]["ingress"][0]["ports"];
        assert_eq!(reached, &json!([{ "protocol": "TCP", "port": port("metrics") }]));
    }

    #[test]
    fn every_object_is_found_again_by_its_labels() {
        for object in Installation::new("ops").objects().unwrap() {
            let labels = serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
            let definition = object["kind"] == "CustomResourceDefinition";
            assert_eq!(is_installed(&labels), !definition, "{object}");
        }
        assert!(!is_installed(&BTreeMap::new()));
    }

    #[test]
    fn the_selector_selects_the_pods() {
        let all = Installation::new("ops").workload();
        let labels = &all.last().unwrap()["spec"]["template"]["metadata"]["labels"];
        for (name, value) in selector() {
            assert_eq!(labels[name], value);
        }
    }
}
