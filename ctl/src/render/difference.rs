//! What differs between two releases: per component what they are made of, and whether hosts have the same.

use std::collections::BTreeSet;

use proto::v1;

use super::{
    BOLD, View,
    lists::{short, size},
    paint,
    table::Table,
    words::{clean, or_dash},
};

/// The components one after the other.
pub fn text(view: &View, found: &v1::DiffReleasesResponse) -> String {
    let from = if found.from.is_empty() { "what is live".to_owned() } else { clean(&found.from) };
    let mut text = format!("{}\n", paint(BOLD, &format!("{from} → {}", clean(&found.to))));
    for row in &found.components {
        text += &format!("\n{}\n", clean(&row.component));
        for (word, artefact) in [("from", &row.from), ("to", &row.to)] {
            let Some(v1::Artefact { source, name, digest }) = artefact else { continue };
            let (source, name, digest) = (clean(source), clean(name), clean(digest));
            text += &format!("  {word:<5} {source}:{name}\n        {digest}\n");
        }
        text += &format!("  {}\n", sentence(row));
        text += &table(row).render(view);
    }
    text
}

/// What a tired person needs of a component.
pub(super) fn sentence(row: &v1::ComponentDiff) -> String {
    let contents = |of: fn(&v1::HostDiff) -> Option<&v1::SnapshotInfo>| -> BTreeSet<&str> {
        row.hosts.iter().filter_map(of).map(|snapshot| snapshot.content.as_str()).collect()
    };
    let missing: Vec<&str> =
        row.hosts.iter().filter(|host| host.to.is_none()).map(|host| host.host.as_str()).collect();
    let (from, to) = (contents(|host| host.from.as_ref()), contents(|host| host.to.as_ref()));
    let mut said = match (from.len(), to.len()) {
        (_, 0) => "no host has it".to_owned(),
        (_, 2..) => "hosts have different content of it".to_owned(),
        (1, 1) if from == to => "the same content".to_owned(),
        (_, 1) => "the content differs".to_owned(),
    };
    if !missing.is_empty() && !to.is_empty() {
        let names: Vec<String> = missing.into_iter().map(clean).collect();
        said += &format!("; missing on {}", names.join(", "));
    }
    said
}

fn table(row: &v1::ComponentDiff) -> Table {
    let mut table = Table::new(["HOST", "FROM", "TO", "VERSION", "FILES", "SIZE"]);
    for host in &row.hosts {
        let hash = |side: &Option<v1::SnapshotInfo>| {
            side.as_ref().map_or_else(|| "-".to_owned(), |found| short(&found.content))
        };
        let moved = |pick: fn(&v1::SnapshotInfo) -> String| {
            let side = |side: &Option<v1::SnapshotInfo>| side.as_ref().map(pick);
            match (side(&host.from), side(&host.to)) {
                (Some(from), Some(to)) if from == to => to,
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (None, Some(one)) | (Some(one), None) => one,
                (None, None) => "-".to_owned(),
            }
        };
        table.row([
            clean(&host.host).into(),
            hash(&host.from).into(),
            hash(&host.to).into(),
            moved(|found| or_dash(&found.version)).into(),
            moved(|found| found.files.to_string()).into(),
            moved(|found| size(found.size_bytes)).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    #[test]
    fn what_differs_and_where_it_is_missing() {
        let held = |content: &str, version: &str, files| v1::SnapshotInfo {
            component: "crm".to_owned(),
            content: content.repeat(32),
            version: version.to_owned(),
            files,
            size_bytes: 31_000_000,
            ..v1::SnapshotInfo::default()
        };
        let host = |host: &str, from, to| v1::HostDiff { host: host.to_owned(), from, to };
        let old = || Some(held("1f", "v1.4.2", 1200));
        let new = || Some(held("2e", "", 1204));
        let artefact = |name: &str| v1::Artefact {
            source: "builds".to_owned(),
            name: name.to_owned(),
            digest: format!("sha256:{}", "9f".repeat(32)),
        };
        let found = v1::DiffReleasesResponse {
            from: "v1.4.2".to_owned(),
            to: "v1.4.3".to_owned(),
            components: vec![
                v1::ComponentDiff {
                    component: "crm".to_owned(),
                    hosts: vec![host("crm-b1", old(), new()), host("crm-b2", old(), None)],
                    from: None,
                    to: Some(artefact("crm-1.4.3.tar.zst")),
                },
                v1::ComponentDiff {
                    component: "proxy".to_owned(),
                    hosts: vec![host("lb-1", old(), old())],
                    from: None,
                    to: None,
                },
            ],
        };
        insta::assert_snapshot!(plain(&text(&view(), &found)));
    }
}
