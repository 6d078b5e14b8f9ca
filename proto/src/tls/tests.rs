//! Identities, their files and their certificates. Live connections are tested with the coordinator's accept loop.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn identity(role: Role, name: &str) -> Identity {
    Identity::new("ace.example.com", role, name).unwrap()
}

#[test]
fn an_identity_is_read_as_it_is_written() {
    for role in Role::ALL {
        let identity = identity(role, "web-1");
        assert_eq!(identity.to_string(), format!("spiffe://ace.example.com/{role}/web-1"));
        assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
    }
}

#[test]
fn p01_texts_that_could_pass_for_another_identity_are_refused() {
    for bad in [
        "",
        "spiffe://",
        "spiffe://a/agent",
        "spiffe://a/agent/",
        "spiffe://a/agent/web/1",
        "spiffe://a//web-1",
        "spiffe:///agent/web-1",
        "spiffe://a/root/web-1",
        "spiffe://a/Agent/web-1",
        "SPIFFE://a/agent/web-1",
        "https://a/agent/web-1",
        "spiffe://A/agent/web-1",
        "spiffe://a:1/agent/web-1",
        "spiffe://a/agent/..",
        "spiffe://../agent/x",
        "spiffe://a/agent/web%2d1",
        "spiffe://a/agent/web 1",
        "spiffe://a/agent/web-1?x",
        " spiffe://a/agent/web-1",
        "spiffe://a/agent/wëb",
    ] {
        bad.parse::<Identity>().unwrap_err();
    }
    Identity::new("a", Role::Agent, &"x".repeat(129)).unwrap_err();
}

#[test]
fn an_issued_certificate_names_its_owner_and_its_end() {
    let ca = Ca::create("ace.example.com").unwrap();
    let agent = identity(Role::Agent, "web-1");
    let until = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let issued = ca.issue(&agent, &[], Validity { from: UNIX_EPOCH, until }).unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let peer = PeerIdentity::from_der(&der).unwrap();
    assert_eq!(peer.identity, agent);
    assert_eq!(peer.not_after_unix_ms, 2_000_000_000_000);
    assert!(peer.serial.len() >= 16, "{}", peer.serial);
}

#[test]
fn p01_a_certificate_without_exactly_one_uri_names_nobody() {
    let key = KeyPair::generate().unwrap();
    let made = |uris: &[&str]| {
        let mut params = CertificateParams::new(["spiffe.example.com".to_owned()]).unwrap();
        params
            .subject_alt_names
            .extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        PeerIdentity::from_der(params.self_signed(&key).unwrap().der())
    };
    let one = "spiffe://a/agent/web-1";
    assert_eq!(made(&[]).unwrap_err(), IdentityError::Uris(0));
    assert_eq!(made(&[one, one]).unwrap_err(), IdentityError::Uris(2));
    assert_eq!(made(&[one, "https://x"]).unwrap_err(), IdentityError::Uris(2));
    assert!(matches!(made(&["https://x"]).unwrap_err(), IdentityError::Uri(_)));
    assert_eq!(made(&[one]).unwrap().identity.to_string(), one);
    assert_eq!(PeerIdentity::from_der(b"nonsense").unwrap_err(), IdentityError::Certificate);
}

#[test]
fn a_ca_is_saved_once_and_issues_after_loading() {
    let dir = tempfile::tempdir().unwrap();
    let (ca_dir, own) = (dir.path().join("ca"), dir.path().join("own"));
    let ca = Ca::create("ace.example.com").unwrap();
    ca.save(&ca_dir).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ca_dir), 0o700);
    assert_eq!(mode(&ca_dir.join(CA_KEY_FILE)), 0o600);
    let again = Ca::create("ace.example.com").unwrap().save(&ca_dir).unwrap_err();
    assert!(matches!(again, TlsError::Exists { .. }), "{again}");

    let loaded = Ca::load(&ca_dir).unwrap();
    assert_eq!(loaded.domain(), "ace.example.com");
    let operator = identity(Role::Operator, "maria");
    loaded.issue(&operator, &[], Validity::lasting(HOUR)).unwrap().save(&own).unwrap();
    assert_eq!(mode(&own.join(KEY_FILE)), 0o600);
    let own = IdentityDir::load(&own).unwrap();
    assert_eq!(*own.identity(), operator);
    client_config(&own).unwrap();
    let refused = server_config(&own).unwrap_err().to_string();
    assert!(refused.contains("role operator"), "{refused}");
}

#[test]
fn a_ca_issues_for_its_own_domain_only() {
    let ca = Ca::create("ace.example.com").unwrap();
    let other = Identity::new("other.example.com", Role::Agent, "web-1").unwrap();
    let refused = ca.issue(&other, &[], Validity::lasting(HOUR)).unwrap_err();
    assert!(matches!(refused, TlsError::Domain { .. }), "{refused}");
    Ca::create("Not A Domain").unwrap_err();
}

#[test]
fn p11_a_key_that_others_can_read_is_refused_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create("ace.example.com").unwrap();
    let agent = identity(Role::Agent, "web-1");
    let issued = ca.issue(&agent, &[], Validity::lasting(HOUR)).unwrap();
    issued.save(dir.path()).unwrap();
    assert!(!format!("{issued:?}{ca:?}").contains("PRIVATE"));
    let key = dir.path().join(KEY_FILE);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = IdentityDir::load(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create("ace.example.com").unwrap();
    let agent = identity(Role::Agent, "web-1");
    let mut issued = ca.issue(&agent, &[], Validity::lasting(HOUR)).unwrap();
    issued.key_pem = ca.issue(&agent, &[], Validity::lasting(HOUR)).unwrap().key_pem;
    issued.save(dir.path()).unwrap();
    let refused = client_config(&IdentityDir::load(dir.path()).unwrap()).unwrap_err();
    assert!(matches!(refused, TlsError::Setup(_)), "{refused}");
    for (file, text) in [(CERT_FILE, "nothing"), (CA_FILE, ""), (KEY_FILE, "nothing")] {
        issued.save(dir.path()).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let refused = IdentityDir::load(dir.path()).unwrap_err();
        assert!(matches!(refused, TlsError::Pem { .. }), "{file}: {refused}");
    }
}
