//! The assembler: one method per instruction form, each choosing the shortest encoding of that form.
//!
//! A method's name is the mnemonic followed by its operands: `r` register, `m` memory, `i` immediate. No method
//! changes the instruction it was asked for (a `mov` of 0 stays a `mov`): that choice belongs to the caller.

use super::encode::{Imm, Op, Parts, RegField, Short};
use super::layout::{Branch, Label, Laid, Layout, Pos, TooLarge};
use super::nop;
use super::operand::{Alu, Cc, Gpr, Mem, Shift, Size};

/// Machine code under construction.
#[derive(Default)]
pub struct Asm {
    layout: Layout,
}

/// Zero- and sign-extending moves to a 32-bit or 64-bit register.
fn extend_op(from: Size, signed: bool) -> Op {
    match (from, signed) {
        (Size::B, false) => Op::Two(0xb6),
        (Size::W, false) => Op::Two(0xb7),
        (Size::B, true) => Op::Two(0xbe),
        (Size::W, true) => Op::Two(0xbf),
        (Size::D | Size::Q, _) => Op::One(0x63),
    }
}

/// `op` for 16 bits and wider, `op - 1` for bytes.
fn sized(op: u8, size: Size) -> Op {
    Op::One(if size == Size::B { op - 1 } else { op })
}

/// An immediate of an instruction whose immediates are at most 32 bits wide.
fn full_imm(size: Size, imm: i32) -> Imm {
    match size {
        Size::B => Imm::I8(imm as i8),
        Size::W => Imm::I16(imm as i16),
        Size::D | Size::Q => Imm::I32(imm),
    }
}

/// The opcode of arithmetic with a constant, and the constant in its shortest form.
#[inline(always)]
fn alu_imm(imm: i32) -> (Op, Imm) {
    match i8::try_from(imm) {
        Ok(imm) => (Op::One(0x83), Imm::I8(imm)),
        Err(_) => (Op::One(0x81), Imm::I32(imm)),
    }
}

/// An instruction without prefixes but REX, on operands of 32 or 64 bits.
#[inline(always)]
const fn plain(size: Size, op: Op, reg: RegField, imm: Imm) -> Parts {
    let wide = matches!(size, Size::Q);
    Parts { lock: false, word: false, wide, op, reg, byte_reg: false, byte_rm: false, imm }
}

impl Asm {
    /// An assembler with room for about `bytes`, and with labels 0 to `labels - 1` already made.
    pub fn with_capacity(bytes: usize, labels: u32) -> Asm {
        Asm { layout: Layout::with_capacity(bytes, labels) }
    }
    /// A label, not bound yet.
    pub fn new_label(&mut self) -> Label {
        self.layout.new_label()
    }
    /// Binds a label to the current position.
    pub fn bind(&mut self, label: Label) {
        self.layout.bind(label);
    }
    /// The current position.
    pub fn pos(&self) -> Pos {
        self.layout.pos()
    }
    /// Pads with no-operations until the offset modulo `align` (a power of two, at most 64) is `residue`.
    pub fn align(&mut self, align: u8, residue: u8) {
        self.layout.align(align, residue);
    }
    /// Chooses branch sizes, resolves labels and puts everything in its place.
    pub fn finish(self) -> Result<Laid, TooLarge> {
        self.layout.finish()
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.layout.put(bytes);
    }
    /// An instruction on a register; `size` is D or Q.
    #[inline(always)]
    fn reg(&mut self, size: Size, op: Op, reg: RegField, rm: Gpr, imm: Imm) {
        debug_assert!(matches!(size, Size::D | Size::Q));
        self.layout.put_short(plain(size, op, reg, imm).with_reg(rm));
    }
    /// The same of any size.
    #[inline(always)]
    fn reg_sized(&mut self, size: Size, op: Op, reg: RegField, rm: Gpr, imm: Imm) {
        let byte = size == Size::B;
        let parts = Parts { word: size == Size::W, byte_reg: byte, byte_rm: byte, ..plain(size, op, reg, imm) };
        self.layout.put_short(parts.with_reg(rm));
    }
    /// An instruction on memory; `size` is D or Q.
    #[inline(always)]
    fn mem(&mut self, size: Size, op: Op, reg: RegField, mem: Mem, imm: Imm) {
        debug_assert!(matches!(size, Size::D | Size::Q));
        self.layout.put_long(plain(size, op, reg, imm).with_mem(mem));
    }
    /// The same of any size.
    #[inline(always)]
    fn mem_sized(&mut self, size: Size, op: Op, reg: RegField, mem: Mem, imm: Imm) {
        let parts = Parts { word: size == Size::W, byte_reg: size == Size::B, ..plain(size, op, reg, imm) };
        self.layout.put_long(parts.with_mem(mem));
    }
    fn locked(&mut self, size: Size, op: Op, reg: RegField, mem: Mem) {
        let parts =
            Parts { lock: true, word: size == Size::W, byte_reg: size == Size::B, ..plain(size, op, reg, Imm::None) };
        self.layout.put_long(parts.with_mem(mem));
    }

