//! `dbctl upgrade`.

mod follow;
mod order;

use std::time::Duration;

use clap::Args;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::major::{self, MajorArgs};
use super::session::Session;
use super::{Context, api_error, complete, confirm, keeper, pause, request, sandbox, scale};
use crate::api::{Database, PgVersion, ResumeArguments, UpgradeProgress, Verb, reason};
use crate::plan::{Assessment, Unfit};
use order::Order;

/// How often a change is written again that somebody else's write came before.
const TRIES: usize = 10;

/// Move a database to another PostgreSQL release
///
/// Where backups are on, one is taken first. Then each replica restarts with the new release, one at a time; then the primary's
/// role moves to one of them, and at last the old primary restarts. Each must be well before the next one is touched: one that
/// is not gets its old release back, and everything else stays as it is until --resume or --abort. The steps are shown first,
/// and are asked for by a confirmation. What is unsafe is refused with exit code 5.
///
/// With --major, the data goes to the next major version by pg_upgrade: while the database serves, that is rehearsed with its
/// schema, and a backup is taken and verified; then nobody can read or write until the new primary has started. Until then
/// --abort brings everything back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl upgrade orders-db --to 16.15 --dry-run     # each step, and what it means for sessions
  dbctl upgrade orders-db --to 16.15 --yes --wait
  dbctl upgrade orders-db --resume --wait          # it has halted, and what was wrong is mended
  dbctl upgrade orders-db --abort --wait           # back to the release before
  dbctl upgrade orders-db --to 17.11 --major --dry-run
  dbctl upgrade orders-db --to 17.11 --major --wait")]
pub struct UpgradeArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// The exact release to go to, for example 16.15
    #[arg(long, value_name = "VERSION", required_unless_present_any = ["resume", "abort"])]
    to: Option<PgVersion>,

    /// Go on with one that has halted
    #[arg(long, conflicts_with_all = ["to", "abort"])]
    resume: bool,

    /// Take it back: members on the new release return to the one before, in the same order
    #[arg(long, conflicts_with = "to")]
    abort: bool,

    /// Change the major version: nobody can read or write meanwhile
    #[arg(long, conflicts_with = "resume")]
    major: bool,

    /// With --major: share files with the old data in place of a copy; quicker, but there is no way back once the new was started
    #[arg(long, requires = "major", conflicts_with = "abort")]
    link: bool,

    /// With --major: go without a backup where none is configured
    #[arg(long, requires = "major", conflicts_with = "abort")]
    without_backup: bool,

    #[command(flatten)]
    how: request::How,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl UpgradeArgs {
    /// The same, where it is about the major version.
    fn into_major(self) -> MajorArgs {
        let Self { name, to, link, without_backup, how, timeout, .. } = self;
        MajorArgs { name, to, link, without_backup, how, timeout }
    }
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, halts, or does not end in time.
pub async fn run(context: &Context, args: UpgradeArgs) -> Result<()> {
    if args.major {
        return Box::pin(major::run(context, args.into_major())).await;
    }
    if let Some(to) = args.to {
        sandbox::software::before_start(context, to)?;
    }
    let session = Session::open(context).await?;
    let doing = format!("upgrade database {:?}", args.name);
    let (database, _, assessment) = request::look(context, &session, &args.name, &doing).await?;
    let major = |release: &str| release.split('.').next().map(str::to_owned);
    if args.abort && progress(&database).is_some_and(|upgrade| major(&upgrade.from) != major(&upgrade.to)) {
        return Box::pin(major::run(context, args.into_major())).await;
    }
    let upgrade = Upgrade { context, session: &session, args: &args, database, assessment, doing };
    match args.to {
        Some(to) => upgrade.to(to).await,
        None if args.abort => upgrade.abort().await,
        None => upgrade.resume().await,
    }
}

/// One run of the command.
struct Upgrade<'u> {
    context: &'u Context,
    session: &'u Session,
    args: &'u UpgradeArgs,
    database: Database,
    assessment: Assessment,
    doing: String,
}

