//! `dbctl install`.

pub mod found;
mod guard;
mod ready;

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::controller::{DEFAULT_IMAGE, check_template};
use super::error::{CliError, Result};
use super::output::{self, Document};
use super::session::Session;
use super::{Context, api_error};
use crate::api::FIELD_MANAGER;
use crate::install::{
    Change, Installation, NAMESPACE, api_of, change, default_image, is_installed, resource, resource_name,
    submit,
};
use found::Found;

/// How long the API server may take to serve the definition.
const ESTABLISHED_LIMIT: Duration = Duration::from_secs(30);
/// What fails, as errors say it.
const DOING: &str = "install dbctl";

/// Install dbctl in a cluster, or bring what is installed up to date
///
/// Makes the definition of databases, the controller with the rights that it needs, and what stands around it, in namespace
/// dbctl-system or that of -n. Doing it again changes only what is different: what was installed with other options goes.
/// A newer dbctl's installation is never replaced by an older one's. `dbctl uninstall` takes it away, and keeps all data.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl install --wait                                   # for the databases of all namespaces
  dbctl install -n team-a --watch-namespace team-a       # for those of one; beyond it, it only asks who reads its metrics
  dbctl install --image registry.example.com/dbctl/controller:1.0.0 \\
    --image-template 'registry.example.com/dbctl/postgres:{version}' --image-pull-secret pull
  dbctl install --dry-run                                # what would change
  dbctl install --dry-run -o yaml                        # all objects, without a cluster")]
pub struct InstallArgs {
    /// The one namespace whose databases it works for; those of all without it
    #[arg(long, value_name = "NAMESPACE")]
    watch_namespace: Option<String>,

    /// Image of the controller
    #[arg(long, value_name = "IMAGE", default_value_t = default_image())]
    image: String,

    /// Image of the databases' members; {version} stands for the PostgreSQL release
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    image_template: String,

    /// Name of the Secret with which both are pulled: there must be one in the controller's namespace and in that of each
    /// database
    #[arg(long, value_name = "SECRET")]
    image_pull_secret: Option<String>,

    /// Name of the Secret, in the controller's namespace, with the certificate for its metrics: tls.crt and tls.key [default: each
    /// controller signs one of its own]
    #[arg(long, value_name = "SECRET")]
    metrics_cert_secret: Option<String>,

    /// How many controllers, 1 to 5: one works, the others stand by
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..=5))]
    replicas: i32,

    /// Wait until the controllers are ready
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Change nothing, and say what would change
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// Print all objects in place of that; this asks no cluster
    #[arg(short, long, value_enum, value_name = "FORMAT", requires = "dry_run")]
    output: Option<Document>,
}

impl InstallArgs {
    fn wanted(&self, context: &Context) -> Installation {
        Installation {
            watch: self.watch_namespace.clone(),
            image: self.image.clone(),
            image_template: self.image_template.clone(),
            replicas: self.replicas,
            pull_secret: self.image_pull_secret.clone(),
            metrics_secret: self.metrics_cert_secret.clone(),
            ..Installation::new(&place(context))
        }
    }
}

/// Where the controller runs. It is not where databases are, so the kubeconfig's namespace has no say in it.
pub fn place(context: &Context) -> String {
    context.global.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned())
}

/// Runs the command.
///
/// # Errors
/// Where something newer, or another installation for the same databases, is there; where the API server refuses an object; or,
/// with `--wait`, the controllers are not ready in time.
pub async fn run(context: &Context, args: InstallArgs) -> Result<()> {
    check_template("--image-template", &args.image_template)?;
    let mut wanted = args.wanted(context);
    if let Some(format) = args.output {
        return context.ui.data(printed(format, &objects(&wanted)?)?);
    }
    if args.wait && context.global.sandbox {
        return Err(CliError::usage(
            "the sandbox starts no pods of a Deployment, so there is nothing to wait for",
        )
        .hint("leave --wait away; the sandbox runs a controller of its own"));
    }
    let session = Session::open(context).await?;
    guard::check(context, &session, &wanted).await?;
    add_api_ports(&session, &mut wanted).await;
    for object in objects(&wanted)? {
        put(context, &session, object, args.dry_run).await?;
    }
    remove_rest(context, &session, &wanted, args.dry_run).await?;
    if args.dry_run {
        return Ok(());
    }
    if args.wait {
        ready::until_ready(context, &session, &wanted, args.timeout).await?;
    }
    tell(context, &wanted, args.wait);
    Ok(())
}

