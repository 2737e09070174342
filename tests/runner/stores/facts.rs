//! What backups rely on of `object_store`, as both servers and each fault show it: a new release that answers otherwise
//! fails here first.

use std::net::SocketAddr;
use std::time::Duration;

use futures::TryStreamExt;
use http::Method;
use object_store::aws::{AmazonS3, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
    WriteMultipart,
};

use super::{Action, FaultProxy, Key, Moto, Refusal, Rule, S3sFs, client, said, settings};

/// Both servers.
struct Both {
    moto: Moto,
    s3s: S3sFs,
}

impl Both {
    fn start() -> Self {
        Self { moto: Moto::start(), s3s: S3sFs::start() }
    }

    fn each(&self) -> [(&'static str, SocketAddr, Key); 2] {
        [("moto", self.moto.address(), self.moto.key()), ("s3s", self.s3s.address(), self.s3s.key())]
    }
}

/// What comes of each kind of call, a line each.
async fn calls(store: &AmazonS3) -> String {
    let path = Path::from("x");
    let words = [
        ("put", said(store.put(&path, "1".into()).await)),
        ("create", said(store.put_opts(&path, "2".into(), PutMode::Create.into()).await)),
        ("get", said(store.get(&path).await)),
        ("list", said(list(store, "").await)),
        ("delete", said(store.delete(&path).await)),
    ];
    words.map(|(call, word)| format!("  {call}: {word}")).join("\n")
}

async fn list(store: &AmazonS3, prefix: &str) -> object_store::Result<Vec<ObjectMeta>> {
    store.list(Some(&Path::from(prefix))).try_collect().await
}

fn names(list: &[ObjectMeta]) -> String {
    list.iter().map(|meta| meta.location.to_string()).collect::<Vec<_>>().join(" ")
}

/// Lists alone do not say `PermissionDenied` or `NotFound`; that a bucket is missing is no more than "not found" either.
#[tokio::test]
async fn refusals_of_servers() {
    let both = Both::start();
    let mut lines = Vec::new();
    for (name, address, key) in both.each() {
        let url = format!("http://{address}");
        let cases = [
            ("wrong secret", client(&url, &Key { secret: "x".to_owned(), ..key.clone() })),
            ("unknown key", client(&url, &Key { id: "AKIANOBODY".to_owned(), ..key.clone() })),
            ("no bucket", settings(&url, &key).with_bucket_name("nowhere").build().unwrap()),
            ("all is well", client(&url, &key)),
        ];
        for (case, store) in cases {
            lines.push(format!("{name}, {case}:\n{}", calls(&store).await));
        }
    }
    lines.push(format!(
        "nobody listens:\n{}",
        calls(&client("http://127.0.0.1:9", &Key::new("x", "x"))).await
    ));
    insta::assert_snapshot!(lines.join("\n"), @r"
    moto, wrong secret:
      put: PermissionDenied SignatureDoesNotMatch
      create: PermissionDenied SignatureDoesNotMatch
      get: PermissionDenied SignatureDoesNotMatch
      list: Generic SignatureDoesNotMatch
      delete: PermissionDenied SignatureDoesNotMatch
    moto, unknown key:
      put: PermissionDenied InvalidAccessKeyId
      create: PermissionDenied InvalidAccessKeyId
      get: PermissionDenied InvalidAccessKeyId
      list: Generic InvalidAccessKeyId
      delete: PermissionDenied InvalidAccessKeyId
    moto, no bucket:
      put: NotFound NoSuchBucket
      create: NotFound NoSuchBucket
      get: NotFound NoSuchBucket
      list: Generic NoSuchBucket
      delete: NotFound NoSuchBucket
    moto, all is well:
      put: ok
      create: AlreadyExists PreconditionFailed
      get: ok
      list: ok
      delete: ok
    s3s, wrong secret:
      put: PermissionDenied SignatureDoesNotMatch
      create: PermissionDenied SignatureDoesNotMatch
      get: PermissionDenied SignatureDoesNotMatch
      list: Generic SignatureDoesNotMatch
      delete: PermissionDenied SignatureDoesNotMatch
    s3s, unknown key:
      put: PermissionDenied NotSignedUp
      create: PermissionDenied NotSignedUp
      get: PermissionDenied NotSignedUp
      list: Generic NotSignedUp
      delete: PermissionDenied NotSignedUp
    s3s, no bucket:
      put: ok
      create: AlreadyExists PreconditionFailed
      get: ok
      list: ok
      delete: ok
    s3s, all is well:
      put: ok
      create: AlreadyExists PreconditionFailed
      get: ok
      list: ok
      delete: ok
    nobody listens:
      put: Generic Connect
      create: Generic Connect
      get: Generic Connect
      list: Generic Connect
      delete: Generic Connect
    ");
}

/// With two retries: an answered failure is retried always, a lost connection never where the request creates or deletes.
#[tokio::test]
async fn faults_and_what_is_tried_again() {
    let server = S3sFs::start();
    let proxy = FaultProxy::before(server.address());
    let refusals = [
        Refusal::INTERNAL,
        Refusal::SLOW_DOWN,
        Refusal::CONFLICT,
        Refusal::PRECONDITION,
        Refusal::SKEWED,
        Refusal::EXPIRED,
    ];
    let others = [Action::Hang, Action::ResetBefore, Action::ResetAfter];
    let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_millis(500));
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(1), ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(60) };
    let store = settings(&proxy.url(), &server.key()).with_client_options(options).with_retry(retry);
    let store = store.build().unwrap();
    let mut lines = Vec::new();
    for fault in refusals.map(Action::Refuse).into_iter().chain(others) {
        proxy.clear();
        proxy.rule(Rule::new(fault));
        proxy.forget();
        let calls = calls(&store).await;
        let asked: Vec<String> = proxy.asked().iter().map(|asked| asked.method.to_string()).collect();
        lines.push(format!("{fault}:\n{calls}\n  asked: {}", asked.join(" ")));
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    InternalError:
      put: Generic InternalError
      create: Generic InternalError
      get: Generic InternalError
      list: Generic InternalError
      delete: Generic InternalError
      asked: PUT PUT PUT PUT PUT PUT GET GET GET GET GET GET POST POST POST
    SlowDown:
      put: Generic SlowDown
      create: Generic SlowDown
      get: Generic SlowDown
      list: Generic SlowDown
      delete: Generic SlowDown
      asked: PUT PUT PUT PUT PUT PUT GET GET GET GET GET GET POST POST POST
    ConditionalRequestConflict:
      put: AlreadyExists ConditionalRequestConflict
      create: AlreadyExists ConditionalRequestConflict
      get: AlreadyExists ConditionalRequestConflict
      list: Generic ConditionalRequestConflict
      delete: AlreadyExists ConditionalRequestConflict
      asked: PUT PUT GET GET POST
    PreconditionFailed:
      put: Precondition PreconditionFailed
      create: AlreadyExists PreconditionFailed
      get: Precondition PreconditionFailed
      list: Generic PreconditionFailed
      delete: Precondition PreconditionFailed
      asked: PUT PUT GET GET POST
    RequestTimeTooSkewed:
      put: PermissionDenied RequestTimeTooSkewed
      create: PermissionDenied RequestTimeTooSkewed
      get: PermissionDenied RequestTimeTooSkewed
      list: Generic RequestTimeTooSkewed
      delete: PermissionDenied RequestTimeTooSkewed
      asked: PUT PUT GET GET POST
    ExpiredToken:
      put: Generic ExpiredToken
      create: Generic ExpiredToken
      get: Generic ExpiredToken
      list: Generic ExpiredToken
      delete: Generic ExpiredToken
      asked: PUT PUT GET GET POST
    Hang:
      put: Generic Timeout
      create: Generic Timeout
      get: Generic Timeout
      list: Generic Timeout
      delete: Generic Timeout
      asked: PUT PUT PUT PUT GET GET GET GET GET GET POST
    ResetBefore:
      put: Generic Interrupted
      create: Generic Interrupted
      get: Generic Interrupted
      list: Generic Interrupted
      delete: Generic Interrupted
      asked: PUT PUT PUT PUT GET GET GET GET GET GET POST
    ResetAfter:
      put: Generic Interrupted
      create: Generic Interrupted
      get: Generic Interrupted
      list: Generic Interrupted
      delete: Generic Interrupted
      asked: PUT PUT PUT PUT GET GET GET GET GET GET POST
    ");
}

/// What has been asked for again is not asked for from the start. No bit is looked at.
#[tokio::test]
async fn a_body_that_ends_early_is_continued() {
    let server = S3sFs::start();
    let proxy = FaultProxy::before(server.address());
    std::fs::write(server.bucket().join("x"), vec![7; 1 << 20]).unwrap();
    let retry = RetryConfig { max_retries: 2, ..RetryConfig::default() };
    let store = settings(&proxy.url(), &server.key()).with_retry(retry).build().unwrap();
    proxy.rule(Rule::new(Action::Truncate(1000)).once());
    let bytes = store.get(&Path::from("x")).await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes, vec![7; 1 << 20]);
    let statuses: Vec<_> = proxy.asked().iter().map(|asked| asked.answer).collect();
    assert_eq!(statuses, [Some(200), Some(206)]);
}

