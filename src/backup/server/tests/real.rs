//! A client before PostgreSQL itself.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::{LIMITS, Server, run, sql, unpack};
use super::{ZSTD, options, tablespace};
use crate::backup::server::{
    Address, Archive, BaseBackup, Compression, Connection, Event, Mode, Options, Point, ServerError, Target,
    Tls,
};
use crate::sandbox::provision::Identity;

/// A backup that came to its end.
#[derive(Default)]
struct Received {
    archives: Vec<(Archive, Vec<u8>)>,
    manifest: Vec<u8>,
    progress: Vec<u64>,
    end: Option<Point>,
}

impl Received {
    fn take(&mut self, event: Event) {
        assert_eq!(self.end, None, "something comes after the end");
        match event {
            Event::Archive(archive) => self.archives.push((archive, Vec::new())),
            Event::Data(bytes) => self.archives.last_mut().unwrap().1.extend(bytes),
            Event::Progress(done) => self.progress.push(done),
            Event::Manifest(bytes) => self.manifest.extend(bytes),
            Event::End(point) => self.end = Some(point),
        }
    }

    async fn all(base: &mut BaseBackup) -> Result<Self, ServerError> {
        let mut received = Self::default();
        while let Some(event) = base.next().await? {
            received.take(event);
        }
        Ok(received)
    }

    /// Has PostgreSQL check what was received; an empty directory is used.
    fn verify(&self, server: &Server, directory: &Path) {
        let base = directory.join("base");
        let (last, others) = self.archives.split_last().unwrap();
        assert_eq!(last.0.tablespace, None);
        unpack(&raw(last), &base);
        assert!(base.join("tablespace_map").exists());
        for archive in others {
            let oid = archive.0.tablespace.as_ref().unwrap().oid.to_string();
            unpack(&raw(archive), &directory.join(&oid));
            symlink(directory.join(&oid), base.join("pg_tblspc").join(&oid)).unwrap();
        }
        fs::write(base.join("backup_manifest"), &self.manifest).unwrap();
        run(server.tool("pg_verifybackup").arg("-n").arg(&base));
    }
}

/// The archive as it was before compression.
fn raw((archive, bytes): &(Archive, Vec<u8>)) -> Vec<u8> {
    if archive.name.ends_with(".zst") { zstd::decode_all(bytes.as_slice()).unwrap() } else { bytes.clone() }
}

/// So slow that a test can act in the middle of it.
fn slow() -> Options {
    Options { max_rate: Some(512), ..options(Compression::None) }
}

/// Begins a slow backup, and reads its first data.
async fn under_way(server: &Server) -> BaseBackup {
    let mut base = server.replication().await.base_backup(&slow()).await.unwrap();
    while !matches!(base.next().await.unwrap(), Some(Event::Data(_))) {}
    base
}

/// How a backup ends that cannot end well.
async fn failure(mut base: BaseBackup) -> ServerError {
    let end = async {
        loop {
            match base.next().await {
                Ok(event) => assert!(!matches!(event, None | Some(Event::End(_))), "it ended well"),
                Err(error) => return error,
            }
        }
    };
    let noticed = tokio::time::timeout(Duration::from_secs(60), end).await;
    noticed.expect("the failure is noticed long before the silence")
}

/// The server shows a certificate from now on.
async fn speak_tls(server: &Server, certificate: &str, key: &str) {
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        let path = server.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Identity::of_pods().own(&path).unwrap();
    }
    server.sql("ALTER SYSTEM SET ssl = on").await;
    server.sql("SELECT pg_reload_conf()").await;
    server.until("current_setting('ssl') = 'on'").await;
}

#[tokio::test]
async fn a_server_proves_itself_before_anything_is_said() {
    let server = Server::start("16.15").await;
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    let trusting = |text: &str| Some(Tls::trusting(text.as_bytes()).unwrap());
    let over = |tls| Target { address: server.tcp(), tls, ..server.mover() };
    let open = async |tls| Connection::open(&over(tls), &sql(), LIMITS).await;
    // Whoever sits in between would say so too.
    let Err(error) = open(trusting(&certificate)).await else { panic!("it went on without TLS") };
    assert_eq!(error.to_string(), "speak TLS with the server: the server does not");

    speak_tls(&server, &certificate, &made.signing_key.serialize_pem()).await;
    let mut connection = open(trusting(&certificate)).await.unwrap();
    let rows = connection.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await.unwrap();
    assert_eq!(rows, [[Some("t".to_owned())]]);
    let stranger = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).unwrap().cert.pem();
    let Err(error) = open(trusting(&stranger)).await else { panic!("a stranger's word was taken") };
    assert!(
        error.to_string().starts_with("speak TLS with the server: ")
            && error.to_string().contains("certificate"),
        "{error}"
    );
    assert!(Tls::trusting(b"").is_err());
    // A base backup comes that way as well.
    let target = over(trusting(&certificate));
    let replication = Connection::open(&target, &Mode::Replication, LIMITS).await.unwrap();
    let mut base = replication.base_backup(&options(ZSTD)).await.unwrap();
    let received = Received::all(&mut base).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    received.verify(&server, place.path());
}

