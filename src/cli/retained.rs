//! Databases that are deleted and whose data was kept: found by what is left of them, and taken up by `create`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, api_error, output, ui};
use crate::api::{Catalog, Database, FIELD_MANAGER, LABEL_DATABASE, Names, PgVersion, Quantity};
use crate::plan::{ARCHIVE, RELEASE, SYSTEM};

/// What is left of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retained {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The release that its data is of.
    pub version: Option<String>,
    /// Its claims and the size of each.
    pub volumes: BTreeMap<String, Option<String>>,
    /// The size of all together, in bytes.
    pub bytes: i64,
    /// When its primary was last heard of.
    pub last_active: Option<String>,
    /// When its newest backup ended.
    pub last_backup: Option<String>,
    /// The system identifier of its data.
    pub system_identifier: Option<String>,
    /// The id of its archive.
    pub archive: Option<String>,
    /// Claims that hold another database's data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
    /// What says whose data it is, was lost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub history_missing: bool,
}

fn size(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let asked = || claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage");
    has.or_else(asked)?.0.parse().ok()
}

/// Puts together what belongs together; `living` are the Databases that there are. Pure.
fn gather(
    claims: &[PersistentVolumeClaim],
    maps: &[ConfigMap],
    living: &BTreeSet<(String, String)>,
) -> Vec<Retained> {
    let mut found: BTreeMap<(String, String), Vec<&PersistentVolumeClaim>> = BTreeMap::new();
    for claim in claims {
        let Some(name) = claim.labels().get(LABEL_DATABASE) else { continue };
        let object = claim.name_any();
        let ordinal = object.strip_prefix("data-").and_then(|member| Names(name).ordinal(member));
        let key = (claim.namespace().unwrap_or_default(), name.clone());
        if ordinal.is_some() && !living.contains(&key) {
            found.entry(key).or_default().push(claim);
        }
    }
    found.into_iter().map(|((namespace, name), claims)| retained(namespace, name, &claims, maps)).collect()
}

fn retained(
    namespace: String,
    name: String,
    claims: &[&PersistentVolumeClaim],
    maps: &[ConfigMap],
) -> Retained {
    let names = Names(&name);
    let map = |wanted: String| {
        maps.iter().find(|map| map.name_any() == wanted && map.namespace().as_deref() == Some(&*namespace))
    };
    let config = map(names.dynamic_config());
    let note = |key: &str| config.and_then(|map| map.annotations().get(key)).filter(|text| !text.is_empty());
    let stamp = |claim: &PersistentVolumeClaim, key: &str| claim.annotations().get(key).cloned();
    let system = note("initialize").cloned();
    let other = |claim: &&&PersistentVolumeClaim| {
        let own = stamp(claim, SYSTEM);
        own.is_some() && system.is_some() && own != system
    };
    let catalog = map(names.backups()).and_then(|map| Catalog::of(&serde_json::to_value(map).ok()?));
    let newest = catalog.as_ref().and_then(|catalog| catalog.newest());
    let sum: i128 = claims.iter().filter_map(|claim| size(claim)).map(|size| size.value()).sum();
    Retained {
        version: note(RELEASE).cloned().or_else(|| claims.iter().find_map(|claim| stamp(claim, RELEASE))),
        volumes: claims
            .iter()
            .map(|claim| (claim.name_any(), size(claim).map(|size| size.to_string())))
            .collect(),
        bytes: i64::try_from(sum).unwrap_or(i64::MAX),
        last_active: map(names.leader()).and_then(|map| map.annotations().get("renewTime")).cloned(),
        last_backup: newest.map(|entry| entry.stopped_at.to_string()),
        foreign: claims.iter().filter(other).map(|claim| claim.name_any()).collect(),
        history_missing: config.is_none(),
        system_identifier: system,
        archive: note(ARCHIVE).cloned(),
        namespace,
        name,
    }
}

/// All of them, in one namespace or everywhere.
///
/// # Errors
/// Where they cannot be read.
pub async fn find(session: &Session, everywhere: bool) -> Result<Vec<Retained>, kube::Error> {
    let client = || session.client.clone();
    let namespace = &session.namespace;
    let (claims, maps, databases): (Api<PersistentVolumeClaim>, Api<ConfigMap>, Api<Database>) = if everywhere
    {
        (Api::all(client()), Api::all(client()), Api::all(client()))
    } else {
        (
            Api::namespaced(client(), namespace),
            Api::namespaced(client(), namespace),
            Api::namespaced(client(), namespace),
        )
    };
    let labelled = ListParams::default()
        .labels(&format!("{LABEL_DATABASE},app.kubernetes.io/managed-by={FIELD_MANAGER}"));
    let everything = ListParams::default();
    let (claims, maps, databases) =
        tokio::try_join!(claims.list(&labelled), maps.list(&labelled), databases.list_metadata(&everything))?;
    let living =
        databases.iter().map(|object| (object.namespace().unwrap_or_default(), object.name_any())).collect();
    Ok(gather(&claims.items, &maps.items, &living))
}

