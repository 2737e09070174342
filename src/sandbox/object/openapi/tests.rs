use super::*;

fn resource(group: &str, kind: &str, plural: &str, schema: Option<Value>) -> Resource {
    Resource {
        gvk: Gvk::gvk(group, "v1", kind),
        plural: plural.to_owned(),
        namespaced: true,
        subresources: vec!["status".to_owned()],
        schema,
    }
}

fn widgets() -> Resource {
    let schema = json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "nullable": true}}}},
    });
    resource("demo.example.com", "Widget", "widgets", Some(schema))
}

/// Every reference in a document leads somewhere.
fn dangling(document: &Value, value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, child)| match (name.as_str(), child) {
                ("$ref", Value::String(reference)) => {
                    let found = document.pointer(reference.trim_start_matches('#')).is_some();
                    if found { Vec::new() } else { vec![reference.clone()] }
                }
                _ => dangling(document, child),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| dangling(document, item)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn index_names_both_roots() {
    let index = v3_index(["v1", "apps/v1"]);
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1");
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1");
}

#[test]
fn references_lead_somewhere() {
    let resources = [
        resource("", "Pod", "pods", None),
        resource("", "ConfigMap", "configmaps", None),
        resource("apps", "StatefulSet", "statefulsets", None),
        widgets(),
    ];
    for document in [v3_document(&resources), v2_document(&resources)] {
        assert_eq!(dangling(&document, &document), Vec::<String>::new());
    }
}

#[test]
fn writes_take_field_validation() {
    let document = v3_document(&[resource("apps", "StatefulSet", "statefulsets", None), widgets()]);
    let named = |path: &str, verb: &str| {
        let parameters = &document["paths"][path][verb]["parameters"];
        parameters.as_array().unwrap().iter().any(|parameter| parameter["name"] == "fieldValidation")
    };
    for path in [
        "/apis/apps/v1/namespaces/{namespace}/statefulsets",
        "/apis/demo.example.com/v1/namespaces/{namespace}/widgets",
    ] {
        assert!(named(path, "post"));
        assert!(named(&format!("{path}/{{name}}"), "patch"));
    }
    let custom = "/apis/demo.example.com/v1/namespaces/{namespace}/widgets/{name}";
    let types = &document["paths"][custom]["patch"]["requestBody"]["content"];
    assert!(types.get("application/strategic-merge-patch+json").is_none(), "{types}");
}

#[test]
fn lists_say_how_they_merge() {
    let document = v3_document(&[resource("", "Pod", "pods", None)]);
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["containers"]["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert!(spec["tolerations"].get("x-kubernetes-patch-merge-key").is_none());
}

#[test]
fn custom_schemas_carry_kind_and_metadata() {
    let document = v3_document(&[widgets()]);
    let schema = &document["components"]["schemas"]["com.example.demo.v1.Widget"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert!(schema["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap().ends_with(".ObjectMeta"));
    let old = v2_document(&[widgets()]);
    let size =
        old["definitions"]["com.example.demo.v1.Widget"].pointer("/properties/spec/properties/size").unwrap();
    assert!(size.get("nullable").is_none());
}
