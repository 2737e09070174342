//! Faults by chance: the same seed, the same faults; pure.

use std::time::Duration;

use super::faults::Kind;

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

/// One fault of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub on: Role,
    pub time: Duration,
}

/// What happens before the next is waited for: a fault, and now and then another one on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub second: Option<(Duration, Fault)>,
    /// How long all is left alone before.
    pub pause: Duration,
}

/// How often each kind comes.
const MIX: [(Kind, u32); 14] = [
    (Kind::Switchover, 12),
    (Kind::DeletePod, 10),
    (Kind::ForceDelete, 6),
    (Kind::KillPostgres, 12),
    (Kind::KillPod, 12),
    (Kind::FreezePod, 9),
    (Kind::FreezePatroni, 6),
    (Kind::FreezePostgres, 6),
    (Kind::CutApi, 6),
    (Kind::CutPeers, 6),
    (Kind::CutAll, 9),
    (Kind::FullDisk, 3),
    (Kind::ApiOutage, 4),
    (Kind::ControllerAway, 3),
];
/// Of a hundred faults of members, how many strike the primary.
const ON_PRIMARY: u32 = 70;
/// Of a hundred steps, in how many two things go wrong at once.
const DOUBLE: u32 = 15;
/// Of a hundred faults that last, how many outlast the lock.
const LONG: u32 = 25;

/// The steps of a run.
pub fn steps(seed: u64) -> impl Iterator<Item = Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || step(&mut random))
}

fn step(random: &mut fastrand::Rng) -> Step {
    let fault = fault(random);
    let second = (random.u32(0..100) < DOUBLE).then(|| {
        let mut second = self::fault(random);
        // Another member, so that the faults of one do not end the other's; one fault of the API server at a time.
        while !fault.kind.strikes_a_member() && !second.kind.strikes_a_member()
            || second.kind == Kind::Switchover
        {
            second = self::fault(random);
        }
        if fault.kind.strikes_a_member() && second.kind.strikes_a_member() {
            second.on = if fault.on == Role::Primary { Role::Replica } else { Role::Primary };
        }
        (Duration::from_millis(random.u64(0..3000)), second)
    });
    Step { fault, second, pause: Duration::from_millis(random.u64(0..1500)) }
}

fn fault(random: &mut fastrand::Rng) -> Fault {
    let mut place = random.u32(0..MIX.iter().map(|(_, weight)| weight).sum());
    let kind = MIX.iter().find_map(|(kind, weight)| {
        let found = place < *weight;
        place = place.saturating_sub(*weight);
        found.then_some(*kind)
    });
    let kind = kind.unwrap_or(Kind::Switchover);
    let on_primary = random.u32(0..100) < ON_PRIMARY || kind == Kind::Switchover;
    let long = random.u32(0..100) < LONG;
    let millis = if long { random.u64(22_000..32_000) } else { random.u64(1_000..9_000) };
    Fault {
        kind,
        on: if on_primary { Role::Primary } else { Role::Replica },
        time: Duration::from_millis(millis),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_says_everything() {
        let run = |seed| steps(seed).take(50).collect::<Vec<_>>();
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn every_kind_comes_and_some_come_together() {
        let all: Vec<Step> = steps(1).take(500).collect();
        let kinds: BTreeSet<Kind> = all.iter().map(|step| step.fault.kind).collect();
        assert_eq!(kinds.len(), MIX.len());
        assert!(all.iter().any(|step| step.fault.on == Role::Replica));
        let doubles: Vec<_> = all.iter().filter_map(|step| Some((step.fault, step.second?.1))).collect();
        assert!((30..150).contains(&doubles.len()), "{}", doubles.len());
        for (first, second) in doubles {
            let members = first.kind.strikes_a_member() && second.kind.strikes_a_member();
            assert!(!members || first.on != second.on, "{first:?} {second:?}");
            assert!(first.kind.strikes_a_member() || second.kind.strikes_a_member());
        }
    }
}
