//! Files that somebody or something has changed: each gets an answer, and none is an empty store.

use std::path::Path;

use super::{Contents, contents, draft, maps};
use crate::sandbox::api::store::{Store, StoreError, Write};

async fn written(path: &Path, keys: u64) -> Contents {
    let store = Store::open(path).unwrap();
    for number in 0..keys {
        let (collection, key) = (maps(), format!("n/{number}"));
        let made = draft(&key, number);
        let write =
            Write { collection: &collection, key: &key, expect: None, draft: Some(&made), guard: None };
        store.write(write).await.unwrap();
    }
    contents(&store)
}

/// Opening gives all there was, or an error that names the file; never a part.
fn whole_or_refused(path: &Path, whole: &Contents, what: &str) -> bool {
    match Store::open(path) {
        Ok(store) => {
            assert_eq!(&contents(&store), whole, "{what}");
            false
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
            true
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_flipped_is_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let whole = written(&path, 20).await;
    let sound = std::fs::read(&path).unwrap();
    let seen = std::fs::read(dir.path().join("store.seen")).unwrap();
    let mut chance = fastrand::Rng::with_seed(11);
    let restore = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dir.path().join("store.seen"), &seen).unwrap();
    };
    let mut refused = 0;
    for length in [0, 1, 8, 64, 320, 511, 4096, sound.len() / 2, sound.len() - 4096, sound.len() - 1] {
        restore(&sound[..length]);
        refused += usize::from(whole_or_refused(&path, &whole, &format!("cut off at {length}")));
    }
    assert!(refused >= 8, "{refused}");
    for _ in 0..60 {
        let (at, bit) = (chance.usize(..sound.len().min(200 * 1024)), chance.u8(..8));
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << bit;
        restore(&flipped);
        whole_or_refused(&path, &whole, &format!("bit {bit} flipped at {at}"));
    }
    for page in (0..sound.len()).step_by(4096) {
        let mut wiped = sound.clone();
        wiped[page..(page + 4096).min(sound.len())].fill(0);
        restore(&wiped);
        whole_or_refused(&path, &whole, &format!("page at {page} wiped"));
    }
    restore(&sound);
    assert!(!whole_or_refused(&path, &whole, "sound"));
}

#[tokio::test]
async fn a_store_that_is_gone_or_older_than_what_was_acknowledged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    written(&path, 3).await;
    let old = std::fs::read(&path).unwrap();
    {
        let store = Store::open(&path).unwrap();
        let (collection, made) = (maps(), draft("n/new", 1));
        let write =
            Write { collection: &collection, key: "n/new", expect: None, draft: Some(&made), guard: None };
        store.write(write).await.unwrap();
    }
    std::fs::write(&path, &old).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Behind { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    // The way out that both name.
    std::fs::write(&path, &old).unwrap();
    std::fs::remove_file(dir.path().join("store.seen")).unwrap();
    assert_eq!(contents(&Store::open(&path).unwrap()).len(), 3);
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    for half in [b"".as_slice(), b"redb\x1a\x0a", &[0; 8192]] {
        std::fs::write(dir.path().join("store.new"), half).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(contents(&store).len(), 0);
        drop(store);
        assert!(!dir.path().join("store.new").exists());
        for name in ["store.redb", "store.seen"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn versions_jump_after_an_end_that_was_not_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    written(&path, 3).await;
    let version = Store::open(&path).unwrap().version();
    assert_eq!(Store::open(&path).unwrap().version(), version, "all was in order");
    let seen = dir.path().join("store.seen");
    let text = std::fs::read_to_string(&seen).unwrap();
    std::fs::write(&seen, text.replace("closed", "open  ")).unwrap();
    let store = Store::open(&path).unwrap();
    assert!(store.version() > version);
    assert!(store.changes_since(&maps(), version).is_err(), "a client from before lists anew");
    let jumped = store.version();
    drop(store);
    assert_eq!(Store::open(&path).unwrap().version(), jumped, "it never goes back");
}
