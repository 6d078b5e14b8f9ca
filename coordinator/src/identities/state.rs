//! How one host stands: its token, the certificates that it was given, and the one that counts.
//!
//! ```text
//! TokenMade ─▶ Issued (token) ─▶ Acknowledged ─▶ Issued (renewal) ─▶ Acknowledged ─▶ …
//!    ▲             not yet accepted    │ the host's one identity           the one before is replaced
//!    └──────────── Revoked ◀───────────┘ refused, all of them, until a token leads to an Acknowledged again
//! ```
//!
//! Pure: time is an argument, and events are the only way to change it.
//!
//! Invariant: at most one certificate of a host that was issued here is good at a time.
//! Invariant: a certificate that was issued here counts only once it was acknowledged with itself.
//! Invariant: the first key that a token is shown with is the only one that it ever lets in.

use std::collections::BTreeMap;

use engine::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a replaced certificate is remembered past its own end, for clocks that disagree.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;

/// What happened to a host's identity; in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum IdentityEvent {
    /// A token was made. Only its hash is known.
    TokenMade {
        hash: TokenHash,
        by: String,
        at: Timestamp,
        expires: Timestamp,
    },
    Issued {
        certificate: Certificate,
        cause: Cause,
    },
    /// The host has shown it.
    Acknowledged {
        serial: String,
        at: Timestamp,
    },
    /// A certificate that was issued beside the CA was shown for the first time.
    Adopted {
        serial: String,
        issued: Timestamp,
        ends: Timestamp,
        at: Timestamp,
    },
    Revoked {
        by: String,
        reason: String,
        at: Timestamp,
    },
}

/// Why a certificate was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Token,
    Renewal,
}

/// One that was issued here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub serial: String,
    /// Which key it is for.
    pub key: String,
    /// Itself: whoever asks again with the same key gets the same.
    pub pem: String,
    pub at: Timestamp,
    pub ends: Timestamp,
}

/// A token by its hash. Compared in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// The hash of a token. It has 192 random bits, so nothing is gained by a slow hash.
    pub fn of(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.0.to_hex().to_string()
    }
}

impl TryFrom<String> for TokenHash {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

/// A certificate as a connection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub serial: &'a str,
    pub key: &'a str,
    pub issued: Timestamp,
    pub ends: Timestamp,
}

/// Whether a certificate counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Issued here and not acknowledged yet.
    Pending,
    /// A newer one counts.
    Replaced {
        at: Timestamp,
        by: Cause,
    },
    /// The token that it was issued for was replaced or withdrawn before it was acknowledged.
    Dropped,
    Revoked {
        at: Timestamp,
        by: String,
        reason: String,
    },
    /// Issued beside the CA, for a host that was revoked once: it could be one from before.
    ByHand,
}

/// Why a token does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("no such token is open for this host")]
    Unknown,
    #[error("the token has been used")]
    Used,
    #[error("the token has expired")]
    Expired,
    #[error(
        "another join has shown this token before, with another key; if that was not you, somebody else has it"
    )]
    Raced,
}

/// What becomes of a request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was issued for this key already.
    Again(Certificate),
    Issue,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct HostIdentity {
    token: Option<Token>,
    renewing: Option<Certificate>,
    current: Option<Current>,
    revoked: Option<Revoked>,
    /// From then on only what was issued here counts.
    was_revoked: bool,
    /// Certificates that no longer count, until some time after their end.
    past: BTreeMap<String, Past>,
}

#[derive(Clone, Debug)]
struct Token {
    hash: TokenHash,
    expires: Timestamp,
    issued: Option<Certificate>,
    used: bool,
}

/// The certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    pub serial: String,
    pub ends: Timestamp,
    /// When it was issued.
    pub issued: Timestamp,
    pub origin: Origin,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Here,
    /// Issued beside the CA.
    Hand,
}

