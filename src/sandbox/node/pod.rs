//! The life of one pod on this node: volumes, init containers, containers; its status; its deletion.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::container::{Role, Runner, Surroundings, stopped};
use super::context::Context;
use super::env::Scope;
use super::events::Kind as EventKind;
use super::faults;
use super::frontier::Frontier;
use super::run::{Place, Run, Stop};
use super::sources::{Contents, Sources, references};
use super::status::{Facts, compose, is_sidecar, waiting};
use super::token;
use super::volumes::{self, Kind};

/// How soon a request that failed is made again.
const RETRY: Duration = Duration::from_secs(1);
/// A node that is told to stop gives its pods no longer than this.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);

/// Whether a pod has come to its end and is not to be run again.
pub(super) fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Runs a pod until its object is gone, or the node stops. `updates` holds the object, and nothing once it is gone.
pub(super) async fn work(
    context: Arc<Context>,
    mut updates: watch::Receiver<Option<Arc<Pod>>>,
    node_stops: CancellationToken,
) {
    let Some(pod) = updates.borrow_and_update().clone() else { return };
    let host = context.config.address.ip().to_string();
    let logs = context.config.home.state().join("logs");
    let address = if finished(&pod) { None } else { context.hold_address(&pod) };
    let address = address.map(|address| address.to_string());
    let run = Arc::new(Run::new(Arc::clone(&pod), logs, host, address));
    context.enter(&run);
    if finished(&pod) {
        wait_for_deletion(&mut updates, &node_stops).await;
    } else {
        if context.network.api().is_none() {
            // Each has a way of its own to the API server, which can be cut.
            let frontier = Frontier::of_pod(&context.config.access.server).await;
            run.frontier.get_or_init(|| frontier);
        }
        live(&context, &run, &mut updates, &node_stops).await;
        faults::end(&context, &run).await;
        disconnect(&context, &run).await;
    }
    if node_stops.is_cancelled() {
        return; // The pod is taken again when the node comes back.
    }
    let last = updates.borrow().clone();
    if let Some(pod) = last {
        remove(&context, &pod).await;
        let _ = updates.wait_for(Option::is_none).await;
    }
    clean_up(&context, &run);
}

/// Takes the pod's network and its control group away, once nothing of it runs.
async fn disconnect(context: &Context, run: &Run) {
    if let Err(error) = context.network.detach(&run.uid).await {
        tracing::warn!("failed to {error}");
    }
    let Ok(cgroups) = &context.cgroups else { return };
    let group = cgroups.of_pod(&run.uid);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || group.destroy()).await {
        tracing::warn!(%error, "failed to remove the control group of pod {}", run.name);
    }
}

/// Resolves once the pod is being deleted, or is gone already.
async fn wait_for_deletion(updates: &mut watch::Receiver<Option<Arc<Pod>>>, node_stops: &CancellationToken) {
    let deleted =
        |pod: &Option<Arc<Pod>>| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    tokio::select! {
        _ = updates.wait_for(deleted) => {}
        () = node_stops.cancelled() => {}
    }
}

/// From the first volume to the last process, with the status written along the way.
async fn live(
    context: &Arc<Context>,
    run: &Arc<Run>,
    updates: &mut watch::Receiver<Option<Arc<Pod>>>,
    node_stops: &CancellationToken,
) {
    let mut life = JoinSet::new();
    life.spawn(lifecycle(Arc::clone(context), Arc::clone(run)));
    let mut reports = JoinSet::new();
    let lived = CancellationToken::new();
    reports.spawn(report(Arc::clone(context), Arc::clone(run), lived.clone()));
    let mut stopping = false;
    let deadline = active_deadline(run);
    while !life.is_empty() {
        // Deletion may have been asked for before this pod came here.
        obey(run, updates.borrow_and_update().as_ref());
        tokio::select! {
            _ = life.join_next() => {}
            Ok(()) = updates.changed() => {}
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)),
                if deadline.is_some() && *run.stop.borrow() == Stop::No =>
            {
                let message = "Pod was active on the node longer than the specified deadline";
                context.events.say(&run.pod(), None, EventKind::Normal, "DeadlineExceeded", message.to_owned());
                run.facts.send_modify(|facts| facts.failure = Some(("DeadlineExceeded", message)));
                end_by(run, Instant::now() + grace(&run.pod()));
            }
            () = node_stops.cancelled(), if !stopping => {
                stopping = true;
                // What happens now is not the pod's doing, and nobody is to act on it.
                reports.abort_all();
                let grace = grace(&run.pod()).min(SHUTDOWN_GRACE);
                end_by(run, Instant::now() + grace);
            }
        }
    }
    // Not broken off: a write under way might take effect after the last one, which follows.
    lived.cancel();
    while reports.join_next().await.is_some() {}
    if node_stops.is_cancelled() {
        return;
    }
    run.facts.send_modify(|facts| {
        facts.over = *run.stop.borrow() != Stop::No;
        for status in facts.main.iter_mut() {
            status.ready = false;
        }
    });
    while updates.borrow_and_update().is_some() && write_status(context, run).await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
    if *run.stop.borrow() == Stop::No || run.facts.borrow().failure.is_some() {
        wait_for_deletion(updates, node_stops).await;
    }
}

