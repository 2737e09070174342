//! What keeps an installation from being made: something newer, or another one for the same databases.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::DOING;
use super::found::{Controller, labels};
use crate::api::{DBCTL_VERSION, VERSION, crd};
use crate::cli::error::{CliError, Result};
use crate::cli::session::Session;
use crate::cli::{Context, api_error};
use crate::install::{Installation, is_newer};

/// Looks at what there is.
///
/// # Errors
/// Where installing would do harm, a namespace is missing, or it cannot be seen.
pub async fn check(context: &Context, session: &Session, wanted: &Installation) -> Result<()> {
    let failed =
        |error: kube::Error| api_error::explain(session, &format!("{DOING}: see what is there"), &error);
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let definition = definitions.get_opt(&crd().name_any()).await.map_err(failed)?;
    check_definition(definition.as_ref(), VERSION)?;
    let deployments: Api<Deployment> = Api::all(session.client.clone());
    let deployments = deployments.list(&ListParams::default().labels(&labels())).await.map_err(failed)?;
    let controllers: Vec<Controller> = deployments.iter().map(Controller::of).collect();
    check_controllers(context, &controllers, wanted, VERSION)?;
    if let Some(watch) = &wanted.watch {
        let namespaces: Api<Namespace> = Api::all(session.client.clone());
        if watch != &wanted.namespace && namespaces.get_opt(watch).await.map_err(failed)?.is_none() {
            return Err(CliError::not_found(format!("failed to {DOING}: there is no namespace {watch:?}"))
                .hint(format!("make it first: kubectl create namespace {watch}; nothing was changed")));
        }
    }
    Ok(())
}

fn too_new(what: &str, version: &str, own: &str) -> CliError {
    CliError::refused(format!("failed to {DOING}: {what} is of dbctl {version}, and this is dbctl {own}"))
        .details(["an older one would take away what the newer one has written".to_owned()])
        .hint(format!("install with dbctl {version} or a newer one; nothing was changed"))
}

fn check_definition(definition: Option<&CustomResourceDefinition>, own: &str) -> Result<()> {
    let Some(definition) = definition else { return Ok(()) };
    let name = definition.name_any();
    if definition.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {DOING}: the definition {name} is being deleted"))
            .details([
                "it goes once no Database is left, and what was made meanwhile would go with it".to_owned()
            ])
            .hint("see what it waits for: kubectl get databases -A; nothing was changed"));
    }
    match definition.annotations().get(DBCTL_VERSION) {
        Some(version) if is_newer(version, own) => {
            Err(too_new(&format!("the definition {name}"), version, own))
        }
        _ => Ok(()),
    }
}

fn check_controllers(
    context: &Context,
    there: &[Controller],
    wanted: &Installation,
    own: &str,
) -> Result<()> {
    for controller in there {
        let namespace = &controller.namespace;
        if *namespace == wanted.namespace {
            if let Some(version) = controller.version.as_deref().filter(|version| is_newer(version, own)) {
                return Err(too_new(&format!("the controller in namespace {namespace:?}"), version, own));
            }
        } else if controller.overlaps(wanted.watch.as_deref()) {
            let whose = controller.watch.as_ref();
            let whose =
                whose.map_or_else(|| "all namespaces".to_owned(), |watch| format!("namespace {watch:?}"));
            let program = context.program();
            return Err(CliError::refused(format!(
                "failed to {DOING}: the controller in namespace {namespace:?} works for the databases of {whose} already"
            ))
            .details(["two that do not know of each other would undo each other's work".to_owned()])
            .hint(format!("bring that one up to date: {program} install -n {namespace}"))
            .hint(format!("or take it away first, which keeps all databases: {program} uninstall -n {namespace}"))
            .hint("or name a namespace that it does not work for with --watch-namespace; nothing was changed"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Outcome;

    fn outcome(result: Result<()>) -> Option<Outcome> {
        result.err().map(|error| error.outcome)
    }

    #[test]
    fn a_newer_definition_is_not_replaced() {
        let definition = |version: Option<&str>| {
            let mut definition = crd();
            let annotations = definition.metadata.annotations.get_or_insert_default();
            annotations.clear();
            annotations.extend(version.map(|version| (DBCTL_VERSION.to_owned(), version.to_owned())));
            definition
        };
        for (version, refused) in [
            (Some("1.2.1"), true),
            (Some("1.2.0"), false),
            (Some("1.1.9"), false),
            (None, false),
            (Some("a hand's"), false),
        ] {
            let found = outcome(check_definition(Some(&definition(version)), "1.2.0"));
            assert_eq!(found, refused.then_some(Outcome::Refused), "{version:?}");
        }
        assert_eq!(outcome(check_definition(None, "1.2.0")), None);
        let mut going = definition(None);
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(outcome(check_definition(Some(&going), "1.2.0")), Some(Outcome::Refused));
    }

    #[test]
    fn a_second_installation_for_the_same_databases_is_refused() {
        let controller = |namespace: &str, watch: Option<&str>, version: &str| Controller {
            namespace: namespace.to_owned(),
            watch: watch.map(str::to_owned),
            version: Some(version.to_owned()),
            replicas: 2,
            ready: 2,
        };
        let table = [
            (controller("ops", None, "1.2.0"), None, None),
            (controller("ops", None, "1.1.0"), Some("a"), None),
            (controller("ops", None, "1.3.0"), None, Some("is of dbctl 1.3.0, and this is dbctl 1.2.0")),
            (controller("other", None, "1.2.0"), None, Some("all namespaces already")),
            (controller("other", None, "1.2.0"), Some("a"), Some("all namespaces already")),
            (controller("other", Some("a"), "1.2.0"), Some("a"), Some("namespace \"a\" already")),
            (controller("other", Some("b"), "1.3.0"), Some("a"), None),
        ];
        for (there, watch, refused) in table {
            let mut wanted = Installation::new("ops");
            wanted.watch = watch.map(str::to_owned);
            let answer = check_controllers(&Context::plain(), std::slice::from_ref(&there), &wanted, "1.2.0");
            match refused {
                None => assert_eq!(answer, Ok(()), "{there:?}"),
                Some(words) => {
                    let error = answer.unwrap_err();
                    assert_eq!(error.outcome, Outcome::Refused);
                    assert!(error.message.contains(words), "{error:?}");
                }
            }
        }
    }
}
