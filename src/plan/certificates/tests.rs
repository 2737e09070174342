use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::decide::{Authority, Certificate, Held, Server, decide};
use crate::api::reason;
use crate::plan::world::World;
use crate::plan::{Action, Kind, Securing};

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(day * DAY).unwrap()
}

fn certificate(id: &str, from: i64, to: i64, by: &str) -> Certificate {
    Certificate {
        fingerprint: id.to_owned(),
        serial: id.to_owned(),
        not_before: at(from),
        not_after: at(to),
        names: vec!["db".to_owned()],
        signed_by: (!by.is_empty()).then(|| by.to_owned()),
    }
}

fn held(certificate: Certificate, trusted: &[Certificate]) -> Held {
    Held { certificate: Some(certificate), trusted: trusted.to_vec(), problem: None }
}

#[test]
fn what_is_due() {
    let old = certificate("old", 0, 3650, "old");
    let new = certificate("new", 3300, 6950, "new");
    let only_old = std::slice::from_ref(&old);
    let authority = held(old.clone(), only_old);
    let both = held(new.clone(), &[new.clone(), old.clone()]);
    let leaf = |from: i64, by: &str, trusted: &[Certificate]| {
        held(certificate("leaf", from, from + 90, by), trusted)
    };
    let names = |name: &str| vec![name.to_owned()];
    let broken = Held { problem: Some("has no tls.key".to_owned()), ..authority.clone() };
    for (why, authority, server, name, day, expected) in [
        ("nothing is there", None, None, "db", 0, (Authority::Make, Server::Make)),
        (
            "all is well",
            Some(&authority),
            Some(leaf(0, "old", only_old)),
            "db",
            59,
            (Authority::Keep, Server::Keep),
        ),
        (
            "a third is left",
            Some(&authority),
            Some(leaf(0, "old", only_old)),
            "db",
            60,
            (Authority::Keep, Server::Make),
        ),
        (
            "it has ended",
            Some(&authority),
            Some(leaf(0, "old", only_old)),
            "db",
            91,
            (Authority::Keep, Server::Make),
        ),
        (
            "another name",
            Some(&authority),
            Some(leaf(0, "old", only_old)),
            "other",
            1,
            (Authority::Keep, Server::Make),
        ),
        (
            "no authority's",
            Some(&authority),
            Some(leaf(0, "", only_old)),
            "db",
            1,
            (Authority::Keep, Server::Make),
        ),
        (
            "a stranger's",
            Some(&authority),
            Some(leaf(0, "x", only_old)),
            "db",
            1,
            (Authority::Keep, Server::Make),
        ),
        (
            "it is unreadable",
            Some(&authority),
            Some(Held { problem: Some("x".into()), ..leaf(0, "old", only_old) }),
            "db",
            1,
            (Authority::Keep, Server::Make),
        ),
        (
            "the authority ends",
            Some(&authority),
            Some(leaf(3280, "old", only_old)),
            "db",
            3285,
            (Authority::Renew, Server::Keep),
        ),
        (
            "the next one is there",
            Some(&both),
            Some(leaf(3280, "old", only_old)),
            "db",
            3301,
            (Authority::Keep, Server::Trust),
        ),
        (
            "both are trusted",
            Some(&both),
            Some(leaf(3280, "old", &[old.clone(), new])),
            "db",
            3301,
            (Authority::Keep, Server::Keep),
        ),
        (
            "the authority is lost",
            None,
            Some(leaf(0, "old", only_old)),
            "db",
            1,
            (Authority::Make, Server::Keep),
        ),
        (
            "both are due",
            Some(&authority),
            Some(leaf(3220, "old", only_old)),
            "db",
            3300,
            (Authority::Renew, Server::Make),
        ),
        ("the authority is unreadable", Some(&broken), None, "db", 1, (Authority::Keep, Server::Keep)),
    ] {
        assert_eq!(decide(authority, server.as_ref(), &names(name), at(day)), expected, "{why}");
    }
}

/// A world with the time moved on by so many days.
fn later(world: &mut World, days: i64) {
    world.now += SignedDuration::from_secs(days * DAY);
    world.settle();
}

