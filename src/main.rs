//! The `dbctl` binary.

use std::process::ExitCode;

use clap_complete::CompleteEnv;

fn main() -> ExitCode {
    // The one provider of the whole program; where it is set already, it is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Answers the shell's completion requests, before anything is written or started.
    CompleteEnv::with_factory(dbctl::cli::command).bin("dbctl").complete();
    dbctl::cli::run(std::env::args_os())
}
