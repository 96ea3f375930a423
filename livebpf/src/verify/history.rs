//! The path behind a state, kept so that what matters can be followed back along it: *precision* and *liveness*.
//!
//! A path is a chain of [`Turn`]s (jumps, calls, returns, stack accesses) shared by all paths that branch off it. Along
//! it lie [`Node`]s: the places where a state was stored, or where a long way went by without one. A node knows
//!
//! * which numbers matter (*precise*): one decided a jump, was added to a pointer, or is a size, an index or a result
//!   that is checked. [`History::demand`] follows such a number back to what it was computed from, and marks it in
//!   every node on the way;
//! * which stack slots are read (*read*) before they are overwritten. [`History::read`] marks them in every node back
//!   to the one after which the slot was written as a whole.
//!
//! *Why a complete node's marks are final.* A node is complete when every path below it is finished. A path finishes by
//! ending, or because a complete node covers it; then what is marked there is demanded of the path as well
//! ([`History::inherit`]). So when the last path below a node finishes, everything that influenced any verdict below it
//! is marked. Only complete nodes are used to end other paths, and only as far as their marks allow: a number that is
//! not precise, and a slot that is not read, may differ.
//!
//! Never looks at what registers hold; the instructions and the turns say where a number came from.

use super::cfg;
use super::live::{ARGS, CALLER_SAVED, Mask, bit, src_bit};
use crate::insn::{AluOp, AtomicOp, Insn, Insns, Pc, Reg, Size, Src};

pub(super) const NONE: u32 = u32::MAX;
/// Frames of one state.
const FRAMES: usize = cfg::MAX_FRAMES;
/// Instructions after which a node is set where no state was stored, so that no way back is long.
pub(super) const LONG_WAY: u64 = 96;

/// How control went on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// By a jump without condition.
    Always,
    /// By a conditional jump: taken or not.
    Side(bool),
    /// Into a subprogram.
    Call,
    /// Into a function that a helper calls, which hands on its R3.
    Callback,
    /// Out of such a function, back to the helper's call.
    CalledBack,
    /// Out of a function, to behind its call.
    Return,
    /// Out of a function whose result is some number, whatever R0 holds.
    Left,
}

/// What happened at one instruction of a path.
#[derive(Clone, Copy, Debug)]
enum What {
    Went {
        to: Pc,
        way: Way,
    },
    /// It read or wrote these slots of the frame.
    Stack {
        frame: u8,
        slots: u64,
    },
    /// It learnt something about these places at once: (first, count) in `History::linked`.
    Linked {
        first: u32,
        count: u32,
    },
}

/// One step of a path, linked to the one before.
#[derive(Clone, Copy, Debug)]
struct Turn {
    before: u32,
    pc: Pc,
    what: What,
}

/// What is known to matter of one frame.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Marks {
    /// Numbers that matter.
    pub precise: Mask,
    /// Slots that are read.
    pub read: u64,
    /// Slots written as a whole since the node before.
    written: u64,
}

/// A place on a path.
struct Node {
    parent: u32,
    /// Paths below it that are not finished.
    open: u32,
    /// The oldest node that a path below led back to.
    low: u32,
    /// A path led back here, and what matters below may still grow.
    head: bool,
    /// How many paths had ended at unsettled nodes when it was set.
    leaps: u32,
    pc: Pc,
    trail: u32,
    marks: Box<[Marks]>,
}

/// Where a state stands on its path.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The last turn.
    trail: u32,
    /// The last node.
    pub node: u32,
    /// Instructions processed when that node was set.
    since: u64,
    /// By frame: slots written as a whole since that node.
    written: [u64; FRAMES],
}

impl Position {
    /// Before the first node.
    pub const START: Position = Position { trail: NONE, node: NONE, since: 0, written: [0; FRAMES] };
}

/// A number in a frame's register, or in one of its slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub frame: u8,
    pub mask: Mask,
}

/// A conditional jump on the way to a state.
pub(super) struct Decision {
    pub pc: Pc,
    pub taken: bool,
}