/// When the pod has been active for as long as it may.
fn active_deadline(run: &Run) -> Option<Instant> {
    let seconds = run.pod().spec.as_ref()?.active_deadline_seconds?;
    let active = Timestamp::now().as_millisecond() - run.facts.borrow().started.as_millisecond();
    let left = seconds.saturating_mul(1000).saturating_sub(active);
    Some(Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

fn grace(pod: &Pod) -> Duration {
    let own = pod.metadata.deletion_grace_period_seconds;
    let general = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(own.or(general).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30))
}

/// Orders only ever become stricter.
fn end_by(run: &Run, deadline: Instant) {
    run.stop.send_if_modified(|stop| {
        let stricter = match *stop {
            Stop::No => true,
            Stop::By(before) => deadline < before,
            Stop::Now => false,
        };
        if stricter {
            *stop = Stop::By(deadline);
        }
        stricter
    });
}

/// Takes over what the API server says of the pod.
fn obey(run: &Run, pod: Option<&Arc<Pod>>) {
    let Some(pod) = pod else {
        // Deleted by force: a successor may come at any moment.
        run.stop.send_if_modified(|stop| std::mem::replace(stop, Stop::Now) != Stop::Now);
        return;
    };
    run.pod.send_if_modified(|known| {
        let newer = known.metadata.resource_version != pod.metadata.resource_version;
        *known = Arc::clone(pod);
        newer
    });
    if let Some(deadline) = &pod.metadata.deletion_timestamp {
        let left = deadline.0.as_millisecond() - Timestamp::now().as_millisecond();
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        end_by(run, Instant::now() + left.min(grace(pod)));
    }
}

/// Everything that runs for a pod. When it returns, nothing of it runs any more.
async fn lifecycle(context: Arc<Context>, run: Arc<Run>) {
    let pod = run.pod();
    let mut stop = run.stop.subscribe();
    let Some(mut ground) = prepare(&context, &run, &mut stop).await else { return };
    let mut keeping = JoinSet::new();
    keeping.spawn(refresh(Arc::clone(&context), Arc::clone(&run), ground.clone_for_refresh()));
    let spec = pod.spec.clone().unwrap_or_default();
    let runner = |container: &Container, role: Role, stop: watch::Receiver<Stop>| Runner {
        context: Arc::clone(&context),
        run: Arc::clone(&run),
        surroundings: ground.surroundings.clone(),
        container: Arc::new(container.clone()),
        role,
        stop,
    };
    if spec.init_containers.is_some() {
        for container in &spec.containers {
            run.change(&container.name, |status| status.state = Some(waiting("PodInitializing", None)));
        }
    }
    let containers = async {
        let mut sidecars = Vec::new();
        let mut initialized = true;
        for container in spec.init_containers.iter().flatten() {
            initialized = *stop.borrow() == Stop::No;
            if initialized && is_sidecar(container) {
                let (order, told) = watch::channel(Stop::No);
                let life = tokio::spawn(runner(container, Role::Sidecar, told).live());
                sidecars.push((order, AbortOnDropHandle::new(life)));
                initialized = has_started(&run, &container.name, &mut stop).await;
            } else if initialized {
                initialized = runner(container, Role::Init, run.stop.subscribe()).live().await == Some(0);
            }
            if !initialized {
                break;
            }
        }
        let mut running = JoinSet::new();
        for container in spec.containers.iter().filter(|_| initialized) {
            running.spawn(runner(container, Role::Main, run.stop.subscribe()).live());
        }
        while running.join_next().await.is_some() {}
        end_sidecars(&run, sidecars).await;
    };
    containers.await;
    unmount(&context, &run).await;
    ground.locks.clear();
}

/// Resolves once a sidecar has started, or the pod is to end; whether it has.
async fn has_started(run: &Run, name: &str, stop: &mut watch::Receiver<Stop>) -> bool {
    let mut facts = run.facts.subscribe();
    let started =
        |facts: &Facts| facts.init.iter().any(|status| status.name == name && status.started == Some(true));
    tokio::select! {
        facts = facts.wait_for(started) => facts.is_ok(),
        () = stopped(stop) => false,
    }
}

/// Ends the sidecars, the last one first.
async fn end_sidecars(run: &Run, sidecars: Vec<(watch::Sender<Stop>, AbortOnDropHandle<Option<i32>>)>) {
    let mut stop = run.stop.subscribe();
    let deadline = Instant::now() + grace(&run.pod());
    for (order, mut life) in sidecars.into_iter().rev() {
        loop {
            order.send_replace(match *stop.borrow_and_update() {
                Stop::No => Stop::By(deadline),
                given => given,
            });
            tokio::select! {
                _ = &mut life => break,
                Ok(()) = stop.changed() => {}
            }
        }
    }
}

/// Unmounts the pod's volumes, if they are mounted, while nobody else can want them.
async fn unmount(context: &Context, run: &Run) {
    let Some(bounds) = &context.bounds else { return };
    // What fills them would keep them busy.
    faults::end(context, run).await;
    for handle in run.volumes().into_values().filter_map(|place| place.handle) {
        let (bounds, of) = (bounds.clone(), handle.clone());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || bounds.unmount(&of)).await {
            tracing::warn!("failed to {error}");
        }
    }
}

