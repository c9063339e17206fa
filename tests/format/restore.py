#!/usr/bin/env python3
"""A second reader of Varve's repository format, written from docs/format.md alone.

    restore.py list    REPOSITORY_FOLDER KEY_FILE
    restore.py restore REPOSITORY_FOLDER KEY_FILE SNAPSHOT_ID OUTPUT_FILE

It shares no code with Varve. It keeps the format honest, and is the last resort of whoever has a repository, its key
and no Varve: Python 3.11 with blake3, zstandard and cryptography is all that it needs. It is not made to be fast.
Whatever breaks the format is refused, and what was written of the image until then is removed.
"""

import json
import os
import re
import struct
import sys
import uuid
from bisect import bisect_left, bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Iterator, NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 4096
VERSION = 1
# Kinds of objects, from the table of the layout.
REPOSITORY, ROOT, TOMBSTONE, RELOCATION = 1, 4, 5, 8
SNAPSHOT = re.compile("snap-[0-9a-f]{32}")
LAST = 0xFFFFFFFF  # the ordinal under which tables and indexes are sealed


class Refused(Exception):
    """What the repository holds is not what the format or its hashes say."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)


def derive(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=f"varve format 1 {context}").digest()


def unseal(key: bytes, nonce: int | bytes, sealed: bytes, associated: bytes, what: str) -> bytes:
    """Opens what is sealed under an ordinal, or under a nonce of its own."""
    nonce = struct.pack("<I8x", nonce) if isinstance(nonce, int) else nonce
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag as error:
        raise Refused(f"{what} does not open under its key") from error


def inflate(frame: bytes, limit: int, what: str) -> bytes:
    """Decompresses one zstd frame of at most `limit` plain bytes."""
    try:
        check(0 <= zstandard.frame_content_size(frame) <= limit, f"{what} does not say its size, or is too long")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(f"{what} is no zstd frame: {error}") from error


class Reference(NamedTuple):
    """Refers to a pack."""

    pack: bytes
    size: int
    table: int
    table_hash: bytes

    def __str__(self) -> str:
        return f"pack {self.pack.hex()}"


# Where the chunks of a repacked pack are now: another pack, and runs of chunks as the first one's ordinal in the pack that
# was repacked, its ordinal here, and their number.
Target = tuple[Reference, list[list[int]]]


# Its first block, the block past its last, and where they are: a pack, or none where they are zero, the chunk's ordinal
# there, and how many of the chunk's blocks come before.
Extent = tuple[int, int, Reference | None, int, int]


class Repository:
    """A repository in a local folder, opened with a master key."""

    def __init__(self, folder: Path, key_file: Path):
        self.folder = folder
        digits = re.fullmatch(b"([0-9a-fA-F]{64})\r?\n?", key_file.read_bytes())
        check(digits is not None, f"{key_file} holds no master key")
        identity = self.identity()
        check(identity["format"] <= VERSION, f"the repository has format {identity['format']}")
        self.data_key = self.open_slots(identity, bytes.fromhex(digits[1].decode()))
        self.chunk_ids = derive("chunk id", self.data_key)

    def identity(self) -> dict:
        """Reads what stands at `repository` or, where that is missing, damaged or older, its copy."""
        found, refused = [], None
        for key in ("repository", "repository.copy"):
            try:
                kind, identity = self.record(key)
                check(kind == REPOSITORY, f"{key} is another kind of object")
                found.append(identity)
            except (Refused, FileNotFoundError) as error:
                refused = refused or error
        if not found:
            raise refused
        alike = [identity for identity in found if identity["uuid"] == found[0]["uuid"]]
        return max(alike, key=lambda identity: identity.get("generation", 0))

    @staticmethod
    def open_slots(identity: dict, master: bytes) -> bytes:
        associated = uuid.UUID(identity["uuid"]).bytes
        for slot in identity["slots"]:
            key = derive("key slot", master + bytes.fromhex(slot["salt"]))
            try:
                return AESGCM(key).decrypt(bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["sealed_key"]), associated)
            except InvalidTag:
                pass  # another master key's slot
        raise Refused("the master key is wrong: it opens no slot")

    def record(self, key: str) -> tuple[int, dict]:
        """Reads a record: its kind and its fields."""
        data = (self.folder / key).read_bytes()
        magic, kind, version = struct.unpack_from("<5sBH", data)
        check(magic == b"VARVE", f"{key} is no object of a repository")
        check(version == VERSION, f"{key} has format version {version}; this reads version {VERSION}")
        sealing, zeros, length = struct.unpack_from("<B3sI", data, 8)
        check(len(data) == 28 + length + 32 <= 16 << 20, f"{key} does not end where its length says, or is too long")
        check(blake3(data[:-32]).digest() == data[-32:], f"{key} is damaged: its hash differs")
        # Only what holds the keys of all others is plain.
        check(zeros == bytes(3) and sealing == int(kind != REPOSITORY), f"{key} has an unknown sealing")
        payload = data[28:-32]
        if sealing:
            payload = unseal(derive("record", self.data_key), data[16:28], payload, data[:28] + key.encode(), key)
        return kind, json.loads(payload)

    def root(self, snapshot: str) -> dict | None:
        """Reads a root; nothing where a tombstone stands."""
        kind, root = self.record(f"snapshots/{snapshot}")
        check(kind in (ROOT, TOMBSTONE), f"snapshots/{snapshot} is another kind of object")
        return root if kind == ROOT else None

    def extents(self, run: dict) -> Iterator[Extent]:
        """Reads a run as a root refers to it: the index vouched for by the root, the pages by the index."""
        what, id_ = f"run {run['id']}", bytes.fromhex(run["id"])
        key = derive("run", self.data_key + id_)
        data = (self.folder / "runs" / run["id"]).read_bytes()
        check(len(data) == run["object_bytes"], f"{what} has {len(data)} bytes, not {run['object_bytes']}")
        sealed = data[run["index_offset"] :]
        check(len(sealed) <= 64 << 20, f"the index of {what} is too long")
        check(blake3(sealed).hexdigest() == run["index_hash"], f"the index of {what} is damaged: its hash differs")
        index = unseal(key, LAST, sealed, id_, f"the index of {what}")
        packs, pages = struct.unpack_from("<II", index)
        check(len(index) == 8 + 56 * packs + 56 * pages, f"the index of {what} has a wrong length")
        references = [Reference(*row) for row in struct.iter_unpack("<16sII32s", index[8 : 8 + 56 * packs])]
        check(len({reference.pack for reference in references}) == packs, f"{what} refers to a pack twice")
        offset, end = 8, 0
        for number, row in enumerate(struct.iter_unpack("<QQII32s", index[8 + 56 * packs :])):
            first, past, stored, count, page_hash = row
            page = f"page {number} of {what}"
            check(end <= first < past and 1 <= count <= 4096, f"{page} is out of order")
            check(stored <= 256 << 10, f"{page} is too long")
            sealed, offset, end = data[offset : offset + stored], offset + stored, past
            check(blake3(sealed).digest() == page_hash, f"{page} is damaged: its hash differs")
            rows = inflate(unseal(key, number, sealed, id_, page), 31 * count, page)
            extents = list(decode(rows, references, page))
            found = len(extents), extents[0][0], extents[-1][1]
            check(found == (count, first, past), f"{page} has other extents than its index says")
            yield from extents
        check(offset == run["index_offset"], f"the pages of {what} do not end where its index starts")

    @lru_cache(maxsize=256)
    def relocation(self, pack: bytes) -> tuple[bytes, list[Target]] | None:
        """Reads what stands for a repacked pack: its sealed table and its targets; nothing where it is not repacked."""
        key = f"relocated/{pack.hex()}"
        if (self.folder / "packs" / pack.hex()).exists() or not (self.folder / key).exists():
            return None
        kind, record = self.record(key)
        check(kind == RELOCATION and record["pack"] == pack.hex(), f"{key} is of another object")
        targets = []
        for target in record["targets"]:
            reference = Reference(*struct.unpack("<16sII32s", bytes.fromhex(target["reference"])))
            targets.append((reference, target["chunks"]))
        return bytes.fromhex(record["table"]), targets

    @lru_cache(maxsize=32)
    def table(self, reference: Reference) -> list[tuple[bytes, int, int, int, int]]:
        """Reads a pack's table, vouched for by the reference: id, offset, stored length, blocks and codec of chunks."""
        what = str(reference)
        if relocation := self.relocation(reference.pack):
            data = relocation[0]
            check(len(data) == reference.size - reference.table, f"the table of {what} has a wrong length")
        else:
            data = self.pack_bytes(reference, reference.table, reference.size - reference.table)
        check(blake3(data).digest() == reference.table_hash, f"the table of {what} is damaged: its hash differs")
        key = derive("pack", self.data_key + reference.pack)
        table = unseal(key, LAST, data, reference.pack, f"the table of {what}")
        count = int.from_bytes(table[:4], "little")
        check(count <= 8192 and len(table) == 4 + 38 * count, f"the table of {what} has a wrong length")
        chunks, offset = [], 8
        for id_, stored, blocks, codec in struct.iter_unpack("<32sIBB", table[4:]):
            check(16 < stored <= 131088 and 1 <= blocks <= 32, f"{what} has a chunk of a wrong length")
            chunks.append((id_, offset, stored, blocks, codec))
            offset += stored
        check(offset == reference.table, f"the chunks of {what} do not end where its table starts")
        return chunks

    @lru_cache(maxsize=256)
    def chunk(self, reference: Reference, ordinal: int) -> bytes:
        """Reads a chunk's plain bytes from its pack or, where that was repacked, from the first target that has it."""
        what = f"chunk {ordinal} of {reference}"
        table = self.table(reference)
        check(ordinal < len(table), f"{what} is not there")
        id_, _, _, blocks, _ = table[ordinal]
        relocation = self.relocation(reference.pack)
        if relocation is None:
            return self.stored_chunk(reference, ordinal, (id_, blocks))
        refused = Refused(f"{what} is in no pack that it was repacked into")
        for target, chunks in relocation[1]:
            for first, place, count in chunks:
                if first <= ordinal < first + count:
                    try:
                        return self.stored_chunk(target, place + ordinal - first, (id_, blocks))
                    except (Refused, FileNotFoundError) as error:
                        refused = error  # another target may be there, and whole
        raise refused

    def stored_chunk(self, reference: Reference, ordinal: int, wanted: tuple[bytes, int]) -> bytes:
        """Reads the plain bytes of the chunk of that id and length, which is at that place of a pack that is there."""
        what = f"chunk {ordinal} of {reference}"
        table = self.table(reference)
        check(ordinal < len(table), f"{what} is not there")
        id_, offset, stored, blocks, codec = table[ordinal]
        check((id_, blocks) == wanted, f"{what} is another one than is wanted")
        sealed = self.pack_bytes(reference, offset, stored)
        plain = unseal(derive("pack", self.data_key + reference.pack), ordinal, sealed, id_, what)
        check(codec in (0, 1), f"{what} has codec {codec}")
        if codec == 1:
            plain = inflate(plain, blocks * BLOCK, what)
        check(len(plain) == blocks * BLOCK, f"{what} has a wrong length")
        check(blake3(plain, key=self.chunk_ids).digest() == id_, f"{what} is not what its id says")
        return plain

    def pack_bytes(self, reference: Reference, offset: int, length: int) -> bytes:
        what = str(reference)
        with open(self.folder / "packs" / reference.pack.hex(), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            check(size == reference.size, f"{what} has {size} bytes, not {reference.size}")
            check(8 <= offset and 0 <= length and offset + length <= size, f"{what} ends too early")
            return os.pread(file.fileno(), length, offset)


def decode(rows: bytes, packs: list[Reference], what: str) -> Iterator[Extent]:
    """Decodes the rows of a page."""
    at = 0

    def byte() -> int:
        nonlocal at
        check(at < len(rows), f"{what} ends within a row")
        at += 1
        return rows[at - 1]

    def varint() -> int:
        value, shift = 0, 0
        while (part := byte()) & 0x80:
            value, shift = value | (part & 0x7F) << shift, shift + 7
            check(shift < 64, f"{what} has a number that is too long")
        check(part != 0 or shift == 0, f"{what} has a number that is longer than need be")
        return value | part << shift

    def signed() -> int:
        value = varint()
        return -(value >> 1) - 1 if value & 1 else value >> 1

    end = pack = chunk = 0
    while at < len(rows):
        start, length = end + varint(), varint()
        end = start + (length >> 1)
        check(start < end <= 1 << 52, f"{what} has an extent of a wrong length")
        if not length & 1:
            yield start, end, None, 0, 0
            continue
        pack, chunk = pack + signed(), chunk + signed()
        check(0 <= pack < len(packs) and 0 <= chunk, f"{what} refers to a pack or chunk that is not there")
        yield start, end, packs[pack], chunk, byte()


class Covered:
    """Blocks that newer extents have covered already, as ranges that do not touch."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def cover(self, start: int, end: int) -> list[tuple[int, int]]:
        """Covers blocks, and returns the ranges of them that were not."""
        first, past = bisect_left(self.ends, start), bisect_right(self.starts, end)
        starts, ends = self.starts[first:past], self.ends[first:past]
        gaps = [(max(start, left), min(right, end)) for left, right in zip([start, *ends], [*starts, end])]
        self.starts[first:past] = [min([start, *starts])]
        self.ends[first:past] = [max([end, *ends])]
        return [(left, right) for left, right in gaps if left < right]


def restore(repository: Repository, snapshot: str, to: Path) -> None:
    """Writes a snapshot as a sparse image."""
    check(SNAPSHOT.fullmatch(snapshot) is not None, f"{snapshot} is no id of a snapshot")
    root = repository.root(snapshot)
    check(root is not None, f"{snapshot} was deleted")
    capacity, covered = root["description"]["capacity_bytes"], Covered()
    with open(to, "xb") as file:
        try:
            for run in root["runs"]:  # newest first: what covers a block first counts
                for start, end, pack, ordinal, skip in repository.extents(run):
                    gaps = covered.cover(start, end)
                    if pack is None or not gaps:
                        continue
                    plain = repository.chunk(pack, ordinal)
                    check((skip + end - start) * BLOCK <= len(plain), f"run {run['id']} reaches beyond a chunk")
                    for left, right in gaps:
                        file.seek(left * BLOCK)
                        file.write(plain[(skip + left - start) * BLOCK : (skip + right - start) * BLOCK])
            file.truncate(capacity)  # blocks beyond the capacity count for nothing
        except BaseException:
            to.unlink()
            raise


def list_(repository: Repository) -> None:
    """Lists roots: id, time of the cut, bytes, names of the volume and of the snapshot, between tabs."""
    for snapshot in sorted(os.listdir(repository.folder / "snapshots")):
        if SNAPSHOT.fullmatch(snapshot) and (root := repository.root(snapshot)) is not None:
            cut = root["description"]
            print(snapshot, cut["created_at"], cut["capacity_bytes"], cut["volume_name"], cut["name"], sep="\t")


def main(arguments: list[str]) -> None:
    try:
        match arguments:
            case ["list", folder, key_file]:
                list_(Repository(Path(folder), Path(key_file)))
            case ["restore", folder, key_file, snapshot, output]:
                restore(Repository(Path(folder), Path(key_file)), snapshot, Path(output))
            case _:
                sys.exit(__doc__)
    except (Refused, OSError) as error:
        sys.exit(f"error: {error}")
    except (LookupError, TypeError, ValueError, struct.error) as error:
        sys.exit(f"error: a field is missing or malformed: {error!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
