//! The control socket: where it lies, how it is made, how it goes. Who may use it is decided in `access`.
//!
//! Promises a folder that only we can enter where the folder is ours to make, a socket of mode 0600, never to remove
//! a file that is not a dead socket, and at the end to remove only its own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::net::UnixListener;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The folder or the socket could not be made.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    /// The folder belongs to another user, or others may write to it.
    #[error("{}: the folder is not ours alone", .0.display())]
    Folder(PathBuf),
    /// Another instance answers there.
    #[error("{}: another instance listens there", .0.display())]
    Taken(PathBuf),
    /// Something that is not a socket lies there.
    #[error("{}: not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// Like [`bind`]; where another instance holds the default path, this process binds one of its own beside it. Clients
/// learn the path from the instance.
pub(super) fn bind_own(path: &SocketPath) -> Result<(UnixListener, ControlSocket), Error> {
    match (bind(path), path) {
        (Err(Error::Taken(_)), SocketPath::Own(taken)) => {
            let stem = taken.file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{stem}-{}.sock", std::process::id());
            bind(&SocketPath::Own(taken.with_file_name(name)))
        }
        (bound, _) => bound,
    }
}

/// The bound socket; removes its file when dropped, if it is still its own.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    /// Device and inode of the file we made.
    file: (u64, u64),
    /// The socket lives on in another process: its file stays.
    keep: Arc<AtomicBool>,
    /// Keeps the inode in use, so that its number cannot be another file's when we compare it.
    _pin: std::os::unix::net::UnixListener,
}

/// Whose folder a path lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SocketPath {
    /// A folder that systemd keeps for us, or that the user named.
    Given(PathBuf),
    /// A folder of our own, made where it is missing.
    Own(PathBuf),
}

/// Our own user id: peers are measured against it, and it names a folder. Read here and not in `sys` because it is a
/// fact of the control socket alone.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The default of `--control`.
pub(super) fn default_path(
    env: impl Fn(&str) -> Option<OsString>,
    uid: u32,
    port: u16,
) -> SocketPath {
    let folder = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(runtime) = folder("RUNTIME_DIRECTORY") {
        // systemd lists several with colons between them.
        let text = runtime.to_string_lossy().into_owned();
        let first = text.split(':').next().unwrap_or_default();
        return SocketPath::Given(Path::new(first).join("control.sock"));
    }
    let file = format!("{port}.sock");
    match folder("XDG_RUNTIME_DIR") {
        Some(runtime) => SocketPath::Own(Path::new(&runtime).join("entryway").join(file)),
        None => {
            let temporary = folder("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
            SocketPath::Own(temporary.join(format!("entryway-{uid}")).join(file))
        }
    }
}

/// Makes the socket.
pub(super) fn bind(path_of: &SocketPath) -> Result<(UnixListener, ControlSocket), Error> {
    let (SocketPath::Given(path) | SocketPath::Own(path)) = path_of;
    let io = |error| Error::Io(path.clone(), error);
    if let (SocketPath::Own(_), Some(folder)) = (path_of, path.parent()) {
        own_folder(folder)?;
    }
    remove_dead(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
    let made = fs::symlink_metadata(path).map_err(io)?;
    let control = ControlSocket {
        path: path.clone(),
        file: (made.dev(), made.ino()),
        keep: Arc::default(),
        _pin: listener.try_clone().map_err(io)?,
    };
    Ok((UnixListener::from_std(listener).map_err(io)?, control))
}

/// Takes over a socket that another process has made at `path`.
pub(super) fn adopt(
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
) -> Result<(UnixListener, ControlSocket), Error> {
    let io = |error| Error::Io(path.clone(), error);
    listener.set_nonblocking(true).map_err(io)?;
    let made = fs::symlink_metadata(&path).map_err(io)?;
    let control = ControlSocket {
        file: (made.dev(), made.ino()),
        keep: Arc::default(),
        _pin: listener.try_clone().map_err(io)?,
        path: path.clone(),
    };
    Ok((UnixListener::from_std(listener).map_err(io)?, control))
}

/// The path, and its folder made where it is ours to make. A folder that cannot be made is reported when the socket is.
pub(super) fn own_folder_of(path: &SocketPath) -> PathBuf {
    if let SocketPath::Own(path) = path
        && let Some(folder) = path.parent()
    {
        let _ = own_folder(folder);
    }
    let (SocketPath::Given(path) | SocketPath::Own(path)) = path;
    path.clone()
}

/// Makes the folder (0700), or checks the one that is there: in `/tmp` anybody may have made it before us.
fn own_folder(folder: &Path) -> Result<(), Error> {
    let io = |error| Error::Io(folder.to_owned(), error);
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    // Not followed: a link is not a folder of ours.
    let found = fs::symlink_metadata(folder).map_err(io)?;
    if !found.is_dir() || found.uid() != own_uid() || found.mode() & 0o077 != 0 {
        return Err(Error::Folder(folder.to_owned()));
    }
    Ok(())
}

/// Removes the socket of an instance that is gone.
fn remove_dead(path: &Path) -> Result<(), Error> {
    let io = |error| Error::Io(path.to_owned(), error);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !found.file_type().is_socket() {
        return Err(Error::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io)
        }
        Err(error) => Err(io(error)),
        Ok(_) => Err(Error::Taken(path.to_owned())),
    }
}

// === impl Control ===

impl ControlSocket {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Set it, and the file stays at our end.
    pub(super) fn keep(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.keep)
    }
}

