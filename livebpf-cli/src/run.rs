//! `prog run`: one program on one packet, as often as wanted.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use livebpf::context::{Context, ContextError, FieldKind, describe};
use livebpf::object::ProgType;
use livebpf::runtime::Program;
use serde_json::json;

use crate::bytes;
use crate::error::CliError;
use crate::output::Answer;
use crate::session::Session;
use crate::words::Words;

/// Runs in one read-side section: few enough that updates are not held up.
const BATCH: u32 = 256;

/// What the command says behind the program.
#[derive(Default)]
struct Request<'a> {
    data_in: Option<&'a str>,
    data_out: Option<&'a str>,
    ctx_in: Option<&'a str>,
    ctx_out: Option<&'a str>,
    repeat: u32,
}

impl<'a> Request<'a> {
    fn take(words: &mut Words<'a>) -> Result<Request<'a>, CliError> {
        let mut request = Request { repeat: 1, ..Request::default() };
        const WANTED: &str = "`data_in`, `data_out`, `ctx_in`, `ctx_out` or `repeat`";
        while words.peek().is_some() {
            match words.take(WANTED)? {
                "data_in" => request.data_in = Some(words.take("a file to read the packet from")?),
                "data_out" => request.data_out = Some(words.take("a file to write the packet to")?),
                "ctx_in" => request.ctx_in = Some(words.take("a file to read the context from")?),
                "ctx_out" => request.ctx_out = Some(words.take("a file to write the context to")?),
                "repeat" => {
                    let times = words.number("how often to run")?;
                    let too_many =
                        |_| CliError::usage(format!("found {times} where at most {} runs are wanted", u32::MAX));
                    request.repeat = u32::try_from(times).map_err(too_many)?.max(1);
                }
                other => return Err(CliError::usage(format!("found {other:?} where {WANTED} is wanted"))),
            }
        }
        if request.data_in == Some("-") && request.ctx_in == Some("-") {
            return Err(CliError::usage("only one of data_in and ctx_in can be standard input"));
        }
        Ok(request)
    }
}

/// Carries out the words behind `prog run`.
pub fn execute(session: &mut Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let program = session.take_program_or_filter(words)?;
    let request = Request::take(words)?;
    let mut ctx = context(&program, &request)?;
    let (retval, took) = repeat(session, &program, &mut ctx, request.repeat)?;
    answer(&program, &request, &ctx, retval, took)
}

/// What the program works on.
fn context(program: &Program, request: &Request<'_>) -> Result<Context, CliError> {
    let kind = program.prog_type();
    let located = |path: &str, e: ContextError| CliError::refused(format!("{path}: {e}"));
    if !Context::takes_packet(kind) {
        let arguments = request.ctx_in.map_or(Ok(Vec::new()), read)?;
        let made = Context::for_type(kind, &arguments);
        let mut ctx = made.map_err(|e| located(request.ctx_in.unwrap_or("ctx_in"), e))?;
        if let Some(path) = request.data_in {
            ctx.set_data(&read(path)?).map_err(|e| match e {
                ContextError::NoPacket(_) => {
                    CliError::refused(format!("programs of type {kind} take no packet: give their arguments by ctx_in"))
                }
                e => located(path, e),
            })?;
        }
        return Ok(ctx);
    }
    let path = request.data_in.ok_or_else(|| CliError::usage("the command ends where `data_in FILE` is wanted"))?;
    let packet = read(path)?;
    // Classic filters are made for packet sockets, and count from the Ethernet header.
    let classic = program.linked().section == "cbpf";
    let ctx = if classic { Context::packet_socket(&packet) } else { Context::for_type(kind, &packet) };
    let mut ctx = ctx.map_err(|e| located(path, e))?;
    match request.ctx_in {
        Some(path) if kind == ProgType::FLOW_DISSECTOR => set_flow_flags(&mut ctx, path, &read(path)?)?,
        Some(path) => set_fields(program, &mut ctx, path, &read(path)?)?,
        None => {}
    }
    Ok(ctx)
}

/// Sets the flags of a flow dissector's keys: as in the kernel, nothing else of `struct bpf_flow_keys` may be given.
fn set_flow_flags(ctx: &mut Context, path: &str, bytes: &[u8]) -> Result<(), CliError> {
    const FLAGS: std::ops::Range<usize> = 48..52;
    let other = (0..bytes.len()).find(|at| bytes[*at] != 0 && !FLAGS.contains(at));
    if let Some(at) = other {
        let text =
            format!("{path}: found {} at byte {at}, wanted only flags (bytes 48 to 51) of bpf_flow_keys", bytes[at]);
        return Err(CliError::refused(text));
    }
    let flags = bytes.iter().skip(FLAGS.start).take(4).rev().fold(0, |v, b| v << 8 | u64::from(*b));
    ctx.set("flags", flags).map_err(|e| CliError::refused(format!("{path}: {e}")))
}

/// Sets the fields of the context that the bytes of its UAPI struct give a value other than zero.
fn set_fields(program: &Program, ctx: &mut Context, path: &str, bytes: &[u8]) -> Result<(), CliError> {
    let Some(desc) = describe(program.prog_type()) else { return Ok(()) };
    let located = |e: String| CliError::refused(format!("{path}: {e}"));
    let size = desc.context.size as usize;
    if bytes.len() > size {
        let text = format!("found {} bytes, wanted at most {size} for struct {}", bytes.len(), desc.context.name);
        return Err(located(text));
    }
    for field in desc.context.fields {
        let element = if field.name == "cb" { 4 } else { field.size };
        for n in 0..field.size.checked_div(element).unwrap_or(0) {
            let at = (field.offset + n * element) as usize;
            let value = bytes.iter().skip(at).take(element as usize).rev().fold(0, |v, b| v << 8 | u64::from(*b));
            // The kernel takes the lengths that say what is so anyway.
            let implied = matches!(field.kind, FieldKind::PacketEnd) && ctx.get(field.name) == Some(value);
            if value != 0 && !implied {
                let name = if field.name == "cb" { format!("cb[{n}]") } else { field.name.to_owned() };
                ctx.set(&name, value).map_err(|e| located(e.to_string()))?;
            }
        }
    }
    Ok(())
}

/// The bytes of the context's UAPI struct after the run.
fn fields(program: &Program, ctx: &Context) -> Vec<u8> {
    let kind = program.prog_type();
    let own = Context::takes_packet(kind) && kind != ProgType::FLOW_DISSECTOR;
    let Some(desc) = describe(kind).filter(|_| own) else { return ctx.packet() };
    let mut bytes = vec![0; desc.context.size as usize];
    for field in desc.context.fields {
        let element = if field.name == "cb" { 4 } else { field.size };
        for n in 0..field.size.checked_div(element).unwrap_or(0) {
            let name = if field.name == "cb" { format!("cb[{n}]") } else { field.name.to_owned() };
            let at = (field.offset + n * element) as usize;
            let value = ctx.get(&name).unwrap_or(0).to_le_bytes();
            if let Some(place) = bytes.get_mut(at..at + element as usize) {
                place.iter_mut().zip(value).for_each(|(to, from)| *to = from);
            }
        }
    }
    bytes
}

/// Runs `times` times on the same packet, as `BPF_PROG_TEST_RUN` does; answers the last verdict and the time per run.
fn repeat(
    session: &mut Session,
    program: &Program,
    ctx: &mut Context,
    times: u32,
) -> Result<(u32, Duration), CliError> {
    let worker = session.worker()?;
    let (mut retval, mut left) = (0, times);
    let start = Instant::now();
    while left > 0 {
        let mut pinned = worker.pin()?;
        for _ in 0..left.min(BATCH) {
            retval = pinned.run(program, ctx)?;
        }
        left -= left.min(BATCH);
    }
    Ok((retval, start.elapsed() / times))
}

fn answer(
    program: &Program,
    request: &Request<'_>,
    ctx: &Context,
    retval: u32,
    took: Duration,
) -> Result<Answer, CliError> {
    let (mut json, mut text) = (json!({}), String::new());
    let mut put = |key: &str, path: &str, bytes: &[u8]| -> Result<(), CliError> {
        if path != "-" {
            return std::fs::write(path, bytes).map_err(|e| CliError::io(path, &e));
        }
        json[key] = bytes::to_json(bytes);
        text += &format!("{key}:\n{}", bytes::dump(bytes));
        Ok(())
    };
    if Context::takes_packet(program.prog_type()) {
        put("data_out", request.data_out.unwrap_or("-"), &ctx.packet())?;
    } else if request.data_in.is_some() {
        put("data_out", request.data_out.unwrap_or("-"), &ctx.data())?;
    }
    if let Some(path) = request.ctx_out.or(request.ctx_in.map(|_| "-")) {
        put("ctx_out", path, &fields(program, ctx))?;
    }
    let duration = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    json["retval"] = json!(retval);
    json["duration"] = json!(duration);
    let name = verdict(program.prog_type(), retval).map_or(String::new(), |name| format!(" ({name})"));
    text += &format!("Return value: {retval}{name}, duration (average): {duration}ns\n");
    Ok(Answer::new(json, text))
}

/// The UAPI name of a verdict, where the program type has names for them.
fn verdict(prog_type: ProgType, retval: u32) -> Option<&'static str> {
    const XDP: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
    XDP.get(retval as usize).copied().filter(|_| prog_type == ProgType::XDP)
}

/// A file's bytes; `-` is standard input.
pub fn read(path: &str) -> Result<Vec<u8>, CliError> {
    if path != "-" {
        return std::fs::read(path).map_err(|e| CliError::io(path, &e));
    }
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(CliError::usage("only one file can be standard input, which was read to its end"));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| CliError::io("standard input", &e))?;
    Ok(bytes)
}
