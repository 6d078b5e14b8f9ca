//! What is compared: each way to keep a tree and to get it back.
//!
//! Every tool does the same three things on a live tree: save it, save it again after 2 % have changed, and make the
//! live tree version 1 again. What cannot be found on the machine is left out, by name.

use std::{path::Path, process::Command};

use agent::store::{ComponentFiles, Label, Store};
use proto::policy::{FilesPolicy, SwitchMode, TreePolicy};

use crate::place::{Place, run};

/// A way to keep a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Ours,
    Cp,
    Rsync,
    Restic,
    Borg,
}

/// What was saved first, and what after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::One => "v1",
            Self::Two => "v2",
        }
    }
}

impl Tool {
    pub(crate) const ALL: [Self; 5] = [Self::Ours, Self::Cp, Self::Rsync, Self::Restic, Self::Borg];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "lastgood",
            Self::Cp => "cp -a",
            Self::Rsync => "rsync -a --delete",
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }

    /// Whether it is on this machine.
    pub(crate) fn is_here(self) -> bool {
        let program = match self {
            Self::Ours => return true,
            Self::Cp => "cp",
            Self::Rsync => "rsync",
            Self::Restic => "restic",
            Self::Borg => "borg",
        };
        let help = if self == Self::Restic { "version" } else { "--version" };
        Command::new(program).arg(help).output().is_ok_and(|output| output.status.success())
    }

    /// What has to be there before the first save and is not measured.
    pub(crate) fn prepare(self, place: &Place) -> anyhow::Result<()> {
        let repository = place.path("saved");
        match self {
            // It makes its own, closed to others.
            Self::Ours => Ok(()),
            Self::Cp | Self::Rsync => Ok(std::fs::create_dir(&repository)?),
            Self::Restic => run(restic(&repository).arg("init")),
            Self::Borg => run(borg().args(["init", "-e", "none"]).arg(&repository)),
        }
    }

    /// Saves the live tree.
    pub(crate) fn save(self, place: &Place, version: Version) -> anyhow::Result<()> {
        let (live, saved) = (place.path("live"), place.path("saved"));
        let to = saved.join(version.name());
        match self {
            Self::Ours => {
                let label = Label {
                    release: version.name().to_owned(),
                    version: None,
                    taken_at_unix_ms: 1,
                    learned_at_unix_ms: None,
                };
                Store::open(&saved)?.snapshot(&files(&live), label)?;
                Ok(())
            }
            Self::Cp => run(Command::new("cp").arg("-a").arg(&live).arg(&to)),
            Self::Rsync => {
                run(Command::new("rsync").args(["-a", "--delete"]).arg(inside(&live)).arg(&to))
            }
            Self::Restic => run(restic(&saved).current_dir(&live).args([
                "backup",
                "--quiet",
                "--host",
                "bench",
                "--tag",
                version.name(),
                ".",
            ])),
            Self::Borg => run(borg()
                .current_dir(&live)
                .args(["create", "--compression", "lz4"])
                .arg(format!("{}::{}", saved.display(), version.name()))
                .arg(".")),
        }
    }

    /// Makes the live tree version 1 again.
    pub(crate) fn restore(self, place: &Place) -> anyhow::Result<()> {
        let (live, saved) = (place.path("live"), place.path("saved"));
        let from = saved.join("v1");
        match self {
            Self::Ours => anyhow::bail!("its restore is measured step by step"),
            Self::Cp => {
                let (new, old) = (place.path("new"), place.path("old"));
                run(Command::new("cp").arg("-a").arg(&from).arg(&new))?;
                std::fs::rename(&live, &old)?;
                Ok(std::fs::rename(&new, &live)?)
            }
            Self::Rsync => {
                run(Command::new("rsync").args(["-a", "--delete"]).arg(inside(&from)).arg(&live))
            }
            Self::Restic => {
                let new = place.path("new");
                run(restic(&saved)
                    .args(["restore", "latest", "--quiet", "--tag", "v1", "--target"])
                    .arg(&new))?;
                std::fs::rename(&live, place.path("old"))?;
                Ok(std::fs::rename(&new, &live)?)
            }
            Self::Borg => {
                let new = place.path("new");
                std::fs::create_dir(&new)?;
                run(borg()
                    .current_dir(&new)
                    .arg("extract")
                    .arg(format!("{}::v1", saved.display())))?;
                std::fs::rename(&live, place.path("old"))?;
                Ok(std::fs::rename(&new, &live)?)
            }
        }
    }
}

/// The component that is measured: one tree.
pub(crate) fn files(live: &Path) -> ComponentFiles {
    let tree = TreePolicy {
        tree: live.to_owned(),
        switch: SwitchMode::Exchange,
        keep: vec!["uploads".into()],
        privileged_files: false,
        from: None,
    };
    ComponentFiles {
        component: "app".to_owned(),
        files: vec![FilesPolicy::Tree(tree)],
        managers: Vec::new(),
    }
}

/// The exact hash of a release in the store.
pub(crate) fn known(store: &Store, release: &str) -> anyhow::Result<agent::store::Hash> {
    let rows = store.list()?;
    let row = rows.iter().find(|row| row.release == release);
    Ok(row.ok_or_else(|| anyhow::anyhow!("{release} was not saved"))?.exact)
}

fn inside(path: &Path) -> String {
    format!("{}/", path.display())
}

fn restic(repository: &Path) -> Command {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", "bench").arg("--no-cache").arg("-r").arg(repository);
    command
}

fn borg() -> Command {
    let mut command = Command::new("borg");
    command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
    command
}