/// A limit on the silence between reads is one on the whole of an upload, too, but none on a long answer.
#[tokio::test]
async fn limits_of_time() {
    let server = S3sFs::start();
    let proxy = FaultProxy::before(server.address());
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(1))
        .with_read_timeout(Duration::from_secs(1));
    let store = settings(&proxy.url(), &server.key()).with_client_options(options).build().unwrap();
    let (path, payload) = (Path::from("x"), vec![7; 60_000]);
    store.put(&path, payload.clone().into()).await.unwrap();
    proxy.rule(Rule::new(Action::Slow(20_000)));
    assert_eq!(said(store.put(&path, payload.clone().into()).await), "Generic Timeout");
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), payload);
    proxy.black_hole();
    let fresh = settings(&proxy.url(), &server.key())
        .with_client_options(
            ClientOptions::new()
                .with_allow_http(true)
                .with_timeout_disabled()
                .with_connect_timeout(Duration::from_millis(300)),
        )
        .build()
        .unwrap();
    // Not told apart from an answer that does not come, so never tried again where that would not be.
    assert_eq!(said(fresh.get(&path).await), "Generic Timeout");
}

#[tokio::test]
async fn multipart_uploads_with_and_without_checksums() {
    const PART: usize = 8 << 20;
    let both = Both::start();
    let bytes: Vec<u8> = (0..2 * PART + 5).map(|at| (at / 7).to_le_bytes()[0]).collect();
    for (name, address, key) in both.each() {
        for checksum in [None, Some(Checksum::SHA256)] {
            let mut settings = settings(&format!("http://{address}"), &key);
            if let Some(checksum) = checksum {
                settings = settings.with_checksum_algorithm(checksum);
            }
            let store = settings.build().unwrap();
            let path = Path::from("base/1.tar");
            store.put(&path, "replaced".into()).await.unwrap();
            let upload = store.put_multipart(&path).await.unwrap();
            let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
            for piece in bytes.chunks(1 << 20) {
                writer.wait_for_capacity(2).await.unwrap();
                writer.write(piece);
            }
            writer.finish().await.unwrap();
            assert!(store.get(&path).await.unwrap().bytes().await.unwrap() == bytes, "{name} {checksum:?}");

            let mut upload = store.put_multipart(&Path::from("base/2.tar")).await.unwrap();
            upload.put_part(bytes[..PART].to_vec().into()).await.unwrap();
            assert_eq!(unfinished(&both, name), 1, "{name}");
            upload.abort().await.unwrap();
            assert_eq!(unfinished(&both, name), 0, "{name}");
            assert_eq!(names(&list(&store, "base").await.unwrap()), "base/1.tar");
        }
    }
}

