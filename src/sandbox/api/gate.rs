//! Who a request is from, and whether they may: before anything else is looked at.

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::auth::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use super::call::App;
use super::failure::Failure;
use super::rbac::Attributes;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// A request that is not let through.
#[derive(Debug)]
pub struct Turned {
    /// From whom, where that is known.
    pub user: Option<String>,
    /// What they are told.
    pub failure: Box<Failure>,
}

/// The caller of a request: by a token, or nobody in particular; as another where they ask for that and may.
///
/// # Errors
/// 401 for a token that is none, 403 for somebody that the caller may not be.
pub fn caller(app: &App, headers: &HeaderMap) -> Result<User, Turned> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = app.auth.caller(header, &app.store);
    let user = known.ok_or_else(|| Turned { user: None, failure: Box::new(Failure::unauthorized()) })?;
    match impersonated(app, &user, headers) {
        Ok(Some(other)) => Ok(other),
        Ok(None) => Ok(user),
        Err(failure) => Err(Turned { user: Some(user.username), failure: Box::new(failure) }),
    }
}

/// Refuses what a user may not do.
///
/// # Errors
/// 403 where they may not.
pub fn authorize(app: &App, user: &User, asked: &Attributes) -> Result<(), Failure> {
    let decision = app.authorizer.decide(&app.store, user, asked);
    if !decision.allowed {
        return Err(asked.forbidden(user, &decision.reason));
    }
    // A WebSocket begins with GET, and does what POST does.
    if asked.verb == "get"
        && asked.group.is_empty()
        && asked.resource == "pods"
        && connects(&asked.subresource)
    {
        return authorize(app, user, &Attributes { verb: "create".to_owned(), ..asked.clone() });
    }
    Ok(())
}

fn connects(subresource: &str) -> bool {
    matches!(subresource, "attach" | "exec" | "portforward")
}

/// Whom the caller wants to be.
fn impersonated(app: &App, caller: &User, headers: &HeaderMap) -> Result<Option<User>, Failure> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let groups: Vec<String> =
        headers.get_all(GROUP).iter().filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect();
    let (uid, extra) = (text(UID), extra(headers));
    let Some(name) = text(USER) else {
        if groups.is_empty() && uid.is_none() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Failure::internal(
            "requested impersonation of groups, a uid or extras without impersonating a user",
        ));
    };
    let may = |asked: &Attributes| authorize(app, caller, asked);
    let cluster =
        |group, resource, name: &str| Attributes::resource("impersonate", group, resource, "", name);
    let account = service_account(name);
    match account {
        Some((namespace, account)) => {
            may(&Attributes::resource("impersonate", "", "serviceaccounts", namespace, account))?;
        }
        None => may(&cluster("", "users", name))?,
    }
    groups.iter().try_for_each(|group| may(&cluster("", "groups", group)))?;
    for (key, values) in &extra {
        for value in values {
            let asked = cluster("authentication.k8s.io", "userextras", value);
            may(&Attributes { subresource: key.clone(), ..asked })?;
        }
    }
    uid.map_or(Ok(()), |uid| may(&cluster("authentication.k8s.io", "uids", uid)))?;
    let groups = completed(name, groups, account.map(|(namespace, _)| namespace));
    Ok(Some(User { username: name.to_owned(), uid: uid.map(str::to_owned), groups, extra }))
}

/// The groups that follow from who somebody is, where none are named that say it.
fn completed(name: &str, mut groups: Vec<String>, namespace: Option<&str>) -> Vec<String> {
    if let Some(namespace) = namespace.filter(|_| groups.is_empty()) {
        groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
    }
    let told = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
    if name == ANONYMOUS {
        if !groups.iter().any(|group| group == UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !groups.iter().any(told) {
        groups.push(AUTHENTICATED.to_owned());
    }
    groups
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_from_who_one_is() {
        let cases = [
            ("jane", "", "system:authenticated"),
            ("jane", "dev", "dev system:authenticated"),
            ("jane", "system:unauthenticated", "system:unauthenticated"),
            ("system:anonymous", "", "system:unauthenticated"),
            (
                "system:serviceaccount:a:b",
                "",
                "system:serviceaccounts system:serviceaccounts:a system:authenticated",
            ),
            ("system:serviceaccount:a:b", "dev", "dev system:authenticated"),
        ];
        for (name, groups, expected) in cases {
            let groups = groups.split_whitespace().map(str::to_owned).collect();
            let namespace = service_account(name).map(|(namespace, _)| namespace);
            assert_eq!(completed(name, groups, namespace).join(" "), expected, "{name}");
        }
        assert_eq!(service_account("system:serviceaccount:a:b:c"), None);
    }

    #[test]
    fn extras_are_decoded() {
        let headers: HeaderMap =
            [("impersonate-extra-acme.com%2Fproject", "x"), ("impersonate-extra-a", "1")]
                .into_iter()
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
        let keys: Vec<String> = extra(&headers).into_keys().collect();
        assert_eq!(keys, ["a", "acme.com/project"]);
    }
}
