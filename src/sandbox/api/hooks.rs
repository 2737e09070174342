//! What single built-in kinds need beside the common way of a write: Kubernetes' admission plugins, as far as the
//! sandbox has them.

use serde_json::{Value, json};

use super::body::{meta, metadata_mut};
use super::call::Call;
use super::failure::Failure;
use super::rbac::escalation;
use super::{cluster_ip, crd, node_port};

/// Fills in what depends on other objects, before defaults.
///
/// # Errors
/// 403 where an object that is named is not there.
pub fn admit(call: &Call, object: &mut Value) -> Result<(), Failure> {
    if let Some(custom) = &call.resource.custom {
        return crd::admit_instance(call, custom);
    }
    match &*call.resource.storage {
        "/namespaces" => name_namespace(object),
        "/pods" => {
            default_account(object);
            priority(call, object)?;
        }
        "/persistentvolumeclaims" => {
            default_class(call, object)?;
            protect(object, "kubernetes.io/pvc-protection");
        }
        "/persistentvolumes" => protect(object, "kubernetes.io/pv-protection"),
        _ => {}
    }
    Ok(())
}

/// Checks that need more than the object.
///
/// # Errors
/// 422 where a definition cannot be served, 403 where somebody grants what they do not hold.
pub fn check(call: &Call, old: Option<&Value>, object: &Value) -> Result<(), Failure> {
    escalation::check(call, old, object)?;
    if let Some(old) = old.filter(|_| &*call.resource.storage == "/persistentvolumeclaims") {
        check_growth(call, old, object)?;
    }
    if &*call.resource.storage == crd::STORAGE { crd::check(call, object) } else { Ok(()) }
}

/// A claim grows only where its class allows it (the admission plugin `PersistentVolumeClaimResize`).
fn check_growth(call: &Call, old: &Value, new: &Value) -> Result<(), Failure> {
    let size = |claim: &Value| {
        let text = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str)?;
        text.parse::<crate::api::Quantity>().ok()
    };
    let name = new.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
    if size(new) <= size(old) {
        return Ok(());
    }
    let classes = call.app.builtin("storage.k8s.io", "storageclasses")?;
    let class =
        call.app.store.latest(&classes.storage, name).map(|record| classes.load(&record)).transpose()?;
    // The sandbox has volumes of classes that do not exist, too.
    let allowed = match &class {
        Some(class) => class["allowVolumeExpansion"] == json!(true),
        None => !name.is_empty(),
    };
    if allowed {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(Failure::forbidden(&call.resource, meta(new, "name"), why, None))
}

/// Namespaces that every cluster needs.
const KEPT_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether an object may be deleted.
///
/// # Errors
/// 403 for a namespace that must stay, 409 for one that is being emptied.
pub fn check_delete(call: &Call, live: &Value) -> Result<(), Failure> {
    if &*call.resource.storage != "/namespaces" {
        return Ok(());
    }
    let name = call.name()?;
    if KEPT_NAMESPACES.contains(&name) {
        return Err(Failure::forbidden(&call.resource, name, "this namespace may not be deleted", None));
    }
    let held =
        live.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if held && !meta(live, "deletionTimestamp").is_empty() {
        let why = "The system is ensuring all content is removed from this namespace.  Upon completion, this \
                   namespace will automatically be purged by the system.";
        return Err(Failure::conflict(&call.resource, name, why));
    }
    Ok(())
}

/// Follows up on an object that was written.
///
/// # Errors
/// Where a further write fails.
pub async fn after_write(call: &Call, name: &str) -> Result<(), Failure> {
    // The follow-up of a definition is itself a write of definitions.
    if &*call.resource.storage == crd::STORAGE {
        Box::pin(crd::after_write(&call.app, name)).await
    } else {
        Ok(())
    }
}

/// Follows up on an object that is gone.
///
/// # Errors
/// Where what is served cannot be worked out.
pub async fn after_delete(call: &Call, object: &Value) -> Result<(), Failure> {
    match &*call.resource.storage {
        "/services" => {
            cluster_ip::release(&call.app, object);
            node_port::release(&call.app, object);
        }
        crd::STORAGE => Box::pin(crd::after_write(&call.app, meta(object, "name"))).await?,
        _ => {}
    }
    Ok(())
}

/// Every namespace can be selected by its name.
fn name_namespace(object: &mut Value) {
    let name = meta(object, "name").to_owned();
    if let Some(metadata) = metadata_mut(object) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
}

/// What is in use must not go.
fn protect(object: &mut Value, finalizer: &str) {
    let Some(metadata) = metadata_mut(object) else { return };
    let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|name| name == finalizer)) {
        list.push(finalizer.into());
    }
}

fn default_account(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let named = |name: &str| spec.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let account = named("serviceAccountName").or(named("serviceAccount")).unwrap_or("default").to_owned();
    spec.insert("serviceAccount".into(), account.as_str().into());
    spec.insert("serviceAccountName".into(), account.into());
}

/// The number that a priority class stands for.
fn priority(call: &Call, pod: &mut Value) -> Result<(), Failure> {
    let name = meta(pod, "name").to_owned();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (value, policy) = match class.as_str() {
        "" => (json!(0), json!("PreemptLowerPriority")),
        "system-cluster-critical" => (json!(2_000_000_000), json!("PreemptLowerPriority")),
        "system-node-critical" => (json!(2_000_001_000), json!("PreemptLowerPriority")),
        _ => {
            let classes = call.app.builtin("scheduling.k8s.io", "priorityclasses")?;
            let Some(record) = call.app.store.latest(&classes.storage, &class) else {
                let why = format!("no PriorityClass with name {class} was found");
                return Err(Failure::forbidden(&call.resource, &name, &why, None));
            };
            let found = classes.load(&record)?;
            (found["value"].clone(), found["preemptionPolicy"].clone())
        }
    };
    if let Some(asked) = spec.get("priority").filter(|asked| !asked.is_null() && **asked != value) {
        let why = format!(
            "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(Failure::forbidden(&call.resource, &name, &why, None));
    }
    spec.insert("priority".into(), value);
    if !policy.is_null() {
        spec.insert("preemptionPolicy".into(), policy);
    }
    Ok(())
}

/// The storage class marked as default, for a claim that names none.
fn default_class(call: &Call, claim: &mut Value) -> Result<(), Failure> {
    const MARK: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
    let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    if spec.contains_key("storageClassName") {
        return Ok(());
    }
    let classes = call.app.builtin("storage.k8s.io", "storageclasses")?;
    for (_, record) in call.app.store.list(&classes.storage, "", None).items {
        let class = classes.load(&record)?;
        if class.pointer(MARK).and_then(Value::as_str) == Some("true") {
            spec.insert("storageClassName".into(), meta(&class, "name").into());
            break;
        }
    }
    Ok(())
}
