"""What happens to a file: bytes in, other bytes out, by a generator of random numbers alone.

Blind mutations know nothing of the file.  Those that know its format reach further: what lies in a zip
archive gets a checksum that fits again, and a value of JSON is replaced by another value, so that a reader
does not stop at the first check.
"""

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

#: What a program may write into a file, and what somebody may who wishes it ill.
WORDS = (
    "", "nan", "NaN", "-1", "-0", "0", "1e999", "Infinity", "9" * 30, "9" * 5000, "null", "None", "true",
    "[]", "{}", '"', '""', ",", "\n", "\r", "\r\n", "\0", "\ufeff", "\u200b", "é", "\U0001f600", "٣", "..",
    "../../x", "/dev/zero", "/etc/hostname", "~", "a" * 70000, "x/" * 3000, "=1+1", "%s", "$(touch x)",
    "models:/a@b", "2" * 32, "1970-01-01", "9999-12-31T23:59:59",
)  # fmt: skip
#: Edges of the whole numbers of 8, 16, 32 and 64 bits.
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**31, 2**63 - 1, 2**64 - 1, 2**40)


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    """One to eight bits, anywhere."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)) if found else ():
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def truncate(content: bytes, chance: random.Random) -> bytes:
    """The end is missing, as after a kill or on a full disk."""
    return content[: chance.randrange(len(content) + 1)]


def insert_nulls(content: bytes, chance: random.Random) -> bytes:
    """Zeros between two bytes, or in their place, as a disk leaves them after a power cut."""
    place, count = chance.randrange(len(content) + 1), chance.choice((1, 4, 64, 512, 4096))
    kept = place + (count if chance.random() < 0.5 else 0)
    return content[:place] + bytes(count) + content[kept:]


def splice(content: bytes, chance: random.Random) -> bytes:
    """A piece goes to another place: moved, doubled, or over what is there."""
    first, second = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    second = min(second, first + 2**16)
    piece, place = content[first:second], chance.randrange(len(content) + 1)
    match chance.randrange(4):
        case 0:
            return content[:first] + content[second:]
        case 1:
            return content[:place] + piece + content[place:]
        case 2:
            return content[:place] + piece + content[place + len(piece) :]
        case _:
            rest = content[:first] + content[second:]
            return rest[:place] + piece + rest[place:]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    """Random bytes in the place of others."""
    place = chance.randrange(len(content) + 1)
    new = chance.randbytes(chance.choice((1, 2, 8, 64, 1024)))
    return content[:place] + new + content[place + len(new) :]


def set_number(content: bytes, chance: random.Random) -> bytes:
    """A whole number at the edge of its range, as lengths and offsets are written."""
    size = chance.choice((1, 2, 4, 8))
    number = chance.choice(NUMBERS) & (2 ** (8 * size) - 1)
    place = chance.randrange(len(content) + 1)
    order = chance.choice(("little", "big"))
    return content[:place] + number.to_bytes(size, order) + content[place + size :]


def replace_word(content: bytes, chance: random.Random) -> bytes:
    """A cell, a value or a line break of a text becomes another word."""
    text = content.decode(errors="replace")
    cuts = [0, *(i for i, letter in enumerate(text) if letter in ',:"\n[]{} \t'), len(text)]
    if len(cuts) < 3:
        return chance.choice(WORDS).encode(errors="surrogatepass")
    at = chance.randrange(len(cuts) - 1)
    start, end = cuts[at] + (at > 0), cuts[at + 1]
    new = text[: min(start, end)] + chance.choice(WORDS) + text[end:]
    return new.encode(errors="surrogatepass")


def change_json(content: bytes, chance: random.Random) -> bytes:
    """One value of a JSON text, or of one of its lines, becomes another, goes, or gets another name."""
    if content.count(b"\n") > 1 and content.startswith(b"{") and b"}\n{" in content:
        lines = content.splitlines(keepends=True)
        at = chance.randrange(len(lines))
        return b"".join([*lines[:at], change_json(lines[at].strip(), chance) + b"\n", *lines[at + 1 :]])
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return replace_word(content, chance)
    if chance.random() < 0.03:
        return b"[" * 100_000 if chance.random() < 0.5 else b'{"a":' * 100_000
    return json.dumps(_changed(tree, chance)).encode()


def _changed(tree: Any, chance: random.Random) -> Any:
    holders: list[Any] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list) and node:
            holders.append(node)
            waiting += node.values() if isinstance(node, dict) else node[:20]
    if not holders or chance.random() < 0.02:
        return _value(chance)
    holder = chance.choice(holders)
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match chance.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(WORDS)] = holder.pop(key)
        case _:
            holder[key] = _value(chance)
    return tree


def _value(chance: random.Random) -> Any:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return chance.choice(
        (
            None, True, False, 0, -1, 1, 2, 10**20, -(10**20), 2**63, 1.5, 1e308, -0.0, float("nan"),
            float("inf"), [], {},
            [None], [[]], {"a": 1}, deep, *WORDS,
        )
    )  # fmt: skip


def change_archive(content: bytes, chance: random.Random) -> bytes:
    """One part of a zip archive is mutated, left out, doubled or compressed, and every checksum fits."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError):
        return flip_bits(content, chance)  # an earlier mutation has left no archive
    if not parts:
        return content
    # The pickle says most of what a reader does.
    pickled = [name for name in parts if name.endswith(".pkl")]
    name = chance.choice(pickled or list(parts)) if chance.random() < 0.7 else chance.choice(list(parts))
    how = chance.randrange(10)
    if how == 0:
        del parts[name]
    elif how == 1:
        parts[name] = b"" if chance.random() < 0.5 else parts[chance.choice(list(parts))]
    elif name.endswith(".pkl"):
        parts[name] = change_pickle(parts[name], chance)
    else:
        parts[name] = chance.choice(BLIND)(parts[name], chance)
    written = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if how == 2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(written, "w", kind) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return written.getvalue()


