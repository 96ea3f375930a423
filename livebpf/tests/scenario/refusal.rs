//! Verification of a scenario's programs, without running them.

use std::collections::BTreeMap;
use std::path::Path;

use livebpf::helper::{Arg, Proto, Ret, Table};
use livebpf::link::link;
use livebpf::object::Object;
use livebpf::verify::{Options, verify};

use super::format::{CustomHelper, Scenario, Step};

/// The built-in helpers and a scenario's own.
pub fn helpers(custom: &BTreeMap<u32, CustomHelper>) -> Table {
    let mut table = Table::builtin();
    for (id, helper) in custom {
        table.insert(Proto {
            id: *id,
            name: helper.name.clone(),
            args: vec![Arg::Ctx],
            ret: Ret::Integer,
            changes_packet: false,
            packet_memory: false,
            gpl_only: false,
        });
    }
    table
}

/// Verifies every program of an object; what is wrong: programs refused that should not be, and the reverse.
pub fn wrong_decisions(scenario: &Scenario, path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let object = Object::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let helpers = helpers(&scenario.helpers);
    let mut wrong = Vec::new();
    for info in object.programs() {
        let wanted = scenario.steps.iter().find_map(|step| match step {
            Step::Refuse { program, message } if *program == info.name => Some(message.as_str()),
            _ => None,
        });
        let program = link(&object, &info.name).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match (verify(program, &Options::new(&helpers)), wanted) {
            (Ok(_), None) => {}
            (Err(rejection), Some(message)) if rejection.to_string().contains(message) => {}
            (Err(rejection), _) => wrong.push(format!("{} {}: {rejection}", path.display(), info.name)),
            (Ok(_), Some(message)) => {
                wrong.push(format!("{} {}: accepted, not refused for {message}", path.display(), info.name))
            }
        }
    }
    wrong
}
