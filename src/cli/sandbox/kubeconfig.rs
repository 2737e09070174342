//! `dbctl sandbox kubeconfig`, and the file itself.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::cli::Context;
use crate::cli::error::{CliError, Result};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;
use crate::sandbox::process;

/// The name of its context.
pub const CONTEXT: &str = "dbctl-sandbox";

/// The administrator's token; made at the first start, kept from then on.
///
/// # Errors
/// Where it can be neither read nor made.
pub fn admin_token(state: &Path) -> io::Result<String> {
    let path = state.join("admin-token");
    match std::fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            let mut bytes = [0_u8; 32];
            SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
            let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            process::write_atomically(&path, token.as_bytes(), 0o600)?;
            Ok(token)
        }
    }
}

/// Writes the kubeconfig, readable by its owner only.
///
/// # Errors
/// Where it cannot be written.
pub fn write(home: &Home, server: SocketAddr, authority: &str, token: &str) -> io::Result<()> {
    let cluster = json!({ "server": format!("https://{server}"), "certificate-authority-data": STANDARD.encode(authority) });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{ "name": CONTEXT, "cluster": cluster }],
        "users": [{ "name": CONTEXT, "user": { "token": token } }],
        "contexts": [{
            "name": CONTEXT,
            "context": { "cluster": CONTEXT, "user": CONTEXT, "namespace": "default" },
        }],
    });
    let text = serde_yaml::to_string(&config).map_err(io::Error::other)?;
    process::write_atomically(&home.kubeconfig(), text.as_bytes(), 0o600)
}

/// Prints where it is, or the file itself.
///
/// # Errors
/// Where there has never been a sandbox.
pub fn run(context: &Context, home: &Home, raw: bool) -> Result<()> {
    let path = home.kubeconfig();
    if !path.exists() {
        return Err(CliError::not_found(format!("there is no sandbox in {} yet", home.root().display()))
            .hint("start it: dbctl sandbox up"));
    }
    if Daemon::new(home.clone()).state().map_err(CliError::failed)? == State::Stopped {
        context.ui.warn("the sandbox does not run; dbctl sandbox up starts it");
    }
    if raw {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| CliError::failed(format!("read {}: {error}", path.display())))?;
        context.ui.data(text)
    } else {
        context.ui.data(format_args!("{}\n", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_token_is_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let token = admin_token(dir.path()).unwrap();
        assert_eq!((token.len(), admin_token(dir.path()).unwrap()), (64, token));
        let mode = std::fs::metadata(dir.path().join("admin-token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn kube_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().to_owned()).unwrap();
        std::fs::create_dir(home.state()).unwrap();
        write(&home, "127.9.0.1:6443".parse().unwrap(), "PEM", "t").unwrap();
        let read = kube::config::Kubeconfig::read_from(home.kubeconfig()).unwrap();
        assert_eq!(read.current_context.as_deref(), Some(CONTEXT));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.9.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("UEVN"));
        let mode = std::fs::metadata(home.kubeconfig()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
