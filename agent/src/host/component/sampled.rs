//! One request of a check that is asked all the time.

use proto::policy::CheckPolicy;

use super::Component;
use crate::sampler::Answered;

impl Component {
    /// Asks once; none where a hold stands, or stood when it began: what serves then is no release.
    pub(in crate::host) async fn ask(&self, check: &CheckPolicy) -> Option<Answered> {
        if self.is_held().await {
            return None;
        }
        let answered = self.prober.ask_once(check).await;
        if self.is_held().await { None } else { Some(answered) }
    }

    /// What cannot be told counts as held.
    async fn is_held(&self) -> bool {
        tokio::fs::try_exists(self.store.hold_path(&self.name)).await.unwrap_or(true)
    }
}
