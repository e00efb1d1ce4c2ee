//! What the program tells the service manager that started it, over a real socket.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::Process;

/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

fn hear(socket: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = socket.recv(&mut message).unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn the_service_manager_is_told_of_the_start_and_of_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    // Abstract names are shared by all processes of the machine.
    let name = format!("aggregator-{}", path.display());
    let sockets = [
        (format!("@{name}"), SocketAddr::from_abstract_name(&name).unwrap()),
        (path.display().to_string(), SocketAddr::from_pathname(&path).unwrap()),
    ];
    for (variable, address) in sockets {
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command =
            Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:", "--drain-timeout", "7s"]);
        command.env("NOTIFY_SOCKET", variable);
        let server = Process::spawn(command);
        // While the store is opened, and then once.
        assert_eq!(hear(&socket), "EXTEND_TIMEOUT_USEC=60000000");
        assert_eq!(hear(&socket), "READY=1");
        server.signal("-TERM");
        assert_eq!(hear(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=17000000");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_service_manager_that_cannot_be_told_is_no_reason_not_to_serve() {
    for variable in ["/nobody/is/here", "vsock:2:1234", ""] {
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:"]);
        command.env("NOTIFY_SOCKET", variable).stderr(std::process::Stdio::piped());
        let warned = Process::spawn(command).stop_and_read_stderr().contains("NOTIFY_SOCKET cannot be used");
        assert_eq!(warned, !variable.is_empty(), "{variable}");
    }
}
