//! A database with backups, and what its destination holds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbctl::api::Names;
use dbctl::backup::base::{self, Archive, Found};
use dbctl::backup::layout::Epoch;
use dbctl::backup::server::{Address, Connection, Limits, Mode, Target};
use dbctl::backup::wal::{Segment, SegmentSize, WalFile};
use dbctl::patroni::{APP_NAME, SUPERUSER};
use dbctl::sandbox::provision::Identity;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use serde_json::Value;

use super::wal::Place;
use crate::external::runtime;
use crate::proof::session::trusting;
use crate::support::{Sandbox, eventually};

/// The database.
pub const NAME: &str = "db";
/// Never, but for those that are asked for.
const SCHEDULE: &str = "0 0 29 2 *";
/// Of its segments.
pub const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// Makes it.
pub fn create(sandbox: &Sandbox, replicas: &str, destination: &str, more: &[&str]) {
    let args = ["create", NAME, "--replicas", replicas, "--storage", "4Gi", "--wait"];
    let backups = ["--backup-destination", destination, "--backup-schedule", SCHEDULE];
    sandbox.run(&[&args[..], &backups, more].concat()).ok();
}

/// A directory that pods may write to.
pub fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("dbctl-store-").tempdir_in("/tmp").unwrap();
    Identity::of_pods().own(directory.path()).unwrap();
    directory
}

/// Takes a backup; returns what is told of it.
#[track_caller]
pub fn back_up(sandbox: &Sandbox) -> Value {
    let answer = sandbox.run(&["backup-now", NAME, "--wait", "-o", "json"]).ok();
    let entry: Value = serde_json::from_str(&answer.stdout).unwrap();
    let id = entry["id"].as_str().unwrap();
    assert!(
        answer.stderr.contains(&format!("database \"{NAME}\": backup {id}, ")),
        "{}",
        answer.transcript()
    );
    entry
}

/// Status, reason and message of a condition.
pub fn condition(sandbox: &Sandbox, kind: &str) -> [String; 3] {
    let database = sandbox.database(NAME);
    let conditions = database["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    ["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default().to_owned())
}

