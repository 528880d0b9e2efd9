"""Reads mutated `.nb` files in a process of its own, with a limit on memory for all and on time for each.

    python nb_fuzz.py COUNT SEED MEGABYTES FILE [DONOR…]

Prints what came of COUNT mutants of FILE as JSON. Each that parses is also described, compared with the original and
printed: its names may hold anything. Blocks of the donors are spliced in.
"""

import json
import random
import resource
import signal
import struct
import sys
import time
from pathlib import Path

import numpy  # noqa: F401  (the comparison of weights loads it: before the limit, as its libraries reserve memory)

from export import nb_diff, nb_diff_report, nb_file, nb_report

LIMIT_S = 3.0
EXTREMES = (0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x10000, 0xFFFF)


def mutate(rng: random.Random, original: bytes, donors: list[bytes]) -> bytes:
    """One to six changes; two thirds of them where the offsets are: in the header and the topology."""
    data = bytearray(original)
    topology = 26 + int.from_bytes(original[18:26], "little")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        end = min(len(data), topology) if rng.random() < 0.67 else len(data)
        if end < 8:
            break
        at = rng.randrange(end - 4)
        kind = rng.randrange(8)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.randint(1, 64)
            data[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            word = rng.choice((*EXTREMES, len(data), len(data) - at, rng.randrange(end)))
            struct.pack_into("<I", data, at - at % 2 if at > 1 else at, word)
        elif kind == 3:  # a small step in an offset or a count
            value = struct.unpack_from("<I", data, at)[0]
            struct.pack_into("<I", data, at, (value + rng.choice((-4, -1, 1, 4, 256))) & 0xFFFFFFFF)
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 5:  # within the file: names and tables change places
            size, source = rng.randint(1, 200), rng.randrange(end)
            data[at : at + size] = data[source : source + size]
        elif kind == 6:
            donor = rng.choice(donors)
            size, source = rng.randint(1, 400), rng.randrange(len(donor))
            data[at : at + size] = donor[source : source + size]
        elif rng.random() < 0.3:
            del data[rng.choice((at, len(data) - rng.randint(1, 40))) :]
    return bytes(data)


def printable(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


def look(data: bytes, original: nb_file.NbFile) -> str:
    """What became of one file: "refused", "read" or what is wrong with the reader."""
    try:
        nb = nb_file.parse(data)
    except nb_file.NbError as error:
        return "refused" if str(error).isprintable() else f"message {error!r}"
    report = nb_report.describe(nb, ops=True, weights=5)
    found = nb_diff.compare(original, nb)
    json.dumps([report, nb_diff_report.as_json(original, nb, found)], allow_nan=False)
    texts = nb_report.text("f", report), nb_diff_report.text("a", "b", original, nb, found, identical=False)
    if not all(map(printable, texts)):
        return "prints control characters"
    if sum(nb.parts().values()) != len(data):
        return f"parts {nb.parts()} of {len(data)} bytes"
    return "read"


def late(*_: object) -> None:
    raise TimeoutError(f"took {LIMIT_S} s")


def main() -> None:
    count, seed, megabytes = map(int, sys.argv[1:4])
    original, *donors = [Path(name).read_bytes() for name in sys.argv[4:]]
    parsed = nb_file.parse(original)
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (reserved + (megabytes << 20),) * 2)
    signal.signal(signal.SIGVTALRM, late)
    rng = random.Random(seed)
    counts: dict[str, int] = {}
    wrong, slowest = [], 0.0
    for number in range(count):
        data = mutate(rng, original, donors or [original])
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        try:
            result = look(data, parsed)
        except BaseException as error:
            result = repr(error)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        slowest = max(slowest, time.process_time() - start)
        counts[result] = counts.get(result, 0) + 1
        if result not in ("refused", "read"):
            wrong.append((number, result))
    print(json.dumps({"counts": counts, "wrong": wrong[:5], "slowest_s": slowest, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
