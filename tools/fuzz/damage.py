"""What can be wrong with a file, by its kind, as strategies of Hypothesis."""

from __future__ import annotations

import csv
import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

TEXTS = [
    "", " ", "nan", "inf", "-1", "0", "1e400", "9" * 30, "0x1F", "NULL", "true", "1,5", "é", "\x00",
    "a\nb", "\x1b[31m", "../../escaped", "/etc/passwd", "~", "=1+1", "<script>", "{{ 7 * 7 }}", "[bold]",
    "%s", "$(id)", "\u202e", "\U0001d7d9" * 40, "!!python/object/apply:os.system [id]",
    "__import__('os')", "x" * 5000,
]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, 5e-324, float("inf"), float("nan")]
PICKLE = b"cos\nsystem\n(S'touch escaped'\ntR."  # would make a file
BYTES = [
    b"", b"\x00", b"\n", b'"', b",", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"[" * 500, b"PK\x03\x04",
    b"\x80\x04", PICKLE,
]  # fmt: skip
NAMES = [
    "../escaped.png", "/tmp/escaped.png", "a\\..\\..\\b.png", "cat/", "", "con", "c" * 300 + ".png",
    "cat/\x01.png",
]  # fmt: skip
WORDS = [
    "MAML", "anil", "TRLearner", "MetaMix", "HardMining", "Uniform", "none", "inner_lr", "inner_steps",
    "weight", "network", "=", "(", ")", ",", "+", "-", "*", "**", ".", "'", "[", "]", "{", "}", ":",
    "lambda", "0", "1e400", "-1", "None", "True", "nan", "9" * 5000, "(" * 300, "-" * 3000,
    "+MAML" * 3000, "\x00", "\n", "#", "é", "__class__", "f'{x}'",
]  # fmt: skip
TYPES = ["<f8", "<f4", "|O", "|u1", "<U5", "|S3", "<M8[s]", "<c16", ">i8", "|V8", "x"]
BOMB = "\n".join(["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
                 + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)])  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=8)
plain = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers(-3, 40) | st.floats() | texts
values: SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


@st.composite
def edited(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes with one to four changes anywhere."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 1, 2, 8, 100, 10**9])))
        new = draw(st.sampled_from(BYTES) | st.binary(max_size=8) | st.just(content[start:end] * 2))
        content = content[:start] + new + content[end:]
    return content


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Return plain values with another value, a further or a missing one at some place of the tree."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 5)) == 0:
        return draw(values)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key, new = draw(st.sampled_from(keys)), dict(tree) if isinstance(tree, dict) else list(tree)
    match draw(st.integers(0, 7)):
        case 0:
            del new[key]
        case 1 if isinstance(new, dict):
            new[draw(texts)] = draw(values)
        case 1:
            new += draw(st.lists(values, max_size=3))
        case _:
            new[key] = draw(changed_tree(tree[key]))
    return new


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.integers(0, 30)) == 0:
        return draw(st.sampled_from([b"[", b'{"a":'])) * 200_000  # deeper than the parser goes
    return json.dumps(draw(changed_tree(json.loads(content)))).encode()


@st.composite
def changed_yaml(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.integers(0, 30)) == 0:
        key = draw(st.sampled_from(["learner", "hidden", "steps", "x"]))
        return f"{BOMB}\n{key}: *a11\n".encode()
    tree = draw(changed_tree(yaml.safe_load(content)))
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace")


@st.composite
def changed_csv(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a table with another cell, column, row or header."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(draw(st.integers(1, 3))):
        row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows[0]) - 1))
        cell = draw(texts | st.sampled_from(NUMBERS).map(str))
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2 if column < len(rows[row]):
                rows[row][column] = cell
            case 3:
                rows[1:] = [
                    [cell if place == column else old for place, old in enumerate(r)] for r in rows[1:]
                ]
            case 4:
                rows = [r[:column] + r[column + 1 :] for r in rows]
            case 5:
                rows = [r + r[column : column + 1] for r in rows]
            case 6:
                rows = rows[: row + 1]
            case 7:
                rows += rows[row:]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode("utf-8", "replace")


@st.composite
def changed_zip(draw: st.DrawFn, content: bytes) -> bytes:
    """Return an archive whose members have other names or contents, or are twice there or too large."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = draw(st.integers(0, len(members) - 1))
    name, inner = members[place]
    match draw(st.integers(0, 5)):
        case 0:
            members[place] = draw(st.sampled_from(NAMES) | texts), inner
        case 1:
            members.append((draw(st.sampled_from([name, *NAMES])), draw(edited(inner))))
        case 2:
            members[place] = name, inner + bytes(draw(st.sampled_from([10, 10**5, 2 * 10**7])))
        case 3:
            del members[place]
        case _:
            members[place] = name, draw(changed(name, inner))
    file, kind = io.BytesIO(), draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, inner in members:
            archive.writestr(zipfile.ZipInfo(name.replace("\x00", "0")), inner, kind)
    return file.getvalue()


@st.composite
def changed_npy(draw: st.DrawFn, content: bytes) -> bytes:
    """Return an array with another header."""
    header = {
        "descr": draw(st.sampled_from(TYPES)),
        "fortran_order": draw(st.booleans()),
        "shape": tuple(draw(st.lists(st.sampled_from([0, 1, 2, 40, -1, 10**6, 2**40]), max_size=3))),
    }
    text = (draw(st.sampled_from([repr(header), *TEXTS[:8]])) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content[128:]


@st.composite
def changed_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a safetensors file with another header, or a pickle in its place."""
    if draw(st.integers(0, 20)) == 0:
        return draw(st.sampled_from([PICKLE, b"\x80\x04" + PICKLE, b"PK\x03\x04" + PICKLE]))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    plain_parts = {
        key: json.loads(value) for key, value in header.get("__metadata__", {}).items() if value[:1] in "{["
    }
    if plain_parts and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(plain_parts)))
        header["__metadata__"][key] = json.dumps(draw(changed_tree(plain_parts[key])))
    else:
        header = draw(changed_tree(header))
    text = json.dumps(header).encode()
    return (
        struct.pack("<Q", draw(st.sampled_from([len(text)] * 8 + [0, 2**40]))) + text + content[8 + length :]
    )


@st.composite
def sentences(draw: st.DrawFn, content: bytes) -> bytes:
    """Return words of calls in any order, or in place of some of a call."""
    words = draw(st.lists(st.sampled_from(WORDS) | texts, max_size=12))
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, len(content)))
    between = "".join(words).encode("utf-8", "replace")
    return draw(st.sampled_from([between, content[:start] + between + content[end:]]))


_BY_KIND: dict[str, Callable[[bytes], SearchStrategy[bytes]]] = {
    "json": changed_json,
    "yaml": changed_yaml,
    "csv": changed_csv,
    "zip": changed_zip,
    "npz": changed_zip,
    "npy": changed_npy,
    "safetensors": changed_tensors,
    "txt": sentences,
}


def changed(name: str, content: bytes) -> SearchStrategy[bytes]:
    """Return other contents of a file: three of four keep the structure of its kind, if it has one."""
    of_kind = _BY_KIND.get(name.rpartition(".")[2])
    if of_kind is None or not content:
        return edited(content)
    return st.one_of(edited(content), *[of_kind(content)] * 3)
