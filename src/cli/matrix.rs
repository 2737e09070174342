//! Which commands take which of the options that are the same everywhere, and why some do not: a table that the definition is
//! held to.

use std::collections::BTreeMap;

/// The options, in the order of the table's columns.
const OPTIONS: [&str; 5] = ["dry-run", "output", "wait", "timeout", "yes"];

/// Why a command lacks an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    /// It has it.
    Yes,
    /// It only shows something: nothing is done that could be shown, waited for or asked about.
    Reads,
    /// It has none, for that reason.
    No(&'static str),
}

use Has::{No, Reads, Yes};

const MADE: Has = No("what it makes destroys nothing, and can be taken back");
const ANNOTATION: Has = No("it is done as soon as it is written, and taken back as easily");
const STATUS: Has = No("`status -o` shows what came of it");
const ITSELF: Has = No("it always waits, as it does the work itself");
const ASIDE: Has = No("it disturbs nobody");

/// A command, and whether it has each of the options.
const TABLE: &[(&str, [Has; 5])] = &[
    ("create", [Yes, Yes, Yes, Yes, MADE]),
    ("list", [Reads, Yes, Reads, Reads, Reads]),
    ("status", [Reads, Yes, No("--watch shows what changes; commands that change wait"), Reads, Reads]),
    ("doctor", [Reads, Yes, Reads, Reads, Reads]),
    ("report", [Reads, Yes, Reads, Reads, Reads]),
    ("scale", [Yes, STATUS, Yes, Yes, No("volumes are kept, the primary stays: back is one more `scale`")]),
    ("resize", [Yes, STATUS, Yes, Yes, No("it disturbs nobody, and what cannot be done is refused")]),
    ("pause", [ANNOTATION, STATUS, ANNOTATION, ANNOTATION, ANNOTATION]),
    ("resume", [ANNOTATION, STATUS, ANNOTATION, ANNOTATION, ANNOTATION]),
    ("failover", [Yes, STATUS, Yes, Yes, Yes]),
    ("restart", [Yes, STATUS, Yes, Yes, Yes]),
    ("rotate-credentials", [Yes, STATUS, Yes, Yes, Yes]),
    ("upgrade", [Yes, STATUS, Yes, Yes, Yes]),
    ("backup-now", [Yes, Yes, Yes, Yes, ASIDE]),
    ("backup now", [Yes, Yes, Yes, Yes, ASIDE]),
    ("backup verify", [No("it changes nothing"), Yes, Yes, Yes, ASIDE]),
    ("backups", [Reads, Yes, Reads, Reads, Reads]),
    ("backups selftest", [Reads, No("it prints one line for each thing it tries"), ITSELF, ITSELF, Reads]),
    ("restore", [Yes, STATUS, Yes, Yes, Yes]),
    ("delete", [Yes, No("nothing is left to show"), No("it waits; --no-wait does not"), Yes, Yes]),
    ("connect", [Reads, No("psql prints"), Reads, Reads, Reads]),
    ("expose", [Yes, Yes, Yes, Yes, No("what it makes is taken back by --stop, which says so by its name")]),
    ("logs", [Reads, No("lines are lines"), Reads, Reads, Reads]),
    ("events", [Reads, No("`kubectl get events -o` prints the objects"), Reads, Reads, Reads]),
    ("history", [Reads, Yes, Reads, Reads, Reads]),
    ("install", [Yes, Yes, Yes, Yes, No("again, it changes nothing; what is unsafe is refused")]),
    ("uninstall", [Yes, No("nothing is left to show"), ITSELF, ITSELF, Yes]),
    ("version", [Reads, Yes, Reads, Reads, Reads]),
    ("controller", [Reads, Reads, Reads, Reads, Reads]),
    ("sandbox up", [MADE, No("`sandbox status -o` shows it"), ITSELF, ITSELF, MADE]),
    ("sandbox down", [MADE, Reads, ITSELF, Yes, No("databases are kept, and the next command starts it")]),
    ("sandbox status", [Reads, Yes, Reads, Reads, Reads]),
    ("sandbox kubeconfig", [Reads, No("--raw prints the file"), Reads, Reads, Reads]),
    ("sandbox logs", [Reads, No("lines are lines"), Reads, Reads, Reads]),
    (
        "sandbox reset",
        [No("all databases go, and nothing else: `list` shows them"), Reads, ITSELF, ITSELF, Yes],
    ),
    ("sandbox fault api", [MADE, No("`fault list -o` shows it"), ITSELF, ITSELF, MADE]),
    ("sandbox fault pod", [MADE, No("`fault list -o` shows it"), ITSELF, ITSELF, MADE]),
    ("sandbox fault list", [Reads, Yes, Reads, Reads, Reads]),
    ("sandbox fault clear", [MADE, Reads, ITSELF, ITSELF, MADE]),
    ("sandbox node", [Reads, Reads, Reads, Reads, Reads]),
    ("sandbox controllers", [Reads, Reads, Reads, Reads, Reads]),
    ("completions", [Reads, Reads, Reads, Reads, Reads]),
];

/// Commands that do something, by their path: those without further commands, and those that do both.
fn commands(command: &clap::Command, path: &str, found: &mut BTreeMap<String, clap::Command>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        if !sub.has_subcommands() || !sub.is_subcommand_required_set() {
            found.insert(path.clone(), sub.clone());
        }
        commands(sub, &path, found);
    }
}

