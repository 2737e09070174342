//! `dbctl upgrade --major`.

use std::fmt::Write as _;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::request::{self, Asked, How};
use super::session::Session;
use super::{Context, api_error, confirm, keeper, sandbox, scale, upgrade};
use crate::api::{AbortUpgradeArguments, Database, Names, PgVersion, UpgradeArguments, Verb};
use crate::plan::Assessment;

/// How often a change is written again that somebody else's write came before.
const TRIES: usize = 10;

/// What is asked for with `--major`.
///
/// While the database serves, the upgrade is rehearsed with its schema, and a backup is taken and verified. Then all members
/// stop, one upgrades its data beside the old, and the others are cloned from it. The old data is kept on every volume until
/// all is done.
#[derive(Debug)]
pub struct MajorArgs {
    /// Name of the database.
    pub name: String,
    /// The release to go to; without it, the upgrade is taken back.
    pub to: Option<PgVersion>,
    /// Share files with the old data.
    pub link: bool,
    /// Go without a backup where none is configured.
    pub without_backup: bool,
    /// What is shown and asked, and whether it is followed.
    pub how: How,
    /// How long it is followed.
    pub timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, args: MajorArgs) -> Result<()> {
    let doing = format!("upgrade database {:?}", args.name);
    if let Some(to) = args.to {
        sandbox::software::before_start(context, to)?;
    }
    let session = Session::open(context).await?;
    let (database, sight, assessment) = request::look(context, &session, &args.name, &doing).await?;
    let from = release(&database, &sight.observed).ok_or_else(|| {
        CliError::refused(format!("failed to {doing}: it is not known which release its data is of"))
    })?;
    let upgrade = Upgrade { context, session: &session, args: &args, database, from, doing };
    match args.to {
        Some(to) => upgrade.to(to, &assessment).await,
        None => upgrade.abort().await,
    }
}

/// The release of the data: what is noted beside it.
fn release(database: &Database, observed: &crate::plan::Observed) -> Option<PgVersion> {
    let map = observed.get(crate::plan::Kind::ConfigMap, &Names(&database.name_any()).dynamic_config());
    let noted =
        map.and_then(|map| map["metadata"]["annotations"][crate::plan::RELEASE].as_str()?.parse().ok());
    noted.or_else(|| database.status.as_ref()?.version.as_ref()?.parse().ok())
}

/// One run of the command.
struct Upgrade<'u> {
    context: &'u Context,
    session: &'u Session,
    args: &'u MajorArgs,
    database: Database,
    from: PgVersion,
    doing: String,
}

