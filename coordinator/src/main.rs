//! The `coordinator` binary.

fn main() -> std::process::ExitCode {
    coordinator::main_impl()
}
