//! Certificates at the controller's edge: `make` makes what a plan asks for, and this writes it.

mod make;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

pub use make::{MakeError, Pair};

use super::act::{ActError, on};
use super::retry;
use crate::api::FIELD_MANAGER;
use crate::plan::{CERTIFICATE, CROSS, KEY, Securing, TOLD, TRUSTED, name_of};

/// What a Secret holds, as text.
type Content = BTreeMap<String, String>;

/// Does it, in one write.
///
/// # Errors
/// Where a Secret cannot be read or written, or is not the one any more that was seen.
pub async fn secure(
    secrets: &Api<Secret>,
    securing: &Securing,
    now: jiff::Timestamp,
) -> Result<(), ActError> {
    match securing {
        Securing::MakeAuthority { body, before } => {
            let before = content(secrets, before).await?.map(|(content, _)| content).unwrap_or_default();
            let made = make::authority(owner(body), now, None, text(&before, TRUSTED))?;
            create(secrets, body, &made).await
        }
        Securing::RenewAuthority { name, version } => {
            let (old, seen) = content(secrets, name).await?.ok_or_else(|| gone(name))?;
            same(name, version.as_deref(), seen.as_deref())?;
            let pair = Pair { certificate: text(&old, CERTIFICATE), key: text(&old, KEY) };
            // Secret `NAME-ca`.
            let of = name.strip_suffix("-ca").unwrap_or(name);
            let made = make::authority(of, now, Some(&pair), text(&old, TRUSTED))?;
            patch(secrets, name, version.as_deref(), &made, Value::Null).await
        }
        Securing::Certify { authority, body, version, names } => {
            let (by, _) = content(secrets, authority).await?.ok_or_else(|| gone(authority))?;
            let pair = Pair { certificate: text(&by, CERTIFICATE), key: text(&by, KEY) };
            let mut made = make::server(owner(body), names, now, &pair, text(&by, CROSS))?;
            made.insert(TRUSTED.to_owned(), text(&by, TRUSTED).to_owned());
            match version {
                Some(_) => patch(secrets, name_of(body), version.as_deref(), &made, Value::Null).await,
                None => create(secrets, body, &made).await,
            }
        }
        Securing::Trust { from, to, version, note } => {
            let (by, _) = content(secrets, from).await?.ok_or_else(|| gone(from))?;
            let mut told = Content::from([(TRUSTED.to_owned(), text(&by, TRUSTED).to_owned())]);
            if note.is_some() {
                let (users, _) = content(secrets, to).await?.ok_or_else(|| gone(to))?;
                told.extend(["uri", "uri-ro"].into_iter().filter_map(|key| insisting(&users, key)));
            }
            let annotations = note.as_ref().map_or(Value::Null, |note| json!({ TOLD: note }));
            patch(secrets, to, version.as_deref(), &told, annotations).await
        }
    }
}

/// Of which Database, by its label.
fn owner(body: &Value) -> &str {
    crate::plan::label(body, crate::api::LABEL_DATABASE).unwrap_or_default()
}

/// A URI of before TLS, with the wish for it.
fn insisting(users: &Content, key: &str) -> Option<(String, String)> {
    let uri = users.get(key).filter(|uri| !uri.contains('?'))?;
    Some((key.to_owned(), format!("{uri}?sslmode=require")))
}

fn text<'a>(content: &'a Content, key: &str) -> &'a str {
    content.get(key).map(String::as_str).unwrap_or_default()
}

/// A Secret's content and version.
async fn content(secrets: &Api<Secret>, name: &str) -> Result<Option<(Content, Option<String>)>, ActError> {
    let found = retry::read(|| secrets.get_opt(name)).await.map_err(on(format!("read Secret {name}")))?;
    Ok(found.map(|found| {
        let data = found.data.unwrap_or_default().into_iter();
        let content = data.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
        (content.collect(), found.metadata.resource_version)
    }))
}

fn gone(name: &str) -> ActError {
    ActError::Conflict { doing: format!("read Secret {name}") }
}

fn same(name: &str, wanted: Option<&str>, seen: Option<&str>) -> Result<(), ActError> {
    if wanted == seen { Ok(()) } else { Err(ActError::Conflict { doing: format!("renew Secret {name}") }) }
}

fn encoded(content: &Content) -> BTreeMap<&String, String> {
    content.iter().map(|(key, value)| (key, STANDARD.encode(value))).collect()
}

async fn create(secrets: &Api<Secret>, body: &Value, made: &Content) -> Result<(), ActError> {
    let name = name_of(body);
    let mut body = body.clone();
    body["data"] = json!(encoded(made));
    let doing = format!("make Secret {name}");
    let secret: Secret =
        serde_json::from_value(body).map_err(|error| on(doing.clone())(kube::Error::SerdeError(error)))?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    retry::write(|| secrets.create(&params, &secret)).await.map_err(on(doing)).map(drop)
}

/// Not tried again: the first try may have been heard, and then it is a conflict.
async fn patch(
    secrets: &Api<Secret>,
    name: &str,
    version: Option<&str>,
    made: &Content,
    annotations: Value,
) -> Result<(), ActError> {
    let mut body = json!({ "metadata": { "resourceVersion": version }, "data": encoded(made) });
    if !annotations.is_null() {
        body["metadata"]["annotations"] = annotations;
    }
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = secrets.patch(name, &params, &Patch::Merge(body)).await;
    patched.map_err(on(format!("renew Secret {name}"))).map(drop)
}
