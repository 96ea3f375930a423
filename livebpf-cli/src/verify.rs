//! `prog verify`: every program of an object on its own, accepted or refused, with the reasons or the figures.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use livebpf::helper::Table;
use livebpf::link::{self, LineInfo, Program};
use livebpf::object::{Object, ProgType, ProgramKind};
use livebpf::verify::{self, Facts, Log, Options, Place, Rejection, Trust};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{self, Answer};
use crate::words::Words;

/// Bytes of a trace that are kept; a million instructions make about a quarter of it.
const MAX_LOG: usize = 1 << 30;
/// Programs that take longer than this are announced.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the words say.
struct Request {
    programs: Vec<String>,
    log: bool,
    trust: Trust,
    prog_type: Option<ProgType>,
}

impl Request {
    fn take(words: &mut Words<'_>) -> Result<Request, CliError> {
        let mut request = Request { programs: Vec::new(), log: false, trust: Trust::Trusted, prog_type: None };
        while let Some(word) = words.peek() {
            words.take("a program")?;
            match word {
                "--log" => request.log = true,
                "--untrusted" => request.trust = Trust::Untrusted,
                "--type" => {
                    let word = words.take("a program type")?;
                    request.prog_type = Some(crate::prog::program_type(word)?);
                }
                option if option.starts_with('-') => {
                    let message =
                        format!("found {option:?} where `--log`, `--untrusted`, `--type` or a program is wanted");
                    return Err(CliError::usage(message));
                }
                name => request.programs.push(name.to_owned()),
            }
        }
        Ok(request)
    }
}

/// Lines of a trace, as many as fit.
#[derive(Default)]
struct Lines {
    lines: RefCell<Vec<String>>,
    bytes: Cell<usize>,
}

impl Log for Lines {
    fn line(&self, line: &str) {
        let before = self.bytes.replace(self.bytes.get() + line.len() + 1);
        if self.bytes.get() <= MAX_LOG {
            self.lines.borrow_mut().push(line.to_owned());
        } else if before <= MAX_LOG {
            self.lines.borrow_mut().push(format!("(the rest is left out: more than {} MiB)", MAX_LOG >> 20));
        }
    }
}

/// `prog verify OBJ [PROG]... [--log] [--untrusted] [--type TYPE]`
pub fn execute(words: &mut Words<'_>) -> Result<Answer, CliError> {
    let path = words.take("an object file")?;
    let request = Request::take(words)?;
    let bytes = std::fs::read(Path::new(path)).map_err(|e| CliError::io(path, &e))?;
    let object = Object::parse(&bytes).map_err(|e| CliError::refused(format!("{path}: {e}")))?;
    let all: Vec<String> = object.programs().map(|p| p.name.to_string()).collect();
    if let Some(unknown) = request.programs.iter().find(|name| !all.contains(name)) {
        let known = if all.is_empty() { "there is none".to_owned() } else { format!("there is {}", all.join(", ")) };
        return Err(CliError::refused(format!("{path}: no program is named {unknown:?}; {known}")));
    }
    let names: Vec<&String> =
        all.iter().filter(|name| request.programs.is_empty() || request.programs.contains(name)).collect();
    if names.is_empty() {
        return Err(CliError::refused(format!("{path}: the object has no program")));
    }
    let (mut answers, mut text, mut rejected) = (Vec::new(), String::new(), 0);
    for (i, name) in names.iter().enumerate() {
        let started = Instant::now();
        let (json, shown) = one(&object, name, &request);
        if started.elapsed() > PATIENCE {
            output::note(&format!("{name}: {:.1} s ({} of {})", started.elapsed().as_secs_f64(), i + 1, names.len()));
        }
        rejected += usize::from(json["verdict"] == "reject");
        answers.push(json);
        text += &shown;
    }
    if names.len() > 1 {
        let _ = writeln!(text, "{} accepted, {rejected} rejected", names.len() - rejected);
    }
    Ok(Answer { status: u8::from(rejected > 0), ..Answer::new(Value::Array(answers), text) })
}

