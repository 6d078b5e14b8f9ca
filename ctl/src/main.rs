//! The `ctl` binary.

fn main() {}
