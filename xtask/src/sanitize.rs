//! Tests under tools that see what tests alone do not: miri, the address and thread sanitisers, valgrind, fuzzing.
//!
//! Each needs something that a plain toolchain has not; without it a step says in one line what it needs, and is skipped. Builds go
//! to folders of their own below the target folder. Miri and the sanitisers see neither membarrier nor generated code: what
//! they judge is the Rust around it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Unit tests of the pure rooms, and of the cells of maps, where raw memory is.
const PURE: [&str; 7] =
    ["object::", "cbpf::", "verify::stack", "verify::notation", "verify::help", "jit::frame", "map::cell"];
/// More of them, which take long: numbers and the assembler are gone through as a whole.
const SLOW: [&str; 4] = ["verify::", "jit::", "helper::", "interp::"];
/// Asks for more memory than there is, to be refused.
const TOO_MUCH: &str = "absurd_sizes";
/// Unit tests about the sharing of memory.
const SHARED: [&str; 5] = ["rcu::", "text::sync", "map::held", "prog_array", "run::generation"];
/// Integration tests that run programs, change slots under them, and give all of it back.
const STRESS: [&str; 9] = [
    "scenarios",
    "runtime_runs",
    "runtime_threads",
    "live_updates",
    "live_lifetimes",
    "live_memory",
    "transactions",
    "hostile_use",
    "objects_hostile",
];
/// Under valgrind, which is slow and takes no membarrier: tail calls are through slots there.
const VALGRIND: [&str; 3] = ["interp", "runtime_runs", "runtime_arrays"];

/// What can be asked for.
pub const NAMES: [&str; 5] = ["miri", "asan", "tsan", "valgrind", "fuzz"];

/// Does it; `all` takes the long ones too. `Ok(false)`: something was found.
pub fn run(name: &str, all: bool) -> Result<bool, String> {
    match name {
        "miri" => miri(all),
        "asan" => asan(all),
        "tsan" => tsan(all),
        "valgrind" => valgrind(all),
        "fuzz" => fuzz(all),
        other => Err(format!("no such task: {other}")),
    }
}

fn skipped(name: &str, needs: &str) -> Result<bool, String> {
    println!("{name}: skipped, needs: {needs}");
    Ok(true)
}

/// Whether a command is there and ends well.
fn works(command: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(command).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// The standard library's source of the nightly toolchain, which the sanitisers build with themselves.
fn has_source() -> bool {
    let sysroot = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) else {
        return false;
    };
    !sysroot.is_empty() && PathBuf::from(sysroot).join("lib/rustlib/src/rust/library").is_dir()
}

fn target(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join(name)
}

fn nightly(name: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").env("CARGO_TARGET_DIR", target(name)).env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn done(command: &mut Command) -> Result<bool, String> {
    println!("{command:?}");
    command.status().map(|status| status.success()).map_err(|error| format!("{command:?}: {error}"))
}

