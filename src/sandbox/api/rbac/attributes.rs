//! What a request is about, as rules speak of it.

use http::{Method, Uri};

use crate::sandbox::api::auth::User;
use crate::sandbox::api::failure::Failure;
use crate::sandbox::api::request::{Query, Target};

/// What somebody wants to do: to a resource, or where `path` is not empty, to that path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes {
    /// What to do: `get`, `list`, …; at a path, the method.
    pub verb: String,
    /// A path that is no resource's.
    pub path: String,
    /// API group; empty for the core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// What is asked of the object.
    pub subresource: String,
    /// The namespace; empty for the cluster.
    pub namespace: String,
    /// The object; empty for any.
    pub name: String,
}

impl Attributes {
    /// What a request wants.
    pub fn of_request(method: &Method, uri: &Uri) -> Self {
        let Some(target) = Target::parse(uri.path()) else {
            let verb = method.as_str().to_ascii_lowercase();
            return Self { verb, path: uri.path().to_owned(), ..Self::default() };
        };
        let query = Query::parse(uri.query().unwrap_or_default());
        let mut name = target.name.unwrap_or_default();
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ if query.flag("watch") && target.subresource.is_none() => "watch",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        if name.is_empty() && matches!(verb, "list" | "watch") {
            name = query.get("fieldSelector").and_then(exact_name).unwrap_or_default().to_owned();
        }
        // A namespace is within itself: a Role in it may let somebody read it.
        let own = (target.group.is_empty() && target.plural == "namespaces").then(|| name.clone());
        Self {
            verb: verb.to_owned(),
            path: String::new(),
            group: target.group,
            version: target.version,
            resource: target.plural,
            subresource: target.subresource.unwrap_or_default(),
            namespace: target.namespace.or(own).unwrap_or_default(),
            name,
        }
    }

    /// A question about one resource's objects.
    pub fn resource(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            group: group.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// The resource with its subresource, as rules name it.
    pub fn combined(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }

    /// 403 for a user who may not.
    pub fn forbidden(&self, user: &User, reason: &str) -> Failure {
        let (user, verb) = (&user.username, &self.verb);
        let mut why = if self.path.is_empty() {
            let scope = match self.namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            let (resource, group) = (self.combined(), &self.group);
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
        } else {
            format!("User {user:?} cannot {verb} path {:?}", self.path)
        };
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        Failure::denied(&self.group, &self.resource, &self.name, &why)
    }
}

/// The name that a field selector asks for.
fn exact_name(selector: &str) -> Option<&str> {
    let value = selector.split(',').find_map(|term| {
        let (field, value) = term.split_once('=')?;
        (field.trim() == "metadata.name").then(|| value.strip_prefix('=').unwrap_or(value).trim())
    })?;
    (!value.is_empty() && !matches!(value, "." | "..") && !value.contains(['/', '%'])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_verbs_on_resources() {
        let cases = [
            ("GET /api/v1/namespaces/a/pods", "list pods a -"),
            ("GET /api/v1/namespaces/a/pods?watch=1", "watch pods a -"),
            ("GET /api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "list pods a x"),
            ("GET /api/v1/pods?watch=true&fieldSelector=spec.nodeName=n,metadata.name==x", "watch pods - x"),
            ("GET /api/v1/pods?fieldSelector=metadata.name!=x", "list pods - -"),
            ("GET /api/v1/namespaces/a/pods/x", "get pods a x"),
            ("HEAD /api/v1/namespaces/a/pods/x", "get pods a x"),
            ("GET /api/v1/namespaces/a/pods/x/log?follow=true", "get pods/log a x"),
            ("POST /api/v1/namespaces/a/pods", "create pods a -"),
            ("POST /api/v1/namespaces/a/pods/x/eviction", "create pods/eviction a x"),
            ("PUT /apis/apps/v1/namespaces/a/statefulsets/x/scale", "update statefulsets/scale.apps a x"),
            ("PATCH /apis/apps/v1/namespaces/a/statefulsets/x", "patch statefulsets.apps a x"),
            ("DELETE /api/v1/namespaces/a/pods/x", "delete pods a x"),
            ("DELETE /api/v1/namespaces/a/pods?fieldSelector=metadata.name=x", "deletecollection pods a -"),
            ("GET /api/v1/namespaces", "list namespaces - -"),
            ("GET /api/v1/namespaces/a", "get namespaces a a"),
            ("PUT /api/v1/namespaces/a/finalize", "update namespaces/finalize a a"),
            ("GET /api/v1/nodes/n/proxy/logs/x", "get nodes/proxy - n"),
            ("GET /api/v1", "get /api/v1"),
            ("POST /debug/faults", "post /debug/faults"),
        ];
        for (request, expected) in cases {
            let (method, uri) = request.split_once(' ').unwrap();
            let found = Attributes::of_request(&method.parse().unwrap(), &uri.parse().unwrap());
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let group = if found.group.is_empty() { String::new() } else { format!(".{}", found.group) };
            let told = if found.path.is_empty() {
                let (resource, namespace) = (found.combined(), or_dash(&found.namespace));
                format!("{} {resource}{group} {namespace} {}", found.verb, or_dash(&found.name))
            } else {
                format!("{} {}", found.verb, found.path)
            };
            assert_eq!(told, expected, "{request}");
        }
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        let user = User { username: "jane".to_owned(), ..User::default() };
        let message = |asked: &Attributes, reason| {
            let body = asked.forbidden(&user, reason).body().clone();
            (body["message"].as_str().unwrap().to_owned(), body["details"].to_string())
        };
        let mut asked = Attributes::resource("list", "", "pods", "shop", "");
        let expected = r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "shop""#;
        assert_eq!(message(&asked, ""), (expected.to_owned(), r#"{"kind":"pods"}"#.to_owned()));
        asked.subresource = "log".to_owned();
        asked.name = "p".to_owned();
        asked.verb = "get".to_owned();
        let expected = r#"pods "p" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "shop": RBAC: gone"#;
        assert_eq!(message(&asked, "RBAC: gone").0, expected);
        let asked = Attributes::resource("get", "apps", "statefulsets", "", "s");
        let (text, details) = message(&asked, "");
        assert_eq!(
            text,
            r#"statefulsets.apps "s" is forbidden: User "jane" cannot get resource "statefulsets" in API group "apps" at the cluster scope"#
        );
        assert_eq!(details, r#"{"group":"apps","kind":"statefulsets","name":"s"}"#);
        let asked = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(message(&asked, "").0, r#"forbidden: User "jane" cannot get path "/metrics""#);
    }
}