/// That, when and why a host was shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Debug)]
struct Past {
    ends: Timestamp,
    /// When it was replaced, and how; absent where it never counted.
    replaced: Option<(Timestamp, Cause)>,
}

impl HostIdentity {
    /// The certificate that counts, if any ever did.
    pub const fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    pub const fn revoked(&self) -> Option<&Revoked> {
        self.revoked.as_ref()
    }

    /// Until when a token waits for the host, where one does.
    pub fn awaited_until(&self, now: Timestamp) -> Option<Timestamp> {
        let token = self.token.as_ref().filter(|token| !token.used && now <= token.expires)?;
        Some(token.expires)
    }

    /// Whether a token may be shown at all: before anything else of a stranger's request is read.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn token(&self, shown: TokenHash, now: Timestamp) -> Result<(), TokenError> {
        match &self.token {
            Some(token) if token.hash == shown => {
                // Whoever lost the last answer may hear it again; the key is looked at in `join`.
                if !token.used && now > token.expires { Err(TokenError::Expired) } else { Ok(()) }
            }
            Some(_) | None => Err(TokenError::Unknown),
        }
    }

    /// What a host gets that shows a token and has a key.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn join(&self, shown: TokenHash, key: &str, now: Timestamp) -> Result<Answer, TokenError> {
        self.token(shown, now)?;
        let token = self.token.as_ref().ok_or(TokenError::Unknown)?;
        let counts = |serial| self.current.as_ref().is_some_and(|now| now.serial == serial);
        match &token.issued {
            Some(issued) if issued.key == key && (!token.used || counts(&*issued.serial)) => {
                Ok(Answer::Again(issued.clone()))
            }
            Some(_) if token.used => Err(TokenError::Used),
            Some(_) => Err(TokenError::Raced),
            None => Ok(Answer::Issue),
        }
    }

    /// What a host gets that asks for a certificate in place of the one it shows.
    ///
    /// # Errors
    /// Its [`Standing`], unless that is good.
    pub fn renew(&self, shown: Shown<'_>, key: &str) -> Result<Answer, Standing> {
        match (self.standing(shown), &self.renewing) {
            (Standing::Good, Some(issued)) if issued.key == key => {
                Ok(Answer::Again(issued.clone()))
            }
            (Standing::Good, _) => Ok(Answer::Issue),
            (other, _) => Err(other),
        }
    }

    /// What it means that a certificate was shown by its owner.
    ///
    /// # Errors
    /// Its [`Standing`], where it does not count and cannot.
    pub fn acknowledge(
        &self,
        shown: Shown<'_>,
        now: Timestamp,
    ) -> Result<Option<IdentityEvent>, Standing> {
        let serial = shown.serial.to_owned();
        match self.standing(shown) {
            Standing::Pending => Ok(Some(IdentityEvent::Acknowledged { serial, at: now })),
            Standing::Good if self.current.as_ref().is_some_and(|now| now.serial == serial) => {
                Ok(None)
            }
            Standing::Good => {
                let (issued, ends) = (shown.issued, shown.ends);
                Ok(Some(IdentityEvent::Adopted { serial, issued, ends, at: now }))
            }
            refused @ (Standing::Replaced { .. }
            | Standing::Dropped
            | Standing::Revoked { .. }
            | Standing::ByHand) => Err(refused),
        }
    }

    /// Whether a certificate of our CA that names this host counts.
    pub fn standing(&self, shown: Shown<'_>) -> Standing {
        let is = |certificate: &Certificate| certificate.serial == shown.serial;
        let joining = self.token.as_ref().filter(|token| !token.used);
        // A revoked host comes back by this, so it is looked at first.
        if joining.and_then(|token| token.issued.as_ref()).is_some_and(is) {
            return Standing::Pending;
        }
        if let Some(Revoked { at, by, reason }) = &self.revoked {
            let (at, by, reason) = (*at, by.clone(), reason.clone());
            return Standing::Revoked { at, by, reason };
        }
        if self.renewing.as_ref().is_some_and(is) {
            return Standing::Pending;
        }
        match self.past.get(shown.serial).map(|past| past.replaced) {
            Some(Some((at, by))) => return Standing::Replaced { at, by },
            Some(None) => return Standing::Dropped,
            None => {}
        }
        match &self.current {
            Some(current) if current.serial == shown.serial => Standing::Good,
            Some(_) | None if self.was_revoked => Standing::ByHand,
            // A certificate by hand that is older than what counts was replaced by it, and a newer one replaces it.
            Some(current) if shown.issued < current.issued => {
                Standing::Replaced { at: current.issued, by: Cause::Token }
            }
            Some(_) | None => Standing::Good,
        }
    }

    /// The only way to change it.
    pub fn apply(&mut self, event: &IdentityEvent) {
        match event {
            IdentityEvent::TokenMade { hash, expires, at, .. } => {
                self.drop_token(*at);
                self.token =
                    Some(Token { hash: *hash, expires: *expires, issued: None, used: false });
            }
            IdentityEvent::Issued { certificate, cause: Cause::Token } => {
                if let Some(token) = &mut self.token {
                    token.issued = Some(certificate.clone());
                }
            }
            IdentityEvent::Issued { certificate, cause: Cause::Renewal } => {
                self.drop_renewing(certificate.at);
                self.renewing = Some(certificate.clone());
            }
            IdentityEvent::Acknowledged { serial, at } => self.acknowledged(serial, *at),
            IdentityEvent::Adopted { serial, issued, ends, at } => {
                self.replace(*at, Cause::Token);
                let (serial, issued, ends) = (serial.clone(), *issued, *ends);
                self.current = Some(Current { serial, ends, issued, origin: Origin::Hand });
            }
            IdentityEvent::Revoked { by, reason, at } => {
                self.drop_token(*at);
                self.drop_renewing(*at);
                self.replace(*at, Cause::Token);
                self.was_revoked = true;
                let (by, reason) = (by.clone(), reason.clone());
                self.revoked = Some(Revoked { at: *at, by, reason });
            }
        }
    }

    fn acknowledged(&mut self, serial: &str, at: Timestamp) {
        let is = |certificate: &Certificate| certificate.serial == serial;
        let joined = self.token.as_mut().filter(|token| token.issued.as_ref().is_some_and(is));
        let (certificate, cause) = if let Some(token) = joined {
            token.used = true;
            (token.issued.clone(), Cause::Token)
        } else if self.renewing.as_ref().is_some_and(is) {
            (self.renewing.take(), Cause::Renewal)
        } else {
            (None, Cause::Token)
        };
        let Some(Certificate { serial, ends, at: issued, .. }) = certificate else { return };
        self.replace(at, cause);
        self.drop_renewing(at);
        self.revoked = None;
        self.current = Some(Current { serial, ends, issued, origin: Origin::Here });
    }

    fn replace(&mut self, at: Timestamp, by: Cause) {
        if let Some(Current { serial, ends, .. }) = self.current.take() {
            self.remember(serial, Past { ends, replaced: Some((at, by)) }, at);
        }
    }

    fn drop_token(&mut self, at: Timestamp) {
        if let Some(Token { issued: Some(issued), used: false, .. }) = self.token.take() {
            self.remember(issued.serial, Past { ends: issued.ends, replaced: None }, at);
        }
    }

    fn drop_renewing(&mut self, at: Timestamp) {
        if let Some(issued) = self.renewing.take() {
            self.remember(issued.serial, Past { ends: issued.ends, replaced: None }, at);
        }
    }

    fn remember(&mut self, serial: String, past: Past, now: Timestamp) {
        self.past.retain(|_, past| now.0 <= past.ends.0.saturating_add(REMEMBERED_MS));
        self.past.insert(serial, past);
    }
}
