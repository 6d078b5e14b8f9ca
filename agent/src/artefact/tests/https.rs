//! A server as a source: a real one, with a CA of its own, that answers well or badly.

use std::sync::{Arc, Mutex};

use proto::policy::HttpsSource;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    task::AbortHandle,
};

use super::{
    tars::{Tar, zstd},
    *,
};

/// Answers by path, and keeps what it was asked. Ends when dropped.
struct Server {
    url: String,
    ca: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    /// Told when a slow request has come.
    slow: Arc<Notify>,
    accepting: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn ca(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params, KeyPair::generate().unwrap())
}

impl Server {
    async fn start(bed: &Bed, archive: Vec<u8>) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (params, key) = ca("builds");
        let pem = params.self_signed(&key).unwrap().pem();
        let file = bed.root.join("ca.pem");
        fs::write(&file, pem).unwrap();
        let own = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&own, &Issuer::from_params(&params, &key)).unwrap();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], secret)
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, slow) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (kept, told) = (asked.clone(), slow.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, kept, told, archive) =
                    (tls.clone(), kept.clone(), told.clone(), archive.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                            return;
                        }
                    }
                    let request = String::from_utf8_lossy(&request).into_owned();
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    kept.lock().unwrap().push(request);
                    let length = archive.len();
                    let (head, body) = match path.as_str() {
                        "/crm/v2.tar.zst" => {
                            (format!("200 OK\r\ncontent-length: {length}"), &archive[..])
                        }
                        "/crm/short" => {
                            (format!("200 OK\r\ncontent-length: {}", length + 1), &archive[..])
                        }
                        "/crm/open" => ("200 OK".to_owned(), &archive[..length - 1]),
                        "/crm/large" => {
                            ("200 OK\r\ncontent-length: 99999999999".to_owned(), &archive[..])
                        }
                        "/crm/endless" => {
                            ("200 OK\r\ntransfer-encoding: chunked".to_owned(), &[][..])
                        }
                        "/crm/moved" => (
                            "302 Found\r\nlocation: /crm/v2.tar.zst\r\ncontent-length: 0"
                                .to_owned(),
                            &[][..],
                        ),
                        "/crm/closed" => {
                            ("401 Unauthorized\r\ncontent-length: 0".to_owned(), &[][..])
                        }
                        "/crm/slow" => {
                            (format!("200 OK\r\ncontent-length: {length}"), &archive[..10])
                        }
                        _ => ("404 Not Found\r\ncontent-length: 0".to_owned(), &[][..]),
                    };
                    let head = format!("HTTP/1.1 {head}\r\n\r\n");
                    let mut sent = stream.write_all(head.as_bytes()).await.is_ok()
                        && stream.write_all(body).await.is_ok();
                    while path == "/crm/endless" && sent {
                        let chunk = [b"1000\r\n".as_slice(), &[7; 0x1000], b"\r\n"].concat();
                        sent = stream.write_all(&chunk).await.is_ok();
                    }
                    if path == "/crm/slow" {
                        stream.flush().await.ok();
                        told.notify_one();
                        std::future::pending::<()>().await;
                    }
                    stream.shutdown().await.ok();
                });
            }
        });
        let url = format!("https://localhost:{port}/crm/");
        Self { url, ca: file, asked, slow, accepting: accepting.abort_handle() }
    }

    fn source(&self) -> HttpsSource {
        HttpsSource { url: self.url.clone(), bearer_file: None, ca_file: Some(self.ca.clone()) }
    }
}

fn archive() -> Vec<u8> {
    zstd(&Tar::default().file("server.js", 0o644, &b"serve(2)".repeat(2000)).end())
}

