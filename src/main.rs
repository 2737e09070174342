//! The `dbctl` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).take(2).collect();
    if arguments == ["sandbox", "shim"] {
        return dbctl::sandbox::node::shim_main();
    }
    print!("{}", dbctl::api::crd_yaml().unwrap_or_default());
    ExitCode::SUCCESS
}
