//! Whose data a volume holds: read from PostgreSQL's own control file before anything is started on it.

use std::io::Read;
use std::path::Path;

/// The system identifier of the data; nothing where there is none, or it cannot be read.
///
/// It is the first field of `global/pg_control`, in the machine's own byte order.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/catalog/pg_control.h>
pub(super) fn system_identifier(data: &Path) -> Option<u64> {
    let mut file = std::fs::File::open(data.join("global/pg_control")).ok()?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).ok()?;
    Some(u64::from_ne_bytes(bytes)).filter(|identifier| *identifier != 0)
}

/// The identifier of the data, if it is another database's than the one that was noted.
pub(super) fn foreign(data: &Path, noted: Option<&str>) -> Option<u64> {
    let found = system_identifier(data)?;
    let noted: u64 = noted?.parse().ok()?;
    (found != noted).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_of_another_database_is_foreign() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(foreign(root.path(), Some("7")), None, "there is none");
        std::fs::create_dir(root.path().join("global")).unwrap();
        let control = root.path().join("global/pg_control");
        std::fs::write(&control, b"abc").unwrap();
        assert_eq!(foreign(root.path(), Some("7")), None, "it says nothing");
        std::fs::write(&control, 7_710_889_929_550_461_628_u64.to_ne_bytes()).unwrap();
        for (noted, expected) in [
            (Some("7710889929550461628"), None),
            (Some("7"), Some(7_710_889_929_550_461_628)),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(foreign(root.path(), noted), expected, "{noted:?}");
        }
    }
}
