//! `dbctl expose`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::output::{self, Document};
use super::progress::{Step, Steps};
use super::session::Session;
use super::{Context, api_error, complete, scale};
use crate::api::{Database, LABEL_DATABASE, LABEL_ROLE, Names, ROLE_PRIMARY, ROLE_REPLICA};
use crate::plan::POSTGRES_PORT as PORT;

/// Let clients outside the cluster reach a database
///
/// Makes a Service beside those inside the cluster, which follows the primary, or with --replicas leads to the replicas. Asked
/// for again with other options, it is changed; --stop removes it, and it goes with the database. Within the cluster,
/// nothing changes. Whoever reaches the address may try passwords: name the networks that may with --source-range.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl expose orders-db --source-range 203.0.113.0/24 --wait
  dbctl expose orders-db --replicas --type node-port
  dbctl expose orders-db --annotation service.beta.kubernetes.io/aws-load-balancer-scheme=internal
  dbctl expose orders-db --dry-run                 # the Service as YAML
  dbctl expose orders-db --stop")]
pub struct ExposeArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Lead to the replicas, for reading, in place of the primary
    #[arg(long)]
    replicas: bool,

    /// How it is reached from outside
    #[arg(long = "type", value_enum, default_value_t, value_name = "TYPE")]
    kind: Exposure,

    /// Port at the outer address; members stay at 5432
    #[arg(long, default_value_t = PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Network from which clients are let in, as 203.0.113.0/24; may be repeated [default: everywhere]
    #[arg(long = "source-range", value_name = "CIDR", value_parser = network)]
    source_ranges: Vec<String>,

    /// Annotation of the Service, by which clouds are told more; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,

    /// Remove the Service
    #[arg(long, conflicts_with_all = ["kind", "port", "source_ranges", "annotations", "wait", "output"])]
    stop: bool,

    /// Wait until the address is known
    #[arg(long)]
    wait: bool,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Only show the Service
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,

    /// What --dry-run shows [default: yaml]
    #[arg(short, long, value_enum, value_name = "FORMAT", requires = "dry_run")]
    output: Option<Document>,
}

/// How a Service is reached from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Exposure {
    /// At an address that the cloud, or the cluster's load balancer, gives it
    #[default]
    LoadBalancer,
    /// At a port of every node
    NodePort,
}

fn network(text: &str) -> std::result::Result<String, String> {
    let parsed = text.split_once('/').and_then(|(address, bits)| {
        let address: std::net::IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(())
    });
    parsed.map(|()| text.to_owned()).ok_or_else(|| "not a network, as 203.0.113.0/24 is one".to_owned())
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs the command.
///
/// # Errors
/// Where there is no such database, a Service of that name is somebody else's, or no address comes in time.
pub async fn run(context: &Context, args: ExposeArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("{} database {:?}", if args.stop { "stop exposing" } else { "expose" }, args.name);
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, &session, &databases, &args.name, &doing).await?;
    if database.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {doing}: it is being deleted")));
    }
    let api: Api<Service> = Api::namespaced(session.client.clone(), &session.namespace);
    let name = Names(&args.name).external_service(args.replicas);
    let explain = |error| api_error::explain(&session, &doing, &error);
    let there = api.get_opt(&name).await.map_err(explain)?;
    if let Some(foreign) = there.as_ref().filter(|there| !is_of(there, &database)) {
        return Err(CliError::refused(format!(
            "failed to {doing}: Service {:?} is there already, and is not this database's",
            foreign.name_any()
        ))
        .hint(format!("see whose it is: kubectl get service {name} -o yaml")));
    }
    if args.stop {
        return stop(context, &args, &api, there, &name).await.map_err(explain);
    }
    let service = service(&args, &database, &name);
    if args.dry_run {
        return context.ui.data(output::document(args.output.unwrap_or(Document::Yaml), &service)?);
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let made = api.patch(&name, &params, &Patch::Apply(&service)).await.map_err(explain)?;
    if args.wait {
        return until_reached(context, &args, &api, &name, &doing).await;
    }
    match address(&made) {
        Some(address) => context.ui.note(format_args!("database {:?} is reached at {address}", args.name)),
        None => context.ui.note(format_args!(
            "Service {name:?} waits for its address: kubectl get service {name} --watch tells it"
        )),
    }
    Ok(())
}

/// Whether it was made for that very database.
fn is_of(service: &Service, database: &Database) -> bool {
    service.owner_references().iter().any(|owner| Some(&owner.uid) == database.metadata.uid.as_ref())
}

/// The Service as it is asked for.
fn service(args: &ExposeArgs, database: &Database, name: &str) -> Value {
    let names = Names(&args.name);
    let mut selector = names.selector();
    let role = if args.replicas { ROLE_REPLICA } else { ROLE_PRIMARY };
    selector.insert(LABEL_ROLE.to_owned(), role.to_owned());
    let annotations: BTreeMap<&str, &str> =
        args.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut spec = json!({
        "type": match args.kind { Exposure::LoadBalancer => "LoadBalancer", Exposure::NodePort => "NodePort" },
        "selector": selector,
        "ports": [{ "name": "postgres", "port": args.port, "targetPort": PORT, "protocol": "TCP" }],
    });
    if !args.source_ranges.is_empty() {
        spec["loadBalancerSourceRanges"] = json!(args.source_ranges);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "labels": { LABEL_DATABASE: args.name },
            "annotations": annotations,
            // It goes with the database.
            "ownerReferences": database.owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "spec": spec,
    })
}

