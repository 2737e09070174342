//! `dbctl restore --in-place`, `--undo` and `--discard-old`: what is done to an existing database. Everything that can be said
//! against it is said before anything is stopped.

use std::fmt::Write as _;

use kube::{Api, ResourceExt};
use ulid::Ulid;

use super::{RestoreArgs, Unseen, look, preview};
use crate::api::{Database, Phase, RestoreArguments, Verb};
use crate::backup::restore::Target;
use crate::backup::wal::position_text;
use crate::cli::error::{CliError, Result};
use crate::cli::request::{self, Asked, Asking};
use crate::cli::session::Session;
use crate::cli::{Context, confirm, output, scale};

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, session: &Session, args: &RestoreArgs) -> Result<()> {
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let doing = format!("restore database {:?}", args.name);
    let database = scale::get(context, session, &api, &args.name, &doing).await?;
    if database.metadata.deletion_timestamp.is_some() {
        return Err(CliError::refused(format!("failed to {doing}: it is being deleted")));
    }
    let (arguments, plan, to) = if args.undo {
        if nothing_to_undo(&database) {
            return Err(CliError::refused(format!(
                "failed to {doing}: no restore in place is under way, so there is nothing to undo"
            ))
            .hint(format!(
                "see what was asked for with {} status {} -o yaml",
                context.invocation(),
                args.name
            )));
        }
        (RestoreArguments { undo: true, ..Default::default() }, undo(&args.name), "put its old data back")
    } else if args.discard_old {
        let (arguments, plan) = discard(&database).ok_or_else(|| {
            CliError::refused(format!("failed to {doing}: no member is known to keep old data"))
        })?;
        (arguments, plan, "remove its old data for good")
    } else {
        let from = own_destination(&database, args.from.as_deref())
            .map_err(|why| CliError::refused(format!("failed to {doing}: {why}")))?;
        let plan = in_place(context, session, &database, &from, args).await?;
        (asked(args), plan, "replace its data")
    };
    if args.dry_run {
        context.ui.data(&plan)?;
    } else {
        context.ui.note(plan.trim_end());
    }
    let asking = Asking { verb: Verb::Restore, back: args.undo };
    request::check(context, &database, asking, &doing)?;
    if args.dry_run {
        context.ui.note("nothing was done");
        return Ok(());
    }
    if !args.yes {
        confirm::name(context, &args.name, to, &format!("database {:?} stays as it is", args.name))?;
    }
    let id = request::ask(context, session, &database, asking, &arguments, &doing).await?;
    if !args.wait {
        request::tell_how_to_follow(context, &args.name, Verb::Restore, &id);
        return Ok(());
    }
    let asked = Asked { database: &database, verb: Verb::Restore, id: &id, timeout: args.timeout };
    let outcome = request::follow(context, session, &asked, |_| true).await?;
    let done = outcome.operation.message.unwrap_or_else(|| "restored".to_owned());
    context.ui.note(format_args!("database {:?}: {done}", args.name));
    Ok(())
}

/// Its own archive: a restore in place goes on in it, which another's WAL would spoil.
fn own_destination(database: &Database, from: Option<&str>) -> std::result::Result<String, String> {
    let backup = database.spec.backup.as_ref().filter(|backup| backup.enabled);
    let Some(own) = backup.and_then(|backup| backup.destination.clone()) else {
        return Err("its backups are off, and it is restored in place from its own: set spec.backup, with a destination and a \
                    schedule, or make a new database with --from"
            .to_owned());
    };
    let same =
        |from: &str| from == database.name_any() || from.trim_end_matches('/') == own.trim_end_matches('/');
    match from {
        Some(from) if !same(from) => Err(format!(
            "a database is restored in place from its own backups alone ({own}): leave --from out, or without --in-place, make a new \
             database from {from}"
        )),
        _ => Ok(own),
    }
}

fn asked(args: &RestoreArgs) -> RestoreArguments {
    let mut asked = RestoreArguments {
        backup: args.backup.as_ref().map(ToString::to_string),
        without_old: args.without_old,
        ..Default::default()
    };
    match args.target.target() {
        Target::Time(at) => asked.target_time = Some(at.to_string()),
        Target::Lsn(lsn) => asked.target_lsn = Some(position_text(lsn)),
        Target::Name(name) => asked.target_name = Some(name),
        Target::End | Target::Immediate => {}
    }
    asked
}

/// What would happen.
async fn in_place(
    context: &Context,
    session: &Session,
    database: &Database,
    from: &str,
    args: &RestoreArgs,
) -> Result<String> {
    let name = database.name_any();
    let mut text = match look(session, database, from, args).await {
        Ok(choice) => format!("{}\n", preview(&choice, &args.target.target(), from)),
        Err(Unseen::Impossible(error)) => {
            return Err(CliError::refused(format!("failed to {error}")).hint(format!(
                "nothing was stopped; see what there is with {} backups {name} --check",
                context.invocation()
            )));
        }
        Err(Unseen::Unknown(error)) => {
            context
                .ui
                .warn(format_args!("what is in {from} could not be looked at from here: failed to {error}"));
            format!("restoring {from} to {}\n", args.target.target())
        }
    };
    text.push_str(&effects(database, &session.namespace, args.without_old));
    Ok(text)
}

