//! Whether the servers check what tests rely on.

use std::sync::Arc;

use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::{Key, Moto, S3sFs, blocking, client, said};

/// What came of putting, listing, getting and deleting.
async fn each(store: &impl ObjectStore) -> [String; 4] {
    let path = Path::from("kept");
    [
        said(store.put(&path, "changed".into()).await),
        said(store.list_with_delimiter(None).await),
        said(store.get(&path).await),
        said(store.delete(&path).await),
    ]
}

const DONE: [&str; 4] = ["ok"; 4];

/// What `each` says where nothing is allowed, and why. Only a refused list is no `PermissionDenied`.
fn refused(code: &str) -> [String; 4] {
    ["PermissionDenied", "Generic", "PermissionDenied", "PermissionDenied"]
        .map(|variant| format!("{variant} {code}"))
}

#[tokio::test]
async fn moto_knows_right_keys_from_wrong_ones() {
    let moto = Moto::start();
    let key = moto.key();
    let right = client(&moto.url(), &key);
    right.put(&Path::from("kept"), "kept".into()).await.unwrap();
    let wrong = [
        Key { secret: format!("{}x", key.secret), ..key.clone() },
        Key { id: "AKIAUNKNOWN".to_owned(), ..key.clone() },
    ];
    for (wrong, code) in wrong.iter().zip(["SignatureDoesNotMatch", "InvalidAccessKeyId"]) {
        assert_eq!(each(&client(&moto.url(), wrong)).await, refused(code));
    }
    let kept = right.get(&Path::from("kept")).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, "kept");
    assert_eq!(each(&right).await, DONE);
}

#[tokio::test]
async fn moto_denies_single_actions() {
    let moto = Moto::start();
    let (user, administrator) = (client(&moto.url(), &moto.key()), client(&moto.url(), moto.administrator()));
    let actions = ["s3:PutObject", "s3:ListBucket", "s3:GetObject", "s3:DeleteObject"];
    for (number, action) in actions.into_iter().enumerate() {
        administrator.put(&Path::from("kept"), "kept".into()).await.unwrap();
        moto.deny(&[action]);
        let mut expected = DONE.map(str::to_owned);
        expected[number] = refused("AccessDenied")[number].clone();
        // Objects are deleted by a request for many; it is answered, and tells of each.
        expected[3] = expected[3].replace("PermissionDenied", "Generic");
        assert_eq!(each(&user).await, expected, "{action}");
        assert_eq!(each(&administrator).await, DONE, "{action}");
    }
    moto.deny(&["s3:*"]);
    assert_eq!(each(&user).await[..3], refused("AccessDenied")[..3]);
    moto.allow();
    assert_eq!(each(&user).await, DONE);
}

#[tokio::test]
async fn moto_replaces_keys() {
    let moto = Moto::start();
    let old = moto.key();
    let fresh = moto.rotate();
    assert_eq!(fresh, moto.key());
    assert_eq!(each(&client(&moto.url(), &old)).await, refused("InvalidAccessKeyId"));
    assert_eq!(each(&client(&moto.url(), &fresh)).await, DONE);
    moto.expire();
    assert_eq!(each(&client(&moto.url(), &fresh)).await, refused("InvalidAccessKeyId"));
}

/// Of creators of one key that race exactly one wins, and its bytes stay.
#[tokio::test]
async fn moto_lets_one_creator_win() {
    let moto = Moto::start();
    let store = Arc::new(client(&moto.url(), &moto.key()));
    let path = Path::from("claim.json");
    let racers = (0..8).map(|number| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move { said(store.put_opts(&path, number.to_string().into(), PutMode::Create.into()).await) }
    });
    let mut words = join_all(racers).await;
    let winner = words.iter().position(|word| *word == "ok").unwrap();
    let kept = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, winner.to_string());
    words.remove(winner);
    assert_eq!(words, ["AlreadyExists PreconditionFailed"; 7]);
}

#[test]
fn moto_ends_with_its_value_and_other_buckets_are_apart() {
    let moto = Moto::start();
    moto.make_bucket("another");
    let other = super::settings(&moto.url(), &moto.key()).with_bucket_name("another").build().unwrap();
    blocking(other.put(&Path::from("x"), PutPayload::new())).unwrap();
    assert!(blocking(client(&moto.url(), &moto.key()).head(&Path::from("x"))).is_err());
    let process = std::path::PathBuf::from(format!("/proc/{}", moto.process()));
    assert!(process.exists());
    drop(moto);
    assert!(!process.exists());
}

#[tokio::test]
async fn s3s_checks_signatures_conditions_and_checksums() {
    let server = S3sFs::start();
    let store = client(&server.url(), &server.key());
    let path = Path::from("a/b");
    store.put_opts(&path, "one".into(), PutMode::Create.into()).await.unwrap();
    let second = store.put_opts(&path, "two".into(), PutMode::Create.into()).await;
    assert_eq!(said(second), "AlreadyExists PreconditionFailed");
    assert_eq!(std::fs::read(server.bucket().join("a/b")).unwrap(), b"one");
    let wrong = Key { secret: "wrong".to_owned(), ..server.key() };
    assert_eq!(each(&client(&server.url(), &wrong)).await, refused("SignatureDoesNotMatch"));
    assert_eq!(each(&store).await, DONE);
    // Nobody is let in without a signature.
    let answer = reqwest::get(format!("{}/backups/a/b", server.url())).await.unwrap();
    assert_eq!(answer.status(), 403);
}
