//! Builds our own BPF programs, and compares the committed objects with what their sources give.
//!
//! A source says near its top how it is built: `// build: -mcpu=v1,v2,v3,v4 [further flags]`, or nothing for `-mcpu=v3`. `NAME.bpf.c`
//! gives `NAME.o` for v3 and `NAME.vN.o` for the others. Builds do not depend on where the project lies. What is compared is
//! what a loader reads: every section except the DWARF ones, symbol and string tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection};

const CLANG: &str = "clang-19";
const FLAGS: [&str; 7] = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-fdebug-compilation-dir=."];
const FOLDERS: [&str; 5] = [
    "livebpf/tests/data/scenarios",
    "livebpf/tests/data/objects",
    "livebpf/tests/data/upgrade",
    "livebpf-cli/assets/demo",
    "livebpf-bench/bpf",
];

/// One object to build.
struct Job {
    source: PathBuf,
    object: PathBuf,
    cpu: String,
    flags: Vec<String>,
}

/// Builds everything in place. `Ok(false)`: a source does not compile.
pub fn build() -> Result<bool, String> {
    let Some(jobs) = jobs()? else { return Ok(true) };
    for job in &jobs {
        compile(job, &job.object)?;
    }
    println!("{} objects built", jobs.len());
    Ok(true)
}

/// Builds everything into the target folder and compares. `Ok(false)`: an object is missing or differs.
pub fn check() -> Result<bool, String> {
    let Some(jobs) = jobs()? else { return Ok(true) };
    let scratch = scratch_folder()?;
    let mut bad = 0;
    for (number, job) in jobs.iter().enumerate() {
        let fresh = scratch.join(format!("{number}.o"));
        compile(job, &fresh)?;
        let difference = match fs::read(&job.object) {
            Ok(committed) => difference(&committed, &read(&fresh)?)?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(difference) = difference {
            bad += 1;
            println!("{}: {difference}", job.object.display());
        }
    }
    println!("{} objects checked, {bad} differ", jobs.len());
    fs::remove_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    Ok(bad == 0)
}

/// Everything there is to build; `None`, and a line that says so, where the compiler is missing.
fn jobs() -> Result<Option<Vec<Job>>, String> {
    let present = Command::new(CLANG).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !present.is_ok_and(|status| status.success()) {
        println!("{CLANG} is not installed: BPF objects are neither built nor checked");
        return Ok(None);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace above xtask")?;
    let mut found = Vec::new();
    for folder in FOLDERS.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()) {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut sources: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        sources.sort();
        for source in sources {
            let Some(name) = source.file_name().and_then(|name| name.to_str()?.strip_suffix(".bpf.c")) else {
                continue;
            };
            found.extend(jobs_of(&source, &folder, name)?);
        }
    }
    Ok(Some(found))
}

/// The builds that one source asks for.
fn jobs_of(source: &Path, folder: &Path, name: &str) -> Result<Vec<Job>, String> {
    let text = fs::read_to_string(source).map_err(|error| format!("{}: {error}", source.display()))?;
    let asked = text.lines().take(5).find_map(|line| line.strip_prefix("// build:")).unwrap_or("-mcpu=v3");
    let (mut cpus, mut flags) = (vec!["v3"], Vec::new());
    for flag in asked.split_whitespace() {
        match flag.strip_prefix("-mcpu=") {
            Some(list) => cpus = list.split(',').collect(),
            None => flags.push(flag.to_owned()),
        }
    }
    let object = |cpu: &str| if cpu == "v3" { format!("{name}.o") } else { format!("{name}.{cpu}.o") };
    let job = |cpu: &str| Job {
        source: source.to_owned(),
        object: folder.join(object(cpu)),
        cpu: cpu.to_owned(),
        flags: flags.clone(),
    };
    Ok(cpus.into_iter().map(job).collect())
}

/// Compiles in the source's own folder, so that file names in the object are relative.
fn compile(job: &Job, output: &Path) -> Result<(), String> {
    let (Some(folder), Some(file)) = (job.source.parent(), job.source.file_name()) else {
        return Err(format!("{}: not a file in a folder", job.source.display()));
    };
    let mut command = Command::new(CLANG);
    command.current_dir(folder).args(FLAGS).arg(format!("-mcpu={}", job.cpu)).args(&job.flags);
    let done = command.arg("-c").arg(file).arg("-o").arg(output).output();
    let done = done.map_err(|error| format!("{CLANG}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{} (-mcpu={}):\n{}", job.source.display(), job.cpu, String::from_utf8_lossy(&done.stderr).trim_end()))
}

/// Where `check` puts what it builds.
fn scratch_folder() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("livebpf-xtask-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The first thing in which two objects differ, for a reader; `None` where a loader would see no difference.
fn difference(committed: &[u8], fresh: &[u8]) -> Result<Option<String>, String> {
    let (committed, fresh) = (sections(committed)?, sections(fresh)?);
    for name in committed.keys().chain(fresh.keys()) {
        match (committed.get(name), fresh.get(name)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => return Ok(Some(format!("section {name} differs from what its source gives"))),
            (Some(_), None) => return Ok(Some(format!("section {name} is not in what its source gives"))),
            (None, _) => return Ok(Some(format!("section {name} is missing"))),
        }
    }
    Ok(None)
}

/// Contents of the sections that a loader reads, by name.
fn sections(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let file = ElfFile64::<Endianness>::parse(bytes).map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    for section in file.sections() {
        let name = section.name().map_err(|error| error.to_string())?;
        let skipped =
            name.contains(".debug") || matches!(name, "" | ".strtab" | ".symtab" | ".llvm_addrsig" | ".comment");
        if !skipped {
            let mut data = section.data().map_err(|error| error.to_string())?.to_vec();
            data.extend(section.size().to_le_bytes());
            found.insert(name.to_owned(), data);
        }
    }
    Ok(found)
}
