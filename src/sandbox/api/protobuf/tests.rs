use super::*;
use serde_json::json;

fn from_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// What kubectl 1.37 sends for a command, and what it prints for the same with `--dry-run=client -o json`.
#[test]
fn what_kubectl_sends_is_what_it_prints() {
    let recorded: Vec<Value> = serde_json::from_str(include_str!("recorded.json")).unwrap();
    assert!(recorded.len() >= 15);
    for case in recorded {
        let object = decode(&from_base64(case["body"].as_str().unwrap())).unwrap();
        assert_eq!(object, case["object"], "{}", case["command"]);
    }
}

#[test]
fn questions_are_read() {
    let log = "azhzAAoyChdhdXRob3JpemF0aW9uLms4cy5pby92MRIXU2VsZlN1YmplY3RBY2Nlc3NSZXZpZXcSPQoQCgASABoAIgAqADIAOABCABIfCh0KBHNob3ASA2dldBoAIgAqBHBvZHMyA2xvZzoBcBoICAASABoAIAAaACIA";
    let asked =
        json!({"namespace": "shop", "verb": "get", "resource": "pods", "subresource": "log", "name": "p"});
    assert_eq!(decode(&from_base64(log)).unwrap()["spec"], json!({ "resourceAttributes": asked }));
    let token = "azhzAAooChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESDFRva2VuUmVxdWVzdBIkChAKABIAGgAiACoAMgA4AEIAEgoKBXZhdWx0IJAcGgQKABIAGgAiAA==";
    let spec = decode(&from_base64(token)).unwrap()["spec"].clone();
    assert_eq!(spec, json!({"audiences": ["vault"], "expirationSeconds": 3600}));
}

/// A message by its fields: number, wire type 2, content.
fn packed(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let field = |(number, content): &(u8, &[u8])| {
        let head = [number << 3 | 2, u8::try_from(content.len()).unwrap()];
        [&head[..], content].concat()
    };
    fields.iter().flat_map(field).collect()
}

fn object(api_version: &str, kind: &str, fields: &[u8]) -> Vec<u8> {
    let type_meta = packed(&[(1, api_version.as_bytes()), (2, kind.as_bytes())]);
    [MAGIC, &packed(&[(1, &type_meta), (2, fields)])].concat()
}

#[test]
fn times_numbers_and_nothing() {
    let time = [&[8][..], &[0x80, 0xf2, 0xd6, 0xca, 6]].concat();
    let meta = [packed(&[(1, b"l"), (8, &time)]), vec![7 << 3, 0]].concat();
    // holderIdentity is a pointer: empty is not absent. leaseTransitions is -1 in ten bytes.
    let spec =
        [packed(&[(1, b"")]), [&[5 << 3][..], &[0xff; 9], &[1]].concat(), packed(&[(4, &time)])].concat();
    let lease =
        decode(&object("coordination.k8s.io/v1", "Lease", &packed(&[(1, &meta), (2, &spec)]))).unwrap();
    assert_eq!(lease["metadata"], json!({"name": "l", "creationTimestamp": "2026-01-01T00:00:00Z"}));
    let spec =
        json!({"holderIdentity": "", "leaseTransitions": -1, "renewTime": "2026-01-01T00:00:00.000000Z"});
    assert_eq!(lease["spec"], spec);
}

#[test]
fn what_is_no_object_is_an_error() {
    let good = object("v1", "ConfigMap", &packed(&[(1, &packed(&[(1, b"x")]))]));
    assert!(decode(&good).is_ok());
    for length in 0..good.len() {
        // Cut anywhere, it is an error or a shorter object, and never a panic.
        let _ = decode(&good[..length]);
    }
    assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
    assert!(matches!(decode(&object("v1", "Nothing", b"")), Err(ProtobufError::Kind { .. })));
    assert_eq!(decode(&object("v1", "ConfigMap", b"\x0a\x7f")), Err(ProtobufError::Malformed));
    assert_eq!(decode(&object("v1", "ConfigMap", b"\x0b")), Err(ProtobufError::Malformed));
    let number = ProtobufError::Mismatch { message: "core.v1.ConfigMap".to_owned(), number: 1 };
    assert_eq!(decode(&object("v1", "ConfigMap", b"\x08\x01")), Err(number));
    let later = object("v1", "ConfigMap", b"\xfa\x3f\x01x");
    assert_eq!(decode(&later).unwrap(), json!({"apiVersion": "v1", "kind": "ConfigMap"}), "an unknown field");
}
