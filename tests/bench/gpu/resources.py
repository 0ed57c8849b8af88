# SPDX-License-Identifier: MIT
"""What the kernels of a module need of a multiprocessor, and how many of their blocks it holds.

python3 resources.py libser-cuda.so [--arch 90a] [--launches FILE ...] [--cuobjdump FILE]

Registers, static shared memory and stack come from cuobjdump, threads from the launch bounds in the
module. Dynamic shared memory is a launch's, so it comes from recorded launches (kernels.py LOG
--list); a kernel that is not among them is counted without, and with the threads of its bounds.
A stack is local memory: spilled registers, or arrays that are indexed at run time. Kernels that
have one are listed at the end, and the exit status is 1.
"""

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import kernels

HERE = pathlib.Path(__file__).resolve().parent
REGISTERS = 65536  # of a multiprocessor, a quarter for each of its four schedulers
REGISTER_UNIT = 256  # in which a warp gets them
SHARED_UNIT = 128  # in which a block gets bytes
SHARED_SYSTEM = 1024  # of every block, the system's


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    warps: int
    blocks: int
    shared: int  # bytes, of all its blocks


# CUDA C++ programming guide, "Technical specifications per compute capability".
MULTIPROCESSORS = {
    "80": Multiprocessor(64, 32, 164 << 10),
    "86": Multiprocessor(48, 16, 100 << 10),
    "89": Multiprocessor(48, 24, 100 << 10),
    "90": Multiprocessor(64, 32, 228 << 10),
    "100": Multiprocessor(64, 32, 228 << 10),
    "120": Multiprocessor(48, 24, 100 << 10),
}


def multiprocessor_of(arch):
    known = MULTIPROCESSORS.get(arch.rstrip("af"))
    if known is None:
        raise ValueError(f"nothing is known of sm_{arch}; known: {', '.join(MULTIPROCESSORS)}")
    return known


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of a kernel. Bytes where nothing else is said."""

    registers: int  # of a thread
    stack: int  # of a thread
    shared: int  # static, the system's share left out
    local: int


@dataclasses.dataclass(frozen=True)
class Launch:
    threads: int | None  # of a block; None: the kernel has no bounds
    shared: int | None  # dynamic bytes; None: unknown


# --- Reading ---

ARCH = re.compile(r"arch = sm_(\w+)")
FUNCTION = re.compile(r" Function (\S+?):?$")
FIELDS = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def parse_usage(text):
    """Output of cuobjdump --dump-resource-usage -> {arch: {mangled name: Usage}}."""
    found, arch, function = {}, None, None
    for line in text.splitlines():
        if match := ARCH.match(line):
            arch = match[1]
        elif match := FUNCTION.match(line):
            function = match[1]
        elif match := FIELDS.search(line):
            registers, stack, shared, local = map(int, match.groups())
            # from Hopper on the figure includes the system's share, if there is any besides
            if int(arch.rstrip("af")) >= 90:
                shared = max(0, shared - SHARED_SYSTEM)
            found.setdefault(arch, {})[function] = Usage(registers, stack, shared, local)
    return found


def parse_threads(lines):
    """Output of cuobjdump --dump-elf, of one architecture -> {mangled name: threads of a block}."""
    threads, function, wanted = {}, None, False
    for line in lines:
        if line.startswith("."):
            function = (
                line.strip().removeprefix(".nv.info.") if line.startswith(".nv.info.") else None
            )
        elif function and "EIATTR_MAX_THREADS" in line:
            wanted = True
        elif wanted and "Value:" in line:
            x, y, z = (int(word, 16) for word in line.split("Value:")[1].split()[:3])
            threads[function] = x * y * z
            wanted = False
    return threads


def identity(name):
    """A demangled name without its type and parameters: alike in the module and in a log."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth, end = 0, len(name)
    for i in range(name.rfind(")"), -1, -1):
        depth += (name[i] == ")") - (name[i] == "(")
        if depth == 0:
            end = i
            break
    return name[:end]


LINE = re.compile(r"(.*), grid \d+ \d+ \d+, block (\d+) (\d+) (\d+), shared (\d+)$")


def parse_launches(lines):
    """{identity: Launch}, of each kernel the one with the most shared memory."""
    launches = {}
    for line in lines:
        match = LINE.match(line)
        if match:
            x, y, z, shared = map(int, match.groups()[1:])
            known = launches.get(identity(match[1]))
            if known is None or shared > known.shared:
                launches[identity(match[1])] = Launch(x * y * z, shared)
    return launches


# --- Counting ---


