//! The running kernel as one of the engines: the same linked programs, the same maps, the same input; verdicts, R0, packets,
//! context fields, maps and the answers to updates are compared.
//!
//! BPF_PROG_LOAD (with types of functions, which needs BPF_BTF_LOAD), maps, BPF_PROG_TEST_RUN; nothing is attached.
//! The thread stays on CPU 0, for what is kept per CPU.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use livebpf::insn::Insn;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapInit, MapType, ProgType};
use livebpf::verify::{Options, Rejection, Verified, verify};
use livebpf_kernel_bpf as kernel_bpf;
use livebpf_kernel_bpf::cpu::Pin;

use super::plan::{Input, Plan, Step};
use super::play::FIELDS;
use super::trace::{MapState, Seen, Trace};
use crate::Suite;
use crate::campaign::kernel::{NOT_FOR_SAFETY, Verdicts, explanation, needs_btf};
use crate::campaign::{kind_of, shrink};

/// Bytes of `struct xdp_md` and `struct __sk_buff`.
const XDP_MD: usize = 24;
const SK_BUFF: usize = 192;
/// Where in it [`FIELDS`] are.
const FIELD_AT: [usize; FIELDS.len()] = [8, 48, 52, 56, 60, 64];
/// Fields of it that the kernel keeps in fewer than four bytes, by offset: pkt_type, queue_mapping, protocol, vlan_present, vlan_tci,
/// vlan_proto, tc_index, tc_classid, family, remote_port, local_port, gso_segs, gso_size.
const KEPT: [(i32, u32); 13] = [
    (4, 1),
    (12, 2),
    (16, 2),
    (20, 1),
    (24, 2),
    (28, 2),
    (44, 2),
    (72, 2),
    (88, 2),
    (132, 2),
    (136, 2),
    (164, 2),
    (176, 2),
];
/// Elements of an array that are looked at, as the other engines do.
const ELEMENTS: u32 = 256;

/// What was done beside the kernel.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Verdicts on programs.
    pub verdicts: Verdicts,
    /// Suites that ran there as well, and their programs.
    pub suites: u64,
    /// Programs that ran there as well.
    pub programs: u64,
    /// Suites with a map that is not made here, or with functions whose types are not passed on.
    pub left_out: u64,
    /// Suites that were not run because nothing was left of them, or what they see depends on where or when they run.
    pub not_run: u64,
    /// Suites that were not run because the kernel gives wrong bytes of a context field: see [`reads_upper_bytes`].
    pub upper_bytes: u64,
    /// Runs.
    pub runs: u64,
    /// How long they took by the kernel's clock.
    pub time: Duration,
}

impl Totals {
    /// Adds another thread's.
    pub fn add(&mut self, other: Totals) {
        self.verdicts.add(other.verdicts);
        self.suites += other.suites;
        self.programs += other.programs;
        self.left_out += other.left_out;
        self.not_run += other.not_run;
        self.upper_bytes += other.upper_bytes;
        self.runs += other.runs;
        self.time += other.time;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "beside the kernel: {} programs in {} suites ran {} times; {} suites not run, {} for upper bytes, {} left out",
            self.programs, self.suites, self.runs, self.not_run, self.upper_bytes, self.left_out
        )?;
        self.verdicts.fmt(f)
    }
}

/// The kernel.
pub struct Kernel {
    /// What was done so far.
    pub totals: Totals,
    _pin: Pin,
}

/// A suite in the kernel.
pub struct Loaded {
    maps: BTreeMap<String, kernel_bpf::Map>,
    programs: BTreeMap<String, kernel_bpf::Program>,
}

