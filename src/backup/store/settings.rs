//! How a store is reached: settings by the names that its provider's own tools know, from the environment and from the
//! files of a mounted Secret, which are read anew whenever they are needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{Certificate, ClientOptions, CredentialProvider};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::destination::{Destination, Provider};
use super::error::StoreError;

/// Names the directory of a mounted Secret with credentials.
pub const CREDENTIALS: &str = "BACKUP_CREDENTIALS";
/// A file of the Secret with the certificates that the store's own are signed by, in PEM.
const AUTHORITIES: &str = "ca.crt";
/// The link in the directory of a mounted Secret to that of the version which holds. A kubelet replaces the link, and then
/// removes what it led to before.
const VERSION: &str = "..data";
/// How often a Secret is read again that is replaced while it is read.
const TRIES: usize = 5;
/// The region of stores that have none, which the signature names nevertheless.
const REGION: &str = "us-east-1";

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The environment's, by name.
    environment: BTreeMap<String, String>,
    /// A directory with a file for each setting, which wins.
    directory: Option<PathBuf>,
    /// What a Secret holds that was read through the Kubernetes API, which wins too.
    secret: BTreeMap<String, String>,
}

/// How long to wait for a store.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one request, from the connection to the last byte.
    pub request: Duration,
    /// For all tries of it.
    pub all: Duration,
}

impl Patience {
    /// PostgreSQL waits for the answer: what fails is soon tried again.
    pub const SHORT: Self = Self { request: Duration::from_secs(15), all: Duration::from_secs(20) };
    /// The same, for what is sent: a whole segment of 16 MiB passes over a link of half a megabyte in a second.
    pub const SENDING: Self = Self { request: Duration::from_secs(40), all: Duration::from_secs(45) };
    /// Nobody waits, and what is given up is lost work.
    pub const LONG: Self = Self { request: Duration::from_secs(120), all: Duration::from_secs(300) };
}

impl Settings {
    /// Those of this process: its environment, and the directory that `BACKUP_CREDENTIALS` names.
    pub fn of_process() -> Self {
        let mine = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix));
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            environment: std::env::vars_os().filter_map(text).filter(|(name, _)| mine(name)).collect(),
            directory: std::env::var_os(CREDENTIALS).map(PathBuf::from),
            secret: BTreeMap::new(),
        }
    }

    /// The same, and on top of them what a Secret holds.
    #[must_use]
    pub fn with_secret(mut self, secret: BTreeMap<String, String>) -> Self {
        self.secret = secret;
        self
    }

    /// Those of a directory alone.
    pub fn of_directory(directory: &Path) -> Self {
        Self { directory: Some(directory.to_owned()), ..Self::default() }
    }

    /// All of them as they are now.
    fn read(&self) -> std::io::Result<BTreeMap<String, String>> {
        let mut all = self.environment.clone();
        if let Some(directory) = self.directory.as_ref().filter(|directory| directory.exists()) {
            all.extend(files(directory)?);
        }
        all.extend(self.secret.clone());
        Ok(all)
    }
}

/// The names of files and what they hold, all of one version of a mounted Secret: an id never comes with another's secret.
fn files(directory: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut tries = 1..TRIES;
    loop {
        // A plain directory has no versions.
        let version = std::fs::read_link(directory.join(VERSION)).ok();
        let place = version.as_ref().map_or(directory.to_owned(), |version| directory.join(version));
        let files = files_of(&place);
        // What was replaced in the meantime may have been half gone.
        let holds = std::fs::read_link(directory.join(VERSION)).ok() == version;
        if holds || tries.next().is_none() {
            return files;
        }
    }
}

fn files_of(directory: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if !name.starts_with('.') && entry.path().is_file() {
            files.insert(name, std::fs::read_to_string(entry.path())?.trim().to_owned());
        }
    }
    Ok(files)
}

/// The store of a destination, and the prefix of its keys.
pub(super) fn open(
    destination: &Destination,
    settings: &Settings,
    patience: Patience,
) -> Result<(Arc<dyn ObjectStore>, String), StoreError> {
    let wrong = |problem: String| StoreError::Settings { destination: destination.to_string(), problem };
    let (provider, bucket, prefix) = match destination {
        Destination::Directory(path) => {
            std::fs::create_dir_all(path)
                .map_err(|error| wrong(format!("make {}: {error}", path.display())))?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|error| wrong(error.to_string()))?;
            // An empty directory would keep the owner who made it.
            let store = store.with_fsync(true).with_automatic_cleanup(true);
            return Ok((Arc::new(store), String::new()));
        }
        Destination::Bucket { provider, bucket, prefix } => (*provider, bucket, prefix.clone()),
    };
    let values = settings.read().map_err(|error| wrong(format!("read the credentials: {error}")))?;
    let options = options(&values, patience).map_err(wrong)?;
    let store = match provider {
        Provider::S3 => s3(bucket, &values, settings, options, patience),
        Provider::Google => google(bucket, &values, options, patience),
        Provider::Azure => azure(bucket, &values, options, patience),
    };
    Ok((store.map_err(|error| wrong(error.to_string()))?, prefix))
}

