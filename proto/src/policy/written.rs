//! How files, services and checks are written: one flat struct each, from which the enums of [`super`] are made.
//!
//! An untagged enum would answer a typing error with "did not match any variant"; a flat struct names the key.
//!
//! Invariant: each error has the form `what; mend`.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    CheckPolicy, CommandProbe, FilePolicy, FilesPolicy, HttpExpect, HttpProbe, ProbePolicy,
    ProcessPolicy, ScriptPolicy, ServiceDriver, ServicePolicy, SwitchMode, TcpProbe, TreePolicy,
    default_every, default_pass, default_stop_within, default_timeout,
};
use crate::span::Span;

/// A file tree, or a single file, that goes back with its component: exactly one of `tree` and `file`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["tree"] }, { "required": ["file"] }]))]
pub(super) struct Files {
    /// The live directory, or with `switch: link` the link to it. Absolute.
    tree: Option<PathBuf>,
    /// How the staged tree takes the place of the live one: `exchange` (default) or `link`.
    switch: Option<SwitchMode>,
    /// Paths below the tree that live across releases: uploads, logs. Relative, without `..`.
    #[serde(default)]
    keep: Vec<PathBuf>,
    /// The tree's releases may hold files that are set-uid, set-gid or have file capabilities; without it, such a file is
    /// refused. Default: false.
    privileged_files: Option<bool>,
    /// Where in the component's artefact the tree is: relative, without `..`. Wanted where a component that is deployed
    /// has several trees. Default: the whole artefact.
    from: Option<PathBuf>,
    /// A single file, inside a tree or on its own. Absolute.
    file: Option<PathBuf>,
    /// The names of the file's keys may be shown, the values never. Default: false.
    secret: Option<bool>,
    /// Keys that the file, an env file, must have with a value.
    #[serde(default)]
    require: Vec<String>,
}

impl TryFrom<Files> for FilesPolicy {
    type Error = String;

    fn try_from(written: Files) -> Result<Self, String> {
        let Files { tree, switch, keep, privileged_files, from, file, secret, require } = written;
        match (tree, file) {
            (Some(tree), None) => {
                refuse_if(
                    secret.is_some(),
                    "`secret` says something of a `file`, not of a `tree`",
                )?;
                refuse_if(
                    !require.is_empty(),
                    "`require` says something of a `file`, not of a `tree`",
                )?;
                Ok(Self::Tree(TreePolicy {
                    tree,
                    switch: switch.unwrap_or_default(),
                    keep,
                    privileged_files: privileged_files.unwrap_or(false),
                    from,
                }))
            }
            (None, Some(file)) => {
                refuse_if(
                    switch.is_some(),
                    "`switch` says something of a `tree`, not of a `file`",
                )?;
                refuse_if(!keep.is_empty(), "`keep` says something of a `tree`, not of a `file`")?;
                refuse_if(
                    privileged_files.is_some(),
                    "`privileged_files` says something of a `tree`, not of a `file`",
                )?;
                refuse_if(from.is_some(), "`from` says something of a `tree`, not of a `file`")?;
                Ok(Self::File(FilePolicy { file, secret: secret.unwrap_or(false), require }))
            }
            (None, None) => Err("neither `tree` nor `file` is given; write one of them".to_owned()),
            (Some(_), Some(_)) => {
                Err("both `tree` and `file` are given; make two entries of it".to_owned())
            }
        }
    }
}

/// One service and what runs it: exactly one of `systemd`, `nginx`, `process` and `script`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["systemd"] }, { "required": ["nginx"] }, { "required": ["process"] }, { "required": ["script"] }]))]
pub(super) struct Service {
    /// The component's own name for it. Default: the name of the unit without `.service`.
    name: Option<String>,
    /// The name of a systemd unit.
    systemd: Option<String>,
    /// The name of the systemd unit that runs nginx: it is reloaded, not restarted, where that is enough.
    nginx: Option<String>,
    /// A command that the agent itself starts and watches.
    process: Option<ProcessPolicy>,
    /// The app's own scripts.
    script: Option<ScriptPolicy>,
    /// How long it has to stop by itself before it is killed. Default: 10s.
    stop_within: Option<Span>,
}

impl TryFrom<Service> for ServicePolicy {
    type Error = String;