/// Context fields by name.
type Fields = Vec<(&'static str, u64)>;
/// Ours of one program, and the program.
type Judged = (Result<Verified, Box<Rejection>>, Program);

impl Kernel {
    /// Moves the thread to CPU 0.
    ///
    /// # Errors
    /// Why there is no kernel to compare with.
    pub fn new() -> Result<Kernel, String> {
        kernel_bpf::probe().map_err(|why| format!("no kernel to compare with: {why}"))?;
        let pin = Pin::to(0).map_err(|why| format!("this thread may not run on CPU 0: {why}"))?;
        Ok(Kernel { totals: Totals::default(), _pin: pin })
    }

    /// Compares the verdicts on a suite's programs and keeps those that both accept. `None` where the suite is not one for
    /// the kernel.
    pub(super) fn judge(&mut self, judged: &mut Vec<Judged>, options: &Options<'_>) -> Result<Option<Loaded>, String> {
        if judged.iter().any(|(_, program)| needs_btf(program)) {
            self.totals.left_out += 1;
            return Ok(None);
        }
        let mut loaded = Loaded { maps: BTreeMap::new(), programs: BTreeMap::new() };
        for def in judged.iter().flat_map(|(_, program)| &program.maps) {
            if loaded.maps.contains_key(&def.name) {
                continue;
            }
            let Ok(map) = kernel_bpf::Map::create(def) else {
                self.totals.left_out += 1;
                return Ok(None);
            };
            loaded.maps.insert(def.name.clone(), map);
        }
        for (ours, program) in &*judged {
            match (ours, loaded.load(program)) {
                // Damaged signatures, which are not for a verifier.
                (_, Err(why)) if why.contains("BPF_BTF_LOAD") => {
                    self.totals.left_out += 1;
                    return Ok(None);
                }
                (Ok(_), Ok(theirs)) => {
                    self.totals.verdicts.both_accept += 1;
                    loaded.programs.insert(program.name.clone(), theirs);
                }
                (Err(_), Err(_)) => self.totals.verdicts.both_refuse += 1,
                (Err(ours), Ok(_)) => {
                    let kind = format!("{}: {}", ours.rule.name(), kind_of(&ours.message));
                    *self.totals.verdicts.only_there.entry(kind).or_default() += 1;
                }
                (Ok(_), Err(log)) => self.only_here(&loaded, program, &log, options)?,
            }
        }
        judged.retain(|(_, program)| loaded.programs.contains_key(&program.name));
        if judged.is_empty() {
            self.totals.not_run += 1;
            return Ok(None);
        }
        loaded.fill(judged.iter().flat_map(|(_, program)| &program.maps))?;
        Ok(Some(loaded))
    }

    /// Accepted here, refused there: counted where that is explained.
    fn only_here(
        &mut self,
        loaded: &Loaded,
        program: &Program,
        log: &str,
        options: &Options<'_>,
    ) -> Result<(), String> {
        let message = last_line(log);
        *self.totals.verdicts.only_here.entry(kind_of(&message)).or_default() += 1;
        if NOT_FOR_SAFETY.iter().any(|text| log.contains(text)) {
            return Ok(());
        }
        let kind = kind_of(&message);
        let mut still = |smaller: &Program| {
            verify(smaller.clone(), options).ok()?;
            let found = last_line(&loaded.load(smaller).err()?);
            (kind_of(&found) == kind).then_some(found)
        };
        let (small, message) = shrink::shrink(program, &message, &mut still);
        let why = explanation(&small)
            .ok_or_else(|| format!("accepted here, the kernel refuses {}: {message}\n{}", program.name, small.insns))?;
        *self.totals.verdicts.explained.entry(why.to_owned()).or_default() += 1;
        Ok(())
    }

    /// A suite that both accept and that is not compared.
    pub(super) fn pass_over(&mut self, proofs: &[Verified]) {
        if proofs.iter().any(reads_upper_bytes) {
            self.totals.upper_bytes += 1;
        } else {
            self.totals.not_run += 1;
        }
    }

    /// Plays the plan in the kernel and compares what is seen there.
    pub(super) fn compare(
        &mut self,
        loaded: &Loaded,
        suite: &Suite,
        plan: &Plan,
        wanted: &Trace,
    ) -> Result<(), String> {
        let maps = suite.programs.iter().flat_map(|program| &program.maps);
        let array = maps.clone().find(|map| map.map_type == MapType::PROG_ARRAY);
        let array = array.and_then(|def| loaded.maps.get(&def.name));
        self.totals.suites += 1;
        self.totals.programs += suite.programs.len() as u64;
        for (at, (step, wanted)) in plan.steps.iter().zip(&wanted.steps).enumerate() {
            let different = match (step, wanted) {
                (Step::Run { program, input, .. }, Seen::Ran { result, packet, fields, .. }) => {
                    let (ran, found) = run(&loaded.programs[program], input)?;
                    self.totals.runs += 1;
                    self.totals.time += ran.duration;
                    let same_fields = found.is_empty() || found == *fields;
                    (*result != Ok(ran.retval) || *packet != ran.data_out || !same_fields).then(|| {
                        let kernel = (ran.retval, ran.data_out, found);
                        format!("kernel {kernel:02x?}\ninterp {:02x?}", (result, packet, fields))
                    })
                }
                (step, Seen::Updated(answer)) => {
                    let found = array.map(|array| match step {
                        Step::Set { index, program } => array.set(*index, &loaded.programs[program]),
                        Step::Clear { index } => array.clear_index(*index),
                        Step::Run { .. } => Ok(()),
                    });
                    let (found, wanted) = (found.map(|r| r.is_ok()), answer.as_ref().map(Result::is_ok));
                    (found != wanted).then(|| format!("kernel {found:?}, interp {answer:?}"))
                }
                (_, Seen::Ran { .. }) => Some("a run where an update was planned".to_owned()),
            };
            if let Some(what) = different {
                return Err(format!(
                    "the kernel differs from interp at step {at}: {what}\nplan: {:#?}",
                    &plan.steps[..=at]
                ));
            }
        }
        compare_maps(loaded, maps, wanted.maps())
    }
}

/// Whether a program reads upper bytes of a field of `struct __sk_buff` that the kernel keeps in fewer than four. Its verifier allows
/// that, and rewrites such a load as one of what it keeps, without the shift (`convert_ctx_accesses` compares the size with that of what
/// is kept): it gives the lower bytes, where the field as it is declared has zeros.
pub(super) fn reads_upper_bytes(proof: &Verified) -> bool {
    let program = proof.program();
    program.kind.prog_type != ProgType::XDP
        && program.insns.iter().any(|(pc, insn)| match insn {
            Insn::Load { size, off, .. } => {
                let (at, inside) = (i32::from(off) & !3, i32::from(off) & 3);
                let kept = KEPT.iter().find(|(field, _)| *field == at).map_or(4, |(_, bytes)| *bytes);
                proof.facts().at(pc).record().is_some() && inside > 0 && size.bytes() >= kept && size.bytes() < 4
            }
            _ => false,
        })
}

impl Loaded {
    fn load(&self, program: &Program) -> Result<kernel_bpf::Program, String> {
        let maps: Vec<&kernel_bpf::Map> = program.maps.iter().filter_map(|def| self.maps.get(&def.name)).collect();
        kernel_bpf::Program::load(program, &maps).map_err(|error| match error {
            kernel_bpf::Error::Program { source, log, .. } => format!("{source}\n{log}"),
            other => other.to_string(),
        })
    }

    /// The static initialisers of program arrays.
    fn fill<'d>(&self, defs: impl Iterator<Item = &'d Arc<MapDef>>) -> Result<(), String> {
        for def in defs {
            let MapInit::Programs(slots) = &def.init else { continue };
            for (index, name) in slots {
                if let Some(program) = self.programs.get(name) {
                    self.maps[&def.name].set(*index, program).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }
}

/// The maps after the last step. Program arrays hold numbers of the kernel's own.
fn compare_maps<'d>(
    loaded: &Loaded,
    defs: impl Iterator<Item = &'d Arc<MapDef>>,
    wanted: &[MapState],
) -> Result<(), String> {
    let known = [MapType::ARRAY, MapType::HASH, MapType::PERCPU_ARRAY, MapType::PERCPU_HASH];
    for def in defs.filter(|def| known.contains(&def.map_type)) {
        let Some(wanted) = wanted.iter().find(|state| state.name == def.name) else { continue };
        let map = &loaded.maps[&def.name];
        let keys = match def.map_type {
            MapType::ARRAY | MapType::PERCPU_ARRAY => {
                (0..def.max_entries.min(ELEMENTS)).map(|key| key.to_ne_bytes().to_vec()).collect()
            }
            _ => map.keys().map_err(|error| error.to_string())?,
        };
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let mut value = map.lookup(&key).map_err(|error| error.to_string())?;
            // The kernel has a value for each CPU that there can be.
            value.truncate(wanted.entries.first().map_or(value.len(), |(_, value)| value.len()));
            found.push((key, value));
        }
        found.sort();
        if found != wanted.entries {
            return Err(format!("map {}: kernel {found:02x?}\ninterp {:02x?}", def.name, wanted.entries));
        }
    }
    Ok(())
}

/// One run, and the context's fields afterwards where it was given one.
fn run(program: &kernel_bpf::Program, input: &Input) -> Result<(kernel_bpf::TestRun, Fields), String> {
    let value =
        |field: &str| input.fields.iter().find(|(name, _)| *name == field).map_or(0, |(_, value)| *value as u32);
    let mut ctx = Vec::new();
    if input.prog_type != ProgType::XDP {
        ctx = vec![0; SK_BUFF];
        for (field, at) in FIELDS.iter().zip(FIELD_AT) {
            ctx[at..at + 4].copy_from_slice(&value(field).to_le_bytes());
        }
    } else if value("data") > 0 {
        // The bytes in front of `data` are metadata.
        ctx = vec![0; XDP_MD];
        ctx[..4].copy_from_slice(&value("data").to_le_bytes());
        ctx[4..8].copy_from_slice(&(input.packet.len() as u32).to_le_bytes());
    }
    let ran = program.test_run_context(&input.packet, &ctx).map_err(|error| error.to_string())?;
    let word = |at: usize| ran.ctx_out.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let mut fields = Vec::new();
    if input.prog_type != ProgType::XDP {
        fields.extend(FIELDS.into_iter().zip(FIELD_AT).filter_map(|(field, at)| Some((field, u64::from(word(at)?)))));
    }
    Ok((ran, fields))
}

/// What the kernel said last.
fn last_line(log: &str) -> String {
    let mut said = log.lines().rev().filter(|line| !line.trim().is_empty() && !line.starts_with("processed "));
    said.next().unwrap_or_default().to_owned()
}
