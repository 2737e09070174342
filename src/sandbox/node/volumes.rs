//! A pod's volumes as directories of the host.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Volume};

use super::env::{Scope, expand};
use super::paths::Mounts;
use super::sources::{Content, Ref, is_name};
use crate::sandbox::provision::Identity;

/// Files of a volume: path in the volume, bytes, mode.
pub(super) type Files = BTreeMap<String, (Vec<u8>, u32)>;

const DEFAULT_MODE: i32 = 0o644;

/// What a volume is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory that lives as long as the pod.
    Scratch,
    /// A directory of files written by the node.
    Files(Files),
    /// The directory of a persistent volume.
    Persistent(String),
    /// A path of the host.
    Host(PathBuf),
}

/// What a volume is, or why it cannot be had yet. `token` is what the pod's service account's token volumes hold.
pub(super) fn kind(volume: &Volume, scope: &Scope<'_>, token: Option<&str>) -> Result<Kind, String> {
    if volume.empty_dir.is_some() {
        return Ok(Kind::Scratch);
    }
    if let Some(path) = &volume.host_path {
        return Ok(Kind::Host(path.path.clone().into()));
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let reference = Ref::Claim(claim.claim_name.clone());
        return match scope.contents.get(&reference) {
            Some(Some(Content::Volume(handle))) => Ok(Kind::Persistent(handle.clone())),
            Some(Some(Content::Unusable(why))) => Err(why.clone()),
            _ => Err(format!("{reference} is not bound to a volume")),
        };
    }
    let mut files = Files::new();
    let owner = scope.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    if let Some(map) = &volume.config_map {
        let chosen = Chosen { items: map.items.as_deref(), mode: map.default_mode, optional: map.optional };
        chosen.add(&Ref::ConfigMap(map.name.clone()), scope, &mut files)?;
    } else if let Some(secret) = &volume.secret {
        let chosen =
            Chosen { items: secret.items.as_deref(), mode: secret.default_mode, optional: secret.optional };
        chosen.add(&Ref::Secret(secret.secret_name.clone().unwrap_or_default()), scope, &mut files)?;
    } else if let Some(downward) = &volume.downward_api {
        add_fields(downward.items.as_deref(), downward.default_mode, scope, owner, &mut files)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let chosen = Chosen { items: map.items.as_deref(), mode, optional: map.optional };
                chosen.add(&Ref::ConfigMap(map.name.clone()), scope, &mut files)?;
            }
            if let Some(secret) = &source.secret {
                let chosen = Chosen { items: secret.items.as_deref(), mode, optional: secret.optional };
                chosen.add(&Ref::Secret(secret.name.clone()), scope, &mut files)?;
            }
            if let Some(downward) = &source.downward_api {
                add_fields(downward.items.as_deref(), mode, scope, owner, &mut files)?;
            }
            if let Some(projection) = &source.service_account_token {
                let token = token.ok_or("the service account's token has not been issued")?;
                files.insert(projection.path.clone(), (token.as_bytes().to_vec(), bits(mode, None)));
            }
        }
    } else {
        return Err(format!("volume {:?} is of a kind that this node does not provide", volume.name));
    }
    match files.keys().find(|path| path.split('/').any(|part| !is_name(part))) {
        Some(path) => Err(format!("path {path:?} leads out of volume {:?}", volume.name)),
        None => Ok(Kind::Files(files)),
    }
}

fn bits(default: Option<i32>, own: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0) & 0o777
}

/// Which keys of an object become files.
struct Chosen<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
}

impl Chosen<'_> {
    fn add(&self, reference: &Ref, scope: &Scope<'_>, files: &mut Files) -> Result<(), String> {
        let optional = self.optional == Some(true);
        let data = match scope.contents.get(reference) {
            Some(Some(Content::Data(data))) => data,
            Some(None) if optional => return Ok(()),
            _ => return Err(format!("{reference} not found")),
        };
        let Some(items) = self.items else {
            files.extend(
                data.iter().map(|(key, value)| (key.clone(), (value.clone(), bits(self.mode, None)))),
            );
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => {
                    files.insert(item.path.clone(), (value.clone(), bits(self.mode, item.mode)));
                }
                None if optional => {}
                None => return Err(format!("{reference} has no key {:?}", item.key)),
            }
        }
        Ok(())
    }
}

