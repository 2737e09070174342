//! `dbctl sandbox fault pod`.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::local::Local;
use super::{namespace, show};
use crate::api::Quantity;
use crate::cli::error::{CliError, Outcome, Result};
use crate::cli::{Context, complete};

/// Break a pod
///
/// The faults are added to those that the pod has. What cannot be broken on this machine is refused, with the reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl sandbox fault pod orders-db-0 --kill
  dbctl sandbox fault pod orders-db-1 --freeze --for 30s
  dbctl sandbox fault pod orders-db-1 --freeze --only patroni
  dbctl sandbox fault pod orders-db-0 --kill --only 'postgres -D'
  dbctl sandbox fault pod orders-db-1 --slow-disk 1Mi,100iops
  dbctl sandbox fault pod orders-db-2 --cut-api --cut-peers
  dbctl sandbox fault clear pod orders-db-2")]
pub struct PodArgs {
    /// The pod
    #[arg(add = complete::pod())]
    name: String,

    /// Stop every process where it stands
    #[arg(long)]
    freeze: bool,

    /// Kill every process, once
    #[arg(long)]
    kill: bool,

    /// Freeze or kill only the processes whose command line contains this text; what else runs in the pod is left alone
    ///
    /// While such a freeze lasts, new processes with the text are stopped too. A pod has one text to freeze at a time: a
    /// second one takes the place of the first.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    only: Option<String>,

    /// Read and write no faster than this: bytes a second, operations a second (100iops), or both with a comma
    #[arg(long, value_name = "RATE", value_parser = slow_disk)]
    slow_disk: Option<Value>,

    /// Leave no room in its volumes
    #[arg(long)]
    full_disk: bool,

    /// Let it not reach the API server
    #[arg(long)]
    cut_api: bool,

    /// Let it not reach other pods, nor them it
    #[arg(long)]
    cut_peers: bool,

    /// Clear all of the pod's faults after this time, counted anew with each fault that is added
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

fn slow_disk(text: &str) -> Result<Value, String> {
    let wrong = || {
        format!(
            "{text:?} is no rate of a disk: write bytes a second, operations a second or both, for example 1Mi,100iops"
        )
    };
    let mut limits = Map::new();
    for part in text.split(',') {
        let (field, amount) = match part.trim().strip_suffix("iops") {
            Some(number) => ("iops", number.trim().parse::<u64>().ok()),
            None => {
                let amount: Option<Quantity> = part.trim().parse().ok();
                ("bytesPerSecond", amount.and_then(|amount| u64::try_from(amount.value()).ok()))
            }
        };
        let amount = amount.filter(|amount| *amount > 0).ok_or_else(wrong)?;
        if limits.insert(field.to_owned(), amount.into()).is_some() {
            return Err(wrong());
        }
    }
    Ok(Value::Object(limits))
}

impl PodArgs {
    /// What is asked for, as the node reads it.
    fn wanted(&self) -> Map<String, Value> {
        let mut wanted = Map::new();
        for (set, name, narrowed) in
            [(self.freeze, "freeze", "freezeProcesses"), (self.kill, "kill", "killProcesses")]
        {
            match &self.only {
                _ if !set => {}
                None => drop(wanted.insert(name.to_owned(), true.into())),
                Some(text) => drop(wanted.insert(narrowed.to_owned(), text.as_str().into())),
            }
        }
        let flags = [("fullDisk", self.full_disk), ("cutApi", self.cut_api), ("cutPeers", self.cut_peers)];
        for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
            wanted.insert(name.to_owned(), true.into());
        }
        if let Some(slow) = &self.slow_disk {
            wanted.insert("slowDisk".to_owned(), slow.clone());
        }
        wanted
    }
}

/// A pod and the way to its faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    namespace: String,
    node: String,
}

impl Found {
    fn path(&self) -> String {
        let Self { name, namespace, node } = self;
        format!("{}/{}/{}", faults_of(node), segment(namespace), segment(name))
    }
}

fn faults_of(node: &str) -> String {
    format!("/api/v1/nodes/{}/proxy/faults", segment(node))
}

fn segment(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Finds a pod.
///
/// # Errors
/// Where there is none of that name, or it runs nowhere.
pub async fn find(local: &Local, namespace: &str, name: &str) -> Result<Found> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", segment(namespace), segment(name));
    let pod = match local.ask("GET", &path, None).await? {
        Ok(pod) => pod,
        Err(refusal) if refusal.code == 404 => return Err(unknown(local, namespace, name).await),
        Err(refusal) => return Err(CliError::failed(format!("find pod {name}: {}", refusal.message()))),
    };
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(CliError::unhealthy(format!("pod {name} runs on no node yet: it has nothing to break")));
    }
    Ok(Found { name: name.to_owned(), namespace: namespace.to_owned(), node: node.to_owned() })
}

