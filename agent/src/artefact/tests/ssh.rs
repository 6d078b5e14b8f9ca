//! Git over ssh, by a real sshd and a user of its own: `ssh://` as a team writes it.
//!
//! Invariant: the server listens on a port that the machine chose, and neither it nor the user outlives the test.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
};

use proto::policy::GitSource;

use super::{git::Repo, *};

/// Who has the keys, on both sides.
const USER: &str = "lastgood-test-git";

/// See the module.
struct Server {
    home: PathBuf,
    port: u16,
}

impl Server {
    /// A server with a host key, and a user whose key it knows and who knows it.
    fn start(root: &Path) -> Self {
        let (home, config) = (root.join("home"), root.join("sshd_config"));
        fs::create_dir_all(home.join(".ssh")).unwrap();
        // What an interrupted run left.
        Command::new("userdel").arg(USER).output().unwrap();
        let [path, keys] = [&home, &home.join(".ssh")].map(|path| path.display().to_string());
        done(&["useradd", "--no-create-home", "--home-dir", &path, "--shell=/bin/sh", "-p*", USER]);
        let key = |path: &Path| {
            let path = path.display().to_string();
            done(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path]);
            fs::read_to_string(format!("{path}.pub")).unwrap()
        };
        let host_key = key(&root.join("host_key"));
        let own_key = key(&home.join(".ssh/id_ed25519"));
        fs::write(home.join(".ssh/authorized_keys"), own_key).unwrap();
        let text = format!(
            "HostKey {}\nAuthorizedKeysFile {keys}/authorized_keys\nStrictModes no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH={}\n",
            root.join("host_key").display(),
            crate::exec::PATH
        );
        fs::write(&config, text).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // It ends with the test's process.
        thread::spawn(move || {
            let mut sessions: Vec<Child> = Vec::new();
            for stream in listener.incoming() {
                let stream = OwnedFd::from(stream.unwrap());
                let sshd = Command::new("/usr/sbin/sshd")
                    .args(["-i", "-e", "-f"])
                    .arg(&config)
                    .stdin(stream.try_clone().unwrap())
                    .stdout(stream)
                    .stderr(Stdio::null())
                    .spawn();
                sessions.retain_mut(|session| session.try_wait().unwrap().is_none());
                sessions.push(sshd.unwrap());
            }
        });
        let server = Self { home, port };
        server.is_known_by(&host_key);
        done(&["chown", "-R", USER, &path]);
        server
    }

    /// The user has seen the server with this key.
    fn is_known_by(&self, key: &str) {
        let line = format!("[127.0.0.1]:{} {key}", self.port);
        fs::write(self.home.join(".ssh/known_hosts"), line).unwrap();
    }

    fn artefacts(&self, bed: &Bed, repo: &Repo) -> Artefacts {
        let repository = format!("ssh://{USER}@127.0.0.1:{}{}", self.port, repo.path.display());
        bed.artefacts_of(SourcePolicy::Git(GitSource { repository, user: USER.to_owned() }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its sessions have ended with what they were asked for.
        Command::new("userdel").args(["--force", USER]).output().ok();
    }
}

fn done(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "needs root and sshd"]
async fn real_a_commit_is_fetched_over_ssh_by_who_has_the_key_from_whom_it_knows() {
    let bed = Bed::new();
    let repo = Repo::new(&bed, "sha1");
    let digest = repo.head();
    let server = Server::start(&bed.root);
    done(&["chown", "-R", USER, &repo.path.display().to_string()]);
    let artefacts = server.artefacts(&bed, &repo);
    for name in ["v1", "main", digest.strip_prefix("git:").unwrap()] {
        let fetched = fetch(&artefacts, name, &digest).await.unwrap();
        let found = picture(&fetched.root());
        assert_eq!(found["server.js"].3, "serve(1)\n");
        assert_eq!(fetched.words, format!("{name} from builds, git matches"));
    }
    // Somebody else answers in its place.
    let other = fs::read_to_string(server.home.join(".ssh/id_ed25519.pub")).unwrap();
    server.is_known_by(&other);
    let why = refused(&artefacts, "v1", &digest).await;
    assert!(why.contains("Host key verification failed"), "{why}");
    // Nobody whom the user has ever seen.
    fs::write(server.home.join(".ssh/known_hosts"), "").unwrap();
    let why = refused(&artefacts, "v1", &digest).await;
    assert!(why.contains("Host key verification failed"), "{why}");
    let host_key = fs::read_to_string(bed.root.join("host_key.pub")).unwrap();
    server.is_known_by(&host_key);
    assert!(fetch(&artefacts, "v1", &digest).await.is_ok());
    // A key that the server does not know.
    fs::write(server.home.join(".ssh/authorized_keys"), "").unwrap();
    let why = refused(&artefacts, "v1", &digest).await;
    assert!(why.contains("Permission denied (publickey)"), "{why}");
    assert_eq!(bed.left().0, [""; 0]);
}
