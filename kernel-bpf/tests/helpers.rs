//! The rows of livebpf/tests/data/helpers in the kernel that runs here. With `LIVEBPF_BLESS=1` its answers are written down;
//! else they are compared. Where it refuses bpf(2), the test says so and ends.

#[path = "../../livebpf/tests/helper_table/mod.rs"]
mod helper_table;

use helper_table::{Outcome, Row, rows};
use livebpf_kernel_bpf::{Map, Program, probe};

fn answer(row: &Row) -> Result<String, String> {
    let maps: Result<Vec<Map>, _> = row.program.maps.iter().map(|def| Map::create(def)).collect();
    let maps = maps.map_err(|e| e.to_string())?;
    let program = Program::load(&row.program, &maps.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let ran = program.test_run_packet(&row.packet).map_err(|e| e.to_string())?;
    let seen = maps[0].lookup(&[0; 4]).map_err(|e| e.to_string())?;
    Ok(row.answer(&Outcome { seen: &seen, packet: &ran.data_out }))
}

#[test]
fn the_kernel_answers_as_written() {
    if let Err(why) = probe() {
        eprintln!("skipped: no kernel to compare with: {why}");
        return;
    }
    let bless = std::env::var_os("LIVEBPF_BLESS").is_some();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data/helpers");
    let mut wrong = Vec::new();
    for file in std::fs::read_dir(folder).expect("the folder is there") {
        let path = file.expect("an entry").path();
        let mut text = String::new();
        for (comments, row) in rows(&std::fs::read_to_string(&path).expect("a text")) {
            let found = answer(&row).unwrap_or_else(|error| format!("error: {error}"));
            if found != row.answer {
                wrong.push(format!("{}\n  written {}\n  found   {found}", row.question, row.answer));
            }
            text += &format!("{comments}{} = {found}\n", row.question);
        }
        if bless {
            std::fs::write(&path, text).expect("the file can be written");
        }
    }
    assert!(bless || wrong.is_empty(), "{}", wrong.join("\n"));
}
