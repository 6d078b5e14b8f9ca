//! How two manifests of the same component differ, and what of that matters.
//!
//! Invariant: a directory that only carries a kept path (`var` of `var/uploads`) and is not in the expected manifest is
//! no difference: the switch had to make it so that the kept path has a place.
//! Invariant: a name that was added to a file is extra and nothing else, wherever it stands in the order of its names.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    fmt,
};

use super::{
    dir,
    manifest::{Entry, Kind, Manifest, Meta, SetManifest},
    set::{Part, Set},
};

/// How many differences a text names.
const SUMMARY_MAX: usize = 3;

/// One path that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Absolute, as people read it.
    pub path: String,
    pub kind: DifferenceKind,
}

/// In what a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    Missing,
    /// Not in the manifest: written by the app, or by hand.
    Extra,
    Type,
    Bytes,
    /// It is no longer another name of the file at this path: who writes to one writes to one only.
    NoLongerSame(String),
    /// It has become another name of the file at this path: who writes to one writes to both.
    NowSame(String),
    Mode,
    Owner,
    Xattrs,
    /// Modification time of a file or link.
    Time,
    /// Modification time of a directory: something in it came, went or was renamed.
    DirTime,
}

impl Difference {
    /// Whether it proves that the release is not what it was. Extra paths, and the times of the directories that they
    /// appeared in, do not: they are listed as written by the app.
    pub fn is_failure(&self) -> bool {
        match self.kind {
            DifferenceKind::Extra | DifferenceKind::DirTime => false,
            DifferenceKind::Missing
            | DifferenceKind::Type
            | DifferenceKind::Bytes
            | DifferenceKind::NoLongerSame(_)
            | DifferenceKind::NowSame(_)
            | DifferenceKind::Mode
            | DifferenceKind::Owner
            | DifferenceKind::Xattrs
            | DifferenceKind::Time => true,
        }
    }

    /// The first few in words.
    pub(super) fn summary(differences: &[Self]) -> String {
        let mut text = String::new();
        for difference in differences.iter().take(SUMMARY_MAX) {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(&difference.to_string());
        }
        if differences.len() > SUMMARY_MAX {
            text.push_str(&format!(" and {} more", differences.len() - SUMMARY_MAX));
        }
        text
    }

    /// What a person wants to hear of: directory times only where there is nothing else to say.
    pub(super) fn worth_telling(differences: &[Self]) -> Vec<String> {
        let is_time = |difference: &&Self| difference.kind == DifferenceKind::DirTime;
        let told: Vec<String> =
            differences.iter().filter(|one| !is_time(one)).map(Self::to_string).collect();
        if told.is_empty() { differences.iter().map(Self::to_string).collect() } else { told }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.kind {
            DifferenceKind::NoLongerSame(path) => {
                return write!(f, "{} is no longer another name of {path}", self.path);
            }
            DifferenceKind::NowSame(path) => {
                return write!(f, "{} has become another name of {path}", self.path);
            }
            DifferenceKind::Missing => "is missing",
            DifferenceKind::Extra => "was added",
            DifferenceKind::Type => "is of another type",
            DifferenceKind::Bytes => "has other content",
            DifferenceKind::Mode => "has another mode",
            DifferenceKind::Owner => "has another owner",
            DifferenceKind::Xattrs => "has other extended attributes",
            DifferenceKind::Time | DifferenceKind::DirTime => "has another modification time",
        };
        write!(f, "{} {what}", self.path)
    }
}

/// Every difference of a set, in the order of its parts and paths. Empty: they are the same.
pub(super) fn sets(set: &Set, expected: &SetManifest, found: &SetManifest) -> Vec<Difference> {
    let parts = expected.parts.iter().zip(&found.parts).zip(&set.parts);
    parts.flat_map(|((expected, found), declared)| part(declared, expected, found)).collect()
}

/// Every difference of one part.
pub(super) fn part(part: &Part, expected: &Manifest, found: &Manifest) -> Vec<Difference> {
    let mut differences = Vec::new();
    let keep = part.keep();
    let carriers = if keep.is_empty() { HashSet::new() } else { carriers(expected, found, keep) };
    let names = Names::new(part, expected, found);
    let mut add = |path: &[u8], kind| {
        differences.push(Difference { path: part.shown_below(path), kind });
    };
    for pair in pairs(expected, found) {
        match pair {
            (Some(entry), None) => add(&entry.path, DifferenceKind::Missing),
            (Some(entry), Some(found)) => {
                if let Some(kind) = entries(&names, entry, found) {
                    add(&entry.path, kind);
                }
            }
            (None, Some(found)) if !carriers.contains(found.path.as_slice()) => {
                add(&found.path, DifferenceKind::Extra);
            }
            (None, _) => {}
        }
    }
    differences
}

