//! Whether each fault is what it is called, as clients see it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use http::Method;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::{Action, FaultProxy, Refusal, Rule};
use crate::stores::{Key, Moto, S3sFs, chain, client, find, settings};
use crate::support::eventually;

/// Long enough for an answer, if there were one.
const BRIEFLY: Duration = Duration::from_millis(300);

/// A store, a proxy, and a client that goes through it.
struct Bench {
    store: S3sFs,
    proxy: FaultProxy,
}

impl Bench {
    fn new() -> Self {
        let store = S3sFs::start();
        let proxy = FaultProxy::before(store.address());
        Self { store, proxy }
    }

    fn client(&self) -> object_store::aws::AmazonS3 {
        client(&self.proxy.url(), &self.store.key())
    }

    /// What the store really holds.
    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.store.bucket().join(key)).ok()
    }

    /// A raw connection.
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn asked(&self) -> Vec<String> {
        self.proxy.asked().iter().map(ToString::to_string).collect()
    }
}

/// Whether an error comes from a reset of the connection.
fn is_reset(error: &Error) -> bool {
    find::<std::io::Error>(error).is_some_and(|io| io.kind() == ErrorKind::ConnectionReset)
}

/// The store sees what the client sent, byte for byte, and the other way round.
#[test]
fn what_is_not_touched_passes_as_it_is() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FaultProxy::before(store.local_addr().unwrap());
    let request =
        b"PUT /backups/a%20b/%2Fc?x=1&y=%3D HTTP/1.1\r\nHost: store.example:9000\r\nX-Amz-Date: now\r\n\
                    authorization: AWS4  x\r\nContent-Length: 5\r\nx-amz-meta-A: 1\r\n\r\nbytes";
    let answer = b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\ncontent-length: 3\r\nX-Amz-Thing: y\r\n\r\nyes";
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = store.accept().unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !seen.ends_with(b"bytes") {
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..length]);
        }
        stream.write_all(answer).unwrap();
        String::from_utf8(seen).unwrap()
    });
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(request).unwrap();
    let mut seen = vec![0; answer.len()];
    client.read_exact(&mut seen).unwrap();
    assert_eq!(serving.join().unwrap(), String::from_utf8_lossy(request));
    assert_eq!(String::from_utf8(seen).unwrap(), String::from_utf8_lossy(answer));
    let asked = proxy.asked();
    assert_eq!(asked[0].to_string(), "PUT /backups/a b//c?x=1&y== 200");
    assert_eq!((asked.len(), asked[0].store, proxy.count(&Method::PUT)), (1, Some(200), 1));
    assert_eq!(proxy.count(&Method::GET), 0);
}

#[tokio::test]
async fn signed_requests_pass_and_are_counted() {
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.address());
    let store = client(&proxy.url(), &moto.key());
    let path = Path::from("a-b/ü+ =&c");
    store.put(&path, "bytes".into()).await.unwrap();
    let list = store.list_with_delimiter(Some(&Path::from("a-b"))).await.unwrap();
    assert_eq!(list.objects[0].location, path);
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "bytes");
    store.delete(&path).await.unwrap();
    let wrong = client(&proxy.url(), &Key { secret: "wrong".to_owned(), ..moto.key() });
    assert!(matches!(wrong.get(&path).await, Err(Error::PermissionDenied { .. })));
    let asked: Vec<String> = proxy.asked().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(asked.join("\n"), @r"
    PUT /backups/a-b/%C3%BC+ =&c 200
    GET /backups?delimiter=/&list-type=2&prefix=a-b/ 200
    GET /backups/a-b/%C3%BC+ =&c 200
    POST /backups?delete 200
    GET /backups/a-b/%C3%BC+ =&c 403
    ");
    proxy.forget();
    assert_eq!(proxy.asked(), []);
}

