//! Who speaks with whom, and how: TLS, certificates that change under load, and the password of the REST API.

mod passwords;
mod rest;
mod rotation;
mod whispers;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dbctl::backup::server::Tls;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::external::runtime;
use crate::proof::session::{Login, Session, trusting};
use crate::support::{Sandbox, eventually};

const NAME: &str = "db";

/// What a Secret holds, as text.
pub type Content = BTreeMap<String, String>;

pub async fn secret(sandbox: &Sandbox, name: &str) -> Content {
    let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
    let data = secrets.get(name).await.unwrap().data.unwrap();
    data.into_iter().map(|(key, value)| (key, String::from_utf8(value.0).unwrap())).collect()
}

/// Changes some of what a Secret holds.
pub async fn change(sandbox: &Sandbox, name: &str, content: Content) {
    let secrets: Api<Secret> = Api::default_namespaced(sandbox.client().await);
    let data: BTreeMap<String, ByteString> =
        content.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
    secrets.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "data": data }))).await.unwrap();
}

/// The addresses of the members, and of the write Service.
pub async fn addresses(sandbox: &Sandbox, members: usize) -> (Vec<IpAddr>, IpAddr) {
    let client = sandbox.client().await;
    let pods = Api::<Pod>::default_namespaced(client.clone());
    let mut found = Vec::new();
    for member in 0..members {
        let pod = pods.get(&format!("{NAME}-{member}")).await.unwrap();
        found.push(pod.status.unwrap().pod_ip.unwrap().parse().unwrap());
    }
    let service = Api::<Service>::default_namespaced(client).get(NAME).await.unwrap();
    (found, service.spec.unwrap().cluster_ip.unwrap().parse().unwrap())
}

/// The serial number of the certificate that a new session is shown, by a client that trusts `tls`.
async fn shown(address: IpAddr, tls: &Tls) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(SocketAddr::new(address, 5432)).await.map_err(words)?;
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await.map_err(words)?;
    if stream.read_u8().await.map_err(words)? != b'S' {
        return Err("it does not speak TLS".to_owned());
    }
    let name = rustls::pki_types::ServerName::IpAddress(address.into());
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config()));
    let stream = connector.connect(name, stream).await.map_err(words)?;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
    Ok(certificate.raw_serial_as_string())
}

/// Waits until each of them shows the same certificate, another one than `before`.
#[track_caller]
fn until_shown(addresses: &[IpAddr], tls: &Tls, before: &str) -> String {
    eventually("every member shows another certificate", || {
        runtime().block_on(async {
            let mut all = Vec::new();
            for address in addresses {
                all.push(shown(*address, tls).await?);
            }
            let same = all.iter().all(|one| *one == all[0]);
            if same && all[0] != before { Ok(all.remove(0)) } else { Err(format!("{all:?}")) }
        })
    })
}

fn login(sandbox: &Sandbox, tls: Option<Tls>) -> Login {
    let password = runtime().block_on(secret(sandbox, "db-app")).remove("password").unwrap();
    Login { user: "app".to_owned(), password, database: "app".to_owned(), tls }
}

/// Nobody gets in without TLS, who trusts others turns away, and `verify-full` works by each Service's name; everything that
/// goes over the network is encrypted.
fn everything_is_encrypted(sandbox: &Sandbox, members: &[IpAddr], service: IpAddr) {
    let runtime = runtime();
    let open = |login: Login| runtime.block_on(Session::open(SocketAddr::new(service, 5432), &login));
    let refused = open(login(sandbox, None)).map(drop).expect_err("it got in without TLS");
    assert!(refused.contains("no encryption"), "{refused}");
    let stranger = rcgen::generate_simple_self_signed(vec!["db".to_owned()]).unwrap();
    let stranger = Tls::trusting(stranger.cert.pem().as_bytes()).unwrap();
    let refused = open(login(sandbox, Some(stranger))).map(drop).expect_err("a stranger is trusted");
    assert!(refused.contains("certificate"), "{refused}");
    let own = runtime.block_on(async { trusting(sandbox.client().await, NAME).await });
    open(login(sandbox, Some(own))).unwrap();

    let users = runtime.block_on(secret(sandbox, "db-app"));
    assert!(users["uri"].ends_with("?sslmode=require"), "{}", users["uri"].split('@').next_back().unwrap());
    let file = sandbox.home().join("users-ca.crt");
    std::fs::write(&file, &users["ca.crt"]).unwrap();
    for (host, address, good) in [
        ("db.default.svc", service, true),
        ("db-1.db-headless.default.svc.cluster.local", members[1], true),
        ("elsewhere.default.svc", service, false),
    ] {
        let answer = psql(sandbox, host, address, &file, &users["password"]);
        assert_eq!(answer.status.success(), good, "{host}: {answer:?}");
    }
    let open = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null and not ssl";
    assert_eq!(crate::backups::cluster::as_superuser_of(sandbox, NAME, open), "0");
    let replicas = "select count(*) from pg_stat_ssl join pg_stat_replication using (pid) where ssl";
    assert_eq!(
        crate::backups::cluster::as_superuser_of(sandbox, NAME, replicas),
        (members.len() - 1).to_string()
    );
}

/// psql with `sslmode=verify-full`, for that host name at that address.
fn psql(
    sandbox: &Sandbox,
    host: &str,
    address: IpAddr,
    trusted: &std::path::Path,
    password: &str,
) -> std::process::Output {
    let image = format!("dbctl/postgres:{}", dbctl::api::PgVersion::DEFAULT);
    let provisioner = dbctl::sandbox::provision::Provisioner::new(crate::support::cache());
    let image = provisioner.ensure(&image, &dbctl::sandbox::provision::Silent).unwrap();
    let mut command = std::process::Command::new(image.build.join("bin/psql"));
    command.env_clear().env("LD_LIBRARY_PATH", image.libraries()).env("HOME", sandbox.home());
    command.env("PGHOST", host).env("PGHOSTADDR", address.to_string()).env("PGPASSWORD", password);
    command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", trusted);
    command.args(["-XAtq", "-U", "app", "-d", "app", "-c", "select 1"]).output().unwrap()
}

/// Waits until that many replicas stream.
#[track_caller]
fn until_streaming(sandbox: &Sandbox, replicas: usize) {
    eventually("replicas stream over TLS", || {
        let sql = "select count(*) from pg_stat_ssl join pg_stat_replication using (pid) where ssl and state = 'streaming'";
        let found = crate::backups::cluster::as_superuser_of(sandbox, NAME, sql);
        if found == replicas.to_string() { Ok(()) } else { Err(found) }
    });
}

/// A short pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
