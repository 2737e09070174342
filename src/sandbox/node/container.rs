//! The life of one container: image, start, probes, end, and start again.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attach::Stdin;
use super::backoff::Backoff;
use super::cgroup::{Group, Limits};
use super::check::Target;
use super::context::Context;
use super::ending;
use super::env::{Scope, expand, variables};
use super::events::Kind;
use super::exec::{Live, pipe};
use super::faults;
use super::paths::Mounts;
use super::probing::{self, Unhealthy};
use super::process::{Exit, POD_MARK, Process, ProcessError};
use super::run::{Run, Stop};
use super::shim::{Enter, Order, Spec};
use super::sources::Contents;
use super::status::{restart_policy, waiting};
use super::volumes::mounts;
use crate::sandbox::provision::{Image, Silent};

/// How soon something that was missing is looked for again.
const CONFIG_RETRY: Duration = Duration::from_secs(2);
/// Variable of a container with the release whose programs its image has beside its own, as `16.15`.
const PREVIOUS: &str = "POSTGRES_PREVIOUS";
/// Variable that then says where they are.
const PREVIOUS_BIN: &str = "POSTGRES_PREVIOUS_BIN";
/// The exit code that runtimes give to a container which could not be started.
const START_ERROR: i32 = 128;
/// The exit code of what was killed, as it is for want of memory.
const OUT_OF_MEMORY: i32 = 137;

/// What the pod has ready for its containers.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// The host directory of each volume.
    pub directories: Arc<BTreeMap<String, PathBuf>>,
    pub contents: watch::Receiver<Contents>,
    pub kubeconfig: Option<PathBuf>,
    pub address: String,
    pub home: PathBuf,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    /// Done once it succeeds, whatever the policy.
    Init,
    /// Begins before the main containers and ends after them, and is always started again.
    Sidecar,
}

/// Runs one container of a pod.
#[derive(Clone)]
pub(super) struct Runner {
    pub context: Arc<Context>,
    pub run: Arc<Run>,
    pub surroundings: Surroundings,
    pub container: Arc<Container>,
    pub role: Role,
    /// When it is to end: with its pod, or for a sidecar after the pod's main containers.
    pub stop: watch::Receiver<Stop>,
}

/// How one start ended.
struct Ended {
    code: i32,
    ran: Duration,
}

impl Runner {
    /// Runs the container until it needs no further start; the last exit code, or nothing if it never started.
    pub async fn live(self) -> Option<i32> {
        let mut stop = self.stop.clone();
        let mut backoff = Backoff::default();
        loop {
            let image = self.pull(&mut stop).await?;
            let prepared = self.prepare(&image, &mut stop).await?;
            let ended = self.once(prepared, &mut stop).await;
            if *stop.borrow() != Stop::No || !self.restarts(ended.code) {
                return Some(ended.code);
            }
            let wait = backoff.next(ended.ran);
            if !wait.is_zero() {
                self.back_off(wait);
                if stopped_within(wait, &mut stop).await {
                    return Some(ended.code);
                }
            }
            self.run.change(self.name(), |status| {
                if let Some(state) = status.state.take_if(|state| state.terminated.is_some()) {
                    status.last_state = Some(state);
                    status.state = Some(waiting("ContainerCreating", None));
                }
                status.restart_count += 1;
            });
        }
    }

    fn name(&self) -> &str {
        &self.container.name
    }

    fn image(&self) -> &str {
        self.container.image.as_deref().unwrap_or_default()
    }

    fn say(&self, kind: Kind, reason: &'static str, message: String) {
        self.context.events.say(&self.run.pod(), Some(self.name()), kind, reason, message);
    }

    fn restarts(&self, code: i32) -> bool {
        match restart_policy(&self.run.pod()) {
            _ if self.role == Role::Sidecar => true,
            "Never" => false,
            "OnFailure" => code != 0,
            _ => self.role != Role::Init || code != 0,
        }
    }

    fn wait_for(&self, reason: &str, message: String) {
        self.run.change(self.name(), |status| {
            if let Some(state) = status.state.take_if(|state| state.terminated.is_some()) {
                status.last_state = Some(state);
            }
            status.state = Some(waiting(reason, Some(message)));
        });
    }

