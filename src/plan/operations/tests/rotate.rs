//! New passwords.

use super::*;
use crate::agent::Rotations;
use crate::plan::Rotate;

/// The action that puts new passwords into Secrets.
fn rotate(world: &World) -> Option<Rotate> {
    world.plan().actions.into_iter().find_map(|action| match action {
        Action::Rotate(rotate) => Some(rotate),
        _ => None,
    })
}

fn names(rotate: &Rotate) -> Vec<&str> {
    rotate.secrets.iter().map(|(name, _)| name.as_str()).collect()
}

/// What that member's agent says.
fn goes_by(world: &mut World, member: &str, app: Option<&str>, internal: Option<&str>) {
    let own = |id: Option<&str>| id.map(str::to_owned);
    world.observed.rotations.insert(member.to_owned(), Rotations { app: own(app), internal: own(internal) });
}

/// It has been asked for, and no pass has seen it.
fn asked(arguments: Value) -> (World, String) {
    let mut world = World::settled(json!({}));
    let id = request(&mut world, "rotate-credentials", arguments);
    (world, id)
}

#[test]
fn secrets_and_pods_change_and_every_member_that_answers_is_waited_for() {
    let (mut world, id) = asked(json!({}));
    // A replica is away: it sees nothing else when it is back.
    for member in ["db-0", "db-1"] {
        goes_by(&mut world, member, None, None);
    }
    world.pass(usize::MAX);
    assert_eq!(find(&world, &id).phase, OperationPhase::Running);
    assert_eq!(rotate(&world), None, "it is written");
    for secret in ["db-app", "db-internal"] {
        assert_eq!(
            world.get(Kind::Secret, secret)["metadata"]["annotations"]["db.example.com/rotation"],
            id.as_str()
        );
    }
    let waits = said(&world, &id);
    assert_eq!(waits, (OperationPhase::Running, "waiting for db-0, db-1 to go by the new passwords".into()));
    goes_by(&mut world, "db-1", Some(&id), Some(&id));
    goes_by(&mut world, "db-0", Some(&id), Some("another"));
    assert_eq!(said(&world, &id).1, "waiting for db-0 to go by the new passwords");
    goes_by(&mut world, "db-0", Some(&id), Some(&id));
    world.pass(usize::MAX);
    assert_eq!(
        said(&world, &id),
        (
            OperationPhase::Succeeded,
            "new passwords are in db-app and db-internal, and every member goes by them".into()
        )
    );
    assert_eq!(events(&world, "RotationSucceeded"), 1);
    assert_eq!(rotate(&world), None);
}

#[test]
fn one_secret_alone_changes_where_that_is_asked_for() {
    for (of, secret, keys) in [("app", "db-app", 1), ("internal", "db-internal", 3)] {
        let (mut world, id) = asked(json!({ "of": of }));
        let asked = rotate(&world).unwrap();
        assert_eq!((names(&asked), asked.secrets[0].1.len(), asked.pods.len()), (vec![secret], keys, 3));
        // Cut short behind the Secrets: the pods are told in the next pass.
        let told = json!({ "metadata": { "annotations": { "db.example.com/rotation": id } } });
        world.change(Kind::Secret, secret, told);
        world.pass(1);
        assert_eq!(rotate(&world).unwrap().pods, ["db-0", "db-1", "db-2"]);
    }
}

#[test]
fn what_cannot_be_done_is_rejected_and_what_does_not_happen_ends() {
    let (mut world, id) = asked(json!({}));
    lose_primary(&mut world);
    let (phase, message) = said(&world, &id);
    assert!(
        phase == OperationPhase::Rejected && message.contains("it is the primary that sets passwords"),
        "{message}"
    );

    let (mut world, id) = asked(json!({ "of": "app" }));
    world.observed.remove(Kind::Secret, "db-app");
    let (phase, message) = said(&world, &id);
    assert!(phase == OperationPhase::Rejected && message.contains("db-app"), "{message}");

    let (mut world, id) = asked(json!({ "of": "nobody" }));
    assert_eq!(said(&world, &id).0, OperationPhase::Rejected);
    let again = request(&mut world, "rotate-credentials", json!({}));
    goes_by(&mut world, "db-0", None, None);
    world.pass(usize::MAX);
    world.now += jiff::SignedDuration::from_mins(6);
    let (phase, message) = said(&world, &again);
    assert!(phase == OperationPhase::Failed && message.contains("db-0 did not go by"), "{message}");
}

#[test]
fn nobody_is_kept_from_acting_while_there_is_no_primary() {
    let (mut world, id) = asked(json!({}));
    goes_by(&mut world, "db-0", None, None);
    world.pass(usize::MAX);
    lose_primary(&mut world);
    let (phase, message) = said(&world, &id);
    assert!(
        phase == OperationPhase::Failed && message.contains("the next one sets the passwords"),
        "{message}"
    );
}

#[test]
fn pods_of_before_there_were_files_come_first() {
    let (mut world, id) = asked(json!({}));
    let volumes = world.get(Kind::Pod, "db-1")["spec"]["volumes"].clone();
    let mut before = volumes.clone();
    for volume in before.as_array_mut().unwrap().iter_mut().filter(|volume| volume["name"] == "security") {
        volume["projected"]["sources"].as_array_mut().unwrap().truncate(1);
    }
    world.change(Kind::Pod, "db-1", json!({ "spec": { "volumes": before } }));
    let (phase, message) = said(&world, &id);
    assert!(phase == OperationPhase::Rejected && message.contains("as files yet"), "{message}");
    world.change(Kind::Pod, "db-1", json!({ "spec": { "volumes": volumes } }));
    assert_eq!(find(&world, &id).phase, OperationPhase::Running);
}

#[test]
fn a_backup_that_is_under_way_ends_with_the_passwords_it_began_with() {
    let mut world = backed_up();
    request(&mut world, "backup", json!({}));
    world.pass(usize::MAX);
    let all = request(&mut world, "rotate-credentials", json!({}));
    let (phase, message) = said(&world, &all);
    assert!(phase == OperationPhase::Rejected && message.contains("a backup is under way"), "{message}");
    world.pass(usize::MAX);
    let app = request(&mut world, "rotate-credentials", json!({ "of": "app" }));
    assert_eq!(find(&world, &app).phase, OperationPhase::Running);
}
