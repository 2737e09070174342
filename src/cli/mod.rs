//! The command line: one file per command, whose doc comment is its help.

mod agent;
mod api_error;
mod ask;
mod backup;
mod backup_now;
mod backups;
mod complete;
mod completions;
mod confirm;
mod connect;
mod controller;
mod create;
mod delete;
mod destination;
mod doctor;
mod error;
mod events;
mod expose;
mod failover;
mod generate;
mod history;
mod install;
mod keeper;
mod list;
mod logs;
mod major;
#[cfg(test)]
mod matrix;
mod members;
mod named;
mod namespace;
mod output;
mod pause;
mod plugin;
mod progress;
mod reference;
mod report;
mod request;
mod resize;
mod restart;
mod restore;
mod retained;
mod rotate;
mod sandbox;
mod scale;
mod session;
mod status;
mod ui;
mod uninstall;
mod upgrade;
mod version;
mod wait;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use error::{CliError, Outcome};

use error::Result;
use ui::{ColorChoice, Ui};

/// Creates and runs replicated PostgreSQL on Kubernetes, or on one machine without it
///
/// With --sandbox, every command works on this machine, with no cluster: the sandbox is started where it is needed.
/// Without it, dbctl talks to the cluster of your kubeconfig, as kubectl does.
#[derive(Debug, Parser)]
#[command(name = "dbctl", version, disable_help_subcommand = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Namespace of the database [default: that of the kubeconfig's context]
    #[arg(short, long, global = true, value_name = "NAMESPACE", add = complete::namespace())]
    namespace: Option<String>,

    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "sandbox", add = complete::context())]
    context: Option<String>,

    /// Kubeconfig file [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "sandbox")]
    kubeconfig: Option<PathBuf>,

    /// Use this machine's sandbox in place of a cluster
    #[arg(long, global = true, env = "DBCTL_SANDBOX", hide_env_values = true, value_parser = yes_or_no)]
    sandbox: bool,

    /// Say more on standard error; -vv and -vvv say still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// When output is coloured
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    color: ColorChoice,
}

/// What the environment says of a flag.
fn yes_or_no(text: &str) -> std::result::Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Ok(true),
        "" | "0" | "false" | "no" => Ok(false),
        _ => {
            Err("DBCTL_SANDBOX is set to it, and takes 1, true or yes, and 0, false, no or nothing"
                .to_owned())
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<create::CreateArgs>),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Report(report::ReportArgs),
    Scale(scale::ScaleArgs),
    Resize(resize::ResizeArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Failover(failover::FailoverArgs),
    Restart(restart::RestartArgs),
    RotateCredentials(rotate::RotateArgs),
    Upgrade(upgrade::UpgradeArgs),
    BackupNow(backup_now::BackupNowArgs),
    Backup(backup::BackupArgs),
    Backups(backups::BackupsArgs),
    Restore(Box<restore::RestoreArgs>),
    Delete(delete::DeleteArgs),
    Connect(connect::ConnectArgs),
    Expose(expose::ExposeArgs),
    Logs(logs::LogsArgs),
    Events(events::EventsArgs),
    History(history::HistoryArgs),
    Install(install::InstallArgs),
    Uninstall(uninstall::UninstallArgs),
    Version(version::VersionArgs),
    Controller(controller::ControllerArgs),
    Sandbox(sandbox::SandboxArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Agent(agent::AgentArgs),
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// What commands are given besides their own arguments.
#[derive(Clone, Debug)]
struct Context {
    global: Global,
    ui: Ui,
}

impl Context {
    /// How a user would run this program again, with what leads to the same place; for lines that are to be copied.
    fn invocation(&self) -> String {
        let mut text = self.program();
        if self.global.sandbox {
            text.push_str(" --sandbox");
        }
        for (flag, value) in [
            ("--kubeconfig", self.global.kubeconfig.as_ref().map(|path| path.display().to_string())),
            ("--context", self.global.context.clone()),
            ("-n", self.global.namespace.clone()),
        ] {
            if let Some(value) = value {
                let _ = write!(text, " {flag} {}", output::shell_word(&value));
            }
        }
        text
    }

    /// How a user would run this program again.
    fn program(&self) -> String {
        let typed = std::env::args_os().next().unwrap_or_else(|| "dbctl".into());
        if plugin::runs(&typed) {
            return plugin::CALLED.to_owned();
        }
        output::shell_word(&typed.to_string_lossy())
    }
}

#[cfg(test)]
impl Context {
    /// For tests: a cluster's, without colours.
    fn plain() -> Self {
        let global = Global {
            namespace: None,
            context: None,
            kubeconfig: None,
            sandbox: false,
            verbose: 0,
            color: ColorChoice::Never,
        };
        Self { global, ui: Ui::new(ColorChoice::Never) }
    }
}

/// What a first look is for.
const EXAMPLES: &str = "Examples:
  dbctl --sandbox create orders-db --replicas 3 --wait
  dbctl status orders-db
  dbctl doctor";

/// The whole command line's definition.
pub fn command() -> clap::Command {
    let mut codes = String::from(EXAMPLES);
    codes.push_str("\n\nExit codes:\n");
    for (outcome, meaning) in Outcome::TABLE {
        let _ = writeln!(codes, "  {}  {meaning}", outcome.code());
    }
    named::checked(Cli::command()).after_help(codes.trim_end().to_owned())
}

/// Runs a command line; the exit code is one of [`Outcome::TABLE`].
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut definition = command().color(clap_color(&args));
    match args.first() {
        Some(program) if plugin::completes(program) => return plugin::complete(definition, &args),
        Some(program) if plugin::runs(program) => definition = plugin::renamed(definition),
        _ => {}
    }
    let parsed = definition.try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(error, &args),
    };
    let ui = Ui::new(cli.global.color);
    ui::fit_to_terminal();
    let context = Context { global: cli.global, ui };
    match dispatch(&context, cli.command) {
        Ok(code) => code,
        Err(error) => {
            context.ui.error(&error);
            ExitCode::from(error.outcome.code())
        }
    }
}

