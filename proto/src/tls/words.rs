//! TLS failures in words that a person can act on.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls's enums are open; what has no words here speaks with rustls's own"
)]

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError};

use super::channel::DialError;

/// What is wrong with a peer, or what it finds wrong with us: the end of a sentence that begins with who it is.
pub fn peer_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::NoCertificatesPresented => "it showed no certificate".to_owned(),
        rustls::Error::InvalidCertificate(error) => certificate_words(error),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        rustls::Error::PeerIncompatible(_) => "it does not speak TLS 1.3".to_owned(),
        rustls::Error::AlertReceived(alert) => alert_words(*alert),
        other => other.to_string(),
    }
}

/// Whether the peer turned our certificate down.
pub(super) fn is_refusal(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::AlertReceived(_))
}

/// The rustls error behind what tokio-rustls gives.
pub(super) fn tls_cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why a call or a connection failed, as a sentence: the words of [`DialError`] where the connection never came
/// about, the server's own message where it answered.
///
/// Takes a `tonic::Status` or a `tonic::transport::Error`.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    if let Some(dial) = chain(error).find_map(|error| error.downcast_ref::<DialError>()) {
        return match dial.source() {
            Some(source) => format!("{dial}: {source}"),
            None => dial.to_string(),
        };
    }
    match error.downcast_ref::<tonic::Status>() {
        // A status with a source was made on our side of the wire, out of a lost connection.
        Some(status) if status.source().is_none() => match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        },
        Some(_) | None => {
            let deepest = chain(error).last().map(ToString::to_string).unwrap_or_default();
            format!("the connection to the coordinator was lost: {deepest}")
        }
    }
}

/// The error and its sources, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let next = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        (*error).source()
    };
    std::iter::successors(Some(error), next)
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not from this fleet's CA".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is for another role".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is not for the address that was dialled".to_owned()
        }
        CertificateError::Other(error) => {
            let source = error.0.source().map(|source| format!(": {source}"));
            format!("{error}{}", source.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// What rustls sends for each reason of [`certificate_words`], read the other way round.
fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "it has expired, or one of the two clocks is wrong; get a new one".to_owned()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is not from the CA that the coordinator knows; join again".to_owned()
        }
        AlertDescription::CertificateRequired => "there was none; join first".to_owned(),
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            "it is of another fleet's domain or names nobody of this fleet".to_owned()
        }
        AlertDescription::UnsupportedCertificate => "it is for another role".to_owned(),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "the two sides have no version of TLS in common".to_owned()
        }
        other => format!("TLS alert {other:?}"),
    }
}
