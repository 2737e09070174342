//! `dbctl sandbox fault api`.

use std::time::Duration;

use clap::Args;

use super::local::Local;
use super::{FAULTS, show};
use crate::cli::Context;
use crate::cli::error::{CliError, Result};
use crate::sandbox::api::faults::{ErrorRate, FaultSpec, Outage, STATUSES, Selection, VERBS};

/// Break the API server
///
/// What the command line says takes the place of the faults that the API server has. Rates are percentages; chance is
/// drawn from a seed, so that the same seed strikes the same requests. Where several of --user, --verb and --resource
/// are given, a request must fit each of them.
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  dbctl sandbox fault api --latency 200ms --jitter 100ms
  dbctl sandbox fault api --error 409=10% --error 500=10% --seed 7
  dbctl sandbox fault api --error-after 504=20% --verb create,patch --resource pods,statefulsets.apps
  dbctl sandbox fault api --drop-watches 5% --user 'system:serviceaccount:*'
  dbctl sandbox fault api --expire-watches
  dbctl sandbox fault api --outage --for 30s
  dbctl sandbox fault api --outage=reset --resource leases.coordination.k8s.io")]
pub struct ApiArgs {
    /// Handle each request this much later
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    latency: Option<Duration>,

    /// And up to this much later still, by chance
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,

    /// Answer with an error: 409, 429, 500, 503 or 504; 409 to writes only. May be repeated
    #[arg(long = "error", value_name = "STATUS=RATE", value_parser = error)]
    errors: Vec<(u16, f64)>,

    /// The same, but a write has had its effect by then. May be repeated
    #[arg(long = "error-after", value_name = "STATUS=RATE", value_parser = error)]
    errors_after: Vec<(u16, f64)>,

    /// When clients are told to come back after an error [default: 1s after 429, else they are not told]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_after: Option<Duration>,

    /// Cut each open watch off with this chance, each second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    drop_watches: Option<f64>,

    /// Keep watches open and silent
    #[arg(long)]
    stall_watches: bool,

    /// End all open watches with 410 Expired now; with a rate, each with that chance, each second
    #[arg(long, value_name = "RATE", value_parser = rate, num_args = 0..=1, require_equals = true, default_missing_value = "0%")]
    expire_watches: Option<f64>,

    /// Close the port [refuse], or reset every connection at its first request [reset]
    #[arg(long, value_name = "HOW", value_parser = outage, num_args = 0..=1, require_equals = true, default_missing_value = "refuse")]
    outage: Option<Outage>,

    /// Only requests of this user; a * at the end stands for any rest
    #[arg(long = "user", value_name = "NAME", value_delimiter = ',', help_heading = "Whose requests")]
    users: Vec<String>,

    /// Only requests with this verb
    #[arg(long = "verb", value_name = "VERB", value_delimiter = ',', value_parser = VERBS, help_heading = "Whose requests")]
    verbs: Vec<String>,

    /// Only requests for this resource: pods, statefulsets.apps, pods/status
    #[arg(
        long = "resource",
        value_name = "RESOURCE",
        value_delimiter = ',',
        help_heading = "Whose requests"
    )]
    resources: Vec<String>,

    /// What chance begins with
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Clear the faults after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// A percentage as a number from 0 to 1.
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not a rate: write a percentage from 0% to 100%, for example 10%");
    let number: f64 =
        text.strip_suffix('%').and_then(|number| number.trim().parse().ok()).ok_or_else(wrong)?;
    if (0.0..=100.0).contains(&number) { Ok(number / 100.0) } else { Err(wrong()) }
}

/// A status and its rate.
fn error(text: &str) -> Result<(u16, f64), String> {
    let (status, chance) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no rate: write STATUS=RATE, for example 500=10%"))?;
    let known = status.parse().ok().filter(|status| STATUSES.contains(status));
    let status = known.ok_or_else(|| {
        let all = STATUSES.map(|status| status.to_string()).join(", ");
        format!("{status:?} is no error that the API server can be told to answer: one of {all}")
    })?;
    Ok((status, rate(chance)?))
}

