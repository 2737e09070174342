//! Which Kubernetes API a command talks to: a cluster's, or the sandbox's.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::Context;
use super::error::{CliError, Result};
use super::sandbox;
use crate::sandbox::home::Home;

/// How long connecting may take before the answer is that nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an API server may be silent in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to an API server.
#[derive(Clone)]
pub struct Session {
    /// For requests with one answer.
    pub client: Client,
    /// For watches, logs and port-forwards, which may be silent for long.
    pub streaming: Client,
    /// Where objects are looked for.
    pub namespace: String,
    /// Whose API server it is.
    pub place: Place,
}

/// Whose API server it is.
#[derive(Clone, Debug)]
pub enum Place {
    /// This machine's sandbox.
    Sandbox(Home),
    /// A cluster, by what the user would call it.
    Cluster(String),
}

impl Place {
    /// The home, in the sandbox.
    pub fn sandbox(&self) -> Option<&Home> {
        match self {
            Place::Sandbox(home) => Some(home),
            Place::Cluster(_) => None,
        }
    }
}

impl Session {
    /// Connects to what the command line names; the sandbox is started where it does not run.
    ///
    /// # Errors
    /// Where there is no cluster, its kubeconfig cannot be read, or the sandbox cannot be started.
    pub async fn open(context: &Context) -> Result<Self> {
        if context.global.sandbox {
            let home = Home::locate().map_err(CliError::failed)?;
            sandbox::start::ensure(context, &home)?;
            Self::of_sandbox(context, home).await
        } else {
            let (config, name) = cluster_config(context).await?;
            Self::connect(context, config, Place::Cluster(name))
        }
    }

    /// Connects to a sandbox that runs.
    ///
    /// # Errors
    /// Where its kubeconfig cannot be read.
    pub async fn of_sandbox(context: &Context, home: Home) -> Result<Self> {
        let path = home.kubeconfig();
        let config = from_kubeconfig(&path).await.map_err(|error| {
            CliError::failed(format!("read the sandbox's kubeconfig {}: {error}", path.display()))
                .hint("restart it: `dbctl sandbox down`, then `dbctl sandbox up`")
        })?;
        Self::connect(context, without_tls(config), Place::Sandbox(home))
    }

    fn connect(context: &Context, mut config: Config, place: Place) -> Result<Self> {
        spare_roots(&mut config);
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = context.global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let build = |config: Config| {
            Client::try_from(config).map_err(|error| CliError::failed(format!("make an API client: {error}")))
        };
        config.read_timeout = None;
        let streaming = build(config.clone())?;
        config.read_timeout = Some(READ_TIMEOUT);
        Ok(Self { client: build(config)?, streaming, namespace, place })
    }
}

/// The sandbox's server speaks both at its port, and what stays on loopback needs no handshake, which would take as long
/// as all else that a command does, and no proxy.
fn without_tls(mut config: Config) -> Config {
    config.proxy_url = None;
    let mut parts = config.cluster_url.clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    if let Ok(url) = http::Uri::from_parts(parts) {
        config.cluster_url = url;
        config.root_cert = None;
    }
    config
}

/// Without TLS, the system's root certificates need not be read: that takes longer than all else that a command does.
pub fn spare_roots(config: &mut Config) {
    if config.cluster_url.scheme_str() == Some("http") {
        config.root_cert = Some(Vec::new());
    }
}

/// The proxies that the environment names are not meant for this machine itself, as for all clients of Kubernetes; one that
/// the kubeconfig names is.
fn spare_proxy(config: &mut Config, named: bool) {
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if here && !named {
        config.proxy_url = None;
    }
}

/// Whether the kubeconfig names a proxy for the cluster of that context.
fn names_proxy(kubeconfig: &Kubeconfig, context: Option<&str>) -> bool {
    let contexts = kubeconfig.contexts.iter().filter(|each| Some(each.name.as_str()) == context);
    let cluster = contexts.filter_map(|each| each.context.as_ref()).map(|context| &context.cluster).next();
    let clusters = kubeconfig.clusters.iter().filter(|each| Some(&each.name) == cluster);
    clusters.filter_map(|each| each.cluster.as_ref()?.proxy_url.as_ref()).any(|url| !url.is_empty())
}

async fn from_kubeconfig(path: &std::path::Path) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// The kubeconfig files that are looked at, as kubectl does: the flag, then KUBECONFIG, then the user's own.
fn kubeconfig_paths(
    flag: Option<&PathBuf>,
    env: Option<std::ffi::OsString>,
    home: Option<PathBuf>,
) -> Vec<PathBuf> {
    if let Some(path) = flag {
        return vec![path.clone()];
    }
    let listed: Vec<_> =
        env.iter().flat_map(std::env::split_paths).filter(|path| !path.as_os_str().is_empty()).collect();
    if listed.is_empty() { home.map(|home| home.join(".kube/config")).into_iter().collect() } else { listed }
}

