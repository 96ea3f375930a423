//! A program in the kernel, loaded from a linked program of ours.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use livebpf::insn::{Imm64, Insn, Insns};
use livebpf::link;
use livebpf::object::ProgramKind;

use crate::btf::ProgramBtf;
use crate::{Error, Map, sys};

/// Bytes for the verifier's log; a longer one makes the kernel refuse, so it is asked for only after a refusal.
const LOG: usize = 1 << 20;
/// How often a load that a signal ended is tried again.
const ATTEMPTS: u32 = 16;
/// Room behind a packet for what a program, or a chain of them, adds to it: a test run's packets are no longer than a page.
const GROWTH: usize = 4096;

/// A program in the kernel; it goes with this and with the last slot that holds it.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    name: String,
}

/// What BPF_PROG_TEST_RUN answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRun {
    /// The last run's R0.
    pub retval: u32,
    /// A run's time by the kernel's own clock: the average, rounded down to nanoseconds.
    pub duration: Duration,
    /// The packet after the last run, where it was asked for.
    pub data_out: Vec<u8>,
    /// The context structure after the last run, where it was asked for.
    pub ctx_out: Vec<u8>,
}

impl Program {
    /// Loads `program`, with type information for its functions where it has several; its maps, in the order of
    /// [`link::Program::maps`], are `maps`.
    ///
    /// # Errors
    /// [`Error::MissingMap`]; [`Error::Program`] with the verifier's log.
    pub fn load(program: &link::Program, maps: &[&Map]) -> Result<Program, Error> {
        Loadable::new(program, maps)?.load()
    }

    /// Its file descriptor's number, as slots name it.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Instructions that the kernel's verifier processed when it was loaded.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn verified_insns(&self) -> Result<u32, Error> {
        Ok(self.info()?.verified_insns)
    }

    /// Bytes of its machine code; 0 where the kernel does not say.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn jited_len(&self) -> Result<u32, Error> {
        Ok(self.info()?.jited_len)
    }

    fn info(&self) -> Result<sys::ProgInfo, Error> {
        let refused = |source| Error::Refused { what: format!("BPF_OBJ_GET_INFO_BY_FD of {}", self.name), source };
        sys::prog_info(self.fd.as_fd()).map_err(refused)
    }

    /// Runs it `repeat` times (0 counts as 1) on the packet `data`, without asking for the packet afterwards.
    ///
    /// # Errors
    /// [`Error::Refused`]: EINVAL for a packet shorter than an Ethernet header, EINTR for a signal, ENOTSUPP for a type without test run.
    pub fn test_run(&self, data: &[u8], repeat: u32) -> Result<TestRun, Error> {
        self.run(data, 0, &[], repeat)
    }

    /// Runs it once on the packet `data`, and answers the packet as it is then.
    ///
    /// # Errors
    /// As [`test_run`](Self::test_run).
    pub fn test_run_packet(&self, data: &[u8]) -> Result<TestRun, Error> {
        self.run(data, data.len() + GROWTH, &[], 1)
    }

    /// Runs it once on the packet `data` in the context `ctx`, a UAPI structure; answers both as they are then.
    ///
    /// # Errors
    /// As [`test_run`](Self::test_run), and EINVAL for a structure with fields that a test run does not take.
    pub fn test_run_context(&self, data: &[u8], ctx: &[u8]) -> Result<TestRun, Error> {
        self.run(data, data.len() + GROWTH, ctx, 1)
    }

    fn run(&self, data: &[u8], room: usize, ctx: &[u8], repeat: u32) -> Result<TestRun, Error> {
        let (mut data_out, mut ctx_out) = (vec![0; room], vec![0; ctx.len()]);
        let test = sys::Test { data, data_out: &mut data_out, ctx, ctx_out: &mut ctx_out, repeat };
        let ran = sys::prog_test_run(self.fd.as_fd(), test)
            .map_err(|source| Error::Refused { what: format!("BPF_PROG_TEST_RUN of {}", self.name), source })?;
        data_out.truncate(ran.data_out as usize);
        ctx_out.truncate(ran.ctx_out as usize);
        Ok(TestRun { retval: ran.retval, duration: Duration::from_nanos(ran.duration.into()), data_out, ctx_out })
    }
}

/// A program with all that BPF_PROG_LOAD wants, to be loaded any number of times while its maps are there.
#[derive(Debug)]
pub struct Loadable {
    name: String,
    kind: ProgramKind,
    insns: Vec<u8>,
    license: String,
    types: Option<(OwnedFd, ProgramBtf)>,
}

