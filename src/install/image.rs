//! The images' build files: whether what pods name is in them. Where no engine can build one, their text is what can be checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use super::standard::pods;
use crate::api::{PgVersion, VERSION};
use crate::sandbox::provision::{DRIVER, PATRONI};

const POSTGRES: &str = include_str!("../../manifests/image/Containerfile");
const CONTROLLER: &str = include_str!("../../manifests/image/controller.Containerfile");

/// The programs of PostgreSQL that Patroni runs by itself, by its manual and `patroni/postgresql`.
const OF_PATRONI: [&str; 6] =
    ["postgres", "initdb", "pg_basebackup", "pg_controldata", "pg_isready", "pg_rewind"];
/// Those that pg_upgrade runs, of both releases.
const OF_PG_UPGRADE: [&str; 9] = [
    "initdb",
    "pg_controldata",
    "pg_ctl",
    "pg_dump",
    "pg_dumpall",
    "pg_resetwal",
    "pg_restore",
    "postgres",
    "psql",
];

/// An instruction of a build file: its word, and the rest with continued lines joined.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Instruction {
    word: String,
    rest: String,
}

fn parse(text: &str) -> Vec<Instruction> {
    let mut all = Vec::new();
    let mut line = String::new();
    for part in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match part.strip_suffix('\\') {
            Some(more) => line.push_str(&format!("{} ", more.trim())),
            None => {
                line.push_str(part.trim());
                let whole = std::mem::take(&mut line);
                if let Some((word, rest)) = whole.split_once(' ') {
                    all.push(Instruction { word: word.to_owned(), rest: rest.trim().to_owned() });
                }
            }
        }
    }
    all
}

/// The last stage: what becomes the image.
fn last_stage(all: &[Instruction]) -> &[Instruction] {
    let start = all.iter().rposition(|instruction| instruction.word == "FROM").unwrap();
    &all[start..]
}

fn rests<'a>(stage: &'a [Instruction], word: &str) -> Vec<&'a str> {
    let wanted = stage.iter().filter(|instruction| instruction.word == word);
    wanted.map(|instruction| instruction.rest.as_str()).collect()
}

/// Variables that stay in the image.
fn environment(stage: &[Instruction]) -> BTreeMap<String, String> {
    let pairs = rests(stage, "ENV").into_iter().flat_map(str::split_whitespace);
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Where a COPY puts things.
fn copied(stage: &[Instruction]) -> Vec<PathBuf> {
    rests(stage, "COPY")
        .into_iter()
        .filter_map(|rest| rest.split_whitespace().last())
        .map(PathBuf::from)
        .collect()
}

/// The programs that the build looks for before it is done.
fn looked_for(stage: &[Instruction], directory: &str) -> BTreeSet<String> {
    let pattern =
        Regex::new(r"for program in ([a-z_ ]+); do test -x ([^;]+)/\$program \|\| exit 1; done").unwrap();
    rests(stage, "RUN")
        .into_iter()
        .flat_map(|run| pattern.captures_iter(run))
        .filter(|found| found[2].trim_matches('"') == directory)
        .flat_map(|found| found[1].split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// What the program itself runs of PostgreSQL and Patroni, by its source.
fn run_by_dbctl() -> BTreeSet<String> {
    let call = Regex::new(
        r#"(?s)(?:Command::new|\bprogram|\btool|\bcommand|\bclient)\(\s*(?:[A-Za-z_&]+(?:\([^()]*\))?,\s*)*"([a-z_]+)""#,
    )
    .unwrap();
    let named = Regex::new(r#"let name = "(pg_[a-z]+)";"#).unwrap();
    let mut found = BTreeSet::new();
    for root in ["src/agent", "src/backup", "src/patroni"] {
        for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root)) {
            let text = std::fs::read_to_string(&file).unwrap();
            // Tests run other things.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let names = call.captures_iter(text).chain(named.captures_iter(text));
            found.extend(names.map(|name| name[1].to_owned()));
        }
    }
    found
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                _ if name.contains("tests") => vec![],
                true => sources(&path),
                false => vec![path],
            }
        })
        .collect()
}

/// The pods of databases, or that of the controller.
fn templates(controller: bool) -> Vec<Value> {
    let all = pods().into_iter().filter(|(name, _)| (*name == "controller") == controller);
    all.map(|(_, template)| template).collect()
}

