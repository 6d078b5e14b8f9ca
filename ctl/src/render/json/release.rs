//! What releases are made of and how they differ, as documents.

use proto::v1;
use serde::Serialize;

use super::text;
use crate::{out::Document, render::difference};

/// A release that was made known.
#[derive(Clone, Debug, Serialize)]
pub struct Created {
    pub release: String,
    /// False: it was known with just these artefacts.
    pub created: bool,
}

impl Document for Created {
    const TYPE: &'static str = "release_created";
}

/// The digest of a file or of a directory.
#[derive(Clone, Debug, Serialize)]
pub struct PathDigest {
    pub digest: String,
}

impl Document for PathDigest {
    const TYPE: &'static str = "digest";
}

/// What differs between two releases.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Null where what is live is not one release.
    pub from: Option<String>,
    pub to: String,
    pub components: Vec<ComponentDifference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ComponentDifference {
    pub component: String,
    pub summary: String,
    pub from: Option<ArtefactOf>,
    pub to: Option<ArtefactOf>,
    pub hosts: Vec<HostDifference>,
}

/// What a component is made of.
#[derive(Clone, Debug, Serialize)]
pub struct ArtefactOf {
    pub source: String,
    pub name: String,
    pub digest: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct HostDifference {
    pub host: String,
    /// Null where the host has no such snapshot.
    pub from: Option<Side>,
    pub to: Option<Side>,
}

/// What a host has of a component under a release's name.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub content: String,
    pub version: Option<String>,
    pub files: u64,
    pub bytes: u64,
}

impl Difference {
    /// See the struct.
    pub fn new(found: &v1::DiffReleasesResponse) -> Self {
        Self {
            from: text(&found.from),
            to: found.to.clone(),
            components: found.components.iter().map(component).collect(),
        }
    }
}

impl Document for Difference {
    const TYPE: &'static str = "release_diff";
}

fn component(row: &v1::ComponentDiff) -> ComponentDifference {
    let side = |found: &v1::SnapshotInfo| Side {
        content: found.content.clone(),
        version: text(&found.version),
        files: found.files,
        bytes: found.size_bytes,
    };
    let host = |row: &v1::HostDiff| HostDifference {
        host: row.host.clone(),
        from: row.from.as_ref().map(side),
        to: row.to.as_ref().map(side),
    };
    ComponentDifference {
        component: row.component.clone(),
        summary: difference::sentence(row),
        from: row.from.as_ref().map(ArtefactOf::from),
        to: row.to.as_ref().map(ArtefactOf::from),
        hosts: row.hosts.iter().map(host).collect(),
    }
}

impl From<&v1::Artefact> for ArtefactOf {
    fn from(artefact: &v1::Artefact) -> Self {
        let v1::Artefact { source, name, digest } = artefact.clone();
        Self { source, name, digest }
    }
}
