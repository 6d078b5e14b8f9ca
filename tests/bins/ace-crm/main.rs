//! The app of the real tests: ACE CRM, three services on one tree, which is what the files of its tree say.
//!
//! ```text
//! ace-crm release DIR v2.0.0 --fault lie      makes a release: thousands of files, some only in it   (tree.rs)
//! ace-crm serve DIR backend 0.0.0.0:5000      serves it                                              (serve.rs)
//! ```
//!
//! Invariant: what is wrong with a release is in its files, so that putting other files there mends it.
//! Invariant: a service writes down, before it serves, of which releases the files are that it starts on.

#![expect(clippy::print_stderr, reason = "a small program whose log is its service manager's")]

mod metrics;
mod serve;
mod tree;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;

use tree::Fault;

#[derive(Debug, Parser)]
enum Command {
    /// Makes a release.
    Release {
        dir: PathBuf,
        version: String,
        /// What is wrong with it.
        #[arg(long, value_enum)]
        fault: Option<Fault>,
        /// How many files its library has.
        #[arg(long, default_value_t = 3000)]
        files: usize,
    },
    /// Serves one service of what is in a directory.
    Serve {
        dir: PathBuf,
        service: String,
        listen: SocketAddr,
        /// Where starts are written down.
        #[arg(long, default_value = "/var/log/ace-crm/starts.log")]
        starts: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Release { dir, version, fault, files } => {
            tree::write(&dir, &version, fault, files)
        }
        Command::Serve { dir, service, listen, starts } => {
            serve::run(&dir, &service, listen, &starts)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ace-crm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
