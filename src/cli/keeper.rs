//! Who else keeps a Database as a source of theirs has it: what a command changes there does not last.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use serde_json::Value;

use super::Context;
use crate::api::Database;

/// Field managers of what applies manifests from a repository, by how their names begin, and how people call them.
const KEEPERS: [(&str, &str); 7] = [
    // https://argo-cd.readthedocs.io/en/stable/user-guide/sync-options/#server-side-apply
    ("argocd-", "Argo CD"),
    // https://fluxcd.io/flux/faq/
    ("kustomize-controller", "Flux"),
    ("helm-controller", "Flux"),
    ("helm", "Helm"),
    ("fleet", "Fleet"),
    ("Terraform", "Terraform"),
    ("pulumi", "Pulumi"),
];

/// Who keeps that field, by their name and the manager's; none where nobody does that comes back by itself.
fn keeper<'d>(database: &'d Database, path: &[&str]) -> Option<(&'static str, &'d str)> {
    let has = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| pointer(fields, path).is_some())
    };
    let entries = database.metadata.managed_fields.iter().flatten();
    entries.filter(has).find_map(|entry| {
        let manager = entry.manager.as_deref()?;
        let known = KEEPERS.iter().find(|(begins, _)| manager.starts_with(begins))?;
        Some((known.1, manager))
    })
}

/// Where a set of fields has that one (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management).
fn pointer<'f>(fields: &'f Value, path: &[&str]) -> Option<&'f Value> {
    path.iter().try_fold(fields, |fields, key| fields.get(format!("f:{key}")))
}

/// Says so where a change of that field will not last.
pub fn warn_of_change(context: &Context, database: &Database, path: &[&str]) {
    if let Some((who, manager)) = keeper(database, path) {
        context.ui.warn(format_args!(
            "{} is kept by {who} (field manager {manager}), which may put it back: change it in its source too",
            path.join(".")
        ));
    }
}

/// Says so where what is deleted will be made again.
pub fn warn_of_deletion(context: &Context, database: &Database) {
    if let Some((who, manager)) = keeper(database, &["spec"]) {
        context.ui.warn(format_args!(
            "database {:?} is kept by {who} (field manager {manager}), which may make it again: delete it in its source too",
            database.name_any()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn managed(entries: Value) -> Database {
        let spec = json!({ "replicas": 1, "version": "18.6", "storage": { "size": "1Gi" } });
        let metadata = json!({ "name": "db", "managedFields": entries });
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database", "metadata": metadata, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn only_who_comes_back_and_has_that_field_keeps_it() {
        let entry = |manager: &str, fields: Value| json!({ "manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields });
        let size = json!({ "f:spec": { "f:storage": { "f:size": {} } } });
        for (manager, who) in [
            ("argocd-controller", Some("Argo CD")),
            ("argocd-application-controller", Some("Argo CD")),
            ("kustomize-controller", Some("Flux")),
            ("helm-controller", Some("Flux")),
            ("helm", Some("Helm")),
            ("kubectl-client-side-apply", None),
            ("dbctl-cli", None),
        ] {
            let database =
                managed(json!([entry("dbctl", json!({ "f:status": {} })), entry(manager, size.clone())]));
            let found = |path: &[&str]| keeper(&database, path).map(|(who, _)| who);
            assert_eq!(found(&["spec", "storage", "size"]), who, "{manager}");
            assert_eq!(found(&["spec"]), who, "{manager}");
            assert_eq!(found(&["spec", "replicas"]), None, "{manager}");
        }
        assert_eq!(keeper(&managed(json!(null)), &["spec"]), None);
    }
}
