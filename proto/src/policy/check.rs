//! What must hold of files, services and checks, wherever they are written: in a policy, or in the fleet file it is made from.
//!
//! ```text
//! each list by itself:      files, services, checks
//! what meets on one host:   side_by_side (trees that overlap, files and units that two would handle)
//! an edge's proxy:          traffic
//! ```
//!
//! Invariant: what an agent accepts, `ctl` accepted before it, for both ask here.
//! Invariant: no problem repeats a value that may be secret.

mod samples;
mod sources;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component as Part, Path, PathBuf},
    time::Duration,
};

use tonic::codegen::http::Uri;

pub use self::samples::samples;
pub use self::sources::sources;
pub use self::traffic::{component_name, edge, traffic};
use super::{
    CapturePolicy, CheckPolicy, CommandProbe, FilesPolicy, HookPolicy, HttpProbe, LeasePolicy,
    MigrationsPolicy, Policy, ProbePolicy, ProcessPolicy, RetentionPolicy, ScriptPolicy,
    ServiceDriver, ServicePolicy,
    yaml::{At, Problem, Report, mend_word},
};
use crate::span::Span;

/// The longest name. It is a DNS label's length, so that a name fits wherever a host name does.
pub const NAME_CHARS_MAX: usize = 63;

/// Directories of Lastgood itself: nothing may be switched in them, and no tree may hold them.
const OWN: [&str; 2] = ["/etc/lastgood", "/var/lib/lastgood"];

/// What goes by age is at least so old.
const YOUNGEST: Duration = Duration::from_secs(3600);

/// The shortest lease: one that is over before anybody can have used the release says nothing.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);

/// Checks a whole policy. Fails with every problem.
pub fn policy(policy: &Policy, at: At<'_>) -> Result<(), Vec<Problem>> {
    let mut report = Report::default();
    name(&policy.fleet, "fleet", at.key("fleet"), &mut report);
    name(&policy.host, "host", at.key("host"), &mut report);
    let mut placed = Vec::new();
    for (component_name, component) in &policy.components {
        let at = at.key("components").name(component_name);
        traffic::component_name(component_name, at, &mut report);
        files(&component.files, at.key("files"), &mut report);
        services(&component.services, at.key("services"), &mut report);
        checks(&component.checks, at.key("checks"), &mut report);
        hooks(&component.hooks, at.key("hooks"), &mut report);
        if let Some(here) = &component.migrations {
            migrations(here, &component.files, at.key("migrations"), &mut report);
        }
        if let Some(here) = &component.capture {
            capture(here, &component.files, &component.checks, at.key("capture"), &mut report);
        }
        if let Some(here) = component.retention {
            retention(here, at.key("retention"), &mut report);
        }
        if let Some(here) = component.lease {
            lease(here, component.stable_for, &component.checks, at.key("lease"), &mut report);
        }
        if let Some(here) = &component.samples {
            samples(here, &component.checks, at.key("samples"), &mut report);
        }
        positive(component.ready_within, at.key("ready_within"), &mut report);
        placed.push(Placed {
            name: component_name,
            files: &component.files,
            files_at: at.key("files"),
            services: &component.services,
            services_at: at.key("services"),
        });
    }
    side_by_side(&placed, &mut report);
    sources(&policy.sources, at.key("sources"), &mut report);
    if let Some(here) = &policy.traffic {
        traffic(here, &placed, at.key("traffic"), &mut report);
    }
    report.finish()
}

/// A component as it stands on one host, and where that is written.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub name: &'a str,
    pub files: &'a [FilesPolicy],
    pub files_at: At<'a>,
    pub services: &'a [ServicePolicy],
    pub services_at: At<'a>,
}

/// Checks a name: `[a-z0-9][a-z0-9.-]{0,62}`. `kind` is what it names.
pub fn name(text: &str, kind: &str, at: At<'_>, report: &mut Report) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !begins || !text.chars().all(allowed) || text.len() > NAME_CHARS_MAX {
        report.add(
            at,
            format!("`{text}` cannot be the name of a {kind}"),
            "use up to 63 of a-z, 0-9, `.` and `-`, and begin with a letter or a digit",
        );
    }
}

