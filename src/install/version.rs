//! Which dbctl wrote what there is, and whether those go together.

use semver::Version;

/// What is known of the versions in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions<'a> {
    /// This program's.
    pub client: &'a str,
    /// That of the controller that works.
    pub controller: Option<&'a str>,
    /// That of the definition of Databases.
    pub definition: Option<&'a str>,
}

/// Versions that do not go together, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What is so, and what comes of it.
    pub problem: String,
    /// What to do.
    pub remedy: Remedy,
}

/// What to do about versions that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// `dbctl install`, with the program that was asked.
    Install,
    /// The program of that version in place of the one that was asked.
    Client(String),
    /// `install`, with the program of that version.
    InstallWith(String),
}

/// Whether a version is newer than another. What cannot be read as one is not.
pub fn is_newer(version: &str, than: &str) -> bool {
    match (Version::parse(version), Version::parse(than)) {
        // Of builds of one version none is newer.
        (Ok(version), Ok(than)) => version.cmp_precedence(&than).is_gt(),
        _ => false,
    }
}

/// A version as the value of a label, which holds no `+`.
pub fn label_value(version: &str) -> String {
    version.replace('+', "_")
}

/// What is wrong between versions, the worst first; nothing where all are the same, or are not known.
pub fn skew(versions: Versions<'_>) -> Vec<Advice> {
    let Versions { client, controller, definition } = versions;
    let mut all = Vec::new();
    let newest = controller.filter(|controller| is_newer(controller, client)).unwrap_or(client);
    let by = |version: &str| {
        if version == client { Remedy::Install } else { Remedy::InstallWith(version.to_owned()) }
    };
    if let Some(definition) = definition {
        if is_newer(newest, definition) {
            let whose = if newest == client { "this dbctl" } else { "the controller" };
            all.push(Advice {
                problem: format!(
                    "the definition of Databases ({definition}) is older than {whose} ({newest}): the API server \
                     drops from Databases what it does not know"
                ),
                remedy: by(newest),
            });
        } else if is_newer(definition, newest) {
            all.push(Advice {
                problem: format!(
                    "the definition of Databases ({definition}) is newer than this dbctl ({client}), which will not \
                     install over it"
                ),
                remedy: Remedy::Client(definition.to_owned()),
            });
        }
    }
    if let Some(controller) = controller {
        if is_newer(client, controller) {
            all.push(Advice {
                problem: format!(
                    "the controller ({controller}) is older than this dbctl ({client}): what is new in this one it \
                     refuses or leaves alone"
                ),
                remedy: Remedy::Install,
            });
        } else if is_newer(controller, client) {
            all.push(Advice {
                problem: format!(
                    "this dbctl ({client}) is older than the controller ({controller}): it may not show what that one \
                     does"
                ),
                remedy: Remedy::Client(controller.to_owned()),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_is_by_precedence() {
        for (version, than, newer) in [
            ("0.2.0", "0.1.9", true),
            ("0.10.0", "0.9.0", true),
            ("1.0.0", "1.0.0", false),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0+b", "1.0.0+a", false),
            ("unknown", "1.0.0", false),
            ("1.0.0", "", false),
        ] {
            assert_eq!(is_newer(version, than), newer, "{version} {than}");
        }
    }

    #[test]
    fn each_skew_has_its_word() {
        use Remedy::{Client, Install, InstallWith};
        let client = |version: &str| Client(version.to_owned());
        let with = |version: &str| InstallWith(version.to_owned());
        type Row = (&'static str, Option<&'static str>, Option<&'static str>, Vec<Remedy>);
        let table: [Row; 10] = [
            ("1.2.0", Some("1.2.0"), Some("1.2.0"), vec![]),
            ("1.2.0", None, None, vec![]),
            ("1.2.0", None, Some("1.2.0"), vec![]),
            // An installation that is to be brought up to date, whole or in part.
            ("1.2.0", Some("1.1.0"), Some("1.1.0"), vec![Install, Install]),
            ("1.2.0", Some("1.1.0"), Some("1.2.0"), vec![Install]),
            ("1.2.0", Some("1.2.0"), Some("1.1.0"), vec![Install]),
            // The program that was asked is behind.
            ("1.2.0", Some("1.3.0"), Some("1.3.0"), vec![client("1.3.0")]),
            ("1.2.0", Some("1.3.0"), Some("1.2.0"), vec![with("1.3.0"), client("1.3.0")]),
            ("1.2.0", None, Some("1.3.0"), vec![client("1.3.0")]),
            ("1.2.0", Some("1.1.0"), Some("1.3.0"), vec![client("1.3.0"), Install]),
        ];
        for (client, controller, definition, remedies) in table {
            let found = skew(Versions { client, controller, definition });
            let found: Vec<Remedy> = found.into_iter().map(|advice| advice.remedy).collect();
            assert_eq!(found, remedies, "{client} {controller:?} {definition:?}");
        }
    }
}
