//! `dbctl logs`.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use futures::{AsyncBufReadExt as _, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::{CliError, Result};
use super::members::{self, CONTAINER};
use super::session::Session;
use super::ui::Tone;
use super::{Context, api_error, complete, scale};
use crate::api::{Database, Names};

/// Between two attempts at a log that ended: a container that is started again has one soon.
const RETRY: Duration = Duration::from_secs(1);

/// Show the logs of a database's members
///
/// The lines of all members are in order of time, each after its member's name. With --follow, members that come later
/// are followed too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl logs orders-db --follow
  dbctl logs orders-db --member 1 --tail 100
  dbctl logs orders-db --member 1 --previous")]
pub struct LogsArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Go on with what is logged next
    #[arg(short, long)]
    follow: bool,

    /// Only this member: its name, or its number
    #[arg(short, long, value_name = "MEMBER", add = complete::member())]
    member: Option<String>,

    /// Only the last lines of each member
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    tail: Option<i64>,

    /// Only lines younger than this, for example 10m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,

    /// Begin each line with the time at which it was written
    #[arg(long)]
    timestamps: bool,

    /// The log of the container before the last restart
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
}

/// A line, and where it is from.
struct Line {
    member: String,
    time: String,
    text: String,
}

impl LogsArgs {
    fn params(&self) -> LogParams {
        LogParams {
            container: Some(CONTAINER.to_owned()),
            tail_lines: self.tail,
            since_seconds: self.since.map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
            previous: self.previous,
            timestamps: true,
            ..Default::default()
        }
    }

    /// Whether a pod is one whose log is wanted.
    fn wants(&self, pod: &str) -> bool {
        let names = Names(&self.name);
        let Some(ordinal) = names.ordinal(pod) else { return false };
        self.member.as_ref().is_none_or(|member| member == pod || *member == ordinal.to_string())
    }
}

/// Runs the command.
///
/// # Errors
/// Where there is no such database or member, or its log cannot be read.
pub async fn run(context: &Context, args: LogsArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("read the logs of database {:?}", args.name);
    let api: Api<Pod> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let list = api.list(&ListParams::default().labels(&members::selector(&args.name))).await;
    let list = list.map_err(|error| api_error::explain(&session, &doing, &error))?;
    let pods: Vec<String> = list.iter().map(ResourceExt::name_any).collect();
    let wanted: Vec<String> = pods.iter().filter(|pod| args.wants(pod)).cloned().collect();
    if wanted.is_empty() {
        let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
        scale::get(context, &session, &databases, &args.name, &doing).await?;
        if !args.follow {
            return Err(no_member(&args, &pods));
        }
    }
    let width = args.name.len() + 2;
    if args.follow {
        follow(context, &session, &args, width).await
    } else {
        print_all(context, &session, &args, &wanted, &doing, width).await
    }
}

fn no_member(args: &LogsArgs, pods: &[String]) -> CliError {
    let what = match &args.member {
        Some(member) => format!("there is no member {member:?}"),
        None => "it has no members yet".to_owned(),
    };
    let error = CliError::not_found(format!("failed to read the logs of database {:?}: {what}", args.name));
    if pods.is_empty() { error } else { error.hint(format!("its members are {}", pods.join(", "))) }
}

/// Prints what there is, in order of time.
async fn print_all(
    context: &Context,
    session: &Session,
    args: &LogsArgs,
    pods: &[String],
    doing: &str,
    width: usize,
) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let params = args.params();
    let texts = futures::future::join_all(pods.iter().map(|pod| api.logs(pod, &params))).await;
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    for (pod, text) in pods.iter().zip(texts) {
        match text {
            Ok(text) => lines.extend(text.lines().map(|line| split(pod, line))),
            Err(error) => failures.push((pod, error)),
        }
    }
    // Stable: lines of the same instant stay in their member's order.
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    for line in &lines {
        print(context, args, width, line)?;
    }
    match failures.first() {
        Some((_, error)) if failures.len() == pods.len() => Err(api_error::explain(session, doing, error)),
        _ => {
            for (pod, error) in failures {
                context.ui.warn(format_args!("{pod}: {error}"));
            }
            Ok(())
        }
    }
}