/// What a pod stands on while it runs.
struct Ground {
    surroundings: Surroundings,
    token: Option<token::Token>,
    sources: Arc<Sources>,
    locks: Vec<OwnedMutexGuard<()>>,
}

impl Ground {
    /// Without the locks, which end with the containers.
    fn clone_for_refresh(&self) -> Ground {
        Ground {
            surroundings: self.surroundings.clone(),
            token: self.token.clone(),
            sources: Arc::clone(&self.sources),
            locks: Vec::new(),
        }
    }
}

/// Makes the pod's directories and volumes, waiting for what it refers to; nothing when it is to end.
async fn prepare(context: &Arc<Context>, run: &Arc<Run>, stop: &mut watch::Receiver<Stop>) -> Option<Ground> {
    let mut said = String::new();
    let pod = run.pod();
    let sources = Sources::watch(&context.client, &run.namespace, references(&pod));
    let mut contents = sources.contents.clone();
    let wanted = references(&pod);
    let mut token = None;
    loop {
        let known = contents.borrow_and_update().clone();
        let complete = wanted.iter().all(|reference| known.contains_key(reference));
        let attempt = async {
            if token.is_none()
                && let Some(account) = token::account(&pod)
            {
                let request = token::request(&context.client, &pod, account).await;
                token =
                    Some(request.map_err(|error| format!("token of service account {account:?}: {error}"))?);
            }
            let text = token.as_ref().map(|token: &token::Token| token.text.as_str());
            lay(context, run, &known, text).await
        };
        let problem = if complete {
            match attempt.await {
                Ok((directories, locks)) => {
                    let surroundings = surroundings(context, run, directories, &contents, token.is_some())?;
                    return Some(Ground { surroundings, token, sources: Arc::new(sources), locks });
                }
                Err(problem) => Some(problem),
            }
        } else {
            None
        };
        if let Some(problem) = problem.filter(|problem| *problem != said) {
            let message = format!("MountVolume.SetUp failed: {problem}");
            context.events.say(&run.pod(), None, EventKind::Warning, "FailedMount", message);
            said = problem;
        }
        tokio::select! {
            () = stopped(stop) => return None,
            Ok(()) = contents.changed() => {}
            () = tokio::time::sleep(RETRY), if complete => {}
        }
    }
}

fn surroundings(
    context: &Context,
    run: &Run,
    directories: BTreeMap<String, PathBuf>,
    contents: &watch::Receiver<Contents>,
    has_token: bool,
) -> Option<Surroundings> {
    let directory = context.pod_directory(&run.uid);
    Some(Surroundings {
        directories: Arc::new(directories),
        contents: contents.clone(),
        kubeconfig: has_token.then(|| kubeconfig_file(&directory)),
        address: run.facts.borrow().address.clone()?,
        home: directory.join("home"),
    })
}

fn kubeconfig_file(pod_directory: &Path) -> PathBuf {
    pod_directory.join("serviceaccount").join("kubeconfig")
}