// === impl SocketPath ===

impl SocketPath {
    /// Whether a socket that another process of ours has made lies here; where the default path was taken, it has a
    /// name of its own beside it.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match self {
            SocketPath::Given(given) => given == path,
            SocketPath::Own(own) => own.parent() == path.parent(),
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let own = !self.keep.load(Relaxed)
            && fs::symlink_metadata(&self.path)
                .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if own {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_path_follows_the_environment() {
        let path_of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect();
            let env = move |name: &str| {
                pairs
                    .iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.into())
            };
            default_path(env, 7, 8183)
        };
        assert_eq!(
            path_of(&[]),
            SocketPath::Own("/tmp/entryway-7/8183.sock".into())
        );
        assert_eq!(
            path_of(&[("TMPDIR", "/t")]),
            SocketPath::Own("/t/entryway-7/8183.sock".into())
        );
        let xdg = [("TMPDIR", "/t"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            path_of(&xdg),
            SocketPath::Own("/run/user/7/entryway/8183.sock".into())
        );
        let systemd = [
            ("XDG_RUNTIME_DIR", "/x"),
            ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
        ];
        assert_eq!(
            path_of(&systemd),
            SocketPath::Given("/run/a/control.sock".into())
        );
    }

    #[tokio::test]
    async fn binds_replaces_the_dead_and_respects_the_living() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entryway/1.sock");
        let path_of = SocketPath::Own(path.clone());
        let (listener, control) = bind(&path_of).unwrap();
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path_of), Err(Error::Taken(_))));
        let (_beside, beside) = bind_own(&path_of).unwrap();
        let own = format!("1-{}.sock", std::process::id());
        assert_eq!(beside.path(), path.with_file_name(own));
        // Dead: a file without anybody behind it. Somebody replaces it under us; our end leaves theirs alone.
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_second, second) = bind(&path_of).unwrap();
        drop((listener, control));
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path_of), Err(Error::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_folder_of_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            bind(&SocketPath::Own(open.join("1.sock"))),
            Err(Error::Folder(_))
        ));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(matches!(
            bind(&SocketPath::Own(link.join("1.sock"))),
            Err(Error::Folder(_))
        ));
        let missing = folder.path().join("no/such/1.sock");
        assert!(matches!(
            bind(&SocketPath::Given(missing)),
            Err(Error::Io(..))
        ));
    }
}