fn effects(database: &Database, namespace: &str, without_old: bool) -> String {
    let name = database.name_any();
    let mut text = format!("In place of what database {name:?} in namespace {namespace:?} holds:\n");
    let members = output::count(database.spec.replicas, "member");
    let _ = writeln!(
        text,
        "  stops:   {members}, all at once; nobody can read or write until the data is restored"
    );
    let _ = writeln!(
        text,
        "  lost:    from the database, all that was committed after the target; the archive keeps its WAL"
    );
    let kept = if without_old {
        "nothing: the old data is removed before the new is made, and if that fails there is no way back"
    } else {
        "the old data, beside the new on each member's volume, until --discard-old"
    };
    let _ = writeln!(text, "  kept:    {kept}");
    let _ = writeln!(text, "  then:    replicas are cloned from the restored member, and a backup is taken");
    text
}

/// Nothing tells of a restore: neither the state, nor an operation, nor a request that waits.
fn nothing_to_undo(database: &Database) -> bool {
    let phase = database.status.as_ref().and_then(|status| status.phase);
    !matches!(phase, Some(Phase::Restoring | Phase::Failed)) && !request::stands(database, Verb::Restore)
}

fn undo(name: &str) -> String {
    format!(
        "Back to what database {name:?} held before the restore in place that is under way:\n  \
         stops:   all members; what was restored so far is removed\n  \
         back:    the old data of each member, with all that was committed\n"
    )
}

/// What is kept, as far as the status tells, and what there is to ask for.
fn discard(database: &Database) -> Option<(RestoreArguments, String)> {
    let instances = database.status.as_ref().map(|status| status.instances.as_slice()).unwrap_or_default();
    let mut text = format!("Kept of database {:?}, and removed for good:\n", database.name_any());
    let mut ids = Vec::new();
    for instance in instances {
        for kept in &instance.kept {
            let size =
                kept.size_bytes.map_or_else(|| "of a size that is being counted".to_owned(), output::bytes);
            let _ = writeln!(text, "  {}: data from before restore {}, {size}", instance.name, kept.id);
            ids.extend(Ulid::from_string(&kept.id).ok());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    (!ids.is_empty()).then(|| (RestoreArguments { discard: ids, ..Default::default() }, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn database(spec: Value, instances: Value) -> Database {
        let mut whole = json!({ "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" } });
        json_patch::merge(&mut whole, &spec);
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db", "uid": "u" }, "spec": whole, "status": { "instances": instances },
        }))
        .unwrap()
    }

    #[test]
    fn only_its_own_backups_are_good_enough() {
        let backup = |enabled: bool| json!({ "backup": { "enabled": enabled, "schedule": "0 3 * * *", "destination": "s3://b/p" } });
        let on = database(backup(true), json!([]));
        for from in [None, Some("db"), Some("s3://b/p"), Some("s3://b/p/")] {
            assert_eq!(own_destination(&on, from), Ok("s3://b/p".to_owned()));
        }
        for from in ["s3://b/other", "other"] {
            let why = own_destination(&on, Some(from)).unwrap_err();
            assert!(why.contains("from its own backups alone (s3://b/p)"), "{why}");
        }
        for off in [database(backup(false), json!([])), database(json!({}), json!([]))] {
            assert!(own_destination(&off, None).unwrap_err().contains("its backups are off"));
        }
    }

    #[test]
    fn what_would_happen_is_said_first() {
        let database = database(json!({}), json!([]));
        insta::assert_snapshot!(effects(&database, "shop", false), @r#"
        In place of what database "db" in namespace "shop" holds:
          stops:   3 members, all at once; nobody can read or write until the data is restored
          lost:    from the database, all that was committed after the target; the archive keeps its WAL
          kept:    the old data, beside the new on each member's volume, until --discard-old
          then:    replicas are cloned from the restored member, and a backup is taken
        "#);
        insta::assert_snapshot!(undo("db"), @r#"
        Back to what database "db" held before the restore in place that is under way:
          stops:   all members; what was restored so far is removed
          back:    the old data of each member, with all that was committed
        "#);
    }

    #[test]
    fn there_is_nothing_to_undo_but_a_restore() {
        let with = |status: Value| {
            let mut database = database(json!({}), json!([]));
            database.status = serde_json::from_value(status).unwrap();
            nothing_to_undo(&database)
        };
        let operation =
            |phase: &str| json!({ "operations": [{ "id": "1", "kind": "restore", "phase": phase }] });
        assert!(with(json!({ "phase": "Running" })) && with(operation("Succeeded")));
        assert!(!with(operation("Running")) && !with(json!({ "phase": "Failed" })));
    }

    #[test]
    fn what_is_removed_is_told_with_its_size() {
        let id = Ulid::from_parts(1_000_000, 7);
        let kept = |size: Value| json!([{ "id": id.to_string(), "sizeBytes": size }]);
        let database = database(
            json!({}),
            json!([{ "name": "db-0", "kept": kept(json!(41_234_567)) }, { "name": "db-1", "kept": kept(json!(null)) }, { "name": "db-2" }]),
        );
        let (arguments, text) = discard(&database).unwrap();
        assert_eq!(arguments.discard, [id]);
        insta::assert_snapshot!(text, @r#"
        Kept of database "db", and removed for good:
          db-0: data from before restore 000000YGJ00000000000000007, 39.3 MiB
          db-1: data from before restore 000000YGJ00000000000000007, of a size that is being counted
        "#);
        assert!(discard(&self::database(json!({}), json!([{ "name": "db-0" }]))).is_none());
    }
}
