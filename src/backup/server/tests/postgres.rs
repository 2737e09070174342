//! PostgreSQL for a test: installed once, and gone with the test.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::backup::server::{Address, Connection, Limits, Mode, Target};
use crate::sandbox::provision::{Identity, Image, Provisioner, Silent, test_cache};

pub(super) const LIMITS: Limits = Limits { open: Duration::from_secs(60), silence: Duration::from_secs(300) };
/// The role of backups, and its password, which has something to escape.
pub(super) const MOVER: &str = "mover";
pub(super) const PASSWORD: &str = "it's a secret";

/// Who may come, and how: `postgres` for everything, `mover` with its password.
const RULES: &str = "local all,replication postgres trust\n\
                     local all,replication all scram-sha-256\n\
                     host all,replication all 127.0.0.1/32 scram-sha-256\n";

/// One server, with page checksums, on a socket and on a port of the loopback.
pub(super) struct Server {
    home: tempfile::TempDir,
    image: Image,
    port: u16,
    postmaster: Option<Child>,
}

impl Server {
    /// A new cluster, running.
    pub(super) async fn start(release: &str) -> Self {
        let image =
            Provisioner::new(test_cache()).ensure(&format!("dbctl/postgres:{release}"), &Silent).unwrap();
        let home = tempfile::tempdir().unwrap();
        Identity::of_pods().own(home.path()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { home, image, port, postmaster: None };
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.arg("-D").arg(&data).args(["--no-sync", "-k", "-A", "trust", "-U", "postgres", "-E", "UTF8"]);
        run(initdb.arg("--no-locale"));
        fs::write(data.join("pg_hba.conf"), RULES).unwrap();
        server.launch().await;
        let password = PASSWORD.replace('\'', "''");
        server.sql(&format!("CREATE ROLE {MOVER} LOGIN REPLICATION PASSWORD '{password}'")).await;
        server
    }

    /// Starts the postmaster, and waits until it lets us in.
    pub(super) async fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        let sockets = format!("unix_socket_directories={}", self.home.path().display());
        let settings = ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", &sockets];
        settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.postmaster = Some(command.spawn().unwrap());
        for _ in 0..3000 {
            if Connection::open(&self.postgres(), &sql(), LIMITS).await.is_ok() {
                return;
            }
            let ended = self.postmaster.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}", self.said());
    }

    /// Ends it, fast (`INT`) or at once (`QUIT`).
    pub(super) fn stop(&mut self, signal: Signal) {
        if let Some(mut postmaster) = self.postmaster.take() {
            let pid = Pid::from_raw(i32::try_from(postmaster.id()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
            postmaster.wait().unwrap();
        }
    }

    /// A program of its release, as the user that it runs as.
    fn command(&self, program: &str) -> Command {
        let mut command = self.tool(program);
        Identity::of_pods().apply(&mut command);
        command
    }

    /// A program of its release.
    pub(super) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(self.image.build.join("bin").join(program));
        command
            .env_clear()
            .env("LD_LIBRARY_PATH", self.image.libraries())
            .env("LC_ALL", "C")
            .current_dir("/");
        command
    }

    /// The options that it was built with.
    pub(super) fn configuration(&self) -> String {
        String::from_utf8(self.tool("pg_config").arg("--configure").output().unwrap().stdout).unwrap()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A directory that the server may use.
    pub(super) fn directory(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Identity::of_pods().own(&path).unwrap();
        path
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// What it wrote into its log.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(super) fn socket(&self) -> Address {
        Address::Unix(self.home.path().join(format!(".s.PGSQL.{}", self.port)))
    }

    pub(super) fn tcp(&self) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    fn postgres(&self) -> Target {
        Target { user: "postgres".to_owned(), password: None, ..self.mover() }
    }

    pub(super) fn mover(&self) -> Target {
        Target {
            address: self.socket(),
            user: MOVER.to_owned(),
            password: Some(PASSWORD.to_owned()),
            tls: None,
            application_name: "dbctl backup".to_owned(),
        }
    }

    /// A connection for backups.
    pub(super) async fn replication(&self) -> Connection {
        Connection::open(&self.mover(), &Mode::Replication, LIMITS).await.unwrap()
    }

    /// The first value of the answer, as the superuser.
    pub(super) async fn sql(&self, text: &str) -> Option<String> {
        let mut connection = Connection::open(&self.postgres(), &sql(), LIMITS).await.unwrap();
        let rows = connection.query(text).await.unwrap();
        rows.into_iter().next()?.into_iter().next()?
    }

    /// Waits until that is true.
    pub(super) async fn until(&self, condition: &str) {
        for _ in 0..3000 {
            if self.sql(&format!("SELECT {condition}")).await.as_deref() == Some("t") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{condition} did not come about: {}", self.said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            if let Some(pid) = i32::try_from(postmaster.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::QUIT);
            }
            let _ = postmaster.wait();
        }
    }
}

pub(super) fn sql() -> Mode {
    Mode::Sql { database: "postgres".to_owned() }
}

/// Runs a command to its good end.
pub(super) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// Unpacks a tar file into a directory that is made for it.
pub(super) fn unpack(archive: &[u8], directory: &Path) {
    fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
    let mut command = Command::new("tar");
    command.arg("-xf-").arg("-C").arg(directory).stdin(Stdio::piped());
    let mut tar = command.spawn().unwrap();
    tar.stdin.take().unwrap().write_all(archive).unwrap();
    assert!(tar.wait().unwrap().success());
}
