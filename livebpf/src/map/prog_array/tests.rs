//! Tests of program arrays: errors, contracts, and what is told to `Poke`.

use super::*;
use crate::object::{AttachType, ProgType, ProgramKind};

struct Fake {
    id: u32,
    contract: Contract,
}

impl Member for Fake {
    fn id(&self) -> u32 {
        self.id
    }
    fn contract(&self) -> &Contract {
        &self.contract
    }
    fn tail_entry(&self) -> u64 {
        0x1000 + u64::from(self.id)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Notes what it was told, and that words and members were stored before.
#[derive(Default)]
struct Notes(Vec<Change>);

impl Poke for Notes {
    fn reaches(&self, tail_entry: u64) -> bool {
        tail_entry < 0x2000
    }
    fn poke(&mut self, _array: ArrayKey, changes: &[Change]) {
        self.0.extend_from_slice(changes);
    }
}

const XDP: Contract = Contract { kind: ProgramKind::new(ProgType::XDP), execution: Execution::Native };

fn member(id: u32, contract: Contract) -> Arc<dyn Member> {
    Arc::new(Fake { id, contract })
}

/// Drops displaced members at once: nothing runs in these tests.
fn drop_now(retired: Retired) -> Vec<u32> {
    let ids = retired.ids();
    drop(retired.into_members());
    ids
}

#[test]
fn errors_are_the_kernels_and_change_nothing() {
    let array = ProgArray::new(4).unwrap();
    let mut notes = Notes::default();
    let errno = |result: Result<Retired, MapError>| result.map(drop_now).unwrap_err().errno();
    assert_eq!(errno(array.set(4, member(1, XDP), 1, &mut notes)), libc::EINVAL, "flags come first");
    assert_eq!(errno(array.set(4, member(1, XDP), 0, &mut notes)), libc::E2BIG);
    assert_eq!(errno(array.clear_index(4, &mut notes)), libc::E2BIG);
    assert_eq!(errno(array.clear_index(3, &mut notes)), libc::ENOENT);
    assert_eq!(array.lookup(3).unwrap_err().errno(), libc::ENOENT);
    assert_eq!(array.lookup(4).unwrap_err().errno(), libc::ENOENT);
    assert_eq!(array.owner(), None, "a refused insert does not own the array");
    assert!(notes.0.is_empty() && array.entries().is_empty());
}

#[test]
fn a_program_of_another_runtime_is_refused() {
    let array = ProgArray::new(1).unwrap();
    let mut notes = Notes::default();
    let error = array.set(0, member(0x1000, XDP), 0, &mut notes).map(drop_now).unwrap_err();
    assert_eq!((error.errno(), array.owner()), (libc::EINVAL, None));
    assert!(error.to_string().contains("another runtime"), "{error}");
    // Nothing jumps to an interpreted one.
    let interpreted = Contract { execution: Execution::Interpreted, ..XDP };
    assert!(drop_now(array.set(0, member(0x1000, interpreted), 0, &mut notes).unwrap()).is_empty());
}

#[test]
fn words_members_and_changes_agree() {
    let array = ProgArray::new(4).unwrap();
    let mut notes = Notes::default();
    assert!(drop_now(array.set(2, member(7, XDP), 0, &mut notes).unwrap()).is_empty());
    assert_eq!((array.word(2), array.lookup(2).unwrap(), array.word(3), array.word(4)), (0x1007, 7, 0, 0));
    assert_eq!(drop_now(array.set(2, member(8, XDP), 0, &mut notes).unwrap()), [7]);
    assert_eq!(array.entries(), [(2, 8)]);
    assert_eq!(drop_now(array.clear_index(2, &mut notes).unwrap()), [8]);
    assert_eq!((array.word(2), array.get(2).is_none()), (0, true));
    let (p, q) = (Some(0x1007), Some(0x1008));
    let told = [(None, p), (p, q), (q, None)].map(|(old, new)| Change { index: 2, old, new });
    assert_eq!(notes.0, told);
}

#[test]
fn the_first_contract_stays() {
    let array = ProgArray::new(2).unwrap();
    let mut notes = Notes::default();
    drop_now(array.set(0, member(1, XDP), 0, &mut notes).unwrap());
    drop_now(array.clear_index(0, &mut notes).unwrap());
    let other = |change: fn(&mut Contract)| {
        let mut contract = XDP;
        change(&mut contract);
        contract
    };
    for (contract, what) in [
        (other(|c| c.kind.prog_type = ProgType::SCHED_CLS), "type is \"sched_cls\""),
        (other(|c| c.kind.attach_type = AttachType(37)), "expected attach type is 37"),
        (other(|c| c.kind.xdp_frags = true), "multi-buffer"),
        (other(|c| c.kind.sleepable = true), "sleep"),
        (other(|c| c.execution = Execution::Interpreted), "Interpreted"),
    ] {
        let error = array.set(0, member(2, contract), 0, &mut notes).map(drop_now).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(array.check_owner(&contract).unwrap_err(), error);
        assert_eq!(array.adopt_owner(&contract).unwrap_err(), error);
    }
    assert_eq!((array.check_owner(&XDP), array.owner()), (Ok(()), Some(&XDP)));
}

#[test]
fn a_loading_program_can_be_the_owner() {
    let array = ProgArray::new(1).unwrap();
    assert_eq!((array.check_owner(&XDP), array.owner()), (Ok(()), None));
    array.adopt_owner(&XDP).unwrap();
    let interpreted = Contract { execution: Execution::Interpreted, ..XDP };
    assert!(array.set(0, member(1, interpreted), 0, &mut Notes::default()).map(drop_now).is_err());
}

#[test]
fn the_last_user_handle_clears_everything_at_once() {
    let array = ProgArray::new(8).unwrap();
    let mut notes = Notes::default();
    array.acquire_user();
    array.acquire_user();
    let programs: Vec<_> = (0..3).map(|id| member(id, XDP)).collect();
    for program in &programs {
        drop_now(array.set(2 * program.id(), program.clone(), 0, &mut notes).unwrap());
    }
    assert!(!array.release_user());
    assert!(drop_now(array.clear_unused(&mut notes)).is_empty());
    assert!(array.release_user());
    notes.0.clear();
    assert_eq!(drop_now(array.clear_unused(&mut notes)), [0, 1, 2]);
    assert_eq!(notes.0.iter().map(|c| (c.index, c.new)).collect::<Vec<_>>(), [(0, None), (2, None), (4, None)]);
    assert!(programs.iter().all(|program| Arc::strong_count(program) == 1));
}

#[test]
fn what_is_not_retired_is_leaked_not_freed() {
    let array = ProgArray::new(1).unwrap();
    let program = member(1, XDP);
    drop_now(array.set(0, program.clone(), 0, &mut Notes::default()).unwrap());
    drop(array.clear_index(0, &mut Notes::default()).unwrap());
    assert_eq!(Arc::strong_count(&program), 2);
}

#[test]
fn generated_code_finds_the_header() {
    let array = ProgArray::new(5).unwrap();
    let table = array.current();
    assert_eq!((Table::SLOTS_OFFSET, Table::MAX_ENTRIES_OFFSET), (0, 8));
    let header = table.header();
    assert_eq!(header, (table.words_addr(), 5, 3));
}

#[test]
fn each_generation_keeps_its_table() {
    let array = ProgArray::new(2).unwrap();
    let mut notes = Notes::default();
    drop_now(array.set(0, member(1, XDP), 0, &mut notes).unwrap());
    let next = array.next_table(3).unwrap();
    next.fill(1, member(2, XDP), 0x1002);
    array.publish(next);
    drop_now(array.set(0, member(3, XDP), 0, &mut notes).unwrap());
    let ids = |generation| array.table(generation).occupied().iter().map(|(i, m)| (*i, m.id())).collect::<Vec<_>>();
    assert_eq!((ids(0), ids(2)), (vec![(0, 1)], vec![(0, 1)]), "single changes reach the youngest only");
    assert_eq!((ids(3), ids(9), array.entries()), (vec![(0, 3), (1, 2)], vec![(0, 3), (1, 2)], vec![(0, 3), (1, 2)]));
    assert_eq!((array.word(0), array.table(2).word(0)), (0x1003, 0x1001));
    assert!(array.forget_before(2).is_empty(), "generation 2 uses the first");
    assert_eq!(array.forget_before(3).iter().map(|table| table.since()).collect::<Vec<_>>(), [0]);
    assert_eq!(ids(0), ids(3), "what is forgotten nobody asks for");
}
