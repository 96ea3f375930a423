//! What the caller of the code generator chooses, and how compilation fails.

use crate::insn::Pc;
use crate::link::MapId;

/// Choices that hold for one compilation.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// How a tail call with known map and index is compiled.
    pub tail_calls: TailCalls,
    /// Maps whose direct tail calls go through the slot table although `tail_calls` is [`TailCalls::Patched`].
    pub slot_maps: Vec<MapId>,
    /// Program arrays whose missed tail calls are counted (see [`Symbol::Missed`](super::Symbol::Missed)). What a
    /// successful call executes is the same with and without.
    pub count_missed: Vec<MapId>,
    /// Helpers lie within 2 GiB of the code: call them by `call rel32`, else through a register.
    pub helpers_near: bool,
    /// What the CPU offers.
    pub cpu: CpuFeatures,
    /// The program's constants do not stand in the code as they are: the seed of the random numbers that hide them.
    pub blind: Option<u64>,
}

impl Options {
    /// Whether direct tail calls through `map` are patched jumps.
    pub(crate) fn patches(&self, map: MapId) -> bool {
        self.tail_calls == TailCalls::Patched && !self.slot_maps.contains(&map)
    }
    /// Whether missed tail calls through `map` are counted.
    pub(crate) fn counts(&self, map: MapId) -> bool {
        self.count_missed.contains(&map)
    }
}

/// How a tail call with known map and index is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TailCalls {
    /// Two jumps that the program array patches.
    #[default]
    Patched,
    /// A load from the array's slot table, as for an unknown index.
    Slots,
}

/// Instruction set extensions that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CpuFeatures {
    /// `shlx`, `shrx`, `sarx`.
    pub bmi2: bool,
    /// `movbe`.
    pub movbe: bool,
}

/// Why a program was not compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JitError {
    /// An instruction that generated code does not support.
    #[error("instruction {pc}: {what} is not supported by the code generator")]
    Unsupported {
        /// Where.
        pc: Pc,
        /// What was found.
        what: &'static str,
    },
    /// A jump that does not lead to an instruction of the same function.
    #[error("instruction {pc}: jump leads to {target}, which is no reached instruction of the same function")]
    BadJump {
        /// Where.
        pc: Pc,
        /// Where it leads.
        target: i64,
    },
    /// A call that does not lead to the start of a function.
    #[error("instruction {pc}: call leads to {target}, where no function begins")]
    BadCall {
        /// Where.
        pc: Pc,
        /// Where it leads.
        target: i64,
    },
    /// A map that the program does not have.
    #[error("instruction {pc}: map {map} is not among the program's {have} maps")]
    BadMap {
        /// Where.
        pc: Pc,
        /// The index found.
        map: i64,
        /// How many maps there are.
        have: usize,
    },
    /// Execution runs past the end of a function.
    #[error("instruction {pc}: execution runs past the end of function {func}")]
    FallsOff {
        /// The last instruction.
        pc: Pc,
        /// Its function's name.
        func: String,
    },
    /// Functions call each other in a circle.
    #[error("function {func} calls itself, directly or through others")]
    Recursion {
        /// One function of the circle.
        func: String,
    },
    /// A stack that no verified function has.
    #[error("function {func} uses {depth} bytes of stack, at most 512 are allowed")]
    Stack {
        /// The function's name.
        func: String,
        /// Bytes.
        depth: u32,
    },
    /// More code than offsets can express.
    #[error("the program's code exceeds {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u32,
    },
}
