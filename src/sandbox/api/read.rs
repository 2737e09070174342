//! Getting one object, and lists.

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{json_response, value_response};
use super::call::Call;
use super::failure::Failure;
use super::filter::Filter;
use super::request::Form;
use super::store::{Items, Listing};
use crate::sandbox::object::FieldError;

/// Where the next page of a list begins.
#[derive(Debug, Deserialize, Serialize)]
struct Continue {
    v: String,
    /// The version of the list; below zero the newest, for a list that goes on although its version is gone.
    rv: i64,
    start: String,
}

const CONTINUE_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    fn parse(text: &str) -> Result<Self, Failure> {
        let refuse = || Failure::bad_request("invalid continue token: continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| refuse())?;
        if token.v == CONTINUE_VERSION { Ok(token) } else { Err(refuse()) }
    }

    fn encode(version: i64, start: &str) -> String {
        let token = json!({"v": CONTINUE_VERSION, "rv": version, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }
}

/// GET of one object.
///
/// # Errors
/// 404 where there is none, 504 for a resourceVersion from the future.
pub fn get(call: &Call) -> Result<Response, Failure> {
    let name = call.name()?;
    known_version(call)?;
    let record = call.app.store.get(&call.resource.storage, &call.key()?);
    let record = record.ok_or_else(|| Failure::not_found(&call.resource, name))?;
    let mut body = Vec::with_capacity(record.size() + 128);
    call.write_record(&record, false, &mut body)?;
    let mut response = json_response(StatusCode::OK, body);
    call.warn_of_deprecation(&mut response);
    Ok(response)
}

/// GET of many objects.
///
/// # Errors
/// 400 for parameters that do not parse, 410 and 504 for versions that cannot be had.
pub fn list(call: &Call) -> Result<Response, Failure> {
    let filter = Filter::parse(&call.resource, call.namespace.as_deref(), &call.query)?;
    let listing = snapshot(call, &filter)?;
    // A limit below zero is none.
    let limit = call.query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    call.query.number("timeoutSeconds")?;
    let mut items = selected(call, &filter, listing.items)?;
    let mut metadata = json!({"resourceVersion": listing.version.to_string()});
    if limit > 0 && items.len() > limit {
        let rest = items.len() - limit;
        items.truncate(limit);
        if let Some((last, _)) = items.last() {
            let version = i64::try_from(listing.version).unwrap_or(-1);
            metadata["continue"] = Continue::encode(version, last).into();
        }
        // As Kubernetes, which cannot count what a selector leaves.
        if call.query.get("labelSelector").is_none() && call.query.get("fieldSelector").is_none() {
            metadata["remainingItemCount"] = rest.into();
        }
    }
    let mut response = list_response(call, &items, &metadata)?;
    call.warn_of_deprecation(&mut response);
    Ok(response)
}

fn selected(call: &Call, filter: &Filter, items: Items) -> Result<Items, Failure> {
    let mut selected = Vec::with_capacity(items.len());
    for (key, record) in items {
        if filter.matches(&call.resource, &key, &record)? {
            selected.push((key, record));
        }
    }
    Ok(selected)
}

/// What is selected of a resource now, with keys.
///
/// # Errors
/// 400 for selectors that do not parse.
pub fn matching(call: &Call) -> Result<Listing, Failure> {
    let filter = Filter::parse(&call.resource, call.namespace.as_deref(), &call.query)?;
    let Listing { version, items } = call.app.store.list(&call.resource.storage, &filter.prefix, None);
    Ok(Listing { version, items: selected(call, &filter, items)? })
}

fn snapshot(call: &Call, filter: &Filter) -> Result<Listing, Failure> {
    let (store, storage) = (&call.app.store, &call.resource.storage);
    if let Some(token) = call.query.get("continue") {
        if call.query.get("resourceVersionMatch").is_some() {
            check_options(call, 0)?;
        }
        let token = Continue::parse(token)?;
        if call.query.resource_version()?.is_some_and(|asked| asked > 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Failure::bad_request(why));
        }
        let Ok(version) = u64::try_from(token.rv) else {
            return Ok(store.list(storage, &filter.prefix, Some(&token.start)));
        };
        return store
            .list_at(version, storage, &filter.prefix, Some(&token.start))
            .map_err(|_| Failure::continue_expired(&Continue::encode(-1, &token.start)));
    }
    let asked = known_version(call)?;
    check_options(call, asked)?;
    if call.query.get("resourceVersionMatch") == Some("Exact") {
        let found = store.list_at(asked, storage, &filter.prefix, None);
        return found.map_err(|_| Failure::list_expired());
    }
    Ok(store.list(storage, &filter.prefix, None))
}

/// The resourceVersion that is asked for, zero where none is; one that has been.
fn known_version(call: &Call) -> Result<u64, Failure> {
    let asked = call.query.resource_version()?.unwrap_or(0);
    let current = call.app.store.version();
    if asked > current { Err(Failure::too_new(asked, current)) } else { Ok(asked) }
}

/// Options of a list must fit together.
fn check_options(call: &Call, asked: u64) -> Result<(), Failure> {
    const FIELD: &str = "resourceVersionMatch";
    let mut errors = Vec::new();
    if let Some(found) = call.query.get(FIELD) {
        if call.query.get("resourceVersion").is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if call.query.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if !["Exact", "NotOlderThan"].contains(&found) {
            errors.push(FieldError::not_supported(FIELD, &json!(found), ["Exact", "NotOlderThan", ""]));
        }
        if found == "Exact" && asked == 0 && call.query.get("resourceVersion").is_some() {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(FIELD, why));
        }
    }
    if call.query.get("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::options("ListOptions", &errors)) }
}

/// Objects as the list of their kind, or as a table.
///
/// # Errors
/// Where the store is damaged.
pub fn list_response(call: &Call, items: &Items, metadata: &Value) -> Result<Response, Failure> {
    if call.form == Form::Table {
        let values =
            items.iter().map(|(_, record)| call.resource.load(record)).collect::<Result<Vec<_>, _>>()?;
        let table = call.table(&values.iter().collect::<Vec<_>>(), metadata);
        return Ok(value_response(StatusCode::OK, &table));
    }
    let (kind, version) = match call.form {
        Form::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
        _ => (&*call.resource.list_kind, &*call.resource.name.api_version),
    };
    let head =
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[");
    let mut body =
        Vec::with_capacity(head.len() + items.iter().map(|(_, item)| item.size() + 64).sum::<usize>());
    body.extend_from_slice(head.as_bytes());
    for (index, (_, record)) in items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        call.write_record(record, true, &mut body)?;
    }
    body.extend_from_slice(b"]}");
    Ok(json_response(StatusCode::OK, body))
}
