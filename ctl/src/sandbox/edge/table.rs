//! Whose turn it is, how many requests each host has open, and the file that a restart begins with.
//!
//! ```text
//! set: <state>/division.json.new ─▶ sync ─▶ division.json ─▶ sync the directory ─▶ in force
//! next: smooth weighted round robin ─▶ Turn, which counts as open until it is dropped
//! ```
//!
//! Invariant: a turn is taken and counted under one lock: what was chosen by an old division is open when a new one
//! is acknowledged, or over.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, anyhow};

use super::division::{Division, Server, Weights};

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    file: PathBuf,
    ports: BTreeMap<String, SocketAddr>,
    /// One change at a time: what is on disk last is in force last.
    changing: Mutex<()>,
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    weights: Option<Weights>,
    wheels: BTreeMap<String, Wheel>,
    open: BTreeMap<String, usize>,
}

impl Table {
    /// With the division that is on disk, where there is one.
    pub(super) fn open(state: &Path, ports: BTreeMap<String, SocketAddr>) -> anyhow::Result<Self> {
        let file = state.join("division.json");
        let mut live = Live::default();
        match fs::read(&file) {
            Ok(bytes) => {
                let division = Division::read(&bytes, &ports).map_err(|why| {
                    anyhow!(
                        "{}: {why}; nothing is served; remove the file to begin anew",
                        file.display()
                    )
                })?;
                live.take(division);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        }
        Ok(Self { file, ports, changing: Mutex::default(), live: Mutex::new(live) })
    }

    /// Where each port is served.
    pub(super) fn ports(&self) -> &BTreeMap<String, SocketAddr> {
        &self.ports
    }

    /// How the traffic is divided; none where nothing was set.
    pub(super) fn weights(&self) -> Option<Weights> {
        lock(&self.live).weights.clone()
    }

    /// Requests that are open, by host.
    pub(super) fn open_requests(&self) -> BTreeMap<String, usize> {
        lock(&self.live).open.clone()
    }

    /// Puts a division on disk, then in force. It blocks on the disk.
    pub(super) fn set(&self, division: Division) -> io::Result<Weights> {
        let _one = lock(&self.changing);
        write_durably(&self.file, &serde_json::to_vec(&division)?)?;
        let weights = division.weights.clone();
        lock(&self.live).take(division);
        Ok(weights)
    }

    /// The server whose turn it is on a port, without those that were tried; none where nobody has a weight.
    pub(super) fn next(self: &Arc<Self>, port: &str, tried: &[SocketAddr]) -> Option<Turn> {
        let mut live = lock(&self.live);
        let server = live.wheels.get_mut(port)?.turn(tried)?;
        *live.open.entry(server.host.clone()).or_default() += 1;
        Some(Turn { host: server.host, address: server.address, table: self.clone() })
    }
}

impl Live {
    fn take(&mut self, division: Division) {
        let mut wheels: BTreeMap<String, Wheel> = BTreeMap::new();
        for server in division.servers {
            wheels.entry(server.port.clone()).or_default().0.push((server, 0));
        }
        self.wheels = wheels;
        self.weights = Some(division.weights);
    }
}

/// A request on its way to a server; open until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    pub host: String,
    pub address: SocketAddr,
    table: Arc<Table>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let open = &mut lock(&self.table.live).open;
        if let Some(count) = open.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.host);
            }
        }
    }
}

/// The servers of one port, each with what it is owed. Smooth weighted round robin, as in nginx: in as many turns as
/// the weights sum to, each server has as many as its weight, evenly spread.
#[derive(Debug, Default)]
pub(super) struct Wheel(pub Vec<(Server, i64)>);

impl Wheel {
    pub(super) fn turn(&mut self, tried: &[SocketAddr]) -> Option<Server> {
        let mut sum = 0;
        let mut best: Option<&mut (Server, i64)> = None;
        for place in &mut self.0 {
            if place.0.weight == 0 || tried.contains(&place.0.address) {
                continue;
            }
            sum += i64::from(place.0.weight);
            place.1 += i64::from(place.0.weight);
            if best.as_ref().is_none_or(|best| place.1 > best.1) {
                best = Some(place);
            }
        }
        let (server, owed) = best?;
        *owed -= sum;
        Some(server.clone())
    }
}

/// Whole or not at all, and there after the power went.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
