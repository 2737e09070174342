//! How long nobody can write, beside Patroni alone on the same machine in the same run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::alone;
use super::chance::{Fault, Role};
use super::cluster::Cluster;
use super::faults::Kind;
use super::report::{self, median_and_worst};
use super::round::{Round, Rounds};
use super::{Bench, number};

/// What is measured.
const KINDS: [Kind; 6] =
    [Kind::Switchover, Kind::DeletePod, Kind::KillPostgres, Kind::KillPod, Kind::FreezePod, Kind::CutAll];
/// What lasts outlasts the lock by far: then the next primary is there before it is over.
const TIME: Duration = Duration::from_secs(35);

/// Whoever is struck has not been restarted lately, as is usual.
const RESTARTS: i32 = 0;

type Gaps = BTreeMap<(Kind, bool), Vec<Duration>>;

/// `ROUNDS=20 cargo test --test runner -- --ignored --nocapture write_gaps`: 50 minutes for twenty of each.
#[test]
#[ignore = "long: ROUNDS says how many of each"]
fn write_gaps_beside_patroni_alone() {
    let Some(bench) = Bench::start() else { return };
    bench.runtime.block_on(async {
        let ours = bench.database("gaps", true).await;
        alone::create(&bench.client, "alone", ours.count).await;
        let theirs = Cluster::of_patroni(bench.client.clone(), "alone", ours.count, bench.start).await;
        let theirs = std::sync::Arc::new(theirs);
        theirs.begin().await;
        let (mut ours, mut theirs) = (Rounds::new(&ours), Rounds::new(&theirs));
        let rounds = number("ROUNDS", 20);
        let mut gaps = Gaps::new();
        let mut all = (Vec::new(), Vec::new());
        for kind in wanted() {
            for number in 1..=rounds {
                let (one, other) = both(&mut ours, &mut theirs, kind).await;
                report::round(&ours.cluster.notes, number, &one);
                print!("     alone");
                report::round(&theirs.cluster.notes, number, &other);
                for (round, is_ours) in [(&one, true), (&other, false)] {
                    gaps.entry((kind, is_ours)).or_default().push(round.gap.0);
                }
                all.0.push(one);
                all.1.push(other);
            }
        }
        table(&gaps);
        for (name, rounds, all) in [("dbctl", &ours, &all.0), ("Patroni alone", &theirs, &all.1)] {
            rounds.ready(RESTARTS).await;
            let lost = super::round::lost_at_the_end(rounds.cluster).await;
            println!("--- {name}");
            let verdict = report::sums(&rounds.cluster.notes, all, lost);
            if name == "dbctl" {
                super::judge(&verdict, true);
            }
        }
    });
}

/// `KINDS=switchover,frozen` are the faults whose names hold one of these; all where nothing is said.
fn wanted() -> Vec<Kind> {
    let words = std::env::var("KINDS").unwrap_or_default();
    let fits = |kind: &Kind| words.split(',').any(|word| kind.to_string().contains(word));
    KINDS.into_iter().filter(fits).collect()
}

/// A round with each. What takes long is mostly waiting, so then both wait at the same time; otherwise one rests.
async fn both(ours: &mut Rounds<'_>, theirs: &mut Rounds<'_>, kind: Kind) -> (Round, Round) {
    let fault = Fault { kind, on: Role::Primary, time: TIME };
    if kind.lasts() {
        tokio::join!(ours.ready(RESTARTS), theirs.ready(RESTARTS));
        return tokio::join!(ours.one(fault, None), theirs.one(fault, None));
    }
    theirs.pause(true);
    ours.ready(RESTARTS).await;
    let one = ours.one(fault, None).await;
    ours.pause(true);
    theirs.ready(RESTARTS).await;
    let other = theirs.one(fault, None).await;
    theirs.pause(true);
    (one, other)
}

fn table(gaps: &Gaps) {
    println!("{:<30}{:>20}{:>28}", "", "dbctl", "Patroni alone");
    println!(
        "{:<30}{:>10}{:>10}{:>14}{:>14}",
        "longest time without a write", "median", "worst", "median", "worst"
    );
    for kind in KINDS {
        let of = |ours: bool| {
            let found = gaps.get(&(kind, ours)).cloned().and_then(median_and_worst);
            found.map(|(median, worst)| (median.as_secs_f64(), worst.as_secs_f64()))
        };
        if let (Some((median, worst)), Some((their_median, their_worst))) = (of(true), of(false)) {
            let name = kind.to_string();
            println!("{name:<30}{median:>8.2} s{worst:>8.2} s{their_median:>12.2} s{their_worst:>12.2} s");
        }
    }
}