/// Where clients outside reach it, as far as that is known.
fn address(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let port = spec.ports.as_ref()?.first()?;
    if spec.type_.as_deref() == Some("NodePort") {
        return Some(format!("port {} of every node", port.node_port?));
    }
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    let ingress = balancer.ingress.as_ref()?.first()?;
    Some(format!("{}:{}", ingress.hostname.as_ref().or(ingress.ip.as_ref())?, port.port))
}

async fn stop(
    context: &Context,
    args: &ExposeArgs,
    api: &Api<Service>,
    there: Option<Service>,
    name: &str,
) -> kube::Result<()> {
    let Some(there) = there else {
        context.ui.note(format_args!("there is no Service {name:?}"));
        return Ok(());
    };
    let only = Preconditions { uid: there.metadata.uid, resource_version: None };
    let params = DeleteParams { dry_run: args.dry_run, preconditions: Some(only), ..DeleteParams::default() };
    api.delete(name, &params).await?;
    let goes = if args.dry_run { "would be removed" } else { "is removed" };
    context.ui.note(format_args!("Service {name:?} {goes}: clients outside lose their connections"));
    Ok(())
}

async fn until_reached(
    context: &Context,
    args: &ExposeArgs,
    api: &Api<Service>,
    name: &str,
    doing: &str,
) -> Result<()> {
    let mut steps = Steps::new(context.ui);
    steps.set(name, Step::Working, format!("waiting for the address of Service {name:?}"));
    let found = tokio::time::timeout(args.timeout, first_address(api, name)).await;
    if let Ok(Some(address)) = &found {
        steps.set(name, Step::Done, format!("database {:?} is reached at {address}", args.name));
    }
    steps.finish();
    match found {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(CliError::failed(format!("{doing}: Service {name:?} was removed"))),
        Err(_) => Err(CliError::timed_out(format!(
            "failed to {doing}: Service {name:?} has no address after {}",
            humantime::format_duration(args.timeout)
        ))
        .hint(format!("does the cluster have load balancers? kubectl describe service {name}"))
        .hint(format!(
            "or take a port of the nodes: {} expose {} --type node-port",
            context.invocation(),
            args.name
        ))),
    }
}

/// Its address, once there is one; none where it goes before.
async fn first_address(api: &Api<Service>, name: &str) -> Option<String> {
    let events = watcher::watch_object(api.clone(), name).default_backoff();
    // What the watch cannot read, it tries again until there is no more time.
    let mut seen = Box::pin(events.filter_map(async |event| event.ok()));
    while let Some(service) = seen.next().await {
        if let Some(address) = address(&service?) {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(words: &str) -> std::result::Result<ExposeArgs, String> {
        let words = ["dbctl", "expose", "db"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Expose(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn made(words: &str) -> Value {
        let spec = json!({ "replicas": 1, "version": "18.6", "storage": { "size": "1Gi" } });
        let database = serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db", "uid": "u" }, "spec": spec,
        }));
        let args = args(words).unwrap();
        service(&args, &database.unwrap(), &Names("db").external_service(args.replicas))
    }

    #[test]
    fn the_service_leads_where_the_flags_say_and_goes_with_the_database() {
        let plain = made("");
        assert_eq!(plain["metadata"]["name"], "db-external");
        assert_eq!(plain["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(plain["spec"]["selector"][LABEL_ROLE], ROLE_PRIMARY);
        assert_eq!(plain["spec"]["loadBalancerSourceRanges"], Value::Null);
        let other =
            made("--replicas --type node-port --port 6000 --source-range 10.0.0.0/8 --annotation a/b=c=d");
        assert_eq!(other["metadata"]["name"], "db-external-ro");
        assert_eq!(other["metadata"]["annotations"], json!({ "a/b": "c=d" }));
        assert_eq!(other["spec"]["type"], "NodePort");
        assert_eq!(other["spec"]["selector"][LABEL_ROLE], ROLE_REPLICA);
        assert_eq!(other["spec"]["ports"][0]["port"], 6000);
        assert_eq!(other["spec"]["ports"][0]["targetPort"], 5432);
        assert_eq!(other["spec"]["loadBalancerSourceRanges"], json!(["10.0.0.0/8"]));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (words, says) in [
            ("--source-range 10.0.0.0", "--source-range"),
            ("--source-range 10.0.0.0/33", "not a network"),
            ("--source-range fd00::/129", "not a network"),
            ("--annotation x", "not KEY=VALUE"),
            ("--port 0", "--port"),
            ("--stop --port 6000", "cannot be used"),
            ("--type cluster", "load-balancer, node-port"),
        ] {
            let error = args(words).unwrap_err();
            assert!(error.contains(says), "{words}: {error}");
        }
        assert!(args("--source-range fd00::/8").is_ok());
    }

    #[test]
    fn the_address_is_what_clients_type() {
        let of = |spec: Value, ingress: Value| {
            let service = json!({ "spec": spec, "status": { "loadBalancer": { "ingress": ingress } } });
            address(&serde_json::from_value(service).unwrap())
        };
        let balanced = json!({ "type": "LoadBalancer", "ports": [{ "port": 5432, "nodePort": 30001 }] });
        assert_eq!(of(balanced.clone(), json!(null)), None);
        assert_eq!(of(balanced.clone(), json!([{ "ip": "192.0.2.1" }])).as_deref(), Some("192.0.2.1:5432"));
        assert_eq!(of(balanced, json!([{ "hostname": "db.example" }])).as_deref(), Some("db.example:5432"));
        let port = json!({ "type": "NodePort", "ports": [{ "port": 5432, "nodePort": 30001 }] });
        assert_eq!(of(port, json!(null)).as_deref(), Some("port 30001 of every node"));
    }
}
