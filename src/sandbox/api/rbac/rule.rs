//! One rule of a role: what it allows, and whether it contains another.

use serde::{Deserialize, Deserializer, Serialize};

use super::Attributes;

/// `rbac.authorization.k8s.io/v1` `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// What may be done.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// In which API groups.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// To which resources.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// To which objects; none means all.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// At which paths.
    #[serde(
        rename = "nonResourceURLs",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
}

/// A list that may be null.
fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_all(list: &[String], wanted: &[String]) -> bool {
    has(list, "*") || wanted.iter().all(|each| has(list, each))
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

impl Rule {
    /// Whether it allows that.
    pub fn allows(&self, asked: &Attributes) -> bool {
        if !has(&self.verbs, "*") && !has(&self.verbs, &asked.verb) {
            return false;
        }
        if !asked.path.is_empty() {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &asked.path));
        }
        (has(&self.api_groups, "*") || has(&self.api_groups, &asked.group))
            && (self.resource_names.is_empty() || has(&self.resource_names, &asked.name))
            && self.resources.iter().any(|resource| match resource.as_str() {
                "*" => true,
                // `*/scale`: that subresource of everything.
                other => match (other.split_once('/'), asked.subresource.as_str()) {
                    (None, "") => other == asked.resource,
                    (Some((first, subresource)), wanted) => {
                        subresource == wanted
                            && !wanted.is_empty()
                            && (first == "*" || first == asked.resource)
                    }
                    (None, _) => false,
                },
            })
    }

    /// The rule as many that each allow one thing.
    fn parts(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> = match self.resource_names.as_slice() {
            [] => vec![Vec::new()],
            names => names.iter().map(one).collect(),
        };
        let mut parts = Vec::new();
        for (group, resource) in
            self.api_groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
        {
            for verb in &self.verbs {
                parts.extend(names.iter().map(|name| Self {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names: name.clone(),
                    non_resource_urls: Vec::new(),
                }));
            }
        }
        for url in &self.non_resource_urls {
            let part = |verb| Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() };
            parts.extend(self.verbs.iter().map(part));
        }
        parts
    }

    /// Whether everything that `part` allows is allowed by this one.
    fn covers(&self, part: &Self) -> bool {
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|n| has(&self.resource_names, n)));
        has_all(&self.verbs, &part.verbs)
            && has_all(&self.api_groups, &part.api_groups)
            && names
            && part.resources.iter().all(|resource| {
                has(&self.resources, "*")
                    || has(&self.resources, resource)
                    || resource
                        .split_once('/')
                        .is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
            })
            && part
                .non_resource_urls
                .iter()
                .all(|path| self.non_resource_urls.iter().any(|pattern| path_matches(pattern, path)))
    }

    /// As Kubernetes prints it in messages.
    pub fn describe(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let told = fields.into_iter().filter(|(_, list)| !list.is_empty());
        let told: Vec<String> = told.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", told.join(", "))
    }
}

/// A list as Go's `%q` prints it.
pub fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// What of `wanted` is in none of `held`, in parts.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts.filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// Parts about the same objects as one rule each.
pub fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut Rule| {
            part.non_resource_urls.is_empty()
                && rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls.is_empty()
        };
        match compacted.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => compacted.push(part),
        }
    }
    compacted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(text: &str) -> Rule {
        // verbs groups resources names urls, lists by comma, `-` for none, `core` for the core group.
        let lists: Vec<Vec<&str>> = text
            .split_whitespace()
            .map(|list| {
                list.split(',')
                    .filter(|item| *item != "-")
                    .map(|i| if i == "core" { "" } else { i })
                    .collect()
            })
            .collect();
        let at = |index: usize| lists.get(index).cloned().unwrap_or_default();
        serde_json::from_value(json!({
            "verbs": at(0), "apiGroups": at(1), "resources": at(2), "resourceNames": at(3), "nonResourceURLs": at(4),
        }))
        .unwrap()
    }

    fn asked(text: &str) -> Attributes {
        let parts: Vec<&str> =
            text.split_whitespace().map(|part| if part == "-" { "" } else { part }).collect();
        if let Some(path) = parts[1].strip_prefix("path:") {
            return Attributes { verb: parts[0].into(), path: path.into(), ..Attributes::default() };
        }
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        let name = parts.get(3).copied().unwrap_or_default();
        let mut asked = Attributes::resource(parts[0], parts[1], resource, "ns", name);
        asked.subresource = subresource.to_owned();
        asked
    }

    #[test]
    fn rules_allow_what_they_say_and_nothing_else() {
        let cases = [
            ("get,list core pods", "get - pods", true),
            ("get,list core pods", "watch - pods", false),
            ("get core pods", "get apps pods", false),
            ("get core pods", "get - pods/log x", false),
            ("get core pods/log", "get - pods/log x", true),
            ("get core pods/log", "get - pods x", false),
            ("* * *", "deletecollection any thing/sub n", true),
            ("update * */scale", "update apps statefulsets/scale x", true),
            ("update * */scale", "update apps statefulsets/status x", false),
            ("update * */scale", "update apps scale x", false),
            ("get core configmaps a,b", "get - configmaps a", true),
            ("get core configmaps a,b", "get - configmaps c", false),
            ("list core configmaps a", "list - configmaps", false),
            ("list core configmaps a", "list - configmaps a", true),
            ("create core configmaps a", "create - configmaps", false),
            ("get - - - /healthz,/logs/*", "get path:/healthz", true),
            ("get - - - /healthz,/logs/*", "get path:/logs/a/b", true),
            ("get - - - /healthz,/logs/*", "get path:/logs", false),
            ("get - - - /healthz", "post path:/healthz", false),
            ("* - - - *", "put path:/debug/faults", true),
            ("* * *", "get path:/healthz", false),
            ("* - - - *", "get - pods", false),
        ];
        for (text, wanted, expected) in cases {
            assert_eq!(rule(text).allows(&asked(wanted)), expected, "{text}: {wanted}");
        }
    }

    #[test]
    fn what_is_not_held_is_told_in_parts() {
        let cases: [(&[&str], &str, &[&str]); 8] = [
            (&["get,list core pods"], "get core pods", &[]),
            (&["get core pods", "list core pods"], "get,list core pods", &[]),
            (
                &["get core pods"],
                "get,delete,list core pods",
                &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "list"]}"#],
            ),
            (
                &["get core pods a"],
                "get core pods",
                &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
            ),
            (&["get core pods"], "get core pods a,b", &[]),
            (&["* * */scale"], "update apps deployments/scale", &[]),
            (
                &["get * *"],
                "* apps deployments",
                &[r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["*"]}"#],
            ),
            (
                &["get - - - /logs/*"],
                "get - - - /logs/x,/metrics",
                &[r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
            ),
        ];
        for (held, wanted, expected) in cases {
            let held: Vec<Rule> = held.iter().map(|text| rule(text)).collect();
            let missing = compact(uncovered(&held, &[rule(wanted)]));
            let told: Vec<String> = missing.iter().map(Rule::describe).collect();
            assert_eq!(told, expected, "{wanted}");
        }
    }

    #[test]
    fn lists_may_be_null() {
        let rule: Rule = serde_json::from_value(json!({"verbs": ["get"], "resourceNames": null})).unwrap();
        assert!(rule.resource_names.is_empty());
    }
}
