//! `dbctl agent wal-push` before stores that fail: it ends with 0 only where the store has it, and nothing is overwritten.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use http::Method;

use super::wal::{Place, Wal, stored};
use crate::external::runtime;
use crate::stores::{Action, FaultProxy, Key, Moto, Refusal, Rule, S3sFs};

/// What a store, a network or a clock does to a request.
const FAULTS: [(&str, Action); 12] = [
    ("500", Action::Refuse(Refusal::INTERNAL)),
    ("503", Action::Refuse(Refusal::SLOW_DOWN)),
    ("409", Action::Refuse(Refusal::CONFLICT)),
    ("412 unread", Action::RefuseUnread(Refusal::PRECONDITION)),
    ("expired", Action::Refuse(Refusal::EXPIRED)),
    ("skewed", Action::Refuse(Refusal::SKEWED)),
    ("hang", Action::Hang),
    ("reset", Action::ResetBefore),
    ("lost answer", Action::ResetAfter),
    ("truncated", Action::Truncate(20)),
    ("flipped", Action::Flip(1)),
    ("slow", Action::Slow(1 << 22)),
];

/// Which requests it does that to.
fn when(action: Action) -> [(&'static str, Rule); 6] {
    let put = || Rule::new(action).method(Method::PUT).key("/wal/");
    let list = || Rule::new(action).method(Method::GET).key("list-type");
    [
        ("write", put().once()),
        ("writes", put()),
        ("1st list", list().once()),
        ("2nd list", list().nth(2..=2)),
        ("claim", Rule::new(action).key("claim.json")),
        ("all", Rule::new(action)),
    ]
}

/// Pushes one segment under each fault, and then without it; returns a table of what came of it.
fn each_fault(server: &(dyn Fn() -> (std::net::SocketAddr, Key) + Sync), wal: &Wal) -> String {
    let segment = wal.segments[0].as_str();
    let raw = wal.bytes(segment);
    let (address, key) = server();
    let cell = |name: &str, when: &str, rule: Rule| {
        let prefix = format!("{name}/{when}").replace(' ', "-");
        let proxy = FaultProxy::before(address);
        let (through, direct) =
            (Place::s3(&proxy.url(), &key, &prefix), Place::s3(&format!("http://{address}"), &key, &prefix));
        let found = || runtime().block_on(stored(&direct.open()));
        proxy.rule(rule);
        let first = through.push(&wal.data(), segment);
        let there = found();
        let whole = there.len() == 1 && there[0].1 == raw;
        assert!(first.code == 1 || (first.code == 0 && whole), "{name} {when}: {}", first.transcript());
        assert!(
            there.is_empty() || whole,
            "{name} {when}: {:?}",
            there.iter().map(|(key, _)| key).collect::<Vec<_>>()
        );
        proxy.clear();
        let again = through.push(&wal.data(), segment);
        assert_eq!(again.code, 0, "{name} {when}, and then none: {}", again.transcript());
        assert!(found().len() == 1 && found()[0].1 == raw, "{name} {when}");
        match (first.code, whole) {
            (0, _) => "0",
            (_, true) => "1, there",
            (_, false) => "1",
        }
    };
    let cell = &cell;
    let mut rows: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    // Not all at once: on a busy machine, what a try is given of time would not suffice for any of them.
    for some in FAULTS.chunks(3) {
        rows.extend(std::thread::scope(|scope| {
            let begun: Vec<_> = some
                .iter()
                .map(|&(name, action)| {
                    (
                        name,
                        when(action).map(|(when, rule)| (when, scope.spawn(move || cell(name, when, rule)))),
                    )
                })
                .collect();
            let done = begun
                .into_iter()
                .map(|(name, cells)| (name, cells.map(|(when, cell)| (when, cell.join().unwrap())).to_vec()));
            done.collect::<Vec<_>>()
        }));
    }
    let mut table = format!("{:12}", "");
    rows[0].1.iter().for_each(|(when, _)| write!(table, "{when:10}").unwrap());
    for (name, cells) in rows {
        write!(table, "\n{name:12}").unwrap();
        cells.iter().for_each(|(_, cell)| write!(table, "{cell:10}").unwrap());
    }
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_segment_is_archived_only_where_the_store_has_it() {
    let (wal, server) = (Wal::of(1), S3sFs::start());
    let table = each_fault(&|| (server.address(), server.key()), &wal);
    insta::assert_snapshot!(table, @"
                write     writes    1st list  2nd list  claim     all
    500         0         1         0         0         1         1
    503         0         1         0         0         1         1
    409         1         1         1         1, there  1         1
    412 unread  1         1         1         1, there  1         1
    expired     1         1         1         1, there  1         1
    skewed      1         1         1         1, there  1         1
    hang        0         1         0         0         1         1
    reset       0         1         0         0         1         1
    lost answer 0         0         0         0         1         1
    truncated   0         0         1         1, there  1         1
    flipped     0         0         1         1, there  1         1
    slow        0         0         0         0         0         0
    ");
}

/// Variants of a segment: each with another letter in a row's text, so that its records still follow each other.
fn variants(raw: &[u8], count: usize) -> Vec<Vec<u8>> {
    let text = raw.windows(64).rposition(|window| window.iter().all(u8::is_ascii_hexdigit)).unwrap();
    let variant = |number| {
        let mut variant = raw.to_vec();
        variant[text + number] = b'x';
        variant
    };
    (0..count).map(variant).collect()
}

/// Eight members push eight contents of one segment, all at once.
fn race(wal: &Wal, place: &Place, direct: &Place) {
    let segment = wal.segments[0].as_str();
    let variants = variants(&wal.bytes(segment), 8);
    let members: Vec<_> = variants.iter().map(|variant| wal.member(segment, variant)).collect();
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let pushes: Vec<_> =
            members.iter().map(|member| scope.spawn(|| place.push(member.path(), segment).code)).collect();
        pushes.into_iter().map(|push| push.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| [0, 1].contains(code)), "{codes:?}");
    let archived: Vec<usize> = (0..8).filter(|number| codes[*number] == 0).collect();
    assert!(archived.len() <= 1, "{codes:?}");
    let found = runtime().block_on(stored(&direct.open()));
    assert!(!found.is_empty(), "{codes:?}");
    let kept: BTreeSet<&Vec<u8>> = found.iter().map(|(_, raw)| raw).collect();
    assert!(kept.iter().all(|raw| variants.contains(raw)));
    assert!(archived.iter().all(|number| kept.contains(&variants[*number])), "what was archived is gone");
    // Who comes later is refused, with the words that say what to look for; what is there stays.
    let late = wal.member(segment, &wal.bytes(segment));
    let answer = place.push(late.path(), segment);
    assert!(
        answer.code == 1 && answer.stderr.contains("two servers have written"),
        "{}",
        answer.transcript()
    );
    let after = runtime().block_on(stored(&direct.open()));
    assert_eq!(after, found);
}

#[test]
fn of_many_contents_of_one_segment_none_is_overwritten() {
    let wal = Wal::of(1);
    let (s3s, moto) = (S3sFs::start(), Moto::start());
    let place = |url: &str, key: &Key| Place::s3(url, key, "race");
    let files = tempfile::tempdir().unwrap();
    let directory = Place::directory(&files.path().join("store"));
    race(&wal, &directory, &directory);
    race(&wal, &place(&moto.url(), &moto.key()), &place(&moto.url(), &moto.key()));
    let hostile = FaultProxy::before(s3s.address());
    hostile.ignore_conditions(s3s.key());
    race(&wal, &place(&hostile.url(), &s3s.key()), &place(&s3s.url(), &s3s.key()));
}

/// Kills pushes at all moments of their lives: what can be read then is whole, and in the end it is there.
fn killed(wal: &Wal, place: &Place, direct: &Place) {
    for segment in &wal.segments {
        let raw = wal.bytes(segment);
        let mut cut_short = false;
        // Longer each time, until one comes through.
        for round in 0.. {
            let mut push = place.start_push(&wal.data(), segment);
            std::thread::sleep(Duration::from_millis(fastrand::u64(8 * round..8 * round + 8)));
            push.kill().unwrap();
            let status = push.wait().unwrap();
            let found = runtime().block_on(stored(&direct.open()));
            let there: Vec<_> = found.iter().filter(|(key, _)| key.contains(segment.as_str())).collect();
            assert!(there.is_empty() || (there.len() == 1 && there[0].1 == raw));
            assert!(!status.success() || there.len() == 1, "it was archived and is not there");
            if status.success() {
                break;
            }
            cut_short = true;
        }
        assert!(cut_short);
        assert_eq!(place.push(&wal.data(), segment).code, 0);
    }
}

#[test]
fn a_killed_push_leaves_nothing_partial_and_is_done_again() {
    let wal = Wal::of(2);
    let server = S3sFs::start();
    let slow = FaultProxy::before(server.address());
    slow.rule(Rule::new(Action::Slow(1 << 22)));
    killed(&wal, &Place::s3(&slow.url(), &server.key(), "k"), &Place::s3(&server.url(), &server.key(), "k"));
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(&directory.path().join("store"));
    killed(&wal, &place, &place);
}

#[test]
fn what_the_store_forbids_is_not_archived_and_told_in_its_words() {
    let (wal, moto) = (Wal::of(1), Moto::start());
    let segment = wal.segments[0].as_str();
    let key = moto.key();
    let push = |key: &Key| Place::s3(&moto.url(), key, "c").push(&wal.data(), segment);
    let refused = |key: &Key, words: &str| {
        let answer = push(key);
        assert!(answer.code == 1 && answer.stderr.contains(words), "{}", answer.transcript());
        assert!(!answer.transcript().contains(&key.secret), "{}", answer.transcript());
    };
    for action in ["s3:PutObject", "s3:ListBucket", "s3:GetObject"] {
        moto.deny(&[action]);
        refused(&key, "AccessDenied");
    }
    moto.allow();
    let fresh = moto.rotate();
    refused(&key, "InvalidAccessKeyId");
    let direct = Place::s3(&moto.url(), moto.administrator(), "c");
    assert_eq!(runtime().block_on(stored(&direct.open())), []);
    assert_eq!(push(&fresh).code, 0);
    assert_eq!(
        runtime().block_on(stored(&direct.open())),
        [(wal.key(segment, &wal.bytes(segment)), wal.bytes(segment))]
    );
}

#[test]
fn what_is_no_segment_of_the_cluster_is_not_archived() {
    let (wal, directory) = (Wal::of(2), tempfile::tempdir().unwrap());
    let place = Place::directory(&directory.path().join("store"));
    let (first, second) = (wal.segments[0].as_str(), wal.segments[1].as_str());
    let raw = wal.bytes(first);
    let mut foreign = raw.clone();
    foreign[24] ^= 1;
    let cases: [(&str, Vec<u8>, &str); 5] = [
        (first, Vec::new(), "take a file of 0 bytes"),
        (first, raw[..raw.len() / 2].to_vec(), "take a file of 524288 bytes"),
        (first, (0..raw.len()).map(|_| fastrand::u8(..)).collect(), "its first page begins with"),
        (first, foreign, "take the file for WAL of system"),
        (second, raw, "its first byte is at"),
    ];
    for (name, bytes, words) in cases {
        let member = wal.member(name, &bytes);
        let answer = place.push(member.path(), name);
        assert!(answer.code == 1 && answer.stderr.contains(words), "{}", answer.transcript());
    }
    assert_eq!(runtime().block_on(stored(&place.open())), []);
    let answer = place.push(Path::new("/"), first);
    assert!(answer.code == 1 && answer.stderr.contains("No such file"), "{}", answer.transcript());
}
