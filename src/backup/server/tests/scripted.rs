//! A client before servers that behave in all ways but the usual.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::bytes::{backup, columns, complete, data, header, message, ready, report, row};
use super::{ZSTD, options};
use crate::backup::server::{Address, Compression, Connection, Event, Limits, Mode, ServerError, Target};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
/// How many bytes are on their way at once.
const PIPE: usize = 32 << 10;

fn target() -> Target {
    let address = Address::Unix("/nowhere".into());
    Target {
        address,
        user: "mover".to_owned(),
        password: None,
        tls: None,
        application_name: "test".to_owned(),
    }
}

/// The first message, which has no type.
async fn startup(stream: &mut DuplexStream) -> Vec<u8> {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// A question.
async fn question(stream: &mut DuplexStream) -> Option<String> {
    assert_eq!(stream.read_u8().await.ok()?, b'Q');
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(body.pop(), Some(0));
    Some(String::from_utf8(body).unwrap())
}

/// A server that gives these answers, one to each question, and then closes the connection or says nothing any more; and
/// the questions.
fn server(answers: Vec<Vec<u8>>, closes: bool) -> (DuplexStream, mpsc::UnboundedReceiver<String>) {
    let (near, mut far) = tokio::io::duplex(PIPE);
    let (questions, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let parameters = startup(&mut far).await;
        assert!(String::from_utf8_lossy(&parameters).contains("user\0mover\0"));
        let version = message(b'S', b"server_version\x0016.15 (Debian)\0");
        far.write_all(&[message(b'R', &[0; 4]), version, ready()].concat()).await.unwrap();
        let mut answers = answers.into_iter();
        while let Some(sql) = question(&mut far).await {
            let _ = questions.send(sql);
            let answer = answers.next().unwrap_or_default();
            if far.write_all(&answer).await.is_err() {
                return;
            }
            if closes && answers.len() == 0 {
                return;
            }
        }
    });
    (near, asked)
}

async fn connect(near: DuplexStream, silence: Duration) -> Connection {
    let mode = Mode::Sql { database: "postgres".to_owned() };
    Connection::over(Box::new(near), &target(), &mode, silence).await.unwrap()
}

async fn connected(answers: Vec<Vec<u8>>) -> Connection {
    connect(server(answers, false).0, LONG).await
}

#[tokio::test]
async fn less_compression_is_asked_for_where_the_server_cannot() {
    let refusals = [
        report(b'E', "ERROR", "22023", "could not set compression worker count to 2: Unsupported parameter"),
        report(b'E', "ERROR", "42601", "invalid compression specification: this build does not support it"),
    ];
    let mut answers: Vec<_> = refusals.map(|refusal| [refusal, ready()].concat()).to_vec();
    answers.push(backup("").concat());
    let (near, mut asked) = server(answers, false);
    let mut base = connect(near, LONG).await.base_backup(&options(ZSTD)).await.unwrap();
    assert_eq!(base.compression(), Compression::None);
    let mut last = None;
    while let Some(event) = base.next().await.unwrap() {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::End(_))));
    for expected in ["'level=1,workers=2')", "'level=1')", "MANIFEST_CHECKSUMS 'CRC32C')"] {
        let command = asked.recv().await.unwrap();
        assert!(command.ends_with(expected), "{command} lacks {expected}");
    }
}

#[tokio::test]
async fn a_refusal_for_another_reason_is_final() {
    let refusal = report(b'E', "ERROR", "42501", "permission denied to take a base backup");
    let connection = connected(vec![[refusal, ready()].concat()]).await;
    let Err(error) = connection.base_backup(&options(ZSTD)).await else { panic!() };
    assert_eq!(error.report().unwrap().message, "permission denied to take a base backup");
}

