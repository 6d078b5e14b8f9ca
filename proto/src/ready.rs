//! How a service tells its manager that it serves: sd_notify(3), the same in coordinator and agent.
//!
//! ```text
//! $NOTIFY_SOCKET ◀── READY=1, STATUS=…          once what it needs is open
//!                ◀── WATCHDOG=1                 twice in $WATCHDOG_USEC, for as long as the runtime turns
//!                ◀── STOPPING=1                 when it was told to stop
//! ```
//!
//! Invariant: without a manager that asks, nothing happens; a message that is lost stops nobody.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The way to the service manager, where there is one.
#[derive(Debug)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process.
    pub fn of_this_process() -> Self {
        let own =
            env::var("WATCHDOG_PID").ok().is_none_or(|pid| pid == std::process::id().to_string());
        let micros = env::var("WATCHDOG_USEC").ok().filter(|_| own);
        Self::at(env::var_os("NOTIFY_SOCKET"), micros.as_deref())
    }

    fn at(address: Option<OsString>, watchdog_usec: Option<&str>) -> Self {
        let socket = address.and_then(|address| match open(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be told that this serves");
                None
            }
        });
        let watchdog = watchdog_usec.and_then(|micros| micros.parse().ok());
        Self { socket, watchdog: watchdog.filter(|micros| *micros > 0).map(Duration::from_micros) }
    }

    /// It serves from now on; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// It was told to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says for ever that the runtime turns, twice as often as is asked; never comes back.
    pub async fn keep_watchdog(&self) {
        let Some(every) = self.watchdog else { return std::future::pending().await };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(every / 2).await;
        }
    }

    fn tell(&self, words: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

/// A path, or after `@` a name of the kernel's own.
fn open(address: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_manager_hears_that_it_serves_and_stops() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let service = Manager::at(Some(path.into()), None);
        service.ready("serves\n3 components");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serves 3 components");
        service.stopping();
        assert_eq!(heard(&manager), "STOPPING=1");
    }

    #[tokio::test]
    async fn the_watchdog_is_kept_where_it_is_asked_for() {
        let name = format!("lastgood-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let service = Manager::at(Some(format!("@{name}").into()), Some("20000"));
        let hear = tokio::task::spawn_blocking(move || [heard(&manager), heard(&manager)]);
        tokio::select! {
            () = service.keep_watchdog() => unreachable!("it never comes back"),
            heard = hear => assert_eq!(heard.unwrap(), ["WATCHDOG=1", "WATCHDOG=1"]),
        }
    }

    #[test]
    fn nobody_there_is_no_error() {
        Manager::at(None, None).ready("serves");
        Manager::at(Some("/no/such/socket".into()), None).ready("serves");
        assert!(Manager::at(None, Some("no number")).watchdog.is_none());
    }
}
