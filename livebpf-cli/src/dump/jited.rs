//! The machine code that the processor executes at this moment, with names for what it refers to.
//!
//! Offsets count from the start of each function, as in bpftool. The two jumps of a direct tail call are marked with
//! their state, which is read from the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter as _, Instruction, IntelFormatter, SymbolResolver, SymbolResult};
use livebpf::observe::{self, Function, Lead, Listing, Site};
use livebpf::runtime::Program;
use serde_json::{Value, json};

use super::{Options, add_source, source_text};
use crate::bytes;
use crate::error::CliError;
use crate::output::Answer;

/// The listing in both forms.
pub fn dump(program: &Program, options: Options) -> Result<Answer, CliError> {
    let listing = observe::listing(program).ok_or_else(|| {
        let name = program.name();
        CliError::refused(format!("program {name} is interpreted: it has no machine code (use --engine jit or slot)"))
    })?;
    let (mut json, mut text) = (Vec::new(), String::new());
    let names = names(&listing);
    for function in &listing.functions {
        let (functions_json, function_text) = dump_function(program, &listing, &names, function, options);
        json.push(json!({ "name": function.name, "insns": functions_json }));
        text += &function_text;
    }
    Ok(Answer::new(Value::Array(json), text))
}

/// Addresses that branches lead to, by name.
type Names = HashMap<u64, String>;

/// Names of what the code's branches lead to.
fn names(listing: &Listing) -> Names {
    let mut names: Names =
        listing.functions.iter().map(|f| (listing.base + u64::from(f.start), f.name.clone())).collect();
    for (at, symbol) in &listing.symbols {
        if let Some(address) = near_target(listing, *at) {
            names.insert(address, symbol.clone());
        }
    }
    for site in &listing.sites {
        if let Some(address) = near_target(listing, site.target + 1) {
            names.insert(address, lead(&site.lead));
        }
    }
    names
}

/// Where the rel32 at offset `field` leads, when the field belongs to a call or a jump.
fn near_target(listing: &Listing, field: u32) -> Option<u64> {
    let at = field as usize;
    let is_branch = matches!(listing.bytes.get(at.checked_sub(1)?)?, 0xe8 | 0xe9);
    let rel = listing.bytes.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes)?;
    is_branch.then(|| (listing.base + u64::from(field) + 4).wrapping_add_signed(rel.into()))
}

fn lead(lead: &Lead) -> String {
    match lead {
        Lead::Poison => "poison stub".to_owned(),
        Lead::Program { id, name } => format!("{name} (program {id})"),
        Lead::Replaced(address) => format!("{address:#x} (a program that was replaced)"),
    }
}

/// One function's part of the walk.
struct Walk<'a> {
    program: &'a Program,
    listing: &'a Listing,
    function: &'a Function,
    options: Options,
    formatter: IntelFormatter,
    source: BTreeMap<u32, usize>,
}

/// Turns branch targets into names.
struct Resolver {
    names: Names,
    function: (u64, u64),
}

impl SymbolResolver for Resolver {
    fn symbol(
        &mut self,
        instruction: &Instruction,
        _operand: u32,
        _instruction_operand: Option<u32>,
        address: u64,
        _address_size: u32,
    ) -> Option<SymbolResult<'_>> {
        let branch = instruction.is_call_near()
            || instruction.is_jmp_near()
            || instruction.is_jcc_short_or_near()
            || instruction.is_jmp_short();
        if !branch {
            return None;
        }
        if let Some(name) = self.names.get(&address) {
            return Some(SymbolResult::with_string(address, name.clone()));
        }
        let (start, end) = self.function;
        (start..end).contains(&address).then(|| SymbolResult::with_string(address, format!("{:#x}", address - start)))
    }
}

