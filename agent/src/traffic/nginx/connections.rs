//! Which connections nginx has to hosts, as the kernel shows them.
//!
//! ```text
//! /proc/PID/fd of nginx's processes: socket inodes ─┐
//! /proc/MASTER/net/{tcp,tcp6}: far end, state, inode ─┴─▶ count by host
//! ```
//!
//! Invariant: a connection counts whichever process has it: an old worker's is as open as a new one's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::drivers::nginx::Processes;

/// proc(5): established, and on its way there.
const OPEN_STATES: [&str; 2] = ["01", "02"];

/// So many connections to each host; `ends` are the addresses of hosts.
pub(super) fn of(
    processes: &Processes,
    ends: &BTreeMap<SocketAddr, String>,
) -> io::Result<BTreeMap<String, u64>> {
    let mut own = BTreeSet::new();
    for pid in processes.accepting.iter().chain(&processes.ending) {
        own.extend(sockets(*pid));
    }
    let mut counts = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{}/net/{table}", processes.master);
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            // A host may have no IPv6, and a master that ended has nothing open.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for (end, inode) in rows(&text) {
            if let (Some(host), true) = (ends.get(&end), own.contains(&inode)) {
                *counts.entry(host.clone()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// The sockets of a process. One that has just ended has none.
fn sockets(pid: i32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = entries.into_iter().flatten().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link| inode(link.to_str()?)).collect()
}

/// `socket:[12345]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Far end and inode of every open connection in a table.
fn rows(table: &str) -> impl Iterator<Item = (SocketAddr, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (far, state, inode) = (words.get(2)?, words.get(3)?, words.get(9)?);
        OPEN_STATES.contains(state).then_some(())?;
        Some((end(far)?, inode.parse().ok()?))
    })
}

/// `0100007F:1388`: words of four bytes, each in the order of this machine.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            // A socket of IPv6 may speak to a host of IPv4.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_the_kernel_shows_of_connections() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let row = |far: &str, state: &str, inode| {
            format!(
                "   0: 0100007F:A0C4 {far} {state} 00000000:00000000 00:00000000 00000000  33  0 {inode} 1 0 20 4 30 10 -1\n"
            )
        };
        let table = format!(
            "{head}{}{}{}",
            row("0200000A:1388", "01", 77),
            row("0200000A:1388", "06", 0),
            row("00000000:0000", "0A", 78),
        );
        let wanted: SocketAddr = "10.0.0.2:5000".parse().unwrap();
        // As a little-endian machine shows it.
        if cfg!(target_endian = "little") {
            assert_eq!(rows(&table).collect::<Vec<_>>(), [(wanted, 77)]);
            let mapped = end("0000000000000000FFFF00000200000A:1388").unwrap();
            assert_eq!(mapped, wanted);
        }
        assert_eq!((end("nonsense"), end("00:1"), inode("pipe:[3]")), (None, None, None));
    }

    #[test]
    fn a_connection_of_a_process_is_counted_while_it_is_open() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let processes = Processes { master: own, accepting: vec![own], ending: Vec::new() };
        let ends = BTreeMap::from([(at, "crm-b1".to_owned())]);
        assert_eq!(of(&processes, &ends).unwrap(), BTreeMap::new());
        let stream = TcpStream::connect(at).unwrap();
        let one = BTreeMap::from([("crm-b1".to_owned(), 1)]);
        assert_eq!(of(&processes, &ends).unwrap(), one);
        let others = Processes { master: own, accepting: Vec::new(), ending: Vec::new() };
        assert_eq!(of(&others, &ends).unwrap(), BTreeMap::new(), "somebody else's");
        drop(stream);
        assert_eq!(of(&processes, &ends).unwrap(), BTreeMap::new());
    }
}
