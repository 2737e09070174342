//! Several candidates with clocks of their own, and an API server between them that is slow, away, or loses answers: all in
//! simulated time, one happening after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::election::{Election, Record, Step, Terms};

/// A candidate waits no longer than this for an answer, in milliseconds. The request may arrive later all the same.
const LIMIT: u64 = 2000;
/// After a write of which nobody knows what became.
const AGAIN: u64 = 1250;
const CANDIDATES: usize = 3;

/// How one request fares: the way there and back, and whether the answer is lost.
type Way = (u64, u64, bool);

#[derive(Clone, Debug)]
enum Fault {
    /// A process stands still for so long.
    Freeze(usize, u64),
    /// A process ends, and another begins in its place.
    Restart(usize),
    /// Nobody reaches the server for so long.
    Outage(u64),
}

#[derive(Clone, Debug)]
enum Outcome {
    Read(Option<Record>),
    Written(Record),
    Conflict,
    Silence,
}

#[derive(Clone, Debug)]
enum Item {
    Wake,
    Arrive { request: u64, step: Option<Step>, sent: u64, holder: String, back: u64, lost: bool },
    Answer { request: u64, write: bool, sent: u64, outcome: Outcome },
}

struct Candidate {
    election: Election,
    step: Option<Step>,
    /// The request that it waits for.
    waits_for: Option<u64>,
    frozen_until: u64,
    lives: u32,
}

struct World {
    now: u64,
    numbers: u64,
    queue: BTreeMap<(u64, u64), (usize, u32, Item)>,
    faults: BTreeMap<(u64, u64), Fault>,
    ways: Vec<Way>,
    lease: Option<Record>,
    down_until: u64,
    candidates: Vec<Candidate>,
}

/// A candidate's own clock: those of two machines have nothing in common.
fn clock(who: usize, now: u64) -> Duration {
    Duration::from_millis(1_000_000 * (who as u64 * 7 + 1) + now)
}

fn name(who: usize, lives: u32) -> String {
    format!("{who}-{lives}")
}

fn candidate(who: usize, lives: u32) -> Candidate {
    let election = Election::new(name(who, lives), Terms::default());
    Candidate { election, step: None, waits_for: None, frozen_until: 0, lives }
}