type Laid = (BTreeMap<String, PathBuf>, Vec<OwnedMutexGuard<()>>);

/// Makes all directories and files of a pod, or says what is missing.
async fn lay(context: &Context, run: &Run, contents: &Contents, token: Option<&str>) -> Result<Laid, String> {
    let pod = run.pod();
    let directory = context.pod_directory(&run.uid);
    if run.facts.borrow().address.is_none() {
        return Err("no address is free for the pod".to_owned());
    }
    let address = run.facts.borrow().address.as_ref().and_then(|address| address.parse().ok());
    if let Some(address) = address {
        context.network.attach(&run.uid, address).await.map_err(|error| format!("failed to {error}"))?;
    }
    make(&directory, 0o700, context)?;
    make(&directory.join("home"), 0o700, context)?;
    if let Some(token) = token {
        write_credentials(context, run, token)?;
    }
    let mut directories = BTreeMap::new();
    let mut locks = Vec::new();
    let mut writable = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let kind = with_scope(context, run, contents, |scope| volumes::kind(volume, scope, token))?;
        let mut own = None;
        let place = match kind {
            Kind::Scratch => {
                own = Some(None);
                context.scratch(&run.uid).join(&volume.name)
            }
            Kind::Files(files) => {
                let place = directory.join("volumes").join(&volume.name);
                volumes::write_files(&place, &files, &context.identity)
                    .map_err(|error| format!("write {}: {error}", place.display()))?;
                place
            }
            Kind::Persistent(handle) => {
                locks.push(context.lock_volume(&handle).await);
                mount(context, &handle).await?;
                own = Some(Some(handle.clone()));
                context.volume(&handle)
            }
            Kind::Host(path) => path,
        };
        make(&place, 0o700, context)?;
        if let Some(handle) = own {
            writable.insert(volume.name.clone(), Place { directory: place.clone(), handle });
        }
        directories.insert(volume.name.clone(), place);
    }
    run.set_volumes(writable);
    Ok((directories, locks))
}

async fn mount(context: &Context, handle: &str) -> Result<(), String> {
    let Some(bounds) = context.bounds.clone() else { return Ok(()) };
    let handle = handle.to_owned();
    let mounted = tokio::task::spawn_blocking(move || bounds.mount(&handle)).await;
    mounted.map_err(|error| error.to_string())?.map_err(|error| format!("failed to {error}"))
}

fn make(directory: &Path, mode: u32, context: &Context) -> Result<(), String> {
    volumes::make_directory(directory, mode, &context.identity)
        .map_err(|error| format!("create {}: {error}", directory.display()))
}

fn with_scope<T>(context: &Context, run: &Run, contents: &Contents, then: impl FnOnce(&Scope<'_>) -> T) -> T {
    let pod = run.pod();
    let address = run.facts.borrow().address.clone().unwrap_or_default();
    let host = context.config.address.ip().to_string();
    then(&Scope { pod: &pod, address: &address, host: &host, capacity: context.capacity, contents })
}

fn write_credentials(context: &Context, run: &Run, token: &str) -> Result<(), String> {
    let file = kubeconfig_file(&context.pod_directory(&run.uid));
    let directory = file.parent().unwrap_or(&file);
    make(directory, 0o700, context)?;
    let authority = directory.join("ca.crt");
    let mut access = context.config.access.clone();
    if let Some(Ok(frontier)) = run.frontier.get() {
        access.server.clone_from(&frontier.server);
    }
    let config = token::kubeconfig(&access, &authority, &run.namespace, token);
    let put = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
        let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
        std::io::Write::write_all(&mut fresh, bytes)?;
        context.identity.own(fresh.path())?;
        fresh.persist(directory.join(name)).map(drop).map_err(|error| error.error)
    };
    // As in a cluster's mount.
    put("ca.crt", access.authority.as_deref().unwrap_or_default().as_bytes())
        .and_then(|()| put("kubeconfig", &config))
        .and_then(|()| put("token", token.as_bytes()))
        .and_then(|()| put("namespace", run.namespace.as_bytes()))
        .map_err(|error| format!("write {}: {error}", file.display()))
}

