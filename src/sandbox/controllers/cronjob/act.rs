//! The edge: makes and removes Jobs.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::events::EventType;

use super::plan::{plan, reference as job_reference};
use crate::sandbox::controllers::context::Context;
use crate::sandbox::controllers::error::{ReconcileError, absent_is_fine, is_there};
use crate::sandbox::controllers::meta::{
    Key, controller_of, is_controlled_by, name, namespace, reference, uid,
};
use crate::sandbox::controllers::queue::{Outcome, Queue};
use crate::sandbox::controllers::run::{Tasks, feed};
use crate::sandbox::controllers::write;

/// Starts the controller.
pub(in crate::sandbox::controllers) fn start(context: &Arc<Context>, tasks: &mut Tasks) {
    let (queue, requests) = Queue::new();
    feed(&context.caches.cronjobs, &queue, |change| change.new.as_ref().map(|cron| Key::of(&**cron)));
    feed(&context.caches.jobs, &queue, |change| {
        let job = change.latest();
        job.and_then(|job| {
            let owner = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob")?;
            Some(Key::new(namespace(&job.metadata), &owner.name))
        })
    });
    tasks.controller("cronjob", requests, 2, |context, key| async move { reconcile(&context, &key).await });
}

async fn reconcile(context: &Context, key: &Key) -> Outcome {
    if context.caches.cronjobs.get(key).is_none() {
        return Ok(None);
    }
    // The last time served is in the status: an old one would serve it again.
    let api = context.api::<CronJob>(&key.namespace);
    let Some(cron) = api.get_opt(&key.name).await? else { return Ok(None) };
    let jobs: Vec<Arc<Job>> = context
        .caches
        .jobs
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|job| is_controlled_by(&job.metadata, uid(&cron.metadata)))
        .collect();
    let mut plan = plan(&cron, &jobs, Timestamp::now());
    for job in &plan.delete {
        delete(context, job).await?;
    }
    if let Some(job) = &plan.create
        && let Some(made) = create(context, &cron, job).await?
    {
        plan.status.active.get_or_insert_default().push(job_reference(&made));
    }
    write::status(&api, &cron, cron.status.as_ref(), &plan.status).await?;
    if let Some((reason, note)) = plan.complaint {
        context.event(&reference(&cron), EventType::Warning, reason, "Schedule", note).await;
    }
    Ok(plan.recheck)
}

async fn delete(context: &Context, job: &Job) -> Result<(), ReconcileError> {
    let preconditions = Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    let api = context.api::<Job>(namespace(&job.metadata));
    absent_is_fine(api.delete(name(&job.metadata), &params).await)?;
    Ok(())
}

/// Makes the Job, unless one of that name, and so of that time, is there.
async fn create(context: &Context, cron: &CronJob, job: &Job) -> Result<Option<Job>, ReconcileError> {
    match context.api::<Job>(namespace(&cron.metadata)).create(&PostParams::default(), job).await {
        Ok(made) => {
            let note = format!("Created job {}", name(&made.metadata));
            context.event(&reference(cron), EventType::Normal, "SuccessfulCreate", "Create", note).await;
            Ok(Some(made))
        }
        Err(error) if is_there(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
