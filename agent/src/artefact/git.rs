//! A commit as an artefact: git gets it as the policy's user, the agent checks it to the last byte.
//!
//! ```text
//! ls-remote ─▶ which commit is it now? ─ not the digest's: refused ─▶ fetch --depth 1 into a repository of that user's
//!   ─▶ which commit came? ─▶ git archive ─▶ unpack ─▶ the tree's hash, made anew here ═ the one that the commit names
//! ```
//!
//! Git runs without a shell, with no configuration but ours, without hooks, filters and submodules, and by one protocol:
//! the repository's. The repository stands where the user can get to it, and is removed afterwards.
//!
//! Invariant: a tag or branch that moved is found before anything is unpacked.
//! Invariant: what the user's git says is not believed: the commit's hash is made from what was unpacked.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    os::{fd::AsFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use proto::{artefact::Digest, policy::GitSource};
use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::{
    building::{Building, Built, Limits, TreeRule},
    digest::hex,
    error::ArtefactError,
    place::{Outside, Place, Places},
    unpack::unpack,
};
use crate::{
    exec::{self, Output, Spec, user, user::User},
    store::{dir::Dir, shown},
};

/// Where what was fetched is called so.
const WANTED: &str = "refs/lastgood/wanted";
/// A commit with its message.
const COMMIT_BYTES_MAX: u64 = 1024 * 1024;
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
const CHUNK_BYTES: usize = 128 * 1024;
/// Before everything that a repository itself says: its bytes are wanted as they are.
const ATTRIBUTES: &str =
    "* -text -eol -ident -filter -working-tree-encoding -export-ignore -export-subst\n";

/// Gets a commit and unpacks it into `root`.
pub(super) async fn fetch(
    source: &GitSource,
    name: &str,
    wanted: &Digest,
    commit: &str,
    places: &Places,
    (place, root): (&Place, Dir),
    (trees, limits, end): (Vec<TreeRule>, Limits, Instant),
) -> Result<Built, ArtefactError> {
    let git = Git::set_up(source, commit, places, end)?;
    let from = git.where_it_is(name, wanted, commit).await?;
    git.run(&["init", "--quiet", "--bare", &git.template(), git.format(), &git.repository()])
        .await?;
    let refspec = format!("{from}:{WANTED}");
    let fetch = ["--git-dir", &git.repository(), "fetch", "--quiet", "--depth=1", "--no-tags"];
    let what = ["--no-write-fetch-head", "--", &source.repository, &refspec];
    git.run(&[fetch.as_slice(), &what].concat()).await?;
    let came = format!("{WANTED}^{{commit}}");
    let came = ["--git-dir", &git.repository(), "rev-parse", "--verify", "--quiet", &came];
    let came = git.run(&came).await?.stdout.trim().to_owned();
    is_commit(name, wanted, commit, &came)?;

    let tree = git.tree_of(commit, place).await?;
    let archive = place.dir.create(b"archive")?;
    let into = archive.try_clone().map_err(ArtefactError::io("write the archive"))?;
    let pack = ["--git-dir", &git.repository(), "archive", "--format=tar", commit];
    // What it unpacks to, and a header for each entry.
    let most = limits.bytes.saturating_add(limits.entries.saturating_mul(2048));
    git.run_into(&pack, into, most).await?;
    let algorithm = git.algorithm;
    let (name, wanted) = (name.to_owned(), wanted.clone());
    blocking(move || {
        let mut building = Building::new(&root, &trees, limits, end);
        unpack(&archive, &mut building)?;
        let built = building.finish()?;
        let found = Oids { algorithm, end }.tree(&root, b"")?;
        if root.stat(b".gitmodules")?.is_some() && found != tree {
            let mend =
                "make an archive of it in the build, with `source: { directory: … }` or `https`";
            return Err(ArtefactError::refused(
                b".gitmodules",
                "and submodules are not fetched",
                mend,
            ));
        }
        if found != tree {
            let found = format!("a commit of another tree ({found}, not {tree})");
            return Err(ArtefactError::Wrong { what: name, wanted, found });
        }
        Ok(built)
    })
    .await
}

