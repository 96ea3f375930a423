//! What an engine leaves behind at every step, and where two differ.

use std::fmt::Debug;
use std::time::Duration;

use livebpf::runtime::{Engine, Missed};

use super::count;
use super::plan::Plan;

/// Contents of one map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MapState {
    pub name: String,
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Missed tail calls of a program array: by slot, and those past the end.
    pub missed: (Vec<(u32, Missed)>, u64),
}

/// What was seen at one step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Ran {
        /// R0, or why the run failed.
        result: Result<u32, String>,
        packet: Vec<u8>,
        /// Context fields that a kernel gives back as well.
        fields: Vec<(&'static str, u64)>,
        /// The context's record, addresses relative to the buffer.
        record: Vec<u8>,
        /// The packet's buffer with head and tail room.
        buffer: Vec<u8>,
        maps: Vec<MapState>,
    },
    /// The answer to an update; `None` where the suite has no program array.
    Updated(Option<Result<(), String>>),
}

/// All steps of a plan.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub steps: Vec<Seen>,
    /// How long the runs took.
    pub time: Duration,
    /// A run took too long, and was the last step.
    pub long: bool,
}

impl Trace {
    /// No run failed.
    pub(super) fn check_faultless(&self) -> Result<(), String> {
        for (at, seen) in self.steps.iter().enumerate() {
            if let Seen::Ran { result: Err(error), .. } = seen {
                return Err(format!("accepted, but fails at step {at}: {error}"));
            }
        }
        Ok(())
    }

    /// The same as the interpreter's.
    pub(super) fn check_same(&self, wanted: &Trace, engine: Engine, plan: &Plan) -> Result<(), String> {
        if self.steps == wanted.steps {
            return Ok(());
        }
        let place = self.steps.iter().zip(&wanted.steps).position(|(found, wanted)| found != wanted);
        let at = place.unwrap_or(self.steps.len().min(wanted.steps.len()));
        let what = self.steps.get(at).zip(wanted.steps.get(at)).map_or_else(
            || format!("{} steps, interp did {}", self.steps.len(), wanted.steps.len()),
            |(found, wanted)| difference(found, wanted),
        );
        Err(format!("{engine} differs from interp at step {at}: {what}\nplan: {:#?}", plan.steps.get(..=at)))
    }

    /// The maps after the last run.
    pub(super) fn maps(&self) -> &[MapState] {
        let last = self.steps.iter().rev().find_map(|seen| match seen {
            Seen::Ran { maps, .. } => Some(maps.as_slice()),
            Seen::Updated(_) => None,
        });
        last.unwrap_or_default()
    }

    /// Tail calls that were missed, as far as they are counted.
    pub(super) fn missed(&self) -> u64 {
        let slots = |map: &MapState| map.missed.0.iter().map(|(_, slot)| slot.empty + slot.limit).sum::<u64>();
        self.maps().iter().map(|map| slots(map) + map.missed.1).sum()
    }

    /// Programs entered, from outside or by tail calls.
    pub(super) fn bodies(&self) -> u64 {
        let map = self.maps().iter().find(|map| map.name == count::MAP);
        let value = map.and_then(|map| map.entries.first()).map_or(&[][..], |(_, value)| value);
        let words = value.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        words.fold(0, u64::wrapping_add)
    }
}

fn difference(found: &Seen, wanted: &Seen) -> String {
    let (
        Seen::Ran { result, packet, fields, record, buffer, maps },
        Seen::Ran { result: r, packet: p, fields: f, record: c, buffer: b, maps: m },
    ) = (found, wanted)
    else {
        return format!("{found:?}, interp {wanted:?}");
    };
    let parts = [
        part("R0", result, r),
        part("packet", packet, p),
        part("context", fields, f),
        part("context record", record, c),
        (buffer != b).then(|| "bytes around the packet".to_owned()),
        maps.iter().zip(m).find_map(|(found, wanted)| part("map", found, wanted)),
        part("number of maps", &maps.len(), &m.len()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn part<T: PartialEq + Debug>(what: &str, found: &T, wanted: &T) -> Option<String> {
    (found != wanted).then(|| format!("{what} {found:02x?}, interp {wanted:02x?}"))
}
