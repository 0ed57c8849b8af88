#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The shared library exports what lib/ser.map lists, no more, no less, and the headers declare it.
Every global of the static library has the prefix, so that it cannot clash with a program's own.

    symbols.py LIBRARY MAP INCLUDE_DIR SOVERSION ARCHIVE
"""

import glob
import re
import subprocess
import sys


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exported(library):
    names, nodes = set(), set()
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        _, kind, name = line.split(maxsplit=2)
        symbol, _, node = name.partition("@@")
        if kind == "A":
            nodes.add(symbol)
        else:
            names.add((symbol, node))
    return names, nodes


def unprefixed(archive):
    """Globals of ours; names with two underscores in front are the compiler's (sanitizers)."""
    names = re.findall(r" [TDRBVW] (\w+)$", run("nm", "-g", "--defined-only", archive), re.M)
    return sorted({name for name in names if not name.startswith(("ser_", "__"))})


def mapped(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    names = set()
    for node, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", text, re.S):
        body = body.partition("local:")[0].replace("global:", "")
        names |= {(name.strip(), node) for name in body.split(";") if name.strip()}
    return names


def declared(include):
    names = set()
    for header in glob.glob(include + "/ser/*.h"):
        with open(header, encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/|^\s*#[^\n]*", " ", file.read(), flags=re.S | re.M)
        names |= set(re.findall(r"\bSER_API\b[^;(]*?(\w+)\s*\(", text))
    return names


def main():
    library, map_file, include, soversion, archive = sys.argv[1:6]
    names, _ = exported(library)
    wanted = mapped(map_file)
    complaints = [f"exported but not in the map: {n}" for n in sorted(names - wanted)]
    complaints += [f"in the map but not exported: {n}" for n in sorted(wanted - names)]
    functions = {name for name, _ in wanted}
    public = declared(include)
    complaints += [f"declared but not in the map: {n}" for n in sorted(public - functions)]
    complaints += [f"in the map but not declared: {n}" for n in sorted(functions - public)]
    complaints += [f"no ser_ prefix: {n}" for n in sorted(functions) if not n.startswith("ser_")]
    dynamic = run("objdump", "-p", library)
    if not re.search(rf"SONAME\s+libser\.so\.{soversion}\n", dynamic):
        complaints.append(f"the soname is not libser.so.{soversion}")
    if re.search(r"NEEDED\s+lib(cuda|cublas|cudnn|mpi|stdc\+\+)", dynamic):
        complaints.append("the library needs CUDA, MPI or the C++ runtime")
    complaints += [f"no ser_ prefix in the archive: {n}" for n in unprefixed(archive)]
    for complaint in complaints:
        print(complaint)
    print(f"{len(names)} symbols, {len(complaints)} complaints")
    return 1 if complaints or len(names) < 40 else 0


if __name__ == "__main__":
    sys.exit(main())