/// Runs what reads and writes many files on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtefactError> + Send + 'static,
) -> Result<T, ArtefactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ArtefactError::archive(format!("unpacking it panicked: {error}"))),
    }
}

fn is_commit(name: &str, wanted: &Digest, commit: &str, found: &str) -> Result<(), ArtefactError> {
    if found == commit {
        return Ok(());
    }
    let (what, found) = (format!("`{name}`"), format!("git:{}", shown(found.as_bytes())));
    Err(ArtefactError::Wrong { what, wanted: wanted.clone(), found })
}

/// Git, as one user, with one repository.
struct Git {
    program: String,
    user: String,
    environment: BTreeMap<String, String>,
    outside: Outside,
    source: String,
    algorithm: &'static Algorithm,
    end: Instant,
}

impl Git {
    fn set_up(
        source: &GitSource,
        commit: &str,
        places: &Places,
        end: Instant,
    ) -> Result<Self, ArtefactError> {
        let program = program().ok_or(ArtefactError::NotThere {
            path: "git".to_owned(),
            what: "not installed on this host; install it (Debian: apt-get install git)",
        })?;
        let found = user::look_up(&source.user).map_err(ArtefactError::io("look up a user"))?;
        let no_user = || exec::ExecError::NoUser(source.user.clone());
        let user = found.ok_or_else(|| ArtefactError::Exec(no_user()))?;
        let outside = places.outside()?;
        write_open(&outside.dir, b"config", config(&source.repository).as_bytes())?;
        let info = make_open(&make_open(&outside.dir, b"template")?, b"info")?;
        write_open(&info, b"attributes", ATTRIBUTES.as_bytes())?;
        own_by(&outside.dir, b"repo", &user)?;
        let environment = environment(source, &user, &outside.path);
        let algorithm = if commit.len() == 40 { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
        let (user, source) = (source.user.clone(), source.repository.clone());
        Ok(Self { program, user, environment, outside, source, algorithm, end })
    }

    fn repository(&self) -> String {
        self.outside.path.join("repo").to_string_lossy().into_owned()
    }

    fn template(&self) -> String {
        format!("--template={}", self.outside.path.join("template").to_string_lossy())
    }

    fn format(&self) -> &'static str {
        if self.algorithm == &SHA256 { "--object-format=sha256" } else { "--object-format=sha1" }
    }

