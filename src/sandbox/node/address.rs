//! Pods' addresses; pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Third octets of pods on the loopback: below lies the node's own, above the Services'.
const FIRST: u8 = 1;
const LAST: u8 = 199;
const PER_OCTET: u32 = 254;
/// How many pods a network of 256 addresses has room for, beside the router and what else may be wanted.
const IN_24: u32 = 250;

/// Addresses such as 127.X.1.1 to 127.X.199.254, each held by at most one pod.
#[derive(Debug)]
pub(super) struct Pool {
    /// The first two octets, and the first of the third ones.
    start: (u8, u8, u8),
    /// How many third octets there are, and how many addresses with each.
    octets: u32,
    per_octet: u32,
    held: BTreeMap<Ipv4Addr, String>,
}

impl Pool {
    /// The addresses of pods in 127.X.0.0/16.
    pub fn new(network: u8) -> Self {
        let octets = u32::from(LAST - FIRST + 1);
        Self { start: (127, network, FIRST), octets, per_octet: PER_OCTET, held: BTreeMap::new() }
    }

    /// The addresses of pods in the network of 256 that an address is of.
    pub fn of_24(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        Self { start: (a, b, c), octets: 1, per_octet: IN_24, held: BTreeMap::new() }
    }

    /// The pod's address: the one it has, the one it had (`former`) if that is free, else one that its uid leads to.
    pub fn hold(&mut self, uid: &str, former: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some((address, _)) = self.held.iter().find(|(_, holder)| *holder == uid) {
            return Some(*address);
        }
        let former = former.filter(|address| self.contains(*address) && !self.held.contains_key(address));
        let address = former.or_else(|| self.free(uid))?;
        self.held.insert(address, uid.to_owned());
        Some(address)
    }

    /// Gives up a pod's address.
    pub fn release(&mut self, uid: &str) {
        self.held.retain(|_, holder| holder != uid);
    }

    fn free(&self, uid: &str) -> Option<Ipv4Addr> {
        let size = self.octets * self.per_octet;
        let start = hash(uid) % size;
        (0..size).map(|step| self.nth((start + step) % size)).find(|address| !self.held.contains_key(address))
    }

    fn nth(&self, index: u32) -> Ipv4Addr {
        let (a, b, c) = self.start;
        let third = c.saturating_add(u8::try_from(index / self.per_octet).unwrap_or(0));
        let fourth = 1 + u8::try_from(index % self.per_octet).unwrap_or(0);
        Ipv4Addr::new(a, b, third, fourth)
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let [a, b, c, fourth] = address.octets();
        let (first, second, start) = self.start;
        (a, b) == (first, second)
            && c.checked_sub(start).is_some_and(|octet| u32::from(octet) < self.octets)
            && (1..=self.per_octet).contains(&u32::from(fourth))
    }
}

/// FNV-1a: the same in every build, so that a pod keeps its address over restarts.
pub(super) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_and_never_shared() {
        let mut pool = Pool::new(77);
        let first = pool.hold("a", None).unwrap();
        assert_eq!(pool.hold("a", None), Some(first));
        assert_eq!(Pool::new(77).hold("a", None), Some(first), "the uid alone decides");
        assert_ne!(pool.hold("b", Some(first)), Some(first), "held by another");
        let former = Ipv4Addr::new(127, 77, 9, 9);
        assert_eq!(pool.hold("c", Some(former)), Some(former));
        pool.release("c");
        assert_eq!(pool.hold("d", Some(former)), Some(former));
        for foreign in
            [[127, 78, 9, 9], [127, 77, 0, 2], [127, 77, 200, 1], [127, 77, 1, 0], [127, 77, 1, 255]]
        {
            let mut pool = Pool::new(77);
            assert_ne!(pool.hold("e", Some(foreign.into())), Some(foreign.into()));
        }
    }

    #[test]
    fn a_small_network_has_room_for_all_pods_of_a_node() {
        let mut pool = Pool::of_24(Ipv4Addr::new(198, 18, 7, 255));
        for pod in 0..IN_24 {
            let address = pool.hold(&pod.to_string(), None).unwrap();
            assert!(matches!(address.octets(), [198, 18, 7, 1..=250]), "{address}");
        }
        assert_eq!(pool.hold("late", None), None);
    }

    #[test]
    fn all_addresses_can_be_had_and_then_none() {
        let mut pool = Pool::new(1);
        for pod in 0..199 * 254 {
            pool.held.insert(pool.nth(pod), pod.to_string());
        }
        assert_eq!(pool.held.len(), 199 * 254);
        assert_eq!(pool.hold("late", None), None);
        pool.release("7");
        assert_eq!(pool.hold("late", None), Some(pool.nth(7)));
    }
}
