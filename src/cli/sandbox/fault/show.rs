//! Faults as a table.

use serde_json::Value;

use crate::cli::output;
use crate::cli::ui;

/// All faults, those of the API server first; nothing where there are none.
pub fn table(api: &Value, pods: &[Value]) -> Option<String> {
    let mut rows = of_api(api);
    for pod in pods {
        let about = &pod["pod"];
        let target = format!("pod {}/{}", text(about, "namespace"), text(about, "name"));
        let time = pod["until"].as_str().map_or_else(|| "-".to_owned(), seconds);
        for fault in pod["faults"].as_array().into_iter().flatten() {
            let time = if fault["status"] == "applied" { time.as_str() } else { "-" };
            rows.push(vec![target.clone(), text(fault, "name"), status(fault), time.to_owned()]);
        }
    }
    (!rows.is_empty()).then(|| ui::table(&["TARGET", "FAULT", "STATUS", "UNTIL"], rows))
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn status(fault: &Value) -> String {
    let (status, reason) = (text(fault, "status"), text(fault, "reason"));
    if reason.is_empty() { status } else { format!("{status}: {reason}") }
}

/// A fault of a pod, with why it was refused.
pub fn reason(fault: &Value) -> String {
    format!("{} was {}", text(fault, "name"), status(fault))
}

fn of_api(api: &Value) -> Vec<Vec<String>> {
    let struck = &api["status"];
    let times = |number: &Value, noun: &str| output::count(number.as_i64().unwrap_or(0), noun);
    let mut faults: Vec<(String, String)> = Vec::new();
    let (latency, jitter) = (number(&api["latencyMs"]), number(&api["jitterMs"]));
    if latency + jitter > 0.0 {
        let fault = match (latency > 0.0, jitter > 0.0) {
            (true, false) => format!("latency {latency}ms"),
            _ => format!("latency {latency}ms to {}ms", latency + jitter),
        };
        faults.push((fault, format!("struck {}", times(&struck["delayed"], "request"))));
    }
    let errors: Vec<&Value> = api["errors"].as_array().into_iter().flatten().collect();
    for error in &errors {
        let status = error["status"].to_string();
        let after = if error["after"] == true { " after the effect" } else { "" };
        let fault = format!("error {status} {}{after}", percent(&error["rate"]));
        // They are counted by status.
        faults.push((fault, format!("struck {}", times(&struck["errors"][&status], "request"))));
    }
    for (field, word, counter) in [
        ("watchDropRate", "drop watches", "watchesDropped"),
        ("watchExpireRate", "expire watches", "watchesExpired"),
    ] {
        if number(&api[field]) > 0.0 {
            let fault = format!("{word} {} a second", percent(&api[field]));
            faults.push((fault, format!("struck {}", times(&struck[counter], "time"))));
        }
    }
    if api["watchStall"] == true {
        faults.push(("stall watches".to_owned(), "on".to_owned()));
    }
    if api["expireWatches"] == true {
        let fault = "expire watches once".to_owned();
        faults.push((fault, format!("struck {}", times(&struck["watchesExpired"], "time"))));
    }
    match api["outage"].as_str() {
        Some("refuse") => faults.push(("outage: the port is closed".to_owned(), "on".to_owned())),
        Some("reset") => {
            let fault = "outage: connections are reset".to_owned();
            faults.push((fault, format!("struck {}", times(&struck["resets"], "request"))));
        }
        _ => {}
    }
    let until = struck["until"].as_str().map_or_else(|| "-".to_owned(), seconds);
    let target = target(&api["for"]);
    faults.into_iter().map(|(fault, told)| vec![target.clone(), fault, told, until.clone()]).collect()
}

/// Whose requests are meant.
fn target(selection: &Value) -> String {
    let mut words = vec!["api".to_owned()];
    for (field, word) in [("verbs", ""), ("resources", ""), ("users", "of ")] {
        let list: Vec<_> =
            selection[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !list.is_empty() {
            words.push(format!("{word}{}", list.join(",")));
        }
    }
    words.join(" ")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn percent(rate: &Value) -> String {
    let hundredths = (number(rate) * 10_000.0).round() / 100.0;
    format!("{hundredths}%")
}

/// A time without its fraction.
fn seconds(time: &str) -> String {
    time.parse::<jiff::Timestamp>()
        .map_or_else(|_| time.to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_fault_is_a_line() {
        let api = json!({
            "latencyMs": 200, "jitterMs": 50, "watchDropRate": 0.05, "seed": 7,
            "errors": [{"status": 409, "rate": 0.1}, {"status": 500, "rate": 0.025, "after": true}],
            "for": {"users": ["system:serviceaccount:*"], "verbs": ["patch", "create"]},
            "status": {"delayed": 12, "errors": {"409": 1}, "watchesDropped": 0, "until": "2026-11-22T10:00:00.123Z"},
        });
        let pods = [json!({
            "pod": {"namespace": "shop", "name": "orders-db-1"}, "wanted": {"freeze": true}, "until": "2026-11-22T10:00:07.9Z",
            "faults": [
                {"name": "freeze", "status": "applied"},
                {"name": "cutPeers", "status": "refused", "reason": "needs --network=namespaces"},
            ],
        })];
        insta::assert_snapshot!(table(&api, &pods).unwrap(), @"
        TARGET                                        FAULT                             STATUS                                UNTIL
        api patch,create of system:serviceaccount:*   latency 200ms to 250ms            struck 12 requests                    2026-11-22T10:00:00Z
        api patch,create of system:serviceaccount:*   error 409 10%                     struck 1 request                      2026-11-22T10:00:00Z
        api patch,create of system:serviceaccount:*   error 500 2.5% after the effect   struck 0 requests                     2026-11-22T10:00:00Z
        api patch,create of system:serviceaccount:*   drop watches 5% a second          struck 0 times                        2026-11-22T10:00:00Z
        pod shop/orders-db-1                          freeze                            applied                               2026-11-22T10:00:07Z
        pod shop/orders-db-1                          cutPeers                          refused: needs --network=namespaces   -
        ");
        assert_eq!(table(&json!({}), &[]), None);
        assert!(
            table(&json!({"outage": "refuse", "status": {}}), &[]).unwrap().contains("the port is closed")
        );
    }
}