    /// What to fetch: the tag or branch, where it is at the wanted commit now; or the commit itself.
    async fn where_it_is(
        &self,
        name: &str,
        wanted: &Digest,
        commit: &str,
    ) -> Result<String, ArtefactError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if name.len() == commit.len() && name.bytes().all(hex) {
            return is_commit(name, wanted, commit, name).map(|()| name.to_owned());
        }
        let (tag, branch) = (format!("refs/tags/{name}"), format!("refs/heads/{name}"));
        let peeled = format!("{tag}^{{}}");
        let listed = self.run(&["ls-remote", "--", &self.source, &tag, &peeled, &branch]).await?;
        let rows: BTreeMap<&str, &str> = listed
            .stdout
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(id, name)| (name, id))
            .collect();
        // As git itself takes a name: a tag before a branch; and of a tag what it is a tag of.
        let found = [(&peeled, &tag), (&tag, &tag), (&branch, &branch)];
        let found = found.into_iter().find_map(|(row, from)| Some((rows.get(row.as_str())?, from)));
        let Some((id, from)) = found else {
            let what = format!("tag, branch or whole hash of a commit `{name}`");
            return Err(ArtefactError::NoRevision { what });
        };
        is_commit(name, wanted, commit, id).map(|()| from.clone())
    }

    /// The tree of a commit, from a commit object that has the hash of its name.
    async fn tree_of(&self, commit: &str, place: &Place) -> Result<String, ArtefactError> {
        let file = place.dir.create(b"commit")?;
        let into = file.try_clone().map_err(ArtefactError::io("write a commit"))?;
        let cat = ["--git-dir", &self.repository(), "cat-file", "commit", commit];
        self.run_into(&cat, into, COMMIT_BYTES_MAX).await?;
        let length = file.metadata().map_err(ArtefactError::io("read a commit"))?.len();
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(ArtefactError::io("read a commit"))?;
        let mut context = begin(self.algorithm, "commit", length);
        context.update(&bytes);
        let found = hex(context.finish().as_ref());
        let tree = bytes.strip_prefix(b"tree ").and_then(|rest| rest.get(..commit.len()));
        match tree.and_then(|tree| std::str::from_utf8(tree).ok()) {
            Some(tree) if found == commit => Ok(tree.to_owned()),
            Some(_) | None => Err(ArtefactError::Wrong {
                what: "what git gave for the commit".to_owned(),
                wanted: Digest::Git(commit.to_owned()),
                found: format!("git:{found}"),
            }),
        }
    }

    fn spec(&self, arguments: &[&str]) -> Spec {
        let argv = std::iter::once(self.program.as_str()).chain(arguments.iter().copied());
        let spec = Spec::new(argv).as_user(Some(self.user.clone()));
        Spec { environment: self.environment.clone(), ..spec }
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output, ArtefactError> {
        let spec = self.spec(arguments);
        self.ended(&spec, exec::run(&spec, self.left()).await)
    }

    async fn run_into(
        &self,
        arguments: &[&str],
        into: File,
        most: u64,
    ) -> Result<(), ArtefactError> {
        let spec = self.spec(arguments);
        self.ended(&spec, exec::run_into(&spec, self.left(), into, most).await).map(drop)
    }

    fn ended(
        &self,
        spec: &Spec,
        output: Result<Output, exec::ExecError>,
    ) -> Result<Output, ArtefactError> {
        let output = output.map_err(ArtefactError::Exec)?;
        if output.timed_out {
            return Err(ArtefactError::Late);
        }
        output.success(spec).map_err(ArtefactError::Git)
    }

    fn left(&self) -> std::time::Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// The git that a command of root would be.
pub(super) fn program() -> Option<String> {
    let found = exec::PATH.split(':').map(|dir| Path::new(dir).join("git")).find(|at| at.is_file());
    found.map(|path| path.to_string_lossy().into_owned())
}

/// All that git is told beside its arguments. What a repository says of itself counts for little: no file of its is run.
fn config(repository: &str) -> String {
    let mut safe = String::new();
    if repository.starts_with('/') {
        // Whose it is does not matter: it is only read, as a user that may read it.
        let quoted = repository.replace('\\', "\\\\").replace('"', "\\\"");
        safe = format!("\tdirectory = \"{quoted}\"\n\tdirectory = \"{quoted}/.git\"\n");
    }
    format!(
        "[safe]\n{safe}[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tattributesFile = /dev/null\n\
         [transfer]\n\tbundleURI = false\n[http]\n\tfollowRedirects = false\n[gc]\n\tauto = 0\n\
         [maintenance]\n\tauto = false\n[submodule]\n\trecurse = false\n[tar]\n\tumask = 0022\n"
    )
}

fn environment(source: &GitSource, user: &User, outside: &Path) -> BTreeMap<String, String> {
    let protocol = match source.repository.split_once("://") {
        Some((protocol, _)) => protocol,
        None => "file",
    };
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let rows = [
        ("PATH", exec::PATH.to_owned()),
        ("HOME", path(user.home.clone())),
        ("LC_ALL", "C".to_owned()),
        ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
        ("GIT_CONFIG_GLOBAL", path(outside.join("config"))),
        ("GIT_ATTR_NOSYSTEM", "1".to_owned()),
        ("GIT_ALLOW_PROTOCOL", protocol.to_owned()),
        ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ("GIT_ASKPASS", "/bin/false".to_owned()),
        ("SSH_ASKPASS", "/bin/false".to_owned()),
        ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes".to_owned()),
        ("GIT_NO_LAZY_FETCH", "1".to_owned()),
        ("GIT_NO_REPLACE_OBJECTS", "1".to_owned()),
        ("GIT_OPTIONAL_LOCKS", "0".to_owned()),
        ("GIT_ADVICE", "0".to_owned()),
    ];
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A file that everybody may read and only the agent may write.
fn write_open(dir: &Dir, name: &[u8], bytes: &[u8]) -> Result<(), ArtefactError> {
    let mut file = dir.create(name)?;
    let at = dir.at(name);
    file.write_all(bytes).map_err(ArtefactError::io(format!("write {at}")))?;
    chmod(&file, 0o644, &at)
}

fn make_open(dir: &Dir, name: &[u8]) -> Result<Dir, ArtefactError> {
    dir.make_dir(name)?;
    let made = dir.dir(name)?;
    chmod(&made, 0o755, &dir.at(name))?;
    Ok(made)
}

fn chmod(file: impl AsFd, mode: u32, at: &str) -> Result<(), ArtefactError> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|errno| ArtefactError::io(format!("set the mode of {at}"))(errno.into()))
}