fn add_fields(
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    scope: &Scope<'_>,
    containers: &[Container],
    files: &mut Files,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = if let Some(field) = &item.field_ref {
            scope.field(field)?
        } else if let (Some(resource), Some(container)) = (&item.resource_field_ref, containers.first()) {
            scope.resource(resource, container)?
        } else {
            return Err(format!("file {:?} of the downward API has no source", item.path));
        };
        files.insert(item.path.clone(), (text.into_bytes(), bits(mode, item.mode)));
    }
    Ok(())
}

/// The mounts of a container over the host directories of its pod's volumes.
pub(super) fn mounts(
    container: &Container,
    directories: &BTreeMap<String, PathBuf>,
    env: &[(String, String)],
    identity: &Identity,
) -> Result<Mounts, String> {
    let mut mounts = Mounts::default();
    for mount in container.volume_mounts.iter().flatten() {
        let base =
            directories.get(&mount.name).ok_or_else(|| format!("volume {:?} does not exist", mount.name))?;
        let lookup = |name: &str| env.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) => path.clone(),
            (None, Some(expression)) => expand(expression, lookup),
            (None, None) => String::new(),
        };
        let parts: Vec<&str> = sub_path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(format!("subPath {sub_path:?} must not contain '..'"));
        }
        let host = parts.iter().fold(base.clone(), |path, part| path.join(part));
        if !host.exists() {
            make_directory(&host, 0o755, identity)
                .map_err(|error| format!("create {}: {error}", host.display()))?;
        }
        mounts.add(&mount.mount_path, host);
    }
    Ok(mounts)
}

/// Makes a directory with all above it, those that are new for the pods' user; leaves one that exists as it is.
pub(super) fn make_directory(path: &Path, mode: u32, identity: &Identity) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make_directory(parent, mode, identity)?;
    }
    std::fs::DirBuilder::new().mode(mode).create(path)?;
    // The umask must not take away what pods need.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    identity.own(path)
}

/// Brings a volume of files up to date, all of them at once: readers see either the old ones or the new.
///
/// As kubelets do: the files lie in a directory of their own, `..data` links to it, and the names in the volume link
/// through `..data`. Whether anything changed is returned.
pub(super) fn write_files(volume: &Path, files: &Files, identity: &Identity) -> std::io::Result<bool> {
    make_directory(volume, 0o755, identity)?;
    let data = volume.join("..data");
    if data.exists() && read_files(&data, &data)? == *files {
        return Ok(false);
    }
    let former = std::fs::read_link(&data).ok();
    let fresh = tempfile::Builder::new().prefix("..").rand_bytes(10).tempdir_in(volume)?.keep();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    identity.own(&fresh)?;
    for (path, (bytes, mode)) in files {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            make_directory(parent, 0o755, identity)?;
        }
        std::fs::write(&file, bytes)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(*mode))?;
        identity.own(&file)?;
    }
    let link = volume.join("..data_tmp");
    let _ = std::fs::remove_file(&link);
    symlink(fresh.file_name().unwrap_or_default(), &link)?;
    std::fs::rename(&link, &data)?;
    link_names(volume, files)?;
    if let Some(former) = former {
        std::fs::remove_dir_all(volume.join(former))?;
    }
    Ok(true)
}