/// Every path of two manifests, in order, with its entry in each.
pub(super) fn pairs<'m>(
    one: &'m Manifest,
    other: &'m Manifest,
) -> impl Iterator<Item = (Option<&'m Entry>, Option<&'m Entry>)> {
    let (mut one, mut other) = (one.entries.iter().peekable(), other.entries.iter().peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (None, None) => None,
        (Some(_), None) => Some((one.next(), None)),
        (None, Some(_)) => Some((None, other.next())),
        (Some(first), Some(second)) => match first.path.cmp(&second.path) {
            Ordering::Less => Some((one.next(), None)),
            Ordering::Equal => Some((one.next(), other.next())),
            Ordering::Greater => Some((None, other.next())),
        },
    })
}

/// Ancestors of kept paths that hold nothing else and are not expected.
fn carriers<'a>(expected: &Manifest, found: &'a Manifest, keep: &[Vec<u8>]) -> HashSet<&'a [u8]> {
    let above: HashSet<&[u8]> =
        keep.iter().flat_map(|keep| dir::ancestors(keep)).filter(|path| !path.is_empty()).collect();
    let mut carriers: HashSet<&[u8]> = HashSet::new();
    let mut holders: HashSet<&[u8]> = HashSet::new();
    // Children come after their parents, so backwards every child is judged first.
    for entry in found.entries.iter().rev() {
        let path = entry.path.as_slice();
        let carries = above.contains(path)
            && !holders.contains(path)
            && matches!(entry.kind, Kind::Dir)
            && expected.get(path).is_none();
        if carries {
            carriers.insert(path);
        } else {
            holders.insert(dir::split(path).0);
        }
    }
    carriers
}

fn entries(names: &Names<'_>, expected: &Entry, found: &Entry) -> Option<DifferenceKind> {
    let is_dir = match (&expected.kind, &found.kind) {
        (Kind::Dir, Kind::Dir) => true,
        (Kind::Link { .. }, Kind::Link { .. }) => {
            if expected.kind != found.kind {
                return Some(DifferenceKind::Bytes);
            }
            false
        }
        (Kind::File { .. } | Kind::Same { .. }, Kind::File { .. } | Kind::Same { .. }) => {
            let links = names.difference(expected, found);
            if links.is_none() && matches!(expected.kind, Kind::Same { .. }) {
                // One file: what there is to say of it is said of its first name.
                return None;
            }
            if names.expected.file_of(expected) != names.found.file_of(found) {
                return Some(DifferenceKind::Bytes);
            }
            if links.is_some() {
                return links;
            }
            false
        }
        (Kind::Dir | Kind::File { .. } | Kind::Link { .. } | Kind::Same { .. }, _) => {
            return Some(DifferenceKind::Type);
        }
    };
    let Meta { mode, uid, gid, mtime_s, mtime_ns, xattrs } = &expected.meta;
    if *mode != found.meta.mode {
        Some(DifferenceKind::Mode)
    } else if (*uid, *gid) != (found.meta.uid, found.meta.gid) {
        Some(DifferenceKind::Owner)
    } else if *xattrs != found.meta.xattrs {
        Some(DifferenceKind::Xattrs)
    } else if (*mtime_s, *mtime_ns) != (found.meta.mtime_s, found.meta.mtime_ns) {
        Some(if is_dir { DifferenceKind::DirTime } else { DifferenceKind::Time })
    } else {
        None
    }
}

/// Which paths are names of one file, in both manifests.
struct Names<'m> {
    part: &'m Part,
    expected: &'m Manifest,
    found: &'m Manifest,
    /// Of each file that has several names now, the first one that is expected: by its very first.
    firsts: HashMap<&'m [u8], &'m Entry>,
}

impl<'m> Names<'m> {
    fn new(part: &'m Part, expected: &'m Manifest, found: &'m Manifest) -> Self {
        let several: HashSet<&[u8]> = found
            .entries
            .iter()
            .filter(|entry| matches!(entry.kind, Kind::Same { .. }))
            .map(Entry::first_name)
            .collect();
        let mut firsts = HashMap::new();
        if !several.is_empty() {
            for entry in found.entries.iter().filter(|entry| several.contains(entry.first_name())) {
                if let Some(known) = expected.get(&entry.path) {
                    firsts.entry(entry.first_name()).or_insert(known);
                }
            }
        }
        Self { part, expected, found, firsts }
    }

    fn difference(&self, expected: &Entry, found: &Entry) -> Option<DifferenceKind> {
        let first = expected.first_name();
        if first != expected.path {
            let now = self.found.get(first).map(Entry::first_name);
            if now != Some(found.first_name()) {
                return Some(DifferenceKind::NoLongerSame(self.part.shown_below(first)));
            }
        }
        let now = self.firsts.get(found.first_name())?;
        (now.first_name() != first)
            .then(|| DifferenceKind::NowSame(self.part.shown_below(&now.path)))
    }
}

#[cfg(test)]
mod tests {
    use proto::policy::{FilesPolicy, SwitchMode, TreePolicy};

    use super::{
        super::{ComponentFiles, Hash},
        *,
    };

    fn set(keep: &str) -> Set {
        let tree = TreePolicy {
            tree: "/srv/app".into(),
            switch: SwitchMode::Exchange,
            keep: vec![keep.into()],
            privileged_files: false,
            from: None,
        };
        let files = vec![FilesPolicy::Tree(tree)];
        Set::new(&ComponentFiles { component: "crm".to_owned(), files, managers: Vec::new() })
            .unwrap()
    }

