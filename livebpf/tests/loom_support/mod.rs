//! What the models of loom_*.rs share: how they are checked, and programs made of the words that a runner fetches.
#![allow(dead_code, reason = "each test file uses its part")]

use std::any::Any;
use std::sync::Arc;

use livebpf::jit::{Code, PokeSite, Reloc, RelocKind, Symbol};
use livebpf::link::MapId;
use livebpf::map::prog_array::{Contract, Execution, Member, ProgArray};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::rcu::Domain;
use livebpf::text::{CoreSync, Image, Patcher, Region, RegionOptions, Tracking};
use loom::thread::{self, JoinHandle};

/// Checks `model` in every interleaving with at most `preemptions` switches away from a thread that could go on, or
/// `LOOM_MAX_PREEMPTIONS`. What the model does before [`loom::explore`] is done in one order only.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = builder.max_branches.max(10_000);
    builder.expect_explicit_explore = true;
    let (runs, begin) = (Arc::new(std::sync::atomic::AtomicU64::new(0)), std::time::Instant::now());
    let counter = runs.clone();
    builder.check(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        livebpf::text::sync::begin_model();
        let model = model.clone();
        spawn(move || model()).join().unwrap();
    });
    println!(
        "{} executions in {:.1} s",
        runs.load(std::sync::atomic::Ordering::Relaxed),
        begin.elapsed().as_secs_f64()
    );
}

/// A thread of a model with a stack that a whole runtime fits on: loom's own stacks have 32 KiB.
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().stack_size(128 << 10).spawn(body).unwrap()
}

const CONTRACT: Contract = Contract { kind: ProgramKind::new(ProgType::XDP), execution: Execution::Native };

/// First word of every program's code: what stands there instead is a trap, or nothing.
const ALIVE: i32 = 0x0bad_cafe;

/// The parts of a runtime that updates need.
pub struct Bench {
    pub region: Arc<Region>,
    pub domain: Arc<Domain>,
    pub patcher: Arc<Patcher>,
}

impl Bench {
    pub fn new() -> Bench {
        let sync = CoreSync::detect();
        let region = Region::new(RegionOptions { capacity: 64 << 10, ..RegionOptions::default() }).unwrap();
        let domain = Domain::new(sync.clone()).unwrap();
        let patcher = Patcher::new(region.clone(), sync, domain.clone());
        Bench { region, domain, patcher }
    }

    /// A program without a tail call.
    pub fn leaf(&self) -> Arc<Prog> {
        let code = Code { bytes: ALIVE.to_le_bytes().to_vec(), ..Code::default() };
        self.load(&code, None)
    }

    /// A program with one direct tail call through slot 0 of `array`.
    pub fn caller(&self, array: &ProgArray) -> Arc<Prog> {
        self.load(&caller_code(), Some(array))
    }

    /// The same, not tracked yet.
    pub fn placed_caller(&self) -> Arc<Prog> {
        let image = Image::place(&self.region, &caller_code(), &|_| None).unwrap();
        Arc::new(Prog { _tracking: None, image })
    }

    fn load(&self, code: &Code, array: Option<&ProgArray>) -> Arc<Prog> {
        let image = Image::place(&self.region, code, &|_| None).unwrap();
        let tracking = self.patcher.load(&image, &|_| array).unwrap();
        Arc::new(Prog { _tracking: Some(tracking), image })
    }

    /// Puts `program` into slot 0.
    pub fn set(&self, array: &ProgArray, program: Arc<Prog>) {
        let mut guard = self.patcher.update().unwrap();
        let retired = array.set(0, program, 0, &mut guard).unwrap();
        drop(guard);
        self.domain.retire(retired);
    }

    /// Empties slot 0.
    pub fn clear(&self, array: &ProgArray) {
        let mut guard = self.patcher.update().unwrap();
        let retired = array.clear_index(0, &mut guard).unwrap();
        drop(guard);
        self.domain.retire(retired);
    }

    /// Runs the direct tail call of `caller` as a processor would: bypass, release of the frame, target, and the first
    /// instruction there. Answers where it went; `None`: past the bypass. The caller is in a section.
    pub fn run(&self, caller: &Image) -> Option<u64> {
        let site = caller.sites()[0];
        let field = |at: u32| caller.base() + u64::from(at);
        if self.region.fetch(field(site.bypass_field())) as i8 == PokeSite::CLOSED {
            return None;
        }
        // The frame is released: from here on there must be something to jump to.
        let target = field(site.target_field());
        let entry = (target + 4).wrapping_add_signed(self.region.fetch(target).into());
        assert_ne!(entry, self.region.poison(), "the forbidden state: a tail call reached the poison stub");
        assert_eq!(self.region.fetch(entry), ALIVE, "a tail call reached code that was freed");
        Some(entry)
    }

    /// Runs the same call in its indirect form: one load of the slot's word decides.
    pub fn run_indirect(&self, array: &ProgArray) -> Option<u64> {
        let entry = Some(array.word(0)).filter(|&word| word != 0)?;
        assert_eq!(self.region.fetch(entry), ALIVE, "a tail call reached code that was freed");
        Some(entry)
    }
}

/// `bypass: cmp r12d, imm8 ; target: jmp rel32 ; int3`, each field aligned, in as few words as that takes.
pub fn caller_code() -> Code {
    let mut bytes = vec![0x90, 0x41, 0x83, 0xfc, 0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xe9, 0, 0, 0, 0, 0xcc];
    bytes.resize(20, 0xcc);
    let (map, pc) = (MapId(0), Default::default());
    let sites = vec![PokeSite { map, index: 0, pc, bypass: 1, target: 11 }];
    let relocs = vec![Reloc { at: 12, kind: RelocKind::Rel32, symbol: Symbol::Poison }];
    Code { bytes, sites, relocs, ..Code::default() }
}

/// A placed program; the tracking goes before the image.
pub struct Prog {
    _tracking: Option<Tracking>,
    pub image: Image,
}

impl Prog {
    pub fn entry(&self) -> u64 {
        self.image.tail_entry()
    }
}

impl Member for Prog {
    fn id(&self) -> u32 {
        0
    }
    fn contract(&self) -> &Contract {
        &CONTRACT
    }
    fn tail_entry(&self) -> u64 {
        self.image.tail_entry()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