async fn unknown(local: &Local, namespace: &str, name: &str) -> CliError {
    let error = CliError::not_found(format!("there is no pod {name:?} in namespace {namespace:?}"));
    let path = format!("/api/v1/namespaces/{}/pods", segment(namespace));
    let Ok(Ok(list)) = local.ask("GET", &path, None).await else { return error };
    let names: Vec<_> = items(&list).filter_map(|pod| pod.pointer("/metadata/name")?.as_str()).collect();
    if names.is_empty() {
        error.hint("it has no pods at all; another namespace is named with -n")
    } else {
        error.hint(format!("there are: {}", names.join(", ")))
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// Breaks a pod.
///
/// # Errors
/// Where no fault is named, the pod is unknown, or a fault is refused.
pub async fn set(context: &Context, local: &Local, args: &PodArgs) -> Result<()> {
    let asked = args.wanted();
    if args.only.is_some() && !args.freeze && !args.kill {
        return Err(CliError::usage("--only narrows --freeze and --kill, and none of them is given"));
    }
    if asked.is_empty() {
        return Err(CliError::usage("no fault is named: what is to be broken?")
            .hint("one of --freeze, --kill, --slow-disk, --full-disk, --cut-api, --cut-peers")
            .hint(format!("to end faults: dbctl sandbox fault clear pod {}", args.name)));
    }
    let found = find(local, namespace(context), &args.name).await?;
    let path = found.path();
    let had = local.send("GET", &path, None).await?;
    let mut wanted = had.get("wanted").and_then(Value::as_object).cloned().unwrap_or_default();
    wanted.extend(asked.clone());
    if let Some(duration) = args.duration {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        wanted.insert("durationMs".to_owned(), json!(millis));
    }
    let told = local.send("PUT", &path, Some(&Value::Object(wanted))).await?;
    let refused: Vec<String> = told["faults"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|fault| fault["status"] == "refused")
        .filter(|fault| fault["name"].as_str().is_some_and(|name| asked.contains_key(name)))
        .map(show::reason)
        .collect();
    if let Some(table) = show::table(&Value::Null, &[told]) {
        context.ui.data(table)?;
    }
    if refused.is_empty() {
        return Ok(());
    }
    let mut error = CliError::failed(format!("break pod {} as asked", found.name)).details(refused);
    error.outcome = Outcome::Failed;
    Err(error)
}

/// Ends a pod's faults.
///
/// # Errors
/// Where the node does not answer.
pub async fn clear(local: &Local, found: &Found) -> Result<()> {
    local.send("DELETE", &found.path(), None).await.map(drop)
}

/// The names of all nodes.
///
/// # Errors
/// Where the API server does not answer.
pub async fn nodes(local: &Local) -> Result<Vec<String>> {
    let list = local.send("GET", "/api/v1/nodes", None).await?;
    Ok(items(&list).filter_map(|node| Some(node.pointer("/metadata/name")?.as_str()?.to_owned())).collect())
}

/// The pods of a node that have faults, as it tells them; none where it does not answer.
///
/// # Errors
/// Where the API server does not answer.
pub async fn on_node(local: &Local, node: &str) -> Result<Vec<Value>> {
    let answer = local.ask("GET", &faults_of(node), None).await?;
    Ok(answer.map(|list| items(&list).cloned().collect()).unwrap_or_default())
}

/// All pods that have faults.
///
/// # Errors
/// Where the API server does not answer.
pub async fn all(local: &Local) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for node in nodes(local).await? {
        for pod in on_node(local, &node).await? {
            let text = |field: &str| pod["pod"][field].as_str().unwrap_or_default().to_owned();
            found.push(Found { name: text("name"), namespace: text("namespace"), node: node.clone() });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PodArgs,
    }

    #[test]
    fn flags_fill_what_the_node_reads() {
        for (line, expected) in [
            ("--freeze --cut-api", json!({"freeze": true, "cutApi": true})),
            ("--kill --full-disk --cut-peers", json!({"kill": true, "fullDisk": true, "cutPeers": true})),
            ("--slow-disk 1Mi", json!({"slowDisk": {"bytesPerSecond": 1_048_576}})),
            ("--slow-disk 100iops,2k", json!({"slowDisk": {"iops": 100, "bytesPerSecond": 2000}})),
            ("--freeze --only patroni", json!({"freezeProcesses": "patroni"})),
            ("--kill --freeze --only=a", json!({"freezeProcesses": "a", "killProcesses": "a"})),
            ("--kill --only=-D", json!({"killProcesses": "-D"})),
            ("--for 1s", json!({})),
        ] {
            let line_args = ["x", "db-0"].into_iter().chain(line.split(' '));
            let args = Line::try_parse_from(line_args).unwrap().args;
            assert_eq!(Value::Object(args.wanted()), expected, "{line}");
        }
        for bad in ["0", "fast", "1Mi,2Mi", "0iops", "-1", ""] {
            let error = Line::try_parse_from(["x", "db-0", &format!("--slow-disk={bad}")]).err().unwrap();
            let text = error.to_string();
            assert!(text.contains("1Mi,100iops") || text.contains("--slow-disk"), "{bad}: {text}");
        }
    }

    #[test]
    fn paths_lead_to_the_pods_node() {
        let found = Found { name: "db-0".into(), namespace: "shop".into(), node: "node.a".into() };
        assert_eq!(found.path(), "/api/v1/nodes/node.a/proxy/faults/shop/db-0");
        assert_eq!(segment("a/b"), "a%2Fb");
    }
}
