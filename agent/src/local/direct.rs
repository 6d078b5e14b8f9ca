//! Without an agent: this process opens ledger and store, takes their locks, and is the agent for as long as it
//! takes.
//!
//! Invariant: no identity, no coordinator and no network: the policy file and the state directory are all it needs.
//! Invariant: it ends only when nothing is open in the ledger.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};

use super::{Service, wire::Request, wire::Response};
use crate::{
    core::{Core, CoreHandle},
    host::Host,
    ledger::{LedgerError, LedgerFile},
    policy,
};

/// See the module.
pub(super) struct Direct {
    service: Service<Host>,
    core: CoreHandle,
    running: JoinHandle<Result<(), LedgerError>>,
    /// While they are here, these signals do not end the process.
    deaf: Vec<Signal>,
}

impl Direct {
    /// Takes the agent's place. Fails where an agent runs after all.
    pub(super) fn open(state: &Path, policy: &Path) -> anyhow::Result<Self> {
        let loaded = policy::load_any(policy)?;
        // The ledger first: its lock says that no agent runs.
        let (file, ledger) = LedgerFile::open(&state.join("ledger"))?;
        let host = Host::open(&loaded.policy, loaded.hash, state)?;
        let host = Arc::new(host);
        let (core, handle) = Core::new(file, ledger, host.clone());
        let service = Service::new(host, handle.clone());
        let running = tokio::spawn(core.run());
        Ok(Self { service, core: handle, running, deaf: Vec::new() })
    }

    /// From here on neither a closed terminal nor Ctrl-C ends this process before its work has ended: nothing else
    /// would start what it stopped. A kill does; then the agent, or this command, looks how far it got.
    pub(super) fn outlive_the_terminal(&mut self) -> anyhow::Result<()> {
        for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
            self.deaf.push(signal(kind).context("the signals of this process")?);
        }
        Ok(())
    }

    /// Answers a request; the answers come as over the socket.
    pub(super) fn ask(&self, request: Request) -> mpsc::Receiver<Response> {
        let (say, answers) = mpsc::channel(64);
        let service = self.service.clone();
        tokio::spawn(async move { service.answer(request, &say).await });
        answers
    }

    /// Waits until nothing is open: a service must not stay stopped because a person's terminal is done.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let Self { service, core, mut running, deaf: _deaf } = self;
        let mut ledger = core.ledger();
        tokio::select! {
            idle = ledger.wait_for(|ledger| ledger.open().is_none()) => drop(idle),
            ended = &mut running => return Ok(ended.context("the core")??),
        }
        drop((service, core));
        Ok(running.await.context("the core")??)
    }
}
