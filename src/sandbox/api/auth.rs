//! Who calls: the administrator, or a service account by one of its tokens.
//!
//! Tokens are JSON web tokens signed with a key of this server. They name the account's uid, and that of the pod they
//! were made for, so that a token dies with either.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::store::Store;

/// Who issued a token, and who it is for unless another audience is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Name, such as `system:serviceaccount:default:orders-db`.
    pub username: String,
    /// Uid of the service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
}

impl User {
    /// A part of the server itself, or its administrator.
    pub fn system(name: &str) -> Self {
        Self { username: name.to_owned(), uid: None, groups: vec![MASTERS.into(), AUTHENTICATED.into()] }
    }
}

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";

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

    /// The caller that an `Authorization` header names by a bearer token.
    pub fn caller(&self, header: Option<&str>, store: &Store) -> Option<User> {
        let (scheme, credentials) = header?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.user_of(credentials.trim(), ISSUER, store)
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
        let Binding { namespace, serviceaccount, pod } = &claims.kubernetes;
        if !is_alive(store, "/serviceaccounts", namespace, serviceaccount) {
            return None;
        }
        if pod.as_ref().is_some_and(|pod| !is_alive(store, "/pods", namespace, pod)) {
            return None;
        }
        Some(User {
            username: claims.sub.clone(),
            uid: Some(serviceaccount.uid.clone()),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
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

fn is_alive(store: &Store, storage: &str, namespace: &str, bound: &Bound) -> bool {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    store
        .get(storage, &format!("{namespace}/{}", bound.name))
        .and_then(|record| serde_json::from_slice::<Object>(record.draft().text()).ok())
        .is_some_and(|object| object.metadata.uid == bound.uid)
}
