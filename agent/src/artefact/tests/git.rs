//! Git as a source, by real repositories of a real git.

use std::process::Command;

use proto::policy::GitSource;

use super::*;

/// A repository with one commit, tagged `v1` on the branch `main`.
pub(super) struct Repo {
    pub(super) path: PathBuf,
}

/// The user that this test runs as.
fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let own = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid)).unwrap();
    own.split(':').next().unwrap().to_owned()
}

impl Repo {
    pub(super) fn new(bed: &Bed, format: &str) -> Self {
        let path = bed.root.join("code");
        let repo = Self { path };
        fs::create_dir(&repo.path).unwrap();
        // The user that git runs as may get to it.
        for dir in [&bed.root, &repo.path] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        repo.git(&["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        repo.write("server.js", "serve(1)\n");
        repo.write(
            ".gitattributes",
            "docs export-ignore\n*.js text eol=crlf\nversion export-subst\n",
        );
        repo.write("version", "$Format:%H$");
        repo.write("docs/a", "a");
        repo.write("lib/x.txt", "x");
        fs::set_permissions(repo.path.join("lib/x.txt"), fs::Permissions::from_mode(0o755))
            .unwrap();
        repo.write("lib.conf", "sorts between lib and lib/");
        std::os::unix::fs::symlink("../server.js", repo.path.join("lib/link")).unwrap();
        repo.commit();
        repo.git(&["tag", "-a", "v1", "-m", "v1"]);
        repo
    }

    fn git(&self, arguments: &[&str]) -> String {
        let program = super::super::git::program().expect("this test needs git");
        let done = Command::new(program)
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.autocrlf=false"])
            .args(["-c", "protocol.file.allow=always", "-c", "core.hooksPath=/dev/null"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "git {arguments:?}: {words}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Commits everything; answers the digest.
    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "c"]);
        self.head()
    }

    pub(super) fn head(&self) -> String {
        format!("git:{}", self.git(&["rev-parse", "HEAD"]))
    }

    fn artefacts(&self, bed: &Bed, user: &str) -> Artefacts {
        let repository = self.path.display().to_string();
        bed.artefacts_of(SourcePolicy::Git(GitSource { repository, user: user.to_owned() }))
    }
}

#[tokio::test]
async fn a_commit_is_fetched_byte_by_byte_by_tag_by_branch_and_by_its_hash() {
    for format in ["sha1", "sha256"] {
        let bed = Bed::new();
        let repo = Repo::new(&bed, format);
        let digest = repo.head();
        let artefacts = repo.artefacts(&bed, &own_user());
        let hash = digest.strip_prefix("git:").unwrap();
        for name in ["v1", "main", hash] {
            let fetched = fetch(&artefacts, name, &digest).await.unwrap();
            let found = picture(&fetched.root());
            let text = |path: &str| found[path].3.as_str();
            assert_eq!(text("server.js"), "serve(1)\n", "its bytes, whatever attributes say");
            assert_eq!(text("version"), "$Format:%H$");
            assert_eq!(text("docs/a"), "a");
            assert_eq!((text("lib/link"), found["lib/x.txt"].1), ("../server.js", 0o755));
            assert!(!found.contains_key(".git"), "{found:?}");
            assert_eq!(fetched.words, format!("{name} from builds, git matches"));
        }
        assert_eq!(bed.left().0, [""; 0]);
    }
}

#[tokio::test]
async fn a_tag_or_branch_that_moved_is_refused_with_both_commits() {
    let bed = Bed::new();
    let repo = Repo::new(&bed, "sha1");
    let old = repo.head();
    let artefacts = repo.artefacts(&bed, &own_user());
    repo.write("server.js", "serve(2)");
    let new = repo.commit();
    repo.git(&["tag", "-f", "-a", "v1", "-m", "moved"]);
    for name in ["v1", "main"] {
        let why = refused(&artefacts, name, &old).await;
        assert!(
            why.contains(&format!(
                "`{name}` is not what the release names: wanted {old}, found {new}"
            )),
            "{why}"
        );
    }
    // The commit that it was is still there, by its hash; and another hash is another commit.
    let hash = |digest: &str| digest.strip_prefix("git:").unwrap().to_owned();
    assert!(fetch(&artefacts, &hash(&old), &old).await.is_ok());
    assert!(refused(&artefacts, &hash(&new), &old).await.contains("is not what the release names"));
    // A tag goes before a branch of the same name, as in git.
    repo.git(&["branch", "v1"]);
    repo.git(&["tag", "-f", "v1", &hash(&old)]);
    assert!(fetch(&artefacts, "v1", &old).await.is_ok());
    let why = refused(&artefacts, "v3", &old).await;
    assert!(
        why.contains("the repository has no tag, branch or whole hash of a commit `v3`"),
        "{why}"
    );
    let none = format!("git:{}", "0a".repeat(20));
    assert!(!refused(&artefacts, &"0a".repeat(20), &none).await.is_empty());
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn p09_no_name_is_an_option_and_no_file_of_a_repository_is_run() {
    let bed = Bed::new();
    let repo = Repo::new(&bed, "sha1");
    let digest = repo.head();
    let ran = bed.root.join("ran");
    let script = format!("#!/bin/sh\ntouch {}\nexec \"$@\"\n", ran.display());
    for hook in [
        "post-checkout",
        "pre-receive",
        "post-upload-pack",
        "reference-transaction",
        "fsmonitor-watchman",
    ] {
        let hook = repo.path.join(".git/hooks").join(hook);
        fs::write(&hook, &script).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = repo.path.join(".git/hooks/post-checkout").display().to_string();
    for key in [
        "core.fsmonitor",
        "uploadpack.packObjectsHook",
        "core.sshCommand",
        "tar.tar.gz.command",
        "core.gitProxy",
    ] {
        repo.git(&["config", key, &program]);
    }
    repo.git(&["config", "filter.x.smudge", &program]);
    repo.write(".gitattributes", "*.js filter=x\n");
    let with_filter = repo.commit();
    fs::remove_file(&ran).ok();
    let artefacts = repo.artefacts(&bed, &own_user());
    assert!(fetch(&artefacts, "v1", &digest).await.is_ok());
    assert!(fetch(&artefacts, "main", &with_filter).await.is_ok());
    assert!(!ran.exists(), "something of the repository was run");
    for name in
        ["--upload-pack=/bin/sh", "-x", "v1^{}", "HEAD~1", "main:v1", "../x", "a b", "$(id)"]
    {
        let why = refused(&artefacts, name, &digest).await;
        assert!(why.contains("cannot be the name of an artefact in a git repository"), "{why}");
    }
    for repository in ["ext::touch /tmp/x", "file:///nowhere/of/that/name"] {
        let source = GitSource { repository: repository.to_owned(), user: own_user() };
        let artefacts = bed.artefacts_of(SourcePolicy::Git(source));
        assert!(!refused(&artefacts, "v1", &digest).await.is_empty());
    }
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn submodules_and_lfs_are_named_as_not_fetched() {
    let bed = Bed::new();
    let repo = Repo::new(&bed, "sha1");
    let artefacts = repo.artefacts(&bed, &own_user());
    repo.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    let lfs = repo.commit();
    let why = refused(&artefacts, "main", &lfs).await;
    assert!(why.contains("`big.bin`") && why.contains("files of Git LFS are not fetched"), "{why}");
    fs::remove_file(repo.path.join("big.bin")).unwrap();
    let path = repo.path.display().to_string();
    repo.git(&["submodule", "--quiet", "add", &path, "vendor"]);
    let with_module = repo.commit();
    let why = refused(&artefacts, "main", &with_module).await;
    assert!(why.contains("submodules are not fetched"), "{why}");
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn a_repository_of_somebody_elses_is_read_as_the_user_of_the_policy() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bed = Bed::new();
    let repo = Repo::new(&bed, "sha1");
    let digest = repo.head();
    let artefacts = repo.artefacts(&bed, "nobody");
    let fetched = fetch(&artefacts, "v1", &digest).await.unwrap();
    let owner = fs::metadata(fetched.root().join("server.js")).unwrap().uid();
    assert_eq!(owner, 0, "what was unpacked is the agent's own");
    drop(fetched);
    // What that user may not read is not read for it.
    fs::set_permissions(&repo.path, fs::Permissions::from_mode(0o700)).unwrap();
    let why = refused(&artefacts, "v1", &digest).await;
    assert!(why.contains("ls-remote"), "{why}");
    let why = refused(&repo.artefacts(&bed, "no-such-user"), "v1", &digest).await;
    assert!(why.contains("user `no-such-user` is not in /etc/passwd"), "{why}");
    assert_eq!(bed.left().0, [""; 0]);
}
