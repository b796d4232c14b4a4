//! Helper processes of a node, started by the node itself.

use std::process::ExitCode;

use crate::args::HelperArgs;

/// Runs WASM modules for a node, over stdin and stdout.
pub fn wasm_worker() -> ExitCode {
    p2pnode_executor::wasm::worker::main()
}

/// Removes a node's containers once its stdin closes.
pub fn reaper(args: &HelperArgs) -> ExitCode {
    p2pnode_executor::docker::reaper::run(args.args.clone())
}
