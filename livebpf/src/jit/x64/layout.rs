//! Labels, branch sizes and alignment.
//!
//! Bytes whose size is known go into one buffer; branches and padding, whose size depends on where things end up, go
//! into a list of gaps beside it. [`Layout::finish`] starts with every branch at its shortest and lengthens those that
//! do not reach, until all do. A branch never shrinks again and the number of rounds is limited, so the time is
//! linear in the size of the code.

use super::encode::{Long, Short};
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

/// Where a label is: bytes and gaps before it, the gaps plus one. All zeros, memory as it comes, is a label that is not bound.
type Bound = (u32, u32);
const UNBOUND: Bound = (0, 0);

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
    labels: Vec<Bound>,
    /// Labels that there are; memory may be there for more.
    made: u32,
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
    gaps: Vec<Gap>,
    labels: Vec<Bound>,
}

impl Laid {
    /// Where a position came to lie.
    pub fn offset(&self, pos: Pos) -> u32 {
        pos.raw + self.deltas.get(pos.gaps as usize).copied().unwrap_or(0)
    }
    /// Where a label came to lie; `None` when it was never bound.
    pub fn label(&self, label: Label) -> Option<u32> {
        let (raw, gaps) = *self.labels.get(label.0 as usize)?;
        Some(self.offset(Pos { raw, gaps: gaps.checked_sub(1)? }))
    }
    /// Turns the first of each pair, a [`Pos::order`], into an offset. They ascend.
    pub fn settle<T>(&self, places: &mut [(u32, T)]) {
        let mut rest = places;
        for (i, gap) in self.gaps.iter().enumerate() {
            // Gap number i is the place `raw + i`.
            let behind = rest.iter().position(|(place, _)| *place > gap.raw + i as u32).unwrap_or(rest.len());
            let (here, others) = rest.split_at_mut(behind);
            here.iter_mut().for_each(|(place, _)| *place = *place - i as u32 + self.deltas[i]);
            rest = others;
        }
        let shift = self.deltas[self.gaps.len()].wrapping_sub(self.gaps.len() as u32);
        if shift != 0 {
            rest.iter_mut().for_each(|(place, _)| *place = place.wrapping_add(shift));
        }
    }
}

impl Pos {
    /// A number that orders positions as they follow each other, and differs wherever they can come to lie apart.
    pub fn order(&self) -> u32 {
        self.raw + self.gaps
    }
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
        let gaps = bytes / 32;
        // With some to spare, so that no more memory is touched than theirs that are bound.
        let all = vec![UNBOUND; labels as usize + gaps];
        Layout {
            buf: Vec::with_capacity(bytes),
            gaps: Vec::with_capacity(gaps),
            labels: all,
            made: labels,
            ..Layout::default()
        }
    }
    pub(super) fn new_label(&mut self) -> Label {
        if self.made as usize == self.labels.len() {
            self.labels.push(UNBOUND);
        }
        self.made += 1;
        Label(self.made - 1)
    }
    pub(super) fn bind(&mut self, label: Label) {
        let pos = self.pos();
        if let Some(slot) = self.labels.get_mut(label.0 as usize) {
            debug_assert!(*slot == UNBOUND, "a label is bound once");
            *slot = (pos.raw, pos.gaps + 1);
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
    pub(super) fn put_short(&mut self, insn: Short) {
        insn.append_to(&mut self.buf);
    }
    #[inline(always)]
    pub(super) fn put_long(&mut self, insn: Long) {
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
        let deltas = vec![0; self.gaps.len() + 1];
        let mut laid = Laid { bytes: Vec::new(), deltas, gaps: Vec::new(), labels: self.labels };
        for round in 0.. {
            place(&mut self.gaps, &mut laid.deltas);
            if !lengthen(&mut self.gaps, &laid, round >= ROUNDS) {
                break;
            }
        }
        laid.gaps = self.gaps;
        laid.bytes = spread(self.buf, &laid);
        for (at, label) in self.fields {
            let at = laid.offset(at);
            let rel = distance(&laid, at + 4, label);
            laid.bytes[at as usize..at as usize + 4].copy_from_slice(&rel.to_le_bytes());
        }
        Ok(laid)
    }
}

/// Moves what stands between the gaps to its final place, from the back, and fills the gaps.
fn spread(mut bytes: Vec<u8>, laid: &Laid) -> Vec<u8> {
    let mut end = bytes.len();
    let total = end + laid.deltas.last().map_or(0, |d| *d as usize);
    bytes.reserve_exact(total - end);
    bytes.resize(total, 0);
    for (i, gap) in laid.gaps.iter().enumerate().rev() {
        let (from, to) = (gap.raw as usize, (gap.raw + laid.deltas[i + 1]) as usize);
        bytes.copy_within(from..end, to);
        end = from;
        fill_gap(gap, &mut bytes[to - usize::from(gap.size)..to], to as u32, laid);
    }
    bytes
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
            0 if laid.labels.get(label.0 as usize).is_some_and(|(_, gaps)| *gaps as usize > i + 1) => 0,
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

/// Writes what stands in a gap that ends at `end`.
fn fill_gap(gap: &Gap, out: &mut [u8], end: u32, laid: &Laid) {
    let GapKind::Branch(branch, label) = gap.kind else {
        nop::fill(out);
        return;
    };
    let rel = distance(laid, end, label);
    let [a, b, c, d] = rel.to_le_bytes();
    match (branch, gap.size) {
        (_, 0) => {}
        (Branch::Jmp, 2) => out.copy_from_slice(&[0xeb, a]),
        (Branch::Jcc(cc), 2) => out.copy_from_slice(&[0x70 | cc as u8, a]),
        (Branch::Jmp, _) => out.copy_from_slice(&[0xe9, a, b, c, d]),
        (Branch::Jcc(cc), _) => out.copy_from_slice(&[0x0f, 0x80 | cc as u8, a, b, c, d]),
    }
}
