//! Azurite: Azure's blobs as Microsoft describes them. It keeps everything in memory, and checks who signs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use http::{Method, Request};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;
use tempfile::TempDir;

use super::{BUCKET, blocking, software};
use crate::support::end_of;

/// Serves until its input ends, so it never outlives who started it.
const SERVE: &str = r"
process.stdin.resume();
process.stdin.on('end', () => process.exit());
const [site] = process.argv.splice(1, 1, 'azurite-blob');
require(site + '/node_modules/azurite/dist/src/blob/main.js');
";
/// What it says before its address.
const LISTENS: &str = "successfully listens on ";
/// The account's name, and its key, in base64.
const ACCOUNT: &str = "shop";
const KEY: &str = "YSBrZXkgdGhhdCBub2JvZHkgZWxzZSBrbm93cw==";

/// A running server with one account and one container.
pub struct Azurite {
    url: String,
    process: Child,
    files: TempDir,
}

impl Azurite {
    pub fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (node, site) = software::azurite();
        let files = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(files.path().join("log")).unwrap();
        let mut process = Command::new(node)
            .args(["-e", SERVE])
            .arg(site)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"])
            .args(["--skipApiVersionCheck", "--disableTelemetry"])
            .current_dir(files.path())
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let found = lines.find_map(|line| Some(line.unwrap().split_once(LISTENS)?.1.to_owned()));
        // It goes on to talk, and would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(url) = found else {
            panic!("Azurite does not start: {}", end_of(&files.path().join("log"), 40));
        };
        let azurite = Self { url: format!("{url}/{ACCOUNT}"), process, files };
        azurite.make_container(BUCKET);
        azurite
    }

    /// What a Secret holds for it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_ENDPOINT", self.url.clone()),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
        ]
    }

    fn make_container(&self, name: &str) {
        let url = format!("{}/{name}?restype=container", self.url);
        let request = Request::builder().method(Method::PUT).uri(&url).header("content-length", "0");
        let mut request = request.body(HttpRequestBody::empty()).unwrap();
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
        let request = reqwest::Client::new().put(&url).headers(request.headers().clone());
        blocking(async { request.send().await.unwrap().error_for_status().unwrap() });
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", end_of(&self.files.path().join("log"), 40));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