def resident_blocks(usage, launch, multiprocessor):
    """Blocks on a multiprocessor at a time, and what limits them; None: threads are unknown."""
    if launch.threads is None:
        return None
    warps = -(-launch.threads // 32)
    unit = -(-usage.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    shared = usage.shared + (launch.shared or 0) + SHARED_SYSTEM
    shared = -(-shared // SHARED_UNIT) * SHARED_UNIT
    limits = {
        "warps": multiprocessor.warps // warps,
        "blocks": multiprocessor.blocks,
        "registers": 4 * (REGISTERS // 4 // unit) // warps,
        "shared": multiprocessor.shared // shared,
    }
    least = min(limits, key=limits.get)
    return limits[least], least


def rows_of(usages, threads, names, launches, multiprocessor):
    """(op, name, usage, launch, blocks, limit), by op, those with the fewest warps first."""
    rows = []
    for mangled, usage in usages.items():
        name = identity(names[mangled])
        op = kernels.KERNELS.get(kernels.base_name(name), "unknown")
        launch = launches.get(name, Launch(threads.get(mangled), None))
        blocks, limit = resident_blocks(usage, launch, multiprocessor) or (None, "threads unknown")
        rows.append((op, name, usage, launch, blocks, limit))
    return sorted(rows, key=lambda row: (row[0], warps_of(row) or 0, row[1]))


def warps_of(row):
    _, _, _, launch, blocks, _ = row
    return None if blocks is None else blocks * -(-launch.threads // 32)


def report(rows, multiprocessor):
    """Lines of a table, and of what has a stack or local memory."""
    lines = [
        f"{'op':18} {'kernel':58} {'regs':>4} {'threads':>7} {'static':>6} {'dynamic':>7} "
        f"{'stack':>5} {'blocks':>6} {'warps':>5}  limit"
    ]
    spilling = []
    for row in rows:
        op, name, usage, launch, blocks, limit = row
        dynamic = "?" if launch.shared is None else launch.shared
        lines.append(
            f"{op:18} {name[:58]:58} {usage.registers:4} {launch.threads or '?':>7} "
            f"{usage.shared:6} {dynamic:>7} {usage.stack:5} {'?' if blocks is None else blocks:>6} "
            f"{warps_of(row) or '?':>5}  {limit}"
        )
        if usage.stack or usage.local:
            spilling.append(f"{name}: {usage.stack} bytes of stack, {usage.local} of local memory")
    known = [row for row in rows if row[4] is not None]
    lowest = min(known, key=warps_of, default=None)
    if lowest:
        lines.append(
            f"{len(rows)} kernels; fewest warps: {warps_of(lowest)} of {multiprocessor.warps} in "
            f"{lowest[1]}"
        )
    return lines, spilling


# --- Running ---


def find_cuobjdump():
    """That of the toolkit, or the one that Triton brings along with PyTorch."""
    places = [shutil.which("cuobjdump")]
    places += [
        os.path.join(root, "bin", "cuobjdump")
        for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
        if root
    ]
    triton = importlib.util.find_spec("triton")
    for root in triton.submodule_search_locations if triton else []:
        places.append(os.path.join(root, "backends", "nvidia", "bin", "cuobjdump"))
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    raise FileNotFoundError(
        "no cuobjdump in PATH, CUDA_HOME/bin, /usr/local/cuda/bin or Triton; see --cuobjdump"
    )


def output_of(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def demangle(names):
    names = list(names)
    output = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    )
    return dict(zip(names, output.stdout.splitlines(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module")
    parser.add_argument("--arch", default="90a")
    recorded = [HERE / "launches.txt", HERE / "launches_training.txt"]
    parser.add_argument("--launches", type=pathlib.Path, nargs="+", default=recorded)
    parser.add_argument("--cuobjdump", help="the program")
    arguments = parser.parse_args()
    try:
        multiprocessor = multiprocessor_of(arguments.arch)
        command = [arguments.cuobjdump or find_cuobjdump(), "-arch", f"sm_{arguments.arch}"]
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    usages = parse_usage(output_of([*command, "--dump-resource-usage", arguments.module]))
    if arguments.arch not in usages:
        sys.exit(f"{arguments.module} has no code for sm_{arguments.arch}")
    usages = usages[arguments.arch]
    threads = parse_threads(output_of([*command, "--dump-elf", arguments.module]).splitlines())
    recorded = [file.read_text(encoding="utf-8") for file in arguments.launches]
    launches = parse_launches("\n".join(recorded).splitlines())
    rows = rows_of(usages, threads, demangle(usages), launches, multiprocessor)
    lines, spilling = report(rows, multiprocessor)
    print("\n".join(lines + spilling))
    sys.exit(1 if spilling else 0)


if __name__ == "__main__":
    main()