fn objects(wanted: &Installation) -> Result<Vec<Value>> {
    wanted.objects().map_err(|error| CliError::failed(format!("write JSON: {error}")))
}

/// As `kubectl apply -f -` takes them.
fn printed(format: Document, objects: &[Value]) -> Result<String> {
    match format {
        Document::Json => {
            output::document(format, &json!({ "apiVersion": "v1", "kind": "List", "items": objects }))
        }
        Document::Yaml => {
            let all: Result<Vec<String>> =
                objects.iter().map(|object| output::document(format, object)).collect();
            Ok(all?.join("---\n"))
        }
    }
}

/// An API server of this cluster may listen at a port of its own, which is what policies see, whatever the Service's is.
async fn add_api_ports(session: &Session, wanted: &mut Installation) {
    let slices: Api<EndpointSlice> = Api::namespaced(session.client.clone(), "default");
    // Where that cannot be read, the usual ones have to do.
    let Ok(Some(slice)) = slices.get_opt("kubernetes").await else { return };
    let ports = slice.ports.into_iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    for port in ports {
        if !wanted.api_ports.contains(&port) {
            wanted.api_ports.push(port);
        }
    }
}

/// Brings one object to what it is to be, and says what became of it.
async fn put(context: &Context, session: &Session, object: Value, dry_run: bool) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)
        .map_err(|error| CliError::failed(format!("read an object: {error}")))?;
    let types = object.types.clone().unwrap_or_default();
    let name = resource_name(&resource(&types), &object.name_any());
    let failed = |error: kube::Error| api_error::explain(session, &format!("{DOING}: apply {name}"), &error);
    let before = api_of(&session.client, &object).get_opt(&object.name_any()).await.map_err(failed)?;
    if types.kind == "Namespace"
        && let Some(before) = &before
        && !is_ours(before)
    {
        context.ui.note(format_args!(
            "{name} was there before dbctl, so its labels stay as they are: pod-security.kubernetes.io/enforce=restricted \
             would suit what dbctl runs in it"
        ));
        return context.ui.data(format!("{name} {}\n", Change::Unchanged.as_str()));
    }
    let params = PatchParams { dry_run, ..PatchParams::apply(FIELD_MANAGER).force() };
    // In a namespace that is still to be made nothing can be tried.
    let after = if dry_run && before.is_none() && !has_place(session, &object).await? {
        object.clone()
    } else {
        submit(&session.client, &params, &object).await.map_err(failed)?
    };
    if types.kind == "CustomResourceDefinition" && !dry_run {
        established(session, &after.name_any()).await?;
    }
    let how = if dry_run { " (dry run)" } else { "" };
    context.ui.data(format!("{name} {}{how}\n", change(before.as_ref(), &after).as_str()))
}

/// Whether an existing namespace is one whose labels are dbctl's to set.
fn is_ours(namespace: &DynamicObject) -> bool {
    namespace.name_any() == NAMESPACE || is_installed(namespace.labels())
}

async fn has_place(session: &Session, object: &DynamicObject) -> Result<bool> {
    let Some(namespace) = object.namespace() else { return Ok(true) };
    let namespaces: Api<Namespace> = Api::all(session.client.clone());
    let found = namespaces.get_opt(&namespace).await;
    Ok(found.map_err(|error| api_error::explain(session, DOING, &error))?.is_some())
}

/// A controller that starts before the definition is served would end again.
async fn established(session: &Session, name: &str) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.streaming.clone());
    let established = await_condition(definitions, name, conditions::is_crd_established());
    match tokio::time::timeout(ESTABLISHED_LIMIT, established).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(CliError::failed(format!("{DOING}: wait for the definition: {error}"))),
        Err(_) => Err(CliError::failed(format!(
            "{DOING}: the API server does not serve the definition {name} after {}",
            humantime::format_duration(ESTABLISHED_LIMIT)
        ))
        .hint(format!("its conditions say why: kubectl describe crd {name}"))),
    }
}

