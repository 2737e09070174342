//! What the pods of members and of backups may do at the Kubernetes API: what Patroni needs and what a backup tells, and
//! nothing else.

use serde_json::{Value, json};

use super::context::Context;
use super::{Action, Kind};
use crate::api::{Names, REPLICAS_MAX};

/// The rules of the members' Role. The controller must hold them too, or the API server refuses to let it grant them.
pub fn rules(names: Names<'_>) -> Value {
    // Neither list nor watch nor create can be narrowed to names.
    let members: Vec<_> = (0..REPLICAS_MAX).map(|ordinal| names.member(ordinal)).collect();
    let maps: Vec<_> = names.patroni_objects().into_iter().chain([names.backups()]).collect();
    json!([
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "list", "watch"] },
        {
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": maps,
            "verbs": ["get", "patch"],
        },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"] },
        { "apiGroups": [""], "resources": ["pods"], "resourceNames": members, "verbs": ["patch"] },
    ])
}

/// ServiceAccount, Role and RoleBinding.
pub fn plan(cx: &Context<'_>) -> Vec<Action> {
    let name = cx.names.main();
    // From there it reaches each new pod of the account, and no pod that runs is made anew when it changes.
    let pull: Vec<_> = cx.settings.pull_secret.iter().map(|secret| json!({ "name": secret })).collect();
    let account = if pull.is_empty() { json!({}) } else { json!({ "imagePullSecrets": pull }) };
    let objects = [
        (Kind::ServiceAccount, account),
        (Kind::Role, json!({ "rules": rules(cx.names) })),
        (
            Kind::RoleBinding,
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
                "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": cx.namespace }],
            }),
        ),
    ];
    objects
        .into_iter()
        .filter_map(|(kind, rest)| cx.apply_action(kind, cx.owned(kind, &name, rest)))
        .collect()
}
