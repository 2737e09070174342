//! Every refusal of an upgrade, as a user reads it; and what is asked for beside something else.

use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use dbctl::api::Database;

use super::journey::{made, status, well};
use crate::data::refusals::row;
use crate::external::{client, runtime};
use crate::support::{Sandbox, eventually};

const NAME: &str = "orders";

/// The table that becomes a snapshot.
struct Table {
    sandbox: Sandbox,
    text: String,
}

impl Table {
    fn says(&mut self, what: &str) {
        self.text.push_str(&format!("# {what}\n"));
    }

    /// `dbctl upgrade ARGS` ends with that code.
    #[track_caller]
    fn refused(&mut self, args: &str, code: i32) {
        let args: Vec<&str> = std::iter::once("upgrade").chain(args.split(' ')).collect();
        let mut own = String::new();
        assert_eq!(row(&mut own, &self.sandbox, &args), code, "{own}");
        // What is done after all is told elsewhere.
        let told = own.lines().filter(|_| code != 0);
        self.text.extend(told.flat_map(|line| [line, "\n"]));
    }

    /// The API server's answer to another release in the spec.
    fn patched(&mut self, version: &str) -> Result<(), String> {
        let kubeconfig = self.sandbox.kubeconfig();
        let patch = Patch::Merge(json!({ "spec": { "version": version } }));
        let answer = runtime().block_on(async {
            let api: Api<Database> = Api::default_namespaced(client(&kubeconfig).await);
            api.patch(NAME, &PatchParams::default(), &patch).await
        });
        match answer {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, status.message)),
            Err(error) => panic!("{error}"),
        }
    }

    fn condition(&self, kind: &str) -> Value {
        let conditions = status(&self.sandbox)["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    }

    /// Waits until the condition has that reason; its message.
    #[track_caller]
    fn comes(&self, kind: &str, reason: &str) -> String {
        eventually(&format!("{kind} has the reason {reason}"), || {
            let condition = self.condition(kind);
            let message = condition["message"].as_str().unwrap_or_default().to_owned();
            if condition["reason"] == reason { Ok(message) } else { Err(condition.to_string()) }
        })
    }

    fn member(&self, primary: bool) -> String {
        let status = status(&self.sandbox);
        let members = status["instances"].as_array().cloned().unwrap_or_default();
        let member = members.iter().find(|member| (member["name"] == status["primary"]) == primary);
        member.unwrap()["name"].as_str().unwrap().to_owned()
    }

    /// What was last asked for of that kind, once it has ended.
    #[track_caller]
    fn ended(&self, kind: &str) -> Value {
        eventually(&format!("the {kind} has ended"), || {
            let operations = status(&self.sandbox)["operations"].as_array().cloned().unwrap_or_default();
            let found =
                operations.into_iter().find(|operation| operation["kind"] == kind).unwrap_or_default();
            if found["finishedAt"].is_null() { Err(found.to_string()) } else { Ok(found) }
        })
    }
}

/// To all processes of a member's pod.
fn signal(sandbox: &Sandbox, member: &str, signal: Signal) {
    let mark = format!("POD_NAME={member}");
    for (id, _) in sandbox.processes() {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            let _ = kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal);
        }
    }
}