    // Moves.

    /// `mov dst, src`; `size` D or Q.
    pub fn mov_rr(&mut self, size: Size, dst: Gpr, src: Gpr) {
        self.reg(size, Op::One(0x89), RegField::Reg(src), dst, Imm::None);
    }
    /// `mov dst32, imm`: the upper half becomes zero.
    pub fn mov_ri32(&mut self, dst: Gpr, imm: u32) {
        self.layout.put_short(Short::register(false, 0xb8, dst).then(Imm::I32(imm as i32)));
    }
    /// `mov dst, imm` sign-extended to 64 bits.
    pub fn mov_ri_sx(&mut self, dst: Gpr, imm: i32) {
        self.reg(Size::Q, Op::One(0xc7), RegField::Ext(0), dst, Imm::I32(imm));
    }
    /// `mov dst, imm64`; returns where the immediate is.
    pub fn mov_ri64(&mut self, dst: Gpr, imm: u64) -> Pos {
        let opcode = self.pos();
        self.layout.put_long(Short::register(true, 0xb8, dst).then_long(imm, 8));
        opcode.plus(2)
    }
    /// `mov dst, [mem]`; `size` D or Q.
    pub fn mov_rm(&mut self, size: Size, dst: Gpr, mem: Mem) {
        self.mem(size, Op::One(0x8b), RegField::Reg(dst), mem, Imm::None);
    }
    /// `mov [mem], src`
    pub fn mov_mr(&mut self, size: Size, mem: Mem, src: Gpr) {
        self.mem_sized(size, sized(0x89, size), RegField::Reg(src), mem, Imm::None);
    }
    /// `mov [mem], imm`, sign-extended at Q, truncated below D.
    pub fn mov_mi(&mut self, size: Size, mem: Mem, imm: i32) {
        self.mem_sized(size, sized(0xc7, size), RegField::Ext(0), mem, full_imm(size, imm));
    }
    /// `movbe dst, [mem]`; `size` D or Q.
    pub fn movbe_rm(&mut self, size: Size, dst: Gpr, mem: Mem) {
        self.mem(size, Op::Three(0xf0), RegField::Reg(dst), mem, Imm::None);
    }
    /// `movzx dst32, src`; `from` B or W.
    pub fn movzx_rr(&mut self, from: Size, dst: Gpr, src: Gpr) {
        self.extend_reg(Size::D, from, false, dst, src);
    }
    /// `movzx dst32, [mem]`; `from` B or W.
    pub fn movzx_rm(&mut self, from: Size, dst: Gpr, mem: Mem) {
        self.extend_mem(Size::D, from, false, dst, mem);
    }
    /// `movsx dst, src`; `to` D or Q, `from` narrower.
    pub fn movsx_rr(&mut self, to: Size, from: Size, dst: Gpr, src: Gpr) {
        self.extend_reg(to, from, true, dst, src);
    }
    /// `movsx dst, [mem]`; `to` D or Q, `from` narrower.
    pub fn movsx_rm(&mut self, to: Size, from: Size, dst: Gpr, mem: Mem) {
        self.extend_mem(to, from, true, dst, mem);
    }
    #[inline(always)]
    fn extend_reg(&mut self, to: Size, from: Size, signed: bool, dst: Gpr, src: Gpr) {
        let parts = plain(to, extend_op(from, signed), RegField::Reg(dst), Imm::None);
        self.layout.put_short(Parts { byte_rm: from == Size::B, ..parts }.with_reg(src));
    }
    #[inline(always)]
    fn extend_mem(&mut self, to: Size, from: Size, signed: bool, dst: Gpr, mem: Mem) {
        self.mem(to, extend_op(from, signed), RegField::Reg(dst), mem, Imm::None);
    }
    /// `lea dst, [mem]`; `size` D or Q.
    pub fn lea(&mut self, size: Size, dst: Gpr, mem: Mem) {
        self.mem(size, Op::One(0x8d), RegField::Reg(dst), mem, Imm::None);
    }
    /// `lea dst, [rip + label]`
    pub fn lea_label(&mut self, dst: Gpr, label: Label) {
        self.put(&[0x48 | u8::from(dst.high()) << 2, 0x8d, 0x05 | dst.low() << 3]);
        self.layout.rel32(label);
    }
    /// `push r`
    pub fn push(&mut self, r: Gpr) {
        self.layout.put_short(Short::register(false, 0x50, r));
    }
    /// `pop r`
    pub fn pop(&mut self, r: Gpr) {
        self.layout.put_short(Short::register(false, 0x58, r));
    }

