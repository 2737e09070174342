//! Node ports of Services: each number and protocol is one Service's alone.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::body::meta;
use super::call::{App, Call};
use super::failure::Failure;
use crate::sandbox::object::FieldError;

const FIRST: u16 = 30_000;
const LAST: u16 = 32_767;

/// The ports in use, with their protocols.
pub type Used = BTreeSet<(u16, String)>;

/// Ports taken for a write that is not done yet; given back unless it is.
#[derive(Debug)]
pub struct Reservation {
    app: Arc<App>,
    taken: Vec<(u16, String)>,
}

impl Reservation {
    /// The write was done.
    pub fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = used(&self.app);
        for port in &self.taken {
            used.remove(port);
        }
    }
}

fn used(app: &App) -> MutexGuard<'_, Used> {
    app.node_ports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a Service is reached at ports of the nodes.
fn needs_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten()
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().filter(|number| *number > 0).and_then(|number| u16::try_from(number).ok())
}

fn held(service: &Value) -> impl Iterator<Item = (u16, String)> {
    ports(service).filter_map(|port| Some((node_port(port)?, protocol(port))))
}

/// Gives each port of a new or changed Service its number: the one it names, the one that the port of that name had,
/// or any. Other kinds pass.
///
/// # Errors
/// 422 where a number is taken or out of range, 500 where all are taken.
pub fn reserve(call: &Call, service: &mut Value, live: Option<&Value>) -> Result<Reservation, Failure> {
    let mut reservation = Reservation { app: Arc::clone(&call.app), taken: Vec::new() };
    if &*call.resource.storage != "/services" || call.subresource.is_some() || !needs_ports(service) {
        return Ok(reservation);
    }
    let before: Vec<(u16, String)> = live.into_iter().flat_map(held).collect();
    if let Some(live) = live {
        inherit(service, live);
    }
    let name = meta(service, "name").to_owned();
    let count = ports(service).count();
    for index in 0..count {
        let port = service["spec"]["ports"][index].clone();
        let protocol = protocol(&port);
        let refuse = |why: &str| {
            let field = format!("spec.ports[{index}].nodePort");
            Failure::invalid(&call.resource, &name, &[FieldError::invalid(field, &port["nodePort"], why)])
        };
        let taken = match node_port(&port) {
            Some(number) if before.contains(&(number, protocol.clone())) => continue,
            Some(number) if !(FIRST..=LAST).contains(&number) => {
                return Err(refuse(&format!(
                    "provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}"
                )));
            }
            Some(number) if !used(&call.app).insert((number, protocol.clone())) => {
                return Err(refuse("provided port is already allocated"));
            }
            Some(number) => number,
            None => take_any(&call.app, &protocol)?,
        };
        reservation.taken.push((taken, protocol));
        service["spec"]["ports"][index]["nodePort"] = json!(taken);
    }
    Ok(reservation)
}

/// Ports that keep their name keep their number.
fn inherit(service: &mut Value, live: &Value) {
    let mut named: BTreeSet<u16> = ports(service).filter_map(node_port).collect();
    let Some(list) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
    for port in list.iter_mut().filter(|port| node_port(port).is_none()) {
        let old = ports(live).find(|old| old["name"] == port["name"]).and_then(node_port);
        if let Some(number) = old.filter(|number| named.insert(*number)) {
            port["nodePort"] = json!(number);
        }
    }
}

/// Any free number: one of chance, so that a number comes back as late as possible.
fn take_any(app: &App, protocol: &str) -> Result<u16, Failure> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 2];
    let random = ring::rand::SystemRandom::new().fill(&mut bytes);
    random.map_err(|_| Failure::internal("no random numbers"))?;
    let size = LAST - FIRST + 1;
    let start = u16::from_ne_bytes(bytes) % size;
    let mut used = used(app);
    let free = (0..size)
        .map(|step| FIRST + (start + step) % size)
        .find(|number| !used.iter().any(|(taken, _)| taken == number));
    let number = free.ok_or_else(|| Failure::internal("failed to allocate a nodePort: range is full"))?;
    used.insert((number, protocol.to_owned()));
    Ok(number)
}

/// Gives back the ports that a changed Service no longer has.
pub fn release_dropped(call: &Call, new: &Value, live: &Value) {
    if &*call.resource.storage == "/services" {
        let kept: Vec<_> = held(new).collect();
        let mut used = used(&call.app);
        for port in held(live).filter(|port| !kept.contains(port)) {
            used.remove(&port);
        }
    }
}

/// Gives back the ports of a Service that is gone.
pub fn release(app: &App, service: &Value) {
    let mut used = used(app);
    for port in held(service) {
        used.remove(&port);
    }
}

/// Takes the ports of the Services that are there.
///
/// # Errors
/// Where they cannot be read.
pub fn load(app: &App) -> Result<(), Failure> {
    let services = app.builtin("", "services")?;
    for (_, record) in app.store.list(&services.storage, "", None).items {
        let service = services.load(&record)?;
        used(app).extend(held(&service));
    }
    Ok(())
}
