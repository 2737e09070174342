use serde_json::json;

use super::*;
use crate::sandbox::object::Gvk;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn label_selectors_select() {
    let primary = labels(&[("app", "db"), ("role", "primary"), ("n", "5")]);
    let cases = [
        ("", true),
        ("app", true),
        ("!app", false),
        ("!gone", true),
        ("app=db", true),
        ("app==web", false),
        ("app!=web,role=primary", true),
        ("gone!=x", true),
        ("role in (primary, replica)", true),
        ("role notin (primary)", false),
        ("gone notin (a)", true),
        ("app in (db),role", true),
        ("n>4", true),
        ("n<5", false),
        ("app=", false),
        ("gone=", false),
        (" app = db , role = primary ", true),
    ];
    for (text, expected) in cases {
        let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&primary), expected, "{text}");
    }
}

#[test]
fn what_is_no_selector() {
    let cases = [
        ("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a,", "found '', expected: identifier after ','"),
        ("a in b", "unable to parse requirement: found 'b', expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c=d", "found 'c', expected: ',' or 'end of string'"),
    ];
    for (text, expected) in cases {
        assert_eq!(LabelSelector::parse(text).unwrap_err().0, expected, "{text}");
    }
    for text in ["-a=b", "a=b!", "a in ()", "a>b", "x/y/z"] {
        assert!(LabelSelector::parse(text).is_err(), "{text}");
    }
}

#[test]
fn selector_objects() {
    let object = json!({"metadata": {"labels": {"app": "db", "role": "primary"}}});
    let cases = [
        (json!({}), true, ""),
        (json!({"matchLabels": {"role": "primary", "app": "db"}}), true, "app=db,role=primary"),
        (
            json!({"matchExpressions": [{"key": "role", "operator": "In", "values": ["b", "a"]}]}),
            false,
            "role in (a,b)",
        ),
        (json!({"matchExpressions": [{"key": "role", "operator": "Exists"}]}), true, "role"),
        (json!({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}), false, "!role"),
        (
            json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]}),
            true,
            "x notin (y)",
        ),
        (json!(null), false, ""),
    ];
    for (selector, expected, text) in cases {
        let parsed = LabelSelector::from_object(&selector).unwrap();
        assert_eq!(parsed.matches_object(&object), expected, "{selector}");
        assert_eq!(parsed.to_string(), text);
        if !selector.is_null() {
            assert_eq!(LabelSelector::parse(text).unwrap().matches_object(&object), expected);
        }
    }
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
    assert!(LabelSelector::from_object(&bad).is_err());
    assert!(LabelSelector::from_map(&json!({"app": "db"})).matches_object(&object));
    assert!(!LabelSelector::from_map(&json!(null)).matches_object(&object));
}

#[test]
fn field_selectors_select() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
    });
    let gvk = Gvk::gvk("", "v1", "Pod");
    let cases = [
        ("", true),
        ("metadata.name=p", true),
        ("metadata.name!=p", false),
        ("status.phase==Running,spec.nodeName=n", true),
        ("status.phase!=Succeeded,status.phase!=Failed", true),
        ("spec.hostNetwork=false", true),
        ("status.podIP=", true),
    ];
    for (text, expected) in cases {
        assert_eq!(FieldSelector::parse(text, &gvk, &[]).unwrap().matches(&pod), expected, "{text}");
    }
    assert_eq!(FieldSelector::parse("metadata.name=p", &gvk, &[]).unwrap().name(), Some("p"));
}

#[test]
fn fields_that_cannot_be_selected() {
    let pod = Gvk::gvk("", "v1", "Pod");
    let widget = Gvk::gvk("g.io", "v1", "Widget");
    assert_eq!(
        FieldSelector::parse("spec.nope=1", &pod, &[]).unwrap_err().0,
        "field label not supported: spec.nope"
    );
    assert!(FieldSelector::parse("spec.size=1", &widget, &[]).is_err());
    assert!(FieldSelector::parse("spec.size=1", &widget, &["spec.size".to_owned()]).is_ok());
    assert_eq!(
        FieldSelector::parse("spec.nodeName", &pod, &[]).unwrap_err().0,
        "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'"
    );
}