#[tokio::test]
async fn an_archive_comes_from_a_server_that_our_ca_vouches_for() {
    let bed = Bed::new();
    let server = Server::start(&bed, archive()).await;
    let token = bed.root.join("token");
    fs::write(&token, "hunter2\n").unwrap();
    let source = HttpsSource { bearer_file: Some(token), ..server.source() };
    let artefacts = bed.artefacts_of(SourcePolicy::Https(source));
    let fetched = fetch(&artefacts, "v2.tar.zst", &sha256(&archive())).await.unwrap();
    assert_eq!(fetched.words, "v2.tar.zst from builds, sha256 matches");
    assert!(picture(&fetched.root())["server.js"].3.starts_with("serve(2)"));
    let asked = server.asked.lock().unwrap().concat();
    assert!(asked.to_ascii_lowercase().contains("authorization: bearer hunter2\r\n"), "{asked}");
    drop(fetched);
    // What is refused does not show it.
    let why = refused(&artefacts, "missing", &sha256(&archive())).await;
    assert!(
        !why.contains("hunter2") && why.contains("/crm/missing: the server answers 404"),
        "{why}"
    );
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn what_is_not_whole_or_not_the_one_is_refused_and_nothing_is_left() {
    let bed = Bed::new();
    let server = Server::start(&bed, archive()).await;
    let mut artefacts = bed.artefacts_of(SourcePolicy::Https(server.source()));
    artefacts.limits.bytes = 1 << 20;
    let digest = sha256(&archive());
    for (name, words) in [
        ("moved", "the server answers 302, a redirect, and none is followed"),
        ("closed", "the server answers 401, so that it does not let this host have it"),
        ("missing", "the server answers 404, so that it does not have it"),
        ("short", "it ended after"),
        ("open", "is not what the release names"),
        ("large", "it is larger than 1048576 bytes"),
        ("endless", "it is larger than 1048576 bytes"),
    ] {
        let why = refused(&artefacts, name, &digest).await;
        assert!(why.contains(words), "{name}: {why}");
        assert_eq!(bed.left().0, [""; 0], "{name}");
    }
    let why = refused(&artefacts, "v2.tar.zst", &sha256(b"")).await;
    assert!(why.contains("is not what the release names"), "{why}");
    let moved = server.asked.lock().unwrap();
    let moved = moved.iter().filter(|request| request.contains("/v2.tar.zst")).count();
    assert_eq!(moved, 1, "the redirect was not followed");
}

#[tokio::test]
async fn a_server_that_is_slow_is_given_up_at_the_deadline() {
    let bed = Bed::new();
    let server = Server::start(&bed, archive()).await;
    let artefacts = bed.artefacts_of(SourcePolicy::Https(server.source()));
    let digest = sha256(&archive());
    let asked = artefact("slow", &digest);
    let end = Instant::now() + Duration::from_secs(1);
    let (late, ()) = tokio::join!(artefacts.fetch(&asked, whole(), end), server.slow.notified());
    assert_eq!(late.err().unwrap().reason(), "it was not done by the step's deadline");
    assert_eq!(bed.left().0, [""; 0]);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_asked() {
    let bed = Bed::new();
    let server = Server::start(&bed, archive()).await;
    let digest = sha256(&archive());
    let (params, key) = ca("another");
    let other = bed.root.join("other.pem");
    fs::write(&other, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(bed.root.join("none.pem"), "no certificates").unwrap();
    for ca_file in
        [Some(other), None, Some(bed.root.join("none.pem")), Some(bed.root.join("absent.pem"))]
    {
        let source = HttpsSource { ca_file, ..server.source() };
        let artefacts = bed.artefacts_of(SourcePolicy::Https(source));
        assert!(!refused(&artefacts, "v2.tar.zst", &digest).await.is_empty());
    }
    let plain = HttpsSource { url: server.url.replace("https", "http"), ..server.source() };
    let artefacts = bed.artefacts_of(SourcePolicy::Https(plain));
    assert!(!refused(&artefacts, "v2.tar.zst", &digest).await.is_empty());
    assert_eq!(server.asked.lock().unwrap().len(), 0, "nothing was said to it");
    assert_eq!(bed.left().0, [""; 0]);
}