/// Keeps the files of volumes and the token up to date.
async fn refresh(context: Arc<Context>, run: Arc<Run>, mut ground: Ground) {
    let mut contents = ground.sources.contents.clone();
    let mut pods = run.pod.subscribe();
    loop {
        let due = ground.token.as_ref().map(|token| token.refresh_in);
        let renew = async {
            match due {
                Some(due) => tokio::time::sleep(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = contents.changed() => {}
            Ok(()) = pods.changed() => {}
            () = renew => renew_token(&context, &run, &mut ground).await,
        }
        let known = contents.borrow_and_update().clone();
        let token = ground.token.as_ref().map(|token| token.text.as_str());
        for volume in run.pod().spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            // An object that is gone leaves its files, as kubelets have it.
            let kind = with_scope(&context, &run, &known, |scope| volumes::kind(volume, scope, token));
            if let (Ok(Kind::Files(files)), Some(place)) =
                (kind, ground.surroundings.directories.get(&volume.name))
                && let Err(error) = volumes::write_files(place, &files, &context.identity)
            {
                tracing::warn!(%error, volume = volume.name, "failed to refresh a volume");
            }
        }
    }
}

async fn renew_token(context: &Context, run: &Run, ground: &mut Ground) {
    let pod = run.pod();
    let Some(account) = token::account(&pod) else { return };
    match token::request(&context.client, &pod, account).await {
        Ok(token) => {
            if let Err(problem) = write_credentials(context, run, &token.text) {
                tracing::warn!("failed to {problem}");
            }
            ground.token = Some(token);
        }
        Err(error) => {
            tracing::warn!(%error, "failed to renew the token of service account {account}");
            if let Some(token) = &mut ground.token {
                token.refresh_in = Duration::from_secs(60);
            }
        }
    }
}

/// Writes the status whenever it changes, until the pod has lived.
async fn report(context: Arc<Context>, run: Arc<Run>, lived: CancellationToken) {
    let mut facts = run.facts.subscribe();
    let mut pods = run.pod.subscribe();
    loop {
        facts.borrow_and_update();
        pods.borrow_and_update();
        if let Err(error) = write_status(&context, &run).await {
            tracing::debug!(%error, pod = run.name, "a status is written again later");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => continue,
                () = lived.cancelled() => return,
            }
        }
        // Others write statuses too: the readiness gates, and that the pod is not ready when the node was not heard of for a
        // while. What the node knows is written over it.
        tokio::select! {
            () = lived.cancelled() => return,
            changed = facts.changed() => if changed.is_err() { return },
            Ok(()) = pods.changed() => {}
        }
    }
}

async fn write_status(context: &Context, run: &Run) -> Result<(), kube::Error> {
    let pod = run.pod();
    let facts = run.facts.borrow().clone();
    let wanted = compose(&pod, &facts, Timestamp::now());
    if pod.status.as_ref().is_some_and(|status| super::status::covers(status, &wanted)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": run.uid}, "status": super::status::patch(&wanted)});
    let api = Api::<Pod>::namespaced(context.client.clone(), &run.namespace);
    match api.patch_status(&run.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(updated) => {
            // The watch brings it too, but not before the next comparison perhaps.
            run.pod.send_if_modified(|known| {
                let newer = version(&updated) > version(known);
                if newer {
                    *known = Arc::new(updated);
                }
                newer
            });
            Ok(())
        }
        // Gone, or replaced by another of that name: nothing is left to write to.
        Err(error) if has_gone(&api, &run.name, Some(&run.uid), &error).await => Ok(()),
        Err(error) => Err(error),
    }
}

fn version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_ref()?.parse().ok()
}

/// Whether a refused write means that the very pod is there no more. A conflict alone does not: it may be about anything,
/// and a status given up then would stay wrong until the pod's next change.
async fn has_gone(api: &Api<Pod>, name: &str, uid: Option<&str>, error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) if status.code == 404 => true,
        kube::Error::Api(status) if status.code == 409 => {
            api.get_opt(name).await.is_ok_and(|found| found.and_then(|pod| pod.uid()).as_deref() != uid)
        }
        _ => false,
    }
}

/// Tells the API server that nothing of the pod is left.
async fn remove(context: &Context, pod: &Pod) {
    let namespace = pod.namespace().unwrap_or_default();
    let api = Api::<Pod>::namespaced(context.client.clone(), &namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        match api.delete(&pod.name_any(), &params).await {
            Ok(_) => return,
            Err(error) if has_gone(&api, &pod.name_any(), pod.uid().as_deref(), &error).await => return,
            Err(error) => tracing::warn!(%error, "failed to delete pod {}", pod.name_any()),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn clean_up(context: &Context, run: &Run) {
    context.leave(run);
    context.release_address(&run.uid);
    for directory in [context.pod_directory(&run.uid), context.scratch(&run.uid), run.logs.clone()] {
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "failed to remove {}", directory.display());
        }
    }
}