#[tokio::test]
async fn passwords_and_questions() {
    let server = Server::start("16.15").await;
    let over = |address| Target { address, ..server.mover() };
    for target in [over(server.socket()), over(server.tcp())] {
        let mut connection = Connection::open(&target, &Mode::Replication, LIMITS).await.unwrap();
        assert_eq!(connection.major(), 16);
        let system = connection.identify().await.unwrap();
        assert_eq!((system.timeline, system.database.as_ref()), (1, None));
        let size = connection.query("SHOW wal_segment_size").await.unwrap();
        assert_eq!(size, [[Some("16MB".to_owned())]]);
        let control = server.sql("SELECT system_identifier FROM pg_control_system()").await.unwrap();
        assert_eq!(system.system_identifier.to_string(), control);
        let wrong = Target { password: Some("it is no secret".to_owned()), ..target.clone() };
        for mode in [Mode::Replication, sql()] {
            let Err(error) = Connection::open(&wrong, &mode, LIMITS).await else { panic!() };
            let expected = r#"have the server do it: FATAL: password authentication failed for user "mover" (SQLSTATE 28P01)"#;
            assert_eq!(error.to_string(), expected);
        }
        let without = Target { password: None, ..target };
        let Err(error) = Connection::open(&without, &sql(), LIMITS).await else { panic!() };
        assert!(matches!(error, ServerError::Login(_)), "{error}");
    }

    let mut connection = Connection::open(&server.mover(), &sql(), LIMITS).await.unwrap();
    let rows = connection.query("SELECT 1, NULL, 'é'; SELECT current_setting('application_name')").await;
    let rows = rows.unwrap();
    assert_eq!(
        rows,
        [vec![Some("1".to_owned()), None, Some("é".to_owned())], vec![Some("dbctl backup".to_owned())]]
    );
    let error = connection.query("SELECT pg_switch_wal(1)").await.unwrap_err();
    insta::assert_snapshot!(error, @"have the server do it: ERROR: function pg_switch_wal(integer) does not exist (SQLSTATE 42883); hint: No function matches the given name and argument types. You might need to add explicit type casts.");
    let error = connection.query("SELECT pg_switch_wal()").await.unwrap_err();
    assert_eq!(error.report().unwrap().code, "42501");
    let nobody = Target { address: Address::Unix("/nowhere".into()), ..server.mover() };
    let Err(error) = Connection::open(&nobody, &sql(), LIMITS).await else { panic!() };
    insta::assert_snapshot!(error, @"connect to /nowhere: No such file or directory (os error 2)");
}

/// Takes backups in all ways, and gives one up.
async fn backups(release: &str) {
    let server = Server::start(release).await;
    // Not all builds can: that of 15 is without, and refuses.
    let able = server.configuration().contains("--with-zstd");
    let space = server.directory("space");
    server.sql(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display())).await;
    let fill = "AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 5000) n";
    server.sql(&format!("CREATE TABLE far TABLESPACE side {fill}")).await;
    server.sql(&format!("CREATE TABLE near {fill}")).await;
    let oid = server.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'side'").await.unwrap();
    let oid: u32 = oid.parse().unwrap();

    for compression in [Compression::None, Compression::Zstd { level: 1, workers: 0 }, ZSTD] {
        let connection = server.replication().await;
        let compresses = able && compression != Compression::None;
        let mut base = connection.base_backup(&options(compression)).await.unwrap();
        assert_eq!(base.compression() != Compression::None, compresses);
        assert_eq!(base.tablespaces().collect::<Vec<_>>(), [&tablespace(oid, &space)]);
        assert!(base.size() > 5 << 20, "{}", base.size());
        let (start, received) = (base.start(), Received::all(&mut base).await.unwrap());
        let end = received.end.unwrap();
        assert_eq!((start.timeline, end.timeline), (1, 1));
        assert!(start.position < end.position);
        let suffix = if compresses { ".zst" } else { "" };
        let names: Vec<_> = received.archives.iter().map(|(archive, _)| archive.name.clone()).collect();
        assert_eq!(names, [format!("{oid}.tar{suffix}"), format!("base.tar{suffix}")]);
        if release.starts_with("14.") {
            assert!(received.progress.is_empty());
        } else {
            assert!(received.progress.is_sorted() && received.progress.len() >= 2, "{:?}", received.progress);
            assert!(*received.progress.last().unwrap() > 5 << 20);
        }
        let directory = tempfile::tempdir().unwrap();
        received.verify(&server, directory.path());
        let label = fs::read_to_string(directory.path().join("base/backup_label")).unwrap();
        assert!(label.contains("LABEL: dbctl's test\n"), "{label}");
        if compresses {
            // Frames of one archive after those of another are read as one.
            let both: Vec<u8> = received.archives.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let mut together = Vec::new();
            zstd::Decoder::new(both.as_slice()).unwrap().read_to_end(&mut together).unwrap();
            assert_eq!(together, received.archives.iter().flat_map(raw).collect::<Vec<_>>());
        }
    }

    // Who loses interest ends it for the server, too.
    let senders =
        |count| format!("(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender') = {count}");
    let base = under_way(&server).await;
    server.until(&senders(1)).await;
    drop(base);
    server.until(&senders(0)).await;
}

