//! The verb `fetch`: a release's artefact becomes a snapshot under the release's name, while the old release serves.
//!
//! ```text
//! is the release here already? ── of this artefact, live files as then ──▶ done, nothing is fetched
//!   │                          └─ of something else ─────────────────────▶ refused: releases never change
//!   └─ no ─▶ Artefacts::fetch ─▶ Store::import: owners as live ─▶ recorded what it was made of ─▶ evidence
//! ```
//!
//! Declared single files: one in a tree that the artefact has comes from it, unless it is `secret` and there is a live
//! one; every other one is taken as it is live.
//!
//! Invariant: nothing live is changed.
//! Invariant: done again it is the same snapshot, and fetched again only where it is not known that it was.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::policy::FilesPolicy;

use super::{Component, Shown, deadline};
use crate::{
    artefact::{ArtefactError, Artefacts, Fetched, TreeRule},
    facts::MadeOf,
    order::{Artefact, Evidence, Step},
    store::{Backup, BackupOwner, Hash, Label, Role},
};

/// What every refusal ends in.
const UNTOUCHED: &str = "nothing live was touched, and nothing of it is left here";

/// What a component's artefacts are made into.
#[derive(Debug)]
pub(super) struct Fetcher {
    artefacts: Option<Arc<Artefacts>>,
    trees: Vec<Tree>,
    files: Vec<PathBuf>,
    secrets: Vec<PathBuf>,
}

#[derive(Debug)]
struct Tree {
    path: PathBuf,
    from: Option<PathBuf>,
    keep: Vec<PathBuf>,
    privileged: bool,
}

impl Fetcher {
    pub(super) fn new(declared: &[FilesPolicy]) -> Self {
        let mut fetcher =
            Self { artefacts: None, trees: Vec::new(), files: Vec::new(), secrets: Vec::new() };
        for files in declared {
            match files {
                FilesPolicy::Tree(tree) => fetcher.trees.push(Tree {
                    path: tree.tree.clone(),
                    from: tree.from.clone(),
                    keep: tree.keep.clone(),
                    privileged: tree.privileged_files,
                }),
                FilesPolicy::File(file) => {
                    fetcher.files.push(file.file.clone());
                    fetcher.secrets.extend(file.secret.then(|| file.file.clone()));
                }
            }
        }
        fetcher
    }

    /// Why no artefact can become this component, where none can.
    fn unfit(&self) -> Option<String> {
        if self.trees.is_empty() {
            return Some("has no tree, and an artefact is made of trees".to_owned());
        }
        let lacks = self.trees.iter().find(|tree| tree.from.is_none())?;
        (self.trees.len() > 1).then(|| {
            format!(
                "has several trees, and nothing says where in its artefact {} is; add `from: …` to it",
                lacks.path.display()
            )
        })
    }

    fn rules(&self) -> Vec<TreeRule> {
        let rule = |tree: &Tree| TreeRule {
            from: tree
                .from
                .as_ref()
                .map_or_else(Vec::new, |from| from.as_os_str().as_encoded_bytes().to_vec()),
            privileged: tree.privileged,
        };
        self.trees.iter().map(rule).collect()
    }

    /// What it is to the store.
    fn backup(&self, fetched: &Fetched) -> Backup {
        let root = fetched.root();
        let place = |tree: &Tree| match &tree.from {
            Some(from) => root.join(from),
            None => root.clone(),
        };
        Backup {
            from: root.clone(),
            files: self.trees.iter().map(|tree| (tree.path.clone(), place(tree))).collect(),
            owner: BackupOwner::Live,
            beside: false,
            role: Role::Artefact { live_first: self.secrets.clone() },
        }
    }

    /// The declared files that the artefact does not give, so that they are as they are live.
    fn left_live(&self, fetched: &Fetched) -> Vec<PathBuf> {
        let given = |file: &Path| {
            let inside = self.trees.iter().find_map(|tree| {
                let rest = file.strip_prefix(&tree.path).ok()?;
                Some(tree.from.clone().unwrap_or_default().join(rest))
            });
            let secret = self.secrets.iter().any(|one| one == file);
            let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|found| !found.is_dir());
            let has = inside.is_some_and(|path| is_file(&fetched.root().join(path)));
            has && !(secret && is_file(file))
        };
        self.files.iter().filter(|file| !given(file)).cloned().collect()
    }

    /// What the artefact has at paths that live across releases.
    fn kept(&self, fetched: &Fetched) -> Vec<String> {
        let in_tree = |tree: &Tree| {
            let from = tree.from.clone().unwrap_or_default();
            let has = |keep: &&PathBuf| fetched.has(&from.join(keep));
            let rows: Vec<&PathBuf> = tree.keep.iter().filter(has).collect();
            rows.into_iter().map(|keep| tree.path.join(keep)).collect::<Vec<_>>()
        };
        let kept = self.trees.iter().flat_map(in_tree);
        kept.map(|path| {
            format!("{} is kept: what the artefact has there is left out", path.display())
        })
        .collect()
    }
}

impl Component {
    /// The same component, with where its artefacts come from.
    pub(in crate::host) fn with_artefacts(mut self, artefacts: &Arc<Artefacts>) -> Self {
        self.fetcher.artefacts = Some(artefacts.clone()).filter(|artefacts| !artefacts.is_empty());
        self
    }

    pub(super) fn can_fetch(&self) -> bool {
        self.fetcher.artefacts.is_some() && self.fetcher.unfit().is_none()
    }