#[tokio::test]
async fn refusals_are_answered_in_the_form_of_s3() {
    let bench = Bench::new();
    let all = [
        Refusal::INTERNAL,
        Refusal::SLOW_DOWN,
        Refusal::CONFLICT,
        Refusal::SKEWED,
        Refusal::EXPIRED,
        Refusal::PRECONDITION,
    ];
    for refusal in all {
        bench.proxy.clear();
        bench.proxy.rule(Rule::new(Action::Refuse(refusal)).method(Method::PUT).key("wal/").once());
        let url = format!("{}/backups/wal/1", bench.proxy.url());
        let answer = reqwest::Client::new().put(&url).body(vec![0; 1 << 20]).send().await.unwrap();
        assert_eq!(answer.status(), refusal.status);
        let text = answer.text().await.unwrap();
        assert!(text.contains(&format!("<Code>{}</Code>", refusal.code)), "{text}");
        assert_eq!(bench.stored("wal/1"), None);
        let store = bench.client();
        store.put(&Path::from("wal/1"), "again".into()).await.unwrap();
        store.delete(&Path::from("wal/1")).await.unwrap();
    }
    assert_eq!(bench.asked()[0], "PUT /backups/wal/1 500");
    assert_eq!((bench.proxy.asked()[0].store, bench.proxy.asked()[1].store), (None, Some(200)));
}

/// The client is told long before it could have sent everything.
#[test]
fn an_early_refusal_does_not_read_the_body() {
    let bench = Bench::new();
    bench.proxy.rule(Rule::new(Action::RefuseUnread(Refusal::PRECONDITION)));
    let mut stream = bench.connect();
    stream.write_all(b"PUT /backups/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\nsome").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 412");
    // It takes no more: writing fails before all is sent.
    let chunk = vec![0; 1 << 20];
    assert!((0..100).any(|_| stream.write_all(&chunk).is_err()));
}

#[tokio::test]
async fn a_hang_is_never_answered_and_reaches_no_store() {
    let bench = Bench::new();
    bench.proxy.rule(Rule::new(Action::Hang).method(Method::PUT));
    let store = bench.client();
    let path = Path::from("x");
    assert!(tokio::time::timeout(BRIEFLY, store.put(&path, "x".into())).await.is_err());
    assert_eq!(bench.asked(), ["PUT /backups/x -"]);
    assert_eq!(bench.stored("x"), None);
    bench.proxy.clear();
    store.put(&Path::from("x"), "x".into()).await.unwrap();
}

#[tokio::test]
async fn a_reset_comes_before_or_after_the_store_has_done_it() {
    let bench = Bench::new();
    bench.proxy.rule(Rule::new(Action::ResetBefore).key("before"));
    bench.proxy.rule(Rule::new(Action::ResetAfter).key("after"));
    for (key, stored) in [("before", None), ("after", Some(b"x".to_vec()))] {
        let error = bench.client().put(&Path::from(key), "x".into()).await.unwrap_err();
        assert!(is_reset(&error), "{}", chain(&error));
        assert_eq!(bench.stored(key), stored);
    }
    assert_eq!(bench.asked(), ["PUT /backups/before -", "PUT /backups/after -"]);
    assert_eq!(bench.proxy.asked()[1].store, Some(200));
}

