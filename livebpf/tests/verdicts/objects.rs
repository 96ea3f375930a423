//! The objects of the kernel's selftests, which are not part of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use livebpf::object::Object;

/// Which of them the tests want.
const PATTERNS: [&str; 20] = [
    "verifier_*",
    "test_*",
    "tailcall*",
    "exceptions*",
    "uninit_stack",
    "xdp*",
    "tc_*",
    "bpf_flow",
    "cgroup_tcp_skb",
    "changes_pkt_data",
    "fib_lookup",
    "for_each_*",
    "freplace_progmap",
    "load_bytes_relative",
    "loop4",
    "metadata_*",
    "skb_load_bytes",
    "skb_pkt_end",
    "twfw",
    "xsk_xdp_progs",
];

/// The folder with the objects: `LIVEBPF_SELFTESTS`, or built on the spot where that is possible.
pub fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("LIVEBPF_SELFTESTS") {
        return Some(folder.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tools/kernel/build.sh");
    if !script.exists() {
        println!("skipped: neither LIVEBPF_SELFTESTS nor {}", script.display());
        return None;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("selftests");
    let objects = out.join("selftests");
    // The last of the verifier's, and the last of those that run on packets.
    if !["verifier_xdp.o", "xsk_xdp_progs.o"].iter().all(|name| objects.join(name).exists()) {
        let status = Command::new("bash").arg(&script).arg(&out).arg("selftests").args(PATTERNS).output();
        if !status.is_ok_and(|done| done.status.success()) {
            println!("skipped: {} does not work here (it wants root and clang-19)", script.display());
            return None;
        }
    }
    Some(objects)
}

/// The object called `name`.
pub fn open(folder: &Path, name: &str) -> Option<Object> {
    let bytes = std::fs::read(folder.join(format!("{name}.o"))).ok()?;
    Some(Object::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}")))
}