impl Upgrade<'_> {
    async fn to(&self, to: PgVersion, assessment: &Assessment) -> Result<()> {
        let Self { context, args, database, from, doing, .. } = self;
        if let Some(refused) = upgrade::no_major(context, &args.name, *from, to, doing) {
            return Err(refused);
        }
        let backups = database.spec.backup.as_ref().is_some_and(|backup| backup.enabled);
        if !backups && !args.without_backup {
            return Err(CliError::refused(format!(
                "failed to {doing}: its backups are off, and it begins with one"
            ))
            .hint("set spec.backup, or go without: --without-backup"));
        }
        request::check_idle(context, database, Verb::Upgrade, doing)?;
        if let Some(refused) = upgrade::not_now(context, database, assessment, doing) {
            return Err(refused);
        }
        args.how.show(context, &self.render(to, backups))?;
        keeper::warn_of_change(context, database, &["spec", "version"]);
        if args.how.dry_run {
            return Ok(());
        }
        if !args.how.yes {
            let question = format!("Upgrade {:?} from {from} to {to}?", args.name);
            confirm::yes(
                context,
                &question,
                &format!("database {:?} stays at PostgreSQL {from}", args.name),
            )?;
        }
        if context.global.sandbox {
            let home = crate::sandbox::home::Home::locate().map_err(CliError::failed)?;
            sandbox::software::install(context, &home, to)?;
        }
        let wanted = self.want(to).await?;
        let arguments = UpgradeArguments { to, link: args.link, without_backup: args.without_backup };
        let asked = request::put(context, self.session, &wanted, Verb::Upgrade, &arguments, doing).await;
        let id = match asked {
            Ok(id) => id,
            Err(error) => {
                self.want(*from).await?;
                return Err(error);
            }
        };
        if !args.how.wait {
            request::tell_how_to_follow(context, &args.name, Verb::Upgrade, &id);
            return Ok(());
        }
        let followed = self.follow(&wanted, Verb::Upgrade, &id).await;
        if followed.is_err() {
            self.want_back(&id).await?;
        }
        followed
    }

    async fn abort(&self) -> Result<()> {
        let Self { context, args, database, doing, .. } = self;
        let asked = request::stands(database, Verb::Upgrade);
        if !asked && database.status.as_ref().is_none_or(|status| status.upgrade.is_none()) {
            return Err(CliError::refused(format!(
                "failed to take the upgrade of database {:?} back: no major upgrade is under way",
                args.name
            ))
            .hint(format!("see how it is: {} status {}", context.invocation(), args.name)));
        }
        if !args.how.yes && !args.how.dry_run {
            let question = format!("Take the upgrade of {:?} back?", args.name);
            confirm::yes(context, &question, "it goes on")?;
        }
        if args.how.dry_run {
            return context
                .ui
                .data("the old data and the old release come back, unless the new primary was started\n");
        }
        let id = request::put(
            context,
            self.session,
            database,
            Verb::AbortUpgrade,
            &AbortUpgradeArguments {},
            doing,
        )
        .await?;
        if !args.how.wait {
            request::tell_how_to_follow(context, &args.name, Verb::AbortUpgrade, &id);
            return Ok(());
        }
        self.follow(database, Verb::AbortUpgrade, &id).await?;
        self.want_back(&id).await
    }

    /// What is wanted is what runs again, where the upgrade has ended without one.
    async fn want_back(&self, id: &str) -> Result<()> {
        let api = self.api();
        let now = scale::get(self.context, self.session, &api, &self.args.name, &self.doing).await?;
        let ended = now.status.as_ref().is_some_and(|status| {
            status.operations.iter().any(|operation| operation.id == id && !operation.phase.is_under_way())
                && status.upgrade.is_none()
        });
        let runs: Option<PgVersion> =
            now.status.as_ref().and_then(|status| status.version.as_ref()?.parse().ok());
        match runs {
            Some(runs) if ended && runs.major() < now.spec.version.major() => self.want(runs).await.map(drop),
            _ => Ok(()),
        }
    }

    fn api(&self) -> Api<Database> {
        Api::namespaced(self.session.client.clone(), &self.session.namespace)
    }

    async fn follow(&self, database: &Database, verb: Verb, id: &str) -> Result<()> {
        let asked = Asked { database, verb, id, timeout: self.args.timeout };
        let outcome = request::follow(self.context, self.session, &asked, |_| true).await?;
        let done = outcome.operation.message.unwrap_or_else(|| "done".to_owned());
        self.context.ui.note(format_args!("database {:?}: {done}", self.args.name));
        Ok(())
    }

    /// Sets spec.version.
    async fn want(&self, version: PgVersion) -> Result<Database> {
        let api = self.api();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        for _ in 0..TRIES {
            let patch =
                json!({ "metadata": { "uid": self.database.metadata.uid }, "spec": { "version": version } });
            match api.patch(&self.args.name, &params, &Patch::Merge(&patch)).await {
                Ok(database) => return Ok(database),
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => return Err(api_error::explain(self.session, &self.doing, &error)),
            }
        }
        Err(CliError::failed(format!("{}: it is written to without a pause; try again", self.doing)))
    }

    fn render(&self, to: PgVersion, backups: bool) -> String {
        let Self { args, database, from, .. } = self;
        let mut text = format!(
            "Major upgrade of database {:?} in namespace {:?}, from {from} to {to}:\n",
            args.name, self.session.namespace
        );
        let copies = if args.link {
            "shares its files (--link)"
        } else {
            "copies them, or clones them where the file system can"
        };
        let mut steps =
            vec!["the upgrade is rehearsed with the schema alone, in a pod of its own".to_owned()];
        if backups {
            steps.push("a backup is taken, and verified".to_owned());
        }
        steps.extend([
            "all members stop: from here on nobody can read or write".to_owned(),
            format!("the last primary's data is upgraded beside the old: pg_upgrade {copies}"),
            "it starts: writes go on, and there is no way back from here".to_owned(),
        ]);
        if database.spec.replicas > 1 {
            steps.push(
                "the others are cloned from it; commits exist on the primary alone until one is".to_owned(),
            );
        }
        steps.push("extensions are updated, and statistics rebuilt where they do not come along".to_owned());
        if backups {
            steps.push("a backup of the new release is taken; those of the old one stay".to_owned());
        }
        steps.push("the old data is removed from the volumes".to_owned());
        for (index, step) in steps.iter().enumerate() {
            let _ = writeln!(text, "  {}. {step}", index + 1);
        }
        text
    }
}
