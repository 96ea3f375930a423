//! Typed operands of x86-64 instructions.

/// A general-purpose register, named by its 64-bit form and numbered as in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All sixteen, by number.
    pub const ALL: [Gpr; 16] = [
        Gpr::Rax,
        Gpr::Rcx,
        Gpr::Rdx,
        Gpr::Rbx,
        Gpr::Rsp,
        Gpr::Rbp,
        Gpr::Rsi,
        Gpr::Rdi,
        Gpr::R8,
        Gpr::R9,
        Gpr::R10,
        Gpr::R11,
        Gpr::R12,
        Gpr::R13,
        Gpr::R14,
        Gpr::R15,
    ];
    /// The low three bits of its number.
    pub(super) const fn low(self) -> u8 {
        self as u8 & 7
    }
    /// Whether its number needs a REX bit.
    pub(super) const fn high(self) -> bool {
        self as u8 >= 8
    }
}

/// Operand size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Size {
    /// 8 bits.
    B,
    /// 16 bits.
    W,
    /// 32 bits; a register result is zero-extended.
    D,
    /// 64 bits.
    Q,
}

/// Factor of an index register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Scale {
    X1,
    X2,
    X4,
    X8,
}

/// A memory operand: `base + index * scale + disp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Mem {
    /// Base register.
    pub base: Gpr,
    /// Index register (never rsp) and its factor.
    pub index: Option<(Gpr, Scale)>,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`
    pub const fn new(base: Gpr, disp: i32) -> Mem {
        Mem { base, index: None, disp }
    }
    /// `[base + index * scale]`
    pub const fn indexed(base: Gpr, index: Gpr, scale: Scale) -> Mem {
        Mem { base, index: Some((index, scale)), disp: 0 }
    }
}

/// The eight classic two-operand instructions, numbered as in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// Shifts and rotates, numbered as in encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// Conditions, numbered as in encodings. `B`elow and `A`bove are unsigned, `L`ess and `G`reater signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum Cc {
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}
