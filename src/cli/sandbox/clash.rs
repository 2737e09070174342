//! What already has an address, and who.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sandbox::node::Isolation;

/// Something that cannot be had since somebody else has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clash(String);

impl fmt::Display for Clash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Clash {
    /// An address that cannot be listened on.
    pub fn of(address: SocketAddr, protocol: &str, error: &io::Error) -> Self {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Self(format!("{address} cannot be used: {error}"));
        }
        let table = std::fs::read_to_string(format!("/proc/net/{protocol}")).unwrap_or_default();
        let holder = holders(&table, address).into_iter().find_map(process);
        Self(match holder {
            Some(process) => format!("{address} ({protocol}) is in use by {process}"),
            None => format!("{address} ({protocol}) is in use"),
        })
    }

    /// A route to somewhere else.
    pub fn route(route: &Route) -> Self {
        let Route { to, bits, link } = route;
        Self(format!("this machine has a route to {to}/{bits} by {link} already"))
    }
}

/// The sockets, by their inodes, that keep others from listening at an address.
fn holders(table: &str, address: SocketAddr) -> Vec<u64> {
    let SocketAddr::V4(address) = address else { return Vec::new() };
    let wanted = [*address.ip(), Ipv4Addr::UNSPECIFIED].map(|ip| {
        // The kernel writes the bytes of the address as one number of this machine's order.
        format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
    });
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let held = lines.filter(|fields| {
        let listens = fields.get(3).is_some_and(|state| matches!(*state, "0A" | "07"));
        listens && fields.get(1).is_some_and(|local| wanted.iter().any(|wanted| wanted == local))
    });
    held.filter_map(|fields| fields.get(9)?.parse().ok()).collect()
}

/// The process that has a socket, as far as this user may see it.
fn process(socket: u64) -> Option<String> {
    let target = format!("socket:[{socket}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbered = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    numbered.map(|entry| entry.path()).find(|process| has(process, &target)).map(|process| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let user =
            std::fs::metadata(&process).map(|meta| format!(", user {}", meta.uid())).unwrap_or_default();
        format!("process {pid} ({}{user})", name.trim())
    })
}

fn has(process: &Path, target: &str) -> bool {
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == target))
}

/// The machine's routes, where they matter.
pub fn routes(isolation: Isolation) -> String {
    match isolation {
        Isolation::Loopback => String::new(),
        Isolation::Namespaces => std::fs::read_to_string("/proc/net/route").unwrap_or_default(),
    }
}

/// A route of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    to: Ipv4Addr,
    bits: u32,
    link: String,
}

/// The route, if there is any but the default one, that leads to a part of a network of 256 addresses.
pub fn route(table: &str, block: Ipv4Addr) -> Option<Route> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (link, to, mask) = (fields.first()?, number(fields.get(1)?)?, number(fields.get(7)?)?);
        let common = mask & 0xffff_ff00;
        let overlaps = mask != 0 && u32::from(block) & common == to & common;
        overlaps.then(|| Route { to: to.into(), bits: mask.count_ones(), link: (*link).to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_found_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let text = Clash::of(address, "tcp", &error).to_string();
        assert!(
            text.starts_with(&format!("{address} (tcp) is in use by process {} (", std::process::id())),
            "{text}"
        );
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(
            Clash::of(address, "tcp", &refused).to_string().contains("cannot be used: permission denied")
        );
    }

    #[test]
    fn routes_that_overlap_are_found() {
        let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let route_to =
            |destination: &str, mask: &str| format!("{header}eth0 {destination} 0 1 0 0 0 {mask} 0 0 0\n");
        let block = Ipv4Addr::new(198, 18, 7, 0);
        let cases = [
            ("00000000", "00000000", false),
            ("000012C6", "0000FEFF", true),
            ("000712C6", "00FFFFFF", true),
            ("090712C6", "FFFFFFFF", true),
            ("000812C6", "00FFFFFF", false),
            ("000200C0", "00FFFFFF", false),
        ];
        for (destination, mask, expected) in cases {
            let table = route_to(destination, mask);
            assert_eq!(route(&table, block).is_some(), expected, "{destination} {mask}");
            if let Some(route) = route(&table, block) {
                assert!(Clash::route(&route).to_string().contains("by eth0"));
            }
        }
    }
}
