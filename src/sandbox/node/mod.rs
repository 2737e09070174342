//! The node of a sandbox: pods as local processes (kubelet), and Services as TCP proxies (kube-proxy).

pub mod process;
pub mod shim;

pub use shim::shim_main;
