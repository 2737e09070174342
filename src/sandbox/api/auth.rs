//! Who calls: the administrator, or a service account by one of its tokens.
//!
//! Tokens are JSON web tokens signed with a key of this server. They name the account's uid, and that of the pod they
//! were made for, so that a token dies with either.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rbac::MASTERS;
use super::store::Store;

/// Who issued a token, and who it is for unless another audience is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Name, such as `system:serviceaccount:default:orders-db`.
    pub username: String,
    /// Uid of the service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else is known, such as the pod whose token it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A part of the server itself, or its administrator.
    pub fn system(name: &str) -> Self {
        Self {
            username: name.to_owned(),
            uid: None,
            groups: vec![MASTERS.into(), AUTHENTICATED.into()],
            extra: BTreeMap::new(),
        }
    }

    /// Whoever does not say who they are.
    pub fn anonymous() -> Self {
        Self { username: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Whether they may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// Who does not say who they are.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of all who say who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of all who do not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// A named object that a token depends on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token is about, beside the standard claims.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Binding {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Bound,
    /// The pod, where it is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The secret, where it is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The node that the pod runs on, or that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
}

impl Binding {
    fn is_alive(&self, store: &Store) -> bool {
        let there = |storage, bound: &Option<Bound>| {
            bound.as_ref().is_none_or(|bound| {
                is_alive(store, storage, &format!("{}/{}", self.namespace, bound.name), bound)
            })
        };
        // A pod's node is only told.
        let node = self.node.as_ref().filter(|_| self.pod.is_none());
        is_alive(
            store,
            "/serviceaccounts",
            &format!("{}/{}", self.namespace, self.serviceaccount.name),
            &self.serviceaccount,
        ) && there("/pods", &self.pod)
            && there("/secrets", &self.secret)
            && node.is_none_or(|node| is_alive(store, "/nodes", &node.name, node))
    }

    /// What a user is told to be beside their name.
    fn extra(&self, id: &str) -> BTreeMap<String, Vec<String>> {
        let mut extra = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if !id.is_empty() {
            put("credential-id", &format!("JTI={id}"));
        }
        for (kind, bound) in [("pod", &self.pod), ("node", &self.node)] {
            if let Some(bound) = bound {
                put(&format!("{kind}-name"), &bound.name);
                put(&format!("{kind}-uid"), &bound.uid);
            }
        }
        extra
    }
}

/// A token's claims.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Account by its user name.
    pub sub: String,
    /// Audiences.
    pub aud: Vec<String>,
    /// The token's own name.
    #[serde(default)]
    pub jti: String,
    /// Issued at, in seconds since 1970.
    pub iat: i64,
    /// Not valid before.
    pub nbf: i64,
    /// Not valid after.
    pub exp: i64,
    /// What it depends on.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
}

/// Checks and signs tokens.
#[derive(Debug)]
pub struct Authenticator {
    key: hmac::Key,
    /// The administrator's token, signed, so that comparing takes the same time whatever is sent.
    admin: hmac::Tag,
}

impl Authenticator {
    /// Signs with that key and lets that administrator in.
    pub fn new(key: &[u8], admin_token: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let admin = hmac::sign(&key, admin_token.as_bytes());
        Self { key, admin }
    }

    /// The caller that an `Authorization` header names by a bearer token: nobody in particular without one, and none
    /// at all with a wrong one.
    pub fn caller(&self, header: Option<&str>, store: &Store) -> Option<User> {
        match header.and_then(|header| header.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                self.user_of(token.trim(), ISSUER, store)
            }
            _ => Some(User::anonymous()),
        }
    }

    /// The user that a token stands for, if it is meant for that audience.
    pub fn user_of(&self, token: &str, audience: &str, store: &Store) -> Option<User> {
        if hmac::verify(&self.key, token.as_bytes(), self.admin.as_ref()).is_ok() {
            return Some(User::system("kubernetes-admin"));
        }
        let claims = self.verify(token)?;
        let now = Timestamp::now().as_second();
        if now < claims.nbf || now >= claims.exp || !claims.aud.iter().any(|name| name == audience) {
            return None;
        }
        if !claims.kubernetes.is_alive(store) {
            return None;
        }
        let namespace = &claims.kubernetes.namespace;
        Some(User {
            uid: Some(claims.kubernetes.serviceaccount.uid.clone()),
            extra: claims.kubernetes.extra(&claims.jti),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
            username: claims.sub,
        })
    }

    /// A signed token.
    pub fn sign(&self, claims: &Claims) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = encode(&json!({"alg": "HS256", "typ": "JWT"}));
        let signed = format!("{head}.{}", encode(&json!(claims)));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn verify(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

fn is_alive(store: &Store, storage: &str, key: &str, bound: &Bound) -> bool {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    store
        .get(storage, key)
        .and_then(|record| serde_json::from_slice::<Object>(record.draft().text()).ok())
        .is_some_and(|object| object.metadata.uid == bound.uid)
}
