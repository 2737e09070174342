//! Persistent volumes of the size that was asked for: each an ext4 file system in a file, mounted while a pod uses it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, StatVfs};

/// What fills a volume. It lies beside what pods see.
const BALLAST: &str = "ballast";
/// What pods see of a volume.
const DATA: &str = "data";
/// The least that ext4 makes sense on.
const LEAST: u64 = 8 << 20;

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    /// Only root may mount.
    #[error("mount volumes: only root can; start the sandbox as root, or with --volumes=directories")]
    NotRoot,
    /// A tool is missing.
    #[error("run {tool}: {source}; it is part of the package {package}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// Where it comes from.
        package: &'static str,
        /// Why not.
        source: Error,
    },
    /// A tool failed.
    #[error("{tool} {path}: {message}", path = path.display())]
    Failed {
        /// Which.
        tool: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// A file.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: Error,
    },
    /// Its object has not been seen.
    #[error("find the capacity of volume {0}: its object is not known yet")]
    Unknown(String),
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(Error) -> BoundsError {
    let path = path.to_owned();
    move |source| BoundsError::Io { action, path, source }
}

/// The volumes of a home that have bounds.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    directory: PathBuf,
    /// How large volumes are to be, by their handles.
    sizes: Arc<Mutex<HashMap<String, u64>>>,
    /// How large the file systems are that are mounted.
    mounted: Arc<Mutex<HashMap<String, u64>>>,
}

