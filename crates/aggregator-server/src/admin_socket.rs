//! The admin socket: HTTP on a Unix socket that only the operator can open.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The longest path of a Unix socket on Linux, in bytes.
const MAX_PATH_BYTES: usize = 107;

/// Listens for the operator. When it is dropped, the socket goes.
///
/// The service drops it before it lets go of its store: whoever opens the store next puts a socket of its own there.
#[derive(Debug)]
pub struct AdminListener {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminListener {
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at `path`. Only its owner, and root, can connect: the socket has its mode before it has its name.
///
/// A socket that a process left there that is gone is replaced. Anything else there is an error.
///
/// # Errors
/// When the socket cannot be made, or somebody listens there.
pub async fn bind(path: &Path) -> io::Result<AdminListener> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        let reason = format!("the path of a socket has at most {MAX_PATH_BYTES} bytes: name a shorter one");
        return Err(io::Error::new(ErrorKind::InvalidInput, reason));
    }
    clear(path).await?;
    // In a directory that nobody else can enter, it is safe before it has its mode. Beside the path, so that it can be
    // moved there. The name is short, because the limit holds for it as well.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Two processes may have the same id, each in a container of its own.
    let private = parent.join(format!(".{:08x}", ulid::Ulid::generate().random() & 0xffff_ffff));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = listen(&private.join("s"), path);
    let _ = fs::remove_file(private.join("s"));
    let _ = fs::remove_dir(&private);
    made
}

fn listen(made: &Path, path: &Path) -> io::Result<AdminListener> {
    let listener = UnixListener::bind(made)?;
    fs::set_permissions(made, fs::Permissions::from_mode(0o600))?;
    fs::rename(made, path)?;
    Ok(AdminListener { listener, path: path.to_owned() })
}

/// Makes sure that nothing is there that the socket would replace, but a socket without a listener.
async fn clear(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                "there is a file of this name that is no socket",
            ));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_and_replaces_one_that_was_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin");
        let listener = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
        assert!(!path.exists());
        // As a process that is killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = directory.path().join("x".repeat(MAX_PATH_BYTES));
        assert!(bind(&long).await.unwrap_err().to_string().contains("107"));
    }
}
