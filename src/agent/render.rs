//! A member's own Patroni configuration: the template, completed from the environment. Pure.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::patroni::REST_PORT;
use crate::plan::POSTGRES_PORT;

/// What a pod's environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `POD_NAME`: Patroni's name must be the pod's.
    pub name: String,
    /// `POD_NAMESPACE`.
    pub namespace: String,
    /// `POD_IP`: where other members reach this one.
    pub address: IpAddr,
    /// `LISTEN_ADDRESS`: where to listen, if not everywhere.
    pub listen: Option<IpAddr>,
    /// `PGDATA`.
    pub data: PathBuf,
    /// `SOCKET_DIRECTORY`: Unix sockets, and files that must not outlive the pod.
    pub sockets: PathBuf,
    /// `PATRONI_CONFIG_FILE`: the template.
    pub template: PathBuf,
    /// `SECURITY_DIRECTORY`: the server's certificate and key, who is trusted, and the REST API's password; pods of before TLS
    /// have none.
    pub security: Option<PathBuf>,
    /// `POSTGRES_MAJOR`: the major version that the data must be of.
    pub major: Option<String>,
}

/// What the environment lacks, or why the template is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    /// A variable is not set.
    #[error("find {0} in the environment")]
    Missing(&'static str),
    /// A variable is not an IP address.
    #[error("read {0}={1:?} as an IP address")]
    Address(&'static str, String),
    /// The template is not what the controller writes.
    #[error("read the template: {0}")]
    Template(String),
}

impl Environment {
    /// Reads it through `var`.
    ///
    /// # Errors
    /// Where a variable is missing or malformed.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, RenderError> {
        let get = |name: &'static str| {
            var(name).filter(|value| !value.is_empty()).ok_or(RenderError::Missing(name))
        };
        let address = |name: &'static str| {
            let text = get(name)?;
            text.parse().map_err(|_| RenderError::Address(name, text))
        };
        Ok(Self {
            name: get("POD_NAME")?,
            namespace: get("POD_NAMESPACE")?,
            address: address("POD_IP")?,
            listen: get("LISTEN_ADDRESS").is_ok().then(|| address("LISTEN_ADDRESS")).transpose()?,
            data: get("PGDATA")?.into(),
            sockets: get("SOCKET_DIRECTORY")?.into(),
            template: get("PATRONI_CONFIG_FILE")?.into(),
            security: get("SECURITY_DIRECTORY").ok().map(PathBuf::from),
            major: get("POSTGRES_MAJOR").ok(),
        })
    }
}

/// The configuration of this member, but for what `security` puts into it. It holds no password of PostgreSQL's: Patroni takes
/// those from the environment.
///
/// # Errors
/// Where the template is not a map.
pub fn render(template: &str, environment: &Environment) -> Result<Value, RenderError> {
    let mut config: Value =
        serde_json::from_str(template).map_err(|error| RenderError::Template(error.to_string()))?;
    if !config.is_object() {
        return Err(RenderError::Template("not a map".to_owned()));
    }
    let listen = |port: u16| match environment.listen {
        Some(address) => host_port(address, port),
        None => format!("*:{port}"),
    };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let own = json!({
        "name": environment.name,
        "kubernetes": { "namespace": environment.namespace },
        "restapi": {
            "listen": listen(REST_PORT),
            "connect_address": host_port(environment.address, REST_PORT),
        },
        "postgresql": {
            "listen": listen(POSTGRES_PORT),
            "connect_address": host_port(environment.address, POSTGRES_PORT),
            "data_dir": path(&environment.data),
            "pgpass": path(&environment.sockets.join("pgpass")),
            "parameters": {
                "unix_socket_directories": path(&environment.sockets),
                // In the sandbox the directory is one of the host's.
                "unix_socket_permissions": "0700",
            },
        },
    });
    merge(&mut config, own);
    Ok(config)
}

/// Unlike a JSON merge patch, this keeps nulls: one in the template means something to Patroni.
pub(super) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn host_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn environment() -> Environment {
        Environment::read(variables).unwrap()
    }

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "POD_NAME" => "db-1",
            "POD_NAMESPACE" => "prod",
            "POD_IP" => "10.0.0.7",
            "PGDATA" => "/data/pgdata",
            "SOCKET_DIRECTORY" => "/run/postgresql",
            "PATRONI_CONFIG_FILE" => "/etc/patroni/patroni.yml",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn completes_the_template_and_keeps_the_rest() {
        let environment = Environment::read(variables).unwrap();
        let template = r#"{"scope":"db","kubernetes":{"context":null,"labels":{"a":"b"}},"postgresql":{"use_unix_socket":true}}"#;
        let config = render(template, &environment).unwrap();
        assert_eq!(config["name"], "db-1");
        assert_eq!(
            config["kubernetes"],
            json!({ "context": null, "labels": { "a": "b" }, "namespace": "prod" })
        );
        assert_eq!(config["restapi"], json!({ "listen": "*:8008", "connect_address": "10.0.0.7:8008" }));
        assert_eq!(config["postgresql"]["listen"], "*:5432");
        assert_eq!(config["postgresql"]["use_unix_socket"], true);
        assert_eq!(config["postgresql"]["data_dir"], "/data/pgdata");
    }

    #[test]
    fn listens_where_it_is_told_to() {
        let listen =
            |name: &str| if name == "LISTEN_ADDRESS" { Some("127.1.2.3".into()) } else { variables(name) };
        let config = render("{}", &Environment::read(listen).unwrap()).unwrap();
        assert_eq!(config["restapi"]["listen"], "127.1.2.3:8008");
        let six = |name: &str| if name == "POD_IP" { Some("fd00::7".into()) } else { variables(name) };
        let config = render("{}", &Environment::read(six).unwrap()).unwrap();
        assert_eq!(config["postgresql"]["connect_address"], "[fd00::7]:5432");
    }

    #[test]
    fn names_what_is_wrong() {
        let without = |name: &str| if name == "PGDATA" { None } else { variables(name) };
        assert_eq!(Environment::read(without), Err(RenderError::Missing("PGDATA")));
        let bad = |name: &str| if name == "POD_IP" { Some("x".into()) } else { variables(name) };
        assert_eq!(Environment::read(bad), Err(RenderError::Address("POD_IP", "x".into())));
        let environment = Environment::read(variables).unwrap();
        assert!(matches!(render("[]", &environment), Err(RenderError::Template(_))));
        assert!(matches!(render("{", &environment), Err(RenderError::Template(_))));
    }
}
