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

/// The programs of an object that the verifier refuses, and why.
pub fn refused(path: &Path, custom: &BTreeMap<u32, CustomHelper>) -> BTreeMap<String, String> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let object = Object::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let helpers = helpers(custom);
    let verdict = |name: &str| {
        let program = link(&object, name).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        verify(program, &Options::new(&helpers)).err().map(|rejection| rejection.to_string())
    };
    object.programs().filter_map(|info| Some((info.name.clone(), verdict(&info.name)?))).collect()
}

/// Verifies every program of an object; what is wrong: programs refused that should not be, and the reverse.
pub fn wrong_decisions(scenario: &Scenario, path: &Path) -> Vec<String> {
    let mut refused = refused(path, &scenario.helpers);
    let mut wrong = Vec::new();
    for step in &scenario.steps {
        let Step::Refuse { program, message } = step else { continue };
        match refused.remove(program) {
            Some(why) if why.contains(message) => {}
            found => wrong.push(format!("{} {program}: {found:?} instead of {message}", path.display())),
        }
    }
    wrong.extend(refused.iter().map(|(program, why)| format!("{} {program}: {why}", path.display())));
    wrong
}