/// An empty directory of a user's.
fn own_by(dir: &Dir, name: &[u8], user: &User) -> Result<(), ArtefactError> {
    dir.make_dir(name)?;
    if user::is_own(user) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| ArtefactError::io(format!("give {} away", dir.at(name)))(errno.into()))
}

/// The names that git would give to what was unpacked.
struct Oids {
    algorithm: &'static Algorithm,
    end: Instant,
}

impl Oids {
    /// Of a directory; `above` is its path, for messages.
    fn tree(&self, dir: &Dir, above: &[u8]) -> Result<String, ArtefactError> {
        Ok(hex(&self.tree_bytes(dir, above, &mut vec![0; CHUNK_BYTES])?))
    }

    fn tree_bytes(
        &self,
        dir: &Dir,
        above: &[u8],
        chunk: &mut [u8],
    ) -> Result<Vec<u8>, ArtefactError> {
        // Git sorts a directory as if its name ended in a slash.
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for name in dir.names()? {
            let path = if above.is_empty() { name.clone() } else { [above, &name].join(&b'/') };
            let Some(stat) = dir.stat(&name)? else { continue };
            let mut key = name.clone();
            let (mode, id) = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    key.push(b'/');
                    ("40000", self.tree_bytes(&dir.dir(&name)?, &path, chunk)?)
                }
                FileType::Symlink => ("120000", self.blob(&dir.read_link(&name)?)),
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    let mode = if stat.st_mode & 0o100 == 0 { "100644" } else { "100755" };
                    (mode, self.file(dir, &name, &path, chunk)?)
                }
            };
            rows.insert(key, [mode.as_bytes(), b" ", &name, b"\0", &id].concat());
        }
        let body: Vec<u8> = rows.into_values().flatten().collect();
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let mut context = begin(self.algorithm, "tree", length);
        context.update(&body);
        Ok(context.finish().as_ref().to_vec())
    }

    fn blob(&self, bytes: &[u8]) -> Vec<u8> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut context = begin(self.algorithm, "blob", length);
        context.update(bytes);
        context.finish().as_ref().to_vec()
    }

    fn file(
        &self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        chunk: &mut [u8],
    ) -> Result<Vec<u8>, ArtefactError> {
        let file = dir.file(name)?;
        let reading = || ArtefactError::io(format!("read {}", dir.at(name)));
        let length = file.metadata().map_err(reading())?.len();
        let mut context = begin(self.algorithm, "blob", length);
        let mut at = 0u64;
        loop {
            if Instant::now() >= self.end {
                return Err(ArtefactError::Late);
            }
            let read = file.read_at(chunk, at).map_err(reading())?;
            if at == 0 && chunk[..read].starts_with(LFS_POINTER) {
                let mend = "make an archive of it in the build, with `source: { directory: … }` or `https`";
                let what = "which is only a pointer: files of Git LFS are not fetched";
                return Err(ArtefactError::refused(path, what, mend));
            }
            if read == 0 {
                return Ok(context.finish().as_ref().to_vec());
            }
            context.update(&chunk[..read]);
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
    }
}

fn begin(algorithm: &'static Algorithm, kind: &str, length: u64) -> Context {
    let mut context = Context::new(algorithm);
    context.update(format!("{kind} {length}\0").as_bytes());
    context
}