    fn back_off(&self, wait: Duration) {
        let about = format!("{}_{}({})", self.run.name, self.run.namespace, self.run.uid);
        let name = self.name();
        let message = format!("back-off {}s restarting failed container={name} pod={about}", wait.as_secs());
        self.wait_for("CrashLoopBackOff", message);
        self.say(
            Kind::Warning,
            "BackOff",
            format!("Back-off restarting failed container {name} in pod {about}"),
        );
    }

    /// The software of the image, waited for as long as it takes; nothing when the pod is to end.
    async fn pull(&self, stop: &mut watch::Receiver<Stop>) -> Option<Image> {
        if let Some(previous) = self.previous() {
            self.pull_one(previous, stop).await?;
        }
        self.pull_one(self.image().to_owned(), stop).await
    }

    /// An image of PostgreSQL has the programs of an earlier release beside its own. Here that is another build, which the
    /// container names.
    fn previous(&self) -> Option<String> {
        let wanted = self.container.env.iter().flatten().find(|variable| variable.name == PREVIOUS)?;
        let release = wanted.value.as_deref().filter(|release| !release.is_empty())?;
        let untied = self.image().split('@').next()?;
        Some(format!("{}:{release}", untied.rsplit_once(':')?.0))
    }

    async fn pull_one(&self, image: String, stop: &mut watch::Receiver<Stop>) -> Option<Image> {
        let mut backoff = Backoff::begun();
        let policy = self.container.image_pull_policy.as_deref();
        if policy == Some("Never") {
            return self.find(&image, stop).await;
        }
        if let Ok(Some(found)) = self.context.provisioner.cached(&image)
            && policy != Some("Always")
        {
            self.say(
                Kind::Normal,
                "Pulled",
                format!("Container image \"{image}\" already present on machine"),
            );
            return Some(found);
        }
        loop {
            self.say(Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
            let begun = Instant::now();
            let (provisioner, wanted) = (self.context.provisioner.clone(), image.clone());
            let pulled = tokio::task::spawn_blocking(move || {
                provisioner.ensure(&wanted, &Silent).map_err(|error| match error {
                    crate::sandbox::provision::ProvisionError::Image(_) => {
                        let tags = provisioner.available().unwrap_or_default().join(", ");
                        format!("failed to {error} (tags: {tags})")
                    }
                    error => format!("failed to {error}"),
                })
            });
            let pulled = tokio::select! {
                pulled = pulled => pulled.unwrap_or_else(|error| Err(error.to_string())),
                () = stopped(stop) => return None,
            };
            match pulled {
                Ok(found) => {
                    let took = begun.elapsed().as_secs_f32();
                    self.say(
                        Kind::Normal,
                        "Pulled",
                        format!("Successfully pulled image \"{image}\" in {took:.1}s"),
                    );
                    return Some(found);
                }
                Err(message) => {
                    self.say(Kind::Warning, "Failed", format!("Failed to pull image \"{image}\": {message}"));
                    self.wait_for("ErrImagePull", message.clone());
                    self.say(Kind::Warning, "Failed", "Error: ErrImagePull".to_owned());
                    let wait = backoff.next(Duration::ZERO);
                    // What it was that failed must be seen before that it is waited for.
                    if stopped_within(wait / 4, stop).await {
                        return None;
                    }
                    self.wait_for(
                        "ImagePullBackOff",
                        format!("Back-off pulling image \"{image}\": {message}"),
                    );
                    if stopped_within(wait - wait / 4, stop).await {
                        return None;
                    }
                }
            }
        }
    }

    /// The software of an image that must not be pulled, once it is there.
    async fn find(&self, image: &str, stop: &mut watch::Receiver<Stop>) -> Option<Image> {
        let mut backoff = Backoff::begun();
        loop {
            if let Ok(Some(found)) = self.context.provisioner.cached(image) {
                return Some(found);
            }
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            self.say(Kind::Warning, "ErrImageNeverPull", message.clone());
            self.wait_for("ErrImageNeverPull", message);
            if stopped_within(backoff.next(Duration::ZERO), stop).await {
                return None;
            }
        }
    }

    /// What to start, as soon as all that it refers to exists.
    async fn prepare(&self, image: &Image, stop: &mut watch::Receiver<Stop>) -> Option<Prepared> {
        let mut contents = self.surroundings.contents.clone();
        loop {
            let known = contents.borrow_and_update().clone();
            match self.specify(image, &known) {
                Ok(prepared) => return Some(prepared),
                Err(message) => {
                    self.say(Kind::Warning, "Failed", format!("Error: {message}"));
                    self.wait_for("CreateContainerConfigError", message);
                }
            }
            tokio::select! {
                () = stopped(stop) => return None,
                () = tokio::time::sleep(CONFIG_RETRY) => {}
                Ok(()) = contents.changed() => {}
            }
        }
    }

    fn specify(&self, image: &Image, contents: &Contents) -> Result<Prepared, String> {
        let pod = self.run.pod();
        let around = &self.surroundings;
        let config = &self.context.config;
        let host = config.address.ip().to_string();
        let scope = Scope {
            pod: &pod,
            address: &around.address,
            host: &host,
            capacity: self.context.capacity,
            contents,
        };
        let given = variables(&scope, &self.container)?;
        let mut mounts = mounts(&self.container, &around.directories, &given, &self.context.identity)?;
        let message = ending::message_file(&around.home, &self.container);
        ending::prepare(&message, &self.context.identity)?;
        mounts.add(ending::message_path(&self.container), message.clone());
        let lookup =
            |name: &str| given.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let words = self.container.command.iter().flatten().chain(self.container.args.iter().flatten());
        let command: Vec<String> = words.map(|word| mounts.translate(&expand(word, lookup))).collect();
        if command.is_empty() {
            return Err("no command specified".to_owned());
        }
        let mut env = self.base_environment(image);
        for (name, value) in &given {
            let value = mounts.translate(value);
            env.retain(|(other, _)| other != name);
            env.push((name.clone(), value));
        }
        let directory = match &self.container.working_dir {
            Some(path) => mounts.directory(path),
            None => around.home.clone(),
        };
        let ids = self.context.identity.ids;
        let spec = Spec { command, env, directory, ids, log: None, stdin: false, enter: Enter::default() };
        Ok(Prepared { spec, mounts: Arc::new(mounts), message })
    }

    /// What the image and the cluster would give.
    fn base_environment(&self, image: &Image) -> Vec<(String, String)> {
        let around = &self.surroundings;
        let mut path = image.programs();
        path.push(self.context.config.programs());
        path.extend(["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        let path = std::env::join_paths(path).unwrap_or_default();
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let mut env = vec![
            ("PATH".to_owned(), path.to_string_lossy().into_owned()),
            ("LD_LIBRARY_PATH".to_owned(), text(&image.libraries())),
            ("HOME".to_owned(), text(&around.home)),
            ("HOSTNAME".to_owned(), self.run.name.clone()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("LISTEN_ADDRESS".to_owned(), around.address.clone()),
            (POD_MARK.to_owned(), self.run.uid.clone()),
        ];
        env.extend(around.kubeconfig.iter().map(|file| ("KUBECONFIG".to_owned(), text(file))));
        let previous =
            self.previous().and_then(|image| self.context.provisioner.cached(&image).ok().flatten());
        env.extend(previous.map(|image| (PREVIOUS_BIN.to_owned(), text(&image.build.join("bin")))));
        env
    }

    /// Starts the container and stays with it until nothing of it is left.
    async fn once(&self, prepared: Prepared, stop: &mut watch::Receiver<Stop>) -> Ended {
        let id = ulid::Ulid::new().to_string().to_lowercase();
        let group = match self.group(&id).await {
            Ok(group) => group,
            Err(message) => return self.not_started(&id, &message),
        };
        self.run.set_group(self.name(), group.clone());
        let ended = self.once_in(prepared, &id, group.as_ref(), stop).await;
        self.run.set_group(self.name(), None);
        faults::ended(&self.context, &self.run, self.name());
        if let Some(group) = group
            && let Ok(Err(error)) = tokio::task::spawn_blocking(move || group.destroy()).await
        {
            tracing::warn!(%error, "failed to remove a container's control group");
        }
        ended
    }

    /// The control group for a start, where there are such groups.
    async fn group(&self, id: &str) -> Result<Option<Group>, String> {
        let limits = Limits::of(&self.container);
        let has = self.context.cgroups.as_ref().map(|cgroups| cgroups.controllers()).unwrap_or_default();
        let missing: Vec<_> = limits.controllers().into_iter().filter(|name| !has.contains(*name)).collect();
        if !missing.is_empty() {
            let why = self.context.cgroups.as_ref().err().map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("The limits of {} are not kept on this node{why}", missing.join(" and "));
            self.say(Kind::Warning, "LimitsNotKept", message);
        }
        let Ok(cgroups) = &self.context.cgroups else { return Ok(None) };
        let (cgroups, uid, id) = (cgroups.clone(), self.run.uid.clone(), id.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            cgroups.pod(&uid)?;
            cgroups.container(&uid, &id, &limits)
        });
        let group =
            made.await.map_err(|error| error.to_string())?.map_err(|error| format!("failed to {error}"))?;
        faults::begins(&self.run, &group).await;
        Ok(Some(group))
    }

    async fn once_in(
        &self,
        mut prepared: Prepared,
        id: &str,
        group: Option<&Group>,
        stop: &mut watch::Receiver<Stop>,
    ) -> Ended {
        let start = self.run.status(self.name()).map_or(0, |status| status.restart_count);
        let log = self.run.log(self.name(), start);
        if let Some(directory) = log.parent()
            && let Err(error) = std::fs::create_dir_all(directory)
        {
            return self.not_started(id, &format!("create {}: {error}", directory.display()));
        }
        prepared.spec.enter = Enter {
            groups: group.map(Group::directories).unwrap_or_default(),
            shims: self.context.cgroups.as_ref().map(|cgroups| cgroups.shims()).unwrap_or_default(),
            network: self.context.network.namespace(&self.run.uid),
        };
        let spec = Spec { log: Some(log.clone()), ..prepared.spec.clone() };
        let places = self.surroundings.directories.values().cloned().collect();
        let (stdin, files) = match self.standard_input() {
            Ok((stdin, file)) => (stdin, file.into_iter().collect()),
            Err(error) => {
                return self.not_started(id, &format!("failed to make its standard input: {error}"));
            }
        };
        let mut process = match self.context.launcher.start_with(id, spec, places, files).await {
            Ok(process) => process,
            Err(ProcessError::Start(message)) => return self.not_started(id, &message),
            Err(error) => return self.not_started(id, &format!("failed to {error}")),
        };
        group.cloned().into_iter().for_each(|group| process.guard(group));
        self.say(Kind::Normal, "Started", format!("Container started: {}", self.name()));
        let begun = Instant::now();
        let started = process.started;
        let gated = self.container.startup_probe.is_some();
        let ready = !gated && self.container.readiness_probe.is_none();
        self.run.change(self.name(), |status| {
            if let Some(state) = status.state.take_if(|state| state.terminated.is_some()) {
                status.last_state = Some(state);
            }
            let running = ContainerStateRunning { started_at: Some(Time(started)) };
            status.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
            status.container_id = Some(container_id(id));
            status.image_id = status.image.clone();
            status.started = Some(!gated);
            status.ready = ready;
        });
        let target = Target {
            run: Arc::clone(&self.run),
            container: Arc::clone(&self.container),
            address: self.surroundings.address.clone(),
            spec: Arc::new(prepared.spec),
            mounts: prepared.mounts,
        };
        let live = Live {
            door: process.door(),
            spec: Arc::clone(&target.spec),
            mounts: Arc::clone(&target.mounts),
            stdin,
        };
        self.run.set_live(self.name(), Some(live));
        let exit = self.stay(&mut process, &target, stop).await;
        self.run.set_live(self.name(), None);
        let message = ending::message(&self.container, &prepared.message, &log, exit.code);
        // As runtimes tell it: that the kernel killed something in there, and that the container ended so.
        let starved = exit.code == OUT_OF_MEMORY && group.is_some_and(|group| group.memory_kills() > 0);
        self.ended(id, Some(started), &exit, starved.then_some("OOMKilled"), message);
        Ended { code: exit.code, ran: begun.elapsed() }
    }

    /// The pipe for those who attach: this end of it, and the container's.
    fn standard_input(&self) -> std::io::Result<(Option<Stdin>, Option<OwnedFd>)> {
        if self.container.stdin != Some(true) {
            return Ok((None, None));
        }
        let (reader, writer) = pipe(self.context.identity.ids)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let once = self.container.stdin_once == Some(true);
        Ok((Some(Stdin::new(Sender::from_owned_fd_unchecked(writer)?, once)), Some(reader)))
    }

    /// Waits for the end, with the probes and the post-start hook going on meanwhile.
    async fn stay(&self, process: &mut Process, target: &Target, stop: &mut watch::Receiver<Stop>) -> Exit {
        let (unhealthy, mut verdicts) = mpsc::channel(1);
        // Dropped at the end, which ends the probes.
        let mut probes = JoinSet::new();
        probes.spawn(probing::probe_all(self.clone(), target.clone(), unhealthy));
        loop {
            let order = *stop.borrow_and_update();
            match order {
                Stop::Now => return process.kill().await,
                Stop::By(deadline) => {
                    self.say(Kind::Normal, "Killing", format!("Stopping container {}", self.name()));
                    return self.end(process, target, deadline, stop).await;
                }
                Stop::No => {}
            }
            tokio::select! {
                exit = process.wait() => return exit,
                Ok(()) = stop.changed() => {}
                Some(Unhealthy { message, grace }) = verdicts.recv() => {
                    self.say(Kind::Normal, "Killing", message);
                    self.run.change(self.name(), |status| status.ready = false);
                    return self.end(process, target, Instant::now() + grace, stop).await;
                }
            }
        }
    }

    /// The pre-stop hook, SIGTERM, and at the deadline SIGKILL.
    async fn end(
        &self,
        process: &mut Process,
        target: &Target,
        deadline: Instant,
        stop: &mut watch::Receiver<Stop>,
    ) -> Exit {
        let orders = process.orders();
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let ask = async {
            if let Some(hook) = hook {
                let left = deadline.saturating_duration_since(Instant::now());
                if let Err(message) = target.hook(&self.context, hook, left).await {
                    self.say(Kind::Warning, "FailedPreStopHook", format!("PreStopHook failed: {message}"));
                }
            }
            orders.give(Order::Terminate);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            exit = process.wait() => Some(exit),
            () = ask => None,
            () = tokio::time::sleep_until(deadline) => None,
            () = killed(stop) => None,
        };
        match ended {
            Some(exit) => exit,
            None => process.kill().await,
        }
    }

    fn not_started(&self, id: &str, message: &str) -> Ended {
        self.say(Kind::Warning, "Failed", format!("Error: failed to start container: {message}"));
        let exit = Exit { code: START_ERROR, signal: None, at: Timestamp::now(), output: String::new() };
        self.ended(id, None, &exit, Some("StartError"), Some(message.to_owned()));
        Ended { code: START_ERROR, ran: Duration::ZERO }
    }

    fn ended(
        &self,
        id: &str,
        started: Option<Timestamp>,
        exit: &Exit,
        reason: Option<&str>,
        message: Option<String>,
    ) {
        let usual = if exit.code == 0 { "Completed" } else { "Error" };
        let terminated = ContainerStateTerminated {
            container_id: Some(container_id(id)),
            exit_code: exit.code,
            reason: Some(reason.unwrap_or(usual).to_owned()),
            message,
            started_at: Some(Time(started.unwrap_or(exit.at))),
            finished_at: Some(Time(exit.at)),
            ..ContainerStateTerminated::default()
        };
        let done = self.role == Role::Init && exit.code == 0;
        self.run.change(self.name(), |status: &mut ContainerStatus| {
            status.state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
            status.container_id = Some(container_id(id));
            status.started = Some(false);
            status.ready = done;
        });
    }
}

struct Prepared {
    spec: Spec,
    mounts: Arc<Mounts>,
    message: PathBuf,
}

fn container_id(id: &str) -> String {
    format!("sandbox://{id}")
}

/// Resolves once the pod is to end.
pub(super) async fn stopped(stop: &mut watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

async fn killed(stop: &mut watch::Receiver<Stop>) {
    if stop.wait_for(|stop| *stop == Stop::Now).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits; whether the pod was told to end meanwhile.
async fn stopped_within(wait: Duration, stop: &mut watch::Receiver<Stop>) -> bool {
    tokio::time::timeout(wait, stopped(stop)).await.is_ok()
}
