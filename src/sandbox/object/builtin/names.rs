//! The forms of names, labels and keys, in the API server's words. Each function gives the problems it finds.

use std::sync::LazyLock;

use regex::Regex;

const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";
const ENVIRONMENT: &str = "[-._a-zA-Z][-._a-zA-Z0-9]*";

/// Longest name that is a DNS subdomain.
const SUBDOMAIN_MAX: usize = 253;
/// Longest DNS label, label value and name part.
const LABEL_MAX: usize = 63;

struct Form {
    regex: Option<Regex>,
    problem: String,
}

fn form(pattern: &str, what: &str, examples: &[&str]) -> Form {
    let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    let problem = if examples.is_empty() {
        format!("{what} (regex used for validation is '{pattern}')")
    } else {
        format!("{what} (e.g. {}regex used for validation is '{pattern}')", quoted.join(" or "))
    };
    Form { regex: Regex::new(&format!("^(?:{pattern})$")).ok(), problem }
}

fn check(form: &Form, value: &str, max: usize) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > max {
        problems.push(format!("must be no more than {max} bytes"));
    }
    if !form.regex.as_ref().is_some_and(|regex| regex.is_match(value)) {
        problems.push(form.problem.clone());
    }
    problems
}

/// A lowercase RFC 1123 subdomain.
pub fn subdomain(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                    and must start and end with an alphanumeric character";
        form(SUBDOMAIN, what, &["example.com"])
    });
    check(&FORM, value, SUBDOMAIN_MAX)
}

/// A lowercase RFC 1123 label.
pub fn label(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                    start and end with an alphanumeric character";
        form(LABEL, what, &["my-name", "123-abc"])
    });
    check(&FORM, value, LABEL_MAX)
}

/// An RFC 1035 label.
pub fn label_1035(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character";
        form(LABEL_1035, what, &["my-name", "abc-123"])
    });
    check(&FORM, value, LABEL_MAX)
}

/// A name with an optional DNS prefix, such as a label's key.
pub fn qualified(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                    alphanumeric character";
        form(QUALIFIED, what, &["MyName", "my.name", "123-abc"])
    });
    let parts: Vec<&str> = value.split('/').collect();
    let mut problems = Vec::new();
    let name = match parts.as_slice() {
        [name] => name,
        ["", name] => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        [prefix, name] => {
            problems.extend(subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
            name
        }
        _ => {
            let problem = &FORM.problem;
            return vec![format!(
                "a qualified name {problem} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    }
    problems.extend(check(&FORM, name, LABEL_MAX).into_iter().map(|problem| format!("name part {problem}")));
    problems
}

/// A label's value.
pub fn label_value(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                    and must start and end with an alphanumeric character";
        form(LABEL_VALUE, what, &["MyValue", "my_value", "12345"])
    });
    check(&FORM, value, LABEL_MAX)
}

/// A key of a ConfigMap or a Secret.
pub fn config_key(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        form(CONFIG_KEY, what, &["key.name", "KEY_NAME", "key-name"])
    });
    let mut problems = check(&FORM, value, SUBDOMAIN_MAX);
    match value {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        other if other.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// The name of an environment variable.
pub fn environment(value: &str) -> Vec<String> {
    static FORM: LazyLock<Form> = LazyLock::new(|| {
        let what = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or \
                    '.', and must not start with a digit";
        form(ENVIRONMENT, what, &["my.env-name", "MY_ENV.NAME", "MyEnvName1"])
    });
    // Newer servers take any printable character but '='.
    let printable = !value.is_empty() && value.chars().all(|character| (' '..='~').contains(&character));
    if printable && !value.contains('=') { Vec::new() } else { check(&FORM, value, usize::MAX) }
}

/// A name as a path's segment, which some kinds (those of RBAC) ask no more of.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|part| value.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}
