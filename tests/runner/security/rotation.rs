//! Certificates change while everybody goes on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use dbctl::backup::server::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{
    Content, LOOK, NAME, addresses, change, everything_is_encrypted, login, secret, shown, until_shown,
    until_streaming,
};
use crate::external::runtime;
use crate::proof::load::Load;
use crate::proof::session::Session;
use crate::support::{Sandbox, eventually};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn issuer(authority: &Content) -> Issuer<'static, KeyPair> {
    Issuer::from_ca_cert_pem(&authority["tls.crt"], KeyPair::from_pem(&authority["tls.key"]).unwrap())
        .unwrap()
}

/// A certificate of that authority's which has an hour left of ninety days.
fn nearly_ended(authority: &Content) -> Content {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["db.default.svc".to_owned()]).unwrap();
    params.not_before = (SystemTime::now() - 90 * DAY).into();
    params.not_after = (SystemTime::now() + DAY / 24).into();
    let certificate = params.signed_by(&key, &issuer(authority)).unwrap().pem();
    [("tls.crt", certificate), ("tls.key", key.serialize_pem())].map(|(k, v)| (k.to_owned(), v)).into()
}

/// An authority of ten years with a month left, whom everybody trusts.
fn old_authority() -> Content {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an old authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - 3620 * DAY).into();
    params.not_after = (SystemTime::now() + 30 * DAY).into();
    let certificate = params.self_signed(&key).unwrap().pem();
    [
        ("tls.crt", certificate.clone()),
        ("tls.key", key.serialize_pem()),
        ("ca.crt", certificate),
        ("cross.crt", String::new()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// Clients that connect again and again, each a new one that trusts the same.
struct Newcomers {
    let_in: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    refused: tokio::task::JoinHandle<Vec<String>>,
}

impl Newcomers {
    fn start(runtime: &tokio::runtime::Runtime, address: IpAddr, trusted: &str) -> Self {
        let tls = Tls::trusting(trusted.as_bytes()).unwrap();
        let (let_in, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&let_in), Arc::clone(&stop));
        let refused = runtime.spawn(async move {
            let mut refused = Vec::new();
            while !end.load(Ordering::Relaxed) {
                match shown(address, &tls).await {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(why) => refused.push(why),
                }
                tokio::time::sleep(LOOK).await;
            }
            refused
        });
        Self { let_in, stop, refused }
    }

    /// Waits for some more of them.
    #[track_caller]
    fn wait(&self) {
        let before = self.let_in.load(Ordering::Relaxed);
        eventually("new clients are let in", || match self.let_in.load(Ordering::Relaxed) {
            now if now > before + 10 => Ok(()),
            now => Err(format!("{before}, {now}")),
        });
    }

    /// How many were let in, and what the others were told.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        (self.let_in.load(Ordering::Relaxed), self.refused.await.unwrap())
    }
}

