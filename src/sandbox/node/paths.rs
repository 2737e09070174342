//! Paths as containers know them, turned into the host's: there is no mount namespace. Pure.

use std::path::{Path, PathBuf};

/// Where a container's mounts lie on the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts(Vec<(String, PathBuf)>);

impl Mounts {
    /// Adds a mount.
    pub fn add(&mut self, mount_path: &str, host: PathBuf) {
        let trimmed = mount_path.trim_end_matches('/');
        self.0.push((trimmed.to_owned(), host));
        // The longest path decides, as inner mounts cover outer ones.
        self.0.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    /// The paths in the container and on the host.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().map(|(own, host)| (own.as_str(), host.as_path()))
    }

    /// Rewrites a value, each part of it between `:` and `=` on its own.
    pub fn translate(&self, value: &str) -> String {
        let parts = value.split_inclusive([':', '=']).map(|part| {
            let body = part.trim_end_matches([':', '=']);
            let separator = &part[body.len()..];
            self.path(body).map_or_else(|| part.to_owned(), |path| format!("{path}{separator}"))
        });
        parts.collect()
    }

    /// The host's path for one below a mount.
    fn path(&self, path: &str) -> Option<String> {
        self.0.iter().find_map(|(mount, host)| {
            let rest = path.strip_prefix(mount.as_str())?;
            let below = rest.is_empty() || rest.starts_with('/');
            (below && !mount.is_empty()).then(|| format!("{}{rest}", host.display()))
        })
    }

    /// A directory for the container to start in.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.path(path).map_or_else(|| Path::new(path).to_owned(), PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let mut mounts = Mounts::default();
        mounts.add("/var/lib/postgresql/data", "/h/volumes/1".into());
        mounts.add("/var/lib/postgresql/data/wal/", "/h/volumes/2".into());
        mounts.add("/run/postgresql", "/h/v/ab/run".into());
        let cases = [
            ("/var/lib/postgresql/data", "/h/volumes/1"),
            ("/var/lib/postgresql/data/", "/h/volumes/1/"),
            ("/var/lib/postgresql/data/pgdata", "/h/volumes/1/pgdata"),
            ("/var/lib/postgresql/data/wal/x", "/h/volumes/2/x"),
            ("/var/lib/postgresql/database", "/var/lib/postgresql/database"),
            ("/var/lib/postgresql", "/var/lib/postgresql"),
            ("--pgdata=/var/lib/postgresql/data/pgdata", "--pgdata=/h/volumes/1/pgdata"),
            ("/bin:/run/postgresql:/usr/bin", "/bin:/h/v/ab/run:/usr/bin"),
            ("a=b:/run/postgresql/x=", "a=b:/h/v/ab/run/x="),
            ("cat /run/postgresql/x", "cat /run/postgresql/x"),
            ("::==", "::=="),
            ("", ""),
        ];
        for (value, expected) in cases {
            assert_eq!(mounts.translate(value), expected, "{value}");
        }
        assert_eq!(mounts.directory("/run/postgresql"), Path::new("/h/v/ab/run"));
        assert_eq!(mounts.directory("/tmp"), Path::new("/tmp"));
    }
}