/// Whether clap colours its messages, which it prints before `--color` is parsed.
fn clap_color(args: &[OsString]) -> clap::ColorChoice {
    let texts: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let joined = texts.iter().find_map(|text| text.strip_prefix("--color="));
    let separate = texts.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1].as_ref());
    match joined.or(separate) {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}

/// Help, the version, or what is wrong with the command line.
fn usage(mut error: clap::Error, args: &[OsString]) -> ExitCode {
    advise(&mut error, args);
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Outcome::Usage.code() } else { Outcome::Done.code() })
}

/// Adds what may be meant by an argument that is unknown, where anything is to be said of it.
fn advise(error: &mut clap::Error, args: &[OsString]) {
    let stray = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) if error.kind() == ErrorKind::UnknownArgument => text.clone(),
        _ => return,
    };
    // Where a flag is like what was typed, clap names it.
    if error.get(ContextKind::SuggestedArg).is_some() {
        return;
    }
    let tips: Vec<_> = tips(&stray, args).into_iter().map(Into::into).collect();
    if tips.is_empty() {
        error.remove(ContextKind::Suggested);
    } else {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
}

/// What may be meant by an argument that a command does not take, and what it takes.
fn tips(stray: &str, args: &[OsString]) -> Vec<String> {
    let definition = command();
    let words = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    let (path, called) = words.fold(("dbctl".to_owned(), &definition), |(path, called), word| {
        match called.find_subcommand(word.as_ref()) {
            Some(sub) => (format!("{path} {}", sub.get_name()), sub),
            None => (path, called),
        }
    });
    if !stray.starts_with('-') {
        return unquoted(stray, args, called).into_iter().collect();
    }
    let flags: Vec<_> = called
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
        .collect();
    if flags.is_empty() {
        return Vec::new();
    }
    vec![output::wrapped(&format!("{path} takes {}", flags.join(", ")), 100, "       ")]
}

