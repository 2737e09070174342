use super::*;
use crate::backup::base::TablespaceRecord;

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        let directory = path.ends_with('/');
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(bytes.len() as u64);
        header.set_mode(0o777);
        // As they are, whatever they say.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

async fn stored(store: &Store, stem: &str, bytes: &[u8], size: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    for (number, bytes) in bytes.chunks(size).enumerate() {
        let name = format!("{stem}.{number:04}.tar.zst");
        store.put(&format!("b/{name}"), Bytes::copy_from_slice(bytes)).await.unwrap();
        let sha256 = digest::digest(&digest::SHA256, bytes);
        let sha256 = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        parts.push(Part { name, bytes: bytes.len() as u64, sha256 });
    }
    parts
}

fn place(root: &Path) -> Place {
    let place = Place { data: root.join("data"), tablespaces: root.join("spaces") };
    std::fs::create_dir(&place.data).unwrap();
    place
}

async fn run(store: &Store, archives: &[StoredArchive], place: &Place) -> Result<u64, String> {
    let done = Arc::new(AtomicU64::new(0));
    let result = unpack(store, "b", archives, place, &done).await;
    result.map(|()| done.load(Ordering::Relaxed)).map_err(|error| error.to_string())
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn archives_of_many_frames_and_parts_are_unpacked() {
    let store = Store::in_memory();
    let large: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 9).to_le_bytes()).collect();
    let tar = tar_of(&[("base/", b""), ("base/1/deep", b"x"), ("large", &large), ("PG_VERSION", b"16\n")]);
    // Each compressed on its own, cut without regard to that.
    let packed: Vec<u8> =
        tar.chunks(700_001).flat_map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect();
    let own = StoredArchive { tablespace: None, parts: stored(&store, "base", &packed, 999_983).await };
    let space = zstd::bulk::compress(&tar_of(&[("PG_16/", b""), ("PG_16/f", b"far")]), 1).unwrap();
    let record = TablespaceRecord { oid: 77, path: "/gone".to_owned() };
    let space = StoredArchive { tablespace: Some(record), parts: stored(&store, "77", &space, 100).await };
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    let all = own.parts.iter().chain(&space.parts).map(|part| part.bytes).sum::<u64>();
    assert_eq!(run(&store, &[space.clone(), own.clone()], &place).await, Ok(all));
    assert_eq!(std::fs::read(place.data.join("large")).unwrap(), large);
    assert_eq!(std::fs::read_to_string(place.data.join("pg_tblspc/77/PG_16/f")).unwrap(), "far");
    assert_eq!(
        (
            mode(&place.data.join("base")),
            mode(&place.data.join("base/1")),
            mode(&place.data.join("PG_VERSION"))
        ),
        (0o700, 0o700, 0o600)
    );
    let again = run(&store, &[own], &place).await.unwrap_err();
    assert!(again.ends_with("it is not empty"), "{again}");
}

#[tokio::test]
async fn what_is_not_as_it_was_stored_is_refused() {
    // What does not shrink.
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = (0..200_000).map(|_| random.u8(..)).collect();
    let packed = zstd::bulk::compress(&tar_of(&[("f", &bytes)]), 1).unwrap();
    for (what, said) in [
        ("flip", ""),
        ("lose", "it is gone"),
        ("cut", "it has"),
        ("more", "more than its"),
        ("hash", "its SHA-256 is"),
    ] {
        let store = Store::in_memory();
        let mut parts = stored(&store, "base", &packed, 50_000).await;
        let key = format!("b/{}", parts[1].name);
        let mut part = store.get(&key).await.unwrap().unwrap().to_vec();
        match what {
            "flip" => part[20_000] ^= 1,
            "cut" => drop(part.pop()),
            "more" => part.push(0),
            "hash" => parts[1].sha256 = "0".repeat(64),
            _ => {}
        }
        if what == "lose" {
            store.delete(&key).await.unwrap();
        } else {
            store.put(&key, part.into()).await.unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        let archive = StoredArchive { tablespace: None, parts };
        let error = run(&store, &[archive], &place(root.path())).await.unwrap_err();
        assert!(error.contains(said), "{what}: {error}");
    }
    // Whole objects, and an archive that ends early.
    let store = Store::in_memory();
    let parts = stored(&store, "base", &packed[..packed.len() / 2], 50_000).await;
    let root = tempfile::tempdir().unwrap();
    let error =
        run(&store, &[StoredArchive { tablespace: None, parts }], &place(root.path())).await.unwrap_err();
    assert!(error.contains("unpack base.0000.tar.zst"), "{error}");
}

#[tokio::test]
async fn nothing_is_written_elsewhere() {
    for path in ["../x", "a/../../x", "/tmp/dbctl-x"] {
        let store = Store::in_memory();
        let packed = zstd::bulk::compress(&tar_of(&[(path, b"x")]), 1).unwrap();
        let parts = stored(&store, "base", &packed, 50_000).await;
        let root = tempfile::tempdir().unwrap();
        let error =
            run(&store, &[StoredArchive { tablespace: None, parts }], &place(root.path())).await.unwrap_err();
        assert!(error.contains("leads elsewhere"), "{path}: {error}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