    fn dirs(paths: &[&str]) -> SetManifest {
        let meta = |mtime_s| Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_s,
            mtime_ns: 0,
            xattrs: Vec::new(),
        };
        let entries = paths
            .iter()
            .map(|path| Entry { path: (*path).into(), meta: meta(7), kind: Kind::Dir })
            .collect();
        SetManifest { parts: vec![Manifest { entries }] }
    }

    #[test]
    fn a_directory_made_for_a_kept_path_is_no_difference() {
        let set = set("var/lib/uploads");
        let expected = dirs(&[""]);
        let found = dirs(&["", "var", "var/lib"]);
        assert_eq!(sets(&set, &expected, &found), []);
    }

    #[test]
    fn with_something_else_in_it_it_is() {
        let set = set("var/lib/uploads");
        let found = dirs(&["", "var", "var/lib", "var/other"]);
        let extra: Vec<String> =
            sets(&set, &dirs(&[""]), &found).into_iter().map(|one| one.path).collect();
        assert_eq!(extra, ["/srv/app/var", "/srv/app/var/other"]);
    }

    #[test]
    fn an_extra_file_and_its_directorys_time_are_no_failure() {
        let set = set("uploads");
        let expected = dirs(&["", "a"]);
        let mut found = dirs(&["", "a", "a/new"]);
        found.parts[0].entries[1].meta.mtime_s += 1;
        let differences = sets(&set, &expected, &found);
        assert_eq!(differences.len(), 2);
        assert!(!differences.iter().any(Difference::is_failure));
        let missing = sets(&set, &found, &expected);
        assert!(missing.iter().any(Difference::is_failure));
    }

    /// Files by path and bytes; where these begin with `=`, another name of what follows.
    fn files(rows: &[(&str, &str)]) -> SetManifest {
        let mut set = dirs(&[""]);
        let meta = set.parts[0].entries[0].meta.clone();
        for (path, bytes) in rows {
            let hash = Hash::of(bytes.as_bytes());
            let kind = match bytes.strip_prefix('=') {
                Some(as_path) => Kind::Same { as_path: as_path.into() },
                None => Kind::File { size_bytes: 1, hash },
            };
            set.parts[0].entries.push(Entry { path: (*path).into(), meta: meta.clone(), kind });
        }
        Manifest::decode(&set.parts[0].encode()).unwrap();
        set
    }

    #[test]
    fn names_of_one_file_are_compared_as_what_they_are_names_of() {
        let told = |expected: &[(&str, &str)], found: &[(&str, &str)]| {
            let differences = sets(&set("keep"), &files(expected), &files(found));
            let failures: Vec<bool> = differences.iter().map(Difference::is_failure).collect();
            assert_eq!(
                failures.contains(&false),
                differences.iter().any(|one| one.kind == DifferenceKind::Extra)
            );
            let told: Vec<String> = differences.iter().map(Difference::to_string).collect();
            told.join(", ").replace("/srv/app/", "")
        };
        let linked = [("b", "1"), ("c", "=b"), ("d", "=b")];
        assert_eq!(told(&linked, &linked), "");
        // Broken by hand, with and without a change of the bytes.
        let copied = [("b", "1"), ("c", "1"), ("d", "=b")];
        assert_eq!(told(&linked, &copied), "c is no longer another name of b");
        let edited = [("b", "1"), ("c", "2"), ("d", "=b")];
        assert_eq!(told(&linked, &edited), "c has other content");
        // All of them were written to.
        let written = [("b", "2"), ("c", "=b"), ("d", "=b")];
        assert_eq!(told(&linked, &written), "b has other content");
        // The first one was replaced: the others still are one file.
        let replaced = [("b", "1"), ("c", "1"), ("d", "=c")];
        let both = "c is no longer another name of b, d is no longer another name of b";
        assert_eq!(told(&linked, &replaced), both);
        let gone = [("c", "1"), ("d", "=c")];
        assert_eq!(told(&linked, &gone), format!("b is missing, {both}"));
        // Somebody linked what were two files.
        let two = [("b", "1"), ("c", "1"), ("d", "=c")];
        assert_eq!(
            told(&two, &linked),
            "c has become another name of b, d has become another name of b"
        );
        // Another name is one more file, first or last.
        for extra in [
            [("b", "1"), ("c", "=b"), ("d", "=b"), ("e", "=b")],
            [("a", "1"), ("b", "=a"), ("c", "=a"), ("d", "=a")],
        ] {
            let name = if extra[0].0 == "a" { "a" } else { "e" };
            assert_eq!(told(&linked, &extra), format!("{name} was added"));
        }
        let through = [("a", "1"), ("b", "=a"), ("c", "=a")];
        assert_eq!(
            told(&[("b", "1"), ("c", "1")], &through),
            "a was added, c has become another name of b"
        );
        let link = [("b", "1"), ("c", "=b")];
        assert_eq!(told(&[("b", "1")], &link), "c was added");
    }
}
