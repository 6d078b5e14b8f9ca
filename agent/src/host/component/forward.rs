//! What going forward asks of a component: which content a step goes to, and whether what is on trial holds.

use super::{Component, Wanted, secrets, target};
use crate::order::Step;

impl Component {
    /// The content hash of what a step goes to. One that cannot be told may be anything.
    pub(in crate::host) async fn content(&self, step: &Step) -> Result<String, String> {
        let (release, exact) = (&step.release, target(step)?);
        let content = self.stored(move |store, files| store.content_of(&files.component, exact));
        content.await?.map(|content| content.to_string()).ok_or_else(|| {
            format!(
                "whether {release} was left as bad cannot be told: its content is not known here"
            )
        })
    }

    /// Whether it runs and its checks pass now, each tried once in its own time, by what was measured of this snapshot.
    pub(in crate::host) async fn holds(&self, snapshot: &str) -> Result<(), String> {
        let failed = self.fails(snapshot).await;
        match failed {
            None => Ok(()),
            Some(why) => Err(secrets::hide(&why, &[self.redactor().await])),
        }
    }

    async fn fails(&self, snapshot: &str) -> Option<String> {
        if let Err(why) = self.services.identities().await {
            return Some(why);
        }
        let wanted =
            Wanted { version: None, baselines: self.fit.baselines(snapshot.parse().ok()).await };
        let tries = self.checks.iter().map(|check| {
            let (prober, check, wanted) = (self.prober.clone(), check.clone(), wanted.clone());
            tokio::spawn(async move { (prober.try_once(&check, &wanted).await, check.name) })
        });
        let tries: Vec<_> = tries.collect();
        let mut failed = None;
        for tried in tries {
            let (tried, name) = tried.await.expect("a try does not panic");
            if !tried.ok && failed.is_none() {
                failed = Some(format!("check `{name}`: {}", tried.detail));
            }
        }
        failed
    }
}
