//! Labels, branch sizes and alignment.
//!
//! Bytes whose size is known go into one buffer; branches and padding, whose size depends on where things end up, go
//! into a list of gaps beside it. [`Layout::finish`] starts with every branch at its shortest and lengthens those that
//! do not reach, until all do. A branch never shrinks again and the number of rounds is limited, so the time is
//! linear in the size of the code.

use super::encode::Bytes;
use super::nop;
use super::operand::Cc;

/// A place that branches can lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Label(pub u32);

/// A place in code that is not laid out yet. [`Laid::offset`] turns it into an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pos {
    /// Bytes before it in the buffer.
    raw: u32,
    /// Gaps before it.
    gaps: u32,
}

/// Marks a label that is not bound.
const UNBOUND: Pos = Pos { raw: u32::MAX, gaps: u32::MAX };

/// A branch whose size is to be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Branch {
    Jmp,
    Jcc(Cc),
}

impl Branch {
    const fn long(self) -> u8 {
        match self {
            Branch::Jmp => 5,
            Branch::Jcc(_) => 6,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum GapKind {
    Branch(Branch, Label),
    Align { align: u8, residue: u8 },
}

/// Something of variable size in front of the byte `raw` of the buffer.
#[derive(Clone, Copy, Debug)]
struct Gap {
    raw: u32,
    size: u8,
    kind: GapKind,
}

/// Code larger than this is refused: every distance fits in 31 bits.
pub(crate) const LIMIT: u32 = 1 << 30;

/// Rounds after which every branch that is still short becomes long.
const ROUNDS: usize = 12;

/// The code has more than 2^30 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge;

#[derive(Default)]
pub(super) struct Layout {
    buf: Vec<u8>,
    gaps: Vec<Gap>,
    labels: Vec<Pos>,
    /// Fields of four bytes in the buffer that hold a distance to a label.
    fields: Vec<(Pos, Label)>,
}

/// Code in its final place.
#[derive(Debug)]
pub struct Laid {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Bytes inserted by the first n gaps.
    deltas: Vec<u32>,
    labels: Vec<Pos>,
}

impl Laid {
    /// Where a position came to lie.
    pub fn offset(&self, pos: Pos) -> u32 {
        pos.raw + self.deltas.get(pos.gaps as usize).copied().unwrap_or(0)
    }
    /// Where a label came to lie; `None` when it was never bound.
    pub fn label(&self, label: Label) -> Option<u32> {
        self.labels.get(label.0 as usize).filter(|p| **p != UNBOUND).map(|p| self.offset(*p))
    }
}

impl Pos {
    /// Whether more than `n` bytes of fixed size stand before it.
    pub fn is_beyond(self, n: u32) -> bool {
        self.raw > n
    }
    /// The position `n` bytes on, where these bytes have a fixed size.
    pub fn plus(self, n: u32) -> Pos {
        Pos { raw: self.raw + n, ..self }
    }
}

impl Layout {
    pub(super) fn with_capacity(bytes: usize, labels: u32) -> Layout {
        Layout {
            buf: Vec::with_capacity(bytes),
            gaps: Vec::with_capacity(bytes / 32),
            labels: vec![UNBOUND; labels as usize],
            fields: Vec::new(),
        }
    }
    pub(super) fn new_label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }
    pub(super) fn bind(&mut self, label: Label) {
        let pos = self.pos();
        if let Some(slot) = self.labels.get_mut(label.0 as usize) {
            debug_assert!(*slot == UNBOUND, "a label is bound once");
            *slot = pos;
        }
    }
    pub(super) fn pos(&self) -> Pos {
        Pos { raw: self.buf.len() as u32, gaps: self.gaps.len() as u32 }
    }
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }
    #[inline(always)]
    pub(super) fn put_insn(&mut self, insn: &Bytes) {
        insn.append_to(&mut self.buf);
    }
    pub(super) fn align(&mut self, align: u8, residue: u8) {
        debug_assert!(align.is_power_of_two() && align <= 64 && residue < align);
        self.gap(0, GapKind::Align { align, residue });
    }
    pub(super) fn branch(&mut self, branch: Branch, label: Label) {
        self.gap(0, GapKind::Branch(branch, label));
    }
    fn gap(&mut self, size: u8, kind: GapKind) {
        self.gaps.push(Gap { raw: self.buf.len() as u32, size, kind });
    }
    /// A field of four bytes that will hold the distance from its end to `label`.
    pub(super) fn rel32(&mut self, label: Label) {
        let at = self.pos();
        self.fields.push((at, label));
        self.put(&[0; 4]);
    }

    pub(super) fn finish(mut self) -> Result<Laid, TooLarge> {
        if self.buf.len() + self.gaps.len() * 64 > LIMIT as usize {
            return Err(TooLarge);
        }
        let mut laid = Laid { bytes: Vec::new(), deltas: vec![0; self.gaps.len() + 1], labels: self.labels };
        for round in 0.. {
            place(&mut self.gaps, &mut laid.deltas);
            if !lengthen(&mut self.gaps, &laid, round >= ROUNDS) {
                break;
            }
        }
        let total = self.buf.len() + laid.deltas.last().map_or(0, |d| *d as usize);
        laid.bytes = Vec::with_capacity(total);
        let mut done = 0;
        for (i, gap) in self.gaps.iter().enumerate() {
            laid.bytes.extend_from_slice(&self.buf[done..gap.raw as usize]);
            done = gap.raw as usize;
            let end = gap.raw + laid.deltas[i + 1];
            write_gap(gap, end, &mut laid);
        }
        laid.bytes.extend_from_slice(&self.buf[done..]);
        for (at, label) in self.fields {
            let at = laid.offset(at);
            let rel = distance(&laid, at + 4, label);
            laid.bytes[at as usize..at as usize + 4].copy_from_slice(&rel.to_le_bytes());
        }
        Ok(laid)
    }
}

/// Computes the padding of every alignment and the sums of all sizes.
fn place(gaps: &mut [Gap], deltas: &mut [u32]) {
    let mut delta = 0;
    for (i, gap) in gaps.iter_mut().enumerate() {
        if let GapKind::Align { align, residue } = gap.kind {
            let at = gap.raw + delta;
            gap.size = (u32::from(residue).wrapping_sub(at) & (u32::from(align) - 1)) as u8;
        }
        delta += u32::from(gap.size);
        deltas[i + 1] = delta;
    }
}

/// Lengthens the branches that do not reach (all that are not long when `give_up`); says whether there were any.
fn lengthen(gaps: &mut [Gap], laid: &Laid, give_up: bool) -> bool {
    let mut changed = false;
    for (i, gap) in gaps.iter_mut().enumerate() {
        let GapKind::Branch(branch, label) = gap.kind else { continue };
        if gap.size == branch.long() {
            continue;
        }
        let rel = distance(laid, gap.raw + laid.deltas[i + 1], label);
        let need = match rel {
            _ if give_up => branch.long(),
            // Not so for a jump to itself, whose distance is 0 only as long as it has no bytes.
            0 if laid.labels.get(label.0 as usize).is_some_and(|l| l.gaps as usize > i) => 0,
            -128..=127 => 2,
            _ => branch.long(),
        };
        if need > gap.size {
            gap.size = need;
            changed = true;
        }
    }
    changed
}

/// From `end` to `label`; 0 for a label that was never bound (the caller finds out by [`Laid::label`]).
fn distance(laid: &Laid, end: u32, label: Label) -> i32 {
    laid.label(label).map_or(0, |to| to.wrapping_sub(end) as i32)
}

fn write_gap(gap: &Gap, end: u32, laid: &mut Laid) {
    let GapKind::Branch(branch, label) = gap.kind else {
        nop::fill(&mut laid.bytes, gap.size.into());
        return;
    };
    let rel = distance(laid, end, label);
    let out = &mut laid.bytes;
    match (branch, gap.size) {
        (_, 0) => {}
        (Branch::Jmp, 2) => out.extend_from_slice(&[0xeb, rel as u8]),
        (Branch::Jcc(cc), 2) => out.extend_from_slice(&[0x70 | cc as u8, rel as u8]),
        (Branch::Jmp, _) => {
            out.push(0xe9);
            out.extend_from_slice(&rel.to_le_bytes());
        }
        (Branch::Jcc(cc), _) => {
            out.extend_from_slice(&[0x0f, 0x80 | cc as u8]);
            out.extend_from_slice(&rel.to_le_bytes());
        }
    }
}
