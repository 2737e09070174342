//! The edge: reads a Job's pods from the server, carries a plan out.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::core::Selector;
use kube::runtime::events::EventType;

use super::plan::{self, INDEX, Plan, TRACKING};
use crate::sandbox::controllers::cache::Change;
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, absent_is_fine};
use crate::sandbox::controllers::meta::{
    Key, controller_of, controller_reference, has_finalizer, is_controlled_by, is_deleting, name, namespace,
    reference, uid,
};
use crate::sandbox::controllers::queue::{Outcome, Queue};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::write;

/// Starts the controller.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.jobs, &queue, |change| change.latest().map(|job| Key::of(&**job)));
    feed(&context.caches.pods, &queue, |change: &Change<Pod>| {
        let pod = change.latest();
        pod.and_then(|pod| {
            let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
            Some(Key::new(namespace(&pod.metadata), &owner.name))
        })
    });
    tasks.controller("job", requests, 4, |context, key| async move { reconcile(&context, &key).await });
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let api = context.api::<Job>(&key.namespace);
    if context.caches.jobs.get(key).is_none() {
        return release_orphans(context, key).await;
    }
    // Pods have names of chance: a stale view would make one too many, so the server itself is asked.
    let Some(job) = api.get_opt(&key.name).await? else { return release_orphans(context, key).await };
    if job
        .spec
        .as_ref()
        .is_some_and(|spec| spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller"))
    {
        return Ok(None);
    }
    let pods = pods_of(context, &job).await?;
    if is_deleting(&job.metadata) {
        release(context, &pods, &names(&pods)).await?;
        return Ok(None);
    }
    let plan = plan::plan(&job, &pods, Timestamp::now());
    if plan.expired {
        let uid = job.metadata.uid.clone();
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::foreground() };
        absent_is_fine(api.delete(&key.name, &params).await)?;
        return Ok(None);
    }
    carry_out(context, &job, &pods, plan).await
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(|pod| name(&pod.metadata).to_owned()).collect()
}

async fn pods_of(context: &Context, job: &Job) -> Result<Vec<Pod>, ReconcileError> {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let params = match Selector::try_from(selector) {
        Ok(selector) => ListParams::default().labels_from(&selector),
        Err(error) => {
            let what = "the job's selector".to_owned();
            return Err(ReconcileError::Malformed { what, reason: error.to_string() });
        }
    };
    let pods = context.api::<Pod>(namespace(&job.metadata)).list(&params).await?;
    let own = pods.items.into_iter().filter(|pod| is_controlled_by(&pod.metadata, uid(&job.metadata)));
    Ok(own.collect())
}

async fn carry_out(context: &Context, job: &Job, pods: &[Pod], plan: Plan) -> Outcome {
    let space = namespace(&job.metadata);
    let api = context.api::<Job>(space);
    let mut status = plan.status.clone();
    if !plan.release.is_empty() && plan::finished(job.status.as_ref()).is_none() {
        // Counted, but not let go yet: should this pass end here, the next one does not count them again.
        let released = pods.iter().filter(|pod| plan.release.iter().any(|each| each == name(&pod.metadata)));
        let uids = released.map(|pod| uid(&pod.metadata).to_owned()).collect();
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: Some(uids), failed: None });
    }
    // The counts rest on this very version of the Job.
    write_status(&api, job, &status).await?;
    release(context, pods, &plan.release).await?;
    if status != plan.status {
        // The release is done: forget it. A conflict only means that the next pass does so.
        let fresh =
            api.get_opt(name(&job.metadata)).await?.filter(|fresh| fresh.metadata.uid == job.metadata.uid);
        if let Some(fresh) = fresh {
            write_status(&api, &fresh, &plan.status).await?;
        }
    }
    let pods_api = context.api::<Pod>(space);
    for pod in pods.iter().filter(|pod| plan.delete.iter().any(|each| each == name(&pod.metadata))) {
        write::delete(&pods_api, pod).await?;
    }
    let made = plan.create.iter().map(|index| create(context, job, *index));
    join_all(made).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    tell(context, job, &plan).await;
    Ok(plan.recheck)
}

