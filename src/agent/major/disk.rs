//! What a major upgrade does to a volume. How far it is can be told from the disk alone, whatever ended it before:
//!
//! ```text
//! pgdata             the data; the old before the swap, the new after it
//! pgdata.new-ID      the new data while it is made
//! pgdata.made-ID     a file: the new data is whole. Written last, and only the swap is left then
//! pgdata.old-ID      the old data, from the swap until the upgrade is declared done
//! ```
//!
//! `ID` is the upgrade's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::gone::gone;
/// Where pg_upgrade moves it before it links the old cluster's files, so that nobody starts that one by mistake.
/// <https://www.postgresql.org/docs/current/pgupgrade.html#PGUPGRADE-STEP-REVERT>
const CONTROL: &str = "global/pg_control";
const CONTROL_ASIDE: &str = "global/pg_control.old";

/// What is known of new data that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Made {
    /// Its system identifier.
    pub system_identifier: String,
    /// How long pg_upgrade took, in milliseconds.
    pub milliseconds: u64,
    /// How the files came there: `clone`, `copy` or `link`.
    pub method: String,
}

/// How far the upgrade is on this volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is no whole new data; something may be left of an attempt.
    Before,
    /// The new data is whole, and has yet to take the old one's place.
    Made(Made),
    /// It has.
    Swapped(Made),
}

/// A volume, in an upgrade.
#[derive(Clone, Debug)]
pub struct Volume {
    data: PathBuf,
    id: String,
}

impl Volume {
    /// The one with that data directory.
    pub fn new(data: &Path, id: &str) -> Self {
        Self { data: data.to_owned(), id: id.to_owned() }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where new data is made.
    pub fn fresh(&self) -> PathBuf {
        self.beside("new")
    }

    /// Where the old data is kept.
    pub fn old(&self) -> PathBuf {
        self.beside("old")
    }

    fn made(&self) -> PathBuf {
        self.beside("made")
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.data.as_os_str().to_owned();
        name.push(format!(".{what}-{}", self.id));
        name.into()
    }

    /// The directory above.
    pub fn root(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    /// How far it is.
    ///
    /// # Errors
    /// Where the volume cannot be read.
    pub fn progress(&self) -> io::Result<Progress> {
        let made = match fs::read(self.made()) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Progress::Before),
            Err(error) => return Err(error),
        };
        Ok(if self.fresh().try_exists()? { Progress::Made(made) } else { Progress::Swapped(made) })
    }

    /// The new data is whole, and on the disk.
    ///
    /// # Errors
    /// Where that cannot be noted.
    pub fn note(&self, made: &Made) -> io::Result<()> {
        let mut new = tempfile::Builder::new().prefix(".dbctl-upgrade-").tempfile_in(self.root())?;
        new.write_all(&serde_json::to_vec(made)?)?;
        new.as_file().sync_all()?;
        new.persist(self.made()).map_err(|error| error.error)?;
        self.sync()
    }

    /// Puts the new data in the old one's place, which is kept.
    ///
    /// # Errors
    /// Where a directory cannot be renamed; done again, it goes on.
    pub fn swap(&self) -> io::Result<()> {
        if !self.fresh().try_exists()? {
            return Ok(());
        }
        if self.there()? {
            fs::rename(&self.data, self.old())?;
            self.sync()?;
        }
        fs::rename(self.fresh(), &self.data)?;
        self.sync()
    }

    /// Puts the old data back, and removes all new.
    ///
    /// # Errors
    /// Where something cannot be renamed or removed; done again, it goes on.
    pub fn undo(&self) -> io::Result<()> {
        if self.old().try_exists()? {
            // After the first half of a swap, or of this, there is none in the place itself.
            if self.there()? {
                fs::rename(&self.data, self.fresh())?;
                self.sync()?;
            }
            fs::rename(self.old(), &self.data)?;
            self.sync()?;
        }
        self.clear()
    }

    /// Removes what is left of an attempt, and leaves the old data as it was.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        gone(fs::remove_file(self.made()))?;
        self.sync()?;
        // Nobody has ever started what its files are linked to.
        let (control, aside) = (self.data.join(CONTROL), self.data.join(CONTROL_ASIDE));
        if aside.try_exists()? && !control.try_exists()? {
            fs::rename(&aside, &control)?;
            File::open(self.data.join("global"))?.sync_all()?;
        }
        gone(fs::remove_dir_all(self.fresh()))
    }

    /// Moves data aside that the member comes without: it is cloned anew.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub fn set_aside(&self) -> io::Result<()> {
        if self.old().try_exists()? || !self.there()? {
            return Ok(());
        }
        fs::rename(&self.data, self.old())?;
        self.sync()
    }

    /// Removes all that the upgrade has kept.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn finish(&self) -> io::Result<()> {
        gone(fs::remove_dir_all(self.old()))?;
        gone(fs::remove_dir_all(self.fresh()))?;
        gone(fs::remove_file(self.made()))
    }

    /// Whether it has kept anything.
    pub fn keeps(&self) -> bool {
        [self.old(), self.fresh(), self.made()].iter().any(|path| path.exists())
    }

    /// Whether anything is in the data's place. Somebody who looks after the directory may have made it anew, empty; then it is
    /// no obstacle to a rename.
    fn there(&self) -> io::Result<bool> {
        match fs::read_dir(&self.data) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.root())?.sync_all()
    }
}

