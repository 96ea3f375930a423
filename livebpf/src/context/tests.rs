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
    assert!(message(Context::raw(&[0; 32_777])).contains("wanted at most 32776"));
    assert!(message(Context::for_type(ProgType::CGROUP_DEVICE, &[0; 13])).contains("wanted at most 12"));
    assert!(message(Context::for_type(ProgType::TRACING, &[])).contains("tracing: it is not supported"));
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
        let pointers: Vec<u64> = (0..record::UAPI).step_by(8).map(word).collect();
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
fn fields_of_every_context_ascend_and_fit_the_struct() {
    for desc in (0..40).flat_map(|n| super::describe::variants(ProgType(n))) {
        let mut end = 0;
        for field in desc.context.fields {
            assert!(field.offset >= end, "{} of {}", field.name, desc.context.name);
            assert!(Size::from_bytes(field.stored).is_some() || field.unit < field.size);
            assert!(Size::from_bytes(field.unit).is_some() && field.size.is_multiple_of(field.unit));
            end = field.offset + field.size;
        }
        assert!(end <= desc.context.size);
        let context = Context::for_type(desc.prog_type, &[0; 14]).or_else(|_| Context::for_type(desc.prog_type, &[]));
        assert!(context.unwrap().record().len() >= (record::UAPI + desc.context.size) as usize);
    }
}

#[test]
fn where_accesses_land_in_the_record() {
    let place = |prog_type, off, size, write| {
        describe(prog_type).unwrap().context.access(off, size, write).map(|(_, at)| (at.offset, at.size))
    };
    assert_eq!(place(ProgType::XDP, 0, Size::W, false), Some((record::DATA, Size::DW)));
    assert_eq!(place(ProgType::XDP, 4, Size::W, false), Some((record::DATA_END, Size::DW)));
    assert_eq!(place(ProgType::XDP, 8, Size::W, false), Some((record::DATA_META, Size::DW)));
    assert_eq!(place(ProgType::XDP, 16, Size::W, false), Some((record::UAPI + 16, Size::W)));
    let (classid, flow_keys) = (72, 144);
    assert_eq!(place(ProgType::SCHED_CLS, classid, Size::W, true), Some((record::UAPI + classid, Size::H)));
    assert_eq!(place(ProgType::SCHED_CLS, classid, Size::W, false), Some((record::UAPI + classid, Size::W)));
    assert_eq!(place(ProgType::SCHED_CLS, u32::MAX - 3, Size::W, false), None);
    let keys = Some((record::UAPI + flow_keys, Size::DW));
    assert_eq!(place(ProgType::FLOW_DISSECTOR, flow_keys, Size::DW, false), keys);
    assert_eq!(place(ProgType::TRACEPOINT, 8184, Size::DW, false), Some((record::UAPI + 8184, Size::DW)));
    assert_eq!(place(ProgType::TRACEPOINT, 8188, Size::DW, false), None);
}

#[test]
fn supplied_contexts_are_the_callers_bytes() {
    let mut regs = Context::for_type(ProgType::KPROBE, &7u64.to_le_bytes()).unwrap();
    regs.set("di", 0x1234_5678_9abc).unwrap();
    assert_eq!(get(&regs, &["r15", "di", "sp"]), [7, 0x1234_5678_9abc, 0]);
    assert_eq!(regs.packet().len(), 15 * 8, "up to the last byte that was given");
    let mut addr = Context::for_type(ProgType::CGROUP_SOCK_ADDR, &[1; 72]).unwrap();
    addr.set("user_ip6[3]", 9).unwrap();
    assert_eq!(get(&addr, &["user_ip4", "user_ip6[2]", "user_ip6[3]"]), [0x0101_0101, 0x0101_0101, 9]);
    assert_eq!((addr.get("sk"), addr.get("user_ip6[4]"), addr.get("user_ip6")), (None, None, None));
    assert_eq!(addr.packet()[60..], [&[1; 4][..], &[0; 8]].concat(), "addresses are not told");
    assert_eq!(addr.memory().len(), 80);
    let mut args = Context::for_type(ProgType::RAW_TRACEPOINT, &[]).unwrap();
    args.set("args[11]", u64::MAX).unwrap();
    assert_eq!(get(&args, &["args[11]", "args[0]"]), [u64::MAX, 0]);
    let mut stream = Context::for_type(ProgType::SK_SKB, &[]).unwrap();
    stream.set("cb[4]", 5).unwrap();
    assert_eq!((stream.get("cb[4]"), stream.get("cb[5]")), (Some(5), None));
    assert!(args.set("args[12]", 0).unwrap_err().to_string().contains("has no field args[12]"));
    assert!(addr.set("user_port", 1 << 32).unwrap_err().to_string().contains("found 4294967296 for user_port"));
}

#[test]
fn data_beside_a_supplied_context() {
    let mut option = Context::for_type(ProgType::CGROUP_SOCKOPT, &[9; 40]).unwrap();
    assert_eq!((option.data(), option.packet_slice().unwrap().len()), (vec![], 0));
    option.set_data(&[5; 12]).unwrap();
    assert_eq!((option.data(), option.get("optlen"), option.get("level")), (vec![5; 12], Some(12), Some(0x0909_0909)));
    option.reset(&[]).unwrap();
    assert_eq!((option.data(), option.get("optlen")), (vec![], Some(0)));
    for prog_type in [ProgType::XDP, ProgType::FLOW_DISSECTOR, ProgType::KPROBE] {
        let mut context = Context::for_type(prog_type, &[0; 14]).unwrap();
        assert_eq!(context.set_data(&[1]), Err(ContextError::NoPacket(prog_type)));
    }
}

#[test]
fn flow_keys_start_as_a_test_run_starts_them() {
    let mut flow = Context::for_type(ProgType::FLOW_DISSECTOR, &tcp()).unwrap();
    assert_eq!(flow.packet_slice().unwrap().to_vec(), tcp(), "from the Ethernet header on");
    let mut keys = vec![0; 56];
    (keys[0], keys[2], keys[10]) = (14, 14, 8);
    assert_eq!(flow.packet(), keys);
    flow.memory().sub(0, 4).unwrap().write(&[3, 0, 99, 0]);
    assert_eq!(flow.packet()[..4], [14, 0, 54, 0], "offsets stay in the packet");
    flow.set("flags", 2).unwrap();
    assert_eq!(flow.get("flags"), Some(2));
    flow.reset(&tcp()).unwrap();
    assert_eq!(flow.packet(), keys);
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