impl Upgrade<'_> {
    async fn to(&self, to: PgVersion) -> Result<()> {
        let Self { context, args, database, doing, .. } = self;
        let from = runs(database);
        if let Some(refusal) = refusal(database, &self.assessment, from, to) {
            return Err(refusal.into_error(context, &args.name, doing));
        }
        if from == to && database.spec.version == to && progress(database).is_none() {
            context.ui.note(format_args!("database {:?} runs PostgreSQL {to} already", args.name));
            return Ok(());
        }
        self.known(to)?;
        let order = Order::new(database, &self.assessment, from, to, jiff::Timestamp::now());
        args.how.show(context, &order.render(database, &self.session.namespace))?;
        keeper::warn_of_change(context, database, &["spec", "version"]);
        if args.how.dry_run {
            return Ok(());
        }
        self.awake()?;
        let kept = format!("database {:?} stays at PostgreSQL {from}", args.name);
        self.confirmed(&format!("Upgrade {:?} from {from} to {to}?", args.name), &kept)?;
        let changed = self.change(to).await?;
        self.ending(&changed, from, to).await
    }

    /// Puts the spec back to the release before; the controller then goes back as it came.
    async fn abort(&self) -> Result<()> {
        let Self { context, args, database, doing, .. } = self;
        let wanted = database.spec.version;
        let back = match progress(database) {
            Some(upgrade) => upgrade.from.parse().ok(),
            None => Some(runs(database)),
        };
        let Some(back) = back.filter(|back| *back != wanted) else {
            return Err(CliError::refused(format!(
                "failed to {doing}: no upgrade is under way that could be taken back"
            ))
            .hint(format!("see how it is: {} status {}", context.invocation(), args.name)));
        };
        if back.major() < wanted.major() && progress(database).is_some() {
            return Err(CliError::refused(format!(
                "failed to {doing}: an older major release cannot read what {wanted} has written"
            )));
        }
        let order = Order::new(database, &self.assessment, wanted, back, jiff::Timestamp::now());
        args.how.show(context, &order.back().render(database, &self.session.namespace))?;
        keeper::warn_of_change(context, database, &["spec", "version"]);
        if args.how.dry_run {
            return Ok(());
        }
        self.awake()?;
        let kept = format!("the upgrade of database {:?} goes on", args.name);
        self.confirmed(&format!("Take {:?} back to {back}?", args.name), &kept)?;
        let changed = self.change(back).await?;
        self.ending(&changed, wanted, back).await
    }

    async fn resume(&self) -> Result<()> {
        let Self { context, args, database, doing, .. } = self;
        if !is_halted(database) {
            return Err(CliError::refused(format!("failed to {doing}: nothing has halted that could go on"))
                .hint(format!("see how it is: {} status {}", context.invocation(), args.name)));
        }
        let (from, to) = match progress(database) {
            Some(upgrade) => (upgrade.from.parse().unwrap_or(database.spec.version), database.spec.version),
            None => (database.spec.version, database.spec.version),
        };
        let order = Order::new(database, &self.assessment, from, to, jiff::Timestamp::now());
        args.how.show(context, &order.render(database, &self.session.namespace))?;
        if args.how.dry_run {
            return Ok(());
        }
        self.confirmed(
            &format!("Go on with {:?}?", args.name),
            &format!("database {:?} stays as it is", args.name),
        )?;
        let id =
            request::put(context, self.session, database, Verb::Resume, &ResumeArguments {}, doing).await?;
        let asked = request::Asked { database, verb: Verb::Resume, id: &id, timeout: args.timeout };
        request::follow(context, self.session, &asked, |_| true).await?;
        self.ending(database, from, to).await
    }

    fn confirmed(&self, question: &str, kept: &str) -> Result<()> {
        if self.args.how.yes { Ok(()) } else { confirm::yes(self.context, question, kept) }
    }

    /// Nobody waits for a database that nothing is done with.
    fn awake(&self) -> Result<()> {
        let paused = pause::refusal(self.context, &self.database, &self.doing);
        paused.filter(|_| self.args.how.wait).map_or(Ok(()), Err)
    }

    /// Where this machine makes the pods, it knows which releases there are, and has them ready.
    fn known(&self, to: PgVersion) -> Result<()> {
        match self.session.place.sandbox() {
            Some(home) if self.args.how.dry_run => sandbox::software::exists(home, to),
            Some(home) => sandbox::software::install(self.context, home, to).map(drop),
            None => Ok(()),
        }
    }

    /// Writes the release into the spec, as it was looked at.
    async fn change(&self, to: PgVersion) -> Result<Database> {
        let Self { context, session, database, doing, .. } = self;
        let name = database.name_any();
        let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
        let mut current = database.clone();
        for _ in 0..TRIES {
            let patch = json!({
                "metadata": { "resourceVersion": current.metadata.resource_version },
                "spec": { "version": to },
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
            match api.patch(&name, &params, &Patch::Merge(&patch)).await {
                Ok(changed) => return Ok(changed),
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    current = scale::get(context, session, &api, &name, doing).await?;
                    let same = current.metadata.uid == database.metadata.uid
                        && current.spec.version == database.spec.version;
                    if !same {
                        return Err(CliError::failed(format!(
                            "{doing}: somebody else has changed it meanwhile"
                        )));
                    }
                }
                Err(error) => return Err(api_error::explain(session, doing, &error)),
            }
        }
        Err(CliError::failed(format!("{doing}: it is written to without a pause; try again")))
    }

    async fn ending(&self, changed: &Database, from: PgVersion, to: PgVersion) -> Result<()> {
        let (context, name) = (self.context, &self.args.name);
        if !self.args.how.wait {
            context.ui.note(format_args!("database {name:?} goes from PostgreSQL {from} to {to}"));
            context.ui.note(format_args!("follow it with {} status {name} --watch", context.invocation()));
            if pause::is_paused(changed) {
                context.ui.warn("dbctl is paused here: it begins once it is resumed");
            }
            return Ok(());
        }
        follow::to_the_end(context, self.session, changed, to, self.args.timeout).await
    }
}