fn shown(world: &World) -> Certificate {
    world.observed.certificates["db-tls"].certificate.clone().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However seldom the controller looks (at least once in a month), what is shown is always valid, and was signed by one of
    /// those that are trusted; and who trusted the authorities of up to a year ago trusts it still.
    #[test]
    fn over_decades_no_certificate_ends_and_nobody_is_cut_off(steps in prop::collection::vec(1i64..29, 600)) {
        let names = vec!["db".to_owned()];
        let mut now = 0;
        let mut serial = 0;
        let mut make = |from: i64, life: i64, by: Option<&str>| {
            serial += 1;
            let id = format!("c{serial}");
            certificate(&id, from, from + life, by.unwrap_or(&id))
        };
        let (mut authority, mut server): (Option<Held>, Option<Held>) = (None, None);
        for step in steps {
            now += step;
            if let Some(server) = &server {
                prop_assert!(server.certificate.as_ref().unwrap().not_after > at(now));
            }
            for _ in 0..3 {
                let (first, second) = decide(authority.as_ref(), server.as_ref(), &names, at(now));
                if first != Authority::Keep {
                    let made = make(now, 3650, None);
                    let before = authority.take().map(|held| held.trusted).unwrap_or_default();
                    authority = Some(held(made.clone(), &[vec![made], before].concat()));
                }
                let by = authority.clone().unwrap();
                match second {
                    Server::Keep => {}
                    Server::Make => {
                        let id = by.certificate.as_ref().unwrap().fingerprint.clone();
                        server = Some(held(make(now, 90, Some(&id)), &by.trusted));
                    }
                    Server::Trust => server = server.map(|server| Held { trusted: by.trusted.clone(), ..server }),
                }
            }
            prop_assert_eq!(
                decide(authority.as_ref(), server.as_ref(), &names, at(now)), (Authority::Keep, Server::Keep)
            );
            let server = server.as_ref().unwrap();
            let signer = server.certificate.as_ref().unwrap().signed_by.clone().unwrap();
            let signer = server.trusted.iter().find(|trusted| trusted.fingerprint == signer).unwrap();
            prop_assert!(signer.not_after >= server.certificate.as_ref().unwrap().not_after);
        }
    }
}

fn configuration(world: &World) -> serde_json::Value {
    let file = world.get(Kind::ConfigMap, "db-patroni")["data"]["patroni.yml"].as_str().unwrap();
    serde_json::from_str(file).unwrap()
}

#[test]
fn a_settled_database_has_certificates_and_everybody_insists_on_them() {
    let backup = json!({ "backup": { "destination": "s3://b/mine", "credentialsSecret": "s" } });
    for spec in [backup, json!({})] {
        let file = configuration(&World::settled(spec));
        assert_eq!(file["dbctl"]["verify"], true);
        assert!(file["bootstrap"]["dcs"]["postgresql"]["pg_hba"].to_string().contains("hostssl all all all"));
    }
    let world = World::settled(json!({}));
    assert!(shown(&world).names.contains(&"*.db-headless.ns.svc.cluster.local".to_owned()));
    assert!(world.get(Kind::Secret, "db-app")["metadata"]["annotations"][super::TOLD].is_string());
}

#[test]
fn certificates_are_renewed_and_no_pod_is_touched() {
    let mut world = World::settled(json!({}));
    let first = shown(&world);
    later(&mut world, 59);
    assert_eq!(shown(&world), first);
    later(&mut world, 1);
    let second = shown(&world);
    assert_ne!(second.serial, first.serial);
    assert_eq!(second.signed_by, first.signed_by);
    assert!(world.replaced.is_empty());
    // Years later.
    later(&mut world, 3230);
    let both = &world.observed.certificates["db-tls"].trusted;
    assert_eq!((both.len(), both[1].fingerprint.clone()), (2, first.signed_by.unwrap()));
    assert!(world.replaced.is_empty());
}

#[test]
fn a_certificate_that_was_deleted_is_made_anew() {
    let mut world = World::settled(json!({}));
    let first = shown(&world);
    world.observed.remove(Kind::Secret, "db-tls");
    world.observed.certificates.remove("db-tls");
    world.settle();
    assert_ne!(shown(&world).serial, first.serial);
    assert_eq!(shown(&world).signed_by, first.signed_by);
    // Without its authority, it is still what is shown, and who trusts it goes on.
    let shown_before = shown(&world);
    world.observed.remove(Kind::Secret, "db-ca");
    world.observed.certificates.remove("db-ca");
    world.settle();
    assert_eq!(shown(&world), shown_before);
    assert_eq!(world.observed.certificates["db-tls"].trusted.len(), 2);
}

#[test]
fn a_secret_of_that_name_that_is_somebody_elses_is_not_touched() {
    for name in ["db-ca", "db-tls"] {
        let mut world = World::new(crate::plan::world::database(json!({})));
        world.observed.insert(Kind::Secret, json!({ "metadata": { "name": name, "uid": "theirs" } }));
        let plan = world.plan();
        assert!(!plan.actions.iter().any(|action| matches!(action, Action::Secure(_))), "{name}");
        let ready = plan.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!(ready.reason, reason::NAME_TAKEN, "{name}");
    }
}