fn outage(text: &str) -> Result<Outage, String> {
    match text {
        "refuse" => Ok(Outage::Refuse),
        "reset" => Ok(Outage::Reset),
        _ => Err(format!("{text:?} is no kind of outage: refuse or reset")),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl ApiArgs {
    fn spec(&self) -> FaultSpec {
        let seconds = self.retry_after.map(|after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX));
        let with = |after: bool| {
            move |&(status, rate): &(u16, f64)| ErrorRate {
                status,
                rate,
                after,
                retry_after_seconds: seconds,
            }
        };
        FaultSpec {
            latency_ms: self.latency.map_or(0, millis),
            jitter_ms: self.jitter.map_or(0, millis),
            errors: self
                .errors
                .iter()
                .map(with(false))
                .chain(self.errors_after.iter().map(with(true)))
                .collect(),
            watch_drop_rate: self.drop_watches.unwrap_or(0.0),
            watch_expire_rate: self.expire_watches.unwrap_or(0.0),
            watch_stall: self.stall_watches,
            expire_watches: self.expire_watches == Some(0.0),
            outage: self.outage.unwrap_or_default(),
            seed: self.seed,
            duration_ms: self.duration.map(millis),
            target: Selection {
                users: self.users.clone(),
                verbs: self.verbs.clone(),
                resources: self.resources.clone(),
            },
        }
    }
}

/// Sets the API server's faults.
///
/// # Errors
/// Where none is named, or they cannot be.
pub async fn set(context: &Context, local: &Local, args: &ApiArgs) -> Result<()> {
    let spec = args.spec();
    if spec.is_empty() {
        return Err(CliError::usage("no fault is named: what is to be broken?")
            .hint("one of --latency, --jitter, --error, --error-after, --drop-watches, --stall-watches, --expire-watches, --outage")
            .hint("to end faults: dbctl sandbox fault clear api"));
    }
    let told = local.send("PUT", FAULTS, Some(&serde_json::json!(spec))).await?;
    context.ui.data(show::table(&told, &[]).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ApiArgs,
    }

    #[test]
    fn flags_fill_what_the_api_server_reads() {
        for (line, expected) in [
            ("--latency 200ms --jitter 50ms", json!({"latencyMs": 200, "jitterMs": 50})),
            (
                "--error 409=10% --error-after 500=2.5% --retry-after 3s",
                json!({"errors": [
                    {"status": 409, "rate": 0.1, "retryAfterSeconds": 3},
                    {"status": 500, "rate": 0.025, "after": true, "retryAfterSeconds": 3},
                ]}),
            ),
            ("--drop-watches 5% --stall-watches", json!({"watchDropRate": 0.05, "watchStall": true})),
            ("--expire-watches", json!({"expireWatches": true})),
            ("--expire-watches=1%", json!({"watchExpireRate": 0.01})),
            ("--outage --for 30s --seed 7", json!({"outage": "refuse", "durationMs": 30000, "seed": 7})),
            (
                "--outage=reset --user a --verb get,list --resource pods",
                json!({"outage": "reset", "for": {"users": ["a"], "verbs": ["get", "list"], "resources": ["pods"]}}),
            ),
        ] {
            let args = Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).unwrap().args;
            assert_eq!(json!(args.spec()), expected, "{line}");
            assert!(!args.spec().is_empty(), "{line}");
        }
        assert!(Line::try_parse_from(["x", "--for", "1s", "--verb", "get"]).unwrap().args.spec().is_empty());
    }

    #[test]
    fn bad_values_are_answered_with_the_good_ones() {
        for (line, says) in [
            ("--error 500", "STATUS=RATE"),
            ("--error 418=10%", "409, 429, 500, 503, 504"),
            ("--error 500=0.1", "from 0% to 100%"),
            ("--drop-watches 101%", "from 0% to 100%"),
            ("--drop-watches=-1%", "from 0% to 100%"),
            ("--outage=sometimes", "refuse or reset"),
            ("--latency soon", "--latency"),
            ("--verb eat", "deletecollection"),
        ] {
            let error = Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).err().unwrap();
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }
}
