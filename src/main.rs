//! `varve`: a Kubernetes CSI driver with snapshot backups built in, and the commands that go with it.
//!
//! This is where everything is put together and where nothing is decided: arguments and configuration become settings,
//! settings become the parts of a driver or one command on a repository, and errors become one line and an exit status
//! (0 for success, 1 for failure, 2 for arguments that are not usable).

mod arguments;
mod client;
mod command;
mod config;
mod demo;
mod failure;
mod key;
mod kubectl;
mod log;
mod output;
mod progress;
mod quantity;
mod repository;
mod serve;
mod signal;

use std::{env, io, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use varve_node::{cut::sentinel::stand_watch, sys::allocator::share_arenas};

use self::{
    arguments::{Arguments, Command},
    kubectl::arguments::Plugin,
    log::Level,
};

fn main() -> ExitCode {
    share_arenas();
    let (command, verbose) = if kubectl::is_plugin(env::args_os().next().as_deref()) {
        let Plugin { verbose, kubectl } = Plugin::parse();
        (Command::Kubectl(kubectl), verbose)
    } else {
        let Arguments { verbose, command } = Arguments::parse();
        (command, verbose)
    };
    log::start(match (&command, verbose) {
        (_, true) => Level::Verbose,
        (Command::Standalone(_) | Command::Controller(_) | Command::Node(_), false) => Level::Normal,
        (_, false) => Level::Quiet,
    });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error).context("starting the runtime")),
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Standalone(arguments) => serve::standalone::run(arguments).await,
        Command::Controller(arguments) => serve::controller::run(arguments).await,
        Command::Node(arguments) => serve::node::run(arguments).await,
        Command::Volume(command) => command::volume::run(command).await,
        Command::Snapshot(command) => command::snapshot::run(command).await,
        Command::Repository(command) => command::repository::run(command).await,
        Command::Kubectl(arguments) => kubectl::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Sentinel => {
            tokio::task::spawn_blocking(|| stand_watch(io::stdin())).await?.map(drop).context("standing watch")
        }
    }
}