#[test]
fn each_refusal_of_an_upgrade_says_why_and_what_to_do() {
    let mut table = Table { sandbox: Sandbox::apart(), text: String::new() };
    made(&table.sandbox, "16.13", "2");
    let small = ["create", "small", "--version", "16.15", "--storage", "1Gi", "--wait"];
    table.sandbox.run(&small).ok();

    table.says("another release, of a database that is well");
    table.refused("none --to 16.15", 6);
    table.refused("orders", 2);
    table.refused("orders --to 17", 2);
    table.refused("orders --to 16.15 --link", 2);
    for args in [
        "--to 15.19",
        "--to 15.19 --major",
        "--to 18.6",
        "--to 18.6 --major",
        "--to 17.11",
        "--to 16.15 --major",
        "--resume",
        "--abort",
        "--abort --major --yes --wait",
    ] {
        table.refused(&format!("orders {args}"), 5);
    }
    table.refused("orders --to 16.15", 2);
    table.refused("small --to 17.11 --major --yes", 5);

    table.says("by another client of the API");
    for version in ["18.6", "15.19", "17"] {
        let refused = table.patched(version).unwrap_err();
        table.text.push_str(&format!("spec.version: {version:?}\n    {refused}\n"));
    }
    table.patched("17.11").unwrap();
    let held = table.comes("UpToDate", "UpgradeNeeded");
    table.text.push_str(&format!("spec.version: \"17.11\"\n    {held}\n"));
    assert_eq!(table.sandbox.sql(NAME, "show server_version"), "16.13");
    table.refused("orders --abort --dry-run", 0);
    table.patched("16.13").unwrap();
    table.comes("UpToDate", "PodsUpToDate");
    well(&table.sandbox, "16.13", 2);

    table.says("while it is paused");
    table.sandbox.run(&["pause", NAME]).ok();
    table.refused("orders --to 16.15 --yes --wait", 5);
    table.refused("orders --to 17.11 --major --yes", 5);
    table.sandbox.run(&["resume", NAME]).ok();

    table.says("while a member does not answer");
    let replica = table.member(false);
    signal(&table.sandbox, &replica, Signal::STOP);
    eventually("it is missed", || {
        let ready = table.condition("Ready");
        if ready["status"] == "False" { Ok(()) } else { Err(ready.to_string()) }
    });
    table.refused("orders --to 16.15 --yes", 5);
    table.refused("orders --to 17.11 --major --yes", 5);
    signal(&table.sandbox, &replica, Signal::CONT);
    well(&table.sandbox, "16.13", 2);

    beside(table);
}

/// What is asked for while something else is: both are done, or the later is refused.
fn beside(mut table: Table) {
    let replica = table.member(false);
    table.says("while a failover has been asked for, and no controller has seen it");
    table.sandbox.external().stop_controller();
    table.sandbox.run(&["failover", NAME, "--to", &replica, "--yes"]).ok();
    table.refused("orders --to 17.11 --major --yes", 5);
    table.refused("orders --to 16.14 --yes", 0);
    table.sandbox.external().start_controller();
    assert_eq!(table.ended("failover")["phase"], "Succeeded");
    well(&table.sandbox, "16.14", 2);

    table.says("while a backup has been asked for");
    table.sandbox.external().stop_controller();
    table.sandbox.run(&["backup-now", NAME]).ok();
    table.refused("orders --to 17.11 --major --dry-run", 0);
    table.refused("orders --to 16.15 --yes", 0);
    table.sandbox.external().start_controller();
    eventually("it is upgraded", || {
        let upgrade = status(&table.sandbox)["upgrade"].clone();
        if upgrade.is_null() { Err(status(&table.sandbox).to_string()) } else { Ok(()) }
    });
    table.says("while an upgrade is under way");
    table.refused("orders --to 16.13 --yes", 5);
    table.refused("orders --to 17.11 --major --yes", 5);
    well(&table.sandbox, "16.15", 2);
    assert_eq!(table.ended("backup")["phase"], "Succeeded");
    assert_eq!(table.sandbox.sql(NAME, "select count(*), count(distinct text) from t"), "5000|5000");

    let mut text =
        table.text.replace(&format!("--kubeconfig {}", table.sandbox.kubeconfig().display()), "--sandbox");
    let varies = [("orders-[01]", "orders-N"), ("dbctl-test-[0-9a-z]+", "default"), ("[0-9A-Z]{26}", "[ID]")];
    for (what, with) in varies {
        text = regex::Regex::new(what).unwrap().replace_all(&text, with).into_owned();
    }
    text = text.replace(&table.sandbox.home().display().to_string(), "[HOME]");
    insta::assert_snapshot!("upgrades", text);
}