impl Bounds {
    /// Checks that there can be such volumes.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(volumes: PathBuf) -> Result<Self, BoundsError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BoundsError::NotRoot);
        }
        for (tool, argument) in
            [("mkfs.ext4", "-V"), ("e2fsck", "-V"), ("resize2fs", "-h"), ("losetup", "-V"), ("mount", "-V")]
        {
            // Some say their version with an error's exit code; that they say it is enough.
            command(tool).arg(argument).output().map_err(|source| missing(tool, source))?;
        }
        Ok(Self { directory: volumes, sizes: Arc::default(), mounted: Arc::default() })
    }

    fn image(&self, handle: &str) -> PathBuf {
        self.directory.join(format!("{handle}.img"))
    }

    fn mount_point(&self, handle: &str) -> PathBuf {
        self.directory.join(handle)
    }

    /// What pods see.
    pub fn data(&self, handle: &str) -> PathBuf {
        self.mount_point(handle).join(DATA)
    }

    /// A volume is to be of that size; one that is in use grows at once. Nothing ever shrinks.
    pub fn resize(&self, handle: &str, size: u64) -> Result<(), BoundsError> {
        let size = size.max(LEAST);
        let former =
            self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.to_owned(), size);
        if former.is_none_or(|former| former >= size) { Ok(()) } else { self.grow(handle, size) }
    }

    /// Mounts a volume, making it at its first use.
    pub fn mount(&self, handle: &str) -> Result<(), BoundsError> {
        let size = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(handle).copied();
        let size = size.ok_or_else(|| BoundsError::Unknown(handle.to_owned()))?;
        let (image, point) = (self.image(handle), self.mount_point(handle));
        if device(&point).is_none() {
            self.make(&image, size)?;
            extend(&image, size)?;
            if file_system_size(&image).map_err(io("read", &image))? < size {
                // Not before it is known to be whole. An exit code of 1 says that it is now.
                let check = command("e2fsck").args(["-f", "-p"]).arg(&image).output();
                check.map_err(|source| missing("e2fsck", source))?;
                run("resize2fs", command("resize2fs").arg(&image), &image)?;
            }
            std::fs::create_dir_all(&point).map_err(io("create", &point))?;
            let mut mount = command("mount");
            mount.args(["-t", "ext4", "-o", "loop,noatime,nosuid,nodev"]).arg(&image).arg(&point);
            run("mount", &mut mount, &image)?;
            // A full disk is nothing that is remembered.
            match std::fs::remove_file(point.join(BALLAST)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", &point)(error)),
                _ => {}
            }
            self.has(handle, size);
        }
        self.grow(handle, size)
    }

    fn has(&self, handle: &str, size: u64) {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.to_owned(), size);
    }

    /// Whether a volume is mounted and as large as that, and so is its file system.
    pub fn is_as_large(&self, handle: &str, size: u64) -> bool {
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.get(handle).is_some_and(|has| *has >= size.max(LEAST))
    }

    /// Whole or not at all: it has its name only once it is a file system.
    fn make(&self, image: &Path, size: u64) -> Result<(), BoundsError> {
        if image.exists() {
            return Ok(());
        }
        let fresh = image.with_extension("new");
        let file = File::create(&fresh).map_err(io("create", &fresh))?;
        file.set_len(size).map_err(io("size", &fresh))?;
        let mut mkfs = command("mkfs.ext4");
        // No blocks are set aside for root: what is full is full for all.
        run("mkfs.ext4", mkfs.args(["-q", "-F", "-m", "0"]).arg(&fresh), &fresh)?;
        file.sync_all().and_then(|()| std::fs::rename(&fresh, image)).map_err(io("make", image))
    }

    /// Lets a mounted volume's file system be as large as that; one that is not mounted grows at its next use, as does
    /// one whose growth the kernel refuses (a container's root may lack the right to it).
    fn grow(&self, handle: &str, size: u64) -> Result<(), BoundsError> {
        let (image, point) = (self.image(handle), self.mount_point(handle));
        let Some(device) = device(&point) else { return Ok(()) };
        if !extend(&image, size)? {
            return Ok(());
        }
        run("losetup", command("losetup").arg("--set-capacity").arg(&device), &device)?;
        run("resize2fs", command("resize2fs").arg(&device), &device)?;
        self.has(handle, size);
        Ok(())
    }

    /// Unmounts a volume that nobody uses any more.
    pub fn unmount(&self, handle: &str) -> Result<(), BoundsError> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner).remove(handle);
        unmount(&self.mount_point(handle))
    }

    /// Deletes a volume.
    pub fn remove(&self, handle: &str) -> Result<(), BoundsError> {
        self.unmount(handle)?;
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(handle);
        let (image, point) = (self.image(handle), self.mount_point(handle));
        let removed = [(std::fs::remove_dir(&point), point), (std::fs::remove_file(&image), image)];
        for (result, path) in removed {
            match result {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", &path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes all the room that a volume has left; the file that does.
    pub fn fill(&self, handle: &str) -> Result<PathBuf, BoundsError> {
        let point = self.mount_point(handle);
        if device(&point).is_none() {
            return Err(io("find the mounted volume", &point)(ErrorKind::NotFound.into()));
        }
        let path = point.join(BALLAST);
        let filled = File::create(&path).and_then(|file| fill(&file));
        if let Err(error) = filled {
            let _ = std::fs::remove_file(&path);
            return Err(io("fill", &path)(error));
        }
        Ok(path)
    }
}

/// Makes an image larger, if it is not as large already.
fn extend(image: &Path, size: u64) -> Result<bool, BoundsError> {
    let file = File::options().write(true).open(image).map_err(io("open", image))?;
    let has = file.metadata().map_err(io("measure", image))?.len();
    if has < size {
        file.set_len(size).map_err(io("extend", image))?;
    }
    Ok(has < size)
}

/// The size of an ext4 file system, rounded up to what a block group leaves over: it never fills its image to the byte.
fn file_system_size(image: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::FileExt;
    /// Where the superblock lies, and in it the number of blocks and the size of one.
    const SUPERBLOCK: u64 = 1024;
    let file = File::open(image)?;
    let number = |offset: u64| -> Result<u64, Error> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, SUPERBLOCK + offset)?;
        Ok(u32::from_le_bytes(bytes).into())
    };
    let blocks = number(4)? | (number(0x150)? << 32);
    let block = 1024_u64 << number(24)?.min(6);
    // What is too little for a block group of its own is left unused.
    Ok(blocks * block + block * 8 * 64)
}

/// Ever smaller pieces, until not even a block can be had.
fn fill(file: &File) -> Result<(), Error> {
    let stat: StatVfs = rustix::fs::fstatvfs(file)?;
    let mut piece = (stat.f_bavail * stat.f_frsize).max(stat.f_frsize);
    let mut size = 0;
    while piece >= stat.f_frsize {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), size, piece) {
            Ok(()) => size += piece,
            Err(rustix::io::Errno::NOSPC) => piece /= 2,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()
}

/// The device that is mounted at a place.
fn device(point: &Path) -> Option<PathBuf> {
    let point = point.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut found = mounted(&mounts).into_iter().filter(|(at, _)| *at == point);
    found.next_back().map(|(_, device)| device)
}

/// Mount points and what is mounted there.
fn mounted(mountinfo: &str) -> Vec<(PathBuf, PathBuf)> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ").replace("\\134", "\\");
        Some((PathBuf::from(point), PathBuf::from(right.split(' ').nth(1)?)))
    };
    mountinfo.lines().filter_map(parse).collect()
}

