//! What is done with a suite: which programs run on which packets, and which slots change in between. Chosen before
//! anything runs, so that all engines do the same.

use livebpf::object::{MapType, ProgType};

use crate::bench::CPUS;
use crate::{Source, Suite};

const ETH_HLEN: usize = 14;
const ROUNDS: u32 = 3;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Run a program.
    Run { program: String, cpu: u32, input: Input },
    /// Put a program into a slot.
    Set { index: u32, program: String },
    /// Empty a slot.
    Clear { index: u32 },
}

/// What a run works on.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub prog_type: ProgType,
    pub packet: Vec<u8>,
    /// Context fields that are set before the run.
    pub fields: Vec<(&'static str, u64)>,
}

/// The steps in order.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    /// The same in what a kernel can do: this thread stays on CPU 0, and a test run takes no queue. Socket buffers always get
    /// a field, because the kernel is always given a context, to give it back.
    pub(super) fn for_kernel(mut self) -> Plan {
        for step in &mut self.steps {
            if let Step::Run { cpu, input, .. } = step {
                *cpu = 0;
                input.fields.retain(|(field, _)| *field != "rx_queue_index");
                if input.prog_type != ProgType::XDP && input.fields.is_empty() {
                    input.fields.push(("mark", 0));
                }
            }
        }
        self
    }

    /// Every program runs in every round; between rounds some slots change, at times to one outside the array.
    pub(super) fn choose(source: &mut Source<'_>, suite: &Suite) -> Plan {
        let slots = suite.maps.iter().find(|map| map.map_type == MapType::PROG_ARRAY).map(|map| map.max_entries);
        let names: Vec<&str> = suite.programs.iter().map(|program| &*program.name).collect();
        let mut steps = Vec::new();
        for round in 0..ROUNDS {
            for program in &suite.programs {
                let input = Input::choose(source, program.kind.prog_type);
                steps.push(Step::Run { program: program.name.clone(), cpu: source.below(CPUS), input });
                if source.chance(1, 4) {
                    steps.extend(slots.map(|slots| update(source, slots, &names)));
                }
            }
            if round + 1 < ROUNDS {
                let updates = source.between(1, 3);
                steps.extend((0..updates).filter_map(|_| slots.map(|slots| update(source, slots, &names))));
            }
        }
        Plan { steps }
    }

    pub(super) fn runs(&self) -> u64 {
        self.steps.iter().filter(|step| matches!(step, Step::Run { .. })).count() as u64
    }

    pub(super) fn updates(&self) -> u64 {
        self.steps.len() as u64 - self.runs()
    }
}

fn update(source: &mut Source<'_>, slots: u32, names: &[&str]) -> Step {
    let outside = source.chance(1, 16);
    let index = source.below(slots + u32::from(outside));
    match source.chance(1, 3) {
        true => Step::Clear { index },
        false => Step::Set { index, program: source.pick(names).to_owned() },
    }
}

impl Input {
    fn choose(source: &mut Source<'_>, prog_type: ProgType) -> Input {
        let len: usize = source.pick(&[64, 14, 15, 33, 90, 22, 54, 300]);
        let mut packet: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| source.u64().to_le_bytes()).collect();
        packet.truncate(len);
        // A context refuses frames of a protocol whose header they are too short for: others are of a type for local
        // experiments.
        let protocol: u16 = if len >= ETH_HLEN + 40 { source.pick(&[0x88b5, 0x0800, 0x86dd]) } else { 0x88b5 };
        packet[ETH_HLEN - 2..ETH_HLEN].copy_from_slice(&protocol.to_be_bytes());
        let mut fields = Vec::new();
        if prog_type == ProgType::XDP {
            if source.chance(1, 4) && len >= ETH_HLEN + 8 {
                fields.push(("data", source.pick(&[8, 4])));
            }
            fields.push(("rx_queue_index", u64::from(source.below(3))));
        } else if source.chance(1, 2) {
            fields.push(("mark", u64::from(source.u32())));
            fields.push(("cb[1]", u64::from(source.u32())));
        }
        Input { prog_type, packet, fields }
    }
}
