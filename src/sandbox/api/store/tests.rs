use super::*;
use serde_json::json;

fn draft(value: &str) -> Draft {
    Draft::new(&json!({"metadata": {"name": "a"}, "data": value})).unwrap()
}

fn write<'a>(
    collection: &'a Arc<str>,
    key: &'a str,
    expect: Option<u64>,
    draft: Option<&'a Draft>,
) -> Write<'a> {
    Write { collection, key, expect, draft, guard: None }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let maps: Arc<str> = "/configmaps".into();
    let store = Store::open(&path).unwrap();
    let first = store.write(write(&maps, "n/a", None, Some(&draft("1")))).await.unwrap();
    let second = store.write(write(&maps, "n/a", Some(first.version()), Some(&draft("2")))).await.unwrap();
    let other = store.write(write(&maps, "n/b", None, Some(&draft("3")))).await.unwrap();
    let gone = store.write(write(&maps, "n/b", Some(other.version()), None)).await.unwrap();
    assert!(gone.version() > other.version(), "a deletion has a version of its own");
    drop(store);

    let store = Store::open(&path).unwrap();
    assert_eq!(store.version(), gone.version());
    let found = store.get("/configmaps", "n/a").unwrap();
    assert_eq!((found.version(), found.draft().text()), (second.version(), draft("2").text()));
    assert!(store.get("/configmaps", "n/b").is_none());
    assert!(store.changes_since(&maps, gone.version() - 1).is_err(), "history does not survive");
    assert_eq!(store.changes_since(&maps, gone.version()).unwrap().1.len(), 0);
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let maps: Arc<str> = "/configmaps".into();
    let store = Store::open(&path).unwrap();
    for key in ["n/a", "n/b", "n/c"] {
        store.write(write(&maps, key, None, Some(&draft("1")))).await.unwrap();
    }
    drop(store);
    let sound = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for page in (4096..sound.len()).step_by(4096) {
        let mut damaged = sound.clone();
        damaged[page] = 0xc2;
        std::fs::write(&path, &damaged).unwrap();
        refused += usize::from(Store::open(&path).is_err());
    }
    assert!(refused > 0);
    std::fs::write(&path, &sound).unwrap();
    assert!(Store::open(&path).unwrap().get("/configmaps", "n/b").is_some());
}

#[tokio::test]
async fn a_write_that_builds_on_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    let maps: Arc<str> = "/configmaps".into();
    let first = store.write(write(&maps, "n/a", None, Some(&draft("1")))).await.unwrap();
    assert!(matches!(
        store.write(write(&maps, "n/a", None, Some(&draft("2")))).await,
        Err(WriteError::Stale)
    ));
    assert!(matches!(
        store.write(write(&maps, "n/a", Some(first.version() + 1), None)).await,
        Err(WriteError::Stale)
    ));
    let mut guarded = write(&maps, "n/c", None, None);
    let created = draft("3");
    guarded.draft = Some(&created);
    guarded.guard = Some(("/namespaces", "n"));
    assert!(matches!(store.write(guarded).await, Err(WriteError::GuardMissing)));
}

#[tokio::test]
async fn queued_writes_are_seen_by_writers_and_committed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store.redb")).unwrap());
    let maps: Arc<str> = "/configmaps".into();
    let first = store.version();
    let mut changed = store.subscribe(&maps);
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let (store, maps) = (Arc::clone(&store), Arc::clone(&maps));
            tokio::spawn(async move {
                // Each adds itself to what the others have written, as a compare-and-swap loop.
                loop {
                    let seen = store.latest(&maps, "n/count");
                    let next = seen.as_ref().map_or(0, |record| {
                        serde_json::from_slice::<serde_json::Value>(record.draft().text()).unwrap()["data"]
                            .as_u64()
                            .unwrap()
                    }) + 1;
                    let draft = Draft::new(&json!({"metadata": {"name": number}, "data": next})).unwrap();
                    let expect = seen.map(|record| record.version());
                    match store.write(write(&maps, "n/count", expect, Some(&draft))).await {
                        Ok(_) => break,
                        Err(WriteError::Stale) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    changed.changed().await.unwrap();
    let (_, changes) = store.changes_since(&maps, first).unwrap();
    let counts: Vec<_> = changes
        .iter()
        .map(|change| {
            let text = change.new.as_ref().unwrap().draft().text().to_vec();
            serde_json::from_slice::<serde_json::Value>(&text).unwrap()["data"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(counts, (1..=50).collect::<Vec<_>>());
}
