//! `dbctl agent wal-fetch`: "there is none" is said only by an archive that answers, and what comes is whole.

use std::fs;
use std::path::PathBuf;

use http::Method;

use super::wal::{Place, Wal};
use crate::external::runtime;
use crate::stores::{Action, FaultProxy, Key, Moto, Refusal, Rule, S3sFs};
use crate::support::{Answer, eventually};

/// Ends a recovery; anything up to 125 is the end of the WAL to it.
const STOP: i32 = 255;
const NONE: i32 = 1;

/// A data directory of its own, that asks for WAL.
struct Asker<'a> {
    wal: &'a Wal,
    home: tempfile::TempDir,
}

impl<'a> Asker<'a> {
    fn new(wal: &'a Wal) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("data/pg_wal")).unwrap();
        Self { wal, home }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn ask(&self, place: &Place, file: &str) -> Answer {
        let answer = place.fetch(&self.data(), self.wal.epoch, file, "pg_wal/RECOVERYXLOG");
        let came = fs::read(self.data().join("pg_wal/RECOVERYXLOG")).ok();
        if answer.code == 0 {
            assert_eq!(came.as_deref(), Some(self.wal.bytes(file).as_slice()), "{file}");
            fs::remove_file(self.data().join("pg_wal/RECOVERYXLOG")).unwrap();
        }
        // Neither half a file nor another's remains.
        assert_eq!(fs::read_dir(self.data().join("pg_wal")).unwrap().count(), 0, "{}", answer.transcript());
        answer
    }

    /// Asks as a recovery and as a standby; nothing is known, and only the recovery must end for that.
    fn ask_in_vain(&self, place: &Place, file: &str, words: &str) {
        let signal = self.data().join("recovery.signal");
        fs::write(&signal, "").unwrap();
        let recovery = self.ask(place, file);
        fs::remove_file(&signal).unwrap();
        fs::write(self.data().join("standby.signal"), "").unwrap();
        let standby = self.ask(place, file);
        for (answer, code) in [(recovery, STOP), (standby, NONE)] {
            assert!(answer.code == code && answer.stderr.contains(words), "{words}: {}", answer.transcript());
        }
    }
}

#[test]
fn what_is_there_comes_and_what_is_not_is_told() {
    let (wal, server) = (Wal::of(4), S3sFs::start());
    let proxy = FaultProxy::before(server.address());
    let place = Place::s3(&proxy.url(), &server.key(), "f");
    let asker = Asker::new(&wal);
    fs::write(asker.data().join("recovery.signal"), "").unwrap();
    let first = wal.segments[0].as_str();
    // Where there is no claim, it may be the archive that has gone.
    assert_eq!(asker.ask(&place, first).code, STOP);
    for segment in &wal.segments[..3] {
        assert_eq!(place.push(&wal.data(), segment).code, 0);
    }
    // The beginning of the fourth only, as of a timeline that ended there.
    let partial = format!("{}.partial", wal.segments[3]);
    let member = wal.member(&partial, &wal.bytes(&wal.segments[3]));
    assert_eq!(place.push(member.path(), &partial).code, 0);
    assert_eq!(asker.ask(&place, &wal.segments[3]).code, NONE);
    assert_eq!(asker.ask(&place, "0000000A.history").code, NONE);

    assert_eq!(asker.ask(&place, first).code, 0);
    // The next ones were fetched in the meantime, so the store need not be there for them.
    let spool = asker.home.path().join("wal-spool").join(wal.epoch.to_string());
    eventually("the next two lie ready", || {
        let there = wal.segments[1..3].iter().all(|segment| spool.join(segment).exists());
        if there { Ok(()) } else { Err(format!("{:?}", fs::read_dir(&spool).map(Iterator::count))) }
    });
    proxy.outage();
    for segment in &wal.segments[1..3] {
        assert_eq!(asker.ask(&place, segment).code, 0);
    }
    // That the fourth was not there is not remembered.
    assert_eq!(asker.ask(&place, &wal.segments[3]).code, STOP);
}

#[test]
fn a_store_that_does_not_say_is_never_taken_for_the_end() {
    let (wal, server) = (Wal::of(2), S3sFs::start());
    let (there, absent) = (wal.segments[0].as_str(), wal.segments[1].as_str());
    assert_eq!(Place::s3(&server.url(), &server.key(), "d").push(&wal.data(), there).code, 0);
    let faults: [(&str, Action); 8] = [
        ("InternalError", Action::Refuse(Refusal::INTERNAL)),
        ("SlowDown", Action::Refuse(Refusal::SLOW_DOWN)),
        ("RequestTimeTooSkewed", Action::Refuse(Refusal::SKEWED)),
        ("ExpiredToken", Action::Refuse(Refusal::EXPIRED)),
        ("failed to", Action::Hang),
        ("failed to", Action::ResetBefore),
        ("failed to", Action::Truncate(30)),
        ("failed to", Action::Flip(1)),
    ];
    let (wal, server) = (&wal, &server);
    std::thread::scope(|scope| {
        for (words, action) in faults {
            // Of what is there, and of what is not: the listing fails.
            for file in [there, absent] {
                scope.spawn(move || {
                    let proxy = FaultProxy::before(server.address());
                    proxy.rule(Rule::new(action).key("list-type"));
                    Asker::new(wal).ask_in_vain(&Place::s3(&proxy.url(), &server.key(), "d"), file, words);
                });
            }
            // Or the object itself.
            scope.spawn(move || {
                let proxy = FaultProxy::before(server.address());
                proxy.rule(Rule::new(action).method(Method::GET).key("/wal/").key(there));
                let place = Place::s3(&proxy.url(), &server.key(), "d");
                Asker::new(wal).ask_in_vain(&place, there, words);
            });
        }
        for silent in [false, true] {
            scope.spawn(move || {
                let proxy = FaultProxy::before(server.address());
                if silent {
                    proxy.black_hole();
                } else {
                    proxy.outage();
                }
                let place = Place::s3(&proxy.url(), &server.key(), "d");
                Asker::new(wal).ask_in_vain(&place, absent, "failed to");
            });
        }
    });
}

#[test]
fn what_is_damaged_or_ambiguous_is_not_restored() {
    let (wal, server) = (Wal::of(3), S3sFs::start());
    let place = Place::s3(&server.url(), &server.key(), "d");
    wal.segments.iter().for_each(|segment| assert_eq!(place.push(&wal.data(), segment).code, 0));
    let object = |segment: &str| server.bucket().join("d").join(wal.key(segment, &wal.bytes(segment)));

    let cut = object(&wal.segments[0]);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    Asker::new(&wal).ask_in_vain(&place, &wal.segments[0], "is damaged");

    // Whole and valid, and of other bytes.
    let mut other = wal.bytes(&wal.segments[1]);
    other[5000] ^= 1;
    fs::write(object(&wal.segments[1]), zstd::bulk::compress(&other, 1).unwrap()).unwrap();
    Asker::new(&wal).ask_in_vain(&place, &wal.segments[1], "are not those that were archived");

    let second = wal.key(&wal.segments[2], &other);
    runtime().block_on(place.open().put(&second, zstd::bulk::compress(&other, 1).unwrap().into())).unwrap();
    Asker::new(&wal).ask_in_vain(&place, &wal.segments[2], "holds 2 contents");
}

#[test]
fn wrong_credentials_are_never_the_end() {
    let (wal, moto) = (Wal::of(2), Moto::start());
    let (there, absent) = (wal.segments[0].as_str(), wal.segments[1].as_str());
    let key = moto.key();
    let place = |key: &Key| Place::s3(&moto.url(), key, "c");
    assert_eq!(place(&key).push(&wal.data(), there).code, 0);
    let asker = Asker::new(&wal);
    let in_vain = |key: &Key, words: &str| {
        [there, absent].iter().for_each(|file| asker.ask_in_vain(&place(key), file, words));
    };
    in_vain(&Key { secret: "wrong".to_owned(), ..key.clone() }, "SignatureDoesNotMatch");
    in_vain(&Key::new("AKIAUNKNOWN", &key.secret), "InvalidAccessKeyId");
    moto.deny(&["s3:ListBucket"]);
    in_vain(&key, "AccessDenied");
    moto.deny(&["s3:GetObject"]);
    asker.ask_in_vain(&place(&key), there, "AccessDenied");
    moto.allow();
    let mut gone = place(&key);
    gone.url = "s3://nosuchbucket/c".to_owned();
    asker.ask_in_vain(&gone, absent, "NoSuchBucket");
    moto.rotate();
    in_vain(&key, "InvalidAccessKeyId");
    assert_eq!(asker.ask(&place(&moto.key()), there).code, 0);
    assert_eq!(asker.ask(&place(&moto.key()), absent).code, NONE);
}
