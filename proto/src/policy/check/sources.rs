//! What must hold of the sources of artefacts, and of where in an artefact a tree is.
//!
//! Invariant: no problem repeats a value that may be secret.

use std::{collections::BTreeMap, path::Path};

use tonic::codegen::http::Uri;

use super::{
    super::{
        SourcePolicy,
        yaml::{At, Report},
    },
    absolute, name, not_our_own, user,
};

/// Checks where in an artefact a tree is.
pub(super) fn below_an_artefact(from: &Path, at: At<'_>, report: &mut Report) {
    let text = from.to_string_lossy();
    if let Some(why) = crate::artefact::path_refusal(&text) {
        let mend = "write it like `server` or `dist/portal`, or leave `from` out";
        report.add(
            at,
            format!("`{}` is no directory of an artefact: {why}", text.escape_default()),
            mend,
        );
    }
}

/// Checks where artefacts may come from.
pub fn sources(sources: &BTreeMap<String, SourcePolicy>, at: At<'_>, report: &mut Report) {
    for (source_name, source) in sources {
        let at = at.name(source_name);
        name(source_name, "source", at, report);
        match source {
            SourcePolicy::Directory(path) => {
                absolute(path, at.key("directory"), report);
                not_our_own(path, at.key("directory"), report);
            }
            SourcePolicy::Https(https) => {
                let at = at.key("https");
                base_url(&https.url, at.key("url"), report);
                let files = [("bearer_file", &https.bearer_file), ("ca_file", &https.ca_file)];
                for (key, file) in files {
                    if let Some(file) = file {
                        absolute(file, at.key(key), report);
                    }
                }
            }
            SourcePolicy::Git(git) => {
                let at = at.key("git");
                repository(&git.repository, at.key("repository"), report);
                user(Some(&git.user), at.key("user"), report);
            }
        }
    }
}

/// The address that a name is added to.
fn base_url(text: &str, at: At<'_>, report: &mut Report) {
    const LIKE: &str = "write it like `https://builds.example.com/ace-crm/`";
    let uri = match text.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("https") => uri,
        Ok(_) | Err(_) => return report.add(at, "this is not a URL of https", LIKE),
    };
    if uri.host().is_none_or(str::is_empty) {
        report.add(at, "this URL names no host", LIKE);
    } else if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let mend = "take it out; give a token by `bearer_file`";
        report.add(at, "a user or password stands in this URL", mend);
    } else if uri.query().is_some() || text.contains('#') {
        let what = "what a release names is added to this URL, so that it cannot have a query";
        report.add(at, what, LIKE);
    } else if !text.ends_with('/') {
        let mend = format!("write `{text}/`");
        report.add(at, "what a release names is added to this URL, so that it ends in `/`", mend);
    }
}

/// A git repository: what a person may clone, but for the short form of ssh, which git guesses at.
fn repository(text: &str, at: At<'_>, report: &mut Report) {
    const LIKE: &str = "write a directory, `https://host/path.git` or `ssh://git@host/path.git`";
    if text.starts_with('/') {
        return absolute(Path::new(text), at, report);
    }
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("https" | "ssh"))
            && !uri.path().trim_matches('/').is_empty()
    });
    let plain =
        |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !"\"'`\\$;|&<>".contains(c));
    let Some(authority) = uri.as_ref().and_then(|uri| uri.authority()) else {
        return report.add(at, "this is not a repository that git is let to ask", LIKE);
    };
    let (login, host) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    let is_ssh = uri.as_ref().and_then(|uri| uri.scheme_str()) == Some("ssh");
    if login.contains(':') || (!login.is_empty() && !is_ssh) {
        let mend = "take it out; the user that git runs as has its own keys";
        report.add(at, "a user or password stands in this address", mend);
    } else if !plain(text) || host.starts_with('-') || login.starts_with('-') {
        report.add(at, "this address holds what no address of a repository has", LIKE);
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;

    const GOOD: &str = "version: 1
fleet: prod
host: web-1
sources:
  builds: { directory: /srv/builds }
  web: { https: { url: \"https://builds.example.com/crm/\", bearer_file: /etc/lastgood/secrets/builds } }
  code: { git: { repository: \"ssh://git@git.example.com/ace/crm.git\", user: deploy } }
components:
  crm:
    files: [{ tree: /srv/app, from: dist/server }]
    ready_within: 1m
    stable_for: 10s
";

    #[test]
    fn sources_are_read_and_each_mistake_is_told_at_its_place() {
        assert_eq!(Policy::parse(GOOD).unwrap().sources.len(), 3);
        let url = "https://builds.example.com/crm/";
        let repository = "ssh://git@git.example.com/ace/crm.git";
        for good in [
            "/srv/git/crm.git",
            "https://git.example.com/ace/crm.git",
            "ssh://git.example.com:22/x",
        ] {
            assert!(Policy::parse(&GOOD.replace(repository, good)).is_ok(), "{good}");
        }
        for (from, to, expected) in [
            ("builds: {", "Builds: {", "5:3: `Builds` cannot be the name of a source"),
            ("/srv/builds", "srv/builds", "5:24: path `srv/builds` is not absolute"),
            ("/srv/builds", "/etc/lastgood/builds", "meets Lastgood's own directory"),
            ("directory: /srv/builds", "folder: /srv/builds", "folder"),
            (url, "http://builds.example.com/crm/", "this is not a URL of https"),
            (
                url,
                "https://builds.example.com/crm",
                "so that it ends in `/`; mend: write `https://builds.example.com/crm/`",
            ),
            (
                url,
                "https://me:hunter2@builds.example.com/",
                "a user or password stands in this URL",
            ),
            (url, "https://builds.example.com/?key=hunter2/", "cannot have a query"),
            (
                "/etc/lastgood/secrets/builds",
                "secrets/builds",
                "path `secrets/builds` is not absolute",
            ),
            (repository, "git@git.example.com:ace/crm.git", "this is not a repository"),
            (repository, "http://git.example.com/ace/crm.git", "this is not a repository"),
            (repository, "ext::sh -c id", "this is not a repository"),
            (repository, "file:///srv/git", "this is not a repository"),
            (repository, "--upload-pack=id", "this is not a repository"),
            (repository, "../crm.git", "this is not a repository"),
            (repository, "ssh://-oProxyCommand=id/x", "no address of a repository has"),
            (repository, "ssh://git:hunter2@git.example.com/x", "a user or password stands"),
            (repository, "https://token@git.example.com/x", "a user or password stands"),
            (", user: deploy", "", "user"),
            ("user: deploy", "user: \"-deploy\"", "cannot be the name of a user"),
            ("dist/server", "../server", "`../server` is no directory of an artefact"),
            ("dist/server", "/server", "`/server` is no directory of an artefact"),
            ("dist/server", "dist//server", "`dist//server` is no directory of an artefact"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = Policy::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{to}: {error}");
        }
    }
}
