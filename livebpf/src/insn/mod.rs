//! The instruction set as an enum of meanings (RFC 9669 and the kernel's additions).
//!
//! [`Insn`] is decoded once from the wire; every consumer matches it exhaustively. Positions are *slots* of
//! eight bytes, as in the kernel's logs and in BTF.ext: a 64-bit immediate load takes two.

pub mod text;
pub mod wire;

pub use text::TextError;
pub use wire::DecodeError;

use std::fmt;
use std::ops::Range;

/// A register, R0 to R10.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(u8);

#[allow(missing_docs)]
impl Reg {
    pub const R0: Reg = Reg(0);
    pub const R1: Reg = Reg(1);
    pub const R2: Reg = Reg(2);
    pub const R3: Reg = Reg(3);
    pub const R4: Reg = Reg(4);
    pub const R5: Reg = Reg(5);
    pub const R6: Reg = Reg(6);
    pub const R7: Reg = Reg(7);
    pub const R8: Reg = Reg(8);
    pub const R9: Reg = Reg(9);
    pub const R10: Reg = Reg(10);
    /// The read-only frame pointer.
    pub const FP: Reg = Reg(10);
    /// All registers in order.
    pub const ALL: [Reg; 11] =
        [Reg(0), Reg(1), Reg(2), Reg(3), Reg(4), Reg(5), Reg(6), Reg(7), Reg(8), Reg(9), Reg(10)];
    /// The register numbered `n`, or `None` above 10.
    pub const fn new(n: u8) -> Option<Reg> {
        if n <= 10 { Some(Reg(n)) } else { None }
    }
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A position in a program, counted in slots of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Pc(pub u32);

impl Pc {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    /// The slot after this one.
    pub const fn next(self) -> Pc {
        Pc(self.0 + 1)
    }
    /// The slot `off` slots after the *next* one (how jumps count), or `None` where that is negative or overflows.
    pub fn jump(self, off: i32) -> Option<Pc> {
        let target = i64::from(self.0) + 1 + i64::from(off);
        u32::try_from(target).ok().map(Pc)
    }
}

impl fmt::Display for Pc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Operand width of arithmetic, jumps and atomics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Width {
    /// 32 bits; an ALU result is zero-extended.
    W32,
    /// 64 bits.
    W64,
}

/// Size of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Size {
    B,
    H,
    W,
    DW,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Size::B => 1,
            Size::H => 2,
            Size::W => 4,
            Size::DW => 8,
        }
    }
    /// The size of `n` bytes, `None` unless `n` is 1, 2, 4 or 8.
    pub const fn from_bytes(n: u32) -> Option<Size> {
        match n {
            1 => Some(Size::B),
            2 => Some(Size::H),
            4 => Some(Size::W),
            8 => Some(Size::DW),
            _ => None,
        }
    }
    /// In bits.
    pub const fn bits(self) -> u32 {
        self.bytes() * 8
    }
}

/// The second operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// An immediate, sign-extended to the operation's width.
    Imm(i32),
}

/// Two-operand arithmetic. Division by zero gives 0, modulo by zero leaves the destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum AluOp {
    Add,
    Sub,
    Mul,
    Div,
    SDiv,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    SMod,
    Xor,
    Arsh,
}

/// Byte-order conversions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EndianOp {
    /// To little endian: on this machine a truncation.
    ToLe,
    /// To big endian: on this machine a swap.
    ToBe,
    /// Unconditional swap (cpu v4).
    Swap,
}

/// A jump's condition; `S` prefix: signed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Cond {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Sgt,
    Sge,
    Slt,
    Sle,
    /// `dst & src` is not zero.
    Set,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtomicOp {
    /// `*p += src`; with `fetch` the old value goes to `src`.
    Add {
        /// Whether the old value is returned.
        fetch: bool,
    },
    /// `*p |= src`
    Or {
        /// Whether the old value is returned.
        fetch: bool,
    },
    /// `*p &= src`
    And {
        /// Whether the old value is returned.
        fetch: bool,
    },
    /// `*p ^= src`
    Xor {
        /// Whether the old value is returned.
        fetch: bool,
    },
    /// Exchange; the old value goes to `src`.
    Xchg,
    /// Compare with R0 and exchange with `src`; the old value goes to R0.
    Cmpxchg,
}

/// What a 64-bit immediate load loads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Imm64 {
    /// A constant (source 0).
    Const(u64),
    /// A map by file descriptor (source 1).
    MapFd(i32),
    /// The address `off` bytes into a single-entry map's value, by file descriptor (source 2).
    MapFdValue {
        /// The map.
        fd: i32,
        /// Bytes into the value.
        off: u32,
    },
    /// A kernel variable by BTF id (source 3).
    BtfId {
        /// BTF type id.
        id: i32,
        /// BTF object file descriptor, 0 for vmlinux.
        fd: i32,
    },
    /// The address of the subprogram `off` slots after the next *slot* (source 4).
    Func {
        /// Relative position, as in a call.
        off: i32,
    },
    /// A map by index (source 5). After linking: an index into the program's maps.
    MapIdx(i32),
    /// The address `off` bytes into a map's value, by index (source 6). After linking: an index as above.
    MapIdxValue {
        /// The map.
        idx: i32,
        /// Bytes into the value.
        off: u32,
    },
}

