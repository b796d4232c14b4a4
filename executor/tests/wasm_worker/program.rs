//! The worker process of this crate's tests, and a node that can be killed.
fn main() -> std::process::ExitCode {
    p2pnode_executor::wasm::worker::main()
}
