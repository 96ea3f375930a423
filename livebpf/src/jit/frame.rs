//! A function's native frame, and how deep chains of calls can get.
//!
//! ```text
//! rbp + 8    return address
//! rbp        caller's rbp
//! rbp - ...  BPF stack (R10 is rbp), rounded up to 8; below it the may_goto counter where there is one; padding
//! rsp ...    the callee-saved registers this function uses
//! ```
//!
//! A function that mentions neither R10 nor a tail call leaves rbp to its caller: then there are the return address, eight bytes
//! of padding where something is called, and the registers.

use super::code::FrameInfo;
use super::x64::Gpr;

/// R6 to R9.
pub(super) const CALLEE_SAVED: [Gpr; 4] = [Gpr::Rbx, Gpr::R13, Gpr::R14, Gpr::R15];

/// What a function needs of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Needs {
    /// Bytes of BPF stack.
    pub stack_depth: u32,
    /// It mentions R10, or tail-calls, which leaves the caller's rbp to the program that is called.
    pub rbp: bool,
    /// Which of R6 to R9 it mentions.
    pub callee_saved: [bool; 4],
    /// It calls native functions or subprograms: rsp is to be 16-aligned there.
    pub calls: bool,
    /// It has a may_goto.
    pub may_goto: bool,
    /// It reads BPF stack that it has not written.
    pub zeroed: bool,
}

/// A function's native frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Frame {
    /// rbp is this function's. Otherwise it has no bytes of stack.
    pub rbp: bool,
    /// Without rbp: eight bytes above the pushed registers align rsp.
    pub padded: bool,
    /// Bytes between the saved rbp and the pushed registers.
    pub bytes: u32,
    /// Which of R6 to R9 it pushes.
    pub callee_saved: [bool; 4],
    /// The may_goto counter's offset from rbp.
    pub may_goto: Option<i32>,
    /// Bytes below rbp to be cleared at each entry.
    pub zeroed: u32,
}

impl Frame {
    /// The one place that computes a frame.
    pub(super) fn new(needs: &Needs) -> Frame {
        let mut bytes = needs.stack_depth.next_multiple_of(8);
        let zeroed = if needs.zeroed { bytes } else { 0 };
        let may_goto = needs.may_goto.then(|| {
            bytes += 8;
            -(bytes as i32)
        });
        let pushes = needs.callee_saved.iter().filter(|used| **used).count() as u32;
        let rbp = needs.rbp || bytes != 0;
        let aligned = (bytes + 8 * pushes).is_multiple_of(16) == rbp;
        let padded = needs.calls && !aligned;
        if padded && rbp {
            bytes += 8;
        }
        Frame { rbp, padded: padded && !rbp, bytes, callee_saved: needs.callee_saved, may_goto, zeroed }
    }
    /// The registers it pushes, in order.
    pub(super) fn pushed(&self) -> impl DoubleEndedIterator<Item = Gpr> + use<> {
        let used = self.callee_saved;
        CALLEE_SAVED.into_iter().enumerate().filter(move |(i, _)| used[*i]).map(|(_, r)| r)
    }
    /// Bytes from the return address to the last pushed register.
    pub(super) fn native_stack(&self) -> u32 {
        let words = 1 + u32::from(self.rbp) + u32::from(self.padded) + self.pushed().count() as u32;
        8 * words + self.bytes
    }
}

/// A node of the call graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    /// Functions it calls, or takes the address of, but for those that stand in place of their calls; may repeat.
    pub callees: Vec<usize>,
    /// It contains a tail call.
    pub tail_call: bool,
}

