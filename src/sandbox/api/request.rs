//! Paths, query strings and Accept headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::ACCEPT;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::failure::Failure;
use crate::sandbox::object::FieldError;

/// Where a path leads, before anything is known about resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// API group; empty for the core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub plural: String,
    /// The namespace, where one is named.
    pub namespace: Option<String>,
    /// The object, where one is named.
    pub name: Option<String>,
    /// What is asked of the object.
    pub subresource: Option<String>,
    /// What follows `proxy`, as it was sent: the path at whoever is asked in the end.
    pub tail: String,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`; other paths are none.
    pub fn parse(path: &str) -> Option<Self> {
        let decoded =
            path.trim_matches('/').split('/').map(|part| percent_decode_str(part).decode_utf8_lossy());
        let parts: Vec<String> = decoded.map(Into::into).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (parts, tail) = match proxied(&parts) {
            Some(count) => (&parts[..count], tail(path, count)),
            None => (parts.as_slice(), String::new()),
        };
        let target = match parts {
            ["api", version, rest @ ..] => Self::read("", version, rest),
            ["apis", group, version, rest @ ..] => Self::read(group, version, rest),
            _ => None,
        };
        target.map(|target| Self { tail, ..target })
    }

    fn read(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            // `/namespaces/x/status` is about the namespace, `/namespaces/x/pods` about what is in it.
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        let named = [Some(plural), name, subresource, namespace.as_deref()];
        if named.into_iter().flatten().any(|part| part.is_empty() || part.contains('/')) {
            return None;
        }
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
            tail: String::new(),
        })
    }
}

/// How many parts of a path lead to a `proxy` subresource, where it does.
fn proxied(parts: &[&str]) -> Option<usize> {
    match parts {
        ["api", _, "nodes", _, "proxy", ..] => Some(5),
        ["api", _, "namespaces", _, "pods" | "services", _, "proxy", ..] => Some(7),
        _ => None,
    }
}

/// What follows the first parts of a path, undecoded.
fn tail(path: &str, count: usize) -> String {
    let rest = path.trim_start_matches('/').splitn(count + 1, '/').nth(count);
    rest.map(|rest| format!("/{rest}")).unwrap_or_default()
}

/// The query string's parameters.
#[derive(Clone, Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a parameter.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// A parameter that is true: anything but `false` and `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name).unwrap_or(false)
    }

    /// A parameter that is true or false.
    pub fn flag_or(&self, name: &str) -> Option<bool> {
        let text = self.0.get(name)?;
        Some(text != "0" && !text.eq_ignore_ascii_case("false"))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 where it is none.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }

    /// The resourceVersion.
    ///
    /// # Errors
    /// 400 where it is no number.
    pub fn resource_version(&self) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get("resourceVersion") else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Failure::bad_request(format!(
                "invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })
    }

    /// Whether nothing is to be kept.
    ///
    /// # Errors
    /// 422 where `dryRun` is something else than `All`.
    pub fn dry_run(&self) -> Result<bool, Failure> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let error = FieldError::not_supported("dryRun", &json!([other]), ["All"]);
                Err(Failure::option("DeleteOptions", error))
            }
        }
    }
}

/// The form in which objects are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    #[default]
    Object,
    /// As the rows that `kubectl get` prints.
    Table,
    /// Only their metadata.
    Metadata,
}

/// Chooses the first form in the Accept header that can be had.
///
/// # Errors
/// 406 where none can.
pub fn negotiate(headers: &HeaderMap) -> Result<Form, Failure> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(Form::Object);
    };
    accept.split(',').find_map(form).ok_or_else(Failure::not_acceptable)
}

fn form(media: &str) -> Option<Form> {
    let mut parts = media.split(';').map(str::trim);
    if !matches!(parts.next(), Some("application/json" | "*/*" | "application/*" | "")) {
        return None;
    }
    let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
    match parameters.get("as").copied() {
        None => Some(Form::Object),
        Some(_) if parameters.get("g") != Some(&"meta.k8s.io") || parameters.get("v") != Some(&"v1") => None,
        Some("Table") => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/pods", "/v1 pods - - -"),
            ("/api/v1/namespaces", "/v1 namespaces - - -"),
            ("/api/v1/namespaces/a", "/v1 namespaces - a -"),
            ("/api/v1/namespaces/a/finalize", "/v1 namespaces - a finalize"),
            ("/api/v1/namespaces/a/pods/b/log", "/v1 pods a b log"),
            ("/apis/apps/v1/namespaces/a/statefulsets", "apps/v1 statefulsets a - -"),
            ("/apis/apps/v1", ""),
            ("/api/v1/namespaces/a/pods/b/log/more", ""),
            ("/api/v1/namespaces/a/pods/b%2Fc", ""),
            ("/api/v1/nodes/n/proxy/faults/a/b/", "/v1 nodes - n proxy /faults/a/b/"),
            ("/api/v1/nodes/n/proxy", "/v1 nodes - n proxy"),
            ("/api/v1/namespaces/a/pods/b:80/proxy/x%2Fy", "/v1 pods a b:80 proxy /x%2Fy"),
            ("/healthz", ""),
        ];
        for (path, expected) in cases {
            let found = Target::parse(path).map_or_else(String::new, |target| {
                let rest = [target.namespace, target.name, target.subresource]
                    .map(|part| part.unwrap_or("-".into()));
                let text =
                    format!("{}/{} {} {}", target.group, target.version, target.plural, rest.join(" "));
                format!("{text} {}", target.tail).trim_end().to_owned()
            });
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("&watch=True&labelSelector=a%3Db%2Cc&limit=5&resourceVersion=x");
        assert!(query.flag("watch") && !query.flag("pretty"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert!(query.resource_version().is_err());
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
    }

    #[test]
    fn accept_headers() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let cases = [
            (table, Some(Form::Table)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, */*", Some(Form::Object)),
            ("text/html", None),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())]);
            assert_eq!(negotiate(&headers).ok(), expected, "{text}");
        }
        assert_eq!(negotiate(&HeaderMap::new()).unwrap(), Form::Object);
    }
}
