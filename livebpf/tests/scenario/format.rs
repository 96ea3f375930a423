//! Reads the scenarios of tests/data/scenarios; the README there describes the format. What it does not know it refuses, so
//! that no expectation is skipped in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// T1, A4, ...
    pub name: String,
    /// The object, and further builds of it.
    pub objects: Vec<PathBuf>,
    /// The packet of every run.
    pub packet: Vec<u8>,
    /// Custom helpers: number → the program that the helper runs on its caller's context.
    pub helpers: BTreeMap<u32, CustomHelper>,
    /// Programs are loaded through the unsafe door.
    pub unverified: bool,
    /// What to do and what to expect, in order.
    pub steps: Vec<Step>,
}

/// A helper that runs a program.
#[derive(Clone, Debug)]
pub struct CustomHelper {
    /// Its name.
    pub name: String,
    /// The program it runs.
    pub runs: String,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Put a program into a slot.
    Set { array: String, index: u32, program: String, error: Option<String> },
    /// Empty a slot.
    Clear { array: String, index: u32, error: Option<String> },
    /// Run a program.
    Run { program: String, retval: u32, times: u32, threads: u32 },
    /// Run every program whose name begins with `prefix`.
    RunEach { prefix: String, programs: usize, retval: u32 },
    /// A global variable has this value.
    Var { name: String, value: u64 },
    /// A global variable holds no user-space address.
    NotAddress { name: String },
    /// Write a global variable.
    SetVar { name: String, value: u64 },
    /// So many tail calls through a slot were missed since the object was loaded: because it was empty, and by the limit.
    Missed { array: String, index: u32, empty: u64, limit: u64 },
    /// So many tail calls through an array were missed because their index is past the end.
    MissedOutside { array: String, value: u64 },
    /// The verifier refuses the program and says this.
    Refuse { program: String, message: String },
}

/// The folder of the scenarios.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenarios")
}

/// All scenarios, by name.
pub fn read_all() -> Vec<Scenario> {
    let mut found: Vec<Scenario> = std::fs::read_dir(folder())
        .expect("the folder of the scenarios")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn read(path: &Path) -> Result<Scenario, String> {
    let content = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(&content).map_err(|error| error.to_string())?;
    let mut fields = Fields::of(value)?;
    fields.text("about")?;
    fields.ignore(&["kernel", "selftest"]);
    let mut objects = vec![folder().join(fields.text("object")?)];
    for also in fields.take("also").map_or(Ok(Vec::new()), list)? {
        objects.push(folder().join(also.as_str().ok_or("`also` is no list of names")?));
    }
    let scenario = Scenario {
        name: fields.text("name")?,
        objects,
        packet: packet(fields.take("data"))?,
        helpers: helpers(fields.take("helpers"))?,
        unverified: fields.take("unverified").is_some_and(|value| value == Value::Bool(true)),
        steps: list(fields.take("steps").ok_or("no steps")?)?
            .into_iter()
            .map(|value| step(value.clone()).map_err(|error| format!("{value}: {error}")))
            .collect::<Result<_, _>>()?,
    };
    fields.end()?;
    Ok(scenario)
}

fn packet(data: Option<Value>) -> Result<Vec<u8>, String> {
    let Some(data) = data else { return Ok(vec![0; 64]) };
    let mut fields = Fields::of(data)?;
    let bytes = match fields.take("zero") {
        Some(length) => vec![0; length.as_u64().ok_or("`zero` is no length")? as usize],
        None => hex(&fields.text("hex")?)?,
    };
    fields.end()?;
    Ok(bytes)
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let bytes = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
        if pair.len() != 2 {
            return Err("an odd number of digits".to_owned());
        }
        u8::from_str_radix(pair, 16).map_err(|error| error.to_string())
    });
    bytes.collect()
}