/// A word that no flag took is most often the second half of a value with a space in it.
fn unquoted(stray: &str, args: &[OsString], called: &clap::Command) -> Option<String> {
    let texts: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let triple = texts.windows(3).find(|triple| triple[2] == stray && triple[0].starts_with("--"))?;
    if triple[1].starts_with('-') {
        return None;
    }
    let flag = &triple[0];
    let value = output::shell_word(&format!("{} {stray}", triple[1]));
    let arg = called.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"));
    let means = arg.and_then(clap::Arg::get_help).map_or_else(String::new, |help| format!(" ({help})"));
    Some(format!("{flag}{means} takes one value: one with a space in it must be quoted, {flag} {value}"))
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode> {
    match command {
        Command::Sandbox(args) => return sandbox::run(context, args),
        Command::Agent(args) => return agent::run(context, &args),
        Command::Controller(args) => {
            log_as(context, &SERVER_LOG, args.log_format);
            threaded(controller::run(context, args))?;
        }
        Command::Completions(args) => completions::run(context, &args)?,
        Command::Generate(args) => generate::run(context, &args)?,
        command => {
            log_to_stderr(context, &COMMAND_LOG);
            single(talk(context, command))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands that talk to an API server.
async fn talk(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => Box::pin(create::run(context, *args)).await,
        Command::List(args) => list::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Report(args) => Box::pin(report::run(context, args)).await,
        Command::Doctor(args) => Box::pin(doctor::run(context, args)).await,
        Command::Scale(args) => scale::run(context, args).await,
        Command::Resize(args) => resize::run(context, args).await,
        Command::Pause(args) => pause::pause(context, args).await,
        Command::Resume(args) => pause::resume(context, args).await,
        Command::Failover(args) => failover::run(context, args).await,
        Command::Restart(args) => restart::run(context, args).await,
        Command::RotateCredentials(args) => rotate::run(context, args).await,
        Command::Upgrade(args) => Box::pin(upgrade::run(context, args)).await,
        Command::BackupNow(args) => backup_now::run(context, args).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Backups(args) => backups::run(context, args).await,
        Command::Restore(args) => Box::pin(restore::run(context, *args)).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Connect(args) => connect::run(context, args).await,
        Command::Expose(args) => expose::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Events(args) => events::run(context, args).await,
        Command::History(args) => history::run(context, args).await,
        Command::Install(args) => Box::pin(install::run(context, args)).await,
        Command::Uninstall(args) => Box::pin(uninstall::run(context, args)).await,
        Command::Version(args) => version::run(context, args).await,
        Command::Controller(_)
        | Command::Sandbox(_)
        | Command::Completions(_)
        | Command::Agent(_)
        | Command::Generate(_) => Ok(()),
    }
}

/// Runs on this thread: what a command line needs, without the start of any other.
fn single<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    block_on(tokio::runtime::Builder::new_current_thread(), work)
}

/// Threads of what serves others; it mostly waits, and each thread has memory of its own.
const WORKERS: usize = 4;

/// Runs on several cores, for what serves others.
fn threaded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(cores.min(WORKERS));
    block_on(builder, work)
}

fn block_on<T>(mut builder: tokio::runtime::Builder, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // A read of standard input that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    result
}

/// How much is logged with each further -v. A command has said what went wrong by its error, not by its libraries'.
const COMMAND_LOG: [&str; 4] = ["off,dbctl=warn", "info", "debug", "trace"];
/// The same for what runs for long.
const SERVER_LOG: [&str; 3] = ["info", "debug", "trace"];

/// How lines of a log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// An object for each line, for what collects logs
    Json,
}

/// Logs to standard error. RUST_LOG, where set, decides alone.
fn log_to_stderr(context: &Context, levels: &[&str]) {
    log_as(context, levels, LogFormat::Text);
}

