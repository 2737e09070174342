//! Carrying out probes and lifecycle hooks.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::context::Context;
use super::https;
use super::paths::Mounts;
use super::run::Run;
use super::shim::Spec;

/// A running container, for those who ask something of it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub run: Arc<Run>,
    pub container: Arc<Container>,
    pub address: String,
    /// How its main process was started; commands run in the same surroundings.
    pub spec: Arc<Spec>,
    pub mounts: Arc<Mounts>,
}

impl Target {
    /// Carries out a probe once.
    pub async fn probe(&self, context: &Context, probe: &Probe, timeout: Duration) -> Result<(), String> {
        if let Some(action) = &probe.http_get {
            self.get(context, action, timeout).await
        } else if let Some(action) = &probe.tcp_socket {
            self.connect(action, timeout).await
        } else if let Some(action) = &probe.exec {
            self.execute(context, action, timeout).await
        } else {
            Err("probes of this kind are not supported here".to_owned())
        }
    }

    /// Carries out a hook.
    pub async fn hook(
        &self,
        context: &Context,
        hook: &LifecycleHandler,
        timeout: Duration,
    ) -> Result<(), String> {
        if let Some(action) = &hook.http_get {
            self.get(context, action, timeout).await
        } else if let Some(action) = &hook.tcp_socket {
            self.connect(action, timeout).await
        } else if let Some(action) = &hook.exec {
            self.execute(context, action, timeout).await
        } else if let Some(action) = &hook.sleep {
            let wanted = Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0));
            tokio::time::sleep(wanted.min(timeout)).await;
            Ok(())
        } else {
            Err("hooks of this kind are not supported here".to_owned())
        }
    }

    async fn get(&self, context: &Context, action: &HTTPGetAction, timeout: Duration) -> Result<(), String> {
        let encrypted = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&self.address);
        let port = self.port(&action.port)?;
        let path = action.path.as_deref().unwrap_or("/").trim_start_matches('/');
        let judge = |code: u16| match code {
            200..400 => Ok(()),
            _ => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
        if encrypted {
            let headers = action.http_headers.iter().flatten();
            let headers: Vec<_> = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
            let answer = tokio::time::timeout(timeout, https::get(host, port, path, &headers)).await;
            return judge(answer.map_err(|_| "the request timed out".to_owned())??);
        }
        let mut request = context.http.get(format!("http://{host}:{port}/{path}")).timeout(timeout);
        for header in action.http_headers.iter().flatten() {
            request = request.header(&header.name, &header.value);
        }
        let answer = request.send().await.map_err(|error| describe(&error))?;
        judge(answer.status().as_u16())
    }

    async fn connect(&self, action: &TCPSocketAction, timeout: Duration) -> Result<(), String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&self.address);
        let port = self.port(&action.port)?;
        match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
            Err(_) => Err(format!("dial tcp {host}:{port}: timeout")),
        }
    }

    async fn execute(&self, context: &Context, action: &ExecAction, timeout: Duration) -> Result<(), String> {
        let command = action.command.iter().flatten().map(|word| self.mounts.translate(word)).collect();
        let spec = Spec { command, log: None, ..Spec::clone(&self.spec) };
        let id = format!("exec-{}", ulid::Ulid::new());
        let late = || format!("command timed out after {} s", timeout.as_secs());
        let deadline = tokio::time::Instant::now() + timeout;
        let started = async {
            self.run.thawed(&self.container.name).await;
            context.launcher.start(&id, spec, Vec::new()).await.map_err(|error| error.to_string())
        };
        let mut process = tokio::time::timeout_at(deadline, started).await.map_err(|_| late())??;
        match tokio::time::timeout_at(deadline, process.wait()).await {
            Ok(exit) if exit.code == 0 => Ok(()),
            Ok(exit) => Err(format!("command exited with {}: {}", exit.code, exit.output)),
            Err(_) => {
                process.kill().await;
                Err(late())
            }
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("{number} is no port")),
            IntOrString::String(name) => {
                let mut ports = self.container.ports.iter().flatten();
                let named =
                    ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
                let number = named.or_else(|| name.parse().ok());
                number
                    .and_then(|number| u16::try_from(number).ok())
                    .ok_or_else(|| format!("no port is named {name}"))
            }
        }
    }
}

/// The innermost cause is the one that says something.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the request timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
