//! The agent in the members' pods, on real PostgreSQL and Patroni.

use std::net::IpAddr;

use dbctl::agent::{AGENT_PORT, AgentReport, PostmasterState};
use dbctl::patroni::{Client, Credentials, REST_USER};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;

use crate::journeys::ready_with;
use crate::support::{Sandbox, eventually};

const NAME: &str = "minded";

struct Cluster<'a> {
    sandbox: &'a Sandbox,
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Cluster<'_> {
    fn holder(&self) -> Option<String> {
        let maps = Api::<ConfigMap>::default_namespaced(self.client.clone());
        let lock = self.runtime.block_on(maps.get(&format!("{NAME}-leader"))).unwrap();
        lock.metadata.annotations.unwrap_or_default().remove("leader")
    }

    fn pod(&self, name: &str) -> Pod {
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        self.runtime.block_on(pods.get(name)).unwrap()
    }

    fn address(&self, name: &str) -> IpAddr {
        self.pod(name).status.unwrap().pod_ip.unwrap().parse().unwrap()
    }

    fn report(&self, name: &str) -> Result<AgentReport, String> {
        let url = format!("http://{}:{AGENT_PORT}/", self.address(name));
        let ask = async { reqwest::get(url).await?.json().await };
        self.runtime.block_on(ask).map_err(|error: reqwest::Error| error.to_string())
    }

    fn credentials(&self) -> Credentials {
        let secrets = Api::<Secret>::default_namespaced(self.client.clone());
        let mut secret = self.runtime.block_on(secrets.get(&format!("{NAME}-internal"))).unwrap();
        let password = secret.data.take().unwrap().remove("rest-password").unwrap();
        Credentials { username: REST_USER.to_owned(), password: String::from_utf8(password.0).unwrap() }
    }

    /// Waits until another than this member holds the lock, and what is written is kept.
    fn moved_from(&self, before: &str) -> String {
        let after = eventually("another primary", || match self.holder() {
            Some(holder) if holder != before => Ok(holder),
            holder => Err(format!("{holder:?} holds the lock")),
        });
        ready_with(self.sandbox, NAME, 3);
        after
    }
}

#[test]
fn a_lock_is_handed_over_at_once_and_a_primary_ends_when_its_patroni_hangs() {
    let sandbox = Sandbox::own();
    sandbox.run(&["create", NAME, "--replicas", "3", "--storage", "1Gi", "--wait"]).ok();
    ready_with(&sandbox, NAME, 3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(sandbox.client());
    let cluster = Cluster { sandbox: &sandbox, runtime, client };
    sandbox.sql(NAME, "create table t (n int)");

    let first = cluster.holder().unwrap();
    let report = cluster.report(&first).unwrap();
    assert_eq!(report.postmaster, PostmasterState::Running);
    assert!(report.disk.is_some_and(|disk| disk.free > 0 && disk.free <= disk.size), "{report:?}");
    assert_eq!(report.fenced, None);

    let candidate = if first.ends_with('0') { format!("{NAME}-1") } else { format!("{NAME}-0") };
    let patroni = Client::new().unwrap();
    let (address, credentials) = (cluster.address(&first), cluster.credentials());
    cluster.runtime.block_on(patroni.switchover(address, &credentials, &first, &candidate)).unwrap();
    let second = cluster.moved_from(&first);
    assert_eq!(second, candidate);
    let log = sandbox.run(&["logs", NAME, "--member", &first]).ok();
    assert!(log.stdout.contains("gave up the leader lock"), "{}", log.transcript());
    sandbox.sql(NAME, "insert into t values (1)");

    // Its postgres runs on and could write; only Patroni stands still.
    sandbox.run(&["sandbox", "fault", "pod", &second, "--freeze", "--only", "bin/patroni"]).ok();
    let ended = eventually("the hung primary ends", || {
        let status = cluster.pod(&second).status.unwrap().container_statuses.unwrap().remove(0);
        status.last_state.and_then(|state| state.terminated).ok_or_else(|| "it runs".to_owned())
    });
    sandbox.run(&["sandbox", "fault", "clear", "pod", &second]).ok();
    let message = ended.message.unwrap_or_default();
    assert!(message.contains("fenced: Patroni has not renewed the leader lock"), "{message}");
    assert_ne!(ended.exit_code, 0);
    let third = cluster.moved_from(&second);
    assert_eq!(sandbox.sql(NAME, "select count(*) from t"), "1");
    let fenced = eventually("it says so itself", || cluster.report(&second));
    assert!(fenced.fenced.is_some_and(|fenced| message.contains(&fenced.reason)));
    assert_eq!(cluster.report(&third).unwrap().fenced, None);
}
