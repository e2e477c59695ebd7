"""Files with faults: one sound file and a seed give the same faulty file on every machine.

Half of the faults know the format: they change one number of a header (a count, a length, an axis, a kind, an offset, a
setting) or the numbers of a tensor. The others are blind: bits, stretches, the end.
"""

import json
import struct
from functools import lru_cache
from random import Random

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


@lru_cache(maxsize=64)
class GgufPlaces:
    """Where the numbers of a sound GGUF header lie: (offset, letter of `struct`) by what they mean."""

    def __init__(self, content):
        self._content, self._at = content, 24
        self.places = {"counts": [(8, "Q"), (16, "Q")], "lengths": [], "types": [], "settings": [], "entries": []}
        self.places |= {"axes": [], "sizes": [], "kinds": [], "offsets": []}
        tensors, keys = struct.unpack_from("<QQ", content, 8)
        for _ in range(keys):
            self._text()
            self._value(self._number("I", "types"), "settings")
        for _ in range(tensors):
            self._text()
            for _ in range(self._number("I", "axes")):
                self._number("Q", "sizes")
            self._number("I", "kinds")
            self._number("Q", "offsets")
        self.end = self._at

    def _number(self, letter, what):
        self.places[what].append((self._at, letter))
        (value,) = struct.unpack_from(f"<{letter}", self._content, self._at)
        self._at += struct.calcsize(letter)
        return value

    def _text(self):
        size = self._number("Q", "lengths")
        self._at += size

    def _value(self, kind, what):
        if kind == TEXT:
            self._text()
        elif kind == ARRAY:
            inner, count = self._number("I", "types"), self._number("Q", "lengths")
            for _ in range(count):
                self._value(inner, "entries")
        else:
            self._number(SCALARS[kind], what)


def mutated_gguf(content, seed):
    """A GGUF file with one to three faults."""
    random, found = Random(seed), GgufPlaces(content)
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        how = random.choices(["header", "numbers", "blind"], [5, 4, 1])[0]
        if how == "blind":
            return _blind(changed, random, found.end)
        if how == "numbers":
            _overwrite(changed, random, found.end)
            continue
        what = random.choices(list(found.places), [1, 1, 1, 10, 2, 1, 2, 3, 1])[0]
        if found.places[what]:
            _change_number(changed, *random.choice(found.places[what]), random)
    return bytes(changed)


def mutated_safetensors(content, seed):
    """A safetensors file with one to three faults; the header stays JSON unless a blind one breaks it."""
    random = Random(seed)
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        how = random.choices(["header", "name", "numbers", "blind"], [4, 2, 4, 2])[0]
        names = list(header)
        if how == "blind" or not names:
            return _blind(bytearray(_safetensors(header, data)), random, 8 + length)
        name = random.choice(names)
        if how == "numbers":
            _overwrite(data, random, 0)
        elif how == "name":
            other = random.choice([name[:-1], f"{name}.x", random.choice(names), name.replace("0", "1")])
            header[other] = header.pop(name)
        else:
            header[name] = _change_json(header[name], random)
    return _safetensors(header, data)


def _safetensors(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def mutated_json(content, seed):
    """A JSON file with one to three values of another size, type or name."""
    random = Random(seed)
    if random.random() < 0.15:
        return _blind(bytearray(content), random, len(content))
    value = json.loads(content)
    for _ in range(random.choice([1, 1, 2, 3])):
        value = _change_json(value, random)
    return json.dumps(value).encode()


STRANGE = (None, True, False, "", "0", "x" * 300, [], {}, [[]], 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, 1 << 31, 1 << 63)
STRANGE += (1 << 64, -(1 << 63), float("nan"), float("inf"))


def _change_json(value, random):
    """The same value with one of its leaves changed, dropped or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.95:
        key = random.choice(list(value))
        if random.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _change_json(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        at, rest = random.randrange(len(value)), list(value)
        if random.random() < 0.2:
            return rest[:at] + rest[at + 1 :]
        rest[at] = _change_json(rest[at], random)
        return rest
    if type(value) in (int, float) and random.random() < 0.6:
        return random.choice([value + 1, value - 1, value * 2, value // 2, -value, value / 3])
    return random.choice(STRANGE)


def _change_number(changed, at, letter, random):
    """One number of a header: near what it was, at a border of its type, or any."""
    if at + struct.calcsize(letter) > len(changed):
        return
    (value,) = struct.unpack_from(f"<{letter}", changed, at)
    if letter in "fd":
        value = random.choice([0.0, -value, value * 2, value / 3, 1e-30, 1e30, float("nan"), float("inf"), -1.0])
    else:
        bits = 8 * struct.calcsize(letter)
        near = [value + 1, value - 1, value * 2, value // 2, value * 3, value + 32, value - 32]
        borders = [
            0,
            1,
            2,
            3,
            8,
            33,
            1 << 15,
            (1 << 31) - 1,
            1 << 31,
            (1 << 32) - 1,
            1 << 40,
            (1 << 63) - 1,
            1 << 63,
            -1,
        ]
        value = random.choice(random.choice([near, near, borders, [random.randrange(1 << bits), random.randrange(32)]]))
        value %= 1 << bits
        letter = letter.upper()
    struct.pack_into(f"<{letter}", changed, at, value)


PATTERNS = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x7c", b"\x00\xfc", b"\x80\x7f", b"\x00\x00\x80\x7f", b"\x01\x00")
"""Zeros, NaN, infinities and the smallest numbers of fp16, bf16 and fp32."""


def _overwrite(changed, random, start):
    """A stretch of the tensors' numbers, by random ones or by a pattern."""
    if len(changed) <= start:
        return
    at = random.randrange(start, len(changed))
    length = min(random.choice([1, 2, 4, 18, 64, 256, 4096]), len(changed) - at)
    pattern = random.choice([*PATTERNS, None, None, None])
    changed[at : at + length] = random.randbytes(length) if pattern is None else (pattern * length)[:length]


def _blind(changed, random, header):
    """Faults that know nothing of the format, half of them in the first `header` bytes."""
    for _ in range(random.randint(1, 4)):
        if not changed:
            break
        at = random.randrange(len(changed) if random.random() < 0.5 else min(header, len(changed)))
        how = random.choice(["bit", "byte", "cut", "end", "insert", "splice"])
        stretch = random.choice([1, 2, 4, 8, 32, 100])
        if how == "bit":
            changed[at] ^= 1 << random.randrange(8)
        elif how == "byte":
            changed[at] = random.randrange(256)
        elif how == "cut":
            del changed[at : at + stretch]
        elif how == "end":
            del changed[at:]
        elif how == "insert":
            changed[at:at] = random.randbytes(stretch)
        else:
            other = random.randrange(len(changed))
            changed[at : at + stretch] = changed[other : other + stretch]
    return bytes(changed)
