//! The addresses and names of a sandbox whose pods have networks of their own, and what `ip` is told; pure.
//!
//! All pods are connected to one router, a namespace with nothing but routes in it. The machine itself has one link to
//! it and forwards nothing. What passes between two pods, or between a pod and the API server, passes the router, where
//! it can be dropped without a word, which is what a broken network does.

use std::net::Ipv4Addr;

/// The last byte of the router's address, which is at every pod's other end.
const ROUTER: u8 = 255;
/// Where rules of cuts begin; three for each address that is cut off from a pod, and none is near those that exist.
const FIRST_RULE: u32 = 1000;
const RULES_PER_POD: u32 = 64;

/// One sandbox's names and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox::node) struct Plan {
    /// Eight hexadecimal digits that stand for the home.
    home: String,
    /// The X of 198.18.X.0/24 and 198.19.X.0/24.
    network: u8,
}

/// Where pods of that network reach the API server.
pub(in crate::sandbox::node) fn api(network: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, network)
}

/// What a pod is cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox::node) enum Cut<'a> {
    /// These addresses of the API server.
    Api(&'a [Ipv4Addr]),
    /// All other pods.
    Peers,
}

/// What all names of a home's namespaces begin with.
pub(super) fn prefix(home: &str) -> String {
    format!("dbctl-{home}-")
}

/// The machine's link to a home's router.
pub(super) fn link(home: &str) -> String {
    format!("dbctl{home}")
}

impl Plan {
    pub fn new(home: String, network: u8) -> Self {
        Self { home, network }
    }

    fn pods(&self) -> String {
        format!("198.18.{}.0/24", self.network)
    }

    fn services(&self) -> String {
        format!("198.19.{}.0/24", self.network)
    }