/// Checks an absolute path in its plain form.
pub fn absolute(path: &Path, at: At<'_>, report: &mut Report) {
    let shown = path.display();
    let plain: PathBuf = path.components().collect();
    if !path.is_absolute() {
        report.add(at, format!("path `{shown}` is not absolute"), "begin it with `/`");
    } else if path.components().any(|part| part == Part::ParentDir) {
        report.add(at, format!("path `{shown}` holds `..`"), "write the path that is meant");
    } else if shown.to_string().contains(char::is_control) {
        report.add(at, "a path holds a control character", "write the path without it");
    } else if plain.as_os_str() != path.as_os_str() {
        report.add(
            at,
            format!("path `{shown}` is not in its plain form"),
            format!("write `{}`", plain.display()),
        );
    }
}

/// Checks that a span is longer than nothing.
pub fn positive(span: Span, at: At<'_>, report: &mut Report) {
    if span.0.is_zero() {
        report.add(at, "this duration must be longer than nothing", "write at least `1s`");
    }
}

/// Checks what a component's snapshots are kept by.
pub fn retention(retention: RetentionPolicy, at: At<'_>, report: &mut Report) {
    let RetentionPolicy { releases, age, disk } = retention;
    if releases.is_none() && age.is_none() && disk.is_none() {
        let mend = "write one, like `retention: { releases: 5 }`, or leave `retention` out";
        report.add(at, "`retention` names no limit: the store would grow for ever", mend);
    }
    if releases == Some(0) {
        let mend = "write at least `1`";
        report.add(at.key("releases"), "without a release there is nothing to go back to", mend);
    }
    if age.is_some_and(|age| age.0 < YOUNGEST) {
        let what = "a release has to live longer than that to be gone back to";
        report.add(at.key("age"), what, "write at least `1h`");
    }
    if disk.is_some_and(|disk| disk.0 == 0) {
        let mend = "write what the component's snapshots may take, like `20GiB`";
        report.add(at.key("disk"), "nothing can be kept in no space", mend);
    }
}

/// Checks a component's trees and files by themselves.
pub fn files(files: &[FilesPolicy], at: At<'_>, report: &mut Report) {
    for (index, entry) in files.iter().enumerate() {
        let at = at.item(index);
        match entry {
            FilesPolicy::Tree(tree) => {
                absolute(&tree.tree, at.key("tree"), report);
                not_our_own(&tree.tree, at.key("tree"), report);
                kept(&tree.keep, at.key("keep"), report);
                not_kept(&tree.tree, &tree.keep, files, at.key("keep"), report);
                if let Some(from) = &tree.from {
                    sources::below_an_artefact(from, at.key("from"), report);
                }
            }
            FilesPolicy::File(file) => {
                absolute(&file.file, at.key("file"), report);
                not_our_own(&file.file, at.key("file"), report);
                for (key_index, key) in file.require.iter().enumerate() {
                    variable(key, at.key("require").item(key_index), report);
                }
            }
        }
    }
}

/// Checks a component's services by themselves.
pub fn services(services: &[ServicePolicy], at: At<'_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    let reloads = services.iter().filter(|service| service.driver.reloads()).count();
    if reloads > 0 && reloads < services.len() {
        report.add(
            at,
            "one service is reloaded while it runs, another is stopped and started",
            "make a component of its own for what is reloaded, and order the two by `needs`",
        );
    }
    for (index, service) in services.iter().enumerate() {
        let at = at.item(index);
        name(&service.name, "service", at.key("name"), report);
        if !names.insert(&service.name) {
            report.add(
                at.key("name"),
                format!("service `{}` is given twice", service.name),
                "give each its own `name`",
            );
        }
        positive(service.stop_within, at.key("stop_within"), report);
        match &service.driver {
            ServiceDriver::Process(process) => self::process(process, at.key("process"), report),
            ServiceDriver::Systemd(unit) => self::unit(unit, at.key("systemd"), report),
            ServiceDriver::Nginx(unit) => self::unit(unit, at.key("nginx"), report),
            ServiceDriver::Script(script) => self::script(script, at.key("script"), report),
        }
    }
}

