//! What secures a member's connections: its certificate and key, the authorities that it trusts, and the password of the REST
//! API. The pod has them as files, which change while it runs; PostgreSQL wants keys of its own that nobody else may read.
//!
//! So the files are copied to where PostgreSQL reads them, all of them at once, and PostgreSQL is told to read them again: that
//! ends no session, and the next one sees the new certificate. What PostgreSQL could not use is not copied: with it, it would go
//! on now and not start the next time.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::admit::OWN;
use super::gone::gone;
use super::member::Member;
use super::passwords;
use super::postmaster::Postmaster;
use super::render::Environment;
use super::start::{AgentError, write_private};
use crate::certified::{KeyProblem, certificates, check_key};
use crate::patroni::{Credentials, REPLICATION_USER, REST_USER, REWIND_USER, SUPERUSER};
use crate::plan::{CERTIFICATE, KEY, TRUSTED, internal};

/// How often it is looked whether anything has changed. A kubelet brings a change within a minute or so.
const PAUSE: Duration = Duration::from_secs(1);
/// Where the copies are, below what goes with the pod, and the link to those that count.
const PLACE: &str = "tls";
const CURRENT: &str = "current";
const NEXT: &str = "next";

/// Why connections cannot be secured.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A password is not there, or is no text.
    #[error("read the password of {of} in {path}")]
    NoPassword {
        /// Whose.
        of: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// PostgreSQL could not use it.
    #[error("use the certificate in {path}: {why}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
}

fn on(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecurityError {
    let path = path.to_owned();
    move |source| SecurityError::File { doing, path, source }
}

/// Where PostgreSQL and those that connect to others find the copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies(PathBuf);

impl Copies {
    /// Those below the directory of what goes with the pod.
    pub fn below(sockets: &Path) -> Self {
        Self(sockets.join(PLACE))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(CURRENT).join(name).to_string_lossy().into_owned()
    }

    /// The authorities that are trusted.
    pub fn trusted(&self) -> String {
        self.file(TRUSTED)
    }

    /// PostgreSQL's settings.
    fn parameters(&self) -> Value {
        json!({ "ssl": "on", "ssl_cert_file": self.file(CERTIFICATE), "ssl_key_file": self.file(KEY) })
    }

    /// Takes over what the pod has; whether anything has changed.
    ///
    /// # Errors
    /// Where there is nothing of use; then all is as it was.
    pub fn take(&self, mount: &Path) -> Result<bool, SecurityError> {
        let from = snapshot(mount);
        let read = |name: &'static str| {
            let path = from.join(name);
            fs::read(&path).map(|bytes| (name, bytes)).map_err(on("read", &path))
        };
        let files = [read(CERTIFICATE)?, read(KEY)?, read(TRUSTED)?];
        let place = self.0.join(CURRENT);
        if files.iter().all(|(name, bytes)| fs::read(place.join(name)).is_ok_and(|copy| copy == *bytes)) {
            return Ok(false);
        }
        check(&files).map_err(|why| SecurityError::Unusable { path: mount.to_owned(), why })?;
        self.put(&files)?;
        Ok(true)
    }

    /// In a directory of their own, to which the link then leads: who reads sees the old ones or the new.
    fn put(&self, files: &[(&str, Vec<u8>)]) -> Result<(), SecurityError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.0).map_err(on("make", &self.0))?;
        let (link, next) = (self.0.join(CURRENT), self.0.join(NEXT));
        let former = fs::read_link(&link).ok();
        let fresh =
            tempfile::Builder::new().prefix("of-").tempdir_in(&self.0).map_err(on("make", &self.0))?.keep();
        for (name, bytes) in files {
            let path = fresh.join(name);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(on("make", &path))?;
            file.write_all(bytes).map_err(on("write", &path))?;
        }
        gone(fs::remove_file(&next)).map_err(on("replace", &next))?;
        std::os::unix::fs::symlink(fresh.file_name().unwrap_or_default(), &next)
            .map_err(on("make", &next))?;
        fs::rename(&next, &link).map_err(on("replace", &link))?;
        // One that is left by a crash is of no harm.
        if let Some(former) = former {
            let _ = fs::remove_dir_all(self.0.join(former));
        }
        Ok(())
    }
}

