//! The names of PostgreSQL's settings, and what they may be. Patroni leaves out what it does not know, with a line in its log
//! that nobody reads, so a name that is no setting of the release is refused instead, and so is a value that the setting cannot
//! have.

use super::PgVersion;
use super::values::Kind;

/// One name a line, as `pg_settings` of the last release of each major lists them, but for those that only the server itself
/// sets; behind it the first and the last major that has it, where that is not all of them, and behind a colon what it may be,
/// where that is no text: the widest of what any of the majors takes.
const NAMES: &str = include_str!("parameters.txt");

/// What became of a name, for who still uses it, by PostgreSQL's release notes.
const RENAMED: [(&str, &str); 2] =
    [("force_parallel_mode", "debug_parallel_query"), ("ssl_ecdh_curve", "ssl_groups")];

/// Each name, and the first and the last major that has it.
pub fn known() -> impl Iterator<Item = (&'static str, u8, u8)> {
    NAMES.lines().filter_map(|line| {
        let mut words = line.split(" : ").next()?.split(' ');
        let name = words.next().filter(|name| !name.is_empty())?;
        let mut major = |default| words.next().and_then(|word| word.parse().ok()).unwrap_or(default);
        Some((name, major(PgVersion::FIRST_MAJOR), major(PgVersion::LAST_MAJOR)))
    })
}

/// What is wrong with a setting of that name in that release, after the name. Those of extensions, with a dot in them, are
/// the extension's business.
pub fn parameter_problem(name: &str, release: PgVersion) -> Option<String> {
    if name.contains('.') {
        return None;
    }
    let major = release.major();
    // To PostgreSQL, `Work_Mem` is `work_mem`.
    let Some((_, first, last)) = known().find(|(known, ..)| known.eq_ignore_ascii_case(name)) else {
        return Some(format!("is no setting of PostgreSQL {major}"));
    };
    let since = RENAMED.iter().find(|(old, _)| old.eq_ignore_ascii_case(name));
    let instead = since.map(|(_, new)| format!(": it is {new} now")).unwrap_or_default();
    if major < first {
        Some(format!("is no setting of PostgreSQL {major}: it came with {first}"))
    } else if major > last {
        Some(format!("is no setting of PostgreSQL {major}: {last} was the last to have it{instead}"))
    } else {
        None
    }
}

/// What is wrong with the value of a setting, after its name; what is no setting of PostgreSQL itself may be anything.
pub fn value_problem(name: &str, value: &str) -> Option<String> {
    let of = |line: &'static str| {
        let (known, kind) = line.split_once(" : ")?;
        known.split(' ').next()?.eq_ignore_ascii_case(name).then_some(kind)
    };
    NAMES.lines().find_map(of).and_then(Kind::parse)?.problem(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_release() {
        let says = |name: &str, release: &str| parameter_problem(name, release.parse().unwrap());
        for (name, release) in [
            ("work_mem", "14.1"),
            ("Work_Mem", "18.1"),
            ("DateStyle", "16.1"),
            ("pg_stat_statements.max", "16.1"),
            ("io_method", "18.0"),
        ] {
            assert_eq!(says(name, release), None, "{name}");
        }
        for (name, release, expected) in [
            ("wrok_mem", "16.1", "is no setting of PostgreSQL 16"),
            ("io_method", "17.4", "is no setting of PostgreSQL 17: it came with 18"),
            ("old_snapshot_threshold", "17.4", "is no setting of PostgreSQL 17: 16 was the last to have it"),
            (
                "force_parallel_mode",
                "16.4",
                "is no setting of PostgreSQL 16: 15 was the last to have it: it is debug_parallel_query now",
            ),
            ("server_version", "16.1", "is no setting of PostgreSQL 16"),
        ] {
            assert_eq!(says(name, release).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_within_the_majors() {
        let names: Vec<String> = known().map(|(name, ..)| name.to_lowercase()).collect();
        assert!(names.is_sorted() && names.len() > 350, "{}", names.len());
        assert!(
            known().all(|(_, first, last)| PgVersion::FIRST_MAJOR <= first && last <= PgVersion::LAST_MAJOR)
        );
    }
}