fn says(world: &World) -> (String, String) {
    let status = world.plan().status;
    let found = status.conditions.iter().find(|condition| condition.type_ == "UpToDate").unwrap();
    (found.reason.clone(), found.message.clone())
}

#[test]
fn a_secret_of_the_users_is_waited_for_and_one_that_is_lost_breaks_nothing() {
    let spec = json!({ "tls": { "certificateSecret": "mine" } });
    let mut world = World::new(crate::plan::world::database(spec.clone()));
    world.settle();
    assert!(world.observed.get(Kind::StatefulSet, "db").is_none());
    assert!(world.observed.get(Kind::Secret, "db-ca").is_none());
    let mine = held(certificate("mine", 0, 400, "theirs"), &[certificate("theirs", 0, 4000, "theirs")]);
    world.observed.certificates.insert("mine".to_owned(), mine);
    world.settle();
    let mounted = |world: &World| {
        let volumes = world.get(Kind::StatefulSet, "db")["spec"]["template"]["spec"]["volumes"].clone();
        let volume =
            volumes.as_array().unwrap().iter().find(|volume| volume["name"] == super::VOLUME).cloned();
        volume.map(|volume| volume["projected"]["sources"][0]["secret"]["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(mounted(&world).as_deref(), Some("mine"));
    assert!(world.observed.get(Kind::Secret, "db-tls").is_none());

    // It is lost, and it is damaged: members go on.
    for held in [None, Some(Held { problem: Some("has no tls.key".to_owned()), ..Held::default() })] {
        world.observed.certificates.remove("mine");
        world.observed.certificates.extend(held.map(|held| ("mine".to_owned(), held)));
        world.settle();
        assert_eq!(mounted(&world).as_deref(), Some("mine"));
        assert_eq!(says(&world).0, reason::CERTIFICATE_UNUSABLE);
        assert!(world.replaced.is_empty());
    }
    assert!(world.events.iter().any(|event| event.reason == reason::CERTIFICATE_UNUSABLE && event.warning));

    // One of dbctl's own takes its place by a rollout, and one that is not there takes nobody's.
    let mut world = World::settled(json!({}));
    world.edit(spec);
    world.settle();
    assert_eq!(mounted(&world).as_deref(), Some("db-tls"));
    assert!(says(&world).1.contains("\"mine\"") && world.replaced.is_empty());
}

#[test]
fn an_expired_certificate_is_told_of() {
    let mut world =
        World::new(crate::plan::world::database(json!({ "tls": { "certificateSecret": "mine" } })));
    let mine = held(certificate("mine", 0, 400, "theirs"), &[certificate("theirs", 0, 4000, "theirs")]);
    world.observed.certificates.insert("mine".to_owned(), mine);
    world.settle();
    assert_eq!(says(&world).0, reason::PODS_UP_TO_DATE);
    later(&mut world, 400);
    assert_eq!(says(&world).0, reason::CERTIFICATE_EXPIRED);
}

/// A database of before TLS: pods change one at a time, and until the last has, nobody insists on what not all can do.
#[test]
fn an_older_database_goes_over_to_tls_by_a_rollout() {
    let mut world = World::settled(json!({}));
    // As an older dbctl left it.
    let strip = |spec: &mut serde_json::Value| {
        let kept = spec["volumes"].as_array().unwrap().iter().filter(|v| v["name"] != super::VOLUME).cloned();
        spec["volumes"] = kept.collect();
    };
    let mut set = world.get(Kind::StatefulSet, "db").clone();
    strip(&mut set["spec"]["template"]["spec"]);
    set["spec"]["template"]["metadata"]["annotations"][crate::plan::TEMPLATE] = json!("older");
    world.observed.insert(Kind::StatefulSet, set);
    for pod in world.pods() {
        let mut pod = world.get(Kind::Pod, &pod).clone();
        strip(&mut pod["spec"]);
        pod["metadata"]["annotations"][crate::plan::TEMPLATE] = json!("older");
        world.observed.insert(Kind::Pod, pod);
    }
    let insists = |world: &World| {
        let config = world.get(Kind::ConfigMap, "db-config")["metadata"]["annotations"]["config"].to_string();
        config.contains("hostssl")
    };
    world.pass(usize::MAX);
    assert!(!insists(&world));
    while world.replaced.len() < 3 {
        assert!(!insists(&world), "{:?}", world.replaced);
        world.pass(usize::MAX);
        world.step();
    }
    world.settle();
    assert!(insists(&world));
    let told =
        world.plan().actions.iter().any(|action| matches!(action, Action::Secure(Securing::Trust { .. })));
    assert!(!told);
}
