//! Addresses of Services: each is one Service's alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::body::meta;
use super::call::{App, Call};
use super::failure::Failure;
use crate::sandbox::object::FieldError;

/// Addresses taken for a Service that is about to be made; given back unless it is.
#[derive(Debug)]
pub struct Reservation {
    app: Arc<App>,
    taken: Option<u32>,
}

impl Reservation {
    /// The Service was made.
    pub fn keep(mut self) {
        self.taken = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(number) = self.taken {
            used(&self.app).remove(&number);
        }
    }
}

fn used(app: &App) -> MutexGuard<'_, BTreeSet<u32>> {
    app.service_ips.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The highest number in the range: the first and the last address are nobody's.
fn most(app: &App) -> u32 {
    (u32::MAX >> app.service_length.min(30)).saturating_sub(1)
}

/// Which address of the range it is.
fn number_of(app: &App, address: &str) -> Option<u32> {
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let number = address.checked_sub(u32::from(app.service_prefix))?;
    (1..=most(app)).contains(&number).then_some(number)
}

fn text<'a>(service: &'a Value, pointer: &str) -> &'a str {
    service.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Gives a new Service its address: the one it names, or any; none where it is headless. Other kinds pass.
///
/// # Errors
/// 422 where the address is taken or out of range, 500 where all are taken.
pub fn reserve(call: &Call, service: &mut Value) -> Result<Reservation, Failure> {
    let mut reservation = Reservation { app: Arc::clone(&call.app), taken: None };
    if &*call.resource.storage != "/services" || text(service, "/spec/type") == "ExternalName" {
        return Ok(reservation);
    }
    let wanted = text(service, "/spec/clusterIP").to_owned();
    let address = match wanted.as_str() {
        "None" => wanted,
        "" => {
            let number = take_any(&call.app)?;
            reservation.taken = Some(number);
            Ipv4Addr::from(u32::from(call.app.service_prefix).saturating_add(number)).to_string()
        }
        _ => {
            reservation.taken = Some(take(call, service, &wanted)?);
            wanted
        }
    };
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("clusterIP".into(), address.as_str().into());
        spec.insert("clusterIPs".into(), json!([address]));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    }
    Ok(reservation)
}

/// Any free address: the one after the highest, so that an address comes back as late as possible.
fn take_any(app: &App) -> Result<u32, Failure> {
    let mut used = used(app);
    let after = used.last().map_or(1, |last| last.saturating_add(1));
    let free = (after..=most(app)).chain(1..=most(app)).find(|number| !used.contains(number));
    let number = free.ok_or_else(|| Failure::internal("failed to allocate a serviceIP: range is full"))?;
    used.insert(number);
    Ok(number)
}

fn take(call: &Call, service: &Value, wanted: &str) -> Result<u32, Failure> {
    let refuse = |why: String| {
        let error = FieldError::invalid("spec.clusterIPs", &json!([wanted]), &why);
        Failure::invalid(&call.resource, meta(service, "name"), &[error])
    };
    let Some(number) = number_of(&call.app, wanted) else {
        return Err(refuse(format!(
            "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. The range of valid \
             IPs is {}/{}",
            call.app.service_prefix, call.app.service_length
        )));
    };
    if used(&call.app).insert(number) {
        Ok(number)
    } else {
        Err(refuse(format!("failed to allocate IP {wanted}: provided IP is already allocated")))
    }
}

const FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

/// Sees to the address of a Service that changes: one that is not named stays, one that had none may get one.
///
/// # Errors
/// As [`reserve`].
pub fn adjust(call: &Call, new: &mut Value, live: &Value) -> Result<Reservation, Failure> {
    let none = Reservation { app: Arc::clone(&call.app), taken: None };
    if &*call.resource.storage != "/services" || call.subresource.is_some() {
        return Ok(none);
    }
    let external = text(new, "/spec/type") == "ExternalName";
    if !external && text(live, "/spec/clusterIP").is_empty() {
        return reserve(call, new);
    }
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(none) };
    for field in FIELDS {
        if external {
            spec.remove(field);
            continue;
        }
        let missing = spec.get(field).is_none_or(|value| value.is_null() || value == "");
        if missing && let Some(value) = live.pointer(&format!("/spec/{field}")) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    Ok(none)
}

/// Gives back the address of a Service that changed into one without.
pub fn release_dropped(call: &Call, new: &Value, live: &Value) {
    if &*call.resource.storage == "/services" && text(new, "/spec/clusterIP").is_empty() {
        release(&call.app, live);
    }
}

/// Gives back the address of a Service that is gone.
pub fn release(app: &App, service: &Value) {
    if let Some(number) = number_of(app, text(service, "/spec/clusterIP")) {
        used(app).remove(&number);
    }
}

/// Takes the addresses of the Services that are there.
///
/// # Errors
/// Where they cannot be read.
pub fn load(app: &App) -> Result<(), Failure> {
    let services = app.builtin("", "services")?;
    for (_, record) in app.store.list(&services.storage, "", None).items {
        let service = services.load(&record)?;
        if let Some(number) = number_of(app, text(&service, "/spec/clusterIP")) {
            used(app).insert(number);
        }
    }
    Ok(())
}
