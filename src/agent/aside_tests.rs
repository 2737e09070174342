use super::*;
use crate::api::Stage;

/// A volume of which the test knows every file.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new(files: &[(&str, &str)]) -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = volume.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        volume
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("pgdata")
    }

    /// Every file but the notes, and what is in it.
    fn files(&self) -> Vec<String> {
        fn walk(root: &Path, path: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    walk(root, &entry, into);
                } else {
                    let name = entry.strip_prefix(root).unwrap().display().to_string();
                    into.push(format!("{name}={}", fs::read_to_string(&entry).unwrap()));
                }
            }
        }
        let mut all = Vec::new();
        walk(self.0.path(), self.0.path(), &mut all);
        all.retain(|file| !file.starts_with(FILE));
        all.sort();
        all
    }
}

fn id(number: u64) -> Ulid {
    Ulid::from_parts(number, 0)
}

fn mark(own: u64, old: u64) -> Mark {
    Mark {
        id: id(own),
        stage: Stage::Restoring,
        old: id(old),
        undo: false,
        discard: false,
        from: String::new(),
        backup: None,
        target_time: None,
        target_lsn: None,
        target_name: None,
    }
}

fn undo(own: u64, old: u64) -> Mark {
    Mark { undo: true, ..mark(own, old) }
}

const OLD: [(&str, &str); 3] =
    [("pgdata/PG_VERSION", "old"), ("tablespaces/7/x", "old"), ("mine/notes.txt", "the user's")];

fn aside(number: u64) -> Vec<String> {
    let id = id(number);
    vec![
        "mine/notes.txt=the user's".to_owned(),
        format!("pgdata.before-{id}/PG_VERSION=old"),
        format!("tablespaces.before-{id}/7/x=old"),
    ]
}

#[test]
fn data_is_moved_aside_once() {
    let volume = Volume::new(&OLD);
    follow(&volume.data(), &mark(1, 1)).unwrap();
    assert_eq!(volume.files(), aside(1));
    assert_eq!(Beside::read(&volume.data()).unwrap().restore, Some(id(1)));
    // What is restored is this mark's own, however often the member starts.
    fs::create_dir_all(volume.data()).unwrap();
    fs::write(volume.data().join("PG_VERSION"), "new").unwrap();
    follow(&volume.data(), &mark(1, 1)).unwrap();
    assert_eq!(volume.files().len(), 4);
    assert_eq!(fs::read_to_string(volume.data().join("PG_VERSION")).unwrap(), "new");
    // And the next restore's is moved beside the first.
    follow(&volume.data(), &mark(2, 2)).unwrap();
    assert_eq!(kept(&volume.data()).iter().map(|kept| kept.id).collect::<Vec<_>>(), [id(1), id(2)]);
    assert!(size(&volume.data(), id(1)) > 0);
    discard(&volume.data(), id(2)).unwrap();
    assert_eq!(volume.files(), aside(1));
}

/// Cut short between any two steps: the first directory moved, both moved, and the empty one made again by the next start.
#[test]
fn what_was_cut_short_goes_on() {
    for moved in 0..=2 {
        for made_again in [false, true] {
            let volume = Volume::new(&OLD);
            for path in directories(&volume.data()).iter().take(moved) {
                fs::rename(path, before(path, id(1))).unwrap();
            }
            if made_again {
                fs::create_dir_all(volume.data()).unwrap();
            }
            follow(&volume.data(), &mark(1, 1)).unwrap();
            assert_eq!(volume.files(), aside(1), "{moved} {made_again}");
            // Back again, cut short as well.
            for back in 0..=2 {
                let volume = Volume::new(&OLD);
                follow(&volume.data(), &mark(1, 1)).unwrap();
                for path in directories(&volume.data()).iter().take(back) {
                    let _ = fs::remove_dir(path);
                    fs::rename(before(path, id(1)), path).unwrap();
                }
                follow(&volume.data(), &undo(2, 1)).unwrap();
                assert_eq!(volume.files(), Volume::new(&OLD).files(), "{back}");
                assert_eq!(Beside::read(&volume.data()).unwrap().restore, Some(id(2)));
            }
        }
    }
}

#[test]
fn a_restore_that_did_not_end_is_never_kept_as_data() {
    let volume = Volume::new(&OLD);
    follow(&volume.data(), &mark(1, 1)).unwrap();
    let unpacked = |volume: &Volume| {
        fs::create_dir_all(volume.data()).unwrap();
        fs::write(volume.data().join("PG_VERSION"), "half").unwrap();
        fs::create_dir_all(volume.0.path().join("tablespaces/9")).unwrap();
        Note::default().write(&volume.data()).unwrap();
    };
    // Another target: the old data stays where it is.
    unpacked(&volume);
    follow(&volume.data(), &mark(2, 1)).unwrap();
    assert_eq!(volume.files(), aside(1));
    // On a member that never saw the first one, it goes there too.
    let other = Volume::new(&OLD);
    follow(&other.data(), &mark(2, 1)).unwrap();
    assert_eq!(other.files(), aside(1));
    // And back.
    unpacked(&volume);
    for volume in [&volume, &other] {
        follow(&volume.data(), &undo(3, 1)).unwrap();
        assert_eq!(volume.files(), Volume::new(&OLD).files());
        assert_eq!(Note::read(&volume.data()).unwrap(), None);
    }
}

#[test]
fn data_that_is_no_longer_needed_for_a_way_back_is_kept_all_the_same() {
    // The first restore was complete, but nobody knew yet when the second was asked for.
    let volume = Volume::new(&OLD);
    follow(&volume.data(), &mark(1, 1)).unwrap();
    for (path, text) in [("pgdata/PG_VERSION", "first"), ("tablespaces/9/y", "first")] {
        let path = volume.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    follow(&volume.data(), &mark(2, 1)).unwrap();
    let mut expected = aside(1);
    expected.extend([
        format!("pgdata.before-{}/PG_VERSION=first", id(2)),
        format!("tablespaces.before-{}/9/y=first", id(2)),
    ]);
    expected.sort();
    assert_eq!(volume.files(), expected);
}

#[test]
fn without_room_the_old_data_goes_first() {
    let volume = Volume::new(&OLD);
    follow(&volume.data(), &Mark { discard: true, ..mark(1, 1) }).unwrap();
    assert_eq!(volume.files(), ["mine/notes.txt=the user's"]);
    assert_eq!(kept(&volume.data()), []);
}

#[test]
fn nothing_is_overwritten_and_a_damaged_note_is_no_absent_one() {
    let volume = Volume::new(&OLD);
    fs::create_dir_all(before(&volume.data(), id(1)).join("x")).unwrap();
    let error = follow(&volume.data(), &mark(1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(volume.data().join("PG_VERSION").exists());
    fs::write(volume.0.path().join(FILE), "{").unwrap();
    assert!(follow(&volume.data(), &mark(2, 2)).is_err());
    assert!(volume.data().join("PG_VERSION").exists());
}
