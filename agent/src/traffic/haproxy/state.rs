//! What HAProxy prints of its servers, and what its configuration says of the state file.
//!
//! Invariant: a text that is not understood is an error, never an empty list.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The version line of `show servers state`.
const VERSION: &str = "1";
/// Bits of `srv_admin_state`: maintenance by hand, of a tracked server, of the configuration, of a name that cannot be
/// looked up; and draining by hand or of a tracked server.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
const DRAINING: u32 = 0x08 | 0x10;
/// Those of them that were said on the socket and stand in no configuration.
const BY_HAND: u32 = 0x01 | 0x08;
/// `srv_op_state` of one that is stopped.
const STOPPED: u32 = 0;

/// One server at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) backend: String,
    pub(super) server: String,
    op_state: u32,
    admin_state: u32,
    pub(super) weight: u64,
    configured_weight: u64,
}

impl Row {
    /// Whether new requests are meant to go there.
    pub(super) fn is_given(&self) -> bool {
        self.weight > 0 && self.admin_state & (MAINTENANCE | DRAINING) == 0
    }

    /// Kept from traffic, and not by us: we set the weight to 0 as well.
    pub(super) fn is_held_by_hand(&self) -> bool {
        self.weight > 0 && !self.is_given()
    }

    /// By HAProxy's own checks.
    pub(super) fn is_down(&self) -> bool {
        self.op_state == STOPPED
    }

    /// A restart would bring back the same.
    pub(super) fn is_as_configured(&self) -> bool {
        self.weight == self.configured_weight && self.admin_state & BY_HAND == 0
    }

    /// What `set server … state` calls it.
    pub(super) fn state_word(&self) -> &'static str {
        if self.admin_state & MAINTENANCE != 0 {
            "maint"
        } else if self.admin_state & DRAINING != 0 {
            "drain"
        } else {
            "ready"
        }
    }
}

/// The servers of `show servers state`.
pub(super) fn rows(text: &str) -> Result<Vec<Row>, String> {
    let strange =
        || "HAProxy tells the state of its servers in a form that is not known".to_owned();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    if lines.next().map(str::trim) != Some(VERSION) {
        return Err(strange());
    }
    let heads = lines.next().and_then(|line| line.strip_prefix("# ")).ok_or_else(strange)?;
    let heads: Vec<&str> = heads.split_whitespace().collect();
    let at = |name: &str| heads.iter().position(|head| *head == name).ok_or_else(strange);
    let (backend, server) = (at("be_name")?, at("srv_name")?);
    let (op, admin) = (at("srv_op_state")?, at("srv_admin_state")?);
    let (weight, configured) = (at("srv_uweight")?, at("srv_iweight")?);
    let mut rows = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| words.get(at).copied().ok_or_else(strange);
        rows.push(Row {
            backend: word(backend)?.to_owned(),
            server: word(server)?.to_owned(),
            op_state: word(op)?.parse().map_err(|_| strange())?,
            admin_state: word(admin)?.parse().map_err(|_| strange())?,
            weight: word(weight)?.parse().map_err(|_| strange())?,
            configured_weight: word(configured)?.parse().map_err(|_| strange())?,
        });
    }
    Ok(rows)
}

/// The backends of `show stat` that divide by weight and by nothing else.
pub(super) fn backends_by_weight(stat: &str) -> Result<BTreeSet<String>, String> {
    let mut backends = BTreeSet::new();
    for [proxy, server, algorithm] in columns(stat, ["pxname", "svname", "algo"])? {
        if server == "BACKEND" && algorithm == "roundrobin" {
            backends.insert(proxy);
        }
    }
    Ok(backends)
}

/// Backend, server and current sessions of each row of `show stat`.
pub(super) fn sessions(stat: &str) -> Result<Vec<(String, String, u64)>, String> {
    let rows = columns(stat, ["pxname", "svname", "scur"])?;
    let row = |[proxy, server, now]: [String; 3]| (proxy, server, now.parse().unwrap_or(0));
    Ok(rows.into_iter().map(row).collect())
}