    // Arithmetic. `size` is D or Q unless said otherwise.

    /// `op dst, src`
    pub fn alu_rr(&mut self, op: Alu, size: Size, dst: Gpr, src: Gpr) {
        self.reg(size, Op::One((op as u8) << 3 | 1), RegField::Reg(src), dst, Imm::None);
    }
    /// `op dst, [mem]`
    pub fn alu_rm(&mut self, op: Alu, size: Size, dst: Gpr, mem: Mem) {
        self.mem(size, Op::One((op as u8) << 3 | 3), RegField::Reg(dst), mem, Imm::None);
    }
    /// `op [mem], imm`; `imm` is sign-extended.
    pub fn alu_mi(&mut self, op: Alu, size: Size, mem: Mem, imm: i32) {
        let (opcode, imm) = alu_imm(imm);
        self.mem(size, opcode, RegField::Ext(op as u8), mem, imm);
    }
    /// `op dst, imm`; `imm` is sign-extended.
    pub fn alu_ri(&mut self, op: Alu, size: Size, dst: Gpr, imm: i32) {
        if dst == Gpr::Rax && i8::try_from(imm).is_err() {
            let opcode = Short::register(size == Size::Q, (op as u8) << 3 | 5, dst);
            self.layout.put_short(opcode.then(Imm::I32(imm)));
        } else {
            let (opcode, imm) = alu_imm(imm);
            self.reg(size, opcode, RegField::Ext(op as u8), dst, imm);
        }
    }
    /// `test a, b`
    pub fn test_rr(&mut self, size: Size, a: Gpr, b: Gpr) {
        self.reg(size, Op::One(0x85), RegField::Reg(b), a, Imm::None);
    }
    /// `test r, imm`; `size` B, D or Q.
    pub fn test_ri(&mut self, size: Size, r: Gpr, imm: i32) {
        if r == Gpr::Rax {
            match size {
                Size::B => self.put(&[0xa8, imm as u8]),
                Size::W => self.put(&[0x66, 0xa9, imm as u8, (imm >> 8) as u8]),
                Size::D => self.put(&[0xa9]),
                Size::Q => self.put(&[0x48, 0xa9]),
            }
            if matches!(size, Size::D | Size::Q) {
                self.put(&imm.to_le_bytes());
            }
        } else {
            self.reg_sized(size, sized(0xf7, size), RegField::Ext(0), r, full_imm(size, imm));
        }
    }
    /// `inc r`
    pub fn inc(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xff), RegField::Ext(0), r, Imm::None);
    }
    /// `dec r`
    pub fn dec(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xff), RegField::Ext(1), r, Imm::None);
    }
    /// `dec [mem]`
    pub fn dec_m(&mut self, size: Size, mem: Mem) {
        self.mem(size, Op::One(0xff), RegField::Ext(1), mem, Imm::None);
    }
    /// `neg r`
    pub fn neg(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xf7), RegField::Ext(3), r, Imm::None);
    }
    /// `mul r`: rdx:rax = rax * r
    pub fn mul(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xf7), RegField::Ext(4), r, Imm::None);
    }
    /// `div r`: rdx:rax by `r`, unsigned; quotient in rax, remainder in rdx.
    pub fn div(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xf7), RegField::Ext(6), r, Imm::None);
    }
    /// `idiv r`: the same, signed.
    pub fn idiv(&mut self, size: Size, r: Gpr) {
        self.reg(size, Op::One(0xf7), RegField::Ext(7), r, Imm::None);
    }
    /// `cdq` or `cqo`: sign of rax into rdx.
    pub fn sign_rax_to_rdx(&mut self, size: Size) {
        if size == Size::Q {
            self.put(&[0x48]);
        }
        self.put(&[0x99]);
    }
    /// `imul dst, src`
    pub fn imul_rr(&mut self, size: Size, dst: Gpr, src: Gpr) {
        self.reg(size, Op::Two(0xaf), RegField::Reg(dst), src, Imm::None);
    }
    /// `imul dst, src, imm`
    pub fn imul_rri(&mut self, size: Size, dst: Gpr, src: Gpr, imm: i32) {
        let (opcode, imm) = match i8::try_from(imm) {
            Ok(imm) => (0x6b, Imm::I8(imm)),
            Err(_) => (0x69, Imm::I32(imm)),
        };
        self.reg(size, Op::One(opcode), RegField::Reg(dst), src, imm);
    }
    /// `op r, imm`; `size` W, D or Q.
    pub fn shift_ri(&mut self, op: Shift, size: Size, r: Gpr, imm: u8) {
        match imm {
            1 => self.reg_sized(size, Op::One(0xd1), RegField::Ext(op as u8), r, Imm::None),
            _ => self.reg_sized(size, Op::One(0xc1), RegField::Ext(op as u8), r, Imm::I8(imm as i8)),
        }
    }
    /// `op r, cl`
    pub fn shift_rcl(&mut self, op: Shift, size: Size, r: Gpr) {
        self.reg_sized(size, Op::One(0xd3), RegField::Ext(op as u8), r, Imm::None);
    }
    /// `shlx/shrx/sarx dst, src, count` (BMI2); `op` is no rotate.
    pub fn shiftx_rrr(&mut self, op: Shift, size: Size, dst: Gpr, src: Gpr, count: Gpr) {
        let pp = match op {
            Shift::Shl => 1,
            Shift::Sar => 2,
            Shift::Shr => 3,
            Shift::Rol | Shift::Ror => {
                debug_assert!(false, "BMI2 has no rotate by register");
                3
            }
        };
        let not = |r: Gpr| u8::from(!r.high());
        self.put(&[
            0xc4,
            not(dst) << 7 | 1 << 6 | not(src) << 5 | 2,
            u8::from(size == Size::Q) << 7 | (!(count as u8) & 15) << 3 | pp,
            0xf7,
            0xc0 | dst.low() << 3 | src.low(),
        ]);
    }
    /// `rorx dst, src, imm` (BMI2)
    pub fn rorx_rri(&mut self, size: Size, dst: Gpr, src: Gpr, imm: u8) {
        let not = |r: Gpr| u8::from(!r.high());
        self.put(&[
            0xc4,
            not(dst) << 7 | 1 << 6 | not(src) << 5 | 3,
            u8::from(size == Size::Q) << 7 | 15 << 3 | 3,
            0xf0,
            0xc0 | dst.low() << 3 | src.low(),
            imm,
        ]);
    }
    /// `bswap r`
    pub fn bswap(&mut self, size: Size, r: Gpr) {
        let rex = u8::from(size == Size::Q) << 3 | u8::from(r.high());
        if rex != 0 {
            self.put(&[0x40 | rex]);
        }
        self.put(&[0x0f, 0xc8 | r.low()]);
    }

    // Atomics.

    /// `lock op [mem], src`
    pub fn lock_alu_mr(&mut self, op: Alu, size: Size, mem: Mem, src: Gpr) {
        self.locked(size, Op::One((op as u8) << 3 | 1), RegField::Reg(src), mem);
    }
    /// `lock inc [mem]`
    pub fn lock_inc_m(&mut self, size: Size, mem: Mem) {
        self.locked(size, sized(0xff, size), RegField::Ext(0), mem);
    }
    /// `lock xadd [mem], src`
    pub fn lock_xadd(&mut self, size: Size, mem: Mem, src: Gpr) {
        self.locked(size, Op::Two(0xc1), RegField::Reg(src), mem);
    }
    /// `lock cmpxchg [mem], src`: compares with rax.
    pub fn lock_cmpxchg(&mut self, size: Size, mem: Mem, src: Gpr) {
        self.locked(size, Op::Two(0xb1), RegField::Reg(src), mem);
    }
    /// `xchg [mem], src` (locks by itself)
    pub fn xchg_mr(&mut self, size: Size, mem: Mem, src: Gpr) {
        self.mem(size, Op::One(0x87), RegField::Reg(src), mem, Imm::None);
    }

    // Control flow.

    /// `jmp label`, as short as possible; nothing where it would lead to the next instruction.
    pub fn jmp(&mut self, label: Label) {
        self.layout.branch(Branch::Jmp, label);
    }
    /// `jcc label`, as short as possible; nothing where it would lead to the next instruction.
    pub fn jcc(&mut self, cc: Cc, label: Label) {
        self.layout.branch(Branch::Jcc(cc), label);
    }
    /// `E9 rel32`, whatever the distance; returns where the E9 is.
    pub fn jmp_rel32(&mut self, label: Label) -> Pos {
        let at = self.pos();
        self.put(&[0xe9]);
        self.layout.rel32(label);
        at
    }
    /// `E9 rel32` to somewhere outside; returns where the E9 is. The field is zero.
    pub fn jmp_outside(&mut self) -> Pos {
        let at = self.pos();
        self.put(&[0xe9, 0, 0, 0, 0]);
        at
    }
    /// `call label`
    pub fn call(&mut self, label: Label) {
        self.put(&[0xe8]);
        self.layout.rel32(label);
    }
    /// `call rel32` to somewhere outside; returns where the field is. It is zero.
    pub fn call_outside(&mut self) -> Pos {
        self.put(&[0xe8]);
        let at = self.pos();
        self.put(&[0; 4]);
        at
    }
    /// `call r`
    pub fn call_r(&mut self, r: Gpr) {
        self.reg(Size::D, Op::One(0xff), RegField::Ext(2), r, Imm::None);
    }
    /// `jmp r`
    pub fn jmp_r(&mut self, r: Gpr) {
        self.reg(Size::D, Op::One(0xff), RegField::Ext(4), r, Imm::None);
    }
    /// `leave`
    pub fn leave(&mut self) {
        self.put(&[0xc9]);
    }
    /// `ret`
    pub fn ret(&mut self) {
        self.put(&[0xc3]);
    }
    /// `int3`
    pub fn int3(&mut self) {
        self.put(&[0xcc]);
    }
    /// `ud2`
    pub fn ud2(&mut self) {
        self.put(&[0x0f, 0x0b]);
    }
    /// `n` bytes of no-operations.
    pub fn nop(&mut self, n: usize) {
        let mut bytes = vec![0; n];
        nop::fill(&mut bytes);
        self.put(&bytes);
    }
}