/// The table of `dbctl list --retained`.
pub fn render(all: &[Retained], namespaces: bool, wide: bool, now: Timestamp) -> String {
    let mut header = vec!["NAME", "VERSION", "VOLUMES", "SIZE", "LAST ACTIVE", "LAST BACKUP"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["SYSTEM", "ARCHIVE"]);
    }
    let ago = |time: &Option<String>| {
        let time = time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        time.map_or_else(|| "-".to_owned(), |time| format!("{} ago", output::age(time, now)))
    };
    let row = |each: &Retained| {
        let mut row = vec![
            each.name.clone(),
            output::or_dash(each.version.as_deref()),
            each.volumes.len().to_string(),
            output::bytes(each.bytes),
            ago(&each.last_active),
            ago(&each.last_backup),
        ];
        if namespaces {
            row.insert(0, each.namespace.clone());
        }
        if wide {
            row.push(output::or_dash(each.system_identifier.as_deref()));
            row.push(output::or_dash(each.archive.as_deref()));
        }
        row
    };
    ui::table(&header, all.iter().map(row))
}

/// Why a new database cannot take up what is left, and the ways out. Pure.
fn misfit(left: &Retained, database: &Database, command: &str) -> Option<(String, Vec<String>)> {
    let name = &left.name;
    let rid = format!("if nothing that was left is needed: {command} delete {name} --deletion-policy delete");
    let aside = "or give the new database another name".to_owned();
    let volumes = left.volumes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if left.history_missing {
        let config = Names(name).dynamic_config();
        return Some((
            format!(
                "an earlier database {name:?} left volumes {volumes}, but ConfigMap {config:?}, which says what data they hold, is gone"
            ),
            vec![format!("restore {config} from a copy, with its labels"), rid, aside],
        ));
    }
    if !left.foreign.is_empty() {
        return Some((
            format!(
                "among what an earlier database {name:?} left is another database's data: {} (its own has system identifier {})",
                left.foreign.join(", "),
                left.system_identifier.as_deref().unwrap_or("?")
            ),
            vec![
                format!(
                    "if nothing in it is needed: kubectl delete pvc {}; set its volume's reclaim policy to Retain first to keep it",
                    left.foreign.join(" ")
                ),
                rid,
                aside,
            ],
        ));
    }
    let recorded: Option<PgVersion> = left.version.as_deref().and_then(|version| version.parse().ok());
    let wanted = database.spec.version;
    if let Some(recorded) = recorded.filter(|recorded| recorded.major() != wanted.major()) {
        return Some((
            format!(
                "an earlier database {name:?} left data of PostgreSQL {recorded} ({volumes}), which {wanted} cannot read"
            ),
            vec![format!("to have it back: {command} create {name} --version {recorded}"), rid, aside],
        ));
    }
    if database.spec.restore_from.is_some() {
        return Some((
            format!(
                "an earlier database {name:?} left data ({volumes}), which it would take up in place of what it is to be restored from"
            ),
            vec![
                format!("to have that data back: {command} create {name}, without --restore-from"),
                rid,
                aside,
            ],
        ));
    }
    None
}