    fn try_from(written: Service) -> Result<Self, String> {
        let Service { name, systemd, nginx, process, script, stop_within } = written;
        let mut drivers: Vec<ServiceDriver> =
            systemd.map(ServiceDriver::Systemd).into_iter().collect();
        drivers.extend(nginx.map(ServiceDriver::Nginx));
        drivers.extend(process.map(ServiceDriver::Process));
        drivers.extend(script.map(ServiceDriver::Script));
        let known = "`systemd`, `nginx`, `process` or `script`";
        let driver = one_of(drivers, "what runs the service", known)?;
        let name = match (name, &driver) {
            (Some(name), _) => name,
            (None, ServiceDriver::Systemd(unit) | ServiceDriver::Nginx(unit)) => {
                unit.strip_suffix(".service").unwrap_or(unit).to_owned()
            }
            (None, ServiceDriver::Process(_) | ServiceDriver::Script(_)) => {
                return Err("the service has no name; add `name: …`".to_owned());
            }
        };
        Ok(Self { name, driver, stop_within: stop_within.unwrap_or_else(default_stop_within) })
    }
}

/// One thing that must hold for a component to be good: exactly one of `http`, `tcp` and `command`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["http"] }, { "required": ["tcp"] }, { "required": ["command"] }]))]
pub(super) struct Check {
    /// The check's name in reports; unique in its component.
    name: String,
    /// A request to this URL.
    http: Option<String>,
    /// The request's method. Default: GET.
    method: Option<String>,
    /// The request's body; no secret may stand in it.
    body: Option<String>,
    /// A file on the host with a bearer token; its value is never shown. Absolute.
    bearer_file: Option<PathBuf>,
    /// Headers whose values may be seen by anybody.
    headers: Option<BTreeMap<String, String>>,
    /// Headers whose values stand in files on the host; they are never shown. Absolute.
    header_files: Option<BTreeMap<String, PathBuf>>,
    /// How many requests make one try. Default: 1.
    requests: Option<u32>,
    /// What the answer must be. Default: status 200.
    expect: Option<HttpExpect>,
    /// A port that must accept a connection: `address:port`.
    tcp: Option<String>,
    /// A command that must exit 0: program (absolute) and arguments, no shell.
    command: Option<Vec<String>>,
    /// The user that the command runs as. Default: the agent's own.
    user: Option<String>,
    /// How often it is tried. Default: 1s.
    every: Option<Span>,
    /// How many passes in a row make it pass. Default: 2.
    pass: Option<u32>,
    /// How long one try may take. Default: 5s.
    timeout: Option<Span>,
}

impl TryFrom<Check> for CheckPolicy {
    type Error = String;

    fn try_from(written: Check) -> Result<Self, String> {
        let Check {
            name,
            http,
            method,
            body,
            bearer_file,
            headers,
            header_files,
            requests,
            expect,
            tcp,
            command,
            user,
            every,
            pass,
            timeout,
        } = written;
        if http.is_none() {
            let given = [
                ("method", method.is_some()),
                ("body", body.is_some()),
                ("bearer_file", bearer_file.is_some()),
                ("headers", headers.is_some()),
                ("header_files", header_files.is_some()),
                ("requests", requests.is_some()),
                ("expect", expect.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                refuse_if(true, &format!("`{key}` says something of an `http` check"))?;
            }
        }
        refuse_if(
            user.is_some() && command.is_none(),
            "`user` says something of a `command` check",
        )?;

        let mut probes: Vec<ProbePolicy> =
            tcp.map(|tcp| ProbePolicy::Tcp(TcpProbe { tcp })).into_iter().collect();
        probes.extend(command.map(|command| ProbePolicy::Command(CommandProbe { command, user })));
        let expect = expect.unwrap_or_default();
        probes.extend(http.map(|http| {
            ProbePolicy::Http(HttpProbe {
                http,
                method,
                body,
                bearer_file,
                headers: headers.unwrap_or_default(),
                header_files: header_files.unwrap_or_default(),
                requests,
                expect,
            })
        }));
        Ok(Self {
            name,
            probe: one_of(probes, "what the check does", "`http`, `tcp` or `command`")?,
            every: every.unwrap_or_else(default_every),
            pass: pass.unwrap_or_else(default_pass),
            timeout: timeout.unwrap_or_else(default_timeout),
        })
    }
}

fn one_of<T>(mut given: Vec<T>, what: &str, known: &str) -> Result<T, String> {
    match (given.pop(), given.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(format!("{what} is given more than once; keep one of {known}")),
        (None, _) => Err(format!("{what} is not given; write one of {known}")),
    }
}

fn refuse_if(wrong: bool, what: &str) -> Result<(), String> {
    if wrong { Err(format!("{what}; leave it out here")) } else { Ok(()) }
}