async fn write_status(
    api: &kube::Api<Job>,
    job: &Job,
    status: &k8s_openapi::api::batch::v1::JobStatus,
) -> Result<(), ReconcileError> {
    if job.status.as_ref() != Some(status) {
        let mut new = job.clone();
        new.status = Some(status.clone());
        api.replace_status(name(&job.metadata), &PostParams::default(), &new).await?;
    }
    Ok(())
}

async fn tell(context: &Context, job: &Job, plan: &Plan) {
    if plan::finished(job.status.as_ref()).is_some() {
        return;
    }
    let Some(over) = plan::finished(Some(&plan.status)) else { return };
    let (kind, reason, note) = if over.type_ == "Complete" {
        (EventType::Normal, "Completed".to_owned(), "Job completed".to_owned())
    } else {
        (
            EventType::Warning,
            over.reason.clone().unwrap_or_default(),
            over.message.clone().unwrap_or_default(),
        )
    };
    context.event(&reference(job), kind, &reason, "Finish", note).await;
}

async fn create(context: &Context, job: &Job, index: Option<i32>) -> Result<(), ReconcileError> {
    let api = context.api::<Pod>(namespace(&job.metadata));
    let made = api.create(&PostParams::default(), &build(job, index)).await?;
    let note = format!("Created pod: {}", name(&made.metadata));
    context.event(&reference(job), EventType::Normal, "SuccessfulCreate", "Create", note).await;
    Ok(())
}

fn build(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    let mut finalizers = from.finalizers.unwrap_or_default();
    finalizers.push(TRACKING.to_owned());
    let (mut labels, mut annotations) =
        (from.labels.unwrap_or_default(), from.annotations.unwrap_or_default());
    // The server writes these into the template when the Job is made; a template of before that lacks them.
    let (job_name, job_uid) = (name(&job.metadata).to_owned(), uid(&job.metadata).to_owned());
    for (label, value) in [
        ("batch.kubernetes.io/job-name", &job_name),
        ("job-name", &job_name),
        ("batch.kubernetes.io/controller-uid", &job_uid),
        ("controller-uid", &job_uid),
    ] {
        labels.entry(label.to_owned()).or_insert_with(|| value.clone());
    }
    let mut spec = template.spec.unwrap_or_default();
    let mut prefix = job_name;
    if let Some(index) = index {
        labels.insert(INDEX.to_owned(), index.to_string());
        annotations.insert(INDEX.to_owned(), index.to_string());
        spec.hostname.get_or_insert_with(|| format!("{prefix}-{index}"));
        tell_index(&mut spec);
        prefix = format!("{prefix}-{index}");
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: job.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            finalizers: Some(finalizers),
            owner_references: Some(vec![controller_reference(job)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// Tells every container its pod's number.
fn tell_index(spec: &mut PodSpec) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        let variables = container.env.get_or_insert_default();
        if variables.iter().any(|variable| variable.name == VARIABLE) {
            continue;
        }
        let field_path = format!("metadata.labels['{INDEX}']");
        let field_ref = ObjectFieldSelector { field_path, ..Default::default() };
        variables.push(EnvVar {
            name: VARIABLE.to_owned(),
            value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..Default::default() }),
            ..Default::default()
        });
    }
}

async fn release(context: &Context, pods: &[Pod], wanted: &[String]) -> Result<(), ReconcileError> {
    for pod in pods.iter().filter(|pod| wanted.iter().any(|each| each == name(&pod.metadata))) {
        if has_finalizer(&pod.metadata, TRACKING) {
            let api = context.api::<Pod>(namespace(&pod.metadata));
            write::merge(&api, pod, write::without_finalizer(pod, TRACKING)).await?;
        }
    }
    Ok(())
}

/// Lets go of pods whose Job has gone: nobody will count them.
async fn release_orphans(context: &Context, key: &Key) -> Outcome {
    let cached = context.caches.pods.in_namespace(&key.namespace);
    let own = cached.iter().filter(|pod| {
        controller_of(&pod.metadata).is_some_and(|owner| owner.kind == "Job" && owner.name == key.name)
    });
    let pods: Vec<Pod> = own.map(|pod| (**pod).clone()).collect();
    if !pods.is_empty() && context.api::<Job>(&key.namespace).get_opt(&key.name).await?.is_none() {
        release(context, &pods, &names(&pods)).await?;
    }
    Ok(None)
}
