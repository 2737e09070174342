use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sandbox::object::{Cause, invalid};

fn custom(spec: Value) -> Schema {
    Schema::from_crd(&json!({"type": "object", "properties": {"spec": spec}})).unwrap()
}

fn messages(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<String> {
    schema.validate(object, old).iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

/// The messages for a spec alone.
fn spec_messages(schema: Value, spec: Value) -> Vec<String> {
    messages(&custom(schema), &json!({"spec": spec}), None)
}

#[test]
fn structural_messages() {
    let cases = [
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 9, "exclusiveMaximum": true}),
            json!(9),
            "spec: Invalid value: 9: spec in body should be less than 9",
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            "spec: Invalid value: 7: spec in body should be a multiple of 5",
        ),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(3_000_000_000_i64),
            "spec: Invalid value: 3000000000: spec in body must be of type int32: 3000000000",
        ),
        (
            json!({"type": "string", "maxLength": 3}),
            json!("four"),
            "spec: Too long: may not be more than 3 bytes",
        ),
        (
            json!({"type": "string", "minLength": 3}),
            json!("ab"),
            "spec: Invalid value: \"ab\": spec in body should be at least 3 chars long",
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            "spec: Invalid value: \"b\": spec in body should match '^a+$'",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("soon"),
            "spec: Invalid value: \"soon\": spec in body must be of type date-time: \"soon\"",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            "spec: Invalid value: 0: spec in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 2]),
            "spec[1]: Invalid value: \"integer\": spec[1] in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "a"]),
            "spec[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"k": 1}),
            "spec.k: Invalid value: \"integer\": spec.k in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}),
            json!({}),
            "spec.x: Required value",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "string"}),
            json!(null),
            "spec: Invalid value: \"null\": spec in body must be of type string: \"null\"",
        ),
    ];
    for (schema, spec, expected) in cases {
        assert_eq!(spec_messages(schema.clone(), spec), [expected], "{schema}");
    }
}

#[test]
fn good_values_pass() {
    let cases = [
        (json!({"type": "integer", "minimum": 1, "maximum": 9}), json!(9)),
        (json!({"type": "number"}), json!(1)),
        (json!({"type": "integer"}), json!(2.0)),
        (json!({"type": "string", "nullable": true}), json!(null)),
        (
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!("5%"),
        ),
        (json!({"type": "string", "format": "duration"}), json!("1h30m")),
        (json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), json!({"any": [1]})),
    ];
    for (schema, spec) in cases {
        assert_eq!(spec_messages(schema.clone(), spec), Vec::<String>::new(), "{schema}");
    }
}

#[test]
fn keyed_lists_refuse_a_key_twice() {
    let schema = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "properties": {"type": {"type": "string"}}},
    });
    let found = spec_messages(schema, json!([{"type": "Ready"}, {"type": "Ready"}]));
    assert_eq!(found, ["spec[1]: Duplicate value: {\"type\":\"Ready\"}"]);
}

#[test]
fn a_wrong_structure_leaves_rules_unchecked() {
    let schema = json!({
        "type": "object", "required": ["b"],
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a < self.b"}],
    });
    let found = spec_messages(schema, json!({"a": 1}));
    assert_eq!(found[0], "spec.b: Required value");
    assert!(
        found[1].starts_with("<nil>: Invalid value: null: some validation rules were not checked"),
        "{found:?}"
    );
}

fn rules(rules: Value) -> Schema {
    custom(json!({
        "type": "object",
        "properties": {
            "size": {"type": "integer"},
            "mode": {"type": "string"},
            "users": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "quota": {
                        "type": "integer",
                        "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "quota cannot shrink"}],
                    }},
                },
            },
        },
        "x-kubernetes-validations": rules,
    }))
}

#[test]
fn rules_say_where_and_why() {
    let cases = [
        (json!({"rule": "self.size > 1", "message": "too small"}), "spec: Invalid value: too small"),
        (json!({"rule": "self.size > 1"}), "spec: Invalid value: failed rule: self.size > 1"),
        (
            json!({"rule": "self.size > 1", "messageExpression": "'size is ' + string(self.size)"}),
            "spec: Invalid value: size is 1",
        ),
        (
            json!({"rule": "self.size > 1", "message": "no", "fieldPath": ".size"}),
            "spec.size: Invalid value: no",
        ),
        (
            json!({"rule": "self.size > 1", "message": "no", "reason": "FieldValueForbidden"}),
            "spec: Forbidden: no",
        ),
    ];
    for (rule, expected) in cases {
        let schema = rules(json!([rule]));
        assert_eq!(messages(&schema, &json!({"spec": {"size": 1}}), None), [expected], "{rule}");
        assert!(messages(&schema, &json!({"spec": {"size": 2}}), None).is_empty());
    }
}