#[tokio::test]
async fn damage_that_is_reported_after_the_end_is_damage() {
    let warning =
        report(b'N', "WARNING", "01000", "checksum verification failed in file \"./base/5/7\", block 3");
    let failure = report(b'E', "ERROR", "XX001", "checksum verification failure during base backup");
    let mut answer = backup("");
    answer.insert(9, warning);
    answer.insert(answer.len() - 2, failure);
    let mut base =
        connected(vec![answer.concat()]).await.base_backup(&options(Compression::None)).await.unwrap();
    let error = loop {
        match base.next().await {
            Ok(Some(event)) => assert!(!matches!(event, Event::End(_)), "a damaged backup ended"),
            Ok(None) => panic!("a damaged backup ended"),
            Err(error) => break error,
        }
    };
    insta::assert_snapshot!(error, @r#"have the server do it: ERROR: checksum verification failure during base backup (SQLSTATE XX001); it had said before: checksum verification failed in file "./base/5/7", block 3"#);
    // The server went on to be ready, which is no end of a backup.
    assert!(matches!(base.next().await, Err(ServerError::Unfinished)));
}

#[tokio::test]
async fn no_more_is_read_than_is_asked_for() {
    let (near, mut far) = tokio::io::duplex(PIPE);
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        startup(&mut far).await;
        let version = message(b'S', b"server_version\x0018.6\0");
        far.write_all(&[message(b'R', &[0; 4]), version, ready()].concat()).await.unwrap();
        question(&mut far).await;
        let begin = [header(), vec![message(b'H', &[0, 0, 0]), data(b"nbase.tar\0\0")]].concat();
        far.write_all(&begin.concat()).await.unwrap();
        let piece = data(&[b"d".as_slice(), &[7; 32 << 10]].concat());
        while far.write_all(&piece).await.is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let mut base = connect(near, LONG).await.base_backup(&options(Compression::None)).await.unwrap();
    let mut received = 0;
    for _ in 0..500 {
        if let Some(Event::Data(bytes)) = base.next().await.unwrap() {
            received += bytes.len();
            let ahead = written.load(Ordering::SeqCst).saturating_sub(received);
            assert!(ahead < 256 << 10, "{ahead} bytes are held");
        }
    }
    assert!(received > 10 << 20);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let mut connection = connect(server(vec![], false).0, SHORT).await;
    assert!(matches!(connection.query("SELECT 1").await, Err(ServerError::Silent { limit: SHORT, .. })));
    // In the middle of a backup, too.
    let (near, _asked) = server(vec![backup("")[..11].concat()], false);
    let mut base = connect(near, SHORT).await.base_backup(&options(Compression::None)).await.unwrap();
    let error = loop {
        match base.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    insta::assert_snapshot!(error, @"hear from the server: silent for 50ms");
    // Before the login is over, all there is is the time for opening.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target { address: Address::Tcp(listener.local_addr().unwrap()), ..target() };
    let limits = Limits { open: SHORT, silence: LONG };
    let Err(error) = Connection::open(&target, &Mode::Replication, limits).await else { panic!() };
    assert!(matches!(error, ServerError::Late { limit: SHORT, .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_says_what_the_server_last_warned_of() {
    let warning = report(b'N', "WARNING", "57P02", "terminating connection because of a crash");
    let answer = [backup("")[..11].concat(), warning].concat();
    let (near, _asked) = server(vec![answer], true);
    let mut base = connect(near, LONG).await.base_backup(&options(Compression::None)).await.unwrap();
    let error = loop {
        match base.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    insta::assert_snapshot!(error, @"hear from the server: it closed the connection; it had said before: terminating connection because of a crash");
}

#[tokio::test]
async fn a_connection_survives_a_refusal_but_not_an_answer_that_nobody_read() {
    let one = [columns(), row(&[Some("1"), None]), complete(), ready()].concat();
    let refusal = report(b'E', "ERROR", "42P01", "relation \"nowhere\" does not exist");
    let mut connection = connected(vec![[refusal, ready()].concat(), one.clone()]).await;
    let error = connection.query("SELECT * FROM nowhere").await.unwrap_err();
    assert_eq!(error.report().unwrap().code, "42P01");
    assert_eq!(connection.query("SELECT 1, NULL").await.unwrap(), [[Some("1".to_owned()), None]]);
    // The server is silent now, and the question is dropped.
    let waiting = tokio::time::timeout(SHORT, connection.query("SELECT pg_sleep(9)"));
    assert!(waiting.await.is_err());
    assert!(matches!(connection.query("SELECT 1").await, Err(ServerError::Unfinished)));
}

#[tokio::test]
async fn a_session_that_the_server_ends_says_why() {
    let fatal = report(b'E', "FATAL", "57P01", "terminating connection due to administrator command");
    let (near, _asked) = server(vec![fatal], true);
    let error = connect(near, LONG).await.query("SELECT 1").await.unwrap_err();
    assert_eq!(error.report().unwrap().code, "57P01");
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    let huge = row(&[Some(&"x".repeat(1 << 20))]).repeat(17);
    let cases = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "announces a message of"),
        (message(b'H', &[0, 0, 0]), "its answer is not made of rows"),
        (message(b'D', b"\0\x01\0\0\0\x01\xff"), "invalid utf-8"),
        (huge, "its answer has more than 16777216 bytes"),
        (message(b'E', b"Sno end"), "unexpected EOF"),
    ];
    for (answer, expected) in cases {
        let error = connected(vec![answer]).await.query("SELECT 1").await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error} lacks {expected}");
    }
}
