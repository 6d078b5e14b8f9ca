//! The `agent` binary.

fn main() -> std::process::ExitCode {
    agent::main_impl()
}