/// All paths of one exploration.
#[derive(Default)]
pub(super) struct History {
    turns: Vec<Turn>,
    nodes: Vec<Node>,
    linked: Vec<Place>,
    /// Heads of loops that have been explored, to be settled: the inner ones first.
    explored: Vec<u32>,
    /// Paths that ended at unsettled nodes, as far as those are not settled yet.
    leaps: u32,
    marked: u64,
}

/// Numbers that are looked for on the way back.
struct Wanted {
    frames: [Mask; FRAMES],
    /// The frame that runs.
    cur: usize,
}

impl History {
    /// Starts over with one open path.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.nodes.clear();
        self.linked.clear();
        self.explored.clear();
        self.leaps = 0;
    }

    /// Sets a node for a state with so many frames that is about to execute `pc`.
    pub fn node(&mut self, at: &mut Position, pc: Pc, frames: usize, processed: u64) {
        let marks = |written: &u64| Marks { written: *written, ..Marks::default() };
        let marks = at.written[..frames].iter().map(marks).collect();
        let node = self.nodes.len() as u32;
        self.nodes.push(Node {
            parent: at.node,
            open: 1,
            low: node,
            head: false,
            leaps: self.leaps,
            pc,
            trail: at.trail,
            marks,
        });
        *at = Position { trail: at.trail, node, since: processed, written: [0; FRAMES] };
    }
    /// Whether the last node lies far behind.
    pub fn is_far(at: &Position, processed: u64) -> bool {
        processed - at.since > LONG_WAY
    }
    /// Another path branches off below the node.
    pub fn branch(&mut self, node: u32) {
        self.nodes[node as usize].open += 1;
    }
    /// A path is finished: so are the nodes on it, as far as nothing else is open below them.
    pub fn finish(&mut self, mut node: u32) {
        while node != NONE {
            let Node { parent, low, head, ref mut open, .. } = self.nodes[node as usize];
            *open -= 1;
            if *open > 0 {
                break;
            }
            if head && low == node {
                self.explored.push(node);
            }
            if parent != NONE {
                let above = &mut self.nodes[parent as usize].low;
                *above = (*above).min(low);
            }
            node = parent;
        }
    }
    /// A path below the node that was finished goes on.
    pub fn reopen(&mut self, mut node: u32) {
        while node != NONE {
            let entry = &mut self.nodes[node as usize];
            entry.open += 1;
            if entry.open > 1 {
                break;
            }
            node = entry.parent;
        }
    }
    pub fn is_open(&self, node: u32) -> bool {
        self.nodes[node as usize].open > 0
    }
    /// The path below `node` ends because `old`, which is not settled, covers it.
    pub fn covered_by(&mut self, node: u32, old: u32) {
        let low = self.oldest(old);
        let mine = &mut self.nodes[node as usize].low;
        *mine = (*mine).min(low);
        self.nodes[low as usize].head = true;
        self.leaps += 1;
    }
    /// Everything that can follow from `node` is explored, and what matters there does not change any more.
    pub fn is_settled(&self, node: u32) -> bool {
        let oldest = self.oldest(node);
        !self.is_open(node) && !self.is_open(oldest) && !self.nodes[oldest as usize].head
    }
    /// The next loop that is explored and not settled: its head, and how many of the paths that ended at unsettled nodes
    /// did so before the head was set.
    pub fn explored(&mut self) -> Option<(u32, usize)> {
        while !self.explored.is_empty() {
            let head = self.explored.remove(0);
            if !self.is_open(head) {
                return Some((head, self.nodes[head as usize].leaps as usize));
            }
        }
        None
    }
    /// What matters in the loop with this head is known; so many of the paths that ended at unsettled nodes are left.
    pub fn settle(&mut self, head: u32, leaps: usize) {
        self.nodes[head as usize].head = false;
        self.leaps = leaps as u32;
    }
    /// The oldest node that can follow from `node`, as far as is known.
    fn oldest(&self, mut node: u32) -> u32 {
        loop {
            let low = self.nodes[node as usize].low;
            if low == node {
                return node;
            }
            node = low;
        }
    }
    /// Grows whenever something is marked.
    pub fn marked(&self) -> u64 {
        self.marked
    }
    /// What matters of each frame at a node.
    pub fn marks(&self, node: u32) -> &[Marks] {
        &self.nodes[node as usize].marks
    }

    fn turn(&mut self, at: &mut Position, pc: Pc, what: What) {
        self.turns.push(Turn { before: at.trail, pc, what });
        at.trail = self.turns.len() as u32 - 1;
    }
    /// Control goes from `pc` to `to`. `depth` is the depth of the frame that runs afterwards.
    pub fn went(&mut self, at: &mut Position, pc: Pc, to: Pc, way: Way, depth: usize) {
        self.turn(at, pc, What::Went { to, way });
        if matches!(way, Way::Call | Way::Callback) {
            // A new frame: what is read of it is not what was there before.
            at.written[depth] = u64::MAX;
        }
    }
    /// The jump at `pc` learnt something about several places that hold the same number.
    pub fn learnt(&mut self, at: &mut Position, pc: Pc, places: impl Iterator<Item = Place>) {
        let first = self.linked.len();
        self.linked.extend(places);
        let places = &self.linked[first..];
        let one = |p: &Place| p.mask.regs.count_ones() + p.mask.slots.count_ones();
        let count = places.len();
        if places.iter().map(one).sum::<u32>() > 1 {
            self.turn(at, pc, What::Linked { first: first as u32, count: count as u32 });
        } else {
            self.linked.truncate(first);
        }
    }
    /// The instruction at `pc` reads these slots of a frame.
    pub fn read(&mut self, at: &mut Position, pc: Pc, frame: usize, slots: u64) {
        self.turn(at, pc, What::Stack { frame: frame as u8, slots });
        self.use_slots(at, frame, slots);
    }
    /// The instruction at `pc` writes these slots of a frame; `whole`: all bytes of them, for certain.
    pub fn write(&mut self, at: &mut Position, pc: Pc, frame: usize, slots: u64, whole: bool) {
        self.turn(at, pc, What::Stack { frame: frame as u8, slots });
        if whole {
            at.written[frame] |= slots;
        }
    }
    /// These slots are read, without their numbers going into a register.
    pub fn use_slots(&mut self, at: &Position, frame: usize, slots: u64) {
        let mut left = slots & !at.written[frame];
        let mut node = at.node;
        while left != 0 && node != NONE {
            let entry = &mut self.nodes[node as usize];
            let Some(marks) = entry.marks.get_mut(frame) else { break };
            left &= !marks.read;
            marks.read |= left;
            self.marked += u64::from(left != 0);
            left &= !marks.written;
            node = entry.parent;
        }
    }

    /// The number in `reg` of the frame `depth` matters just before `pc`.
    pub fn demand(&mut self, insns: &Insns, at: &Position, depth: usize, pc: Pc, reg: Reg) {
        let place = Place { frame: depth as u8, mask: Mask { regs: bit(reg), slots: 0 } };
        self.demand_place(insns, at, depth, pc, place);
    }
    /// The numbers at `place` matter just before `pc`, where the frame `depth` runs.
    pub fn demand_place(&mut self, insns: &Insns, at: &Position, depth: usize, pc: Pc, place: Place) {
        let mut wanted = Wanted { frames: [Mask::default(); FRAMES], cur: depth };
        wanted.frames[usize::from(place.frame)] = place.mask;
        self.follow(insns, at, pc, wanted);
    }
    /// A path ends at `pc` because the complete node `old` covers it: what matters there matters here.
    pub fn inherit(&mut self, insns: &Insns, at: &Position, pc: Pc, old: u32) {
        let mut wanted = Wanted { frames: [Mask::default(); FRAMES], cur: 0 };
        let frames = self.nodes[old as usize].marks.len();
        for frame in 0..frames {
            let marks = self.nodes[old as usize].marks[frame];
            self.use_slots(at, frame, marks.read);
            wanted.frames[frame] = marks.precise;
        }
        wanted.cur = frames - 1;
        if !wanted.is_empty() {
            self.follow(insns, at, pc, wanted);
        }
    }
    /// Follows the wanted numbers back from `pc` to where they come from.
    fn follow(&mut self, insns: &Insns, from: &Position, mut pc: Pc, mut wanted: Wanted) {
        let (mut at, mut node) = (from.trail, from.node);
        // By frame: the slots that the instruction reads or writes.
        let mut touched = [0; FRAMES];
        while node != NONE {
            let (trail, start) = (self.nodes[node as usize].trail, self.nodes[node as usize].pc);
            while at != trail || pc != start {
                let Some((before, insn, way)) = self.back(insns, &mut at, trail, pc, &mut wanted) else {
                    // Cannot happen; if it did, everything would matter.
                    debug_assert!(false, "no way back from {pc} to {start}");
                    self.distrust(node);
                    return;
                };
                pc = before;
                let noted = self.gather(&mut at, trail, pc, &mut wanted, &mut touched);
                if !matches!(way, Some(Way::Call | Way::Callback)) {
                    wanted.undo(&insn, &touched);
                }
                if noted {
                    touched = [0; FRAMES];
                }
                if wanted.is_empty() {
                    return;
                }
            }
            let entry = &mut self.nodes[node as usize];
            wanted.mark(&mut entry.marks);
            self.marked += u64::from(!wanted.is_empty());
            if wanted.is_empty() {
                return;
            }
            node = entry.parent;
        }
    }

    /// The instruction executed before `pc`, where it stands, and how control went on from it unless to the next one.
    fn back(
        &self,
        insns: &Insns,
        at: &mut u32,
        trail: u32,
        pc: Pc,
        wanted: &mut Wanted,
    ) -> Option<(Pc, Insn, Option<Way>)> {
        if *at != trail {
            let turn = self.turns[*at as usize];
            if let What::Went { to, way } = turn.what
                && to == pc
            {
                *at = turn.before;
                let insn = insns.get(turn.pc)?;
                wanted.across(way)?;
                return Some((turn.pc, insn, Some(way)));
            }
        }
        insns.before(pc).map(|(pc, insn)| (pc, insn, None))
    }

    /// Takes what is noted at the instruction at `pc` besides where control went, if anything is.
    fn gather(&self, at: &mut u32, trail: u32, pc: Pc, wanted: &mut Wanted, touched: &mut [u64; FRAMES]) -> bool {
        let last = *at;
        while *at != trail {
            let turn = self.turns[*at as usize];
            match turn.what {
                What::Stack { frame, slots } if turn.pc == pc => touched[usize::from(frame)] |= slots,
                What::Linked { first, count } if turn.pc == pc => {
                    wanted.together(&self.linked[first as usize..(first + count) as usize]);
                }
                _ => break,
            }
            *at = turn.before;
        }
        *at != last
    }

    fn distrust(&mut self, mut node: u32) {
        while node != NONE {
            self.nodes[node as usize].everything();
            node = self.nodes[node as usize].parent;
        }
    }

    /// The conditional jumps on the way to a state, the last one first.
    pub fn decisions(&self, at: &Position) -> impl Iterator<Item = Decision> + '_ {
        let mut next = at.trail;
        std::iter::from_fn(move || {
            while next != NONE {
                let turn = self.turns[next as usize];
                next = turn.before;
                if let What::Went { way: Way::Side(taken), .. } = turn.what {
                    return Some(Decision { pc: turn.pc, taken });
                }
            }
            None
        })
    }
}

