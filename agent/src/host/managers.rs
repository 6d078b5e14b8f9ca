//! Which component takes the files of its service managers along when it goes back.
//!
//! ```text
//! what each component's drivers name ── assign ──▶ what no policy declares, and no other component uses
//! ```
//!
//! Invariant: a path is switched by one component at most.
//! Invariant: what the policy declares is declared as the policy has it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use proto::policy::{FilesPolicy, Policy};

/// The files that each component takes along, of those that its drivers name.
///
/// Those that several use (a template with instances in two components) go with none of them: rolled back with the one, it
/// would change the other. Declared in the `files` of one, it goes with that.
pub(super) fn assign(
    policy: &Policy,
    asked: BTreeMap<String, Vec<FilesPolicy>>,
) -> BTreeMap<String, Vec<FilesPolicy>> {
    let mut users: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for (component, files) in &asked {
        for one in files {
            let users = users.entry(path(one).to_owned()).or_default();
            if !users.contains(&component.as_str()) {
                users.push(component);
            }
        }
    }
    let declared: Vec<&FilesPolicy> =
        policy.components.values().flat_map(|component| &component.files).collect();
    let mut assigned: BTreeMap<String, Vec<FilesPolicy>> = BTreeMap::new();
    for (component, files) in &asked {
        let own = assigned.entry(component.clone()).or_default();
        for one in files {
            if declared.iter().any(|other| meet(one, other)) || own.contains(one) {
                continue;
            }
            let users = users.get(path(one)).map_or(&[][..], Vec::as_slice);
            if users.len() > 1 {
                tracing::warn!(
                    path = %path(one).display(),
                    components = users.join(", "),
                    "used by several components, and goes back with none; declare it in the files of one"
                );
                continue;
            }
            own.push(one.clone());
        }
    }
    assigned
}

fn meet(one: &FilesPolicy, other: &FilesPolicy) -> bool {
    let within = |a: &FilesPolicy, b: &FilesPolicy| match b {
        FilesPolicy::Tree(tree) => path(a).starts_with(&tree.tree),
        FilesPolicy::File(file) => path(a) == file.file,
    };
    within(one, other) || within(other, one)
}

fn path(files: &FilesPolicy) -> &Path {
    match files {
        FilesPolicy::Tree(tree) => &tree.tree,
        FilesPolicy::File(file) => &file.file,
    }
}

#[cfg(test)]
mod tests {
    use proto::policy::{FilePolicy, SwitchMode, TreePolicy};

    use super::*;

    fn file(path: &str) -> FilesPolicy {
        FilesPolicy::File(FilePolicy { file: path.into(), secret: false, require: Vec::new() })
    }

    fn tree(path: &str) -> FilesPolicy {
        let (switch, keep) = (SwitchMode::Exchange, Vec::new());
        FilesPolicy::Tree(TreePolicy {
            tree: path.into(),
            switch,
            keep,
            privileged_files: false,
            from: None,
        })
    }

    fn assigned(
        declared: &str,
        asked: &[(&str, Vec<FilesPolicy>)],
    ) -> Vec<(String, Vec<FilesPolicy>)> {
        let text = format!(
            "version: 1\nfleet: prod\nhost: a\ncomponents:\n  api:\n    {declared}\n    \
             ready_within: 1s\n    stable_for: 1s\n"
        );
        let policy = Policy::parse(&text).unwrap();
        let asked = asked.iter().map(|(name, files)| ((*name).to_owned(), files.clone()));
        assign(&policy, asked.collect()).into_iter().collect()
    }

    #[test]
    fn each_component_takes_its_own_once() {
        let files = vec![file("/etc/s/a@.service"), tree("/etc/s/a@.service.d")];
        let twice = [files.clone(), files.clone()].concat();
        assert_eq!(assigned("files: []", &[("api", twice)]), [("api".to_owned(), files)]);
    }

    #[test]
    fn what_two_components_use_goes_with_neither() {
        let of = |own: &str| vec![file("/etc/s/a@.service"), tree(own)];
        let asked = [("api", of("/etc/s/a@1.service.d")), ("web", of("/etc/s/a@2.service.d"))];
        let wanted = [
            ("api".to_owned(), vec![tree("/etc/s/a@1.service.d")]),
            ("web".to_owned(), vec![tree("/etc/s/a@2.service.d")]),
        ];
        assert_eq!(assigned("files: []", &asked), wanted);
    }

    #[test]
    fn what_the_policy_declares_is_left_to_it() {
        let asked = [(
            "web",
            vec![file("/etc/s/a.service"), tree("/etc/s/a.service.d"), file("/etc/s/b.service")],
        )];
        let declared = "files: [{file: /etc/s/a.service}, {tree: /etc/s/a.service.d}]";
        assert_eq!(
            assigned(declared, &asked),
            [("web".to_owned(), vec![file("/etc/s/b.service")])]
        );
        assert_eq!(assigned("files: [{tree: /etc/s}]", &asked), [("web".to_owned(), Vec::new())]);
    }
}