/// How many parts lie about that belong to no object.
fn unfinished(both: &Both, name: &str) -> usize {
    if name == "moto" {
        return both.moto.uploads().iter().map(|(_, parts)| parts).sum();
    }
    let bucket = both.s3s.bucket();
    let files = std::fs::read_dir(bucket.parent().unwrap()).unwrap().flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with(".upload_id-")).count()
}

/// In the order of bytes, whole directories only, and a thousand in one request; with an offset from there on.
#[tokio::test]
async fn lists() {
    let both = Both::start();
    for (name, address, key) in both.each() {
        let proxy = FaultProxy::before(address);
        let store = client(&proxy.url(), &key);
        for key in ["wal/c", "wal/a", "wal/B", "wal/b/1", "wal/b.x", "walx", "base/1"] {
            store.put(&Path::from(key), "x".into()).await.unwrap();
        }
        proxy.forget();
        assert_eq!(names(&list(&store, "wal").await.unwrap()), "wal/B wal/a wal/b.x wal/b/1 wal/c", "{name}");
        assert_eq!(names(&list(&store, "wal/b").await.unwrap()), "wal/b/1", "{name}");
        let (prefix, offset) = (Path::from("wal"), Path::from("wal/b"));
        let after: Vec<_> = store.list_with_offset(Some(&prefix), &offset).try_collect().await.unwrap();
        assert_eq!(names(&after), "wal/b.x wal/b/1 wal/c", "{name}");
        let asked = proxy.asked().last().unwrap().to_string();
        assert_eq!(asked, "GET /backups?list-type=2&prefix=wal/&start-after=wal/b 200");
        assert_eq!(proxy.count(&Method::GET), 3);
    }
    let folder = both.s3s.bucket().join("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2500 {
        std::fs::write(folder.join(format!("{number:05}")), "").unwrap();
    }
    let proxy = FaultProxy::before(both.s3s.address());
    let store = client(&proxy.url(), &both.s3s.key());
    let found = list(&store, "many").await.unwrap();
    assert!(found.len() == 2500 && found.is_sorted_by_key(|meta| &meta.location));
    assert_eq!(proxy.count(&Method::GET), 3);
    let (prefix, offset) = (Path::from("many"), Path::from("many/02000"));
    let after: Vec<_> = store.list_with_offset(Some(&prefix), &offset).try_collect().await.unwrap();
    assert_eq!((after.len(), proxy.count(&Method::GET)), (499, 4));
}

/// Plain HTTP must be allowed in so many words, and the bucket is part of the path unless asked otherwise.
#[tokio::test]
async fn endpoints() {
    let both = Both::start();
    for (name, address, key) in both.each() {
        let url = format!("http://{address}");
        let path = Path::from("x");
        let strict = settings(&url, &key).with_client_options(ClientOptions::new()).build().unwrap();
        let text = super::chain(&strict.put(&path, "x".into()).await.unwrap_err());
        assert!(text.contains("URL scheme is not allowed"), "{name}: {text}");
        let slash = client(&format!("{url}/"), &key);
        slash.put(&path, "x".into()).await.unwrap();
        // The bucket is taken for the endpoint's own: keys land beside it.
        let hosted = settings(&url, &key).with_virtual_hosted_style_request(true).build().unwrap();
        assert!(hosted.put(&path, "x".into()).await.is_err(), "{name}");
        // With the bucket in the endpoint, keys are where they belong.
        let hosted = settings(&format!("{url}/backups"), &key).with_virtual_hosted_style_request(true);
        hosted.build().unwrap().put(&Path::from("y"), "y".into()).await.unwrap();
        assert_eq!(names(&list(&slash, "").await.unwrap()), "x y", "{name}");
    }
}
