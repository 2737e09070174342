//! What the controller asked the API server for, by the server's own count.

use std::collections::BTreeMap;

use dbctl::install::{ACCOUNT, NAMESPACE, qualified};
use kube::Client;
use serde::Deserialize;

use super::Error;

#[derive(Deserialize)]
struct Line {
    user: String,
    verb: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    count: u64,
}

/// Requests by verb and resource.
#[derive(Clone, Debug, Default)]
pub struct Access(BTreeMap<(String, String), u64>);

impl Access {
    /// All of the controller's so far.
    pub async fn so_far(client: &Client) -> Result<Self, Error> {
        let request = http::Request::get("/debug/access").body(Vec::new())?;
        let lines: Vec<Line> = client.request(request).await?;
        let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let mut all = BTreeMap::new();
        for line in lines.into_iter().filter(|line| line.user == user) {
            let what = qualified(&line.group, &line.resource, &line.subresource);
            *all.entry((line.verb, what)).or_default() += line.count;
        }
        Ok(Self(all))
    }

    /// What came since that.
    pub fn since(&self, before: &Self) -> Self {
        let more = |(what, count): (&(String, String), &u64)| {
            let more = count - before.0.get(what).copied().unwrap_or_default();
            (more > 0).then(|| (what.clone(), more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    fn sum(&self, counts: impl Fn(&str, &str) -> bool) -> u64 {
        self.0.iter().filter(|((verb, what), _)| counts(verb, what)).map(|(_, count)| count).sum()
    }

    /// All requests.
    pub fn all(&self) -> u64 {
        self.sum(|_, _| true)
    }

    /// Writes, but for those by which one of several controllers is chosen.
    pub fn writes(&self) -> u64 {
        self.sum(|verb, what| !reads(verb) && !elects(what))
    }

    /// Writes of the Lease.
    pub fn elections(&self) -> u64 {
        self.sum(|verb, what| !reads(verb) && elects(what))
    }
}

fn reads(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

fn elects(what: &str) -> bool {
    what.starts_with("leases")
}

/// The most frequent first.
impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(what, count)| (std::cmp::Reverse(**count), (*what).clone()));
        let told: Vec<String> =
            all.iter().map(|((verb, what), count)| format!("{count} {verb} {what}")).collect();
        f.write_str(&told.join(", "))
    }
}