/// Says that a new database takes up what an earlier one left.
///
/// # Errors
/// Where it does not fit, with the ways out, or cannot be read.
pub async fn check_adoption(context: &Context, session: &Session, database: &Database) -> Result<()> {
    let name = database.name_any();
    let all = find(session, false).await;
    let all = all
        .map_err(|error| api_error::explain(session, &format!("look for data that {name:?} left"), &error))?;
    let Some(left) = all.into_iter().find(|left| left.name == name) else { return Ok(()) };
    if let Some((problem, ways)) = misfit(&left, database, &context.invocation()) {
        let error = CliError::refused(format!("failed to create database {name:?}: {problem}"));
        return Err(ways.into_iter().fold(error, CliError::hint));
    }
    let version =
        left.version.as_deref().map(|version| format!(" (PostgreSQL {version})")).unwrap_or_default();
    let volumes = left.volumes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    context.ui.note(format_args!(
        "an earlier database {name:?} left its data{version} in {volumes}: it is taken up, and the passwords of its Secrets hold"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(database: &str, ordinal: i32, system: Option<&str>) -> PersistentVolumeClaim {
        let annotations = system.map(|system| json!({ SYSTEM: system, RELEASE: "16.15" }));
        serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": format!("data-{database}-{ordinal}"),
                "labels": { LABEL_DATABASE: database }, "annotations": annotations },
            "spec": { "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "capacity": { "storage": "2Gi" } },
        }))
        .unwrap()
    }

    fn map(name: &str, annotations: Value) -> ConfigMap {
        serde_json::from_value(
            json!({ "metadata": { "namespace": "shop", "name": name, "annotations": annotations } }),
        )
        .unwrap()
    }

    fn one(claims: &[PersistentVolumeClaim], maps: &[ConfigMap]) -> Retained {
        gather(claims, maps, &BTreeSet::new()).remove(0)
    }

    fn config() -> ConfigMap {
        map("orders-config", json!({ "initialize": "7710", RELEASE: "16.14", ARCHIVE: "u-1" }))
    }

    #[test]
    fn what_is_left_is_put_together_by_its_database() {
        let claims = [claim("orders", 0, Some("7710")), claim("orders", 1, None), claim("live", 0, None)];
        let leader = map("orders-leader", json!({ "renewTime": "2026-11-22T10:00:00.5+00:00" }));
        let living = BTreeSet::from([("shop".to_owned(), "live".to_owned())]);
        let all = gather(&claims, &[config(), leader], &living);
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        insta::assert_snapshot!(render(&all, true, true, now), @"
        NAMESPACE   NAME     VERSION   VOLUMES   SIZE      LAST ACTIVE   LAST BACKUP   SYSTEM   ARCHIVE
        shop        orders   16.14     2         4.0 GiB   120m ago      -             7710     u-1
        ");
        // Somebody's own claim with the label on it is not a member's.
        let mut odd = claim("orders", 0, None);
        odd.metadata.name = Some("data-orders-x".to_owned());
        assert_eq!(gather(&[odd], &[], &BTreeSet::new()), []);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_ways_out() {
        let database = |spec: Value| -> Database {
            let mut base = json!({ "replicas": 1, "version": "16.15", "storage": { "size": "1Gi" } });
            json_patch::merge(&mut base, &spec);
            serde_json::from_value(json!({ "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
                "metadata": { "name": "orders" }, "spec": base }))
            .unwrap()
        };
        let own = [claim("orders", 0, Some("7710"))];
        let mixed = [claim("orders", 0, Some("7710")), claim("orders", 2, Some("8811"))];
        let restored = json!({ "restoreFrom": { "database": "other" } });
        assert_eq!(misfit(&one(&own, &[config()]), &database(json!({})), "dbctl"), None);
        let mut table = String::new();
        for (claims, maps, spec) in [
            (&own[..], vec![config()], json!({ "version": "17.2" })),
            (&own, vec![config()], restored),
            (&mixed, vec![config()], json!({})),
            (&own, vec![], json!({})),
        ] {
            let (problem, ways) = misfit(&one(claims, &maps), &database(spec), "dbctl").unwrap();
            table.push_str(&format!("{problem}\n"));
            ways.iter().for_each(|way| table.push_str(&format!("  {way}\n")));
        }
        insta::assert_snapshot!(table, @r#"
        an earlier database "orders" left data of PostgreSQL 16.14 (data-orders-0), which 17.2 cannot read
          to have it back: dbctl create orders --version 16.14
          if nothing that was left is needed: dbctl delete orders --deletion-policy delete
          or give the new database another name
        an earlier database "orders" left data (data-orders-0), which it would take up in place of what it is to be restored from
          to have that data back: dbctl create orders, without --restore-from
          if nothing that was left is needed: dbctl delete orders --deletion-policy delete
          or give the new database another name
        among what an earlier database "orders" left is another database's data: data-orders-2 (its own has system identifier 7710)
          if nothing in it is needed: kubectl delete pvc data-orders-2; set its volume's reclaim policy to Retain first to keep it
          if nothing that was left is needed: dbctl delete orders --deletion-policy delete
          or give the new database another name
        an earlier database "orders" left volumes data-orders-0, but ConfigMap "orders-config", which says what data they hold, is gone
          restore orders-config from a copy, with its labels
          if nothing that was left is needed: dbctl delete orders --deletion-policy delete
          or give the new database another name
        "#);
    }
}