/// The files as they were at one moment: kubelets change all of them by one link.
pub(super) fn snapshot(mount: &Path) -> PathBuf {
    fs::canonicalize(mount.join("..data")).unwrap_or_else(|_| mount.to_owned())
}

fn check(files: &[(&str, Vec<u8>)]) -> Result<(), &'static str> {
    let of = |wanted: &str| {
        files.iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| bytes.as_slice()).unwrap_or_default()
    };
    let chain = certificates(of(CERTIFICATE)).ok_or("tls.crt is no certificate")?;
    certificates(of(TRUSTED)).ok_or("ca.crt is no certificate")?;
    check_key(chain, of(KEY)).map_err(|problem| match problem {
        KeyProblem::Unreadable => "tls.key is no private key, or one with a passphrase",
        KeyProblem::Another => "tls.key is not that of tls.crt",
    })
}

/// Where this pod has what secures connections, as it is at this moment.
pub(super) fn directory() -> Option<PathBuf> {
    let mount = std::env::var_os("SECURITY_DIRECTORY").filter(|value| !value.is_empty())?;
    Some(snapshot(Path::new(&mount)))
}

/// The authorities that a pod trusts which is no member's, where those that it connects to all speak TLS.
pub(super) fn trusted() -> Option<PathBuf> {
    let mount = std::env::var_os("SECURITY_DIRECTORY").filter(|value| !value.is_empty())?;
    Some(Path::new(&mount).join(TRUSTED))
}