/// Three columns of HAProxy's CSV. What it quotes stands behind all of them.
fn columns(stat: &str, names: [&str; 3]) -> Result<Vec<[String; 3]>, String> {
    let strange = || "HAProxy tells its statistics in a form that is not known".to_owned();
    let mut lines = stat.lines().filter(|line| !line.trim().is_empty());
    let heads = lines.next().and_then(|line| line.strip_prefix("# ")).ok_or_else(strange)?;
    let heads: Vec<&str> = heads.split(',').collect();
    let mut at = [0; 3];
    for (at, name) in at.iter_mut().zip(names) {
        *at = heads.iter().position(|head| *head == name).ok_or_else(strange)?;
    }
    let mut rows = Vec::new();
    for line in lines {
        let cells = cells(line);
        let cell = |at: usize| cells.get(at).cloned().ok_or_else(strange);
        rows.push([cell(at[0])?, cell(at[1])?, cell(at[2])?]);
    }
    Ok(rows)
}

/// A line of CSV; a cell in quotes may hold commas.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cells.last_mut().expect("there is one").push(other),
        }
    }
    cells
}

/// The configuration files that a running HAProxy was started with; none where they cannot be read.
pub(super) fn configuration_of(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let mut text = String::new();
    let named = words.windows(2).filter(|two| two[0] == "-f").map(|two| PathBuf::from(&two[1]));
    for path in named {
        if !path.is_absolute() {
            return None;
        }
        text.push_str(&fs::read_to_string(path).ok()?);
        text.push('\n');
    }
    (!text.is_empty()).then_some(text)
}

/// Whether a configuration has HAProxy read this state file when it starts.
pub(super) fn reads_state_file(configuration: &str, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let said = |key: &str| {
        configuration.lines().find_map(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            (words.next() == Some(key)).then(|| words.next().unwrap_or_default().to_owned())
        })
    };
    let forgets = "HAProxy would forget the weights when it restarts";
    match said("server-state-file") {
        None => Err(format!(
            "{forgets}: its configuration has no `server-state-file`; mend: add `server-state-file {shown}` to `global`"
        )),
        Some(other) if other.starts_with('/') && Path::new(&other) != path => Err(format!(
            "{forgets}: it reads {other}, and {shown} is written; mend: `server-state-file {shown}` in `global`"
        )),
        Some(_) if said("load-server-state-from-file").as_deref() != Some("global") => Err(
            format!("{forgets}: mend: add `load-server-state-from-file global` to its `defaults`"),
        ),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &str = include_str!("fixtures/servers-state.txt");
    const STAT: &str = include_str!("fixtures/stat.csv");

    #[test]
    fn what_haproxy_prints_of_its_servers() {
        let rows = rows(SERVERS).unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.server.as_str(), row.weight, row.is_given(), row.state_word()))
            .collect();
        let wanted = [
            ("crm-b1", 95, true, "ready"),
            ("crm-b2", 5, true, "ready"),
            ("crm-g1", 0, false, "maint"),
            ("crm-g2", 7, false, "drain"),
        ];
        assert_eq!(seen, wanted);
        assert!(rows[3].is_held_by_hand() && !rows[2].is_held_by_hand());
        for strange in ["", "2\n# be_name\n", "No such backend.\n", "1\nno heads\n"] {
            assert!(super::rows(strange).is_err(), "{strange:?}");
        }
    }

    #[test]
    fn what_haproxy_prints_of_its_sessions() {
        let found = sessions(STAT).unwrap();
        assert!(found.contains(&("crm-api".to_owned(), "crm-b1".to_owned(), 3)), "{found:?}");
        assert_eq!(backends_by_weight(STAT).unwrap(), ["crm-api".to_owned()].into());
        assert!(sessions("Unknown command").is_err());
        assert_eq!(cells("a,\"b,c\",d"), ["a", "b,c", "d"]);
    }

    #[test]
    fn a_restart_that_would_forget_the_weights_is_told() {
        let path = Path::new("/var/lib/haproxy/crm.state");
        let good = "global\n  server-state-file /var/lib/haproxy/crm.state # ours\ndefaults\n  load-server-state-from-file global\n";
        reads_state_file(good, path).unwrap();
        for (bad, words) in [
            ("global\n", "has no `server-state-file`"),
            (
                "global\n #server-state-file /var/lib/haproxy/crm.state\n",
                "has no `server-state-file`",
            ),
            ("global\n server-state-file /elsewhere\n", "it reads /elsewhere"),
            ("global\n server-state-file crm.state\n", "add `load-server-state-from-file global`"),
        ] {
            let why = reads_state_file(bad, path).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
