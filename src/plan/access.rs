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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PgVersion;
    use crate::plan::{Observed, Settings, pod, world};

    /// A Secret to pull with reaches new pods by their account, and changes no template: nobody is restarted for it.
    #[test]
    fn what_images_are_pulled_with_is_the_accounts() {
        let (database, observed) = (world::database(json!({})), Observed::default());
        let with = |secret: Option<&str>| {
            let settings = Settings { pull_secret: secret.map(str::to_owned), ..Settings::default() };
            let cx = Context::new(&database, &observed, &settings);
            let Some(Action::Apply(account)) = plan(&cx).into_iter().next() else { panic!("no account") };
            assert_eq!(account.kind, Kind::ServiceAccount);
            (account.body["imagePullSecrets"].clone(), pod::template(&cx, PgVersion::DEFAULT))
        };
        let ((none, before), (some, after)) = (with(None), with(Some("pull")));
        assert_eq!((none, some), (Value::Null, json!([{ "name": "pull" }])));
        assert_eq!(before, after);
    }
}