/// Checks a component's checks by themselves.
pub fn checks(checks: &[CheckPolicy], at: At<'_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for (index, check) in checks.iter().enumerate() {
        let at = at.item(index);
        name(&check.name, "check", at.key("name"), report);
        if !names.insert(&check.name) {
            report.add(
                at.key("name"),
                format!("check `{}` is given twice", check.name),
                "give each its own `name`",
            );
        }
        match &check.probe {
            ProbePolicy::Http(probe) => http(probe, at, report),
            ProbePolicy::Tcp(probe) => tcp(&probe.tcp, at.key("tcp"), report),
            ProbePolicy::Command(CommandProbe { command, user: run_as }) => {
                self::command(command, at.key("command"), report);
                user(run_as.as_deref(), at.key("user"), report);
            }
        }
        positive(check.every, at.key("every"), report);
        positive(check.timeout, at.key("timeout"), report);
        at_least_one(check.pass, at.key("pass"), report);
    }
}

/// Checks a component's hooks by themselves.
pub fn hooks(hooks: &[HookPolicy], at: At<'_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for (index, hook) in hooks.iter().enumerate() {
        let at = at.item(index);
        name(&hook.name, "hook", at.key("name"), report);
        if !names.insert(&hook.name) {
            report.add(
                at.key("name"),
                format!("hook `{}` is given twice", hook.name),
                "give each its own `name`",
            );
        }
        command(&hook.command, at.key("command"), report);
        user(Some(&hook.user), at.key("user"), report);
        positive(hook.within, at.key("within"), report);
    }
}

/// Checks how a component learns: it needs files to record, and checks that say whether they are good.
pub fn capture(
    capture: &CapturePolicy,
    files: &[FilesPolicy],
    checks: &[CheckPolicy],
    at: At<'_>,
    report: &mut Report,
) {
    positive(capture.after_healthy, at.key("after_healthy"), report);
    if checks.is_empty() {
        let mend = "add `checks`, or leave `capture` out";
        report.add(at, "nothing says whether what runs is good", mend);
    }
    if files.is_empty() {
        report.add(at, "there are no files to record", "add `files`, or leave `capture` out");
    }
}

/// Checks how long a new release of a component is on trial: its checks decide, and the verify of the operation itself has
/// to end before.
pub fn lease(
    lease: LeasePolicy,
    stable_for: Span,
    checks: &[CheckPolicy],
    at: At<'_>,
    report: &mut Report,
) {
    if lease.lasting.0 < SHORTEST_LEASE {
        let what = "a release cannot show what it is worth in that time";
        report.add(at.key("for"), what, "write at least `10s`, better `10m`");
    }
    if lease.lasting <= stable_for {
        let what =
            format!("it would be over before the checks have held for `stable_for: {stable_for}`");
        report.add(at.key("for"), what, "write more than `stable_for`");
    }
    if checks.is_empty() {
        let mend = "add `checks`, or leave `lease` out";
        report.add(at, "nothing says whether what runs is good", mend);
    }
}

/// Checks where a component's migrations are recorded. `files` are the component's, for the key of the URL.
pub fn migrations(
    migrations: &MigrationsPolicy,
    files: &[FilesPolicy],
    at: At<'_>,
    report: &mut Report,
) {
    let parts: Vec<&str> = migrations.table.split('.').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_sql_name(part)) {
        report.add(
            at.key("table"),
            format!("`{}` cannot be the name of a table", migrations.table),
            "write it like `schema_migrations` or `public.schema_migrations`",
        );
    }
    if !is_sql_name(&migrations.column) {
        report.add(
            at.key("column"),
            format!("`{}` cannot be the name of a column", migrations.column),
            "write it like `version`",
        );
    }
    match &migrations.url_file {
        Some(file) => absolute(file, at.key("url_file"), report),
        None => {
            variable(&migrations.url_key, at.key("url_key"), report);
            let secret =
                |entry: &FilesPolicy| matches!(entry, FilesPolicy::File(file) if file.secret);
            if !files.iter().any(secret) {
                report.add(
                    at,
                    "nothing says how the database is reached",
                    "add `url_file: /etc/lastgood/secrets/…`, or declare the env file that holds the key as `secret: true`",
                );
            }
        }
    }
}