/// One program, in both forms.
fn one(object: &Object, name: &str, request: &Request) -> (Value, String) {
    let mut program = match link::link(object, name) {
        Ok(program) => program,
        Err(error) => {
            let message = error.to_string();
            let json = json!({
                "name": name, "verdict": "reject", "rule": "unsupported", "message": message,
            });
            return (json, format!("{name}: rejected\n  program {name}: {message}\n  rule: unsupported\n"));
        }
    };
    if let Some(prog_type) = request.prog_type {
        program.kind = ProgramKind::new(prog_type);
    }
    let (helpers, lines) = (Table::builtin(), Lines::default());
    let log = request.log.then_some(&lines as &dyn Log);
    let options = Options { trust: request.trust, log, ..Options::new(&helpers) };
    let prog_type = program.kind.prog_type.to_string();
    let result = verify::verify(program.clone(), &options);
    let lines = lines.lines.into_inner();
    let mut text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
    let mut json = json!({ "name": name, "type": prog_type });
    match &result {
        Ok(verified) => {
            json["verdict"] = json!("accept");
            accepted(&program, verified.facts(), &mut json, &mut text);
        }
        Err(rejection) => {
            json["verdict"] = json!("reject");
            refused(rejection, &mut json);
            let _ = writeln!(text, "{name}: rejected\n  {}", rejection.to_string().replace('\n', "\n  "));
        }
    }
    if request.log {
        json["log"] = json!(lines);
    }
    (json, text)
}

fn accepted(program: &Program, facts: &Facts, json: &mut Value, text: &mut String) {
    json["processed"] = json!(facts.processed);
    json["max_states_per_insn"] = json!(facts.max_states_per_insn);
    json["total_states"] = json!(facts.total_states);
    json["peak_states"] = json!(facts.peak_states);
    let functions = || program.subprogs.iter().zip(&facts.funcs);
    json["stack_depth"] =
        functions().map(|(sub, func)| json!({ "function": sub.name, "bytes": func.stack_depth })).collect();
    let _ = writeln!(
        text,
        "{}: accepted\n  processed {} insns, peak states {}, total states {}",
        program.name, facts.processed, facts.peak_states, facts.total_states
    );
    let depths: Vec<String> = functions().map(|(sub, func)| format!("{} {}", sub.name, func.stack_depth)).collect();
    let _ = writeln!(text, "  stack depth {}", depths.join(", "));
}

fn refused(rejection: &Rejection, json: &mut Value) {
    json["rule"] = json!(rejection.rule.name());
    json["message"] = json!(rejection.message);
    json["function"] = json!(rejection.function);
    json["insn"] = json!(rejection.pc.0);
    if let Some(insn) = rejection.insn {
        json["disasm"] = json!(insn.to_string());
    }
    source(json, rejection.line.as_ref());
    let registers = rejection.registers.iter().map(|(reg, value)| (format!("R{}", reg.number()), json!(value)));
    json["registers"] = Value::Object(registers.collect());
    let place = |place: &Place| {
        let mut json = json!({ "insn": place.pc.0, "disasm": place.insn.map(|insn| insn.to_string()) });
        source(&mut json, place.line.as_ref());
        json
    };
    let origins = rejection.origins.iter();
    let origins = origins.map(|o| (format!("R{}", o.reg.number()), o.made.iter().map(place).collect::<Value>()));
    json["origins"] = Value::Object(origins.collect());
    let decision = |step: &verify::Decision| {
        let mut json = json!({ "insn": step.pc.0, "taken": step.taken });
        source(&mut json, step.line.as_ref());
        json
    };
    json["path"] = rejection.path.iter().map(decision).collect();
    json["path_omitted"] = json!(rejection.path_omitted);
    json["help"] = json!(rejection.suggestion);
}

/// A source line, by the names that `prog dump xlated linum` has.
fn source(json: &mut Value, line: Option<&LineInfo>) {
    if let Some(line) = line {
        json["src"] = json!(line.text.trim());
        json["file"] = json!(&*line.file);
        json["line_num"] = json!(line.line);
        json["line_col"] = json!(line.column);
    }
}