#[tokio::test]
async fn bodies_are_cut_and_changed() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(bench.store.bucket().join("x"), &bytes).unwrap();
    let get = async || bench.client().get(&Path::from("x")).await.unwrap().bytes().await;
    assert_eq!(get().await.unwrap(), bytes);

    bench.proxy.rule(Rule::new(Action::Flip(500_000)).method(Method::GET));
    let seen = get().await.unwrap();
    let different: Vec<usize> = (0..bytes.len()).filter(|at| seen[*at] != bytes[*at]).collect();
    assert_eq!((seen.len(), different), (bytes.len(), vec![500_000]));
    bench.proxy.clear();
    bench.proxy.rule(Rule::new(Action::Flip(u64::MAX)).method(Method::GET));
    assert_ne!(get().await.unwrap().last(), bytes.last());

    bench.proxy.clear();
    bench.proxy.rule(Rule::new(Action::Truncate(123_456)).method(Method::GET));
    let error = get().await.unwrap_err();
    assert!(
        chain(&error).contains("unexpected EOF") || chain(&error).contains("end of file"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
// The bounds are lower ones: a busy machine cannot fail it.
async fn slow_is_slow_in_both_directions() {
    let bench = Bench::new();
    bench.proxy.rule(Rule::new(Action::Slow(100_000)));
    let store = bench.client();
    let path = Path::from("x");
    let started = std::time::Instant::now();
    store.put(&path, vec![7; 50_000].into()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
    assert_eq!(bench.stored("x").unwrap(), [7; 50_000]);
    let started = std::time::Instant::now();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), [7; 50_000].as_slice());
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends() {
    let bench = Bench::new();
    let mut idle = bench.connect();
    let store = bench.client();
    store.put(&Path::from("x"), "x".into()).await.unwrap();
    bench.proxy.outage();
    let error = TcpStream::connect(bench.proxy.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(idle.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // One that has no connection left.
    let error = bench.client().get(&Path::from("x")).await.unwrap_err();
    assert!(chain(&error).contains("Connection refused"), "{}", chain(&error));
    bench.proxy.restore();
    store.get(&Path::from("x")).await.unwrap();
}

#[tokio::test]
async fn a_black_hole_answers_nobody() {
    let bench = Bench::new();
    let store = bench.client();
    let path = Path::from("x");
    store.put(&path, "x".into()).await.unwrap();
    bench.proxy.black_hole();
    // Over the connection that there is, and over new ones.
    assert!(tokio::time::timeout(BRIEFLY, store.get(&path)).await.is_err());
    let error = TcpStream::connect_timeout(&bench.proxy.address(), BRIEFLY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    bench.proxy.restore();
    store.get(&path).await.unwrap();
}

/// What comes and goes in the middle of things harms nobody else.
#[tokio::test]
async fn clients_that_go_away_do_not_harm_it() {
    let bench = Bench::new();
    let starts: [&[u8]; 5] = [
        b"",
        b"PUT /backups/x HT",
        b"\x16\x03\x01 not http at all \r\n\r\n",
        b"PUT /backups/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nsome",
        b"GET /backups/x HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for start in starts.iter().cycle().take(100) {
        bench.connect().write_all(start).unwrap();
    }
    let store = bench.client();
    store.put(&Path::from("x"), "x".into()).await.unwrap();
    assert_eq!(store.get(&Path::from("x")).await.unwrap().bytes().await.unwrap(), "x");
    // A store that is gone is a connection that is.
    let proxy = FaultProxy::before(bench.store.address());
    let through = client(&proxy.url(), &bench.store.key());
    through.get(&Path::from("x")).await.unwrap();
    drop(bench);
    eventually("the store is gone", || {
        let gone = TcpStream::connect(proxy.address()).unwrap();
        drop(gone);
        match crate::stores::blocking(through.get(&Path::from("x"))) {
            Ok(_) => Err("it answers".to_owned()),
            Err(error) if is_reset(&error) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    });
}

/// Moto refuses to create what is there, and a store that does not know conditions overwrites it; with wrong keys neither
/// does anything.
#[tokio::test]
async fn a_store_that_ignores_conditions_overwrites() {
    let moto = Moto::start();
    let proxy = FaultProxy::before(moto.address());
    let store = client(&proxy.url(), &moto.key());
    let path = Path::from("claim one.json");
    let create =
        async |bytes: &'static str| store.put_opts(&path, bytes.into(), PutMode::Create.into()).await;
    create("first").await.unwrap();
    assert!(matches!(create("second").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "first");
    proxy.ignore_conditions(moto.key());
    create("third").await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "third");
    // What has no condition keeps its signature.
    let wrong = client(&proxy.url(), &Key { secret: "wrong".to_owned(), ..moto.key() });
    assert!(matches!(wrong.put(&path, "fourth".into()).await, Err(Error::PermissionDenied { .. })));

    // The same on the other server, with payloads that are not signed.
    let bench = Bench::new();
    bench.proxy.ignore_conditions(bench.store.key());
    let store = settings(&bench.proxy.url(), &bench.store.key()).with_unsigned_payload(true).build().unwrap();
    for bytes in ["first", "second"] {
        store.put_opts(&path, bytes.into(), PutMode::Create.into()).await.unwrap();
    }
    assert_eq!(bench.stored("claim one.json").unwrap(), b"second");
}