/// Takes away what an earlier installation with other options had: most of all rights.
async fn remove_rest(
    context: &Context,
    session: &Session,
    wanted: &Installation,
    dry_run: bool,
) -> Result<()> {
    let failed =
        |error: kube::Error| api_error::explain(session, &format!("{DOING}: look for what it had"), &error);
    let there = found::find(session, &wanted.namespace).await.map_err(failed)?;
    let wanted: Vec<Found> = objects(wanted)?.iter().filter_map(Found::of).collect();
    for rest in there.iter().filter(|found| !wanted.iter().any(|wanted| wanted.is(found))) {
        if !dry_run {
            let doing = format!("{DOING}: remove {}", rest.title());
            rest.delete(session).await.map_err(|error| api_error::explain(session, &doing, &error))?;
        }
        let how = if dry_run { " (dry run)" } else { "" };
        context.ui.data(format!("{} removed{how}\n", rest.title()))?;
    }
    Ok(())
}

fn tell(context: &Context, wanted: &Installation, waited: bool) {
    let command = context.invocation();
    if context.global.sandbox {
        context.ui.warn("the sandbox runs a controller of its own, and starts no pods of this Deployment");
    } else if waited {
        context.ui.note(format_args!(
            "{} in namespace {:?} for databases of {}",
            output::count(wanted.replicas, "controller"),
            wanted.namespace,
            wanted.watch.as_ref().map_or("all namespaces".to_owned(), |watch| format!("namespace {watch:?}")),
        ));
    } else {
        context.ui.note(format_args!("to see whether it works: {command} version"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InstallArgs,
    }

    fn wanted(words: &[&str]) -> Installation {
        let line = Line::try_parse_from(std::iter::once("install").chain(words.iter().copied())).unwrap();
        line.args.wanted(&Context::plain())
    }

    #[test]
    fn without_options_it_is_what_the_manifests_hold() {
        assert_eq!(wanted(&[]), Installation::new(NAMESPACE));
    }

    #[test]
    fn a_context_with_a_namespace_installs_there() {
        let mut context = Context::plain();
        context.global.namespace = Some("ops".to_owned());
        assert_eq!(place(&context), "ops");
    }

    #[test]
    fn output_is_of_a_dry_run_only() {
        for (words, fits) in [
            (vec!["-o", "yaml"], false),
            (vec!["--dry-run", "-o", "yaml"], true),
            (vec!["--dry-run", "--wait"], false),
            (vec!["--replicas", "0"], false),
            (vec!["--replicas", "6"], false),
            (vec!["--replicas", "1"], true),
        ] {
            let line = Line::try_parse_from(std::iter::once("install").chain(words.iter().copied()));
            assert_eq!(line.is_ok(), fits, "{words:?}");
        }
    }

    #[test]
    fn what_is_printed_is_every_object() {
        let wanted = wanted(&["--watch-namespace", "shop"]);
        let objects = objects(&wanted).unwrap();
        let yaml = printed(Document::Yaml, &objects).unwrap();
        let parsed: Vec<Value> =
            yaml.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap()).collect();
        assert_eq!(parsed, objects);
        let json: Value = serde_json::from_str(&printed(Document::Json, &objects).unwrap()).unwrap();
        assert_eq!(json["items"], json!(objects));
    }

    #[test]
    fn only_namespaces_of_its_own_are_labelled() {
        let namespace = |name: &str, labels: Value| -> DynamicObject {
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
        };
        let made = crate::install::namespace_object("ops")["metadata"]["labels"].clone();
        for (name, labels, ours) in
            [("ops", json!({}), false), ("ops", made, true), (NAMESPACE, json!({}), true)]
        {
            assert_eq!(is_ours(&namespace(name, labels.clone())), ours, "{name} {labels}");
        }
    }
}