/// Fills in `deepest` and `retained`. On a circle returns one function that is part of it.
pub(super) fn chains(frames: &mut [FrameInfo], graph: &[Calls]) -> Result<(), usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done { tail_calls: bool },
    }
    let mut state = vec![State::New; frames.len()];
    for root in 0..frames.len() {
        // Depth-first with an explicit stack of (function, next callee): nothing bounds the depth of unproven programs.
        let mut stack = vec![(root, 0)];
        while let Some((f, next)) = stack.pop() {
            if matches!(state[f], State::Done { .. }) {
                continue;
            }
            state[f] = State::Open;
            match graph[f].callees.get(next) {
                Some(&callee) => {
                    stack.push((f, next + 1));
                    match state[callee] {
                        State::New => stack.push((callee, 0)),
                        State::Open => return Err(callee),
                        State::Done { .. } => {}
                    }
                }
                None => {
                    let mut tail_calls = graph[f].tail_call;
                    let (mut below, mut retained) = (0, 0);
                    for &callee in &graph[f].callees {
                        below = below.max(frames[callee].deepest);
                        if state[callee] == (State::Done { tail_calls: true }) {
                            tail_calls = true;
                            retained = retained.max(frames[f].native_stack + frames[callee].retained);
                        }
                    }
                    frames[f].deepest = frames[f].native_stack + below;
                    frames[f].retained = retained;
                    state[f] = State::Done { tail_calls };
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stack_depth: u32, saved: usize, calls: bool, rbp: bool) -> Frame {
        let callee_saved = std::array::from_fn(|i| i < saved);
        Frame::new(&Needs { stack_depth, callee_saved, calls, rbp, ..Needs::default() })
    }

    #[test]
    fn padding_only_where_something_is_called() {
        let bytes = |depth, saved, calls| frame(depth, saved, calls, true).bytes;
        assert_eq!([bytes(0, 0, false), bytes(0, 1, false), bytes(3, 0, false)], [0, 0, 8]);
        assert_eq!([bytes(0, 0, true), bytes(0, 1, true), bytes(8, 1, true), bytes(8, 2, true)], [0, 8, 8, 16]);
        for (depth, saved) in (0..=512).flat_map(|d| (0..=4).map(move |s| (d, s))) {
            let frame = frame(depth, saved, true, true);
            assert_eq!(frame.native_stack() % 16, 0, "depth {depth}, {saved} saved");
            assert!(frame.bytes >= depth && frame.bytes < depth + 16);
        }
    }

    #[test]
    fn rbp_is_left_alone_where_there_is_no_stack() {
        let leaf = |saved, calls| frame(0, saved, calls, false);
        assert!((0..=4).all(|saved| !leaf(saved, true).rbp && leaf(saved, true).bytes == 0));
        assert_eq!([0, 1, 2, 3, 4].map(|saved| leaf(saved, true).padded), [true, false, true, false, true]);
        assert!((0..=4).all(|saved| leaf(saved, true).native_stack() % 16 == 0 && !leaf(saved, false).padded));
        assert!(frame(1, 0, false, false).rbp);
    }

    #[test]
    fn the_counter_lies_below_the_stack() {
        let frame = Frame::new(&Needs { stack_depth: 12, may_goto: true, ..Needs::default() });
        assert_eq!((frame.bytes, frame.may_goto), (24, Some(-24)));
    }

    fn graph(edges: &[(&[usize], bool)]) -> Vec<Calls> {
        edges.iter().map(|(c, t)| Calls { callees: c.to_vec(), tail_call: *t }).collect()
    }

    #[test]
    fn chains_of_calls() {
        let mut frames: Vec<_> =
            [16, 32, 64, 128].iter().map(|n| FrameInfo { native_stack: *n, ..FrameInfo::default() }).collect();
        // 0 calls 1 and 2, 1 calls 3, which has a tail call; 2 calls 3 as well.
        let g = graph(&[(&[1, 2], false), (&[3], true), (&[3, 3], false), (&[], true)]);
        assert_eq!(chains(&mut frames, &g), Ok(()));
        assert_eq!(frames.iter().map(|f| f.deepest).collect::<Vec<_>>(), [208, 160, 192, 128]);
        assert_eq!(frames.iter().map(|f| f.retained).collect::<Vec<_>>(), [80, 32, 64, 0]);
    }

    #[test]
    fn circles_are_found() {
        let mut frames = vec![FrameInfo::default(); 3];
        assert_eq!(chains(&mut frames, &graph(&[(&[1], false), (&[2], false), (&[1], false)])), Err(1));
        assert_eq!(chains(&mut frames, &graph(&[(&[], false), (&[], false), (&[2], false)])), Err(2));
    }
}
