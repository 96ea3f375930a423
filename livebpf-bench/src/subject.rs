//! The programs of the user's object files, and the rows there are of them.

use std::path::PathBuf;
use std::sync::Arc;

use livebpf::link::{self, Program as Linked};
use livebpf::object::{MapDef, MapType, Object};
use livebpf_kernel_bpf::cpu;

use crate::error::Error;
use crate::row::Row;
use crate::{load, object_sizes};

/// A program of the user's.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `OBJECT/PROGRAM`: the file's name without its ending, and the entry function's.
    pub(crate) name: String,
    /// Linked, or why it cannot be.
    pub(crate) program: Result<Linked, String>,
}

impl Subject {
    /// All programs of object files, whether or not they can be linked. Of several files, one that is no object counts as one program
    /// that cannot: it does not stand in the way of the others.
    ///
    /// # Errors
    /// [`Error::Object`] for a file that cannot be read, and for the only one when it is no object or has no program.
    pub fn all_of(paths: &[PathBuf]) -> Result<Vec<Subject>, Error> {
        let mut all = Vec::new();
        for path in paths {
            let refused = |why: String| Error::Object { path: path.clone(), why };
            let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            match Subject::of_object(&stem, &bytes) {
                Ok(subjects) => all.extend(subjects),
                Err(why) if paths.len() == 1 => return Err(refused(why)),
                Err(why) => all.push(Subject { name: stem, program: Err(why) }),
            }
        }
        Ok(all)
    }

    fn of_object(stem: &str, bytes: &[u8]) -> Result<Vec<Subject>, String> {
        let object = Object::parse(bytes).map_err(|error| error.to_string())?;
        let subject = |name: &str| Subject { name: format!("{stem}/{name}"), program: linked(&object, name) };
        let subjects: Vec<Subject> = object.programs().map(|info| subject(&info.name)).collect();
        if subjects.is_empty() { Err("found no program, wanted at least one".to_owned()) } else { Ok(subjects) }
    }
}

fn linked(object: &Object, name: &str) -> Result<Linked, String> {
    let mut program = link::link(object, name).map_err(|error| error.to_string())?;
    program.maps.iter_mut().for_each(fit_length);
    Ok(program)
}

/// Gives a map the length that loaders give it where the object leaves that open.
fn fit_length(def: &mut Arc<MapDef>) {
    const PAGE: u32 = 4096;
    let wanted = match (def.map_type, def.max_entries) {
        (MapType::PERF_EVENT_ARRAY, 0) => cpu::allowed().len() as u32,
        (MapType::RINGBUF, n @ 1..=0x8000_0000) => n.next_power_of_two().max(PAGE),
        (_, n) => n,
    };
    if wanted != def.max_entries {
        Arc::make_mut(def).max_entries = wanted;
    }
}

/// All rows of `subjects`, in the order of reports.
pub fn rows(subjects: &[Subject]) -> Vec<Row> {
    let mut rows: Vec<Row> =
        subjects.iter().filter(|s| s.program.is_ok()).flat_map(|s| load::of_subject(&s.name)).collect();
    rows.extend(object_sizes::rows(subjects));
    rows
}
