//! The `ctl` binary.

fn main() -> std::process::ExitCode {
    ctl::main_impl()
}
