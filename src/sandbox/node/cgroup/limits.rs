//! What a container may use, and the files that say so; pure.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::find::Version;

/// The period of CPU quotas, in microseconds, as kubelets have it.
const PERIOD: i128 = 100_000;
/// The smallest quota that the kernel takes.
const LEAST_QUOTA: i128 = 1_000;
/// How many processes and threads one pod may have: more is a fork bomb, and this machine is everybody's.
pub(super) const POD_PIDS: &str = "4096";

/// What a container may use; nothing is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sandbox::node) struct Limits {
    /// Bytes.
    pub memory: Option<i128>,
    /// Thousandths of a CPU.
    pub milli_cpu: Option<i128>,
    /// Thousandths of a CPU that count when CPUs are scarce.
    pub milli_share: Option<i128>,
}

impl Limits {
    /// What the container's spec says.
    pub fn of(container: &Container) -> Self {
        let Some(resources) = &container.resources else { return Self::default() };
        let parse = |quantity: &Quantity| quantity.0.parse::<crate::api::Quantity>().ok();
        let limit = |name: &str| resources.limits.as_ref()?.get(name).and_then(parse);
        let request = |name: &str| resources.requests.as_ref()?.get(name).and_then(parse);
        Self {
            memory: limit("memory").map(|quantity| quantity.value()),
            milli_cpu: limit("cpu").map(|quantity| quantity.milli()),
            milli_share: request("cpu").or_else(|| limit("cpu")).map(|quantity| quantity.milli()),
        }
    }

    /// The files of one controller and what is written to them, in this order.
    pub(super) fn files(&self, version: Version, controller: &str) -> Vec<(&'static str, String)> {
        let quota = self.milli_cpu.map(|milli| (milli * PERIOD / 1000).max(LEAST_QUOTA));
        let mut files = Vec::new();
        match (version, controller) {
            (Version::Two, "memory") => {
                files.extend(self.memory.map(|bytes| ("memory.max", bytes.to_string())));
                files.extend(self.memory.map(|_| ("memory.swap.max", "0".to_owned())));
                // As kubelets have it: one process killed for want of memory takes its container with it.
                files.push(("memory.oom.group", "1".to_owned()));
            }
            (Version::One, "memory") => {
                files.extend(self.memory.map(|bytes| ("memory.limit_in_bytes", bytes.to_string())));
                files.extend(self.memory.map(|bytes| ("memory.memsw.limit_in_bytes", bytes.to_string())));
            }
            (Version::Two, "cpu") => {
                files.extend(quota.map(|quota| ("cpu.max", format!("{quota} {PERIOD}"))));
                files.extend(self.milli_share.map(|milli| ("cpu.weight", weight(shares(milli)).to_string())));
            }
            (Version::One, "cpu") => {
                files.extend(quota.map(|_| ("cpu.cfs_period_us", PERIOD.to_string())));
                files.extend(quota.map(|quota| ("cpu.cfs_quota_us", quota.to_string())));
                files.extend(self.milli_share.map(|milli| ("cpu.shares", shares(milli).to_string())));
            }
            _ => {}
        }
        files
    }

    /// The controllers without which these limits cannot be kept.
    pub fn controllers(&self) -> Vec<&'static str> {
        let memory = self.memory.map(|_| "memory");
        memory.into_iter().chain(self.milli_cpu.map(|_| "cpu")).collect()
    }
}

fn shares(milli: i128) -> i128 {
    (milli * 1024 / 1000).clamp(2, 262_144)
}

/// Shares of version 1 as a weight of version 2, by the formula of container runtimes.
fn weight(shares: i128) -> i128 {
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(resources: serde_json::Value) -> Limits {
        Limits::of(&serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap())
    }

    #[test]
    fn limits_become_files() {
        let all = limits(json!({"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"cpu": "1"}}));
        assert_eq!(all.controllers(), ["memory", "cpu"]);
        let files = |version, controller| {
            let files = all.files(version, controller);
            files.iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        let cases = [
            (Version::Two, "memory", "memory.max=67108864 memory.swap.max=0 memory.oom.group=1"),
            (Version::One, "memory", "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=67108864"),
            (Version::Two, "cpu", "cpu.max=50000 100000 cpu.weight=39"),
            (Version::One, "cpu", "cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 cpu.shares=1024"),
            (Version::One, "pids", ""),
        ];
        for (version, controller, expected) in cases {
            assert_eq!(files(version, controller), expected);
        }
    }

    #[test]
    fn without_limits_nothing_is_limited() {
        let none = limits(json!({}));
        assert_eq!(none, Limits::default());
        assert!(none.controllers().is_empty());
        assert!(none.files(Version::One, "memory").is_empty() && none.files(Version::One, "cpu").is_empty());
        let tiny = limits(json!({"limits": {"cpu": "1m"}}));
        assert_eq!(tiny.files(Version::Two, "cpu")[0].1, "1000 100000", "the kernel takes no less");
    }
}
