#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the demo's capture: packets of our own making, the same bytes each time.

    scripts/make-demo-pcap.py [FILE]        default: livebpf-cli/assets/demo/traffic.pcap

Documentation addresses only (RFC 5737, RFC 3849). Something for every branch of the chain: web and name-server traffic, ICMP, IPv6,
one and two VLAN tags, fragments, IP options, what the access list and the connection tracking refuse, what is not IP, and packets
that are cut short or lie about their length."""
import os
import struct
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
SERVER, SERVER6 = "192.0.2.80", "2001:db8::80"
BLOCKED = ["198.51.100.66", "203.0.113.66"]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def v4(text):
    return bytes(int(part) for part in text.split("."))


def v6(text):
    head, _, tail = text.partition("::")
    groups = lambda t: [int(g, 16) for g in t.split(":") if g]
    middle = [0] * (8 - len(groups(head)) - len(groups(tail)))
    return struct.pack(">8H", *groups(head), *middle, *groups(tail))


def ether(kind, payload, tags=()):
    header = bytes.fromhex("020000000001") + bytes.fromhex("020000000002")
    for tag_kind, number in tags:
        header += struct.pack(">HH", tag_kind, number)
    return header + struct.pack(">H", kind) + payload


def ipv4(source, target, protocol, payload, fragment=0, options=b"", total=None, ident=1):
    words = 5 + len(options) // 4
    total = words * 4 + len(payload) if total is None else total
    header = struct.pack(">BBHHHBBH", 0x40 | words, 0, total, ident, fragment, 64, protocol, 0) + v4(source) + v4(target) + options
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def ipv6(source, target, protocol, payload):
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + v6(source) + v6(target) + payload


def _pseudo(source, target, protocol, length):
    if ":" in source:
        return v6(source) + v6(target) + struct.pack(">II", length, protocol)
    return v4(source) + v4(target) + struct.pack(">HH", protocol, length)


def tcp(source, target, sport, dport, flags, data=b"", sequence=1000):
    segment = struct.pack(">HHIIBBHHH", sport, dport, sequence, 1 if flags & ACK else 0, 5 << 4, flags, 65535, 0, 0) + data
    check = checksum(_pseudo(source, target, 6, len(segment)) + segment)
    return segment[:16] + struct.pack(">H", check) + segment[18:]


def udp(source, target, sport, dport, data=b""):
    datagram = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    check = checksum(_pseudo(source, target, 17, len(datagram)) + datagram) or 0xFFFF
    return datagram[:6] + struct.pack(">H", check) + datagram[8:]


def ip_tcp(source, target, *rest, tags=(), **more):
    segment = tcp(source, target, *rest)
    if ":" in source:
        return ether(0x86DD, ipv6(source, target, 6, segment), tags)
    return ether(0x0800, ipv4(source, target, 6, segment, **more), tags)


def ip_udp(source, target, *rest, tags=(), **more):
    datagram = udp(source, target, *rest)
    if ":" in source:
        return ether(0x86DD, ipv6(source, target, 17, datagram), tags)
    return ether(0x0800, ipv4(source, target, 17, datagram, **more), tags)


def text(length):
    return bytes(0x61 + i % 26 for i in range(length))


def ordinary():
    """Connections, from several clients, to several services."""
    for n in range(10):
        client, port = f"198.51.100.{11 + 7 * n}", 40000 + 1111 * n
        service = (80, 443, 8080)[n % 3]
        yield ip_tcp(client, SERVER, port, service, SYN)
        yield ip_tcp(client, SERVER, port, service, ACK | PSH, text(40 + 130 * n))
        yield ip_tcp(SERVER, client, service, port, SYN | ACK)
        yield ip_tcp(client, SERVER, port, service, FIN | ACK)
    for n in range(6):
        yield ip_udp(f"203.0.113.{20 + n}", "192.0.2.53", 30000 + n, 53, text(28 + n))
        yield ip_udp("192.0.2.53", f"203.0.113.{20 + n}", 53, 30000 + n, text(60 + 20 * n))
    yield ip_udp("203.0.113.30", "192.0.2.123", 123, 123, text(48))
    for n in range(4):
        echo = struct.pack(">BBHHH", 8, 0, 0, 77, n) + text(56)
        echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
        yield ether(0x0800, ipv4(f"203.0.113.{40 + n}", SERVER, 1, echo))
    yield ip_tcp("198.51.100.99", SERVER, 50000, 443, ACK, text(1446))


def version6():
    for n in range(4):
        client = f"2001:db8:1::{n + 1:x}"
        yield ip_tcp(client, SERVER6, 41000 + n, 443, SYN)
        yield ip_tcp(client, SERVER6, 41000 + n, 443, ACK | PSH, text(300 * n))
        yield ip_udp(client, "2001:db8::53", 31000 + n, 53, text(33))
    request = struct.pack(">BBHI", 128, 0, 0, 5) + text(24)
    check = checksum(_pseudo("2001:db8:1::1", SERVER6, 58, len(request)) + request)
    yield ether(0x86DD, ipv6("2001:db8:1::1", SERVER6, 58, request[:2] + struct.pack(">H", check) + request[4:]))
    yield ether(0x86DD, ipv6("2001:db8:1::2", SERVER6, 0, bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp("2001:db8:1::2", SERVER6, 41001, 443, ACK)))


def tagged():
    for n in range(4):
        yield ip_tcp(f"198.51.100.{110 + n}", SERVER, 42000 + n, 80, ACK, text(20), tags=[(0x8100, 100 + n)])
        yield ip_udp(f"203.0.113.{60 + n}", "192.0.2.53", 32000 + n, 53, text(30), tags=[(0x88A8, 10), (0x8100, 100 + n)])
    yield ip_tcp("2001:db8:1::9", SERVER6, 41009, 80, SYN, tags=[(0x8100, 7)])
    yield ip_udp("203.0.113.70", SERVER, 33000, 53, text(30), tags=[(0x8100, 1), (0x8100, 2), (0x8100, 3)])


def fragments_and_options():
    whole = udp("203.0.113.80", SERVER, 34000, 8080, text(1792))
    for offset in (0, 600, 1200):
        more = 0x2000 if offset < 1200 else 0
        piece = whole[offset:offset + 600]
        yield ether(0x0800, ipv4("203.0.113.80", SERVER, 17, piece, fragment=more | offset // 8, ident=99))
    for length in (4, 12, 40):
        options = bytes([148, 4, 0, 0]) + b"\x01" * (length - 4)
        yield ip_tcp("198.51.100.120", SERVER, 43000 + length, 80, SYN, options=options)


def refused():
    for n, address in enumerate(BLOCKED):
        yield ip_tcp(address, SERVER, 44000 + n, 80, SYN)
        yield ip_udp(address, SERVER, 44000 + n, 53, text(20))
    for port in (23, 445, 3389):
        yield ip_tcp("198.51.100.130", SERVER, 45000, port, SYN)
    for port in (22, 25, 110, 143):
        yield ip_tcp("198.51.100.131", SERVER, 45001, port, SYN)
    for flags in (0, SYN | FIN, SYN | RST, FIN | PSH | URG, FIN, PSH, SYN | FIN | RST | ACK, 0xFF):
        yield ip_tcp("198.51.100.140", SERVER, 46000 + flags, 80, flags)


def not_ip():
    yield ether(0x0806, bytes.fromhex("0001080006040001") + bytes.fromhex("020000000002") + v4("192.0.2.1") + bytes(6) + v4("192.0.2.80"))
    yield ether(0x88CC, bytes.fromhex("020704020000000002040403657468306002007800") + bytes(2))
    yield ether(0x0800, b"")[:12] + struct.pack(">H", 38) + text(38)
    yield ether(0x9000, bytes(46))


def malformed():
    good = ip_tcp("198.51.100.150", SERVER, 47000, 80, SYN)
    for length in (14, 17, 33, 34, 41, 42, 53):
        yield good[:length]
    yield good[:14] + b"\x44" + good[15:]                           # a header of 16 bytes
    yield good[:14] + b"\x4f" + good[15:]                           # a header of 60 bytes, not there
    yield good[:14] + b"\x65" + good[15:]                           # version 6 in a packet of type 4
    yield good[:16] + struct.pack(">H", 19) + good[18:]             # a total length below the header's
    yield ip_udp("203.0.113.90", SERVER, 35000, 53)[:41]
    yield ip_tcp("2001:db8:1::20", SERVER6, 41020, 443, SYN)[:53]
    yield ip_tcp("2001:db8:1::20", SERVER6, 41020, 443, SYN)[:60]
    yield ip_tcp("198.51.100.151", SERVER, 47001, 80, SYN, tags=[(0x8100, 5)])[:17]
    yield b""
    yield bytes(1)
    yield good[:13]


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "livebpf-cli", "assets", "demo", "traffic.pcap")
    packets = [p for part in (ordinary, version6, tagged, fragments_and_options, refused, not_ip, malformed) for p in part()]
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for n, packet in enumerate(packets):
            f.write(struct.pack("<IIII", 1700000000 + n // 100, n % 100 * 10000, len(packet), len(packet)) + packet)
    print(f"{path}: {len(packets)} packets, {sum(map(len, packets))} bytes")


main()