/// Waits until BackupsHealthy has that status for that reason; returns its message.
#[track_caller]
pub fn backups_are(sandbox: &Sandbox, status: &str, reason: &str) -> String {
    eventually(&format!("BackupsHealthy={status} ({reason})"), || {
        match condition(sandbox, "BackupsHealthy") {
            [is, why, message] if is == status && why == reason => Ok(message),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The members' data directories.
pub fn data_directories(sandbox: &Sandbox) -> Vec<PathBuf> {
    let volumes = std::fs::read_dir(sandbox.home().join("sandbox/volumes")).unwrap();
    let inside = volumes.flat_map(|volume| std::fs::read_dir(volume.unwrap().path()).unwrap());
    let data = inside.map(|entry| entry.unwrap().path()).filter(|path| path.ends_with("pgdata"));
    data.filter(|path| path.join("PG_VERSION").exists()).collect()
}

/// One value from SQL on the primary, as the superuser.
#[track_caller]
pub fn as_superuser(sandbox: &Sandbox, sql: &str) -> String {
    as_superuser_of(sandbox, NAME, sql)
}

/// The same of any database.
#[track_caller]
pub fn as_superuser_of(sandbox: &Sandbox, name: &str, sql: &str) -> String {
    let primary = sandbox.database(name)["status"]["primary"].as_str().unwrap().to_owned();
    as_superuser_of_member(sandbox, name, &primary, sql)
}

/// The same, of that member.
pub fn as_superuser_of_member(sandbox: &Sandbox, name: &str, member: &str, sql: &str) -> String {
    let answer = runtime().block_on(async {
        let client = sandbox.client().await;
        let pod = Api::<Pod>::default_namespaced(client.clone()).get(member).await.unwrap();
        let address: IpAddr = pod.status.unwrap().pod_ip.unwrap().parse().unwrap();
        let secrets = Api::<Secret>::default_namespaced(client.clone());
        let mut secret = secrets.get(&Names(name).internal_secret()).await.unwrap().data.unwrap();
        let password = String::from_utf8(secret.remove("superuser-password").unwrap().0).unwrap();
        let target = Target {
            address: Address::Tcp((address, 5432).into()),
            user: SUPERUSER.to_owned(),
            password: Some(password),
            tls: Some(trusting(client, name).await),
            application_name: "test".to_owned(),
        };
        let mode = Mode::Sql { database: APP_NAME.to_owned() };
        let limits = Limits { open: Duration::from_secs(10), silence: Duration::from_secs(60) };
        let mut connection = Connection::open(&target, &mode, limits).await?;
        connection.query(sql).await
    });
    answer.unwrap().into_iter().flatten().flatten().next().unwrap_or_default()
}

/// The files of a data directory that say what waits to be archived.
pub fn waiting(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("pg_wal/archive_status")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "ready"))
        .collect()
}

/// Ends the segment that is written, and waits until all members have archived all they have up to it; returns it.
#[track_caller]
pub fn archived_up_to_now(sandbox: &Sandbox, place: &Place) -> Segment {
    let sql = "insert into t values (0); select pg_walfile_name(pg_switch_wal())";
    let Ok(WalFile::Segment(last)) = as_superuser(sandbox, sql).parse() else { panic!("no segment") };
    eventually(&format!("{last} is archived"), || {
        let contents = Contents::of(place);
        if contents.archive.segments.contains_key(&last) { Ok(()) } else { Err("it is not".to_owned()) }
    });
    eventually("no member has WAL up to there that waits", || {
        let old = |path: &PathBuf| match path.file_stem().and_then(|name| name.to_str()).map(str::parse) {
            Some(Ok(WalFile::Segment(segment))) => segment <= last,
            _ => true,
        };
        let left: Vec<_> =
            data_directories(sandbox).iter().flat_map(|data| waiting(data)).filter(old).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    last
}

/// The names of the files in a directory.
pub fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What a destination holds of one cluster.
pub struct Contents {
    pub epoch: Epoch,
    pub backups: Vec<Found>,
    pub archive: Archive,
}

impl Contents {
    pub fn of(place: &Place) -> Self {
        let store = place.open();
        runtime().block_on(async {
            let epochs = base::epochs(&store).await.unwrap();
            assert_eq!(epochs.len(), 1, "{epochs:?}");
            let epoch = *epochs.first().unwrap();
            let backups = base::backups(&store, epoch).await.unwrap();
            let archive = base::archive(&store, epoch).await.unwrap();
            Self { epoch, backups, archive }
        })
    }

    /// The ids of those that can be restored, oldest first.
    pub fn good(&self) -> Vec<String> {
        self.backups.iter().filter_map(|found| Some(found.good()?.id.to_string())).collect()
    }

    /// The segments of which there is more than one content.
    pub fn conflicts(&self) -> Vec<Segment> {
        let several = self.archive.segments.iter().filter(|(_, objects)| objects.len() > 1);
        several.map(|(segment, _)| *segment).collect()
    }

    /// The segments that a recovery from position `start` on needs to reach the end of that one, and that are not there:
    /// of each the newest timeline's on the way, as PostgreSQL asks for them.
    pub fn gaps(&self, start: u64, to: Segment) -> Vec<Segment> {
        let last = to.start(SIZE).unwrap() / SIZE.bytes();
        let timeline_at = |number: u64| {
            let mut timeline = to.timeline;
            while let Some(fork) = self.archive.tree.parent(timeline) {
                if fork.at / SIZE.bytes() <= number {
                    break;
                }
                timeline = fork.from;
            }
            timeline
        };
        let needed = (start / SIZE.bytes()..=last)
            .map(|number| Segment::of(timeline_at(number), number * SIZE.bytes(), SIZE));
        needed.filter(|segment| !self.archive.segments.contains_key(segment)).collect()
    }
}
