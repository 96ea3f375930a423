//! Something to run: programs with what they need, the answer that says that they did it, and what to take off its time.

use std::sync::Arc;

use livebpf::link::Program;
use livebpf::object::MapDef;

use crate::row::Wanted;
use crate::tail_call::Way;

/// Programs of which the first is run.
pub struct Work {
    /// All of them; names differ.
    pub programs: Vec<Program>,
    /// Programs in slots of program arrays.
    pub slots: Vec<Slot>,
    /// A map of maps, and the map that all of its 256 elements hold.
    pub nested: Option<[&'static str; 2]>,
    /// A map of devices, whose first entry is the loopback interface.
    pub devices: Option<&'static str>,
    /// Run once before anything else, by the thread that is measured: fills maps. An index into the programs.
    pub first: Option<usize>,
    /// What is run on.
    pub packet: Vec<u8>,
    /// What the first program answers.
    pub answer: u32,
    /// A ring buffer to be emptied between the batches.
    pub ring: Option<Ring>,
    /// Programs call a function of the embedder's, number [`crate::helpers::PLUS_ONE`].
    pub embedder: bool,
    /// The C function that does the same.
    pub native: Option<&'static str>,
    /// The same for machines that have memory and nothing else: R1 is the packet's address.
    pub plain: Option<Program>,
    /// The same as a sequence of the kernel's.
    pub shape: Option<Shape>,
    /// One run at a time, as a caller that has one packet does it, where the contestant makes a difference.
    pub single: bool,
}

/// A program in a slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The array's name.
    pub array: &'static str,
    /// In the array.
    pub index: u32,
    /// Index into the programs.
    pub program: usize,
}

/// What there are sequences of the kernel's for.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A program that answers a number.
    Answer(u32),
    /// Calls of the next program, so many; the last one answers their number.
    Chain { way: Way, hops: u32 },
    /// A program that calls itself up to the limit, then answers 1.
    Itself { way: Way },
    /// Calls of an empty slot, then the answer 1.
    Empty { way: Way, sites: u32 },
    /// A loop that adds something up.
    Loop { count: u32, each: Each },
}

/// What a loop adds in each round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Each {
    /// A number.
    Adds(i32),
    /// One, by calling a function.
    Calls,
    /// Two, the answer of a program that a function calls.
    TailCall,
}

/// A ring buffer that fills up.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Its name.
    pub map: &'static str,
    /// Runs that it has room for.
    pub runs: u32,
}

impl Work {
    /// Keys of a map of maps.
    pub fn nested_keys() -> impl Iterator<Item = [u8; 4]> {
        (0..256u32).map(u32::to_ne_bytes)
    }

    /// The entry of a map of devices: the loopback interface.
    pub const LOOPBACK: ([u8; 4], [u8; 4]) = ([0; 4], 1u32.to_ne_bytes());

    /// The same, done by a function in C.
    #[must_use]
    pub fn native(self, name: &'static str) -> Work {
        Work { native: Some(name), ..self }
    }

    /// One program alone, on a packet of zeros.
    pub fn of(program: Program, answer: u32) -> Work {
        let packet = crate::programs::PACKET.to_vec();
        Work {
            programs: vec![program],
            slots: Vec::new(),
            nested: None,
            devices: None,
            first: None,
            packet,
            answer,
            ring: None,
            embedder: false,
            native: None,
            plain: None,
            shape: None,
            single: false,
        }
    }

    /// Also as a sequence of the kernel's.
    #[must_use]
    pub fn shape(self, shape: Shape) -> Work {
        Work { shape: Some(shape), ..self }
    }

    /// The first program is also for machines that have memory and nothing else.
    #[must_use]
    pub fn plain(self) -> Work {
        Work { plain: self.programs.first().cloned(), ..self }
    }

    /// The maps of all programs, each once: two of the same name are one.
    pub fn maps(&self) -> Vec<Arc<MapDef>> {
        let mut maps: Vec<Arc<MapDef>> = Vec::new();
        for def in self.programs.iter().flat_map(|program| &program.maps) {
            if !maps.iter().any(|known| known.name == def.name) {
                maps.push(def.clone());
            }
        }
        maps
    }
}

/// What a row measures.
pub struct Task {
    /// The whole.
    pub work: Work,
    /// What surrounds the measured thing.
    pub base: Option<Work>,
    /// How often the measured thing is in a run.
    pub per: f64,
}

impl Task {
    /// `per` times something in `work`, beside a run of nothing.
    pub fn over_empty(work: Work, per: u32) -> Task {
        Task { work, base: Some(crate::run::empty()), per: f64::from(per) }
    }
}

/// A row that is measured by running a [`Task`].
pub struct Item {
    pub name: String,
    pub wanted: Vec<Wanted>,
    pub task: Box<dyn Fn() -> Task>,
}

impl Item {
    pub fn new(name: impl Into<String>, wanted: Vec<Wanted>, task: impl Fn() -> Task + 'static) -> Item {
        Item { name: name.into(), wanted, task: Box::new(task) }
    }
}