    /// Why a fetch is refused before anything begins, where it is.
    pub(super) fn fetch_refusal(&self, step: &Step) -> Option<String> {
        let Some(artefacts) = &self.fetcher.artefacts else {
            return Some("this host's policy has no source of artefacts".to_owned());
        };
        if let Some(unfit) = self.fetcher.unfit() {
            return Some(format!("component `{}` {unfit}", self.name));
        }
        if step.release.is_empty() {
            return Some("a release that is fetched has a name".to_owned());
        }
        match &step.artefact {
            Some(artefact) => artefacts.refusal(artefact),
            None => Some("the order does not say what to fetch".to_owned()),
        }
    }

    /// Makes an artefact a snapshot of this component under the release's name.
    pub(in crate::host) async fn fetch(&self, step: &Step) -> Shown {
        let (Some(artefacts), Some(artefact), None) =
            (&self.fetcher.artefacts, &step.artefact, self.fetch_refusal(step))
        else {
            return Err(self.fetch_refusal(step).unwrap_or_default());
        };
        if let Some(done) = self.already(step, artefact).await? {
            return Ok(done);
        }
        let end = deadline(step).into_std();
        let fetched = artefacts.fetch(artefact, self.fetcher.rules(), end).await;
        let fetched = fetched.map_err(|error| failed(artefact, &error))?;

        let backup = self.fetcher.backup(&fetched);
        let made =
            MadeOf { digest: artefact.digest.clone(), from_live: self.fetcher.left_live(&fetched) };
        let mut notes = self.fetcher.kept(&fetched);
        if fetched.built.without_xattrs {
            notes.push("extended attributes in the archive are left out".to_owned());
        }
        let label = Label {
            release: step.release.clone(),
            version: None,
            taken_at_unix_ms: jiff::Timestamp::now().as_millisecond(),
            learned_at_unix_ms: None,
        };
        let release = step.release.clone();
        let imported =
            self.stored(move |store, files| store.import_new(files, &backup, label)).await?;
        let Some((info, imported)) = imported else {
            return Err(format!(
                "{release} is already known here with other content: releases never change, so give this one \
                 another name; {UNTOUCHED}"
            ));
        };
        notes.extend(imported);
        // Nothing is done with it before its content is known: whoever refuses content asks here.
        let content = info.content.map_or_else(String::new, |content| content.to_string());
        // Only that it need not be fetched again depends on it.
        notes.extend(self.fit.made_of(info.exact, made).await.err());
        let (built, words) = (fetched.built, fetched.words.clone());
        // The files are the store's by now.
        tokio::task::spawn_blocking(move || drop(fetched)).await.ok();
        let exact = info.exact.to_string();
        let words = format!(
            "{} {words}: {} files, {}; snapshot {}",
            self.name,
            grouped(built.files),
            size(built.bytes),
            &exact[..8],
        );
        Ok((words, Some(self.fetched(&exact, &content, notes))))
    }

    /// The release, where it is here and was made of this artefact; an error, where it is something else.
    async fn already(
        &self,
        step: &Step,
        artefact: &Artefact,
    ) -> Result<Option<(String, Option<Evidence>)>, String> {
        let rows = self.stored(|store, _| store.list()).await?;
        let known = rows.into_iter().find(|row| {
            row.component == self.name && row.release == step.release && row.damage.is_none()
        });
        // Without a record of what it is made of it is fetched: the same gives the same.
        let Some(known) = known else { return Ok(None) };
        let Some(made) = self.fit.facts.of(&self.name, &known.exact.to_string()).made_of else {
            return Ok(None);
        };
        let release = &step.release;
        if made.digest != artefact.digest {
            return Err(format!(
                "{release} is already known here with other content: it was made of {}, not of {}; releases never \
                 change, so give this one another name; nothing was fetched",
                made.digest, artefact.digest
            ));
        }
        let changed = self.changed_since(known.exact, made.from_live).await?;
        if !changed.is_empty() {
            return Err(format!(
                "{release} is already known here with other content: of this artefact, but with {} as it was live \
                 then, which has changed since; releases never change, so give this one another name; nothing was \
                 fetched",
                changed.join(", ")
            ));
        }
        let exact = known.exact.to_string();
        let content = known.content.map_or_else(String::new, |content| content.to_string());
        let words = format!(
            "{} {release} is here already, made of this very artefact: snapshot {}; nothing was fetched",
            self.name,
            &exact[..8]
        );
        Ok(Some((words, Some(self.fetched(&exact, &content, Vec::new())))))
    }

    /// Which of these declared files are not live as the snapshot has them.
    async fn changed_since(
        &self,
        exact: Hash,
        from_live: Vec<PathBuf>,
    ) -> Result<Vec<String>, String> {
        self.stored(move |store, files| store.singles_changed(files, exact, &from_live)).await
    }

    fn fetched(&self, exact: &str, content: &str, notes: Vec<String>) -> Evidence {
        let content = format!("content {content}");
        Evidence {
            component: self.name.clone(),
            snapshot: Some(exact.to_owned()),
            notes: std::iter::once(content).chain(notes).collect(),
            ..Evidence::default()
        }
    }
}

fn failed(artefact: &Artefact, error: &ArtefactError) -> String {
    format!("{} from {}: {}; {UNTOUCHED}", artefact.name, artefact.source, error.reason())
}

/// `1,204`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `31 MB`.
fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let unit = units.into_iter().find(|(_, unit)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1_204, "1,204"), (1_000_000, "1,000,000")]
        {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(size(31_400_000), "31 MB");
        assert_eq!(size(12), "12 bytes");
    }
}