fn options(values: &BTreeMap<String, String>, patience: Patience) -> Result<ClientOptions, String> {
    let mut options = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(patience.request)
        // Whoever names an endpoint without TLS means it.
        .with_allow_http(values.iter().any(|(name, value)| {
            name.to_ascii_uppercase().contains("ENDPOINT") && value.starts_with("http://")
        }));
    if let Some(authorities) = values.get(AUTHORITIES) {
        let all = Certificate::from_pem_bundle(authorities.as_bytes());
        for certificate in all.map_err(|error| format!("read {AUTHORITIES}: {error}"))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn retry(patience: Patience) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: patience.all,
    }
}

fn s3(
    bucket: &str,
    values: &BTreeMap<String, String>,
    settings: &Settings,
    options: ClientOptions,
    patience: Patience,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::new().with_region(REGION);
    for (name, value) in values {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    if values.contains_key("AWS_ACCESS_KEY_ID") {
        builder = builder.with_credentials(Arc::new(Rotating(settings.clone())));
    }
    let builder = builder
        .with_bucket_name(bucket)
        .with_client_options(options)
        .with_retry(retry(patience))
        // The store then refuses what was changed on the way.
        .with_checksum_algorithm(Checksum::SHA256);
    Ok(Arc::new(builder.build()?))
}

fn google(
    bucket: &str,
    values: &BTreeMap<String, String>,
    options: ClientOptions,
    patience: Patience,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in values {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket).with_client_options(options).with_retry(retry(patience));
    Ok(Arc::new(builder.build()?))
}

fn azure(
    container: &str,
    values: &BTreeMap<String, String>,
    options: ClientOptions,
    patience: Patience,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in values {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let builder =
        builder.with_container_name(container).with_client_options(options).with_retry(retry(patience));
    Ok(Arc::new(builder.build()?))
}

/// S3 credentials that are read anew for each request, so that renewed ones are used at once.
#[derive(Debug)]
struct Rotating(Settings);

#[async_trait::async_trait]
impl CredentialProvider for Rotating {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            object_store::Error::Unauthenticated { path: "the credentials".to_owned(), source }
        };
        let mut values = self.0.read().map_err(|error| failed(error.into()))?;
        let mut take = |name: &str| values.remove(name).filter(|value| !value.is_empty());
        let need = |name: &str, value: Option<String>| {
            value.ok_or_else(|| failed(format!("{name} is not among the credentials").into()))
        };
        Ok(Arc::new(AwsCredential {
            key_id: need("AWS_ACCESS_KEY_ID", take("AWS_ACCESS_KEY_ID"))?,
            secret_key: need("AWS_SECRET_ACCESS_KEY", take("AWS_SECRET_ACCESS_KEY"))?,
            token: take("AWS_SESSION_TOKEN"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Replaces what a Secret holds, as a kubelet does.
    fn replace(volume: &Path, number: u32) {
        let fresh = volume.join(format!("..{number}"));
        std::fs::create_dir(&fresh).unwrap();
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            std::fs::write(fresh.join(name), format!("{number}\n")).unwrap();
        }
        let former = std::fs::read_link(volume.join(VERSION));
        symlink(fresh.file_name().unwrap(), volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join(VERSION)).unwrap();
        if let Ok(former) = former {
            std::fs::remove_dir_all(volume.join(former)).unwrap();
        }
    }

    #[test]
    fn credentials_are_of_one_version() {
        let volume = tempfile::tempdir().unwrap();
        replace(volume.path(), 0);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            symlink(Path::new(VERSION).join(name), volume.path().join(name)).unwrap();
        }
        let settings = Settings::of_directory(volume.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..200 {
                    replace(volume.path(), number);
                    std::thread::sleep(Duration::from_millis(1));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let values = settings.read().unwrap();
                assert_eq!(values.len(), 2);
                assert_eq!(values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]);
            }
        });
    }

    #[test]
    fn a_plain_directory_will_do() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("AWS_REGION"), " eu-west-1\n").unwrap();
        std::fs::write(directory.path().join(".hidden"), "x").unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        let values = Settings::of_directory(directory.path()).read().unwrap();
        assert_eq!(values, BTreeMap::from([("AWS_REGION".to_owned(), "eu-west-1".to_owned())]));
    }
}