impl Node {
    fn everything(&mut self) {
        for marks in &mut self.marks {
            (marks.precise, marks.read) = (Mask::ALL, u64::MAX);
        }
    }
}

impl Wanted {
    /// Frames above the running one hold nothing that anybody wants.
    fn is_empty(&self) -> bool {
        self.frames[..=self.cur].iter().all(|mask| *mask == Mask::default())
    }
    /// Marks what is wanted; what was marked before was followed before.
    fn mark(&mut self, marks: &mut [Marks]) {
        for (i, wanted) in self.frames.iter_mut().enumerate() {
            let Some(marks) = marks.get_mut(i) else {
                *wanted = Mask::default();
                continue;
            };
            wanted.regs &= !marks.precise.regs;
            wanted.slots &= !marks.precise.slots;
            marks.precise.join(*wanted);
        }
    }
    /// Who wants one of the places wants all.
    fn together(&mut self, places: &[Place]) {
        let has = |p: &Place| {
            let mask = self.frames[usize::from(p.frame)];
            mask.regs & p.mask.regs != 0 || mask.slots & p.mask.slots != 0
        };
        if places.iter().any(has) {
            for p in places {
                self.frames[usize::from(p.frame)].join(p.mask);
            }
        }
    }
    /// Back across a change of the running frame, to the instruction that made it.
    fn across(&mut self, way: Way) -> Option<()> {
        match way {
            Way::Always | Way::Side(_) => {}
            Way::Call => {
                let callee = std::mem::take(self.frames.get_mut(self.cur)?);
                self.cur = self.cur.checked_sub(1)?;
                let caller = &mut self.frames[self.cur];
                caller.regs = caller.regs & !CALLER_SAVED | callee.regs & ARGS;
            }
            Way::Callback => {
                let callee = std::mem::take(self.frames.get_mut(self.cur)?);
                self.cur = self.cur.checked_sub(1)?;
                if callee.regs & ARGS != 0 {
                    self.frames[self.cur].regs |= bit(Reg::R3);
                }
            }
            Way::CalledBack => {
                self.cur += 1;
                *self.frames.get_mut(self.cur)? = Mask::default();
            }
            Way::Return | Way::Left => {
                let caller = &mut self.frames[self.cur];
                let result = caller.regs & bit(Reg::R0);
                caller.regs &= !CALLER_SAVED;
                self.cur += 1;
                *self.frames.get_mut(self.cur)? = Mask { regs: if way == Way::Return { result } else { 0 }, slots: 0 };
            }
        }
        Some(())
    }
    /// From behind `insn`, which touched these slots, to before it.
    fn undo(&mut self, insn: &Insn, touched: &[u64; FRAMES]) {
        match *insn {
            Insn::Store { size, src, .. } => self.undo_store(size == Size::DW, src_bit(src), touched),
            Insn::StoreRelease { size, src, .. } => self.undo_store(size == Size::DW, bit(src), touched),
            _ => {}
        }
        let regs = &mut self.frames[self.cur].regs;
        if let Insn::Call { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } | Insn::CallSubprog { .. } = insn {
            // A subprogram that was entered has been left through `across`.
            *regs &= !CALLER_SAVED;
            return;
        }
        if let (Insn::Jmp { dst, src: Src::Reg(src), .. }, true) = (insn, *regs != 0) {
            let both = bit(*dst) | bit(*src);
            if *regs & both != 0 {
                *regs |= both;
            }
            return;
        }
        let Some(dst) = cfg::written(insn).filter(|dst| *regs & bit(*dst) != 0) else { return };
        *regs &= !bit(dst);
        match *insn {
            Insn::Mov { src, .. } => *regs |= src_bit(src),
            Insn::MovSx { src, .. } => *regs |= bit(src),
            Insn::Alu { op: AluOp::Xor | AluOp::Sub, src: Src::Reg(src), .. } if src == dst => {}
            Insn::Alu { src, .. } => *regs |= bit(dst) | src_bit(src),
            Insn::Neg { .. } | Insn::Endian { .. } => *regs |= bit(dst),
            Insn::Atomic { op, src, .. } => {
                // The number read may be kept in the slot or in the register.
                if op == AtomicOp::Cmpxchg {
                    *regs |= bit(Reg::R0) | bit(src);
                }
                self.want_slots(touched);
            }
            Insn::Load { .. } | Insn::LoadSx { .. } | Insn::LoadAcquire { .. } => self.want_slots(touched),
            _ => {}
        }
    }
    fn undo_store(&mut self, whole: bool, src: u16, touched: &[u64; FRAMES]) {
        let mut hit = false;
        for (mask, slots) in self.frames.iter_mut().zip(touched) {
            if mask.slots & slots != 0 {
                hit = true;
                if whole && slots.count_ones() == 1 {
                    mask.slots &= !slots;
                }
            }
        }
        if hit {
            self.frames[self.cur].regs |= src;
        }
    }
    fn want_slots(&mut self, touched: &[u64; FRAMES]) {
        for (mask, slots) in self.frames.iter_mut().zip(touched) {
            mask.slots |= slots;
        }
    }
}
