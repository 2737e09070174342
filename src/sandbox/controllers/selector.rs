//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether the selector picks an object of these labels. An empty selector picks everything; an operator that is
/// not known picks nothing.
pub(super) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    super::meta::contains(labels, selector.match_labels.as_ref())
        && selector.match_expressions.iter().flatten().all(|expression| {
            requirement(
                &expression.operator,
                labels.and_then(|labels| labels.get(&expression.key)).map(String::as_str),
                expression.values.as_deref().unwrap_or_default(),
            )
        })
}

/// One requirement, of a label selector or of a node selector.
pub(super) fn requirement(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let listed = value.is_some_and(|value| values.iter().any(|each| each == value));
    let compare = |holds: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|bound| bound.parse::<i64>().ok());
        let value = value.and_then(|value| value.parse::<i64>().ok());
        value.zip(bound).is_some_and(|(value, bound)| holds(value, bound))
    };
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|value, bound| value > bound),
        "Lt" => compare(|value, bound| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_pick_as_kubernetes_does() {
        let labels =
            BTreeMap::from([("app".to_owned(), "x".to_owned()), ("size".to_owned(), "7".to_owned())]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "x"}}), true),
            (json!({"matchLabels": {"app": "y"}}), false),
            (json!({"matchLabels": {"app": "x", "other": "1"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["y", "x"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["x"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["6"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "Lt", "values": ["6"]}]}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "Like", "values": ["x"]}]}), false),
        ] {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&parsed, Some(&labels)), expected, "{selector}");
        }
        let any = LabelSelector::default();
        assert!(matches(&any, None));
    }
}
