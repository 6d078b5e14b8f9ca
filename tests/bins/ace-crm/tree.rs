//! A release of the app on disk.
//!
//! ```text
//! VERSION              v2.0.0
//! .env.production      the keys that the app needs, and of which release they are; 0600
//! fault                what is wrong with this release, where something is
//! lib/module-0001.js   `// release v2.0.0` in every second one; the others are the same in every release
//! lib/only-in-v2.0.0.js
//! scripts/start-all.sh scripts/stop-all.sh
//! uploads/ logs/       what the app's users and the app write: kept across releases
//! ```

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::Context as _;
use clap::ValueEnum as _;

/// Keys without which the app does not start.
const REQUIRED: [&str; 3] = ["SUPABASE_URL", "JWT_SECRET", "STRIPE_SECRET_KEY"];
const ENVIRONMENT: &str = ".env.production";
const FAULT: &str = "fault";
const MARK: &str = "// release ";
const PAGE: &str = "module.exports = function () { return 'the same in every release'; };\n";

/// What can be wrong with a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// A quarter of all requests fails, and the health check says so.
    ErrorRate,
    /// The same, but each request fails by a chance of its own.
    ErrorsByChance,
    /// Almost a third of all requests fails, and the health check says that all is well.
    Lie,
    /// The health check answers 500.
    Health500,
    /// Every answer but the health check's takes a second.
    Slow,
    /// Only the health check answers.
    Hang,
    /// It ends soon after it has started.
    CrashLoop,
    /// A key is missing in its environment, so that it does not start.
    MissingKey,
    /// It takes long to stop.
    SlowStop,
    /// It does not stop when it is asked to.
    IgnoresTerm,
}

/// What a service starts on.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: String,
    pub(crate) fault: Option<Fault>,
    /// Every release that a file of it is of: one, or it is a mix.
    pub(crate) releases: BTreeSet<String>,
}

/// Makes a release in a directory that is not there yet.
pub(crate) fn write(
    dir: &Path,
    version: &str,
    fault: Option<Fault>,
    files: usize,
) -> anyhow::Result<()> {
    let lib = dir.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("making {}", lib.display()))?;
    for number in 0..files {
        let head =
            if number % 2 == 0 { format!("{MARK}{version}\n") } else { "// shared\n".to_owned() };
        // Sizes of a real library: most are small.
        let text = head + &PAGE.repeat(1 + number % 40);
        fs::write(lib.join(format!("module-{number:04}.js")), text)?;
    }
    fs::write(lib.join(format!("only-in-{version}.js")), "// by its name\n")?;
    fs::write(dir.join("VERSION"), format!("{version}\n"))?;
    let scripts = dir.join("scripts");
    fs::create_dir_all(&scripts)?;
    for (name, verb) in [("start-all.sh", "start"), ("stop-all.sh", "stop")] {
        let path = scripts.join(name);
        let text = format!(
            "#!/bin/sh\n{MARK}{version}\nexec systemctl {verb} ace-crm-backend ace-crm-frontend ace-crm-client-portal\n"
        );
        fs::write(&path, text.replace(MARK, "# release "))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let mut environment = fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join(ENVIRONMENT))?;
    writeln!(environment, "RELEASE={version}")?;
    for key in REQUIRED {
        if !(fault == Some(Fault::MissingKey) && key == "JWT_SECRET") {
            writeln!(environment, "{key}=secret-of-{version}")?;
        }
    }
    if let Some(fault) = fault {
        let name = fault.to_possible_value().context("a fault without a name")?;
        fs::write(dir.join(FAULT), name.get_name())?;
    }
    Ok(())
}

/// Reads what is in a directory, to the last file.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Found> {
    let text = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let version = text("VERSION")?.trim().to_owned();
    let mut releases = BTreeSet::from([version.clone()]);
    for entry in fs::read_dir(dir.join("lib")).context("reading lib")? {
        let mut line = String::new();
        io::BufReader::new(fs::File::open(entry?.path())?).read_line(&mut line)?;
        if let Some(release) = line.trim_end().strip_prefix(MARK) {
            releases.insert(release.to_owned());
        }
    }
    let environment = text(ENVIRONMENT)?;
    let value = |key: &str| {
        environment.lines().filter_map(|line| line.split_once('=')).find(|(k, _)| *k == key)
    };
    releases.extend(value("RELEASE").map(|(_, release)| release.to_owned()));
    for key in REQUIRED {
        anyhow::ensure!(value(key).is_some(), "{key} is not set in {ENVIRONMENT}");
    }
    let fault = match fs::read_to_string(dir.join(FAULT)) {
        Ok(name) => Some(Fault::from_str(name.trim(), false).map_err(anyhow::Error::msg)?),
        Err(_) => None,
    };
    Ok(Found { version, fault, releases })
}
