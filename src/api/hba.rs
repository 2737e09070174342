//! Lines of pg_hba.conf: PostgreSQL that runs keeps its old lines where a new one is wrong, but does not start again.

use std::net::IpAddr;

const METHODS: [&str; 12] = [
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
];

/// Why PostgreSQL would not take the line; the message ends a sentence that begins with the field. Nothing if it would,
/// as far as can be told without it.
pub fn hba_problem(line: &str) -> Option<String> {
    let Some(fields) = fields(line) else { return Some("has a quotation mark too many".to_owned()) };
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let (kind, rest) = fields.split_first()?;
    let rest = match (*kind, rest) {
        ("local", [_, _, rest @ ..]) => rest,
        ("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc", [_, _, address, rest @ ..]) => {
            match after_address(address, rest) {
                Some(rest) => rest,
                None => {
                    return Some(format!(
                        "has {address:?} where an address is due, for example 10.0.0.0/8 or all"
                    ));
                }
            }
        }
        _ => {
            return Some(
                "must be TYPE DATABASE USER [ADDRESS] METHOD, with TYPE local, host, hostssl, hostnossl, hostgssenc or hostnogssenc"
                    .to_owned(),
            );
        }
    };
    method_problem(kind, rest)
}

fn method_problem(kind: &str, rest: &[&str]) -> Option<String> {
    let method = rest.first().copied().unwrap_or_default();
    if !METHODS.contains(&method) {
        return Some(format!("has {method:?} where a method is due: one of {}", METHODS.join(", ")));
    }
    let fits = match method {
        "peer" => kind == "local",
        "gss" => kind != "local",
        "cert" => kind == "hostssl",
        _ => true,
    };
    if !fits {
        return Some(format!("has method {method}, which does not go with {kind}"));
    }
    let stray = rest.iter().skip(1).find(|option| !option.contains('='))?;
    Some(format!("has {stray:?} where only options, NAME=VALUE, are due"))
}

/// What follows an address, which may be two fields long.
fn after_address<'r, 'l>(address: &str, rest: &'r [&'l str]) -> Option<&'r [&'l str]> {
    if let Some((ip, bits)) = address.split_once('/') {
        let most = if ip.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
        return (bits.parse::<u8>().ok()? <= most).then_some(rest);
    }
    match address.parse::<IpAddr>() {
        Ok(ip) => {
            let (mask, rest) = rest.split_first()?;
            (mask.parse::<IpAddr>().ok()?.is_ipv4() == ip.is_ipv4()).then_some(rest)
        }
        // A host's name, or a word.
        Err(_) => Some(rest),
    }
}

/// The fields up to a comment; nothing where a quotation mark is never closed. A list with commas is one field.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut all, mut quoted, mut joins) = (vec![String::new()], false, false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if !joins && all.last().is_some_and(|field| !field.is_empty()) {
                    all.push(String::new());
                }
                continue;
            }
            _ => {}
        }
        joins = character == ',' && !quoted;
        if let Some(field) = all.last_mut() {
            field.push(character);
        }
    }
    all.retain(|field| !field.is_empty());
    (!quoted).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_postgresql_takes_pass() {
        for line in [
            "host all all 10.0.0.0/8 reject",
            "local all all peer map=m",
            "hostssl app, other \"a user\" ::1/128 cert clientcert=verify-full",
            "host all +group 10.0.0.1 255.255.255.255 md5",
            "host\tall\tall\tsamenet\tscram-sha-256 # ours",
            "host all all .example.com ldap ldapserver=x \"ldapprefix=cn= \"",
            "# a note",
        ] {
            assert_eq!(hba_problem(line), None, "{line}");
        }
    }

    #[test]
    fn lines_that_keep_postgresql_from_starting_do_not() {
        for (line, word) in [
            ("garbage", "TYPE"),
            ("host all all", "TYPE"),
            ("local all all", "method"),
            ("host all all 10.0.0.0/33 md5", "address"),
            ("host all all 10.0.0.1 md5", "address"),
            ("host all all 10.0.0/8 md5", "address"),
            ("host all all all scram", "method"),
            ("host all all all peer", "peer"),
            ("host all all all cert", "cert"),
            ("host all \"all all md5", "quotation"),
            ("host all all all md5 also", "also"),
            ("include other.conf", "TYPE"),
        ] {
            let problem = hba_problem(line).unwrap_or_default();
            assert!(problem.contains(word), "{line}: {problem}");
        }
    }
}