#[test]
fn root_rules_name_no_field() {
    let schema = Schema::from_crd(&json!({
        "type": "object",
        "x-kubernetes-validations": [{"rule": "size(self.metadata.name) <= 3", "message": "name too long"}],
    }))
    .unwrap();
    let errors = schema.validate(&json!({"metadata": {"name": "long"}}), None);
    assert_eq!((errors[0].field.as_str(), errors[0].reason), ("<nil>", Cause::Invalid));
    let status = invalid("g.io", "Widget", "long", &errors);
    assert_eq!(status["message"], "Widget.g.io \"long\" is invalid: <nil>: Invalid value: name too long");
}

#[test]
fn items_with_keys_are_compared_with_their_old_selves() {
    let schema = rules(json!([]));
    let old = json!({"spec": {"users": [{"name": "a", "quota": 5}, {"name": "b", "quota": 1}]}});
    let swapped = json!({"spec": {"users": [{"name": "b", "quota": 2}, {"name": "a", "quota": 5}]}});
    assert_eq!(messages(&schema, &swapped, Some(&old)), Vec::<String>::new());
    let shrunk = json!({"spec": {"users": [{"name": "b", "quota": 1}, {"name": "a", "quota": 4}]}});
    assert_eq!(
        messages(&schema, &shrunk, Some(&old)),
        ["spec.users[1].quota: Invalid value: 4: quota cannot shrink"]
    );
    let added = json!({"spec": {"users": [{"name": "c", "quota": 0}]}});
    assert_eq!(messages(&schema, &added, Some(&old)), Vec::<String>::new());
}

#[test]
fn what_did_not_change_is_let_pass() {
    let schema = rules(json!([{"rule": "self.size > 5", "message": "too small"}]));
    let old = json!({"metadata": {}, "spec": {"size": 1}});
    let labelled = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"size": 1}});
    assert_eq!(messages(&schema, &labelled, Some(&old)), Vec::<String>::new());
    let changed = json!({"metadata": {}, "spec": {"size": 2}});
    assert_eq!(messages(&schema, &changed, Some(&old)), ["spec: Invalid value: too small"]);
}

#[test]
fn optional_old_self_runs_at_creation() {
    let rule = json!([{"rule": "oldSelf.hasValue() ? self.size >= oldSelf.value().size : self.size > 0", "optionalOldSelf": true}]);
    let (one, two) = (json!({"spec": {"size": 1}}), json!({"spec": {"size": 2}}));
    let zero = json!({"spec": {"size": 0}});
    let schema = rules(rule);
    assert!(messages(&schema, &one, None).is_empty());
    assert!(messages(&schema, &two, Some(&one)).is_empty());
    assert_eq!(messages(&schema, &zero, None).len(), 1);
    assert!(messages(&schema, &one, Some(&two))[0].contains("failed rule: oldSelf.hasValue() ?"));
}

#[test]
fn rules_that_do_not_compile_are_refused() {
    let schema = json!({"type": "object", "properties": {"a": {
        "type": "integer", "x-kubernetes-validations": [{"rule": "self >"}],
    }}});
    let SchemaError::Compile { path, .. } = Schema::from_crd(&schema).unwrap_err();
    assert_eq!(path, ".properties[a].x-kubernetes-validations[0].rule");
}

#[test]
fn defaults_fill_only_what_is_there() {
    let schema = custom(json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 1},
        "deep": {"type": "object", "default": {}, "properties": {"b": {"type": "boolean", "default": false}}},
        "absent": {"type": "object", "properties": {"c": {"type": "string", "default": "x"}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "integer", "default": 2}}}},
        "maybe": {"type": "string", "nullable": true, "default": "y"},
        "plain": {"type": "string"},
    }}));
    let mut object = json!({"spec": {"a": null, "list": [{}], "maybe": null, "plain": null}});
    schema.default(&mut object);
    assert_eq!(object, json!({"spec": {"a": 1, "deep": {"b": false}, "list": [{"d": 2}], "maybe": null}}));
}

#[test]
fn unknown_fields_go_and_are_named() {
    let schema = custom(json!({"type": "object", "properties": {
        "known": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "integer"}}}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "closed": {"type": "object", "properties": {"z": {"type": "integer"}}},
        }},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}},
    }}));
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "extra": 1,
        "metadata": {"name": "n", "nope": 1, "labels": {"any": "thing"}},
        "spec": {
            "known": [{"x": 1}, {"x": 2, "no": 3}], "map": {"k": {"y": 1, "no": 2}},
            "open": {"kept": 1, "closed": {"z": 1, "no": 2}},
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        },
    });
    let unknown = schema.prune(&mut object);
    let expected = [
        "extra",
        "metadata.nope",
        "spec.embedded.spec",
        "spec.known[1].no",
        "spec.map.k.no",
        "spec.open.closed.no",
    ];
    assert_eq!(unknown, expected);
    assert_eq!(object["spec"]["open"], json!({"kept": 1, "closed": {"z": 1}}));
    assert_eq!(object["metadata"], json!({"name": "n", "labels": {"any": "thing"}}));
    assert!(schema.prune(&mut object).is_empty());
}