#[test]
fn certificates_and_their_authority_change_under_load_and_nobody_is_cut_off() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::alone();
    sandbox.run(&["create", NAME, "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    let runtime = runtime();
    let (members, service) = runtime.block_on(addresses(&sandbox, 3));
    eventually("users are told whom to trust", || {
        let users = runtime.block_on(secret(&sandbox, "db-app"));
        users.get("ca.crt").map(drop).ok_or_else(|| format!("{:?}", users.keys()))
    });
    until_streaming(&sandbox, 2);
    everything_is_encrypted(&sandbox, &members, service);

    let trusted = runtime.block_on(secret(&sandbox, "db-app"))["ca.crt"].clone();
    let tls = Tls::trusting(trusted.as_bytes()).unwrap();
    let first = until_shown(&members, &tls, "");
    // Whoever connects later trusts the authority that is to come, as after any change that was told in time.
    let old = old_authority();
    let both = format!("{}{trusted}", old["ca.crt"]);
    let told = |content: &str| Content::from([("ca.crt".to_owned(), content.to_owned())]);
    runtime.block_on(change(&sandbox, "db-app", told(&both)));
    let load = Load::start(&sandbox, NAME, 3);
    let who = login(&sandbox, Some(tls.clone()));
    let session = runtime.block_on(Session::open(SocketAddr::new(service, 5432), &who)).unwrap();
    let pid = || {
        let asked = session
            .query("select pg_backend_pid(), ssl from pg_stat_ssl where pid = pg_backend_pid()", 100 * LOOK);
        runtime.block_on(asked).unwrap()
    };
    let (before, began) = (pid(), load.now());

    // The server's certificate comes to its end, and dbctl renews it.
    let authority = runtime.block_on(secret(&sandbox, "db-ca"));
    runtime.block_on(change(&sandbox, "db-tls", nearly_ended(&authority)));
    let second = until_shown(&members, &tls, &first);
    let third = until_shown(&members, &tls, &second);
    let kept = runtime.block_on(secret(&sandbox, "db-tls"));
    assert!(kept["tls.crt"].contains("BEGIN") && kept["ca.crt"] == trusted);
    println!("server's certificate: {first} -> {second} (nearly ended) -> {third} (renewed)");

    // The authority is one that ends within a month, whom everybody trusts by now, and dbctl puts another in its place.
    sandbox.run(&["pause", NAME]).ok();
    runtime.block_on(async {
        let told = told(&both);
        change(&sandbox, "db-ca", [old.clone(), told.clone()].into_iter().flatten().collect()).await;
        change(&sandbox, "db-tls", told).await;
        // Members trust it before one of them shows what it has signed.
        tokio::time::sleep(50 * LOOK).await;
        change(&sandbox, "db-tls", nearly_ended(&old)).await;
    });
    let only_old = Tls::trusting(old["ca.crt"].as_bytes()).unwrap();
    let fourth = until_shown(&members, &only_old, &third);
    let with_old = Newcomers::start(&runtime, service, &both);
    sandbox.run(&["resume", NAME]).ok();
    let made = eventually("there is another authority", || {
        let made = runtime.block_on(secret(&sandbox, "db-ca"));
        if made["tls.crt"] == old["tls.crt"] { Err("not yet".to_owned()) } else { Ok(made) }
    });
    assert!(
        made["ca.crt"].contains(made["tls.crt"].trim()) && made["ca.crt"].contains(old["tls.crt"].trim())
    );
    let with_both = Newcomers::start(&runtime, service, &made["ca.crt"]);
    let fifth = until_shown(&members, &only_old, &fourth);
    let only_new = Tls::trusting(made["tls.crt"].as_bytes()).unwrap();
    assert_eq!(until_shown(&members, &only_new, &fourth), fifth);
    eventually("users are told of both", || {
        let users = runtime.block_on(secret(&sandbox, "db-app"));
        if users["ca.crt"] == made["ca.crt"] { Ok(()) } else { Err("not yet".to_owned()) }
    });
    println!(
        "by another authority: {fourth} (the old one's) -> {fifth} (the new one's, for whoever trusts either)"
    );

    [&with_old, &with_both].iter().for_each(|newcomers| newcomers.wait());
    let ended = load.now();
    assert_eq!(pid(), before, "the session is another");
    let (told, gap) = (load.told(began), load.longest_gap(began, ended));
    let (old, new) = runtime.block_on(async { (with_old.end().await, with_both.end().await) });
    println!("new clients: {} that trust the old bundle, {} that trust the new one", old.0, new.0);
    println!(
        "in {:.0} s of load the longest gap was {:.3} s; told: {told:?}",
        (ended - began).as_secs_f64(),
        gap.as_secs_f64()
    );
    assert_eq!((&old.1, &new.1), (&Vec::new(), &Vec::new()), "clients were refused");
    let failed: Vec<_> = told.keys().filter(|why| !why.contains("takes no writes")).collect();
    assert!(failed.is_empty(), "writes failed: {failed:?}");
    let (rows, lost, doubles) = load.end();
    println!("{rows} rows acknowledged, {lost} lost");
    assert!(rows > 1000);
    assert_eq!((lost, doubles), (0, 0));

    // What connects anew trusts what is there now: replicas, and a backup's client.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_replication";
    assert_eq!(crate::backups::cluster::as_superuser_of(&sandbox, NAME, cut), "2");
    until_streaming(&sandbox, 2);
}