/// Checks what components on one host may not share: a switch of the one would take the other's files or services away.
pub fn side_by_side(components: &[Placed<'_>], report: &mut Report) {
    let mut seen: Vec<(&Placed<'_>, &FilesPolicy)> = Vec::new();
    let mut units: Vec<(&str, &str)> = Vec::new();
    for component in components {
        for (index, entry) in component.files.iter().enumerate() {
            let at = component.files_at.item(index);
            for (other, other_entry) in &seen {
                overlap(component.name, entry, other.name, other_entry, at, report);
            }
            seen.push((component, entry));
        }
        for (index, service) in component.services.iter().enumerate() {
            let (ServiceDriver::Systemd(unit) | ServiceDriver::Nginx(unit)) = &service.driver
            else {
                continue;
            };
            if let Some((_, other)) = units.iter().find(|(known, _)| known == unit) {
                let at = component.services_at.item(index);
                report.add(
                    at,
                    format!(
                        "unit `{unit}` is already a service of component `{other}` on the same host"
                    ),
                    "name it in one component only; order components by `needs`",
                );
            }
            units.push((unit, component.name));
        }
    }
}

fn overlap(
    component: &str,
    entry: &FilesPolicy,
    other_component: &str,
    other: &FilesPolicy,
    at: At<'_>,
    report: &mut Report,
) {
    let of_other = format!("of component `{other_component}`");
    match (entry, other) {
        (FilesPolicy::Tree(tree), FilesPolicy::Tree(other)) => {
            let (tree, other) = (&tree.tree, &other.tree);
            let relation = if tree == other {
                "is also a tree"
            } else if tree.starts_with(other) {
                "lies inside a tree"
            } else if other.starts_with(tree) {
                "holds a tree"
            } else {
                return;
            };
            let what = format!("tree `{}` {relation} {of_other} on the same host", tree.display());
            report.add(
                at.key("tree"),
                what,
                "make one component of what is switched together, or name trees side by side",
            );
        }
        (FilesPolicy::File(file), FilesPolicy::File(other)) if file.file == other.file => {
            let what = format!(
                "file `{}` is already a file {of_other} on the same host",
                file.file.display()
            );
            report.add(at.key("file"), what, "name it once");
        }
        (FilesPolicy::File(file), FilesPolicy::Tree(tree))
        | (FilesPolicy::Tree(tree), FilesPolicy::File(file))
            if component != other_component && file.file.starts_with(&tree.tree) =>
        {
            let what = format!(
                "file `{}` and the tree it lies in are of two components",
                file.file.display()
            );
            report.add(at, what, "name the file in the component of the tree");
        }
        (
            FilesPolicy::Tree(_) | FilesPolicy::File(_),
            FilesPolicy::Tree(_) | FilesPolicy::File(_),
        ) => {}
    }
}

fn not_our_own(path: &Path, at: At<'_>, report: &mut Report) {
    if path == Path::new("/") {
        report.add(
            at,
            "the root of the file system cannot be switched",
            "name the directory of the app",
        );
    }
    for own in OWN.map(Path::new) {
        if path.starts_with(own) || (own.starts_with(path) && path != Path::new("/")) {
            let what =
                format!("`{}` meets Lastgood's own directory `{}`", path.display(), own.display());
            report.add(at, what, "name the directory of the app");
        }
    }
}

fn kept(keep: &[PathBuf], at: At<'_>, report: &mut Report) {
    for (index, path) in keep.iter().enumerate() {
        let shown = path.display();
        let here = at.item(index);
        let plain: PathBuf = path.components().collect();
        if path.is_absolute() {
            report.add(here, format!("`{shown}` is absolute"), "write it relative to the tree");
        } else if !path.components().all(|part| matches!(part, Part::Normal(_)))
            || plain.as_os_str() != path.as_os_str()
        {
            report.add(
                here,
                format!("`{shown}` is not a plain path below the tree"),
                "write it like `uploads` or `var/log`",
            );
        } else if keep
            .iter()
            .take(index)
            .any(|other| path.starts_with(other) || other.starts_with(path))
        {
            report.add(
                here,
                format!("`{shown}` overlaps another path that is kept"),
                "keep the outer one only",
            );
        }
    }
}

fn not_kept(tree: &Path, keep: &[PathBuf], files: &[FilesPolicy], at: At<'_>, report: &mut Report) {
    for (index, path) in keep.iter().enumerate() {
        let kept = tree.join(path);
        for entry in files {
            if let FilesPolicy::File(file) = entry
                && file.file.starts_with(&kept)
            {
                let what = format!(
                    "file `{}` goes back, but lies below the kept `{}`",
                    file.file.display(),
                    path.display()
                );
                report.add(at.item(index), what, "keep the path, or name the file: not both");
            }
        }
    }
}

fn unit(unit: &str, at: At<'_>, report: &mut Report) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if !unit.chars().all(allowed) || unit.starts_with(['-', '.']) {
        report.add(
            at,
            format!("`{unit}` cannot be the name of a unit"),
            "write it as `systemctl status` shows it",
        );
    } else if unit.strip_suffix(".service").is_none_or(str::is_empty) {
        report.add(
            at,
            format!("unit `{unit}` is not a service"),
            "write it with its suffix, like `app.service`",
        );
    }
}

fn process(process: &ProcessPolicy, at: At<'_>, report: &mut Report) {
    command(&process.command, at.key("command"), report);
    absolute(&process.directory, at.key("directory"), report);
    user(process.user.as_deref(), at.key("user"), report);
    environment(&process.environment, at.key("environment"), report);
}

fn script(script: &ScriptPolicy, at: At<'_>, report: &mut Report) {
    command(&script.start, at.key("start"), report);
    command(&script.stop, at.key("stop"), report);
    command(&script.status, at.key("status"), report);
    if let Some(force_stop) = &script.force_stop {
        command(force_stop, at.key("force_stop"), report);
    }
    absolute(&script.directory, at.key("directory"), report);
    user(Some(&script.user), at.key("user"), report);
    environment(&script.environment, at.key("environment"), report);
}

fn environment(variables: &BTreeMap<String, String>, at: At<'_>, report: &mut Report) {
    for (key, value) in variables {
        let at = at.name(key);
        variable(key, at, report);
        if names_a_secret(key) && !value.is_empty() {
            report.add(
                at,
                format!("the value of `{key}` looks like a secret, and would stand in this file"),
                "let the app read it from a file (`secret: true`), and name that file's path in a variable that ends in `_FILE`",
            );
        }
        if value.contains('\0') {
            report.add(
                at,
                format!("the value of `{key}` holds a NUL"),
                "write the value without it",
            );
        }
    }
}

fn is_sql_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn command(command: &[String], at: At<'_>, report: &mut Report) {
    let Some(program) = command.first() else {
        return report.add(
            at,
            "the command is empty",
            "write the program and its arguments, like `[/usr/bin/node, server.js]`",
        );
    };
    absolute(Path::new(program), at.item(0), report);
    for (index, argument) in command.iter().enumerate() {
        let flag = argument.split_once('=').map(|(flag, _)| flag.trim_start_matches('-'));
        if flag.is_some_and(|flag| argument.starts_with('-') && names_a_secret(flag)) {
            report.add(
                at.item(index),
                "an argument looks like a secret",
                "let the program read it from a file",
            );
        }
        if argument.contains('\0') {
            report.add(at.item(index), "an argument holds a NUL", "write it without");
        }
    }
}

fn user(user: Option<&str>, at: At<'_>, report: &mut Report) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if let Some(user) = user
        && !(user.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && user.chars().all(allowed))
    {
        report.add(
            at,
            format!("`{user}` cannot be the name of a user"),
            "write the name as in /etc/passwd",
        );
    }
}

fn variable(key: &str, at: At<'_>, report: &mut Report) {
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        report.add(
            at,
            format!("`{key}` cannot be the name of a variable"),
            "use letters, digits and `_`",
        );
    }
}