/// Each container with its pod.
fn containers(templates: &[Value]) -> Vec<(&Value, &Value)> {
    templates
        .iter()
        .flat_map(|template| {
            let spec = &template["spec"];
            spec["containers"].as_array().unwrap().iter().map(move |container| (spec, container))
        })
        .collect()
}

#[test]
fn the_source_names_the_programs() {
    let found = run_by_dbctl();
    for known in [
        "patroni",
        "psql",
        "postgres",
        "initdb",
        "pg_ctl",
        "pg_controldata",
        "pg_waldump",
        "pg_verifybackup",
        "pg_amcheck",
        "pg_upgrade",
        "pg_dumpall",
        "vacuumdb",
    ] {
        assert!(found.contains(known), "{known} is not found any more: {found:?}");
    }
}

/// The build fails where a program is not there, and this test where it does not look for one that is needed.
#[test]
fn every_program_is_looked_for() {
    let all = parse(POSTGRES);
    let stage = last_stage(&all);
    let ours = looked_for(stage, "/usr/lib/postgresql/$PG_MAJOR/bin");
    let before = looked_for(stage, "/usr/lib/postgresql/$PREVIOUS_MAJOR/bin");
    let mut needed = run_by_dbctl();
    assert!(needed.remove("patroni"));
    let upgraded = || OF_PG_UPGRADE.map(str::to_owned);
    needed.extend(OF_PATRONI.map(str::to_owned));
    needed.extend(upgraded());
    assert_eq!(ours, needed);
    assert_eq!(before, BTreeSet::from(upgraded()));
}

#[test]
fn programs_are_found_by_their_names() {
    let all = parse(POSTGRES);
    let stage = last_stage(&all);
    let variables = environment(stage);
    let path: Vec<&str> = variables["PATH"].split(':').collect();
    for directory in ["/opt/patroni/bin", "/usr/local/bin", "/usr/lib/postgresql/$PG_MAJOR/bin"] {
        assert!(path.contains(&directory), "{path:?}");
    }
    assert!(copied(stage).contains(&PathBuf::from("/usr/local/bin/dbctl")));
    // How a kubelet tells the agent to end.
    assert_eq!(rests(stage, "STOPSIGNAL"), ["SIGTERM"]);
    let runs = rests(stage, "RUN").join("\n");
    assert!(runs.contains("/opt/patroni/bin/patroni --version"), "{runs}");
    for (_, container) in containers(&templates(false)) {
        assert_eq!(container["command"][0], "dbctl");
        assert_eq!(container["command"][1], "agent");
    }
    // Only where dbctl looks for them by itself may the variable be left out.
    let previous = crate::agent::previous_programs(16, None);
    assert_eq!(previous, Path::new("/usr/lib/postgresql/16/bin"));
    assert!(!variables.contains_key("POSTGRES_PREVIOUS_BIN"));
}