fn helpers(value: Option<Value>) -> Result<BTreeMap<u32, CustomHelper>, String> {
    let mut found = BTreeMap::new();
    let Some(value) = value else { return Ok(found) };
    for (number, helper) in value.as_object().ok_or("`helpers` is no object")? {
        let mut fields = Fields::of(helper.clone())?;
        let helper = CustomHelper { name: fields.text("name")?, runs: fields.text("runs")? };
        fields.end()?;
        found.insert(number.parse().map_err(|_| format!("{number}: no helper number"))?, helper);
    }
    Ok(found)
}

fn step(value: Value) -> Result<Step, String> {
    let mut fields = Fields::of(value)?;
    let error = fields.take("error").map(text).transpose()?;
    let step = if let Some(place) = fields.take("set") {
        let (array, index, rest) = slot(place)?;
        let program = rest.into_iter().next().ok_or("no program")?;
        Step::Set { array, index, program: text(program)?, error: error.clone() }
    } else if let Some(place) = fields.take("clear") {
        let (array, index, _) = slot(place)?;
        Step::Clear { array, index, error: error.clone() }
    } else if let Some(program) = fields.take("run") {
        let times = fields.take("times").map_or(Ok(1), |value| number(&value))? as u32;
        let threads = fields.take("threads").map_or(Ok(1), |value| number(&value))? as u32;
        Step::Run { program: text(program)?, retval: fields.number("retval")? as u32, times, threads }
    } else if let Some(pattern) = fields.take("run_each") {
        let prefix = text(pattern)?.strip_suffix('*').ok_or("the pattern does not end with *")?.to_owned();
        Step::RunEach { prefix, programs: fields.number("programs")? as usize, retval: fields.number("retval")? as u32 }
    } else if let Some(name) = fields.take("var") {
        match fields.take("not_address") {
            Some(_) => Step::NotAddress { name: text(name)? },
            None => Step::Var { name: text(name)?, value: fields.number("value")? },
        }
    } else if let Some(name) = fields.take("setvar") {
        Step::SetVar { name: text(name)?, value: fields.number("value")? }
    } else if let Some(place) = fields.take("missed") {
        let (array, index, _) = slot(place)?;
        Step::Missed { array, index, empty: fields.number("empty")?, limit: fields.number("limit")? }
    } else if let Some(array) = fields.take("missed_outside") {
        Step::MissedOutside { array: text(array)?, value: fields.number("value")? }
    } else if let Some(program) = fields.take("refuse") {
        fields.ignore(&["kernel_message"]);
        Step::Refuse { program: text(program)?, message: fields.text("message")? }
    } else {
        return Err("no such step".to_owned());
    };
    if error.is_some() && !matches!(step, Step::Set { .. } | Step::Clear { .. }) {
        return Err("this step takes no `error`".to_owned());
    }
    fields.end()?;
    Ok(step)
}

fn slot(value: Value) -> Result<(String, u32, Vec<Value>), String> {
    let mut parts = list(value)?.into_iter();
    let array = text(parts.next().ok_or("no array")?)?;
    let index = number(&parts.next().ok_or("no index")?)?;
    Ok((array, u32::try_from(index).map_err(|_| "the index has more than 32 bits")?, parts.collect()))
}

fn text(value: Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no text"))
}

fn number(value: &Value) -> Result<u64, String> {
    value.as_u64().ok_or_else(|| format!("{value} is no number"))
}

fn list(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(format!("{other} is no list")),
    }
}

/// The fields of a JSON object, taken one by one; what is left at the end is an error.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(value: Value) -> Result<Fields, String> {
        match value {
            Value::Object(fields) => Ok(Fields(fields)),
            other => Err(format!("{other} is no object")),
        }
    }
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }
    fn text(&mut self, name: &str) -> Result<String, String> {
        text(self.take(name).ok_or_else(|| format!("no `{name}`"))?)
    }
    fn number(&mut self, name: &str) -> Result<u64, String> {
        number(&self.take(name).ok_or_else(|| format!("no `{name}`"))?)
    }
    fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }
    fn end(self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown field `{name}`")),
        }
    }
}