/// What all members run, or ran before an upgrade that is under way.
fn runs(database: &Database) -> PgVersion {
    let version = database.status.as_ref().and_then(|status| status.version.as_deref()?.parse().ok());
    version.unwrap_or(database.spec.version)
}

fn progress(database: &Database) -> Option<&UpgradeProgress> {
    database.status.as_ref()?.upgrade.as_ref()
}

/// Whether the controller says that it goes no further.
fn is_halted(database: &Database) -> bool {
    let conditions = database.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "UpToDate" && condition.reason == reason::ROLLOUT_HALTED)
}

/// Why nothing is changed.
#[derive(Debug, PartialEq)]
enum Refusal {
    /// An older major release is asked for.
    Older { from: PgVersion, to: PgVersion },
    /// A major release would be left out.
    Jump { from: PgVersion, to: PgVersion },
    /// Another major release is a procedure of its own.
    Major { from: PgVersion, to: PgVersion },
    /// A release of the same major version is not what `--major` is for.
    Minor { from: PgVersion, to: PgVersion },
    /// Another upgrade is under way, or has halted.
    Upgrading { to: String, halted: bool },
    /// A member is not well.
    Unwell { member: String, problem: String },
    /// There is no primary.
    NoPrimary { problem: Option<String> },
}

/// Why data of one release never goes to the other in one step, whatever is said.
fn unreachable(from: PgVersion, to: PgVersion) -> Option<Refusal> {
    if to.major() < from.major() {
        return Some(Refusal::Older { from, to });
    }
    (to.major() > from.major() + 1).then_some(Refusal::Jump { from, to })
}

/// What is in the way of going from one release to the other.
fn refusal(database: &Database, assessment: &Assessment, from: PgVersion, to: PgVersion) -> Option<Refusal> {
    if let Some(unreachable) = unreachable(from, to) {
        return Some(unreachable);
    }
    if to.major() > from.major() {
        return Some(Refusal::Major { from, to });
    }
    if let Some(upgrade) = progress(database).filter(|upgrade| upgrade.to != to.to_string()) {
        return Some(Refusal::Upgrading { to: upgrade.to.clone(), halted: is_halted(database) });
    }
    if progress(database).is_some() {
        return is_halted(database).then(|| Refusal::Upgrading { to: to.to_string(), halted: true });
    }
    unwell(database, assessment)
}

