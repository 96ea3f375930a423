//! The project's own rules: which room may import which, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in their order: each imports only what stands before it.
const ROOMS: [&str; 17] = [
    "primitive",
    "insn",
    "object",
    "link",
    "helper",
    "map",
    "context",
    "cbpf",
    "verify",
    "jit",
    "text",
    "rcu",
    "interp",
    "run",
    "runtime",
    "observe",
    "lib",
];

/// Where `unsafe` may stand: files and folders below `src`.
const UNSAFE: [&str; 6] = ["map/cell", "text/", "rcu/", "run/", "runtime/unverified.rs", "lib.rs"];

fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&src).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 20, "the sources were found");
    files
}

fn room(path: &Path) -> usize {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS.iter().position(|r| *r == name).unwrap_or_else(|| panic!("{} is in no known room", path.display()))
}

/// The part of a file that is not its unit tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

/// The lines of `text` that are code, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, l)| (n + 1, l.trim_start())).filter(|(_, l)| !l.starts_with("//"))
}

#[test]
fn a_room_imports_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = room(&path);
        if ROOMS[here] == "lib" {
            continue;
        }
        for (line, code) in code(production(&text)) {
            for part in code.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(there) = ROOMS.iter().position(|r| *r == name)
                    && there > here
                {
                    wrong.push(format!("{}:{line}: {} imports {name}", path.display(), ROOMS[here]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "rooms import what stands after them:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_in_its_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let name = path.to_str().unwrap();
        if UNSAFE.iter().any(|u| name.starts_with(u)) {
            continue;
        }
        for (line, code) in code(&text) {
            if code.contains("unsafe ") || code.contains("allow(unsafe_code)") {
                wrong.push(format!("{name}:{line}: {code}"));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside its rooms:\n{}", wrong.join("\n"));
}

#[test]
fn the_benchmarks_leave_safe_rust_in_one_file() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf-bench/src");
    let files: Vec<PathBuf> = fs::read_dir(&src).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 10, "the sources were found");
    let lenient = |path: &&PathBuf| fs::read_to_string(path).unwrap().contains("allow(unsafe_code)");
    let lenient: Vec<_> = files.iter().filter(lenient).filter_map(|path| path.file_name()).collect();
    assert_eq!(lenient, ["raw.rs"]);
    assert!(fs::read_to_string(src.join("lib.rs")).unwrap().contains("#![deny(unsafe_code)]"));
}

#[test]
fn pure_rooms_do_no_io_and_start_no_threads() {
    for (path, text) in sources() {
        if !["insn", "object", "link", "cbpf", "verify", "jit"].contains(&ROOMS[room(&path)]) {
            continue;
        }
        for (line, code) in code(production(&text)) {
            let impure = ["std::fs", "std::thread", "std::net", "std::env", "println!"];
            assert!(!impure.iter().any(|b| code.contains(b)), "{}:{line}: {code}", path.display());
        }
    }
}

#[test]
fn map_code_contains_no_machine_code() {
    for (path, text) in sources().into_iter().filter(|(p, _)| ROOMS[room(p)] == "map") {
        for (line, code) in code(production(&text)) {
            let machine = ["0xe9", "0xE9", "rel32", "asm!", "membarrier"];
            assert!(!machine.iter().any(|b| code.contains(b)), "{}:{line}: {code}", path.display());
        }
    }
}

#[test]
fn models_replace_memory_and_threads_and_nothing_else() {
    // What differs under `--cfg loom` is not what runs: so these files, and none with an argument in it.
    let allowed = ["primitive.rs", "map/prog_array/words.rs", "text/mod.rs", "text/sync.rs"];
    for (path, text) in sources().into_iter().filter(|(path, _)| !allowed.contains(&path.to_str().unwrap())) {
        for (line, code) in code(&text) {
            assert!(!code.contains("(loom") && !code.contains(" loom"), "{}:{line}: {code}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no first line", path.display());
    }
}

#[test]
fn the_library_does_not_depend_on_what_is_built_around_it() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(dependencies.contains("libc"), "the list was found");
    for outside in ["clap", "livebpf-bench", "kernel-bpf", "testgen"] {
        assert!(!dependencies.contains(outside), "{outside} is among the library's dependencies");
    }
}
