//! Where it is measured: a new ext4 in a loop file for each tool and round, or a directory where that cannot be had.
//!
//! Invariant: every measurement ends with a sync of the file system that it wrote to.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A file system, or a directory of one. Taken away when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    image: Option<PathBuf>,
    _dir: tempfile::TempDir,
}

/// Room for four copies of the larger tree.
const IMAGE_BYTES: u64 = 6 << 30;

impl Place {
    /// An ext4 of its own where this user may mount one.
    pub(crate) fn new(within: &Path, looped: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-store.").tempdir_in(within)?;
        let root = dir.path().join("fs");
        fs::create_dir(&root)?;
        if !looped {
            return Ok(Self { root, image: None, _dir: dir });
        }
        let image = dir.path().join("image");
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"])
            .arg(&image))?;
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&root))?;
        Ok(Self { root, image: Some(image), _dir: dir })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Everything that was written is durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    /// Forgets what is cached of it, so that the next read comes from the disk.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        self.sync()?;
        if let Some(image) = &self.image {
            run(Command::new("umount").arg(&self.root))?;
            run(Command::new("mount").args(["-o", "loop,noatime"]).arg(image).arg(&self.root))?;
        }
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        Ok(())
    }

    /// Bytes that everything below a name takes on disk.
    pub(crate) fn taken(&self, name: &str) -> anyhow::Result<u64> {
        let output = Command::new("du").args(["-s", "-B1"]).arg(self.path(name)).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.split_whitespace().next().unwrap_or("0").parse()?)
    }

    /// How long something takes until it is durable.
    pub(crate) fn timed(
        &self,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        self.sync()?;
        let begun = Instant::now();
        work()?;
        self.sync()?;
        Ok(begun.elapsed())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.image.is_some()
            && let Err(error) = run(Command::new("umount").arg(&self.root))
        {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?} → {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