/// Readies what there is, before anything starts that could need it.
///
/// # Errors
/// Where there is nothing of use, and never was in this pod.
pub(super) fn ready(environment: &Environment) -> Result<(), SecurityError> {
    let Some(mount) = &environment.security else { return Ok(()) };
    let copies = Copies::below(&environment.sockets);
    match copies.take(mount) {
        Ok(_) => Ok(()),
        // What was good before the container ended is better than nothing.
        Err(error) if copies.0.join(CURRENT).join(KEY).exists() => {
            tracing::warn!("failed to {error}: what was there before is used");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Name and password for what changes something at a REST API, as they are now.
pub(super) fn credentials(environment: &Environment) -> Option<Credentials> {
    if let Some(mount) = &environment.security {
        let password = passwords::line(&snapshot(mount), internal::REST)?;
        return Some(Credentials { username: REST_USER.to_owned(), password });
    }
    // The pod is one of before it was a file.
    let variable = |name| std::env::var(name).ok();
    let (username, password) =
        variable("PATRONI_RESTAPI_USERNAME").zip(variable("PATRONI_RESTAPI_PASSWORD"))?;
    Some(Credentials { username, password })
}

/// What of Patroni's configuration hangs on it. `verify`: everybody speaks TLS, so that only those are streamed from whose
/// certificate a trusted authority has signed; before, TLS is used where the other side can.
///
/// # Errors
/// Where a password cannot be read: without one, Patroni would let anybody in, or could log in nowhere.
fn settings(environment: &Environment, verify: bool) -> Result<Value, SecurityError> {
    let Some(mount) = &environment.security else { return Ok(json!({})) };
    let copies = Copies::below(&environment.sockets);
    let to_others = if verify {
        json!({ "sslmode": "verify-ca", "sslrootcert": copies.trusted() })
    } else {
        json!({ "sslmode": "prefer" })
    };
    let mut settings = json!({
        "postgresql": {
            "parameters": copies.parameters(),
            "authentication": { "replication": to_others, "rewind": to_others },
        },
    });
    // Where they are files, Patroni has them from here, since its environment stays what it was when it started.
    let files = snapshot(mount);
    let users = [("superuser", SUPERUSER), ("replication", REPLICATION_USER), ("rewind", REWIND_USER)];
    for (section, username) in users {
        let password = passwords::of(username, Some(&files), |_| None);
        let password = password.ok_or(SecurityError::NoPassword { of: username, path: files.clone() })?;
        let login = json!({ section: { "username": username, "password": password } });
        super::render::merge(&mut settings["postgresql"]["authentication"], login);
    }
    let rest = credentials(environment).filter(|rest| !rest.password.is_empty());
    let Credentials { username, password } =
        rest.ok_or(SecurityError::NoPassword { of: "Patroni's REST API", path: files })?;
    settings["restapi"] = json!({ "authentication": { "username": username, "password": password } });
    Ok(settings)
}

/// Whether the template says that everybody speaks TLS.
fn verifies(template: &str) -> bool {
    let template: Value = serde_json::from_str(template).unwrap_or_default();
    template.pointer(&format!("/{OWN}/verify")) == Some(&Value::Bool(true))
}

/// Patroni's configuration, which follows what there is.
pub(super) struct Configuration {
    path: PathBuf,
    /// Without what hangs on it.
    rest: Value,
    verify: bool,
    written: String,
}

impl Configuration {
    /// `rest` with what there is, written to `path`. `template` is where it came from.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn write(
        path: PathBuf,
        rest: Value,
        template: &str,
        environment: &Environment,
    ) -> Result<Self, AgentError> {
        let mut own = Self { path, rest, verify: verifies(template), written: String::new() };
        own.bring_up(environment)?;
        Ok(own)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it anew where it is another now; whether it was.
    fn bring_up(&mut self, environment: &Environment) -> Result<bool, AgentError> {
        let mut whole = self.rest.clone();
        super::render::merge(&mut whole, settings(environment, self.verify)?);
        let text = format!("{whole:#}\n");
        let differs = text != self.written;
        if differs {
            write_private(&self.path, &text)?;
            self.written = text;
        }
        Ok(differs)
    }
}

/// Looks for ever for what has changed, and has PostgreSQL and Patroni read it again.
pub(super) async fn watch(member: Arc<Member>, patroni: Pid, mut configuration: Configuration) {
    let environment = &member.environment;
    let Some(mount) = &environment.security else { return };
    let copies = Copies::below(&environment.sockets);
    let (mut complaint, mut grievance, mut pending) = (String::new(), String::new(), false);
    loop {
        tokio::time::sleep(PAUSE).await;
        match copies.take(mount) {
            Ok(changed) => {
                complaint.clear();
                pending |= changed;
            }
            Err(error) => {
                let words = error.to_string();
                if words != complaint {
                    tracing::warn!("failed to {words}: the certificate of before stays");
                    complaint = words;
                }
            }
        }
        // One that is just starting may have read half of it.
        if pending && (Postmaster::signal(&environment.data, Signal::HUP) || !member.is_running()) {
            pending = false;
            tracing::info!("there is another certificate: new sessions see it");
        }
        // A template that cannot be read says nothing new.
        if let Ok(template) = fs::read_to_string(&environment.template) {
            configuration.verify = verifies(&template);
        }
        match configuration.bring_up(environment) {
            Ok(true) => {
                tracing::info!("Patroni's own settings have changed: it reads them again");
                let _ = kill_process(patroni, Signal::HUP);
            }
            Ok(false) => grievance.clear(),
            Err(error) => {
                let words = error.to_string();
                if words != grievance {
                    tracing::warn!("failed to {words}: Patroni's own settings stay as they are");
                    grievance = words;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A certificate, its key, and who is trusted, as the pod has them.
    fn files(mount: &Path) -> String {
        let made = rcgen::generate_simple_self_signed(vec!["db".to_owned()]).unwrap();
        let certificate = made.cert.pem();
        fs::write(mount.join(CERTIFICATE), &certificate).unwrap();
        fs::write(mount.join(TRUSTED), &certificate).unwrap();
        fs::write(mount.join(KEY), made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    fn copy(copies: &Copies, name: &str) -> String {
        fs::read_to_string(copies.file(name)).unwrap()
    }

    #[test]
    fn what_changes_is_taken_over_at_once_and_what_is_of_no_use_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (mount, sockets) = (root.path().join("mount"), root.path().join("run"));
        fs::create_dir_all(&mount).unwrap();
        fs::create_dir_all(&sockets).unwrap();
        let copies = Copies::below(&sockets);
        let missing = copies.take(&mount).unwrap_err().to_string();
        assert!(missing.starts_with("read ") && missing.contains(CERTIFICATE), "{missing}");

        let first = files(&mount);
        assert!(copies.take(&mount).unwrap());
        assert!(!copies.take(&mount).unwrap());
        assert_eq!(copy(&copies, CERTIFICATE), first);
        for name in [CERTIFICATE, KEY, TRUSTED] {
            let mode = fs::metadata(copies.file(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let key = fs::read(mount.join(KEY)).unwrap();
        let second = files(&mount);
        let other = fs::read(mount.join(KEY)).unwrap();
        for (bad, why) in [(key.as_slice(), "is not that of"), (b"x", "no private key")] {
            fs::write(mount.join(KEY), bad).unwrap();
            let error = copies.take(&mount).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("BEGIN"), "{error}");
            assert_eq!(copy(&copies, CERTIFICATE), first);
        }
        fs::write(mount.join(KEY), other).unwrap();
        assert!(copies.take(&mount).unwrap());
        assert_eq!(copy(&copies, CERTIFICATE), second);
        // Nothing of the first is left.
        assert_eq!(fs::read_dir(&copies.0).unwrap().count(), 2);
    }

    #[test]
    fn patronis_settings_follow_the_password_and_who_speaks_tls() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("mount");
        fs::create_dir_all(&mount).unwrap();
        fs::write(mount.join(internal::REST), "one").unwrap();
        for login in internal::LOGINS {
            fs::write(mount.join(login), "same").unwrap();
        }
        let environment = Environment {
            security: Some(mount.clone()),
            sockets: root.path().to_owned(),
            ..super::super::render::tests::environment()
        };
        let path = root.path().join("patroni.yml");
        let rest = json!({ "postgresql": { "parameters": { "a": "b" } }, "restapi": { "listen": "x" } });
        let template = r#"{"dbctl":{"verify":true}}"#;
        let mut own = Configuration::write(path.clone(), rest, "{}", &environment).unwrap();
        let read = || serde_json::from_str::<Value>(&fs::read_to_string(&path).unwrap()).unwrap();
        let before = read();
        assert_eq!(before["postgresql"]["parameters"]["a"], "b");
        assert_eq!(before["postgresql"]["parameters"]["ssl"], "on");
        let rewind = json!({ "sslmode": "prefer", "username": REWIND_USER, "password": "same" });
        assert_eq!(before["postgresql"]["authentication"]["rewind"], rewind);
        assert_eq!(before["restapi"]["authentication"], json!({ "username": "dbctl", "password": "one" }));
        assert!(!own.bring_up(&environment).unwrap());

        fs::write(mount.join(internal::REST), "two").unwrap();
        fs::write(mount.join(internal::REPLICATION), "three").unwrap();
        own.verify = verifies(template);
        assert!(own.bring_up(&environment).unwrap() && !own.bring_up(&environment).unwrap());
        let after = read();
        assert_eq!(after["postgresql"]["authentication"]["replication"]["sslmode"], "verify-ca");
        assert_eq!(after["restapi"]["authentication"]["password"], "two");
        let replication = &after["postgresql"]["authentication"]["replication"];
        assert_eq!(
            (&replication["username"], &replication["password"]),
            (&json!(REPLICATION_USER), &json!("three"))
        );
        // Without a password, Patroni would let anybody in: what was written stays.
        fs::write(mount.join(internal::REST), [0xff, 0xfe]).unwrap();
        let error = own.bring_up(&environment).unwrap_err().to_string();
        assert!(error.starts_with("read the password of Patroni's REST API in "), "{error}");
        assert_eq!(read()["restapi"]["authentication"]["password"], "two");
        fs::write(mount.join(internal::REST), "two\n").unwrap();
        assert_eq!(credentials(&environment).unwrap().password, "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Where the pod has none, nothing is said of TLS.
        let plain = Environment { security: None, ..environment };
        assert_eq!(settings(&plain, true).unwrap(), json!({}));
    }
}
