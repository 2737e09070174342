//! The `dbctl` binary.

use std::process::ExitCode;

use clap_complete::CompleteEnv;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The one provider of the whole program; where it is set already, it is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Answers the shell's completion requests, before anything is written or started.
    CompleteEnv::with_factory(dbctl::cli::command).bin("dbctl").complete();
    dbctl::cli::run(std::env::args_os())
}