/// Takes a log line apart: the API server puts the time before each.
fn split(pod: &str, line: &str) -> Line {
    let (time, text) = match line.split_once(' ') {
        Some((time, text)) if time.parse::<jiff::Timestamp>().is_ok() => (time, text),
        _ => ("", line),
    };
    Line { member: pod.to_owned(), time: time.to_owned(), text: text.to_owned() }
}

const TONES: [Tone; 3] = [Tone::Good, Tone::Warning, Tone::Strong];

fn print(context: &Context, args: &LogsArgs, width: usize, line: &Line) -> Result<()> {
    let ordinal = Names(&args.name).ordinal(&line.member).and_then(|ordinal| usize::try_from(ordinal).ok());
    let tone = TONES[ordinal.unwrap_or(0) % TONES.len()];
    let prefix = context.ui.paint(tone, format_args!("{:<width$}", line.member));
    let time = if args.timestamps { format!("{} ", line.time) } else { String::new() };
    context.ui.data(format_args!("{prefix} | {time}{}\n", line.text))
}

/// Follows every member that is there, and every one that comes.
async fn follow(context: &Context, session: &Session, args: &LogsArgs, width: usize) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let config = watcher::Config::default().labels(&members::selector(&args.name));
    let mut pods = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    let (sender, mut lines) = mpsc::channel::<Line>(256);
    let mut readers: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        tokio::select! {
            pod = pods.next() => match pod {
                Some(Ok(pod)) if args.wants(&pod.name_any()) => {
                    // A pod made again under the same name is another one.
                    let key = pod.metadata.uid.clone().unwrap_or_default();
                    readers.retain(|_, reader| !reader.is_finished());
                    readers.entry(key.clone()).or_insert_with(|| {
                        tokio::spawn(read(api.clone(), pod.name_any(), key, args.params(), sender.clone()))
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::warn!("watching pods: {error}"),
                None => return Err(CliError::failed("follow the logs: the API server ended the watch")),
            },
            Some(line) = lines.recv() => print(context, args, width, &line)?,
        }
    }
}

/// Sends the lines of one pod until it is gone; a container that is started again goes on after its last line.
async fn read(api: Api<Pod>, pod: String, uid: String, mut params: LogParams, lines: mpsc::Sender<Line>) {
    params.follow = true;
    let mut last = String::new();
    loop {
        if let Ok(stream) = api.log_stream(&pod, &params).await {
            let mut stream = stream.lines();
            while let Ok(Some(text)) = stream.try_next().await {
                let line = split(&pod, &text);
                // What was asked for again from an instant on begins with what was seen already.
                if !line.time.is_empty() && line.time <= last {
                    continue;
                }
                last.clone_from(&line.time);
                if lines.send(line).await.is_err() {
                    return;
                }
            }
        }
        match api.get_metadata_opt(&pod).await {
            Ok(Some(there)) if there.metadata.uid.as_deref() == Some(&uid) => {}
            Ok(_) => return,
            Err(error) => tracing::debug!("looking for {pod}: {error}"),
        }
        if let Ok(time) = last.parse::<jiff::Timestamp>() {
            (params.since_time, params.since_seconds, params.tail_lines) = (Some(time), None, None);
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(member: Option<&str>) -> LogsArgs {
        LogsArgs {
            name: "db".into(),
            follow: false,
            member: member.map(str::to_owned),
            tail: None,
            since: Some(Duration::from_millis(10)),
            timestamps: false,
            previous: false,
        }
    }

    #[test]
    fn a_member_is_named_or_numbered() {
        assert!(args(None).wants("db-2") && !args(None).wants("db-backup-x"));
        assert!(args(Some("1")).wants("db-1") && !args(Some("1")).wants("db-11"));
        assert!(args(Some("db-1")).wants("db-1") && !args(Some("db-1")).wants("db-0"));
        assert_eq!(args(None).params().since_seconds, Some(1), "0 would mean everything");
    }

    #[test]
    fn the_time_is_taken_off_and_lines_without_one_are_kept() {
        let line = split("db-0", "2026-11-22T10:00:00.123456789Z hello  there");
        assert_eq!(
            (line.time.as_str(), line.text.as_str()),
            ("2026-11-22T10:00:00.123456789Z", "hello  there")
        );
        let line = split("db-0", "no time here");
        assert_eq!((line.time.as_str(), line.text.as_str()), ("", "no time here"));
    }
}