/// The major version of a data directory; `None` where there is no data.
///
/// # Errors
/// Where it cannot be read.
pub fn major(data: &Path) -> io::Result<Option<u8>> {
    match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The system identifier of a data directory: the first field of its control file (`ControlFileData`).
pub fn system_identifier(data: &Path) -> Option<u64> {
    let control = fs::read(data.join(CONTROL)).ok()?;
    Some(u64::from_le_bytes(control.get(..8)?.try_into().ok()?))
}

/// Whether the file system shares the blocks of copies, by what pg_upgrade itself tries first.
pub fn clones(from: &Path, into: &Path) -> bool {
    let mut name = OsString::from(".dbctl-clone-");
    name.push(std::process::id().to_string());
    let path = into.join(name);
    let tried = File::open(from.join("PG_VERSION"))
        .and_then(|from| Ok(rustix::fs::ioctl_ficlone(File::create(&path)?, from)?));
    let _ = fs::remove_file(&path);
    tried.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume with data of 16.
    fn volume(root: &Path) -> Volume {
        fs::create_dir_all(root.join("pgdata/global")).unwrap();
        fs::write(root.join("pgdata/PG_VERSION"), "16\n").unwrap();
        fs::write(root.join("pgdata/global/pg_control"), 7u64.to_le_bytes()).unwrap();
        Volume::new(&root.join("pgdata"), "x")
    }

    fn fresh(volume: &Volume) {
        fs::create_dir_all(volume.fresh().join("global")).unwrap();
        fs::write(volume.fresh().join("PG_VERSION"), "17\n").unwrap();
    }

    fn content(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_swap_goes_on_from_wherever_it_was_cut_short() {
        for cut in 0..3 {
            let root = tempfile::tempdir().unwrap();
            let volume = volume(root.path());
            assert_eq!(volume.progress().unwrap(), Progress::Before);
            fresh(&volume);
            let made = Made { system_identifier: "9".to_owned(), milliseconds: 5, method: "copy".to_owned() };
            volume.note(&made).unwrap();
            assert_eq!(volume.progress().unwrap(), Progress::Made(made.clone()));
            if cut > 0 {
                fs::rename(volume.data(), volume.old()).unwrap();
                fs::create_dir(volume.data()).unwrap();
            }
            if cut > 1 {
                fs::rename(volume.fresh(), volume.data()).unwrap();
            }
            volume.swap().unwrap();
            volume.swap().unwrap();
            assert_eq!(volume.progress().unwrap(), Progress::Swapped(made));
            assert_eq!((major(volume.data()).unwrap(), major(&volume.old()).unwrap()), (Some(17), Some(16)));
            volume.finish().unwrap();
            assert_eq!(content(root.path()), ["pgdata"]);
        }
    }

    #[test]
    fn it_is_undone_from_wherever_it_is() {
        // How far the upgrade came, and how far an undoing before this one.
        for (came, undone) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1), (4, 2), (3, 1), (5, 0), (5, 1)]
        {
            let root = tempfile::tempdir().unwrap();
            let volume = volume(root.path());
            if came > 0 {
                fresh(&volume);
            }
            if came > 1 {
                volume.note(&Made::default()).unwrap();
            }
            if came == 5 {
                fs::rename(volume.data().join(CONTROL), volume.data().join(CONTROL_ASIDE)).unwrap();
            }
            if came > 2 {
                fs::rename(volume.data(), volume.old()).unwrap();
            }
            if came > 3 {
                fs::rename(volume.fresh(), volume.data()).unwrap();
            }
            if undone > 0 && volume.data().exists() {
                fs::rename(volume.data(), volume.fresh()).unwrap();
            }
            if undone > 1 {
                fs::rename(volume.old(), volume.data()).unwrap();
            }
            volume.undo().unwrap();
            volume.undo().unwrap();
            assert_eq!(content(root.path()), ["pgdata"], "{came} {undone}");
            assert_eq!(major(volume.data()).unwrap(), Some(16));
            assert_eq!(system_identifier(volume.data()), Some(7), "{came} {undone}");
            assert_eq!(volume.progress().unwrap(), Progress::Before);
        }
    }

    #[test]
    fn a_replicas_data_is_set_aside_once() {
        let root = tempfile::tempdir().unwrap();
        let volume = volume(root.path());
        volume.set_aside().unwrap();
        assert!(volume.keeps() && !volume.data().exists());
        // Cloned by now, in part at least.
        fs::create_dir(volume.data()).unwrap();
        volume.set_aside().unwrap();
        assert_eq!((major(volume.data()).unwrap(), major(&volume.old()).unwrap()), (None, Some(16)));
        volume.finish().unwrap();
        assert!(!volume.keeps());
    }
}