fn miri(all: bool) -> Result<bool, String> {
    if !works("cargo", &["+nightly", "miri", "--version"]) {
        return skipped("miri", "rustup toolchain install nightly --component miri,rust-src");
    }
    let names = PURE.iter().chain(SLOW.iter().filter(|_| all));
    let mut command = nightly("miri");
    command.args(["miri", "test", "-q", "-p", "livebpf", "--lib", "--"]).args(names).args(["--skip", TOO_MUCH]);
    // Accesses of different sizes overlap in maps, as in the kernel's: miri's model of weak memory has no place for them.
    done(command.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-disable-weak-memory-emulation"))
}

/// `cargo test` of livebpf with a sanitiser in everything, the standard library too.
fn sanitized(name: &str, arguments: &[&str]) -> Command {
    let mut command = nightly(&name[..4]);
    command.env("RUSTFLAGS", format!("-Zsanitizer={}", if name == "asan" { "address" } else { "thread" }));
    command.args(["test", "-q", "-Zbuild-std", "--target", "x86_64-unknown-linux-gnu", "-p", "livebpf"]);
    command.args(arguments);
    command
}

const SOURCE: &str = "rustup toolchain install nightly --component rust-src";

/// Heap and stack errors, and leaks, around generated code.
fn asan(all: bool) -> Result<bool, String> {
    if !has_source() {
        return skipped("asan", SOURCE);
    }
    let tests = if all { &STRESS[..] } else { &STRESS[..3] };
    let mut arguments = Vec::new();
    tests.iter().for_each(|test| arguments.extend(["--test", test]));
    done(&mut sanitized("asan", &arguments))
}

/// Data races. tests/data_races.rs says most: programs that are plain memory, read in sections, ended after grace periods, by
/// readers that fence for themselves and by readers that do not. The last step switches the grace period off and wants a report:
/// the sanitiser would see the mistake.
fn tsan(all: bool) -> Result<bool, String> {
    if !has_source() {
        return skipped("tsan", SOURCE);
    }
    let halt = |mut command: Command| {
        command.env("TSAN_OPTIONS", "halt_on_error=1");
        command
    };
    let mut fine = done(&mut halt(sanitized("tsan", &["--test", "data_races"])))?;
    if all && fine {
        let mut shared = vec!["--lib", "--"];
        shared.extend(SHARED);
        fine = done(&mut halt(sanitized("tsan", &shared)))?;
        fine = fine && done(&mut halt(sanitized("tsan", &["--test", "patching"])))?;
    }
    let mut without = halt(sanitized("tsan", &["--test", "data_races"]));
    let output = without.env("LIVEBPF_NO_GRACE", "1").output().map_err(|error| error.to_string())?;
    let report = [output.stdout, output.stderr].concat();
    if output.status.success() || !String::from_utf8_lossy(&report).contains("ThreadSanitizer: data race") {
        return Err("tsan: a missing grace period was not reported as a data race".to_owned());
    }
    if fine {
        println!("tsan: no data race; a missing grace period is reported");
    }
    Ok(fine)
}

/// Reads of what nobody has written, which the address sanitiser does not see.
fn valgrind(all: bool) -> Result<bool, String> {
    if !works("valgrind", &["--version"]) {
        return skipped("valgrind", "valgrind");
    }
    let tests = if all { &VALGRIND[..] } else { &VALGRIND[1..2] };
    let mut command = Command::new("cargo");
    // Code appears while the process runs, and changes, through another mapping of the same file.
    let runner = "valgrind -q --error-exitcode=9 --smc-check=all";
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner).args(["test", "-q", "-p", "livebpf"]);
    for test in tests {
        command.args(["--test", test]);
    }
    done(&mut command)
}

/// Every fuzz target for a minute, or for ten.
fn fuzz(all: bool) -> Result<bool, String> {
    let Ok(listed) = Command::new("cargo").args(["+nightly", "fuzz", "list"]).output() else {
        return Err("cargo cannot be started".to_owned());
    };
    if !listed.status.success() {
        return skipped("fuzz", "rustup toolchain install nightly, and cargo install cargo-fuzz");
    }
    let seconds = if all { 600 } else { 60 };
    let mut fine = true;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        // New inputs go to the first folder, which is not committed. Of real objects, those of the tests are taken.
        let corpus = format!("fuzz/corpus/{name}");
        std::fs::create_dir_all(&corpus).map_err(|error| format!("{corpus}: {error}"))?;
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", name, &corpus]);
        match name {
            "elf" => command.args(["livebpf/tests/data/objects", "livebpf/tests/data/scenarios"]),
            _ => command.arg(format!("fuzz/seeds/{name}")),
        };
        // A program that is verified up to the limit takes a minute in instrumented code. Leaks are looked for elsewhere (tests/leak.rs):
        // for each input it would be a stop of all threads.
        command
            .args(["--", "-timeout=300", "-detect_leaks=0", "-rss_limit_mb=4096"])
            .arg(format!("-max_total_time={seconds}"));
        fine &= done(&mut command)?;
    }
    Ok(fine)
}
