use super::*;

fn request(verb: &'static str, name: &str) -> Request {
    let (user, resource) = ("me".into(), "pods".into());
    Request { user, verb, resource, name: name.to_owned(), ..Request::default() }
}

fn faults(spec: Value) -> Arc<Faults> {
    let faults = Arc::new(Faults::default());
    faults.set(serde_json::from_value(spec).unwrap(), 1);
    faults
}

fn fates(faults: &Faults, verb: &'static str, times: usize) -> Vec<Option<u16>> {
    let active = faults.current().unwrap();
    (0..times).map(|_| active.draw(&request(verb, "a")).1.map(|error| error.status)).collect()
}

#[test]
fn the_same_seed_strikes_the_same_requests_whoever_else_asks() {
    let spec = json!({"errors": [{"status": 409, "rate": 0.1}, {"status": 500, "rate": 0.1}], "seed": 7});
    let (one, two) = (faults(spec.clone()), faults(spec));
    let first = fates(&one, "patch", 500);
    let mut second = Vec::new();
    for _ in 0..500 {
        second.extend(fates(&two, "patch", 1));
        fates(&two, "list", 1);
    }
    assert_eq!(first, second);
    for status in [409, 500] {
        let struck = first.iter().filter(|fate| **fate == Some(status)).count();
        assert!((30..80).contains(&struck), "{status}: {struck} of 500");
    }
    assert!(fates(&one, "get", 500).iter().all(|fate| *fate != Some(409)), "a read is never in conflict");
    let other = faults(json!({"errors": [{"status": 409, "rate": 0.1}], "seed": 8}));
    assert_ne!(first, fates(&other, "patch", 500));
}

#[test]
fn latency_varies_within_its_jitter() {
    let faults = faults(json!({"latencyMs": 200, "jitterMs": 50}));
    let active = faults.current().unwrap();
    let delays: Vec<_> = (0..200).map(|_| active.draw(&request("get", "a")).0.as_millis()).collect();
    assert!(delays.iter().all(|delay| (200..=250).contains(delay)));
    assert!(delays.iter().min() < delays.iter().max());
}

#[test]
fn errors_read_as_those_of_an_api_server() {
    let error = |status| ErrorRate { status, rate: 1.0, after: false, retry_after_seconds: None };
    let set = Request { group: "apps".into(), resource: "statefulsets".into(), ..request("update", "a") };
    let cases = [
        (409, "Conflict", "Operation cannot be fulfilled on statefulsets.apps \"a\""),
        (429, "TooManyRequests", "the server has received too many requests"),
        (500, "InternalError", "Internal error occurred: "),
        (503, "ServiceUnavailable", "the server is currently unable"),
        (504, "Timeout", "Timeout: request did not complete"),
    ];
    for (status, reason, message) in cases {
        let failure = failure(&error(status), &set);
        let body = failure.body();
        assert_eq!((body["kind"].as_str(), body["code"].as_u64()), (Some("Status"), Some(status.into())));
        assert_eq!(body["reason"], reason);
        assert!(body["message"].as_str().unwrap().starts_with(message), "{body}");
        assert_eq!(body["details"]["retryAfterSeconds"].as_u64(), (status == 429).then_some(1));
    }
}