/// Whether a variable or option of this name holds a secret rather than the path of one.
fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    let path = ["_FILE", "_PATH", "_DIR"].iter().any(|ending| name.ends_with(ending));
    let secret = ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "API_KEY", "PRIVATE_KEY"]
        .iter()
        .any(|word| name.contains(word));
    secret && !path
}

fn http(probe: &HttpProbe, at: At<'_>, report: &mut Report) {
    url(&probe.http, "`bearer_file`", at.key("http"), report);
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if let Some(method) = &probe.method
        && !METHODS.contains(&method.as_str())
    {
        let mend = mend_word(&method.to_ascii_uppercase(), METHODS);
        report.add(at.key("method"), format!("`{method}` is not a method of HTTP"), mend);
    }
    let body = probe.body.as_deref().unwrap_or_default().to_ascii_lowercase();
    if ["\"password\"", "\"token\"", "\"secret\"", "password="]
        .iter()
        .any(|word| body.contains(word))
    {
        report.add(
            at.key("body"),
            "the body looks as if a secret stood in it",
            "check with `bearer_file` instead",
        );
    }
    if let Some(file) = &probe.bearer_file {
        absolute(file, at.key("bearer_file"), report);
    }
    for (key, value) in &probe.headers {
        let at = at.key("headers").name(key);
        header(key, at, report);
        if names_a_secret(key) || key.eq_ignore_ascii_case("authorization") {
            report.add(
                at,
                format!("the value of `{key}` looks like a secret, and would stand in this file"),
                "give it by `header_files` or `bearer_file`",
            );
        }
        if value.chars().any(char::is_control) {
            report.add(
                at,
                format!("the value of `{key}` holds a control character"),
                "write it without",
            );
        }
    }
    for (key, file) in &probe.header_files {
        let at = at.key("header_files").name(key);
        header(key, at, report);
        absolute(file, at, report);
    }
    at_least_one(probe.requests.unwrap_or(1), at.key("requests"), report);
    let expect = at.key("expect");
    if probe.expect.status.is_some_and(|status| !(100..600).contains(&status)) {
        report.add(
            expect.key("status"),
            "this is not a status of HTTP",
            "write one of 100 to 599, such as `200`",
        );
    }
    for pointer in probe.expect.json.keys() {
        json_pointer(pointer, expect.key("json").name(pointer), report);
    }
    if let Some(pointer) = &probe.expect.version_at {
        json_pointer(pointer, expect.key("version_at"), report);
    }
    for (list, bounds) in [("at_most", &probe.expect.at_most), ("at_least", &probe.expect.at_least)]
    {
        for (pointer, bound) in bounds {
            let at = expect.key(list).name(pointer);
            json_pointer(pointer, at, report);
            if !bound.is_finite() {
                report.add(at, "this is not a number", "write a number such as `0.1`");
            }
        }
    }
    let spans = [
        ("within", probe.expect.within),
        ("average_within", probe.expect.average_within),
        ("p95_within", probe.expect.p95_within),
    ];
    for (key, within) in spans {
        if let Some(within) = within {
            positive(within, expect.key(key), report);
        }
    }
    let factors = [
        ("average_over_baseline", probe.expect.average_over_baseline),
        ("p95_over_baseline", probe.expect.p95_over_baseline),
    ];
    for (key, factor) in factors {
        if factor.is_some_and(|factor| !factor.is_finite() || factor < 1.0) {
            report.add(
                expect.key(key),
                "this is not a factor of 1 or more",
                "write a number such as `1.5`: half as slow again",
            );
        }
    }
}

