//! Data of before restores in place: what there is of it, and its end, once the controller has noted that for good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ulid::Ulid;

use super::aside;
use super::member::Member;
use crate::api::{Kept, Mark, discarded};

/// How often it is looked whether something is to be removed, for as long as there is something.
const LOOK: Duration = Duration::from_secs(5);

/// What there is, with sizes once they are counted: that takes a while, and they do not change.
#[derive(Debug, Default)]
pub struct Attic {
    sizes: Mutex<BTreeMap<Ulid, u64>>,
}

impl Attic {
    /// All that is kept.
    pub fn list(&self, data: &Path) -> Vec<Kept> {
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let with = |kept: Kept| Kept { bytes: sizes.get(&kept.id).copied(), ..kept };
        aside::kept(data).into_iter().map(with).collect()
    }

    fn count(&self, data: &Path) {
        for id in self.list(data).into_iter().filter(|kept| kept.bytes.is_none()).map(|kept| kept.id) {
            let bytes = aside::size(data, id);
            self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bytes);
        }
    }
}

/// Counts what there is, and removes what is noted to go. Never returns.
pub async fn keep(member: Arc<Member>) {
    loop {
        let (data, attic) = (member.environment.data.clone(), Arc::clone(&member.attic));
        let listed = tokio::task::spawn_blocking(move || {
            attic.count(&data);
            aside::kept(&data)
        });
        if let Ok(kept) = listed.await
            && !kept.is_empty()
        {
            sweep(&member, kept.into_iter().map(|kept| kept.id).collect()).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Removes what is kept and noted to go, unless a restore in place is under way: that may still need it.
async fn sweep(member: &Member, kept: BTreeSet<Ulid>) {
    let Ok(map) = member.store.read("config").await else { return };
    let free = matches!(Mark::of(&map), Ok(mark) if mark.as_ref().is_none_or(|mark| !mark.is_under_way()));
    if !free {
        return;
    }
    for id in discarded(&map).into_iter().filter(|id| kept.contains(id)) {
        let data = member.environment.data.clone();
        tracing::info!("removing the data that was kept of before restore {id}");
        let removed = tokio::task::spawn_blocking(move || aside::discard(&data, id)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!("failed to remove the data of before restore {id}: {error}");
        }
    }
}
