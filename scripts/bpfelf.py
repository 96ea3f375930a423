# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the scripts here need to know about a BPF object: its programs and its global variables. Reads ELF64, nothing else."""
import struct


class Elf:
    """Sections and symbols of a little-endian ELF64 file."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        if self.bytes[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path}: not a little-endian ELF64 file")
        shoff, = struct.unpack_from("<Q", self.bytes, 40)
        size, count, names = struct.unpack_from("<HHH", self.bytes, 58)
        raw = [struct.unpack_from("<IIQQQQIIQQ", self.bytes, shoff + i * size) for i in range(count)]
        strings = raw[names]
        self.sections = [dict(name=self._text(strings[4] + s[0]), type=s[1], flags=s[2], offset=s[4], size=s[5], link=s[6],
                              info=s[7], entsize=s[9]) for s in raw]
        self.symbols = []
        for s in self.sections:
            if s["type"] != 2:
                continue
            text = self.sections[s["link"]]["offset"]
            for at in range(s["offset"], s["offset"] + s["size"], 24):
                name, info, _, index, value, length = struct.unpack_from("<IBBHQQ", self.bytes, at)
                self.symbols.append(dict(name=self._text(text + name), kind=info & 15, bind=info >> 4, section=index,
                                         value=value, size=length))

    def _text(self, at):
        return self.bytes[at:self.bytes.index(b"\0", at)].decode()

    def content(self, section):
        """The section's bytes; none for .bss."""
        return b"" if section["type"] == 8 else self.bytes[section["offset"]:section["offset"] + section["size"]]

    def programs(self):
        """Names of the programs: global functions in sections other than .text, in the order of the file."""
        found = [s for s in self.symbols if s["kind"] == 2 and s["bind"] == 1 and 0 < s["section"] < len(self.sections)
                 and self.sections[s["section"]]["name"] != ".text"]
        return [s["name"] for s in sorted(found, key=lambda s: (s["section"], s["value"]))]

    def variable(self, name):
        """(section name, section size, offset, size) of a global variable."""
        for s in self.symbols:
            if s["name"] == name and s["kind"] == 1 and 0 < s["section"] < len(self.sections):
                section = self.sections[s["section"]]
                return section["name"], section["size"], s["value"], s["size"]
        raise KeyError(name)