fn unmount(point: &Path) -> Result<(), BoundsError> {
    while device(point).is_some() {
        run("umount", command("umount").arg(point), point)?;
    }
    Ok(())
}

/// Unmounts all that an earlier run of a home left mounted below that directory.
pub(super) fn sweep(volumes: &Path) -> Result<(), BoundsError> {
    let Ok(real) = volumes.canonicalize() else { return Ok(()) };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below =
        mounted(&mounts).into_iter().filter(|(point, _)| point.starts_with(&real) && *point != real);
    below.try_for_each(|(point, _)| unmount(&point))
}

fn command(tool: &'static str) -> Command {
    let mut command = Command::new(tool);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

fn missing(tool: &'static str, source: Error) -> BoundsError {
    let package = if matches!(tool, "mkfs.ext4" | "resize2fs" | "e2fsck") { "e2fsprogs" } else { "mount" };
    BoundsError::Tool { tool, package, source }
}

fn run(tool: &'static str, command: &mut Command, on: &Path) -> Result<(), BoundsError> {
    let output = command.output().map_err(|source| missing(tool, source))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(BoundsError::Failed { tool, path: on.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The volumes of a new directory; nothing, said aloud, where this machine cannot have such.
    fn open() -> Option<(tempfile::TempDir, Bounds)> {
        let directory = tempfile::tempdir().unwrap();
        match Bounds::open(directory.path().to_owned()) {
            Ok(_) if !Path::new("/dev/loop-control").exists() => {
                eprintln!("SKIPPED bounded volumes: there are no loop devices here");
                None
            }
            Ok(bounds) => Some((directory, bounds)),
            Err(error) => {
                eprintln!("SKIPPED bounded volumes: failed to {error}");
                None
            }
        }
    }

    /// Whether this process has CAP_SYS_RESOURCE.
    fn may_resize() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
        u64::from_str_radix(rights, 16).unwrap() & (1 << 24) != 0
    }

    fn room(path: &Path) -> u64 {
        let stat = rustix::fs::statvfs(path).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    #[test]
    fn a_volume_is_as_large_as_it_is_said_to_be_grows_and_can_be_full() {
        let Some((directory, bounds)) = open() else { return };
        assert!(matches!(bounds.mount("v"), Err(BoundsError::Unknown(_))));
        bounds.resize("v", 32 << 20).unwrap();
        bounds.mount("v").unwrap();
        bounds.mount("v").unwrap();
        assert!(bounds.is_as_large("v", 32 << 20) && !bounds.is_as_large("v", 64 << 20));
        let data = bounds.data("v");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("kept"), "x").unwrap();
        assert!((16 << 20..32 << 20).contains(&room(&data)), "{}", room(&data));

        let ballast = bounds.fill("v").unwrap();
        assert_eq!(room(&data), 0);
        let error = std::fs::write(data.join("more"), vec![1; 1 << 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        match bounds.resize("v", 64 << 20) {
            Err(error) if !may_resize() => {
                eprintln!("SKIPPED growth of a mounted volume: {error}");
                assert!(!bounds.is_as_large("v", 64 << 20), "it is not said to be what it is not");
                bounds.unmount("v").unwrap();
                bounds.mount("v").unwrap();
                bounds.fill("v").unwrap();
                std::fs::remove_file(&ballast).unwrap();
            }
            result => {
                result.unwrap();
                assert!(room(&data) > 16 << 20, "grown while mounted");
                std::fs::remove_file(&ballast).unwrap();
            }
        }
        assert!(room(&data) > 40 << 20, "{}", room(&data));
        assert!(bounds.is_as_large("v", 64 << 20));

        bounds.fill("v").unwrap();
        sweep(directory.path()).unwrap();
        assert_eq!(device(&bounds.mount_point("v")), None);
        bounds.mount("v").unwrap();
        assert!(room(&data) > 40 << 20, "a full disk is not remembered");
        assert_eq!(std::fs::read_to_string(data.join("kept")).unwrap(), "x");
        bounds.remove("v").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn mounts_are_told_apart() {
        let text =
            "30 23 7:0 / /a/b\\040c rw - ext4 /dev/loop0 rw\n31 23 0:3 / /proc rw shared:1 - proc proc rw\n";
        let expected = [("/a/b c", "/dev/loop0"), ("/proc", "proc")];
        assert_eq!(
            mounted(text),
            expected.map(|(point, device)| (PathBuf::from(point), PathBuf::from(device)))
        );
    }
}
