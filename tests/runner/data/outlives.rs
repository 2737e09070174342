//! Whatever of dbctl is taken away, data stays: even where a Database's policy is that it goes with it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use crate::external::{client, runtime};
use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

/// The claims that there are, and whether any is going.
fn claims(sandbox: &Sandbox) -> (usize, bool) {
    runtime().block_on(async {
        let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client(&sandbox.kubeconfig()).await);
        let all = claims.list(&ListParams::default()).await.unwrap().items;
        (all.len(), all.iter().any(|claim| claim.metadata.deletion_timestamp.is_some()))
    })
}

#[test]
fn without_controller_roles_or_definition_data_stays_and_comes_back() {
    let mut sandbox = Sandbox::apart().denying_on_purpose();
    let create =
        ["create", "db", "--replicas", "1", "--storage", "1Gi", "--deletion-policy", "delete", "--wait"];
    sandbox.run(&create).ok();
    sandbox.sql("db", "create table t (n int); insert into t values (1)");

    sandbox.external().stop_controller();
    assert_eq!(sandbox.sql("db", "select count(*) from t"), "1", "it runs on without a controller");
    assert_eq!(claims(&sandbox), (1, false));

    let namespace = sandbox.external().namespace.clone();
    sandbox.external().start_controller();
    runtime().block_on(async {
        let client = client(&sandbox.kubeconfig()).await;
        let now = DeleteParams::default();
        Api::<ClusterRoleBinding>::all(client.clone()).delete("dbctl-controller", &now).await.unwrap();
        Api::<ClusterRole>::all(client.clone()).delete("dbctl-controller", &now).await.unwrap();
        Api::<RoleBinding>::namespaced(client.clone(), &namespace).delete("db", &now).await.unwrap();
        Api::<Role>::namespaced(client, &namespace).delete("db", &now).await.unwrap();
    });
    assert_eq!(claims(&sandbox), (1, false));
    sandbox.external().stop_controller();
    // With its roles, all is well again.
    sandbox.external().start_controller();
    ready_with(&sandbox, "db", 1);
    assert_eq!(sandbox.sql("db", "select count(*) from t"), "1");

    runtime().block_on(async {
        let definitions: Api<CustomResourceDefinition> = Api::all(client(&sandbox.kubeconfig()).await);
        definitions.delete("databases.db.example.com", &DeleteParams::default()).await.unwrap();
    });
    eventually("the definition is gone, and all Databases with it", || {
        let found = runtime().block_on(async {
            let definitions: Api<CustomResourceDefinition> = Api::all(client(&sandbox.kubeconfig()).await);
            definitions.get_opt("databases.db.example.com").await.unwrap()
        });
        found.map_or(Ok(()), |found| Err(format!("{:?}", found.status)))
    });
    assert_eq!(claims(&sandbox), (1, false), "its policy was Delete, and nobody asked for it");
    sandbox.external().stop_controller();
    sandbox.external().start_controller();
    sandbox.run(&create).ok();
    assert_eq!(sandbox.sql("db", "select count(*) from t"), "1");
}
