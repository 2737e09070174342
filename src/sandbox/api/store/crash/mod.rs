//! What is left after the worst: processes killed at any moment, and disks that forget, tear and reorder.

mod damaged;
mod killed;
mod torn;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::{Draft, Store};

/// What each key holds, by what was written to it.
type Contents = BTreeMap<String, (u64, u64)>;

fn maps() -> Arc<str> {
    "/configmaps".into()
}

/// An object whose every part says which write it is of, and that takes several pages now and then.
fn draft(key: &str, value: u64) -> Draft {
    let filling = format!("{value} ").repeat(if value.is_multiple_of(7) { 3000 } else { 20 });
    Draft::new(&json!({"metadata": {"name": key}, "data": value, "filling": filling})).unwrap()
}

/// What a store holds; every object must be whole.
fn contents(store: &Store) -> Contents {
    let mut contents = Contents::new();
    for (key, record) in store.list("/configmaps", "", None).items {
        let text: serde_json::Value = serde_json::from_slice(record.draft().text()).unwrap();
        let value = text["data"].as_u64().unwrap();
        assert_eq!(record.draft().text(), draft(&key, value).text(), "half an object");
        contents.insert(key.to_string(), (record.version(), value));
    }
    contents
}
