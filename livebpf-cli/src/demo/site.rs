//! The machine code of one direct tail call, before and after updates of its slot.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use livebpf::observe::{self, Lead};
use livebpf::runtime::Error;
use serde_json::{Value, json};

use super::chain::{Chain, STAGES, Version};
use crate::bytes;

/// The slot whose site is shown, and the program that the site is in.
const STAGE: usize = 0;
const CALLER: &str = "parse";

/// The site at one moment.
pub struct Snapshot {
    pub title: String,
    pub lines: Vec<Line>,
}

/// One instruction.
#[derive(Clone)]
pub struct Line {
    pub address: u64,
    pub bytes: Vec<u8>,
    pub text: String,
    /// What it is for, when it is one of the two jumps.
    pub note: String,
    /// Its bytes differ from those of the snapshot before.
    pub changed: bool,
}

/// Replaces, deletes and inserts the first stage, and answers what its site in the entry program looked like each time.
/// Nothing where the engine has no sites. The stage is back when this returns.
pub fn snapshots(chain: &Chain) -> Result<Vec<Snapshot>, Error> {
    let (stage, mut shown) = (STAGES[STAGE], Vec::new());
    let mut show = |title: String| -> Result<(), Error> {
        if let Some(lines) = lines(chain)? {
            shown.push(compared(Snapshot { title, lines }, shown.last()));
        }
        Ok(())
    };
    show(format!("{stage} in its slot"))?;
    chain.put(STAGE, Version::Second)?;
    show(format!("{stage} replaced by {stage}_v2"))?;
    chain.take(STAGE)?;
    // The target is closed off when no run can be on the way to it any more.
    chain.runtime.barrier()?;
    show(format!("{stage}_v2 deleted"))?;
    chain.put(STAGE, Version::First)?;
    show(format!("{stage} inserted"))?;
    Ok(shown)
}

/// Marks the lines whose bytes changed.
fn compared(mut snapshot: Snapshot, before: Option<&Snapshot>) -> Snapshot {
    if let Some(before) = before {
        for (line, old) in snapshot.lines.iter_mut().zip(&before.lines) {
            line.changed = line.bytes != old.bytes;
        }
    }
    snapshot
}

fn lines(chain: &Chain) -> Result<Option<Vec<Line>>, Error> {
    let Some(listing) = observe::listing(chain.program(CALLER)?) else { return Ok(None) };
    let Some(site) = listing.sites.iter().find(|s| s.map == "stages" && s.index == STAGE as u32) else {
        return Ok(None);
    };
    let start = listing.lines.iter().map(|(at, _)| *at).filter(|at| *at <= site.bypass).max().unwrap_or(site.bypass);
    let end = site.target as usize + 5;
    let code = listing.bytes.get(start as usize..end).unwrap_or_default();
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    let decoder = Decoder::with_ip(64, code, listing.base + u64::from(start), DecoderOptions::NONE);
    let state = if site.open { "open: on to the target" } else { "closed: past the target" };
    let note = |at: u32| match at {
        at if at == site.bypass => format!("bypass, {state}"),
        at if at == site.target => format!("target: {}", lead(&site.lead)),
        _ => String::new(),
    };
    let line = |instruction: Instruction| {
        let (address, mut text) = (instruction.ip(), String::new());
        formatter.format(&instruction, &mut text);
        let at = (address - listing.base) as u32;
        let bytes = listing.bytes.get(at as usize..at as usize + instruction.len()).unwrap_or_default().to_vec();
        Line { address, bytes, text, note: note(at), changed: false }
    };
    Ok(Some(decoder.into_iter().map(line).collect()))
}

fn lead(lead: &Lead) -> String {
    match lead {
        Lead::Poison => "the poison stub".to_owned(),
        Lead::Program { name, .. } => name.clone(),
        Lead::Replaced(address) => format!("{address:#x}, a program that is no longer there"),
    }
}

/// The snapshots for people: the whole site once, afterwards what changed.
pub fn text(snapshots: &[Snapshot]) -> String {
    let mut text =
        format!("The machine code of {CALLER}'s tail call through stages[{STAGE}], as the processor sees it\n");
    for (number, snapshot) in snapshots.iter().enumerate() {
        let _ = writeln!(text, "  {}:", snapshot.title);
        for line in snapshot.lines.iter().filter(|line| number == 0 || line.changed || !line.note.is_empty()) {
            let mark = if line.changed { '*' } else { ' ' };
            let note = if line.note.is_empty() { String::new() } else { format!("; {}", line.note) };
            let bytes = bytes::to_text(&line.bytes);
            let listed = format!("  {mark} {:x}  {bytes:<21} {:<24} {note}", line.address, line.text);
            let _ = writeln!(text, "{}", listed.trim_end());
        }
    }
    text
}

/// The snapshots as data.
pub fn json(snapshots: &[Snapshot]) -> Value {
    let line = |line: &Line| {
        json!({
            "address": format!("{:#x}", line.address), "bytes": bytes::to_text(&line.bytes), "text": line.text,
            "note": line.note, "changed": line.changed,
        })
    };
    let snapshot = |s: &Snapshot| json!({ "title": s.title, "lines": s.lines.iter().map(line).collect::<Vec<_>>() });
    json!({ "program": CALLER, "map": "stages", "index": STAGE, "snapshots": snapshots.iter().map(snapshot).collect::<Vec<_>>() })
}