#[tokio::test]
async fn backups_of_postgresql_16_are_whole() {
    backups("16.15").await;
}

#[tokio::test]
async fn backups_of_postgresql_18_are_whole() {
    backups("18.6").await;
}

/// Three more installations.
#[tokio::test]
#[ignore = "installs three more releases of PostgreSQL"]
async fn backups_of_other_releases_are_whole() {
    for release in ["14.23", "15.19", "17.11"] {
        backups(release).await;
    }
}

#[tokio::test]
async fn a_damaged_page_fails_the_backup_and_is_named() {
    let server = Server::start("16.15").await;
    server.sql("CREATE TABLE damaged AS SELECT n FROM generate_series(1, 5000) n").await;
    let path = server.sql("SELECT pg_relation_filepath('damaged')").await.unwrap();
    server.sql("CHECKPOINT").await;
    let file = File::options().read(true).write(true).open(server.data().join(&path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 8192 + 8000).unwrap();
    file.write_all_at(&[!byte[0]], 8192 + 8000).unwrap();

    let mut base = server.replication().await.base_backup(&options(ZSTD)).await.unwrap();
    let Err(error) = Received::all(&mut base).await else { panic!("damage goes unnoticed") };
    assert_eq!(error.report().unwrap().code, "XX001");
    let said = error.to_string();
    let named = format!("checksum verification failed in file \"./{path}\", block 1: ");
    assert!(said.contains(&named), "{said} lacks {named}");

    let unchecked = Options { verify_pages: false, ..options(ZSTD) };
    let mut base = server.replication().await.base_backup(&unchecked).await.unwrap();
    assert!(Received::all(&mut base).await.unwrap().end.is_some());
}

#[tokio::test]
async fn a_server_that_dies_takes_the_backup_with_it() {
    let mut server = Server::start("18.6").await;
    let base = under_way(&server).await;
    let pid = server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'").await.unwrap();
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let error = failure(base).await;
    assert!(matches!(error, ServerError::Lost { .. }), "{error}");

    // In order, it says why.
    server.stop(Signal::QUIT);
    server.launch().await;
    let base = under_way(&server).await;
    server.stop(Signal::INT);
    let error = failure(base).await;
    assert_eq!(error.report().map(|report| report.code.as_str()), Some("57P01"), "{error}");
}

#[tokio::test]
async fn a_standby_can_be_the_source() {
    let mut server = Server::start("16.15").await;
    server.stop(Signal::INT);
    fs::write(server.data().join("standby.signal"), "").unwrap();
    server.launch().await;
    assert_eq!(server.sql("SELECT pg_is_in_recovery()").await.as_deref(), Some("t"));
    let replayed = server.sql("SELECT pg_last_wal_replay_lsn()").await.unwrap();
    let replayed = crate::backup::wal::position(&replayed).unwrap();

    let mut base = server.replication().await.base_backup(&options(ZSTD)).await.unwrap();
    let start = base.start();
    let received = Received::all(&mut base).await.unwrap();
    let end = received.end.unwrap();
    assert_eq!((start.timeline, end.timeline), (1, 1));
    assert!(start.position <= end.position && end.position <= replayed, "{start:?} {end:?} {replayed}");
    received.verify(&server, tempfile::tempdir().unwrap().path());

    // Promoted in the middle, it gives the backup up.
    let base = under_way(&server).await;
    assert_eq!(server.sql("SELECT pg_promote()").await.as_deref(), Some("t"));
    let error = failure(base).await;
    assert_eq!(error.report().unwrap().message, "the standby was promoted during online backup");
    // And serves others from its new timeline.
    let mut connection = server.replication().await;
    assert_eq!(connection.identify().await.unwrap().timeline, 2);
    let mut base = connection.base_backup(&options(ZSTD)).await.unwrap();
    let start = base.start();
    let end = Received::all(&mut base).await.unwrap().end.unwrap();
    assert_eq!((start.timeline, end.timeline), (2, 2));
    assert!(start.position < end.position);
}
