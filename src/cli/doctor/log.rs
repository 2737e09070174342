//! What a log says of an end: PostgreSQL's words for it, without what every start and stop says.

/// What PostgreSQL calls an end of a session or of itself.
const FATAL: [&str; 2] = ["FATAL:", "PANIC:"];
/// What is said in that manner of every start, stop and failed login.
const USUAL: [&str; 8] = [
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is not yet accepting connections",
    "the database system is in recovery mode",
    "terminating connection due to administrator command",
    "terminating walreceiver process due to administrator command",
    "password authentication failed",
    "no pg_hba.conf entry",
];
/// Longer than this, a line is no help at a glance.
const LENGTH: usize = 300;

/// The last line that tells of an end, from where it begins to tell of it.
pub fn last_fatal(text: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let start = FATAL.iter().find_map(|word| line.find(word))?;
        let told = line.get(start..)?.trim();
        let usual = USUAL.iter().any(|usual| told.contains(usual));
        (!usual).then(|| told.chars().take(LENGTH).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_that_says_why() {
        let log = "2026-11-22 10:00:00 UTC [7] LOG:  starting\n\
            2026-11-22 10:00:01 UTC [7] FATAL:  could not write lock file \"postmaster.pid\": No space left on device\n\
            2026-11-22 10:00:02 UTC [8] FATAL:  the database system is starting up\n\
            2026-11-22 10:00:03,123 INFO: no action\n";
        assert_eq!(
            last_fatal(log).unwrap(),
            "FATAL:  could not write lock file \"postmaster.pid\": No space left on device"
        );
        assert_eq!(last_fatal("LOG:  all is well\n"), None);
        assert_eq!(last_fatal(&format!("x PANIC: {}", "ä".repeat(1000))).unwrap().chars().count(), LENGTH);
    }
}