fn log_as(context: &Context, levels: &[&str], format: LogFormat) {
    let level = levels.get(usize::from(context.global.verbose)).or(levels.last()).unwrap_or(&"info");
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => log.with_ansi(context.ui.colors_err()).try_init(),
        // What is said and with what stands side by side, as `kubectl logs … | jq` wants it.
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let help = command().render_long_help().to_string();
        for (outcome, meaning) in Outcome::TABLE {
            assert!(help.contains(&format!("{}  {meaning}", outcome.code())), "{help}");
        }
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_it() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} has no help");
                // Jobs inside pods, and parts of the sandbox, are nobody's to type.
                if sub.is_hide_set() {
                    continue;
                }
                check(sub, &path);
                let shown = sub.get_after_help().map(|help| help.to_string()).unwrap_or_default();
                let examples = shown.strip_prefix("Examples:\n").unwrap_or_default();
                assert!(!examples.is_empty(), "{path} has no examples");
                // `backup now` is `backup-now`, too.
                let own =
                    |line: &str| line.contains(&path) || line.contains(&path.replace("backup ", "backup-"));
                assert!(examples.lines().any(own), "{path} shows something else: {examples}");
            }
        }
        check(&command(), "dbctl");
    }

    /// A command of an example, without its redirections, and what is run beside it.
    fn words(line: &str) -> Option<Vec<String>> {
        let line = line.split(" | ").next()?.split(" > ").next()?.split(" #").next()?;
        let start = line.find("dbctl ")?;
        let line = line.get(start..)?.trim_end_matches([')', '"']);
        let mut words = vec![String::new()];
        let mut quoted = false;
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut()?.push(other),
            }
        }
        words.retain(|word| !word.is_empty());
        Some(words)
    }

    #[test]
    fn every_example_is_understood() {
        fn check(command: &clap::Command) {
            let shown = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            let examples = shown.split("Exit codes:").next().unwrap_or_default().replace("\\\n", "");
            for line in examples.lines().filter(|line| line.starts_with("  ")) {
                let Some(words) = words(line) else { continue };
                let parsed = super::command().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {words:?}: {}", parsed.err().unwrap());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn a_value_that_was_not_quoted_is_recognized() {
        let tip = |args: &[&str], stray| {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            tips(stray, &args)
        };
        let quoted = tip(&["dbctl", "create", "a", "--storage", "5", "potatoes"], "potatoes").join("");
        assert!(quoted.ends_with("--storage '5 potatoes'") && quoted.contains("50Gi"), "{quoted}");
        assert_eq!(tip(&["dbctl", "list", "extra"], "extra"), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_flag_is_answered_with_those_that_the_command_takes() {
        let tip = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            tips("--nope", &args).join("")
        };
        let create = tip(&["dbctl", "--sandbox", "create", "--wait", "a", "--nope"]);
        assert!(create.starts_with("dbctl create takes --") && create.contains("--replicas"), "{create}");
        assert!(create.lines().all(|line| line.len() <= 110), "{create}");
        assert!(
            tip(&["dbctl", "sandbox", "down", "--nope"]).starts_with("dbctl sandbox down takes --timeout")
        );
    }

    #[test]
    fn no_tip_is_better_than_an_empty_one() {
        let said = |args: &[&str]| {
            let mut error = command().try_get_matches_from(args).unwrap_err();
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            advise(&mut error, &args);
            error.render().to_string()
        };
        for args in [&["dbctl", "scale", "x", "3"][..], &["dbctl", "list", "extra"]] {
            let text = said(args);
            assert!(text.contains("unexpected argument") && !text.contains("tip:"), "{text}");
        }
        let pause = said(&["dbctl", "pause", "b", "--dry-run"]);
        assert!(!pause.contains("tip: \n") && !pause.trim_end().ends_with("tip:"), "{pause}");
        assert!(said(&["dbctl", "scale", "x", "--nope"]).contains("tip: dbctl scale takes --replicas"));
    }

    #[test]
    fn a_word_for_yes_or_no_is_taken_as_such() {
        for (word, meant) in
            [("1", true), ("TRUE", true), ("yes", true), ("0", false), ("no", false), ("", false)]
        {
            assert_eq!(yes_or_no(word), Ok(meant), "{word:?}");
        }
        assert!(yes_or_no("banana").unwrap_err().contains("DBCTL_SANDBOX"));
    }

    #[test]
    fn the_sandbox_and_a_kubeconfig_exclude_each_other() {
        let parse = |args: &[&str]| command().try_get_matches_from(args).map_err(|error| error.kind());
        assert_eq!(
            parse(&["dbctl", "--sandbox", "--context", "x", "list"]).err(),
            Some(ErrorKind::ArgumentConflict)
        );
        assert!(parse(&["dbctl", "list", "-n", "x", "--sandbox"]).is_ok());
    }
}