fn header(name: &str, at: At<'_>, report: &mut Report) {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        report.add(
            at,
            format!("`{name}` cannot be the name of a header"),
            "use letters, digits and `-`",
        );
    }
}

/// Checks a URL of HTTP, to which what is secret is given by `secret`. It is not repeated: a password may stand in it.
pub fn url(text: &str, secret: &str, at: At<'_>, report: &mut Report) {
    let Ok(uri) = text.parse::<Uri>() else {
        return report.add(at, "this is not a URL", "write it like `http://127.0.0.1:5000/health`");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        report.add(
            at,
            "this is not a URL of http or https",
            "write it like `http://127.0.0.1:5000/health`",
        );
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        report.add(
            at,
            "a user or password stands in this URL",
            format!("take it out; give a token by {secret}"),
        );
    }
}

fn tcp(address: &str, at: At<'_>, report: &mut Report) {
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) || address.contains('/') {
        report.add(
            at,
            format!("`{address}` is not an address with a port"),
            "write it like `127.0.0.1:5000`",
        );
    }
}

fn json_pointer(pointer: &str, at: At<'_>, report: &mut Report) {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        report.add(
            at,
            format!("`{pointer}` is not a JSON pointer"),
            format!("write `/{}`", pointer.replace('.', "/")),
        );
    }
}

fn at_least_one(count: u32, at: At<'_>, report: &mut Report) {
    if count == 0 {
        report.add(at, "this must be at least 1", "write `1` or more");
    }
}
