//! What a run prints.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::{Double, Lost, doubles};
use super::clients::Notes;
use super::faults::Kind;
use super::history::Handover;
use super::round::Round;

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// The time of day of an instant.
fn clock(notes: &Notes, at: Duration) -> String {
    let ago = jiff::SignedDuration::try_from(notes.now().saturating_sub(at)).unwrap_or_default();
    let time = jiff::Timestamp::now() - ago;
    time.strftime("%H:%M:%S%.3f").to_string()
}

/// One line of a round, and its handovers.
pub fn round(notes: &Notes, number: usize, round: &Round) {
    let healed =
        round.healed.map_or("NEVER WHOLE".to_owned(), |time| format!("whole after {}", seconds(time)));
    let lost =
        if round.lost.is_empty() { String::new() } else { format!(", {} ROWS LOST", round.lost.len()) };
    let trouble = round.trouble.as_ref().map(|trouble| format!(" [{trouble}]")).unwrap_or_default();
    println!(
        "{number:>4} {} {}: no write for {}, {healed}{lost}{trouble}",
        clock(notes, round.began),
        round.what,
        seconds(round.gap.0)
    );
    for handover in &round.handovers {
        println!("       {}", tell(notes, handover));
    }
    if !round.told.is_empty() {
        let told: Vec<String> = round.told.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        println!("       writers were told: {}", told.join("; "));
    }
    for lost in round.lost.iter().take(5) {
        println!("       LOST {}", describe(lost));
    }
}

/// Both instants of a change of primary.
pub fn tell(notes: &Notes, handover: &Handover) -> String {
    let between = handover.first.checked_sub(handover.last);
    let between = between.map_or("OVERLAPPING".to_owned(), |time| format!("{} between", seconds(time)));
    let row = handover.first_row.and_then(|row| row.checked_sub(handover.first));
    let row = row.map(|time| format!(", and {} to the first row", seconds(time))).unwrap_or_default();
    format!(
        "{} acknowledged its last commit at {}, {} its first at {} on timeline {}: {between}{row}",
        handover.from,
        clock(notes, handover.last),
        handover.to,
        clock(notes, handover.first),
        handover.timeline
    )
}

pub fn describe(lost: &Lost) -> String {
    let Lost { commit, degraded } = lost;
    let while_degraded = if *degraded { ", while SyncDegraded" } else { "" };
    format!(
        "row {} of writer {}, acknowledged by {} on timeline {} at {}{while_degraded}",
        commit.n,
        commit.writer,
        commit.member,
        commit.timeline,
        seconds(commit.acked)
    )
}

/// Median and worst.
pub fn median_and_worst(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort();
    Some((*times.get(times.len().checked_sub(1)? / 2)?, *times.last()?))
}

/// A line for each kind of fault.
pub fn kinds(rounds: &[Round]) {
    let mut gaps = BTreeMap::<Kind, Vec<Duration>>::new();
    for round in rounds.iter().filter(|round| round.plain) {
        gaps.entry(round.kind).or_default().push(round.gap.0);
    }
    println!(
        "{:<30}{:>6}{:>12}{:>12}   (of the primary, alone)",
        "fault", "count", "median gap", "worst gap"
    );
    for (kind, gaps) in gaps {
        let count = gaps.len();
        if let Some((median, worst)) = median_and_worst(gaps) {
            println!("{kind:<30}{count:>6}{:>12}{:>12}", seconds(median), seconds(worst));
        }
    }
    let others: Vec<_> = rounds.iter().filter(|round| !round.plain).map(|round| round.gap.0).collect();
    let count = others.len();
    if let Some((median, worst)) = median_and_worst(others) {
        println!(
            "{:<30}{count:>6}{:>12}{:>12}",
            "of replicas, or two at once",
            seconds(median),
            seconds(worst)
        );
    }
}

/// What a run is judged by.
#[derive(Debug)]
pub struct Verdict {
    pub lost: Vec<Lost>,
    pub doubles: Vec<Double>,
    pub unwritable: usize,
    pub never_whole: usize,
}

/// The sums of a run.
pub fn sums(notes: &Notes, rounds: &[Round], lost: Vec<Lost>) -> Verdict {
    let history = notes.history.lock().unwrap();
    let verdict = Verdict {
        lost,
        doubles: doubles(&history),
        unwritable: rounds.iter().filter(|round| !round.writable).count(),
        never_whole: rounds.iter().filter(|round| round.healed.is_none()).count(),
    };
    let degraded = verdict.lost.iter().filter(|lost| lost.degraded).count();
    println!("faults:                  {} in {}", rounds.len(), seconds(notes.now()));
    println!("rows acknowledged:       {}", history.rows.len());
    println!("outcome unknown:         {}", history.unknown.len());
    history.told(Duration::ZERO).iter().for_each(|(why, count)| println!("  {count:>6} {why}"));
    println!("acknowledged with a warning that no standby confirmed: {}", history.unconfirmed);
    println!("acknowledged rows lost:  {}", verdict.lost.len() - degraded);
    println!("lost while SyncDegraded: {degraded}");
    println!("double primaries:        {}", verdict.doubles.iter().filter(|double| double.certain).count());
    println!("too close to tell:       {}", verdict.doubles.iter().filter(|double| !double.certain).count());
    println!("unwritable at the end of a round: {}", verdict.unwritable);
    println!("not whole at the end of a round:  {}", verdict.never_whole);
    for double in &verdict.doubles {
        println!(
            "DOUBLE {:?} and {:?} from {} to {}{}",
            double.one,
            double.other,
            clock(notes, double.from),
            clock(notes, double.to),
            if double.certain { "" } else { ", if at all" }
        );
    }
    for lost in verdict.lost.iter().take(20) {
        println!("LOST {}", describe(lost));
    }
    verdict
}
