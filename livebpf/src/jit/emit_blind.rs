//! Constants that cannot be found in the code: nothing that a program's author chose stands there as it is.
//!
//! Whoever may choose immediates could choose bytes that are instructions when something jumps into their middle. Each
//! immediate is put together from two halves instead, one of them random (`net.core.bpf_jit_harden` of the kernel does
//! the same). Shift counts and offsets of jumps and memory stay: they are too small, or bound by the program's layout.

use super::emit::Emitter;
use super::x64::{Alu, Gpr, Size};

impl Emitter<'_> {
    /// Whether constants are to be hidden.
    pub(super) fn blinds(&self) -> bool {
        self.options.blind.is_some()
    }

    /// The next random number: splitmix64 from the seed.
    fn blinding(&mut self) -> u64 {
        self.blinded += 1;
        let z = self.options.blind.unwrap_or(0).wrapping_add(self.blinded.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `dst` = `imm`, sign-extended at 64 bits, zero-extended at 32:
    ///
    /// ```text
    /// mov dst, imm ^ random
    /// xor dst, random
    /// ```
    pub(super) fn emit_blinded_const(&mut self, size: Size, dst: Gpr, imm: i32) {
        let random = self.blinding() as i32;
        match size {
            Size::Q => self.asm.mov_ri_sx(dst, imm ^ random),
            Size::D | Size::W | Size::B => self.asm.mov_ri32(dst, (imm ^ random) as u32),
        }
        let size = if size == Size::Q { Size::Q } else { Size::D };
        self.asm.alu_ri(Alu::Xor, size, dst, random);
    }

    /// `dst` = `value`:
    ///
    /// ```text
    /// mov r11, random
    /// mov dst, value ^ random
    /// xor dst, r11
    /// ```
    pub(super) fn emit_blinded_const64(&mut self, dst: Gpr, value: u64) {
        let random = self.blinding();
        self.asm.mov_ri64(Gpr::R11, random);
        self.asm.mov_ri64(dst, value ^ random);
        self.asm.alu_rr(Alu::Xor, Size::Q, dst, Gpr::R11);
    }
}
