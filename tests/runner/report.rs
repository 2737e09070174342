//! `dbctl report` of a real database: everything is in it but what opens a door.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::backups::bucket::{SECRET, put_secret};
use crate::backups::cluster::{NAME, as_superuser, back_up, create};
use crate::external::runtime;
use crate::journeys::ready_with;
use crate::stores::{Key, S3sFs};
use crate::support::{Sandbox, eventually};

/// Where a database is and who logs in is no secret, and stands in every object.
const OPEN: [&str; 6] = ["username", "dbname", "host", "port", "AWS_REGION", "AWS_ENDPOINT_URL"];

/// Every value of every Secret that must not be told.
fn secrets(sandbox: &Sandbox) -> BTreeMap<String, Vec<u8>> {
    let all = runtime().block_on(async {
        let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
        secrets.list(&ListParams::default()).await.unwrap()
    });
    let mut values = BTreeMap::new();
    for secret in all {
        for (key, value) in secret.data.iter().flatten() {
            // An authority that came after no other has no certificate from it.
            if !OPEN.contains(&key.as_str()) && !value.0.is_empty() {
                values.insert(format!("{}/{key}", secret.name_any()), value.0.clone());
            }
        }
    }
    values
}

/// The archive's files.
fn unpack(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = File::open(path).unwrap();
    let plain: Box<dyn Read> = if path.extension().unwrap() == "zst" {
        Box::new(zstd::Decoder::new(file).unwrap())
    } else {
        Box::new(flate2::read::GzDecoder::new(file))
    };
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(plain).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let within: std::path::PathBuf = path.components().skip(1).collect();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(within.display().to_string(), bytes);
    }
    files
}

/// A value as it is, and as others write it.
fn dresses(value: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(value).into_owned();
    let url: String = form_urlencoded::byte_serialize(value).collect();
    let basic = STANDARD.encode(format!("dbctl:{text}"));
    let mut all = vec![value.to_vec(), url.into_bytes(), basic.into_bytes()];
    all.extend(
        [STANDARD.encode(value), STANDARD_NO_PAD.encode(value), URL_SAFE.encode(value)]
            .map(String::into_bytes),
    );
    all
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_report_holds_everything_but_secrets() {
    let store = S3sFs::start();
    let sandbox = Sandbox::own();
    sandbox.start();
    put_secret(&sandbox, &store.url(), &store.key());
    create(&sandbox, "2", "s3://backups/db", &["--backup-credentials", SECRET]);
    ready_with(&sandbox, NAME, 2);
    back_up(&sandbox);
    let known = secrets(&sandbox);
    assert!(known.len() >= 8, "{:?}", known.keys());

    // What people do: passwords in statements that fail, and are logged.
    let password = String::from_utf8(known[&format!("{NAME}-app/password")].clone()).unwrap();
    for sql in [
        format!("alter role nobody password '{password}'"),
        "alter role nobody password 'typed-by-hand-7391'".to_owned(),
        "select 'postgresql://app:in-a-url-5520@db/app' from nowhere".to_owned(),
    ] {
        assert_ne!(sandbox.run(&["connect", NAME, "--", "-XAtqc", &sql]).code, 0);
    }

    // Credentials that are none any more: the store's own words say so.
    put_secret(&sandbox, &store.url(), &Key::new("AKIANOTAKEYANYMORE00", "no-longer-a-secret-key-8842"));
    let found = eventually("archiving fails for its credentials", || {
        as_superuser(&sandbox, "select pg_switch_wal() from pg_logical_emit_message(true, 'x', 'x')");
        let answer = sandbox.run(&["doctor", NAME, "-o", "json"]);
        let told: Value = serde_json::from_str(&answer.stdout).map_err(|_| answer.transcript())?;
        let first = told["findings"][0].clone();
        let why = first["why"].as_str().unwrap_or_default().to_owned();
        if first["code"] == "ArchivingFails" && answer.code == 3 { Ok(why) } else { Err(told.to_string()) }
    });
    println!("archiving fails: {found}");

    let known: BTreeMap<_, _> = known.into_iter().chain(secrets(&sandbox)).collect();
    for name in ["report.tar.gz", "report.tar.zst"] {
        let path = sandbox.home().join(name);
        let path_text = path.to_str().unwrap();
        let answer = sandbox.run(&["report", NAME, "--output", path_text]).ok();
        assert_eq!(answer.stdout.trim(), path_text);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(sandbox.run(&["report", NAME, "--output", path_text]).code, 2, "it is there already");
        let files = unpack(&path);
        let primary = sandbox.database(NAME)["status"]["primary"].as_str().unwrap().to_owned();
        for wanted in [
            "README.txt",
            "doctor.txt",
            "doctor.json",
            "database.yaml",
            "events.txt",
            "events.yaml",
            "versions.txt",
            "sandbox.log",
            "nodes/sandbox.yaml",
            "objects/statefulsets/db.yaml",
            "objects/secrets/db-app.yaml",
            "objects/secrets/bucket.yaml",
            "objects/configmaps/db-config.yaml",
            "objects/persistentvolumeclaims/data-db-0.yaml",
            "objects/pods/db-1.yaml",
            "pods/db-0/current.log",
            "pods/db-1/patroni-cluster.json",
            "pods/db-0/patroni-config.json",
            "pods/db-0/patroni-history.json",
            "pods/db-1/agent.json",
        ] {
            assert!(files.contains_key(wanted), "{wanted}: {:?}", files.keys());
        }
        let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
        assert!(text("doctor.txt").contains("does not reach its backups"), "{}", text("doctor.txt"));
        assert!(
            text("objects/secrets/db-app.yaml").contains("password: '[redacted: "),
            "{}",
            text("objects/secrets/db-app.yaml")
        );
        assert!(text("pods/db-1/agent.json").contains("postmaster"), "{}", text("pods/db-1/agent.json"));
        let log = text(&format!("pods/{primary}/current.log"));
        assert!(log.contains("alter role nobody password [redacted]"), "the statement itself stays: {log}");
        for (name, bytes) in &files {
            for (place, value) in &known {
                for dress in dresses(value) {
                    assert!(
                        !holds(bytes, &dress),
                        "{name} holds {place} as {}",
                        String::from_utf8_lossy(&dress)
                    );
                }
            }
            for typed in ["typed-by-hand-7391", "in-a-url-5520"] {
                assert!(!holds(bytes, typed.as_bytes()), "{name} holds {typed}");
            }
        }
        println!("{name}: {} files, {} bytes", files.len(), path.metadata().unwrap().len());
        // Nothing was lost over it.
        assert!(!text("README.txt").contains("Not read:"), "{}", text("README.txt"));
    }
}
