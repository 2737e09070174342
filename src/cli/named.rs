//! Names of things that are there, as a command line gives them. What is no name of anything is said before anybody is asked:
//! an empty one would ask for the whole list, and one with a slash for something else.

use clap::{Arg, Command};

/// The longest name of an object, a DNS subdomain.
const OBJECT_MAX: usize = 253;
/// The longest name of a namespace, a DNS label.
const LABEL_MAX: usize = 63;

/// Has the names that commands are given looked at, wherever they stand. What is made is left to its own check, which names
/// everything that is wrong with it.
pub fn checked(command: Command) -> Command {
    let makes = command.get_name() == "create";
    command
        .mut_args(|arg| match arg.get_id().as_str() {
            "namespace" => arg.value_parser(namespace),
            "name" if arg.is_positional() && !makes => arg.value_parser(object),
            _ if is_called(&arg, "MEMBER") => arg.value_parser(object),
            _ if is_called(&arg, "DATABASE|URL") => arg.value_parser(source),
            _ => arg,
        })
        .mut_subcommands(checked)
}

fn is_called(arg: &Arg, value: &str) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == value))
}

/// A URL is looked at where it is opened.
fn source(text: &str) -> Result<String, String> {
    if text.contains("://") { Ok(text.to_owned()) } else { object(text) }
}

fn object(text: &str) -> Result<String, String> {
    if text.len() <= OBJECT_MAX && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name has 1 to {OBJECT_MAX} characters of a-z, 0-9, '-' and '.', and begins and ends with a letter or a digit"
    ))
}

fn namespace(text: &str) -> Result<String, String> {
    if text.len() <= LABEL_MAX && is_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a namespace's name has 1 to {LABEL_MAX} characters of a-z, 0-9 and '-', and begins and ends with a letter or a digit"
    ))
}

fn is_label(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn refusal(args: &[&str]) -> Option<(ErrorKind, String)> {
        let parsed = crate::cli::command().try_get_matches_from([&["dbctl"], args].concat());
        parsed.err().map(|error| (error.kind(), error.to_string()))
    }

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for good in ["a", "0", "orders-db", "orders.db-2"] {
            assert_eq!(object(good), Ok(good.to_owned()));
        }
        for bad in ["", " ", "-a", "a-", "A", "a_b", "a/b", "a..b", ".", "é", &"a".repeat(254)] {
            assert!(object(bad).is_err(), "{bad:?}");
        }
        assert!(namespace("shop-2").is_ok());
        for bad in ["", "a.b", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_wrong_usage_that_tells_the_argument_and_its_form() {
        for (args, argument) in [
            (&["status", ""][..], "<NAME>"),
            (&["delete", "", "--yes"], "<NAME>"),
            (&["failover", "db", "--to", ""], "--to <MEMBER>"),
            (&["logs", "db", "-m", "a/b"], "--member <MEMBER>"),
            (&["backup", "verify", " "], "<NAME>"),
            (&["restore", "new", "--from", ""], "--from <DATABASE|URL>"),
            (&["list", "-n", ""], "--namespace <NAMESPACE>"),
            (&["-n", "Shop", "list"], "--namespace <NAMESPACE>"),
        ] {
            let (kind, text) = refusal(args).unwrap();
            assert_eq!(kind, ErrorKind::ValueValidation, "{args:?}: {text}");
            assert!(text.contains(argument) && text.contains("characters of a-z, 0-9"), "{args:?}: {text}");
        }
        assert_eq!(refusal(&["status", "orders-db", "-n", "shop"]), None);
        assert_eq!(refusal(&["restore", "new", "--from", "s3://b/Orders_DB/"]), None);
    }

    #[test]
    fn no_commands_name_is_left_out() {
        fn is_database(arg: &Arg) -> bool {
            arg.get_help().is_some_and(|help| help.to_string().starts_with("Name of the"))
        }
        fn check(command: &Command, path: &str, found: &mut usize) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                check(sub, &path, found);
                if path.ends_with(" create") || !sub.get_positionals().any(is_database) {
                    continue;
                }
                *found += 1;
                let words = path.split(' ').skip(1).chain([""]).collect::<Vec<_>>();
                let (kind, text) = refusal(&words).unwrap();
                assert_eq!(kind, ErrorKind::ValueValidation, "{path}: {text}");
            }
        }
        let mut found = 0;
        check(&crate::cli::command(), "dbctl", &mut found);
        assert!(found > 20, "{found}");
    }
}
