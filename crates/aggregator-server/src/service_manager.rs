//! Tells the service manager, systemd, how far the program is: the protocol of `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// The environment variable with the address of the service manager's socket.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// How long the service manager is asked to wait, again and again, while a store is being opened.
const EXTENSION: Duration = Duration::from_secs(60);

/// The service manager, or nobody where the program was not started by one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
}

impl ServiceManager {
    /// The one with its socket at `address`: a path, or `@` and an abstract name. Without an address, nobody.
    ///
    /// # Errors
    /// When the address is none of these, or no socket is there.
    pub fn at(address: Option<&OsStr>) -> io::Result<Self> {
        let Some(address) = address.filter(|address| !address.is_empty()) else { return Ok(Self::default()) };
        let address = match address.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor @ and a name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Self { socket: Some(socket) })
    }

    /// The service answers. Ends what [`Self::opening`] has begun.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The service has begun to stop, and may take this long.
    pub fn stopping(&self, time: Duration) {
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    /// Asks for more time until the guard is dropped: how long the opening of a store takes depends on what is in it.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn opening(&self) -> io::Result<Option<Opening>> {
        self.extend(EXTENSION)
    }

    /// Asks for `extension` more, and again long before it is over.
    fn extend(&self, extension: Duration) -> io::Result<Option<Opening>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let asking = Self { socket: Some(socket.try_clone()?) };
        let (guard, dropped) = mpsc::channel::<()>();
        let ask = format!("EXTEND_TIMEOUT_USEC={}", extension.as_micros());
        let thread = thread::Builder::new().name("opening".to_owned()).spawn(move || {
            loop {
                asking.tell(&ask);
                if dropped.recv_timeout(extension / 4) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        })?;
        Ok(Some(Opening { guard: Some(guard), thread: Some(thread) }))
    }

    /// Nothing depends on whether it is heard.
    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::warn!(%error, state, "the service manager cannot be told");
        }
    }
}

/// A store is being opened. Dropping this says no more, and returns when nothing more will be said.
#[derive(Debug)]
#[must_use = "dropping it ends what it stands for"]
pub struct Opening {
    guard: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        drop(self.guard.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_time_is_asked_for_until_the_store_is_open() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(Some(path.as_os_str())).unwrap();
        let opening = manager.extend(Duration::from_millis(8)).unwrap();
        let hear = || {
            let mut message = [0; 64];
            let length = heard.recv(&mut message)?;
            io::Result::Ok(String::from_utf8(message[..length].to_vec()).unwrap())
        };
        for _ in 0..5 {
            assert_eq!(hear().unwrap(), "EXTEND_TIMEOUT_USEC=8000");
        }
        drop(opening);
        manager.ready();
        heard.set_nonblocking(true).unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| hear().ok()).collect();
        assert_eq!(rest.iter().position(|message| message == "READY=1"), Some(rest.len() - 1), "{rest:?}");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for address in ["vsock:2:1234", "relative", "/nobody/is/here"] {
            assert!(ServiceManager::at(Some(OsStr::new(address))).is_err(), "{address}");
        }
        assert!(ServiceManager::at(None).unwrap().socket.is_none());
    }
}