impl Loadable {
    /// See [`Program::load`].
    ///
    /// # Errors
    /// [`Error::MissingMap`]; [`Error::Refused`] for type information.
    pub fn new(program: &link::Program, maps: &[&Map]) -> Result<Loadable, Error> {
        let fds: Vec<RawFd> = maps.iter().map(|map| map.raw_fd()).collect();
        let name = program.name.clone();
        let refused = |source| Error::Refused { what: format!("BPF_BTF_LOAD for {name}"), source };
        let load = |types: ProgramBtf| Ok((sys::btf_load(&types.btf).map_err(refused)?, types));
        Ok(Loadable {
            kind: program.kind,
            insns: with_fds(program, &fds)?.encode(),
            license: program.license.clone(),
            types: ProgramBtf::of(program).map(load).transpose()?,
            name,
        })
    }

    /// BPF_PROG_LOAD.
    ///
    /// # Errors
    /// [`Error::Program`] with the verifier's log.
    pub fn load(&self) -> Result<Program, Error> {
        let Loadable { name, kind, insns, license, types } = self;
        let funcs = types.as_ref().map(|(btf, types)| (btf.as_fd(), types.funcs.as_slice()));
        let load = |log| sys::prog_load(&sys::Load { name, kind: *kind, insns, license, funcs }, log);
        let name = name.clone();
        // A signal that comes while the kernel verifies ends that, with EAGAIN.
        let mut loaded = load(None);
        for _ in 0..ATTEMPTS {
            match &loaded {
                Err(again) if again.raw_os_error() == Some(libc::EAGAIN) => loaded = load(None),
                _ => break,
            }
        }
        match loaded {
            Ok(fd) => Ok(Program { fd, name }),
            Err(source) => {
                let mut log = vec![0; LOG];
                // The errno of the first attempt counts: the second may fail for its log.
                let _ = load(Some(&mut log));
                let text = log.split(|b| *b == 0).next().unwrap_or_default();
                Err(Error::Program { name, source, log: String::from_utf8_lossy(text).into_owned() })
            }
        }
    }
}

/// The program's instructions with file descriptors where linked programs have indexes of maps.
fn with_fds(program: &link::Program, fds: &[RawFd]) -> Result<Insns, Error> {
    let fd = |index: i32| {
        let found = usize::try_from(index).ok().and_then(|i| fds.get(i)).copied();
        found.ok_or_else(|| Error::MissingMap { name: program.name.clone(), index, given: fds.len() })
    };
    let mut insns = program.insns.clone();
    for (pc, insn) in program.insns.iter() {
        let Insn::LoadImm64 { dst, value } = insn else { continue };
        let value = match value {
            Imm64::MapIdx(index) => Imm64::MapFd(fd(index)?),
            Imm64::MapIdxValue { idx, off } => Imm64::MapFdValue { fd: fd(idx)?, off },
            Imm64::Const(_) | Imm64::MapFd(_) | Imm64::MapFdValue { .. } | Imm64::BtfId { .. } | Imm64::Func { .. } => {
                continue;
            }
        };
        insns.replace(pc, Insn::LoadImm64 { dst, value });
    }
    Ok(insns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::insn::text;
    use livebpf::object::ProgType;

    fn linked(source: &str) -> link::Program {
        let insns = text::assemble(source).expect("a program");
        link::Program::bare("p", ProgramKind::new(ProgType::SCHED_CLS), insns)
    }

    #[test]
    fn maps_become_file_descriptors() {
        let program = linked("r1 = 5 ll\nr2 = map[idx:1]\nr3 = map[idx:0][0]+8\nr0 = 0\nexit");
        let with_fds = with_fds(&program, &[7, 9]).expect("both maps are there");
        let found: Vec<String> = with_fds.iter().map(|(_, insn)| insn.to_string()).collect();
        assert_eq!(found, ["r1 = 0x5 ll", "r2 = map[fd:9]", "r3 = map[fd:7][0]+8", "r0 = 0", "exit"]);
    }

    #[test]
    fn a_map_that_is_not_given_is_an_error() {
        let program = linked("r2 = map[idx:2]\nr0 = 0\nexit");
        let message = with_fds(&program, &[7, 9]).expect_err("only two maps").to_string();
        assert_eq!(message, "program p refers to map 2 of 2");
    }
}