#[test]
fn options_are_where_the_table_says_and_nowhere_else() {
    let mut found = BTreeMap::new();
    commands(&super::command(), "", &mut found);
    let table: BTreeMap<&str, &[Has; 5]> = TABLE.iter().map(|(path, has)| (*path, has)).collect();
    let listed: Vec<&str> = table.keys().copied().collect();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), listed, "commands and table");
    for (path, command) in &found {
        for (option, has) in OPTIONS.iter().zip(table[path.as_str()]) {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(option));
            assert_eq!(arg.is_some(), *has == Yes, "{path} --{option}: {has:?}");
            if let No(why) = has {
                assert!(!why.is_empty(), "{path} --{option}");
            }
        }
    }
}

/// Letters that mean two things, as they do for kubectl: its -f names a file, and follows logs.
const KUBECTLS: [char; 1] = ['f'];

/// The same letter means the same everywhere.
#[test]
fn short_options_mean_one_thing() {
    let mut found = BTreeMap::new();
    commands(&super::command(), "", &mut found);
    let mut meanings: BTreeMap<char, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (path, command) in &found {
        for arg in command.get_arguments() {
            if let (Some(short), Some(long)) = (arg.get_short(), arg.get_long()) {
                let of = meanings.entry(short).or_default().entry(long.to_owned()).or_default();
                of.push(path.clone());
            }
        }
    }
    for (short, longs) in meanings {
        assert!(longs.len() == 1 || KUBECTLS.contains(&short), "-{short}: {longs:?}");
    }
}

/// What asks says so, and can be told not to.
#[test]
fn what_waits_has_a_limit() {
    let mut found = BTreeMap::new();
    commands(&super::command(), "", &mut found);
    for (path, command) in &found {
        let has = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
        assert!(!has("wait") || has("timeout"), "{path} can wait for ever");
    }
}

/// The exit codes that a command may end with beside done, failed and wrong usage.
const CODES: &[(&str, &[u8])] = &[
    ("create", &[4, 5]),
    ("status", &[3, 6]),
    ("doctor", &[3, 6]),
    ("report", &[6]),
    ("scale", &[4, 5, 6]),
    ("resize", &[4, 5, 6]),
    ("pause", &[6]),
    ("resume", &[6]),
    ("failover", &[4, 5, 6]),
    ("restart", &[4, 5, 6]),
    ("rotate-credentials", &[4, 5, 6]),
    ("upgrade", &[4, 5, 6]),
    ("backup-now", &[4, 5, 6]),
    ("backup now", &[4, 5, 6]),
    ("backup verify", &[4, 5, 6]),
    ("backups", &[3, 6]),
    ("backups selftest", &[3]),
    ("restore", &[4, 5, 6]),
    ("delete", &[4, 5, 6]),
    ("connect", &[3, 6]),
    ("expose", &[4, 5, 6]),
    ("logs", &[6]),
    ("events", &[6]),
    ("history", &[6]),
    ("install", &[4, 5]),
    ("uninstall", &[5, 6]),
    ("sandbox down", &[4]),
    ("sandbox status", &[3]),
    ("sandbox logs", &[6]),
    ("sandbox fault api", &[3]),
    ("sandbox fault pod", &[3, 6]),
    ("sandbox fault list", &[3]),
    ("sandbox fault clear", &[3]),
];

fn codes(path: &str) -> Vec<u8> {
    let more = CODES.iter().find(|(own, _)| *own == path).map(|(_, more)| *more).unwrap_or_default();
    [&[0, 1, 2], more].concat()
}

/// What completes from the cluster, by the arguments' names.
fn live(command: &clap::Command) -> String {
    let args =
        command.get_arguments().filter(|arg| arg.get::<clap_complete::engine::ArgValueCompleter>().is_some());
    let names = args.map(|arg| {
        arg.get_long().map_or_else(|| arg.get_id().to_string().to_uppercase(), |long| format!("--{long}"))
    });
    names.collect::<Vec<_>>().join(" ")
}

/// Each command, and what it has of what all should have.
#[test]
fn the_table_of_commands() {
    let mut found = BTreeMap::new();
    commands(&super::command(), "", &mut found);
    let mut table = String::from(
        "| command | examples | -o json | --dry-run | completes | exit codes |\n|---|---|---|---|---|---|\n",
    );
    for (path, command) in &found {
        let has = |long: &str| command.get_arguments().any(|arg| arg.get_long() == Some(long));
        let mark = |yes: bool| if yes { "yes" } else { "" };
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let codes: Vec<String> = codes(path).iter().map(u8::to_string).collect();
        assert!(has("timeout") <= codes.contains(&"4".to_owned()), "{path} has a limit");
        let cells = [
            mark(help.contains("Examples:")),
            mark(has("output")),
            mark(has("dry-run")),
            &live(command),
            &codes.join(" "),
        ]
        .join(" | ");
        table.push_str(&format!("| {path} | {cells} |\n"));
    }
    println!("{table}");
    insta::assert_snapshot!("commands", table);
    for (path, _) in CODES {
        assert!(found.contains_key(*path), "there is no {path}");
    }
}

/// The codes that commands have ended with in journeys are those of the table.
#[test]
fn commands_end_with_no_other_code() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runner");
    let mut seen = 0;
    for file in [
        "data/snapshots/runner__data__refusals__refusals.snap",
        "major/snapshots/runner__major__refused__upgrades.snap",
    ] {
        for line in std::fs::read_to_string(root.join(file)).unwrap().lines() {
            let Some((words, code)) = line.strip_prefix("$ dbctl ").and_then(|line| line.rsplit_once('→'))
            else {
                continue;
            };
            let command = words.split_whitespace().next().unwrap();
            assert!(codes(command).contains(&code.trim().parse().unwrap()), "{line}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}
