//! The spelling of operations, shared by the printer and the parser.

use super::super::{AluOp, AtomicOp, Cond, Size};

/// Assignment operators. A prefix of another stands after it, so that the first match is the longest.
pub(super) const ALU: [(&str, AluOp); 13] = [
    ("s>>=", AluOp::Arsh),
    ("s/=", AluOp::SDiv),
    ("s%=", AluOp::SMod),
    ("<<=", AluOp::Lsh),
    (">>=", AluOp::Rsh),
    ("+=", AluOp::Add),
    ("-=", AluOp::Sub),
    ("*=", AluOp::Mul),
    ("/=", AluOp::Div),
    ("|=", AluOp::Or),
    ("&=", AluOp::And),
    ("%=", AluOp::Mod),
    ("^=", AluOp::Xor),
];

/// Comparisons, ordered in the same way.
pub(super) const COND: [(&str, Cond); 11] = [
    ("s>=", Cond::Sge),
    ("s<=", Cond::Sle),
    ("s>", Cond::Sgt),
    ("s<", Cond::Slt),
    ("==", Cond::Eq),
    ("!=", Cond::Ne),
    (">=", Cond::Ge),
    ("<=", Cond::Le),
    (">", Cond::Gt),
    ("<", Cond::Lt),
    ("&", Cond::Set),
];

/// Atomic operations without a result.
pub(super) const ATOMIC_ASSIGN: [(&str, AtomicOp); 4] = [
    ("+=", AtomicOp::Add { fetch: false }),
    ("|=", AtomicOp::Or { fetch: false }),
    ("&=", AtomicOp::And { fetch: false }),
    ("^=", AtomicOp::Xor { fetch: false }),
];

/// Atomic operations with a result, after `atomic_` or `atomic64_`.
pub(super) const ATOMIC_FETCH: [(&str, AtomicOp); 6] = [
    ("fetch_add", AtomicOp::Add { fetch: true }),
    ("fetch_or", AtomicOp::Or { fetch: true }),
    ("fetch_and", AtomicOp::And { fetch: true }),
    ("fetch_xor", AtomicOp::Xor { fetch: true }),
    ("xchg", AtomicOp::Xchg),
    ("cmpxchg", AtomicOp::Cmpxchg),
];

/// Sizes, in the order of the C types `u8` to `u64`.
pub(super) const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::DW];

/// The key of `value` in one of the tables above; empty where there is none.
pub(super) fn of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, v)| *v == value).map_or("", |(name, _)| name)
}
