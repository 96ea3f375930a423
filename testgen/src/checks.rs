//! What must hold for any input. Fuzz targets and tests call these; they panic when it does not hold.

use livebpf::insn::{DecodeError, Insns, text};

/// Bytes are refused with an error that names a slot among them, or decode to instructions that encode to the same
/// bytes and whose listing is read back as the same instructions.
pub fn wire(bytes: &[u8]) {
    match Insns::decode(bytes) {
        Ok(insns) => {
            assert_eq!(insns.encode(), bytes, "decoding lost something");
            let listing = insns.to_string();
            assert_eq!(text::assemble(&listing).as_ref(), Ok(&insns), "{listing}");
            for (_, insn) in insns.iter() {
                assert_eq!(text::parse(&insn.to_string()), Ok(insn), "{insn}");
            }
        }
        Err(error) => check_place(&error, bytes.len()),
    }
}

fn check_place(error: &DecodeError, len: usize) {
    let pc = error.pc().expect("no input of this size is too long");
    assert!(pc.index() <= len / 8, "{error}: there are {len} bytes");
}

/// Text is refused with an error that names a line of it, or is read as instructions whose listing is read back as
/// the same instructions and which survive encoding.
pub fn listing(source: &str) {
    match text::assemble(source) {
        Ok(insns) => {
            assert_eq!(text::assemble(&insns.to_string()).as_ref(), Ok(&insns), "{source}");
            assert_eq!(Insns::decode(&insns.encode()).as_ref(), Ok(&insns), "{source}");
        }
        Err(error) => {
            let lines = source.lines().count().max(1);
            assert!((1..=lines as u32).contains(&error.line), "{error}: there are {lines} lines");
            assert!(error.column >= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Generator, Shape, Source, mutate};

    #[test]
    fn wire_and_text_hold_on_generated_and_damaged_programs() {
        for seed in 0..300 {
            let program = Generator::new(seed).program(&Shape::sched_cls());
            let mut bytes = program.insns.encode();
            super::wire(&bytes);
            let mut source = Source::seeded(seed);
            mutate::bytes(&mut source, &mut bytes);
            super::wire(&bytes);
            let mut listing = program.insns.to_string().into_bytes();
            mutate::bytes(&mut source, &mut listing);
            super::listing(&String::from_utf8_lossy(&listing));
        }
    }
}
