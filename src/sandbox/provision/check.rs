//! Whether what was installed works on this machine.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Identity, Release};

/// What the rest of dbctl runs from a build.
const PROGRAMS: [&str; 11] = [
    "postgres",
    "initdb",
    "pg_ctl",
    "pg_basebackup",
    "pg_rewind",
    "psql",
    "pg_isready",
    "pg_controldata",
    "pg_dump",
    "pg_verifybackup",
    "pg_waldump",
];

/// Modules without which no cluster runs.
const MODULES: [&str; 3] = ["libpqwalreceiver.so", "plpgsql.so", "pgoutput.so"];

/// Checks a build's directory; `Err` says what is wrong and how to mend it.
pub(super) fn build(directory: &Path, release: Release, identity: &Identity) -> Result<(), String> {
    for program in PROGRAMS {
        let metadata = std::fs::metadata(directory.join("bin").join(program));
        if !metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0) {
            return Err(format!("the build has no executable {program}"));
        }
    }
    let lib = directory.join("lib");
    let programs = PROGRAMS.iter().map(|program| directory.join("bin").join(program));
    let modules = MODULES.iter().map(|module| lib.join(module));
    let output = Command::new("ldd").args(programs.chain(modules)).env("LD_LIBRARY_PATH", &lib).output();
    // Without ldd the run below still tells whether the server itself is complete.
    let missing = output.map(|output| missing(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default();
    if !missing.is_empty() {
        return Err(missing_message(&missing));
    }
    let said = run(
        Command::new(directory.join("bin/postgres")).arg("--version").env("LD_LIBRARY_PATH", &lib),
        identity,
    )?;
    if said.split_whitespace().last() == Some(release.to_string().as_str()) {
        Ok(())
    } else {
        Err(format!("the build says it is {said:?}"))
    }
}

/// Checks Patroni's directory.
pub(super) fn patroni(
    directory: &Path,
    version: &str,
    python: &Path,
    identity: &Identity,
) -> Result<(), String> {
    let said = run(Command::new(directory.join("bin/patroni")).arg("--version"), identity)?;
    if said.split_whitespace().last() != Some(version) {
        return Err(format!("Patroni says it is {said:?}"));
    }
    // Its driver and its Kubernetes client are loaded at start only, when nobody looks.
    let script = "import sys; sys.path.insert(0, sys.argv[1])\nimport psycopg, patroni.dcs.kubernetes\nprint(psycopg.pq.version())";
    run(Command::new(python).args(["-I", "-c", script]).arg(directory.join("site")), identity).map(drop)
}

fn run(command: &mut Command, identity: &Identity) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.current_dir("/").stdin(Stdio::null());
    let output = identity.apply(command).output();
    let output = output.map_err(|error| format!("user {} cannot run {program}: {error}", identity.name))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let words = super::python::last_words(&output.stderr);
        Err(format!("{program} ended with {}: {words}", output.status))
    }
}

/// The libraries that `ldd` did not find.
fn missing(output: &str) -> BTreeSet<String> {
    let lines = output.lines().filter_map(|line| line.split_once("=>"));
    lines.filter(|(_, found)| found.trim() == "not found").map(|(name, _)| name.trim().to_owned()).collect()
}

fn missing_message(missing: &BTreeSet<String>) -> String {
    let packages: BTreeSet<String> = missing.iter().map(|library| package(library)).collect();
    let list = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    format!("this machine lacks {}: install the Debian packages {}", list(missing), list(&packages))
}

/// The Debian package of a shared library: its name and version, joined as Debian joins them, with the exceptions.
fn package(library: &str) -> String {
    let (name, version) = library.split_once(".so.").unwrap_or((library, ""));
    match name {
        "libxml2" => "libxml2".to_owned(),
        "libxslt" | "libexslt" => "libxslt1.1".to_owned(),
        "libssl" | "libcrypto" => format!("libssl{version}"),
        "libgssapi_krb5" => "libgssapi-krb5-2".to_owned(),
        "libz" => "zlib1g".to_owned(),
        "libc" | "libm" | "libdl" | "librt" | "libpthread" => "libc6".to_owned(),
        name if name.starts_with("libicu") => format!("libicu{version}"),
        name if name.ends_with(|last: char| last.is_ascii_digit()) => format!("{name}-{version}"),
        name => format!("{}{version}", name.replace('_', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_are_named_with_their_packages() {
        let output = "/x/postgres:\n\tlinux-vdso.so.1 (0x1)\n\tlibxml2.so.2 => not found\n\tlibz.so.1 => /lib/libz.so.1 (0x2)\n\
                      \tlibssl.so.3 => not found\n/x/psql:\n\tlibssl.so.3 => not found\n";
        assert_eq!(
            missing_message(&missing(output)),
            "this machine lacks libssl.so.3 libxml2.so.2: install the Debian packages libssl3 libxml2"
        );
    }

    #[test]
    fn packages() {
        let cases = [
            ("libxml2.so.2", "libxml2"),
            ("libxslt.so.1", "libxslt1.1"),
            ("libcrypto.so.3", "libssl3"),
            ("libicuuc.so.72", "libicu72"),
            ("libkrb5.so.3", "libkrb5-3"),
            ("liblz4.so.1", "liblz4-1"),
            ("libzstd.so.1", "libzstd1"),
            ("libreadline.so.8", "libreadline8"),
            ("libgssapi_krb5.so.2", "libgssapi-krb5-2"),
            ("libstdc++.so.6", "libstdc++6"),
            ("libuuid.so.1", "libuuid1"),
        ];
        for (library, expected) in cases {
            assert_eq!(package(library), expected, "{library}");
        }
    }
}