/// What is wrong with the members, all of which must be well before an upgrade begins.
fn unwell(database: &Database, assessment: &Assessment) -> Option<Refusal> {
    let Some(primary) = assessment.healthy_primary() else {
        let leader = assessment.primary.as_ref();
        let problem = leader.and_then(|leader| Some(format!("{} {}", leader.name, leader.problem.as_ref()?)));
        return Some(Refusal::NoPrimary { problem });
    };
    // One that only lags is waited for when its turn comes.
    let lags =
        |unfit: &&Unfit| matches!(unfit, Unfit::Lagging { .. } | Unfit::Replaying { .. } | Unfit::Leaving);
    let unwell = assessment.candidates.iter().find_map(|member| {
        let unfit = member.unfit.as_ref().filter(|unfit| !lags(unfit))?;
        Some((member, unfit))
    });
    if let Some((member, unfit)) = unwell {
        return Some(Refusal::Unwell { member: member.name.clone(), problem: unfit.to_string() });
    }
    let known = assessment.members();
    let name = database.name_any();
    let names = crate::api::Names(&name);
    let missing = (0..database.spec.replicas).map(|ordinal| names.member(ordinal));
    let missing =
        missing.into_iter().find(|member| !known.contains(member.as_str()) && *member != primary.name);
    missing.map(|member| Refusal::Unwell { member, problem: "has no pod".to_owned() })
}

/// Why that is no upgrade to another major version.
pub(super) fn no_major(
    context: &Context,
    name: &str,
    from: PgVersion,
    to: PgVersion,
    doing: &str,
) -> Option<CliError> {
    let same = (from.major() == to.major()).then_some(Refusal::Minor { from, to });
    Some(same.or_else(|| unreachable(from, to))?.into_error(context, name, doing))
}

/// Why no upgrade to another major version begins with the database as it is.
pub(super) fn not_now(
    context: &Context,
    database: &Database,
    assessment: &Assessment,
    doing: &str,
) -> Option<CliError> {
    let upgrading = progress(database)
        .map(|upgrade| Refusal::Upgrading { to: upgrade.to.clone(), halted: is_halted(database) });
    Some(upgrading.or_else(|| unwell(database, assessment))?.into_error(context, &database.name_any(), doing))
}

impl Refusal {
    fn into_error(self, context: &Context, name: &str, doing: &str) -> CliError {
        let command = context.invocation();
        let status = format!("see how it is: {command} status {name}");
        match self {
            Self::Older { from, to } => CliError::refused(format!(
                "failed to {doing}: it runs {from}, and PostgreSQL {} cannot read its data",
                to.major()
            ))
            .hint(format!("a backup of the older release becomes a new database: {command} restore NEW --from {name} --backup ID")),
            Self::Jump { from, to } => {
                let between: Vec<String> = (from.major() + 1..=to.major()).map(|major| major.to_string()).collect();
                CliError::refused(format!(
                    "failed to {doing}: from {from} to {to} is more than one major release; go through {}, one at a time",
                    between.join(" and ")
                ))
                .hint(format!("first: {command} upgrade {name} --to {}.MINOR --major", from.major() + 1))
            }
            Self::Major { from, to } => CliError::refused(format!(
                "failed to {doing}: from {from} to {to} the data's format changes, which needs --major and is down for a while"
            ))
            .hint(format!("to do it: {command} upgrade {name} --to {to} --major")),
            Self::Minor { from, to } => CliError::refused(format!(
                "failed to {doing}: {from} and {to} are releases of one major version, which --major is not for"
            ))
            .hint(format!("to do it: {command} upgrade {name} --to {to}")),
            Self::Upgrading { to, halted } => {
                let what = if halted { "has halted" } else { "is under way" };
                let error = CliError::refused(format!("failed to {doing}: an upgrade to {to} {what}"))
                    .hint(format!("take it back: {command} upgrade {name} --abort"));
                if halted { error.hint(format!("try again: {command} upgrade {name} --resume")) } else { error.hint(status) }
            }
            Self::Unwell { member, problem } => CliError::refused(format!(
                "failed to {doing}: every member must be well before it begins, and {member} {problem}"
            ))
            .hint(format!("see {command} logs {name} --member {member}"))
            .hint(status),
            Self::NoPrimary { problem } => {
                let why = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
                CliError::refused(format!("failed to {doing}: no primary is running{why}")).hint(status)
            }
        }
    }
}

#[cfg(test)]
mod tests;
