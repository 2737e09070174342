//! The probes of one running container.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::mpsc;

use super::check::Target;
use super::container::Runner;
use super::events::Kind;
use super::probe::{Counter, Timing, Verdict};

/// A post-start hook has no limit of its own; this one is against hooks that never end.
const HOOK_TIMEOUT: Duration = Duration::from_secs(3600);

/// A container is to be killed because of its health.
#[derive(Debug)]
pub(super) struct Unhealthy {
    pub message: String,
    pub grace: Duration,
}

/// The post-start hook, then the start-up probe, then the two others; until it is dropped.
pub(super) async fn probe_all(runner: Runner, target: Target, unhealthy: mpsc::Sender<Unhealthy>) {
    let container = &target.container;
    let name = container.name.as_str();
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    if let Some(hook) = hook
        && let Err(message) = target.hook(&runner.context, hook, HOOK_TIMEOUT).await
    {
        runner.context.events.say(
            &runner.run.pod(),
            Some(name),
            Kind::Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {message}"),
        );
        let message = format!("Container {name} failed its post-start hook, will be restarted");
        let _ = unhealthy.send(Unhealthy { message, grace: grace(&runner, None) }).await;
        return;
    }
    if let Some(probe) = &container.startup_probe {
        let alive = follow(&runner, &target, "Startup", probe, |verdict| verdict == Verdict::Healthy).await;
        if alive == Verdict::Unhealthy {
            fail(&runner, "startup", probe, &unhealthy).await;
            return;
        }
        let ready = container.readiness_probe.is_none();
        runner.run.change(name, |status| (status.started, status.ready) = (Some(true), ready));
    }
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            follow(&runner, &target, "Readiness", probe, |verdict| {
                runner.run.change(name, |status| status.ready = verdict == Verdict::Healthy);
                false
            })
            .await;
        }
    };
    let liveness = async {
        if let Some(probe) = &container.liveness_probe {
            follow(&runner, &target, "Liveness", probe, |verdict| verdict == Verdict::Unhealthy).await;
            fail(&runner, "liveness", probe, &unhealthy).await;
        }
    };
    tokio::join!(readiness, liveness);
}

async fn fail(runner: &Runner, kind: &str, probe: &Probe, unhealthy: &mpsc::Sender<Unhealthy>) {
    let name = &runner.container.name;
    let message = format!("Container {name} failed {kind} probe, will be restarted");
    let _ = unhealthy.send(Unhealthy { message, grace: grace(runner, Some(probe)) }).await;
}

fn grace(runner: &Runner, probe: Option<&Probe>) -> Duration {
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    let pod = runner.run.pod();
    let general = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(own.or(general).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30))
}

/// Repeats a probe until `done` says so of a verdict, or, for a start-up probe, until it failed too often.
async fn follow(
    runner: &Runner,
    target: &Target,
    kind: &str,
    probe: &Probe,
    mut done: impl FnMut(Verdict) -> bool,
) -> Verdict {
    let timing = Timing::of(probe);
    let mut counter = Counter::new(timing);
    tokio::time::sleep(timing.delay).await;
    let mut ticks = tokio::time::interval(timing.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pods = runner.run.pod.subscribe();
    let mut waits = kind == "Readiness";
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // As kubelets have it: news of a pod that is not ready may be that it is.
            Ok(()) = pods.changed(), if waits => ticks.reset(),
        }
        let result = target.probe(&runner.context, probe, timing.timeout).await;
        if let Err(message) = &result {
            let message = format!("{kind} probe failed: {message}");
            let pod = runner.run.pod();
            runner.context.events.say(
                &pod,
                Some(&target.container.name),
                Kind::Warning,
                "Unhealthy",
                message,
            );
        }
        let Some(verdict) = counter.count(result.is_ok()) else { continue };
        waits = kind == "Readiness" && verdict == Verdict::Unhealthy;
        if done(verdict) || (kind == "Startup" && verdict == Verdict::Unhealthy) {
            return verdict;
        }
    }
}
