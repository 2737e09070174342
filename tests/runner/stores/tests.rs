//! Whether the servers check what tests rely on.

use std::sync::Arc;

use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::{Key, Moto, S3sFs, blocking, client};

/// What came of putting, listing, getting and deleting, in short.
async fn each(store: &impl ObjectStore) -> [&'static str; 4] {
    let path = Path::from("kept");
    [
        word(store.put(&path, "changed".into()).await),
        word(store.list_with_delimiter(None).await),
        word(store.get(&path).await),
        word(store.delete(&path).await),
    ]
}

fn word<T>(result: Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::PermissionDenied { .. }) => "denied",
        Err(Error::Unauthenticated { .. }) => "unauthenticated",
        Err(Error::NotFound { .. }) => "not found",
        Err(Error::AlreadyExists { .. }) => "exists",
        Err(Error::Precondition { .. }) => "precondition",
        Err(Error::Generic { .. }) => "generic",
        Err(_) => "other",
    }
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
    for wrong in wrong {
        let denied = ["denied"; 4];
        assert_eq!(each(&client(&moto.url(), &wrong)).await, denied, "{wrong:?}");
    }
    let kept = right.get(&Path::from("kept")).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, "kept");
    assert_eq!(each(&right).await, ["ok"; 4]);
}

#[tokio::test]
async fn moto_denies_single_actions() {
    let moto = Moto::start();
    let (user, administrator) = (client(&moto.url(), &moto.key()), client(&moto.url(), moto.administrator()));
    let cases = [
        ("s3:PutObject", ["denied", "ok", "ok", "ok"]),
        ("s3:ListBucket", ["ok", "denied", "ok", "ok"]),
        ("s3:GetObject", ["ok", "ok", "denied", "ok"]),
        ("s3:DeleteObject", ["ok", "ok", "ok", "denied"]),
    ];
    for (action, expected) in cases {
        administrator.put(&Path::from("kept"), "kept".into()).await.unwrap();
        moto.deny(&[action]);
        assert_eq!(each(&user).await, expected, "{action}");
        assert_eq!(each(&administrator).await, ["ok"; 4], "{action}");
    }
    moto.deny(&["s3:*"]);
    assert_eq!(each(&user).await, ["denied"; 4]);
    moto.allow();
    assert_eq!(each(&user).await, ["ok"; 4]);
}

#[tokio::test]
async fn moto_replaces_keys() {
    let moto = Moto::start();
    let old = moto.key();
    let fresh = moto.rotate();
    assert_eq!(fresh, moto.key());
    assert_eq!(each(&client(&moto.url(), &old)).await, ["denied"; 4]);
    assert_eq!(each(&client(&moto.url(), &fresh)).await, ["ok"; 4]);
    moto.expire();
    assert_eq!(each(&client(&moto.url(), &fresh)).await, ["denied"; 4]);
}

/// Of creators of one key that race exactly one wins, and its bytes stay.
#[tokio::test]
async fn moto_lets_one_creator_win() {
    let moto = Moto::start();
    let store = Arc::new(client(&moto.url(), &moto.key()));
    let path = Path::from("claim.json");
    let racers = (0..8).map(|number| {
        let (store, path) = (Arc::clone(&store), path.clone());
        async move { word(store.put_opts(&path, number.to_string().into(), PutMode::Create.into()).await) }
    });
    let mut words = join_all(racers).await;
    let winner = words.iter().position(|word| *word == "ok").unwrap();
    let kept = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(kept, winner.to_string());
    words.remove(winner);
    assert_eq!(words, ["exists"; 7]);
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
    assert_eq!(word(store.put_opts(&path, "two".into(), PutMode::Create.into()).await), "exists");
    assert_eq!(std::fs::read(server.bucket().join("a/b")).unwrap(), b"one");
    let wrong = Key { secret: "wrong".to_owned(), ..server.key() };
    assert_eq!(each(&client(&server.url(), &wrong)).await, ["denied"; 4]);
    assert_eq!(each(&store).await, ["ok"; 4]);
    // Nobody is let in without a signature.
    let answer = reqwest::get(format!("{}/backups/a/b", server.url())).await.unwrap();
    assert_eq!(answer.status(), 403);
}