fn dump_function(
    program: &Program,
    listing: &Listing,
    names: &Names,
    function: &Function,
    options: Options,
) -> (Value, String) {
    let (start, end) = (listing.base + u64::from(function.start), listing.base + u64::from(function.end));
    let resolver = Resolver { names: names.clone(), function: (start, end) };
    let mut formatter = IntelFormatter::with_options(Some(Box::new(resolver)), None);
    let format = formatter.options_mut();
    format.set_hex_prefix("0x");
    format.set_hex_suffix("");
    format.set_small_hex_numbers_in_decimal(false);
    format.set_branch_leading_zeros(false);
    format.set_show_branch_size(false);
    format.set_uppercase_hex(false);
    format.set_space_after_operand_separator(true);
    let source = listing.lines.iter().enumerate().map(|(n, (at, _))| (*at, n)).collect();
    let mut walk = Walk { program, listing, function, options, formatter, source };
    let (mut json, mut text) = (Vec::new(), format!("{}:\n", function.name));
    let code = listing.bytes.get(function.start as usize..function.end as usize).unwrap_or_default();
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let (object, line) = walk.one(&instruction);
        json.push(object);
        text += &line;
    }
    text.push('\n');
    (Value::Array(json), text)
}

impl Walk<'_> {
    /// One instruction in both forms, with its source line in front.
    fn one(&mut self, instruction: &Instruction) -> (Value, String) {
        let at = (instruction.ip() - self.listing.base) as u32;
        let end = at + instruction.len() as u32;
        let code = self.listing.bytes.get(at as usize..end as usize).unwrap_or_default();
        let mut asm = String::new();
        self.formatter.format(instruction, &mut asm);
        let (operation, operands) = asm.split_once(' ').unwrap_or((&asm, ""));
        let operands: Vec<&str> = operands.split(", ").filter(|o| !o.is_empty()).collect();
        let pc = at - self.function.start;
        let mut object = json!({ "pc": format!("{pc:#x}"), "operation": operation, "operands": operands });
        let mut text = String::new();
        let linked = self.program.linked();
        let bpf = self.source.get(&at).map(|n| self.listing.lines[*n].1);
        if let Some(line) = bpf.and_then(|pc| linked.line_at(pc).filter(|l| l.pc == pc)) {
            text += &source_text(line, self.options);
            add_source(&mut object, line, self.options);
        }
        let _ = write!(text, "{pc:>4x}:\t{asm}");
        if let Some(note) = self.note(at, end) {
            let _ = write!(text, "{:pad$}; {}", "", note.text, pad = 40usize.saturating_sub(asm.len()).max(1));
            if let Some(site) = note.site {
                object["tail_call"] = site;
            } else {
                object["comment"] = json!(note.text);
            }
        }
        text.push('\n');
        if self.options.opcodes {
            let _ = writeln!(text, "\t{}", bytes::to_text(code));
            object["opcodes"] = bytes::to_json(code);
        }
        (object, text)
    }

    /// What there is to say about the instruction at [`at`, `end`).
    fn note(&self, at: u32, end: u32) -> Option<Note> {
        if let Some(note) = self.listing.sites.iter().find_map(|site| Note::of_site(site, at)) {
            return Some(note);
        }
        let symbol = self.listing.symbols.iter().find(|(field, _)| (at..end).contains(field));
        if let Some((_, symbol)) = symbol.filter(|(field, _)| near_target(self.listing, *field).is_none()) {
            return Some(Note { text: symbol.clone(), site: None });
        }
        let mark = |text: &str| Some(Note { text: text.to_owned(), site: None });
        match at {
            at if at == self.listing.tail_entry => mark("tail entry"),
            _ => None,
        }
    }
}

/// A remark behind an instruction.
struct Note {
    text: String,
    /// For the jumps of a direct tail call: the same as data.
    site: Option<Value>,
}

impl Note {
    fn of_site(site: &Site, at: u32) -> Option<Note> {
        let slot = format!("tail call {}[{}]", site.map, site.index);
        let state = if site.open { "open" } else { "closed" };
        let json = |jump: &str| json!({ "map": site.map, "index": site.index, "jump": jump, "state": state });
        if at == site.bypass {
            return Some(Note { text: format!("{slot}: bypass ({state})"), site: Some(json("bypass")) });
        }
        if at != site.target {
            return None;
        }
        let mut json = json("target");
        match &site.lead {
            Lead::Poison => json["leads_to"] = json!("poison"),
            Lead::Program { id, name } => {
                json["leads_to"] = json!(name);
                json["program_id"] = json!(id);
            }
            Lead::Replaced(_) => json["leads_to"] = json!("replaced"),
        }
        let unreached = if site.open { "" } else { ", not reached" };
        Some(Note { text: format!("{slot}: target{unreached}"), site: Some(json) })
    }
}
