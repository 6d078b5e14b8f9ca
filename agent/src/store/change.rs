//! What has to be removed and made so that one tree becomes another.
//!
//! ```text
//! old paths ─┐ merged in their order ──▶ Change: gone, made, touched ──Builder::change──▶ the tree (build.rs)
//! new paths ─┘
//! ```
//!
//! Invariant: what is not named is the same in both, so that nothing has to be done to it.
//! Invariant: another name of a file stays only where its first name does: it would lead to the file that goes.

use std::{cmp::Ordering, collections::HashSet};

use super::{
    dir,
    manifest::{Entry, Kind},
};

/// A path of a tree, and what is there. The entry of a declared single file has a path of its own.
pub(super) type Leaf<'m> = (&'m [u8], &'m Entry);

/// See the module. Every list is in the order of the paths.
#[derive(Debug, Default)]
pub(super) struct Change<'m> {
    /// Files, links and other names of files.
    pub(super) gone: Vec<&'m [u8]>,
    /// Empty once what is gone is gone, the last one first.
    pub(super) gone_dirs: Vec<&'m [u8]>,
    pub(super) made_dirs: Vec<&'m [u8]>,
    /// Files and links.
    pub(super) made: Vec<Leaf<'m>>,
    /// Other names of files.
    pub(super) named: Vec<Leaf<'m>>,
    /// Directories whose metadata has to be set, for something in them came or went.
    pub(super) touched: HashSet<&'m [u8]>,
}

impl<'m> Change<'m> {
    /// From every path of one tree to every path of another, each in order.
    pub(super) fn between(old: &[Leaf<'m>], new: &[Leaf<'m>]) -> Self {
        let mut change = Self::default();
        for pair in pairs(old, new) {
            match pair {
                (Some(before), Some(after)) if is_dir(before.1) && is_dir(after.1) => {
                    if before.1.meta != after.1.meta {
                        change.touched.insert(after.0);
                    }
                }
                (Some(before), Some(after)) if stays(before.1, after.1, old, new) => {}
                (before, after) => {
                    before.into_iter().for_each(|before| change.remove(before));
                    after.into_iter().for_each(|after| change.make(after));
                }
            }
        }
        change
    }

    fn remove(&mut self, (path, entry): Leaf<'m>) {
        let list = if is_dir(entry) { &mut self.gone_dirs } else { &mut self.gone };
        list.push(path);
        self.touched.insert(dir::split(path).0);
    }

    fn make(&mut self, (path, entry): Leaf<'m>) {
        match entry.kind {
            Kind::Dir => {
                self.made_dirs.push(path);
                self.touched.insert(path);
            }
            Kind::File { .. } | Kind::Link { .. } => self.made.push((path, entry)),
            Kind::Same { .. } => self.named.push((path, entry)),
        }
        self.touched.insert(dir::split(path).0);
    }
}

fn is_dir(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Dir)
}

fn stays(before: &Entry, after: &Entry, old: &[Leaf<'_>], new: &[Leaf<'_>]) -> bool {
    let same =
        |before: &Entry, after: &Entry| before.kind == after.kind && before.meta == after.meta;
    same(before, after)
        && match &after.kind {
            Kind::Same { as_path } => match (at(old, as_path), at(new, as_path)) {
                (Some(before), Some(after)) => same(before, after),
                (None, _) | (_, None) => false,
            },
            Kind::Dir | Kind::File { .. } | Kind::Link { .. } => true,
        }
}

fn at<'m>(tree: &[Leaf<'m>], path: &[u8]) -> Option<&'m Entry> {
    let found = tree.binary_search_by(|(other, _)| (*other).cmp(path)).ok()?;
    tree.get(found).map(|(_, entry)| *entry)
}

fn pairs<'m>(
    old: &[Leaf<'m>],
    new: &[Leaf<'m>],
) -> impl Iterator<Item = (Option<Leaf<'m>>, Option<Leaf<'m>>)> {
    let (mut old, mut new) = (old.iter().copied().peekable(), new.iter().copied().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        Some(match order {
            Ordering::Less => (old.next(), None),
            Ordering::Equal => (old.next(), new.next()),
            Ordering::Greater => (None, new.next()),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::manifest::tests::manifest, *};

    fn leaves(manifest: &super::super::manifest::Manifest) -> Vec<Leaf<'_>> {
        manifest.entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect()
    }

    proptest! {
        #[test]
        fn what_is_done_makes_one_tree_the_other(old in manifest(), other in manifest(), half in any::<u8>()) {
            // Mostly what was there before, as between two releases: of each path one of the two.
            let mut new = other.clone();
            for (index, entry) in new.entries.iter_mut().enumerate() {
                let same = old.get(&entry.path).filter(|_| index % 8 < usize::from(half % 8));
                if let Some(same) = same && !matches!(same.kind, Kind::Same { .. }) {
                    *entry = same.clone();
                }
            }
            let (before, after) = (leaves(&old), leaves(&new));
            let change = Change::between(&before, &after);
            let mut tree: BTreeMap<&[u8], &Entry> = before.iter().copied().collect();
            for path in &change.gone {
                prop_assert!(!is_dir(tree.remove(path).unwrap()));
            }
            for path in change.gone_dirs.iter().rev() {
                let below = [path, b"/".as_slice()].concat();
                prop_assert!(!tree.keys().any(|other| other.starts_with(&below)), "not empty");
                prop_assert!(is_dir(tree.remove(path).unwrap()));
            }
            let made = change.made.iter().chain(&change.named).copied();
            let dirs = change.made_dirs.iter().map(|path| (*path, at(&after, path).unwrap()));
            for (path, entry) in dirs.chain(made) {
                prop_assert!(tree.insert(path, entry).is_none(), "it must be free");
                prop_assert!(path.is_empty() || tree.contains_key(dir::split(path).0));
            }
            for path in &change.touched {
                if let Some(entry) = at(&after, path) && is_dir(entry) {
                    tree.insert(*path, entry);
                }
            }
            prop_assert_eq!(tree, after.iter().copied().collect());
        }
    }

    #[test]
    fn a_name_goes_with_the_file_that_it_leads_to() {
        let file = |seed: &[u8]| Kind::File { size_bytes: 1, hash: super::super::Hash::of(seed) };
        let tree = |kind: Kind| {
            let named = Kind::Same { as_path: b"a".to_vec() };
            [("", Kind::Dir), ("a", kind), ("b", named)].map(|(path, kind)| {
                let meta = old_meta();
                Entry { path: path.into(), meta, kind }
            })
        };
        let (one, two) = (tree(file(b"1")), tree(file(b"2")));
        let all = |tree: &'static [Entry]| -> Vec<Leaf<'static>> {
            tree.iter().map(|entry| (entry.path.as_slice(), entry)).collect()
        };
        let (one, two) = (all(one.to_vec().leak()), all(two.to_vec().leak()));
        let change = Change::between(&one, &two);
        assert_eq!(change.gone, [b"a", b"b"]);
        assert_eq!((change.made.len(), change.named.len()), (1, 1));
        let none = Change::between(&one, &one);
        assert!(none.gone.is_empty() && none.named.is_empty() && none.touched.is_empty());
    }

    fn old_meta() -> super::super::manifest::Meta {
        let xattrs = Vec::new();
        super::super::manifest::Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_s: 1,
            mtime_ns: 0,
            xattrs,
        }
    }
}
