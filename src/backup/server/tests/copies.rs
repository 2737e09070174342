//! Answers to BASE_BACKUP, good and bad, without a connection.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::bytes::{backup, columns, complete, data, footer, header, message, old_backup, ready, row};
use super::{ZSTD, tablespace};
use crate::backup::server::copy::{Copy, Step};
use crate::backup::server::frame::frame;
use crate::backup::server::{Archive, Compression, Event, Point, ServerError};

/// What the answer yields, as far as it goes.
fn events(major: u32, compression: Compression, answer: &[u8]) -> (Vec<Event>, Result<Copy, ServerError>) {
    let mut copy = Copy::new(major, compression);
    let (mut events, mut buffer) = (Vec::new(), BytesMut::from(answer));
    loop {
        let step = match frame(&mut buffer) {
            Ok(Some(message)) => copy.take(message),
            Ok(None) => return (events, Ok(copy)),
            Err(error) => return (events, Err(error)),
        };
        match step {
            Ok(Step::Event(event)) => events.push(event),
            Ok(Step::More | Step::Begun) => {}
            Err(error) => return (events, Err(error)),
        }
    }
}

/// Whether the answer is taken for a whole backup.
fn is_whole(major: u32, compression: Compression, answer: &[u8]) -> bool {
    let (events, end) = events(major, compression, answer);
    let ends = events.iter().filter(|event| matches!(event, Event::End(_))).count();
    assert!(ends == 0 || ends == 1 && matches!(events.last(), Some(Event::End(_))));
    ends == 1 && end.is_ok()
}

fn expected(suffix: &str) -> Vec<Event> {
    let archive =
        |name: &str, tablespace| Event::Archive(Archive { name: format!("{name}{suffix}"), tablespace });
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    vec![
        archive("16385.tar", Some(tablespace(16385, "/space"))),
        Event::Data(bytes("some")),
        Event::Data(bytes(" of it")),
        Event::Progress(7168),
        archive("base.tar", None),
        Event::Data(bytes("the rest")),
        Event::Manifest(bytes("{}")),
        Event::End(Point { position: 0x200_0138, timeline: 1 }),
    ]
}

#[test]
fn both_formats_mean_the_same() {
    for (suffix, compression) in [("", Compression::None), (".zst", ZSTD)] {
        let (found, copy) = events(15, compression, &backup(suffix).concat());
        assert_eq!(found, expected(suffix));
        let copy = copy.unwrap();
        assert_eq!(copy.start(), Some(Point { position: 0x200_0028, timeline: 1 }));
        assert_eq!(copy.size(), 107 * 1024);
        assert_eq!(copy.tablespaces().collect::<Vec<_>>(), [&tablespace(16385, "/space")]);
    }
    let (found, copy) = events(14, Compression::None, &old_backup().concat());
    let without: Vec<_> =
        expected("").into_iter().filter(|event| !matches!(event, Event::Progress(_))).collect();
    assert_eq!(found, without);
    assert_eq!(copy.unwrap().size(), 107 * 1024);
}

#[test]
fn an_answer_that_breaks_off_is_no_backup() {
    for (major, answer) in [(15, backup("").concat()), (14, old_backup().concat())] {
        for length in 0..answer.len() {
            assert!(!is_whole(major, Compression::None, &answer[..length]), "{major} {length}");
        }
        assert!(is_whole(major, Compression::None, &answer));
    }
}

