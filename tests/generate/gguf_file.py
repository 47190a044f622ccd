"""GGUF: reading a file and what its blocks mean, writing one. Written after the format's description, for tests of
examples/generate; nothing of it comes from the program under test.  SPDX-License-Identifier: MIT"""
import struct

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALAR = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", I64: "<q",
          F64: "<d"}
# type: number, elements and bytes of a block
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
         "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210), "BF16": (30, 1, 2)}
NAMES = {number: name for name, (number, _, _) in TYPES.items()}


class Reader:
    """A file's values and tensors: tensors[name] = (type, shape with rows first, bytes)."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.at = 0
        magic, version, num_tensors, num_values = struct.unpack("<4sIQQ", self.take(24))
        assert magic == b"GGUF" and version == 3
        self.values = {}
        for _ in range(num_values):
            name = self.string()
            self.values[name] = self.value(self.scalar(U32))
        self.tensors, found = {}, []
        for _ in range(num_tensors):
            name, axes = self.string(), self.scalar(U32)
            shape = [self.scalar(U64) for _ in range(axes)]
            found.append((name, NAMES[self.scalar(U32)], shape[::-1], self.scalar(U64)))
        alignment = self.values.get("general.alignment", 32)
        data = (self.at + alignment - 1) // alignment * alignment
        for name, kind, shape, offset in found:
            _, elements, size = TYPES[kind]
            count = int(np.prod(shape)) // elements * size
            self.tensors[name] = (kind, shape, self.bytes[data + offset:data + offset + count])

    def take(self, size):
        self.at += size
        return self.bytes[self.at - size:self.at]

    def scalar(self, kind):
        return struct.unpack(SCALAR[kind], self.take(struct.calcsize(SCALAR[kind])))[0]

    def string(self):
        return self.take(self.scalar(U64)).decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.scalar(kind)
        kind, count = self.scalar(U32), self.scalar(U64)
        return [self.value(kind) for _ in range(count)]

    def matrix(self, name, dtype=np.float64):
        kind, shape, data = self.tensors[name]
        return dequantize(kind, data).reshape(shape).astype(dtype)


def _halves(blocks, at):
    return blocks[:, at:at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(q):
    return np.concatenate([q & 15, q >> 4], axis=-1)


def _five(blocks, at):
    """Blocks of 32 with 5 bits: the upper ones in a word, then the nibbles."""
    high = np.unpackbits(blocks[:, at:at + 4], axis=1, bitorder="little")
    return _nibbles(blocks[:, at + 4:at + 20]) | high << 4


def _k_scales(s):
    low, high = s[:, 0:4] & 63, (s[:, 8:12] & 15) | (s[:, 0:4] >> 6) << 4
    mins, more = s[:, 4:8] & 63, s[:, 8:12] >> 4 | (s[:, 4:8] >> 6) << 4
    return (np.concatenate(x, axis=1).astype(np.float32) for x in ((low, high), (mins, more)))


def dequantize(kind, data):
    """What the blocks mean, as float32: products that are exact, and one rounding of a sum."""
    if kind in ("F32", "F16"):
        return np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32)
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    b = np.frombuffer(data, np.uint8).reshape(-1, TYPES[kind][2])
    if kind == "Q4_0":
        return _halves(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)
    if kind == "Q4_1":
        return _halves(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _halves(b, 2)
    if kind == "Q5_0":
        return _halves(b, 0) * (_five(b, 2).astype(np.float32) - 16)
    if kind == "Q5_1":
        return _halves(b, 0) * _five(b, 4).astype(np.float32) + _halves(b, 2)
    if kind == "Q8_0":
        return _halves(b, 0) * b[:, 2:].copy().view(np.int8).astype(np.float32)
    if kind in ("Q4_K", "Q5_K"):
        scale, least = _k_scales(b[:, 4:16])
        q = _nibbles(b[:, -128:].reshape(-1, 4, 32)).reshape(-1, 8, 32) # 64 at a time: low nibbles, then high ones
        if kind == "Q5_K":
            bits = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None] & 1
            q = q | bits << 4
        d, dmin = _halves(b, 0)[:, :, None], _halves(b, 2)[:, :, None]
        return d * scale[:, :, None] * q.astype(np.float32) - dmin * least[:, :, None]
    assert kind == "Q6_K"
    low = b[:, :128].reshape(-1, 2, 2, 32) # halves, then 32 bytes with their low nibbles, 32 more, the high ones
    low = np.concatenate([low & 15, low >> 4], axis=2)
    shifts = (2 * np.arange(4, dtype=np.uint8))[None, None, :, None]
    high = b[:, None, None, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    q = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    return _halves(b, 208)[:, :, None] * b[:, 192:208].copy().view(np.int8).astype(np.float32)[:, :, None] * q


def random_blocks(rng, kind, shape, size):
    """Blocks of random integers whose values have about the standard deviation `size`."""
    number, elements, bytes_ = TYPES[kind]
    del number
    count = int(np.prod(shape)) // elements
    if elements == 1:
        x = rng.normal(size=count).astype(np.float32) * np.float32(size)
        if kind == "BF16":
            return (x.view(np.uint32) >> 16).astype("<u2").tobytes()
        return x.astype("<f4" if kind == "F32" else "<f2").tobytes()
    b = rng.integers(0, 256, (count, bytes_), dtype=np.uint8)
    half = lambda x: np.full(count, x, "<f2").view(np.uint8).reshape(count, 2)
    if kind in ("Q4_K", "Q5_K"): # scales and minima of six bits vary by themselves, which makes outliers
        d = size / (100 * (4.6 if kind == "Q4_K" else 9.2))
        b[:, 0:2], b[:, 2:4] = half(d), half(d * (7.5 if kind == "Q4_K" else 15.5))
    elif kind == "Q6_K":
        b[:, 208:210] = half(size / (18 * 74))
    else:
        steps = {"Q4_0": 4.6, "Q4_1": 4.6, "Q5_0": 9.2, "Q5_1": 9.2, "Q8_0": 74}[kind]
        b[:, 0:2] = half(size / steps)
        if kind in ("Q4_1", "Q5_1"):
            b[:, 2:4] = half(-size / steps * (7.5 if kind == "Q4_1" else 15.5))
    return b.tobytes()


def _text(text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value):
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<Ii", I32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    kind = STRING if isinstance(value[0], (str, bytes)) else F32 if isinstance(value[0], float) else I32
    items = [_text(v) if kind == STRING else struct.pack(SCALAR[kind], v) for v in value]
    return struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(items)


def pack(values, tensors):
    """A file of values and tensors: name → (type, shape with rows first, bytes)."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    head += b"".join(_text(name) + _value(value) for name, value in values.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", TYPES[kind][0], len(data))
        data += content + bytes(-len(content) % 32)
    return head + bytes(-len(head) % 32) + data