/// A database that is made with the image, by the very names and versions that the sandbox runs.
#[test]
fn the_software_is_what_is_tested() {
    let all = parse(POSTGRES);
    let runs = rests(last_stage(&all), "RUN").join("\n");
    assert!(runs.contains(&format!("'patroni[kubernetes]=={PATRONI}' '{DRIVER}'")), "{runs}");
    let arguments: Vec<&str> = rests(&all, "ARG");
    assert!(arguments.contains(&format!("POSTGRES={}", PgVersion::DEFAULT).as_str()), "{arguments:?}");
    let previous = arguments.iter().find_map(|argument| argument.strip_prefix("PREVIOUS=")).unwrap();
    let previous: PgVersion = previous.parse().unwrap();
    assert_eq!(previous.major() + 1, PgVersion::DEFAULT.major());
    // What runs in the end says which release it is.
    assert!(
        runs.contains(r#"postgres (PostgreSQL) $POSTGRES"#)
            && runs.contains(r#"postgres (PostgreSQL) $PREVIOUS""#),
        "{runs}"
    );
}

#[test]
fn each_image_has_its_pods_user() {
    for (text, controller) in [(POSTGRES, false), (CONTROLLER, true)] {
        let all = parse(text);
        let user = rests(last_stage(&all), "USER");
        let [user] = user.as_slice() else { panic!("{user:?}") };
        for (spec, _) in containers(&templates(controller)) {
            let security = &spec["securityContext"];
            assert_eq!(*user, format!("{}:{}", security["runAsUser"], security["runAsGroup"]));
        }
    }
    // PostgreSQL looks its own user up.
    let all = parse(POSTGRES);
    let runs = rests(last_stage(&all), "RUN").join("\n");
    assert!(runs.contains(r#"test "$(id -u postgres):$(id -g postgres)" = 999:999"#), "{runs}");
}

/// With a root file system that is read only, what is mounted is all that can be written; and nothing that the image brings may
/// be hidden by a mount.
#[test]
fn mounts_hide_nothing_and_are_there() {
    let all = parse(POSTGRES);
    let stage = last_stage(&all);
    let made = Regex::new(r"install -d -o postgres -g postgres(?: -m [0-7]+)? ([/a-z ]+)").unwrap();
    let made: BTreeSet<PathBuf> = rests(stage, "RUN")
        .iter()
        .flat_map(|run| made.captures_iter(run))
        .flat_map(|found| found[1].split_whitespace().map(PathBuf::from).collect::<Vec<_>>())
        .collect();
    let brought: Vec<PathBuf> =
        copied(stage).into_iter().chain(["/opt/patroni".into(), "/usr/lib/postgresql".into()]).collect();
    // Those that every root file system has.
    let usual: BTreeSet<PathBuf> = ["/tmp", "/dev/shm"].map(PathBuf::from).into();
    let mut seen = BTreeSet::new();
    for (_, container) in containers(&templates(false)) {
        for mount in container["volumeMounts"].as_array().unwrap() {
            let path = PathBuf::from(mount["mountPath"].as_str().unwrap());
            assert!(
                !brought.iter().any(|brought| brought.starts_with(&path)),
                "{} hides something",
                path.display()
            );
            seen.insert(path);
        }
    }
    assert_eq!(seen.difference(&usual).cloned().collect::<BTreeSet<_>>(), made);
    // No volumes of the image's own: nobody would look after them.
    assert!(rests(stage, "VOLUME").is_empty());
    for (_, container) in containers(&templates(false)) {
        let mounts: Vec<&str> = container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        for variable in container["env"].as_array().unwrap() {
            let Some(path) = variable["value"].as_str().filter(|value| value.starts_with('/')) else {
                continue;
            };
            assert!(mounts.iter().any(|mount| Path::new(path).starts_with(mount)), "{path} is in no mount");
        }
    }
}

#[test]
fn the_controllers_image_is_its_program_alone() {
    let all = parse(CONTROLLER);
    let stage = last_stage(&all);
    assert_eq!(rests(stage, "FROM"), ["scratch"]);
    assert_eq!(copied(stage), [PathBuf::from("/usr/local/bin/dbctl")]);
    assert!(rests(stage, "RUN").is_empty(), "there is no shell");
    for (_, container) in containers(&templates(true)) {
        assert_eq!(container["command"], serde_json::json!(["/usr/local/bin/dbctl"]));
        assert!(container.get("volumeMounts").is_none());
    }
    let build = rests(&all, "RUN").join("\n");
    assert!(build.contains("-unknown-linux-musl") && build.contains("--locked"), "{build}");
}

/// No image comes from a place that is not the builder's choice, and both are of this version.
#[test]
fn images_name_no_host_and_their_version() {
    for text in [POSTGRES, CONTROLLER] {
        let all = parse(text);
        for from in rests(&all, "FROM").into_iter().chain(rests(&all, "COPY")) {
            let image = from.strip_prefix("--from=").unwrap_or(from).split_whitespace().next().unwrap();
            let host = image.split_once('/').map_or("", |(first, _)| first);
            assert!(!host.contains(['.', ':']), "{image} names a host");
        }
        assert!(rests(&all, "LABEL").iter().any(|label| label.contains(&format!("version=\"{VERSION}\""))));
        assert!(!all.iter().any(|one| one.word == "ADD" || one.rest.contains("://")));
        let compiler = format!("RUST={}", env!("CARGO_PKG_RUST_VERSION"));
        assert!(rests(&all, "ARG").contains(&compiler.as_str()));
    }
}

#[test]
fn build_files_are_read_as_builders_do() {
    let text = "# comment\nFROM a AS b\nENV A=1 \\\n  # inside\n  B=2\n\nFROM c\nCOPY --from=b /x /y\nRUN one && \\\n  two\n";
    let all = parse(text);
    let stage = last_stage(&all);
    assert_eq!(rests(&all, "FROM"), ["a AS b", "c"]);
    assert_eq!(environment(&all)["B"], "2");
    assert_eq!((copied(stage), rests(stage, "RUN")), (vec![PathBuf::from("/y")], vec!["one && two"]));
    assert!(environment(stage).is_empty());
}
