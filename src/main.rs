//! The `dbctl` binary.

fn main() {
    print!("{}", dbctl::api::crd_yaml().unwrap_or_default());
}