/// The names in the volume: the first part of each path, as a link through `..data`.
fn link_names(volume: &Path, files: &Files) -> std::io::Result<()> {
    let names: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let place = volume.join(name);
        if place.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), place)?;
        }
    }
    for entry in std::fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_files(directory: &Path, root: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(read_files(&path, root)?);
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
            files.insert(name, (std::fs::read(&path)?, mode));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::super::env::Capacity;
    use super::*;

    fn oneself() -> Identity {
        Identity { name: "me".to_owned(), ids: None }
    }

    fn resolve(volume: serde_json::Value) -> Result<Kind, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let data = |key: &str| Some(Content::Data(BTreeMap::from([(key.to_owned(), b"v".to_vec())])));
        let contents = BTreeMap::from([
            (Ref::ConfigMap("m".to_owned()), data("a")),
            (Ref::Secret("s".to_owned()), data("b")),
            (Ref::Secret("gone".to_owned()), None),
            (Ref::Claim("bound".to_owned()), Some(Content::Volume("pvc-1".to_owned()))),
            (Ref::Claim("pending".to_owned()), None),
        ]);
        let capacity = Capacity { milli_cpu: 1000, memory: 1, storage: 1 };
        let scope = Scope { pod: &pod, address: "", host: "", capacity, contents: &contents };
        let mut volume = volume;
        volume["name"] = json!("v");
        kind(&serde_json::from_value(volume).unwrap(), &scope, Some("token"))
    }

    fn files(list: &[(&str, &str, u32)]) -> Files {
        list.iter()
            .map(|(path, text, mode)| ((*path).to_owned(), (text.as_bytes().to_vec(), *mode)))
            .collect()
    }

    #[test]
    fn volumes_of_all_kinds() {
        let cases = [
            (json!({"emptyDir": {}}), Kind::Scratch),
            (json!({"hostPath": {"path": "/x"}}), Kind::Host("/x".into())),
            (json!({"persistentVolumeClaim": {"claimName": "bound"}}), Kind::Persistent("pvc-1".to_owned())),
            (json!({"configMap": {"name": "m"}}), Kind::Files(files(&[("a", "v", 0o644)]))),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 256, "items": [{"key": "b", "path": "x/y"}]}}),
                Kind::Files(files(&[("x/y", "v", 0o400)])),
            ),
            (json!({"secret": {"secretName": "gone", "optional": true}}), Kind::Files(Files::new())),
            (
                json!({"projected": {"sources": [
                    {"configMap": {"name": "m"}}, {"secret": {"name": "s"}},
                    {"serviceAccountToken": {"path": "token"}},
                    {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]}}),
                Kind::Files(files(&[
                    ("a", "v", 0o644),
                    ("b", "v", 0o644),
                    ("n", "p", 0o644),
                    ("token", "token", 0o644),
                ])),
            ),
        ];
        for (volume, expected) in cases {
            assert_eq!(resolve(volume.clone()), Ok(expected), "{volume}");
        }
        let errors = [
            (json!({"persistentVolumeClaim": {"claimName": "pending"}}), "is not bound"),
            (json!({"secret": {"secretName": "gone"}}), "secret \"gone\" not found"),
            (json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}), "no key \"z\""),
            (json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "../z"}]}}), "leads out"),
            (json!({"nfs": {"server": "s", "path": "/"}}), "does not provide"),
        ];
        for (volume, expected) in errors {
            let error = resolve(volume).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn files_change_all_at_once_and_only_when_they_differ() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        let first = files(&[("a", "1", 0o644), ("d/b", "2", 0o600), ("gone", "3", 0o644)]);
        assert!(write_files(&volume, &first, &oneself()).unwrap());
        assert_eq!(std::fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        assert!(!write_files(&volume, &first, &oneself()).unwrap());
        let target = std::fs::read_link(volume.join("..data")).unwrap();
        let second = files(&[("a", "new", 0o644), ("d/b", "2", 0o600)]);
        assert!(write_files(&volume, &second, &oneself()).unwrap());
        assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "new");
        assert!(!volume.join("gone").exists());
        assert!(!volume.join(target).exists(), "the old files are removed");
        let mode = std::fs::metadata(volume.join("d/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            write_files(&volume, &files(&[("a", "new", 0o600)]), &oneself()).unwrap(),
            "the mode counts too"
        );
    }

    #[test]
    fn mounts_respect_sub_paths() {
        let directory = tempfile::tempdir().unwrap();
        let directories = BTreeMap::from([("v".to_owned(), directory.path().to_owned())]);
        let env = [("NAME".to_owned(), "p-0".to_owned())];
        let with = |mount: serde_json::Value| {
            let container = json!({"name": "c", "volumeMounts": [mount]});
            mounts(&serde_json::from_value(container).unwrap(), &directories, &env, &oneself())
        };
        let translated = |mount| with(mount).unwrap().translate("/m/x");
        let base = directory.path().display();
        assert_eq!(translated(json!({"name": "v", "mountPath": "/m"})), format!("{base}/x"));
        assert_eq!(
            translated(json!({"name": "v", "mountPath": "/m", "subPath": "a/b"})),
            format!("{base}/a/b/x")
        );
        assert!(directory.path().join("a/b").is_dir());
        let expression = json!({"name": "v", "mountPath": "/m", "subPathExpr": "$(NAME)"});
        assert_eq!(translated(expression), format!("{base}/p-0/x"));
        assert!(with(json!({"name": "v", "mountPath": "/m", "subPath": "../x"})).is_err());
        assert!(with(json!({"name": "w", "mountPath": "/m"})).is_err());
    }
}