impl World {
    fn new(ways: Vec<Way>, faults: Vec<(u64, Fault)>) -> Self {
        let mut world = Self {
            now: 0,
            numbers: 0,
            queue: BTreeMap::new(),
            faults: BTreeMap::new(),
            ways,
            lease: None,
            down_until: 0,
            candidates: (0..CANDIDATES).map(|who| candidate(who, 0)).collect(),
        };
        for (at, fault) in faults {
            let number = world.number();
            world.faults.insert((at, number), fault);
        }
        (0..CANDIDATES).for_each(|who| world.put(who as u64, who, Item::Wake));
        world
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn put(&mut self, after: u64, who: usize, item: Item) {
        let key = (self.now + after, self.number());
        self.queue.insert(key, (who, self.candidates[who].lives, item));
    }

    /// Who believes that it may act.
    fn acting(&self) -> Vec<String> {
        let acts = |who: &usize| {
            self.candidates[*who].election.deadline().is_some_and(|deadline| clock(*who, self.now) < deadline)
        };
        (0..CANDIDATES).filter(acts).map(|who| name(who, self.candidates[who].lives)).collect()
    }

    fn check(&self) {
        let acting = self.acting();
        assert!(acting.len() <= 1, "at {} ms all of {acting:?} act", self.now);
    }

    /// The server's part of a request; a write is a compare-and-swap.
    fn serve(&mut self, step: Option<&Step>, holder: String) -> Outcome {
        let (expected, transitions) = match step {
            Some(Step::Create) => (None, 0),
            Some(Step::Take { version, transitions, .. }) => (Some(version), *transitions),
            _ => return Outcome::Read(self.lease.clone()),
        };
        if self.lease.as_ref().map(|record| &record.version) != expected {
            return Outcome::Conflict;
        }
        let version = self.number().to_string();
        let record = Record { holder, lease: Terms::default().lease, transitions, version };
        self.lease = Some(record.clone());
        Outcome::Written(record)
    }

    /// What a candidate does once it has nothing to wait for, as `keep` does it.
    fn ask(&mut self, who: usize) {
        let step = self.candidates[who].step.take();
        if step == Some(Step::Lost) {
            return self.restart(who);
        }
        let (there, back, lost) = self.ways.pop().unwrap_or((3, 3, false));
        let (request, sent, holder) = (self.number(), self.now, name(who, self.candidates[who].lives));
        self.candidates[who].waits_for = Some(request);
        let write = step.is_some();
        self.put(there, who, Item::Arrive { request, step, sent, holder, back, lost });
        self.put(LIMIT, who, Item::Answer { request, write, sent, outcome: Outcome::Silence });
    }

    fn hear(&mut self, who: usize, write: bool, sent: u64, outcome: Outcome) {
        let (sent, now) = (clock(who, sent), clock(who, self.now));
        let each = &mut self.candidates[who];
        let pause = match outcome {
            Outcome::Written(record) => {
                each.election.wrote(sent, record, now);
                if each.election.deadline().is_some() { 5000 } else { 2000 }
            }
            Outcome::Conflict => 0,
            Outcome::Silence if write => AGAIN,
            Outcome::Silence if each.election.deadline().is_some() => {
                each.step = Some(each.election.step(now));
                0
            }
            Outcome::Silence => 2000,
            Outcome::Read(record) => match each.election.read(sent, record, now) {
                Step::Wait(pause) => u64::try_from(pause.as_millis()).unwrap(),
                step => {
                    each.step = Some(step);
                    0
                }
            },
        };
        self.put(pause, who, Item::Wake);
    }

    fn restart(&mut self, who: usize) {
        self.candidates[who] = candidate(who, self.candidates[who].lives + 1);
        self.put(100, who, Item::Wake);
    }

    fn happen(&mut self, who: usize, lives: u32, item: Item) {
        let frozen = self.candidates[who].frozen_until;
        match item {
            // The request of a process that has ended arrives too.
            Item::Arrive { request, step, sent, holder, back, lost } => {
                if self.now >= self.down_until {
                    let write = step.is_some();
                    let outcome = self.serve(step.as_ref(), holder);
                    if !lost && self.candidates[who].lives == lives {
                        self.put(back, who, Item::Answer { request, write, sent, outcome });
                    }
                }
            }
            _ if self.candidates[who].lives != lives => {}
            item if self.now < frozen => self.put(frozen - self.now, who, item),
            Item::Wake => {
                // One that holds it and knows the version renews without a look.
                let each = &mut self.candidates[who];
                if each.step.is_none() && each.election.deadline().is_some() {
                    each.step = Some(each.election.step(clock(who, self.now)));
                }
                self.ask(who);
            }
            Item::Answer { request, write, sent, outcome } => {
                if self.candidates[who].waits_for.take_if(|waits| *waits == request).is_some() {
                    self.hear(who, write, sent, outcome);
                }
            }
        }
    }

    fn run(&mut self, until: u64) {
        while let Some((&key, _)) = self.queue.first_key_value().filter(|(key, _)| key.0 <= until) {
            if let Some((&at, fault)) = self.faults.first_key_value().filter(|(at, _)| at.0 <= key.0) {
                let fault = fault.clone();
                self.faults.remove(&at);
                self.now = self.now.max(at.0);
                match fault {
                    Fault::Freeze(who, millis) => self.candidates[who].frozen_until = self.now + millis,
                    Fault::Restart(who) => self.restart(who),
                    Fault::Outage(millis) => self.down_until = self.now + millis,
                }
            } else if let Some((who, lives, item)) = self.queue.remove(&key) {
                self.now = self.now.max(key.0);
                self.happen(who, lives, item);
            }
            self.check();
        }
        self.now = until;
    }
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        10 => (0..400_u64, 0..400_u64, prop::bool::weighted(0.1)),
        // It arrives when nobody waits for it any more.
        1 => (0..25_000_u64, 0..4000_u64, prop::bool::weighted(0.2)),
    ]
}

fn fault() -> impl Strategy<Value = (u64, Fault)> {
    let what = prop_oneof![
        (0..CANDIDATES, 0..40_000_u64).prop_map(|(who, millis)| Fault::Freeze(who, millis)),
        (0..CANDIDATES).prop_map(Fault::Restart),
        (0..40_000_u64).prop_map(Fault::Outage),
    ];
    (0..400_000_u64, what)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn two_never_act_and_one_does_in_the_end(
        ways in prop::collection::vec(way(), 0..300),
        faults in prop::collection::vec(fault(), 0..12),
    ) {
        let mut world = World::new(ways, faults);
        world.run(400_000);
        // Every fault is over by then, and what requests were to meet.
        world.ways.clear();
        world.run(500_000);
        let acting = world.acting();
        prop_assert_eq!(acting.len(), 1);
        world.run(800_000);
        prop_assert_eq!(world.acting(), acting, "who holds it keeps it");
    }
}