OPCODES = b"0123456789()*.BCFGIJKLMNPQRSTUVX]abcdegijlopqrstu}"


def change_pickle(content: bytes, chance: random.Random) -> bytes:
    """A pickle with other opcodes, with another number or word, or one that calls what it should not."""
    match chance.randrange(4):
        case 0:
            return chance.choice(BLIND)(content, chance)
        case 1:
            found = bytearray(content)
            for _ in range(chance.randint(1, 3)) if found else ():
                found[chance.randrange(len(found))] = chance.choice(
                    b"0123456789()*.BCFGIJKLMNPQRSTUVX]abcdegijlopqrstu}"
                )
            return bytes(found)
        case 2:
            return _other_number(content, chance)
        case _:
            return _with_call(content, chance)


def _other_number(content: bytes, chance: random.Random) -> bytes:
    """A size, stride or offset of a tensor, or the `meta` text, becomes another."""
    places = [i for i, byte in enumerate(content) if byte in b"KMJ"]
    if not places:
        return flip_bits(content, chance)
    place = chance.choice(places)
    size = {ord("K"): 1, ord("M"): 2, ord("J"): 4}[content[place]]
    new = b"\x8a\x08" + struct.pack("<q", chance.choice((0, -1, 2**31, 2**40, 2**62, 3, 10**9)))
    return content[:place] + new + content[place + 1 + size :]


#: What runs code, or takes memory, where a reader calls whatever a pickle names.  {canary} is a file's name.
CALLS = (
    ("os", "system", ("touch {canary}",)),
    ("posix", "system", ("touch {canary}",)),
    ("subprocess", "check_call", (["touch", "{canary}"],)),
    ("builtins", "exec", ("open({canary!r}, 'w')",)),
    ("builtins", "eval", ("open({canary!r}, 'w')",)),
    ("pathlib", "Path.touch", ("{canary}",)),
    ("builtins", "open", ("{canary}", "w")),
    ("runpy", "run_path", ("{canary}",)),
    ("torch.serialization", "load", ("{canary}",)),
    ("torch.hub", "load", ("{canary}", "x")),
    ("builtins", "bytearray", (2**33,)),
    ("torch", "Size", ((2**40, 2**40),)),
    ("collections", "Counter", ("a" * 1000,)),
    ("torch", "zeros", (2**33,)),
    ("builtins", "getattr", ("a", "__class__")),
)


def _with_call(content: bytes, chance: random.Random) -> bytes:
    """The call stands alone, before the rest, whose value it throws away, or where a number stood."""
    module, name, arguments = chance.choice(CALLS)
    call = (
        b"c"
        + module.encode()
        + b"\n"
        + name.encode()
        + b"\n"
        + pickle.dumps(_filled(arguments), 2)[2:-1]
        + b"R"
    )
    match chance.randrange(3):
        case 0:
            return b"\x80\x02" + call + b"."
        case 1:
            start = content[:2] if content.startswith(b"\x80") else b"\x80\x02"
            return start + call + b"0" + content[len(start) :]
        case _:
            places = [i for i, byte in enumerate(content) if byte == ord("K")] or [2]
            place = chance.choice(places)
            return content[:place] + call + content[place + 2 :]


#: The file that would appear in the working folder if a call of `CALLS` ran.
CANARY = "canary-of-the-mutations"


def _filled(arguments: Any) -> Any:
    if isinstance(arguments, str):
        return arguments.format(canary=CANARY)
    if isinstance(arguments, list | tuple):
        return type(arguments)(map(_filled, arguments))
    return arguments


BLIND: tuple[Mutation, ...] = (flip_bits, truncate, insert_nulls, splice, overwrite, set_number)
TEXT: tuple[Mutation, ...] = (*BLIND, replace_word, replace_word, replace_word, replace_word)
JSON: tuple[Mutation, ...] = (*BLIND, replace_word, replace_word, *(change_json,) * 8)
ARCHIVE: tuple[Mutation, ...] = (*BLIND, *(change_archive,) * 8)