#[test]
fn an_answer_that_lacks_a_message_is_no_backup() {
    // What carries no more than itself may be missing: names of columns, a piece of data, progress, a second end.
    let dispensable = |message: &[u8], later: &[Vec<u8>]| match message[0] {
        b'T' => true,
        b'C' => later.first().is_some_and(|next| next[0] == b'C' || next[0] == b'Z'),
        b'd' => {
            !matches!(message.get(5), Some(b'n' | b'm')) && message != data(b"d{}") && message != data(b"{}")
        }
        _ => false,
    };
    for (major, answer) in [(15, backup("")), (14, old_backup())] {
        for missing in 0..answer.len() {
            let mut changed = answer.clone();
            let message = changed.remove(missing);
            let whole = is_whole(major, Compression::None, &changed.concat());
            assert_eq!(whole, dispensable(&message, &answer[missing + 1..]), "{major} {missing} {message:?}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let after =
        |messages: &[Vec<u8>]| [header(), vec![message(b'H', &[0, 0, 0])], messages.to_vec()].concat();
    let list = |rows: &[Vec<u8>]| {
        let start = [columns(), row(&[Some("0/2000028"), Some("1")]), complete(), columns()];
        [start.as_slice(), rows, &[complete()]].concat()
    };
    let base = || row(&[None, None, None]);
    let space = data(b"n16385.tar\0/space\0");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("expected a row of WAL position", vec![row(&[None, Some("1")])]),
        ("two points where one was expected", vec![header()[1].clone(); 2]),
        ("unexpected message at Start", vec![complete()]),
        ("unexpected message at Start", vec![ready()]),
        ("unexpected message at Tablespaces", [&header()[..3], &[ready()]].concat()),
        ("announces the archives ", list(&[])),
        ("announces the archives 5.tar", list(&[row(&[Some("5"), Some("/"), None])])),
        ("announces the archives base.tar, base.tar", list(&[base(), base()])),
        ("three columns", list(&[row(&[None, None])])),
        ("invalid digit", list(&[row(&[Some("-5"), Some("/"), None])])),
        ("out of range", list(&[row(&[Some("4294967296"), Some("/"), None])])),
        ("invalid digit", list(&[row(&[None, None, Some("-1")])])),
        ("identifier or its path", list(&[row(&[Some("5"), None, None])])),
        ("data of no archive", after(&[data(b"dx")])),
        ("Not enough bytes remaining", after(&[data(b"")])),
        ("part 'x' of a backup", after(&[data(b"x")])),
        ("without a name and a path", after(&[data(b"n")])),
        ("without a name and a path", after(&[data(b"nbase.tar")])),
        ("without a name and a path", after(&[data(b"nbase.tar\0")])),
        ("without a name and a path", after(&[data(b"nbase.tar\0\0\0")])),
        ("invalid utf-8", after(&[data(b"n\xff\0\0")])),
        ("\"../x\" out of turn", after(&[data(b"n../x\0\0")])),
        ("\"base.tar.zst\" out of turn", after(&[data(b"nbase.tar.zst\0\0")])),
        ("\"16385.tar\" out of turn", after(&[space.clone(), space.clone()])),
        ("moved the tablespace", after(&[data(b"n16385.tar\0/elsewhere\0")])),
        ("moved the tablespace", after(&[data(b"nbase.tar\0/elsewhere\0")])),
        ("progress in no number", after(&[data(b"p\0\0\0\0\0\0\0")])),
        ("progress in no number", after(&[data(b"p\0\0\0\0\0\0\0\0\0")])),
        ("part 'm' of a backup", after(&[data(b"mx")])),
        ("part 'm' of a backup", after(&[data(b"m"), data(b"m")])),
        ("part 'n' of a backup", after(&[data(b"m"), space])),
        ("lacks 16385.tar", after(&[data(b"nbase.tar\0\0"), data(b"m"), data(b"d{}"), message(b'c', b"")])),
        ("unexpected message at Copying", after(&[ready()])),
        ("unexpected message at Stop", [&backup("")[..17], &[data(b"dx")]].concat()),
        ("its backup has no end", [&backup("")[..17], &[ready()]].concat()),
        ("two points where one was expected", [&backup("")[..19], &footer()[1..2]].concat()),
        ("unexpected message at Done", [backup(""), vec![ready()]].concat()),
    ];
    for (expected, answer) in cases {
        let (events, end) = events(16, Compression::None, &answer.concat());
        let Err(error) = end else { panic!("{expected}: {events:?}") };
        assert!(matches!(&error, ServerError::Garbage(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn sizes_that_no_disk_has_do_not_overflow() {
    let huge = row(&[None, None, Some("18446744073709551615")]);
    let mut answer = header();
    answer[5] = huge;
    assert_eq!(events(16, Compression::None, &answer.concat()).1.unwrap().size(), u64::MAX);
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        old in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (major, answer) = if old { (14, old_backup()) } else { (16, backup("")) };
        let mut answer = answer.concat();
        for (at, byte) in damage {
            let at = at.index(answer.len());
            answer[at] = byte;
        }
        is_whole(major, Compression::None, &answer);
    }

    #[test]
    fn messages_in_any_order_do_not_make_it_panic(
        order in Just(backup("")).prop_shuffle(),
        major in 14_u32..19,
    ) {
        is_whole(major, Compression::None, &order.concat());
    }

    #[test]
    fn any_bytes_do_not_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), major in 14_u32..19) {
        let copy = [header(), vec![message(b'H', &[0, 0, 0]), data(&bytes)]].concat();
        is_whole(major, Compression::None, &copy.concat());
        is_whole(major, Compression::None, &bytes);
    }
}
