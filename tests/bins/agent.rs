//! `agent` once more, so that the tests of this package have it built.

fn main() -> std::process::ExitCode {
    agent::main_impl()
}