    /// The machine's own address: probes and Services' connections come from it.
    fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, 0, self.network)
    }

    /// Where pods reach the API server.
    pub fn api(&self) -> Ipv4Addr {
        api(self.network)
    }

    pub(super) fn router_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.network, ROUTER)
    }

    /// Whether an address is a pod's.
    pub fn is_pod(&self, address: Ipv4Addr) -> bool {
        let [a, b, c, _] = address.octets();
        (a, b, c) == (198, 18, self.network)
    }

    pub fn link(&self) -> String {
        link(&self.home)
    }

    pub fn router(&self) -> String {
        format!("{}router", prefix(&self.home))
    }

    /// The namespace of a pod.
    pub fn namespace(&self, uid: &str) -> String {
        format!("{}{uid}", prefix(&self.home))
    }

    /// A pod's link, in the router.
    fn port(address: Ipv4Addr) -> String {
        format!("p{}", address.octets()[3])
    }

    /// The machine's side of the link to the router. Everything it makes goes with the link.
    pub(super) fn host_commands(&self) -> Vec<String> {
        let (link, router, via) = (self.link(), self.router(), self.router_address());
        let own = self.host();
        vec![
            format!("link add {link} type veth peer name host netns {router}"),
            format!("address add {own}/32 dev {link}"),
            format!("address add {}/32 dev {link}", self.api()),
            format!("link set {link} up"),
            // Services' addresses are this machine's: the same for its users and for its pods.
            format!("route add local {} dev {link}", self.services()),
            format!("route add {} via {via} dev {link} onlink src {own}", self.pods()),
        ]
    }

    /// The router's side of that link.
    pub(super) fn router_commands(&self) -> Vec<String> {
        let (services, host, api) = (self.services(), self.host(), self.api());
        vec![
            "link set lo up".to_owned(),
            format!("address add {}/32 dev host", self.router_address()),
            "link set host up".to_owned(),
            format!("route add {host}/32 dev host"),
            format!("route add {api}/32 via {host} dev host onlink"),
            format!("route add {services} via {host} dev host onlink"),
        ]
    }

    /// In the router, for a new pod.
    pub(super) fn port_commands(&self, uid: &str, address: Ipv4Addr) -> Vec<String> {
        let (port, namespace) = (Self::port(address), self.namespace(uid));
        vec![
            format!("link add {port} type veth peer name eth0 netns {namespace}"),
            format!("address add {}/32 dev {port}", self.router_address()),
            format!("link set {port} up"),
            format!("route add {address}/32 dev {port}"),
        ]
    }

    /// In the namespace of a new pod.
    pub(super) fn pod_commands(&self, address: Ipv4Addr) -> Vec<String> {
        vec![
            "link set lo up".to_owned(),
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {} dev eth0 onlink", self.router_address()),
        ]
    }

    /// The rules of a cut, for the router: their places and what they say. Both directions, new connections and old ones.
    fn rules(&self, address: Ipv4Addr, cut: Cut<'_>) -> Vec<(u32, String)> {
        let first = FIRST_RULE + u32::from(address.octets()[3]) * RULES_PER_POD;
        let port = Self::port(address);
        let (first, ranges) = match cut {
            Cut::Peers => (first, vec![self.pods()]),
            Cut::Api(addresses) => (first + 2, addresses.iter().map(|other| format!("{other}/32")).collect()),
        };
        let both = ranges
            .into_iter()
            .flat_map(|range| [format!("iif {port} to {range}"), format!("from {range} to {address}/32")]);
        (first..first + RULES_PER_POD - 2).zip(both).collect()
    }

    pub(super) fn cut_commands(&self, address: Ipv4Addr, cut: Cut<'_>) -> Vec<String> {
        let rules = self.rules(address, cut).into_iter();
        rules.map(|(place, what)| format!("rule add pref {place} {what} blackhole")).collect()
    }

    pub(super) fn heal_commands(&self, address: Ipv4Addr, cut: Cut<'_>) -> Vec<String> {
        self.rules(address, cut).into_iter().map(|(place, _)| format!("rule del pref {place}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_homes_apart() {
        let plan = Plan::new("0123abcd".to_owned(), 7);
        assert!(plan.link().len() <= 15, "longer names of links are refused");
        assert!(Plan::port(Ipv4Addr::new(198, 18, 7, 250)).len() <= 15);
        assert!(plan.namespace("u-1").starts_with(&prefix("0123abcd")));
        assert!(plan.router().starts_with(&prefix("0123abcd")));
        assert!(plan.is_pod("198.18.7.9".parse().unwrap()));
        assert!(!plan.is_pod("198.19.7.9".parse().unwrap()) && !plan.is_pod("198.18.8.9".parse().unwrap()));
    }

    #[test]
    fn cuts_have_rules_of_their_own_and_heal_what_they_cut() {
        let plan = Plan::new("0123abcd".to_owned(), 7);
        let pods =
            [Ipv4Addr::new(198, 18, 7, 1), Ipv4Addr::new(198, 18, 7, 2), Ipv4Addr::new(198, 18, 7, 250)];
        let api = [plan.api(), Ipv4Addr::new(198, 19, 7, 1)];
        let cuts = [Cut::Peers, Cut::Api(&api)];
        let rules: Vec<(u32, String)> =
            pods.iter().flat_map(|pod| cuts.iter().flat_map(|cut| plan.rules(*pod, *cut))).collect();
        let places: std::collections::BTreeSet<u32> = rules.iter().map(|(place, _)| *place).collect();
        assert_eq!(places.len(), rules.len(), "no two rules share a place");
        assert!(places.iter().all(|place| *place < 32766), "before the main table");
        assert_eq!(
            plan.cut_commands(pods[0], Cut::Peers),
            [
                "rule add pref 1064 iif p1 to 198.18.7.0/24 blackhole",
                "rule add pref 1065 from 198.18.7.0/24 to 198.18.7.1/32 blackhole"
            ]
        );
        assert_eq!(plan.heal_commands(pods[0], Cut::Peers), ["rule del pref 1064", "rule del pref 1065"]);
        assert_eq!(plan.heal_commands(pods[1], cuts[1]).len(), 4);
    }
}
