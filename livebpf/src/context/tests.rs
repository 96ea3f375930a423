//! Contexts against what `BPF_PROG_TEST_RUN` of Linux 6.18 gave for the same packets.

use super::*;
use crate::object::ProgType;

/// Ethernet (foreign address), IPv4 10.0.0.1 to 10.0.0.2, TCP: 54 bytes.
fn tcp() -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0x28];
    packet.extend([0, 1, 0, 0, 0x40, 6, 0x66, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x30, 0x39, 0, 0x50, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0x47, 0x6f, 0, 0]);
    packet
}

/// A destination address, an EtherType and a payload.
fn frame(to: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = to.to_vec();
    packet.extend([2, 0, 0, 0, 0, 1]);
    packet.extend(ether_type.to_be_bytes());
    packet.extend(payload);
    packet
}

fn get(context: &Context, fields: &[&str]) -> Vec<u64> {
    fields.iter().map(|field| context.get(field).unwrap_or_else(|| panic!("no field {field}"))).collect()
}

#[test]
fn socket_buffers_start_as_the_kernel_starts_them() {
    let fields =
        ["len", "pkt_type", "mark", "queue_mapping", "protocol", "vlan_present", "priority", "ingress_ifindex"];
    let more =
        ["ifindex", "tc_index", "cb[0]", "cb[4]", "hash", "napi_id", "gso_segs", "gso_size", "wire_len", "tstamp"];
    let tc = Context::skb(ProgType::SCHED_CLS, &tcp()).unwrap();
    assert_eq!(get(&tc, &fields), [54, 3, 0, 0, 8, 0, 0, 0]);
    assert_eq!(get(&tc, &more), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let cgroup = Context::skb(ProgType::CGROUP_SKB, &tcp()).unwrap();
    assert_eq!(get(&cgroup, &fields), [40, 3, 0, 0, 8, 0, 0, 0]);
    let addresses = ["family", "remote_ip4", "local_ip4", "remote_ip6[0]", "remote_port", "local_port"];
    assert_eq!(get(&cgroup, &addresses), [2, 0x0200_000a, 0x0100_000a, 0, 0, 0]);
    assert_eq!(tc.get("sk"), None);
    assert_eq!(tc.get("cb[5]"), None);
}

#[test]
fn protocol_and_packet_type_come_from_the_ethernet_header() {
    let of = |to, ether_type, payload: &[u8]| {
        let context = Context::skb(ProgType::SCHED_CLS, &frame(to, ether_type, payload)).unwrap();
        (context.get("pkt_type").unwrap(), context.get("protocol").unwrap())
    };
    let host = [0; 6];
    assert_eq!(of([255; 6], 0x86dd, &[0x45; 60]), (1, 0xdd86));
    assert_eq!(of([1, 0, 0x5e, 0, 0, 1], 0x0806, &[0x45; 60]), (2, 0x0608));
    assert_eq!(of(host, 0x8100, &[0x45; 10]), (0, 0x0081));
    assert_eq!(of(host, 0x0100, &[0x45; 10]), (0, 0x0400), "IEEE 802.2");
    assert_eq!(of(host, 0x0100, &[0x45]), (0, 0x0400));
    assert_eq!(of(host, 0x0100, &[0xff, 0xff, 0]), (0, 0x0100), "raw 802.3");
}

#[test]
fn packets_too_short_or_too_long_are_refused() {
    let message = |result: Result<Context, ContextError>| result.map(drop).unwrap_err().to_string();
    let skb = |packet: &[u8]| Context::skb(ProgType::SCHED_CLS, packet);
    assert_eq!(message(skb(&[0; 13])), "packet: found 13 bytes, wanted at least 14 (an Ethernet header)");
    assert_eq!(
        message(skb(&frame([0; 6], 0x0800, &[0x45; 19]))),
        "packet: found 33 bytes, wanted at least 34 (an IPv4 header)"
    );
    assert!(skb(&frame([0; 6], 0x0800, &[0x45; 20])).is_ok());
    assert!(message(skb(&frame([0; 6], 0x86dd, &[0x60; 39]))).contains("an IPv6 header"));
    assert!(skb(&frame([0; 6], 0x86dd, &[0x60; 40])).is_ok());
    assert!(skb(&[0; 14]).is_ok());
    assert!(skb(&vec![0; SKB_MAX_PACKET]).is_ok());
    assert!(message(skb(&vec![0; SKB_MAX_PACKET + 1])).contains("wanted at most 65535"));
    assert!(message(Context::xdp(&[0; 13])).contains("wanted at least 14"));
    assert!(Context::xdp(&[0; 3520]).is_ok());
    assert!(message(Context::xdp(&[0; 3521])).contains("wanted at most 3520 for XDP"));
    assert!(message(Context::raw(&[0; 193])).contains("wanted at most 192"));
    assert!(message(Context::skb(ProgType::XDP, &[0; 64])).contains("takes no packet"));
}

#[test]
fn an_xdp_frame_has_the_room_of_a_test_run() {
    let context = Context::xdp(&tcp()).unwrap();
    let word = |at: u32| context.record().load(at as usize, Size::DW).unwrap();
    assert_eq!(word(record::DATA) - word(record::BUF_START), 216);
    assert_eq!(word(record::BUF_END) - word(record::DATA_END), 3466);
    assert_eq!(word(record::DATA_META), word(record::DATA));
    assert_eq!(
        get(&context, &["data", "data_end", "data_meta", "ingress_ifindex", "rx_queue_index"]),
        [0, 54, 0, 1, 0]
    );
}

#[test]
fn metadata_is_the_front_of_the_packet() {
    let mut context = Context::xdp(&tcp()).unwrap();
    context.set("data", 8).unwrap();
    assert_eq!(get(&context, &["data", "data_end"]), [8, 54]);
    assert_eq!((context.packet_len(), context.packet()), (46, tcp()));
    assert_eq!(context.packet_slice().unwrap().len(), 54);
    for bad in [2, 44, 220, u64::MAX] {
        assert!(context.set("data", bad).unwrap_err().to_string().contains("a multiple of 4"));
    }
    context.set("data", 0).unwrap();
    assert_eq!((context.packet_len(), context.packet()), (54, tcp()));
}

#[test]
fn fields_given_by_the_caller() {
    let mut context = Context::skb(ProgType::SCHED_CLS, &tcp()).unwrap();
    let given = [("mark", 0x1234), ("priority", 77), ("ingress_ifindex", 5), ("cb[4]", 5), ("tstamp", 1 << 40)];
    for (field, value) in given.into_iter().chain([("gso_segs", 3), ("gso_size", 9), ("hwtstamp", 99)]) {
        context.set(field, value).unwrap();
        assert_eq!(context.get(field), Some(value));
    }
    assert_eq!(context.get("wire_len"), Some(54), "a test run with any field given sets it");
    context.set("ifindex", 0).unwrap();
    assert_eq!(context.get("ifindex"), Some(1));
    for (field, value) in [("mark", 1 << 32), ("wire_len", 53), ("wire_len", 65_537), ("gso_segs", 65_536)] {
        assert!(matches!(context.set(field, value), Err(ContextError::BadValue { .. })), "{field}");
    }
    for field in ["len", "protocol", "cb", "cb[5]", "mark[0]", "data", "hash", "", "]", "cb[x]"] {
        assert!(matches!(context.set(field, 0), Err(ContextError::NoSuchField { .. })), "{field}");
    }
    let message = Context::xdp(&tcp()).unwrap().set("mark", 1).unwrap_err().to_string();
    let wanted =
        "context: xdp_md has no field mark that can be set; fields that can: data, ingress_ifindex, rx_queue_index";
    assert_eq!(message, wanted);
}

#[test]
fn the_packet_after_a_run() {
    let tc = Context::skb(ProgType::SCHED_CLS, &tcp()).unwrap();
    assert_eq!(tc.packet(), tcp());
    for prog_type in [ProgType::SOCKET_FILTER, ProgType::CGROUP_SKB, ProgType::LWT_IN, ProgType::LWT_XMIT] {
        let context = Context::skb(prog_type, &tcp()).unwrap();
        let packet = context.packet();
        assert_eq!((&packet[..14], &packet[14..]), (&[0; 14][..], &tcp()[14..]));
        assert_eq!(context.packet_len(), 40);
    }
    assert_eq!(Context::raw(&[1, 2, 3]).unwrap().packet(), [1, 2, 3]);
}

#[test]
fn a_reset_context_is_like_a_new_one() {
    let state = |context: &Context| {
        let word =
            |at: u32| context.record().load(at as usize, Size::DW).unwrap().wrapping_sub(context.buffer().addr());
        let pointers: Vec<u64> = [0, 8, 16, 24, 32, 40, 240, 248].into_iter().map(word).collect();
        let scalars = context.record().sub(record::UAPI as usize, 192).unwrap().to_vec();
        (pointers, scalars, context.buffer().sub(0, HEADROOM).unwrap().to_vec(), context.packet())
    };
    for prog_type in [ProgType::XDP, ProgType::SCHED_CLS, ProgType::SOCKET_FILTER] {
        let mut used = Context::for_type(prog_type, &frame([255; 6], 0x8100, &[7; 300])).unwrap();
        let _ = used.set("mark", 9);
        let _ = used.set("rx_queue_index", 3);
        let _ = used.set("data", 16);
        assert!(used.reset(&[0; 3]).is_err());
        // As if the program had moved the packet down, written, and moved it up again.
        used.buffer().sub(100, HEADROOM - 100).unwrap().write(&[9; HEADROOM - 100]);
        used.record().store(record::LOW as usize, Size::DW, used.buffer().addr() + 100).unwrap();
        used.reset(&tcp()).unwrap();
        assert_eq!(state(&used), state(&Context::for_type(prog_type, &tcp()).unwrap()));
    }
    let mut grown = Context::skb(ProgType::SCHED_CLS, &tcp()).unwrap();
    grown.reset(&[1; 60_000]).unwrap();
    assert_eq!((grown.packet_len(), grown.packet()), (60_000, vec![1; 60_000]));
}

#[test]
fn legacy_loads_stay_in_the_packet() {
    let tc = Context::skb(ProgType::SCHED_CLS, &tcp()).unwrap();
    assert_eq!(tc.legacy_load(12, Size::H), Some(0x0800));
    assert_eq!(tc.legacy_load(50, Size::W), Some(0x476f_0000));
    assert_eq!(tc.legacy_load(51, Size::W), None);
    assert_eq!(tc.legacy_load(-0x10_0000, Size::B), Some(0x45), "network header");
    assert_eq!(tc.legacy_load(-0x20_0000 + 53, Size::B), Some(0));
    assert_eq!(tc.legacy_load(-0x20_0000 + 54, Size::B), None);
    for off in [i32::MAX, i32::MIN, -1, -0x20_0001, -0x10_0001] {
        assert_eq!(tc.legacy_load(off, Size::W), None, "{off:#x}");
    }
}
