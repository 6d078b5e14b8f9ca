//! Hosts behind a proxy, for tests: each an address of the loopback network that answers HTTP on one port of all.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

/// Hosts of one test.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) port: u16,
    /// By name: address.
    pub(super) addresses: BTreeMap<&'static str, String>,
    rows: BTreeMap<&'static str, Arc<One>>,
}

#[derive(Debug)]
struct One {
    address: String,
    port: u16,
    ends: AtomicBool,
    told: Mutex<Told>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    version: String,
    requests: u64,
    /// Requests of `/slow` that wait.
    waiting: u64,
    release: bool,
}

impl Hosts {
    /// One for each name; they all answer, as `v1`.
    pub(super) fn new<const N: usize>(names: [&'static str; N]) -> Self {
        static NETWORK: AtomicU16 = AtomicU16::new(0);
        let [high, low] = NETWORK.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let process = std::process::id().to_be_bytes()[3] / 2;
        let place = |at: usize| format!("127.{}.{}.{}", 100 + high + process / 2, low, at + 1);
        let first = TcpListener::bind((place(0), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        drop(first);
        let addresses: BTreeMap<_, _> =
            names.iter().enumerate().map(|(at, name)| (*name, place(at))).collect();
        let mut hosts = Self { port, addresses, rows: BTreeMap::new() };
        for name in names {
            hosts.start(name, "v1");
        }
        hosts
    }

    /// Makes one answer.
    pub(super) fn start(&mut self, name: &'static str, version: &str) {
        let address = self.addresses[name].clone();
        let listener = TcpListener::bind((address.as_str(), self.port)).unwrap();
        let told = Told { version: version.to_owned(), ..Told::default() };
        let one = Arc::new(One {
            address,
            port: self.port,
            ends: AtomicBool::new(false),
            told: Mutex::new(told),
            released: Condvar::new(),
        });
        self.rows.insert(name, one.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if one.ends.load(Ordering::SeqCst) {
                    return;
                }
                let one = one.clone();
                std::thread::spawn(move || one.answer(stream));
            }
        });
    }

    /// Nobody listens there any more when this returns.
    pub(super) fn stop(&mut self, name: &str) {
        let one = self.rows.remove(name).unwrap();
        one.ends.store(true, Ordering::SeqCst);
        while TcpStream::connect((one.address.as_str(), one.port)).is_ok() {
            std::thread::yield_now();
        }
    }

    /// How many requests each has had since the last time.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let taken = |one: &One| std::mem::take(&mut one.told.lock().unwrap().requests);
        self.rows.iter().map(|(name, one)| (*name, taken(one))).collect()
    }

    /// Waits until so many requests of `/slow` wait there.
    pub(super) fn wait_for_slow(&self, name: &str, count: u64) {
        let one = &self.rows[name];
        let mut told = one.told.lock().unwrap();
        while told.waiting < count {
            told = one.released.wait(told).unwrap();
        }
    }

    /// Lets requests of `/slow` end.
    pub(super) fn release(&self, name: &str) {
        let one = &self.rows[name];
        one.told.lock().unwrap().release = true;
        one.released.notify_all();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for one in self.rows.values() {
            one.ends.store(true, Ordering::SeqCst);
            one.told.lock().unwrap().release = true;
            one.released.notify_all();
            drop(TcpStream::connect((one.address.as_str(), one.port)));
        }
    }
}

impl One {
    fn answer(&self, stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        for line in lines {
            if line.is_empty() {
                break;
            }
        }
        let mut told = self.told.lock().unwrap();
        // The prober's own are no traffic.
        if !first.contains("/version") {
            told.requests += 1;
        }
        if first.contains("/slow") {
            told.waiting += 1;
            self.released.notify_all();
            while !told.release {
                told = self.released.wait(told).unwrap();
            }
            told.waiting -= 1;
        }
        let body = format!("{{\"version\":\"{}\"}}", told.version);
        drop(told);
        let (mut stream, length) = (stream, body.len());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
        // Who asked may be gone.
        drop(write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}"));
    }
}

/// One request through a proxy that listens on a socket; the status line.
pub(super) fn through(socket: &Path, path: &str, headers: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: crm\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Many of them, from several clients at once; every one is answered with 200.
pub(super) fn load(socket: &Path, count: usize) {
    const CLIENTS: usize = 4;
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..count / CLIENTS {
                    let status = through(socket, "/", "");
                    assert!(status.contains(" 200 "), "{status}");
                }
            });
        }
    });
}