/// One instruction, by meaning. Jump and call offsets count slots from the next slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Insn {
    Alu {
        op: AluOp,
        width: Width,
        dst: Reg,
        src: Src,
    },
    Neg {
        width: Width,
        dst: Reg,
    },
    Mov {
        width: Width,
        dst: Reg,
        src: Src,
    },
    /// Move with sign extension from `from` (B, H; W only at 64 bits).
    MovSx {
        width: Width,
        from: Size,
        dst: Reg,
        src: Reg,
    },
    /// `size` is H, W or DW.
    Endian {
        op: EndianOp,
        size: Size,
        dst: Reg,
    },
    /// Two slots.
    LoadImm64 {
        dst: Reg,
        value: Imm64,
    },
    Load {
        size: Size,
        dst: Reg,
        base: Reg,
        off: i16,
    },
    /// Sign-extending load; `size` is B, H or W.
    LoadSx {
        size: Size,
        dst: Reg,
        base: Reg,
        off: i16,
    },
    Store {
        size: Size,
        base: Reg,
        off: i16,
        src: Src,
    },
    /// `width` 32 or 64.
    Atomic {
        op: AtomicOp,
        width: Width,
        base: Reg,
        off: i16,
        src: Reg,
    },
    LoadAcquire {
        size: Size,
        dst: Reg,
        base: Reg,
        off: i16,
    },
    StoreRelease {
        size: Size,
        base: Reg,
        off: i16,
        src: Reg,
    },
    /// Legacy packet load into R0 at a constant offset; `size` is B, H or W.
    LoadAbs {
        size: Size,
        off: i32,
    },
    /// Legacy packet load into R0 at `src + off`; `size` is B, H or W.
    LoadInd {
        size: Size,
        src: Reg,
        off: i32,
    },
    /// `goto` (16-bit offset on the wire).
    Ja {
        off: i16,
    },
    /// `gotol` (32-bit offset on the wire, cpu v4).
    JaL {
        off: i32,
    },
    MayGoto {
        off: i16,
    },
    Jmp {
        cond: Cond,
        width: Width,
        dst: Reg,
        src: Src,
        off: i16,
    },
    /// A helper by number.
    Call {
        helper: u32,
    },
    /// A subprogram.
    CallSubprog {
        off: i32,
    },
    /// A kernel function by BTF id, in the BTF object numbered `off` (0: vmlinux).
    CallKfunc {
        btf_id: i32,
        off: i16,
    },
    /// `callx`: call through a register. Clang emits it; the kernel refuses it.
    CallX {
        reg: Reg,
    },
    Exit,
}

impl Insn {
    /// How many slots of eight bytes it takes.
    pub const fn slots(&self) -> u32 {
        match self {
            Insn::LoadImm64 { .. } => 2,
            _ => 1,
        }
    }
    /// The opcode byte of its encoding, for instance 0xb7 for `r0 = 0`.
    pub fn opcode(&self) -> u8 {
        wire::encode_one(self).0[0]
    }
    /// The branch target of a jump at `pc` (`Ja`, `JaL`, `Jmp`, `MayGoto`), `None` for anything else or outside the address range.
    pub fn jump_target(&self, pc: Pc) -> Option<Pc> {
        match *self {
            Insn::Ja { off } | Insn::MayGoto { off } | Insn::Jmp { off, .. } => pc.jump(off.into()),
            Insn::JaL { off } => pc.jump(off),
            _ => None,
        }
    }
}

/// A sequence of instructions, indexed by slot. The second slot of a 64-bit immediate load holds nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Insns {
    slots: Vec<Option<Insn>>,
}

impl Insns {
    /// Builds the sequence from instructions in order.
    pub fn from_vec(insns: impl IntoIterator<Item = Insn>) -> Insns {
        let mut out = Insns::default();
        for insn in insns {
            out.push(insn);
        }
        out
    }
    /// Appends one instruction; returns its position.
    pub fn push(&mut self, insn: Insn) -> Pc {
        let pc = Pc(self.slots.len() as u32);
        self.slots.push(Some(insn));
        if insn.slots() == 2 {
            self.slots.push(None);
        }
        pc
    }
    /// Appends another sequence; returns where it begins.
    pub fn append(&mut self, other: &Insns) -> Pc {
        let pc = Pc(self.slots.len() as u32);
        self.slots.extend_from_slice(&other.slots);
        pc
    }
    /// The instruction that begins at `pc`: `None` past the end and in the middle of a two-slot instruction.
    pub fn get(&self, pc: Pc) -> Option<Insn> {
        self.slots.get(pc.index()).copied().flatten()
    }
    /// The same without a copy.
    #[inline]
    pub fn get_ref(&self, pc: Pc) -> Option<&Insn> {
        self.slots.get(pc.index())?.as_ref()
    }
    /// The instruction in front of `pc`, and where it begins.
    pub fn before(&self, pc: Pc) -> Option<(Pc, Insn)> {
        let one = Pc(pc.0.checked_sub(1)?);
        if let Some(insn) = self.get(one) {
            return Some((one, insn));
        }
        let two = Pc(one.0.checked_sub(1)?);
        self.get(two).map(|insn| (two, insn))
    }
    /// Replaces the instruction at `pc` by one of the same number of slots.
    ///
    /// # Panics
    /// When nothing begins at `pc` or the sizes differ.
    pub fn replace(&mut self, pc: Pc, insn: Insn) {
        let old = self.get(pc).expect("an instruction begins here");
        assert_eq!(old.slots(), insn.slots(), "a replacement keeps the size");
        self.slots[pc.index()] = Some(insn);
    }
    /// Length in slots.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// The instructions that begin in `span`, with their positions, in order; none where it does not lie inside.
    #[inline]
    pub fn within(&self, span: Range<Pc>) -> impl Iterator<Item = (Pc, &Insn)> {
        let slots = self.slots.get(span.start.index()..span.end.index()).unwrap_or_default();
        (span.start.0..).zip(slots).filter_map(|(pc, slot)| Some((Pc(pc), slot.as_ref()?)))
    }
    /// Instructions with their positions, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Pc, Insn)> + '_ {
        self.slots.iter().enumerate().filter_map(|(i, s)| s.map(|insn| (Pc(i as u32), insn)))
    }
}
