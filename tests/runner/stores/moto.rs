//! moto: S3 as Amazon describes it, with users, keys and policies. It keeps everything in memory, and checks no checksums.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use tempfile::TempDir;

use super::{BUCKET, Key, REGION, blocking, software};
use crate::support::end_of;

/// Serves at any port until its input ends, so it never outlives who started it.
const SERVE: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(sys.argv[2], 0, verbose=False)
server.start()
print("%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"#;
/// How many requests it takes from anybody: those that make its administrator.
const UNCHECKED: &str = "3";
/// Who may do everything, and who takes backups.
const ADMINISTRATOR: &str = "administrator";
const USER: &str = "backup";

/// A running server with one bucket, an administrator, and a user who may do all that S3 knows.
pub struct Moto {
    address: SocketAddr,
    administrator: Key,
    key: Mutex<Key>,
    process: Child,
    files: TempDir,
}

impl Moto {
    /// Starts it; it checks signatures and permissions from then on.
    pub fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let packages = software::moto();
        let files = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(files.path().join("log")).unwrap();
        let mut process = Command::new(&packages.python)
            .args(["-I", "-c", SERVE])
            .arg(&packages.site)
            .arg("127.0.0.1")
            .env("INITIAL_NO_AUTH_ACTION_COUNT", UNCHECKED)
            .env_remove("HTTP_PROXY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let nobody = Key::new("nobody", "nothing");
        let Ok(address) = line.trim().parse() else {
            panic!("moto does not start: {}", end_of(&files.path().join("log"), 40));
        };
        let mut moto =
            Self { address, administrator: nobody.clone(), key: Mutex::new(nobody), process, files };
        moto.administrator = moto.make_user(ADMINISTRATOR, "*");
        *moto.key.get_mut().unwrap() = moto.make_user(USER, "s3:*");
        moto.make_bucket(BUCKET);
        moto
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The user's key as it is now.
    pub fn key(&self) -> Key {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The administrator's, whom no denial touches.
    pub fn administrator(&self) -> &Key {
        &self.administrator
    }

    /// The process, as the system numbers it.
    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Makes another bucket.
    pub fn make_bucket(&self, name: &str) {
        self.send("s3", &Method::PUT, &format!("/{name}"), String::new()).unwrap();
    }

    /// Forbids the user these actions, such as `s3:PutObject`, instead of those forbidden before.
    pub fn deny(&self, actions: &[&str]) {
        self.policy(USER, "denial", "Deny", actions);
    }

    /// Forbids nothing any more.
    pub fn allow(&self) {
        self.iam("DeleteUserPolicy", &[("UserName", USER), ("PolicyName", "denial")]);
    }

    /// Gives the user a new key; the old one is not valid any more.
    pub fn rotate(&self) -> Key {
        self.expire();
        let fresh = self.make_key(USER);
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }

    /// Makes the user's key invalid, and gives none for it.
    pub fn expire(&self) {
        self.iam("DeleteAccessKey", &[("UserName", USER), ("AccessKeyId", &self.key().id)]);
    }

    /// The parts of multipart uploads that are neither complete nor aborted: each upload's key, and how many parts it has.
    pub fn uploads(&self) -> Vec<(String, usize)> {
        let list = self.send("s3", &Method::GET, &format!("/{BUCKET}?uploads="), String::new()).unwrap();
        let uploads: Vec<_> = list.split("<Upload>").skip(1).collect();
        let parts = |upload: &&str| {
            let (key, id) = (text_of(upload, "Key"), text_of(upload, "UploadId"));
            let path = format!("/{BUCKET}/{key}?uploadId={id}");
            let list = self.send("s3", &Method::GET, &path, String::new()).unwrap();
            (key, list.matches("<PartNumber>").count())
        };
        uploads.iter().map(parts).collect()
    }

    fn make_user(&self, name: &str, actions: &str) -> Key {
        self.iam("CreateUser", &[("UserName", name)]);
        self.policy(name, "permission", "Allow", &[actions]);
        self.make_key(name)
    }

    fn make_key(&self, user: &str) -> Key {
        let answer = self.iam("CreateAccessKey", &[("UserName", user)]);
        Key { id: text_of(&answer, "AccessKeyId"), secret: text_of(&answer, "SecretAccessKey") }
    }

    fn policy(&self, user: &str, name: &str, effect: &str, actions: &[&str]) {
        let statement = serde_json::json!([{ "Effect": effect, "Action": actions, "Resource": "*" }]);
        let document = serde_json::json!({ "Version": "2012-10-17", "Statement": statement }).to_string();
        let fields = [("UserName", user), ("PolicyName", name), ("PolicyDocument", &document)];
        self.iam("PutUserPolicy", &fields);
    }

    fn iam(&self, action: &str, fields: &[(&str, &str)]) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", "2010-05-08").extend_pairs(fields);
        self.send("iam", &Method::POST, "/", form.finish()).unwrap()
    }

    /// As the administrator. `Err` holds status and text of an answer that is a refusal.
    fn send(&self, service: &str, method: &Method, path: &str, body: String) -> Result<String, String> {
        let body = Bytes::from(body);
        let url = format!("{}{path}", self.url());
        let mut request = Request::builder().method(method).uri(&url);
        request = request.header("content-type", "application/x-www-form-urlencoded");
        let mut request = request.body(HttpRequestBody::from(body.clone())).unwrap();
        let Key { id, secret } = self.administrator.clone();
        let credential = AwsCredential { key_id: id, secret_key: secret, token: None };
        AwsAuthorizer::new(&credential, service, REGION).try_authorize(&mut request, None).unwrap();
        let request = reqwest::Client::new()
            .request(method.clone(), &url)
            .headers(request.headers().clone())
            .body(body);
        blocking(async {
            let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
            let (status, text) =
                (answer.status(), answer.text().await.map_err(|error| format!("{error:?}"))?);
            if status.is_success() { Ok(text) } else { Err(format!("{status} {text}")) }
        })
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", end_of(&self.files.path().join("log"), 40));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The text of the first XML element of that name.
fn text_of(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once('<').unwrap().0.to_owned()
}
