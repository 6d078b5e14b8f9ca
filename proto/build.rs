//! Compiles the contract with protox, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "lastgood/v1/common.proto",
    "lastgood/v1/plan.proto",
    "lastgood/v1/fleet.proto",
    "lastgood/v1/agent.proto",
    "lastgood/v1/operator.proto",
];

/// Messages that carry a token: `secret.rs` says what may be said of them.
const SECRET: [&str; 2] = ["lastgood.v1.JoinRequest", "lastgood.v1.CreateJoinTokenResponse"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files = protox::compile(FILES, ["."])?;
    // Kept for gRPC reflection and for the test that every RPC has a row in the role table.
    std::fs::write(out.join("lastgood.binpb"), files.encode_to_vec())?;
    tonic_prost_build::configure().skip_debug(SECRET).compile_fds(files)?;
    println!("cargo:rerun-if-changed=lastgood");
    Ok(())
}
