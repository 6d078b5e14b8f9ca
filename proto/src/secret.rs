//! What may be said of messages that carry a token: everything but the token.

use std::fmt;

use crate::v1::{CreateJoinTokenResponse, JoinRequest};

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJoinTokenResponse")
            .field("host", &self.host)
            .field("fleet", &self.fleet)
            .field("expires_unix_ms", &self.expires_unix_ms)
            .field("ca_hash", &self.ca_hash)
            .field("policy_hash", &self.policy_hash)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p11_a_token_is_in_no_debug_output() {
        let token = "lgj_deadbeef".to_owned();
        let asked =
            JoinRequest { host: "h1".to_owned(), token: token.clone(), csr_der: Vec::new() };
        let made = CreateJoinTokenResponse { token, ..CreateJoinTokenResponse::default() };
        let said = format!("{asked:?} {made:?}");
        assert!(!said.contains("deadbeef") && said.contains("h1"), "{said}");
    }
}