#[test]
fn every_built_in_kind_has_a_schema() {
    for gvk in kinds::all() {
        let schema = Schema::builtin(&gvk).unwrap();
        assert!(schema.node().properties.contains_key("metadata") || gvk.kind == "Status", "{gvk:?}");
        assert!(crate::sandbox::object::builtin::known(&gvk), "{gvk:?}");
    }
    assert!(Schema::builtin(&Gvk::gvk("", "v1", "Nonsense")).is_none());
}

#[test]
fn built_in_kinds_lose_what_their_typed_form_would_not_write() {
    let schema = Schema::builtin(&Gvk::gvk("", "v1", "Pod")).unwrap();
    let mut pod = json!({
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {}},
        "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": []},
    });
    assert_eq!(schema.prune(&mut pod), Vec::<String>::new());
    let expected = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]},
    });
    assert_eq!(pod, expected);
}

#[test]
fn quantities_get_their_canonical_form() {
    let schema = Schema::builtin(&Gvk::gvk("", "v1", "Pod")).unwrap();
    let cases = [
        (json!(1), "1"),
        (json!("0.5"), "500m"),
        (json!("1024Mi"), "1Gi"),
        (json!("1.5Gi"), "1536Mi"),
        (json!("1000m"), "1"),
        (json!("5000"), "5k"),
        (json!("512Ki"), "512Ki"),
        (json!("0.5Ki"), "512"),
        (json!("0"), "0"),
        (json!("1e3"), "1e3"),
        (json!("many"), "many"),
    ];
    for (written, expected) in cases {
        let mut pod =
            json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": written}}}]}});
        schema.prune(&mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], expected, "{written}");
    }
}

#[test]
fn built_in_kinds_refuse_wrong_types() {
    let decode = |kind: &str, object: Value| {
        let gvk = Gvk::gvk("", "v1", kind);
        Schema::builtin(&gvk).unwrap().decode(&gvk, &object).unwrap_err()
    };
    assert_eq!(
        decode("Pod", json!({"spec": {"containers": "none"}})),
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field \
         Pod.spec.containers of type []interface {}"
    );
    assert_eq!(
        decode("Secret", json!({"data": {"k": "a!b="}})),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 1"
    );
    let gvk = Gvk::gvk("", "v1", "Service");
    let service =
        json!({"spec": {"ports": [{"port": 1, "targetPort": "http"}, {"port": 2, "targetPort": 2}]}});
    assert_eq!(Schema::builtin(&gvk).unwrap().decode(&gvk, &service), Ok(()));
}

/// Any JSON value, a few levels deep, with names that schemas below know and do not know.
pub(in crate::sandbox::object) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5i64..20).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e]|name|spec|containers|metadata", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn wide() -> Schema {
    Schema::from_crd(&json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 3, "minimum": 1},
        "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
        "c": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}},
        "d": {"type": "object", "additionalProperties": {"type": "object", "properties": {"e": {"type": "boolean", "default": true}}}},
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"b": {"type": "string", "nullable": true}}},
    }}))
    .unwrap()
}

proptest! {
    #[test]
    fn defaulting_twice_is_defaulting_once(mut object in any_json()) {
        let schema = wide();
        schema.default(&mut object);
        let once = object.clone();
        schema.default(&mut object);
        prop_assert_eq!(object, once);
    }

    #[test]
    fn pruning_twice_is_pruning_once(object in any_json(), kind in prop_oneof![Just(None), Just(Some("Pod")), Just(Some("ConfigMap"))]) {
        let schema = kind.map_or_else(wide, |kind| Schema::builtin(&Gvk::gvk("", "v1", kind)).unwrap());
        let mut pruned = object;
        schema.prune(&mut pruned);
        let once = pruned.clone();
        prop_assert_eq!(schema.prune(&mut pruned), Vec::<String>::new());
        prop_assert_eq!(pruned, once);
    }

    #[test]
    fn validation_never_fails_on_odd_values(object in any_json(), old in any_json()) {
        let schema = wide();
        let errors = schema.validate(&object, Some(&old));
        prop_assert!(object != old || errors.is_empty());
    }
}
