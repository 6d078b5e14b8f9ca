//! What root may run: a file that nobody but root could have written or put there.
//!
//! ```text
//! /  ──openat, no links followed──▶ usr ──▶ local ──▶ bin ──▶ app.sh     every one: root's, closed to other writers
//!                 a link: root's own; where it leads is walked in the same way        └─ `#!`: its interpreter too
//! ```
//!
//! A directory that anybody may write to is let through where it is sticky, as /tmp is: in it nobody can move or
//! replace what root owns, and the next name is root's or refused.
//!
//! Invariant: asked at `agent check`, and again each time before root runs something.
//! Invariant: every step goes from an open handle; nothing that is moved meanwhile changes what was looked at.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

/// As many links as the kernel follows.
const LINKS_MAX: u32 = 40;
/// As many interpreters of interpreters as the kernel starts.
const INTERPRETERS_MAX: u32 = 5;
/// As much of a `#!` line as the kernel reads.
const FIRST_LINE_BYTES_MAX: u64 = 256;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// Programs of which an argument is what is really run.
const INTERPRETERS: [&str; 12] =
    ["ash", "bash", "dash", "env", "ksh", "node", "nodejs", "perl", "php", "python", "ruby", "sh"];

/// Why root does not run a file.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error(
        "root will not run it: {path} belongs to user {owner}; mend: declare another `user`, or `chown root:root {path}`"
    )]
    Owner { path: String, owner: u32 },
    #[error(
        "root will not run it: others than root can write {path} (mode {mode:o}); mend: declare another `user`, or `chmod go-w {path}`"
    )]
    Writable { path: String, mode: u32 },
    #[error("root will not run it: {path} is not a file; mend: name a program")]
    NotAFile { path: String },
    #[error(
        "root will not run it: {path} leads through too many links; mend: name the file itself"
    )]
    Links { path: String },
    #[error("cannot look at {path}")]
    Look {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Whether root may run a command: its program, what that is interpreted by, and what it interprets.
pub(crate) fn command(argv: &[String], directory: &Path) -> Result<(), Untrusted> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    program_file(Path::new(program), 0)?;
    if !is_interpreter(Path::new(program)) {
        return Ok(());
    }
    for argument in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        let path = directory.join(argument);
        if path.is_file() {
            program_file(&path, 0)?;
        }
    }
    Ok(())
}

fn program_file(path: &Path, depth: u32) -> Result<(), Untrusted> {
    let file = walk(path)?;
    match interpreter(file, path)? {
        Some(interpreter) if depth < INTERPRETERS_MAX => program_file(&interpreter, depth + 1),
        Some(_) | None => Ok(()),
    }
}

fn is_interpreter(program: &Path) -> bool {
    let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    // `python3.11` is `python`.
    INTERPRETERS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

/// What the `#!` of a file names. The file was found to be root's alone before.
fn interpreter(file: OwnedFd, path: &Path) -> Result<Option<PathBuf>, Untrusted> {
    let mut line = Vec::new();
    BufReader::new(File::from(file).take(FIRST_LINE_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .map_err(|source| Untrusted::Look { path: shown(path), source })?;
    let Some(line) = line.strip_prefix(b"#!") else { return Ok(None) };
    let words = line.split(u8::is_ascii_whitespace);
    let word = words.into_iter().find(|word| !word.is_empty());
    Ok(word.map(|word| PathBuf::from(OsStr::from_bytes(word))))
}

/// Walks to a file and opens it; fails where root does not hold every step of the way alone.
fn walk(path: &Path) -> Result<OwnedFd, Untrusted> {
    let mut way = vec![open_root()?];
    let mut todo: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let (above, above_path) = way.last().expect("the root is never popped");
        let here = above_path.join(&name);
        let failed =
            |errno: rustix::io::Errno| Untrusted::Look { path: shown(&here), source: errno.into() };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(above, &name, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&opened).map_err(failed)?;
        refuse_owner(&stat, &here)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Untrusted::Links { path: shown(path) });
                }
                let target = rustix::fs::readlinkat(&opened, "", Vec::new()).map_err(failed)?;
                let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    way.truncate(1);
                }
                for name in names(&target).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            FileType::Directory => {
                refuse_writable(&stat, &here, STICKY)?;
                way.push((opened, here));
            }
            FileType::RegularFile if todo.is_empty() => {
                refuse_writable(&stat, &here, 0)?;
                // The same name again, to be read: still root's alone, as its directory is.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return rustix::fs::openat(above, &name, flags, Mode::empty()).map_err(failed);
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(Untrusted::NotAFile { path: shown(&here) }),
        }
    }
    Err(Untrusted::NotAFile { path: shown(path) })
}

