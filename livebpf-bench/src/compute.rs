//! `xorshift`, `lcg`, `divmod`: one round of a loop; `fletcher32_1500`, `csum16_1500`, `csum32_1500`, `fnv1a_1500`: a whole sum over 1500
//! bytes of a packet. All are the C functions of `bpf/compute.h`, as whoever is measured compiles them. Taken off is a run of nothing.

use crate::contestant::Contestant;
use crate::objects::{self, COMPUTE, COMPUTE_PLAIN};
use crate::row::Wanted;
use crate::work::{Item, Task, Work};

const LENGTH: usize = 1500;
const ROUNDS: u32 = 10_000;

/// A computation: the row, its function in C (`do_NAME`), figures in a run, and the same here, to know the answer.
struct Computation {
    row: &'static str,
    name: &'static str,
    per: u32,
    /// What is wanted beside native code.
    wanted: Option<f64>,
    answer: fn(&[u8]) -> u32,
}

const COMPUTATIONS: [Computation; 7] = [
    Computation { row: "xorshift", name: "xorshift", per: ROUNDS, wanted: Some(1.02), answer: xorshift },
    Computation { row: "lcg", name: "lcg", per: ROUNDS, wanted: None, answer: lcg },
    Computation { row: "divmod", name: "divmod", per: ROUNDS, wanted: None, answer: divmod },
    Computation { row: "fletcher32_1500", name: "fletcher32", per: 1, wanted: Some(1.02), answer: fletcher32 },
    Computation { row: "csum16_1500", name: "csum16", per: 1, wanted: None, answer: csum },
    Computation { row: "csum32_1500", name: "csum32", per: 1, wanted: None, answer: csum },
    Computation { row: "fnv1a_1500", name: "fnv1a", per: 1, wanted: None, answer: fnv1a },
];

pub fn items() -> Vec<Item> {
    let item = |Computation { row, name, per, wanted, answer }| {
        let task = move || {
            let packet = packet();
            let work = Work::of(objects::program(COMPUTE, name), answer(&packet)).native(name);
            let plain = Some(objects::program(COMPUTE_PLAIN, name));
            Task::over_empty(Work { packet, plain, ..work }, per)
        };
        let wanted = wanted.map(|factor| Wanted::Of(Contestant::Native, factor));
        Item::new(row, wanted.into_iter().collect(), task)
    };
    COMPUTATIONS.map(item).into()
}

/// Bytes without a pattern that matters, and of no protocol that a kernel would look into.
fn packet() -> Vec<u8> {
    (0..LENGTH).map(|n| (n * 7 + 3) as u8).collect()
}

fn first(packet: &[u8]) -> u64 {
    packet.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn folded(value: u64) -> u32 {
    (value ^ value >> 32) as u32
}

fn xorshift(packet: &[u8]) -> u32 {
    let step = |x: u64| {
        let x = x ^ x << 13;
        let x = x ^ x >> 7;
        x ^ x << 17
    };
    folded((0..ROUNDS).fold(first(packet), |x, _| step(x)))
}

fn lcg(packet: &[u8]) -> u32 {
    let step = |x: u64| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    folded((0..ROUNDS).fold(first(packet), |x, _| step(x)))
}

fn divmod(packet: &[u8]) -> u32 {
    let x = first(packet);
    folded((1..=u64::from(ROUNDS)).fold(0, |sum: u64, i| sum.wrapping_add(x / i).wrapping_add(x % i)))
}

fn halves(packet: &[u8]) -> impl Iterator<Item = u32> {
    packet.chunks_exact(2).map(|two| u32::from(two[0]) | u32::from(two[1]) << 8)
}

fn fletcher32(packet: &[u8]) -> u32 {
    let step = |(low, high): (u32, u32), half| {
        let low = (low + half) % 65535;
        (low, (high + low) % 65535)
    };
    let (low, high) = halves(packet).fold((0, 0), step);
    high << 16 | low
}

/// However it is computed.
fn csum(packet: &[u8]) -> u32 {
    let mut sum: u32 = halves(packet).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn fnv1a(packet: &[u8]) -> u32 {
    packet.iter().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}
