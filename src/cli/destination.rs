//! Destinations of backups, as they are seen from here: with the credentials of the Secret that the database's pods are
//! given, where the user may read it, on top of those of the environment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::Context;
use super::error::{CliError, Result, failed};
use super::session::Session;
use crate::api::Database;
use crate::backup::claim;
use crate::backup::probe;
use crate::backup::store::{Destination, Patience, Settings, Store, StoreError};
use crate::sandbox::provision::Identity;

/// A destination that somebody names on the command line.
pub fn parse(text: &str) -> Result<Destination> {
    text.parse::<Destination>().map_err(|error| CliError::usage(format!("failed to {error}")))
}

/// Opens a destination with the environment's credentials alone.
pub fn open(destination: &Destination) -> Result<Store> {
    Store::open(destination, &Settings::of_process(), Patience::SHORT).map_err(failed)
}

/// Opens a destination with the credentials in that Secret.
///
/// # Errors
/// Where the settings do not make a store.
pub async fn open_with(
    context: &Context,
    session: &Session,
    destination: &Destination,
    secret: Option<&str>,
) -> Result<Store> {
    let mut settings = Settings::of_process();
    if let Some(name) = secret {
        let secrets: Api<Secret> = Api::namespaced(session.client.clone(), &session.namespace);
        match secrets.get_opt(name).await {
            Ok(Some(secret)) => settings = settings.with_secret(texts(secret)),
            Ok(None) => context.ui.warn(format_args!(
                "there is no Secret {name:?} in namespace {:?} yet: backups fail until there is",
                session.namespace
            )),
            Err(error) => context.ui.warn(format_args!("failed to read Secret {name:?}: {error}")),
        }
    }
    Store::open(destination, &settings, Patience::SHORT).map_err(failed)
}

fn texts(secret: Secret) -> BTreeMap<String, String> {
    let data = secret.data.unwrap_or_default().into_iter();
    data.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?.trim().to_owned()))).collect()
}

/// Before a database is made: that its backups can be written where they are to go, and that nobody else's are there. Where
/// the destination cannot be reached from here its members may still reach it, so that is only a warning.
///
/// # Errors
/// Where the destination says no, or is another database's.
pub async fn check_new(context: &Context, session: &Session, database: &Database) -> Result<()> {
    let Some(backup) = database.spec.backup.as_ref().filter(|backup| backup.enabled) else { return Ok(()) };
    let Some(destination) = &backup.destination else { return Ok(()) };
    let destination = parse(destination)?;
    if let Destination::Directory(path) = &destination {
        if session.place.sandbox().is_none() {
            context.ui.warn(format_args!(
                "{destination} is a directory in each member's own file system: where no volume is mounted there, backups go with the member"
            ));
            return Ok(());
        }
        ready(path)
            .map_err(|error| CliError::failed(format!("make {} for backups: {error}", path.display())))?;
    }
    let store = open_with(context, session, &destination, backup.credentials_secret.as_deref()).await?;
    let name = database.name_any();
    match claim::find(&store).await {
        Ok(Some(claim)) if claim.database != format!("{}/{name}", session.namespace) => {
            return Err(CliError::refused(format!(
                "database {name:?} is not created: {destination} is the archive of {} since {}",
                claim.database, claim.claimed_at
            ))
            .hint("give it a destination of its own: another prefix will do"));
        }
        Ok(_) => {}
        Err(claim::ClaimError::Store(error)) => return unwritable(context, &name, &error),
        Err(error) => return Err(failed(error)),
    }
    match probe::writable(&store).await {
        Ok(()) => Ok(()),
        Err(error) => unwritable(context, &name, &error),
    }
}

/// What the sandbox's members write to is theirs.
fn ready(path: &std::path::Path) -> std::io::Result<()> {
    if !path.exists() {
        std::fs::create_dir_all(path)?;
        Identity::of_pods().own(path)?;
    }
    Ok(())
}

fn unwritable(context: &Context, name: &str, error: &StoreError) -> Result<()> {
    match error {
        StoreError::Failed { .. } | StoreError::Late { .. } => {
            context.ui.warn(format_args!(
                "failed to {error}: from here; whether the members can shows in the status"
            ));
            Ok(())
        }
        _ => {
            Err(CliError::failed(format!("create database {name:?}: its backups cannot be written: {error}"))
                .hint("correct --backup-to or the Secret of --backup-credentials; nothing was created"))
        }
    }
}