fn open_root() -> Result<(OwnedFd, PathBuf), Untrusted> {
    let path = PathBuf::from("/");
    let failed =
        |errno: rustix::io::Errno| Untrusted::Look { path: "/".to_owned(), source: errno.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&root).map_err(failed)?;
    refuse_owner(&stat, &path)?;
    refuse_writable(&stat, &path, STICKY)?;
    Ok((root, path))
}

/// The names of a path, `..` among them, without the root and `.`.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

fn refuse_owner(stat: &Stat, path: &Path) -> Result<(), Untrusted> {
    if stat.st_uid == 0 {
        return Ok(());
    }
    Err(Untrusted::Owner { path: shown(path), owner: stat.st_uid })
}

/// An access list that lets others write shows in the bits of the group.
fn refuse_writable(stat: &Stat, path: &Path, excused_by: u32) -> Result<(), Untrusted> {
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if link || stat.st_mode & WRITABLE_BY_OTHERS == 0 || stat.st_mode & excused_by != 0 {
        return Ok(());
    }
    Err(Untrusted::Writable { path: shown(path), mode: stat.st_mode & 0o7777 })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
    };

    use super::*;

    fn tried(argv: &[&str]) -> Result<(), String> {
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        command(&argv, Path::new("/")).map_err(|error| error.to_string())
    }

    /// Somebody who is not root, where the test may give files away.
    fn somebody() -> Option<u32> {
        rustix::process::geteuid().is_root().then_some(1000)
    }

    #[test]
    fn what_the_host_came_with_is_trusted() {
        tried(&["/bin/sh", "-c", "true"]).unwrap();
        tried(&["/usr/bin/env", "true"]).unwrap();
    }

    #[test]
    fn p09_root_runs_nothing_that_another_could_have_written() {
        let Some(somebody) = somebody() else { return };
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let own = root.join("own");
        fs::create_dir(&own).unwrap();
        let script = own.join("run.sh");
        fs::write(&script, "#!/bin/sh\ntrue\n").unwrap();
        let run = |path: &Path| tried(&[path.to_str().unwrap()]);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        run(&script).unwrap();

        fs::set_permissions(&script, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(run(&script).unwrap_err().contains("chmod go-w"), "a group that writes");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&script, Some(somebody), None).unwrap();
        assert!(run(&script).unwrap_err().contains("belongs to user 1000"), "another's file");
        chown(&script, Some(0), None).unwrap();
        chown(&own, Some(somebody), None).unwrap();
        assert!(run(&script).unwrap_err().contains("/own belongs to user 1000"), "in another's");
        chown(&own, Some(0), None).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(run(&script).unwrap_err().contains("/own (mode 777)"), "in everybody's");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        run(&script).unwrap();
    }

    #[test]
    fn p09_links_interpreters_and_what_they_run_are_looked_at_too() {
        let Some(somebody) = somebody() else { return };
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let theirs = root.join("theirs");
        fs::create_dir(&theirs).unwrap();
        let script = theirs.join("run.sh");
        fs::write(&script, "true\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&theirs, Some(somebody), None).unwrap();
        let refused = |argv: &[&str]| {
            let error = tried(argv).unwrap_err();
            assert!(error.contains("theirs belongs to user 1000"), "{argv:?}: {error}");
        };

        let link = root.join("link");
        symlink("theirs/../theirs/run.sh", &link).unwrap();
        refused(&[link.to_str().unwrap()]);
        let program = root.join("program");
        fs::write(&program, format!("#! {} -x\n", script.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        refused(&[program.to_str().unwrap()]);
        refused(&["/bin/sh", "-e", script.to_str().unwrap()]);
        // A link of somebody's in a directory that is everybody's may lead elsewhere tomorrow.
        let other = root.join("other");
        symlink("/bin/true", &other).unwrap();
        tried(&[other.to_str().unwrap()]).unwrap();
        std::os::unix::fs::lchown(&other, Some(somebody), None).unwrap();
        assert!(tried(&[other.to_str().unwrap()]).unwrap_err().contains("other belongs to"));
    }

    #[test]
    fn a_circle_of_links_ends() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().canonicalize().unwrap().join("a");
        symlink("a", &link).unwrap();
        let error = tried(&[link.to_str().unwrap()]).unwrap_err();
        assert!(error.contains("too many links") || error.contains("belongs to user"), "{error}");
    }
}