/// The cluster's configuration, and a name for it.
///
/// # Errors
/// Where there is no cluster, or its kubeconfig cannot be read.
pub async fn cluster_config(context: &Context) -> Result<(Config, String)> {
    let global = &context.global;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let paths = kubeconfig_paths(global.kubeconfig.as_ref(), std::env::var_os("KUBECONFIG"), home);
    let found: Vec<_> = paths.iter().filter(|path| path.exists()).collect();
    if found.is_empty() {
        if global.kubeconfig.is_none()
            && global.context.is_none()
            && let Ok(config) = Config::incluster()
        {
            return Ok((config, "this pod's cluster".to_owned()));
        }
        return Err(no_cluster(&paths));
    }
    let mut merged = Kubeconfig::default();
    for path in found {
        let next = Kubeconfig::read_from(path);
        merged = next.and_then(|next| merged.merge(next)).map_err(|error| bad_kubeconfig(path, &error))?;
    }
    let name = global.context.clone().or_else(|| merged.current_context.clone());
    let contexts: Vec<_> = merged.contexts.iter().map(|context| context.name.clone()).collect();
    let options = KubeConfigOptions { context: global.context.clone(), ..Default::default() };
    let named = names_proxy(&merged, name.as_deref());
    let mut config = Config::from_custom_kubeconfig(merged, &options).await.map_err(|error| match error {
        KubeconfigError::CurrentContextNotSet | KubeconfigError::LoadContext(_) => {
            no_context(&paths, name.as_deref(), &contexts)
        }
        other => bad_kubeconfig(&paths[0], &other),
    })?;
    spare_proxy(&mut config, named);
    Ok((config, name.unwrap_or_default()))
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn no_cluster(paths: &[PathBuf]) -> CliError {
    let tried = if paths.is_empty() {
        "no --kubeconfig, KUBECONFIG or HOME is set".to_owned()
    } else {
        format!("no kubeconfig at {}", listed(paths))
    };
    CliError::failed(format!("find a Kubernetes cluster: {tried}, and this is not a pod"))
        .hint("to run on this machine without a cluster, add --sandbox (or set DBCTL_SANDBOX=1)")
        .hint("to use a cluster, name its kubeconfig with --kubeconfig PATH, and a --context of it")
}

fn bad_kubeconfig(path: &std::path::Path, error: &KubeconfigError) -> CliError {
    CliError::failed(format!("read the kubeconfig {}: {error}", path.display()))
        .hint("name another one with --kubeconfig PATH, or run without a cluster with --sandbox")
}

fn no_context(paths: &[PathBuf], name: Option<&str>, contexts: &[String]) -> CliError {
    let problem = match name {
        Some(name) => format!("there is no context {name:?} in {}", listed(paths)),
        None => format!("{} sets no current context", listed(paths)),
    };
    let known = if contexts.is_empty() {
        "it holds no contexts at all; name another file with --kubeconfig PATH".to_owned()
    } else {
        format!("name one with --context: {}", contexts.join(", "))
    };
    CliError::failed(format!("find a Kubernetes cluster: {problem}"))
        .hint(known)
        .hint("to run on this machine without a cluster, add --sandbox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_over_the_users_file() {
        let home = || Some(PathBuf::from("/home/u"));
        let flag = PathBuf::from("/f");
        let paths = |flag, env: Option<&str>| kubeconfig_paths(flag, env.map(Into::into), home());
        assert_eq!(paths(Some(&flag), Some("/a")), [PathBuf::from("/f")]);
        assert_eq!(paths(None, Some("/a:/b:")), [PathBuf::from("/a"), "/b".into()]);
        assert_eq!(paths(None, Some("")), [PathBuf::from("/home/u/.kube/config")]);
        assert_eq!(paths(None, None), [PathBuf::from("/home/u/.kube/config")]);
    }

    #[test]
    fn roots_are_spared_only_where_none_is_needed() {
        for (url, spared) in [("http://127.0.0.1:6443", true), ("https://127.0.0.1:6443", false)] {
            let mut config = Config::new(url.parse().unwrap());
            spare_roots(&mut config);
            assert_eq!(config.root_cert.is_some(), spared, "{url}");
        }
    }

    #[test]
    fn the_sandbox_is_spoken_to_without_tls_and_proxy() {
        let mut config = Config::new("https://127.0.0.1:6443".parse().unwrap());
        config.proxy_url = Some("http://proxy:3128".parse().unwrap());
        let config = without_tls(config);
        assert_eq!(
            (config.cluster_url.to_string().as_str(), config.proxy_url),
            ("http://127.0.0.1:6443/", None)
        );
    }

    #[test]
    fn this_machine_needs_no_proxy_but_one_that_is_named_for_it() {
        for (url, named, used) in [
            ("https://127.0.0.1:6443", false, false),
            ("https://[::1]:6443", false, false),
            ("https://localhost:6443", false, false),
            ("https://127.0.0.1:6443", true, true),
            ("https://10.0.0.1:6443", false, true),
            ("https://example.com", false, true),
        ] {
            let mut config = Config::new(url.parse().unwrap());
            config.proxy_url = Some("http://proxy:3128".parse().unwrap());
            spare_proxy(&mut config, named);
            assert_eq!(config.proxy_url.is_some(), used, "{url} {named}");
        }
    }

    #[test]
    fn without_a_cluster_the_error_names_what_was_tried_and_the_sandbox() {
        let text = no_cluster(&["/home/u/.kube/config".into()]).render("error:", "hint:");
        assert!(text.contains("/home/u/.kube/config") && text.contains("--sandbox"), "{text}");
        let text = no_context(&["/k".into()], Some("prod"), &["dev".into()]).render("error:", "hint:");
        assert!(text.contains("\"prod\"") && text.contains("dev"), "{text}");
    }
}
