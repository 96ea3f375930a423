//! The `livebpf` command.
fn main() {}
