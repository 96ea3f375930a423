//! The objects of the kernel's selftests, which are not part of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use livebpf::object::Object;

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
    if !objects.join("verifier_xdp.o").exists() {
        let patterns =
            ["selftests", "verifier_*", "test_*", "tailcall*", "exceptions_fail", "uninit_stack", "xdp*", "tc_*"];
        let status = Command::new("bash").arg(&script).arg(&out).args(patterns).output();
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
