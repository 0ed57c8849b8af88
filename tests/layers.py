#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Who may include whom (lib/README.md), and which words stay in their one place.

    python3 tests/layers.py [SOURCE_ROOT]      # prints every breach; status 1 if there is one
    python3 tests/layers.py --self-test        # every rule must be able to fail
"""

import os
import re
import sys
import tempfile

# What each part of the tree may include: "x/" is a folder with all below it, "x/*" the files
# directly in it, anything else one file.
EDGES = {
    "lib/base": ["base/"],
    "lib/audio": ["audio/", "base/"],
    "lib/ops": ["ops/*", "base/"],
    "lib/ops/cpu": ["ops/cpu/", "ops/*", "base/"],
    "lib/ops/cuda": ["ops/cuda/", "ops/*", "base/"],
    "lib/net": ["net/", "ops/ops.h", "ops/tensor.h", "base/"],
    "lib/model": ["model/", "net/", "ops/*", "base/"],
    "lib/predict": ["predict/", "model/", "net/", "audio/", "ops/*", "base/"],
    "lib/train": ["train/", "model/", "net/", "audio/", "ops/*", "base/"],
    "lib/api": ["api/", "train/", "predict/", "model/", "net/", "audio/", "ops/*", "base/"],
    "include/ser": [],
    "tools": [],
    "bindings": [],
    "examples": [],
}

# Public headers: anywhere, but base is a leaf and knows the status codes only.
PUBLIC = {"lib/base": {"ser/common.h", "ser/version.h"}}

# Identifiers and headers of other libraries, and the only places that may use them.
WORDS = [
    ("libsndfile", r"sndfile\.h|SNDFILE|SF_INFO|sf_(?:open|close|read|seek|command|error)\w*",
     ["lib/audio/", "tools/recording.c"]),
    ("libsoxr", r"soxr\w*(?:\.h)?", ["lib/audio/"]),
    ("mpg123", r"mpg123\w*(?:\.h)?", ["lib/audio/"]),
    ("oneDNN", r"dnnl\w*(?:\.h)?", ["lib/ops/cpu/"]),
    ("OpenMP", r"omp(?:\.h|_\w+)|pragma\s+omp", ["lib/ops/cpu/"]),
    ("CUDA", r"(?:cuda|cublas|cudnn|nccl)\w*(?:\.h)?|__global__|__device__", ["lib/ops/cuda/"]),
    ("jansson", r"jansson\.h|json_t|json_(?:load|dump|object|array|string|decref|pack)\w*",
     ["lib/model/", "tools/"]),
    ("libzip", r"zip\.h|(?:zip|ZIP)_\w+", ["lib/model/archive.c"]),
    ("xxhash", r"xxhash\.h|XXH(?:3|32|64|128)?_\w+",
     ["lib/train/checkpoint_files.c", "lib/train/inputs.c", "tools/dataset.c", "tools/intern.c",
      "tools/scan.c"]),
    ("libcsv", r"csv\.h|CSV_(?!TABLE)\w+|"
               r"csv_(?:parser?|init|fini|free|f?write2?|(?:str)?error|[gs]et_\w+)",
     ["tools/csvtable.c", "tools/csvtable.h"]),
    ("Random123", r"Random123/\w+\.h|philox\dx\d\d\w*", ["lib/base/rng.c", "lib/ops/cuda/philox.cuh", "tools/metrics.c"]),
    ("microphone", r"pulse/\w+\.h|pa_(?:simple|mainloop|context|stream)\w*|asoundlib\.h|snd_pcm\w*",
     ["tools/capture/"]),
]

# Functions that a library does not call: it does not print, and does not end the process; memory
# comes from base/mem.h.
CALLS = [
    ("printing", r"(?:v?f?printf|puts|fputs|putchar|perror)", []),
    ("ending the process", r"(?:abort|exit|_exit|_Exit|quick_exit|assert)", []),
    ("allocating", r"(?:malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|strn?dup|"
                   r"v?asprintf)", ["lib/base/mem.c"]),
]

SOURCE = (".c", ".h", ".cu", ".cuh")


def part_of(path):
    """The longest part of EDGES that holds the file."""
    parts = [p for p in EDGES if path.startswith(p + "/")]
    return max(parts, key=len) if parts else None


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def code_of(text):
    """Without comments and the content of strings, but all lines; #include lines stay whole."""
    lines = re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S).split("\n")
    return "\n".join(line if re.match(r"\s*#\s*include", line)
                     else re.sub(r'"(?:\\.|[^"\\])*"', '""', line) for line in lines)


def allowed(include, rules):
    for rule in rules:
        if rule.endswith("/*"):
            if include.startswith(rule[:-1]) and "/" not in include[len(rule) - 1:]:
                return True
        elif include == rule or (rule.endswith("/") and include.startswith(rule)):
            return True
    return False


def check_includes(path, code):
    part = part_of(path)
    for number, line in enumerate(code.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not match:
            continue
        quoted, include = match.group(1) == '"', match.group(2)
        where = f"{path}:{number}"
        if ".." in include.split("/"):
            yield f"{where}: {include}: no way out of the folder"
        elif include.startswith("ser/"):
            if include not in PUBLIC.get(part, {include}):
                yield f"{where}: {part} may not include {include}"
        elif not part.startswith("lib/"):
            beside = os.path.dirname(path) + "/" + include
            if quoted and part == "include/ser":
                yield f"{where}: public headers include <ser/...> and the C library only"
            elif quoted and not (beside in FILES or part + "/" + include in FILES
                                 or include.startswith("config")):
                yield f"{where}: {part} may include <ser/...> and its own headers, not {include}"
        elif quoted and not allowed(include, EDGES[part]):
            yield f"{where}: {part} may not include {include}"


def check_words(path, code):
    for number, line in enumerate(code.split("\n"), 1):
        for name, pattern, places in WORDS:
            found = re.search(r"(?<!\w)(?:" + pattern + r")(?!\w)", line)
            if found and not any(path.startswith(p) for p in places):
                yield f"{path}:{number}: {name} ({found.group(0)}) outside {', '.join(places)}"
        for name, pattern, places in CALLS:
            found = re.search(r"(?<![\w.>])" + pattern + r"\s*\(", line)
            if found and path.startswith("lib/") and path not in places:
                yield f"{path}:{number}: {name}: {found.group(0)}...)"


FILES = set()


def check_tree(root):
    FILES.clear()
    for top in sorted({p.split("/")[0] for p in EDGES}):
        for folder, _, names in os.walk(os.path.join(root, top)):
            FILES.update(os.path.relpath(os.path.join(folder, n), root).replace(os.sep, "/")
                         for n in names if n.endswith(SOURCE))
    breaches = []
    for path in sorted(FILES):
        if part_of(path) is None:
            breaches.append(f"{path}: in no part of the tree that has a rule")
            continue
        with open(os.path.join(root, path), encoding="utf-8") as file:
            code = code_of(file.read())
        breaches += check_includes(path, code)
        breaches += check_words(path, code)
    return breaches, len(FILES)


def self_test():
    """A small tree per rule: (file, content, whether that is a breach)."""
    cases = [
        ("lib/base/a.c", '#include "ops/ops.h"', True),
        ("lib/base/a.c", "#include <ser/audio.h>", True),
        ("lib/base/a.c", "#include <ser/common.h>", False),
        ("lib/audio/a.c", '#include "base/mem.h"\n#include <sndfile.h>', False),
        ("lib/audio/a.c", '#include "ops/ops.h"', True),
        ("lib/net/a.c", '#include "ops/ops.h"', False),
        ("lib/net/a.c", '#include "ops/device.h"', True),
        ("lib/net/a.c", '#include "ops/cpu/cpu.h"', True),
        ("lib/net/a.c", '#include "model/model.h"', True),
        ("lib/net/a.c", '#include "../ops/cpu/cpu.h"', True),
        ("lib/ops/a.c", '#include "ops/cpu/cpu.h"', True),
        ("lib/ops/cpu/a.c", '#include "ops/cpu/cpu.h"\n#include <dnnl.h>', False),
        ("lib/ops/cpu/a.c", '#include "net/net.h"', True),
        ("lib/ops/cpu/a.c", "cudaMalloc(&x, 1);", True),
        ("lib/predict/a.c", '#include "train/trainer.h"', True),
        ("lib/train/a.c", '#include "predict/predictor.h"', True),
        ("lib/model/a.c", '#include "audio/audio.h"', True),
        ("lib/api/a.c", '#include "predict/predictor.h"', False),
        ("lib/api/a.c", "#include <jansson.h>", True),
        ("lib/model/a.c", "#include <jansson.h>", False),
        ("lib/model/archive.c", "#include <zip.h>\nzip_t *z; x = ZIP_SOURCE_STAT;", False),
        ("lib/model/a.c", "#include <zip.h>", True),
        ("lib/predict/a.c", "zip_t *z;", True),
        ("lib/train/checkpoint_files.c", "#include <xxhash.h>\nXXH3_state_t *s;", False),
        ("lib/train/a.c", "#include <xxhash.h>", True),
        ("tools/scan.c", "hash = XXH3_64bits(p, n);", False),
        ("tools/a.c", "hash = XXH3_64bits(p, n);", True),
        ("tools/csvtable.h", "#include <csv.h>\nstruct csv_parser p;", False),
        ("tools/a.c", "#include <csv.h>", True),
        ("tools/a.c", "struct csv_parser p;", True),
        ("tools/a.c", "csv_init(&p, CSV_STRICT);", True),
        ("tools/a.c", "csv_table t; t.count = CSV_TABLE_NONE; csv_table_free(&t);", False),
        ("lib/base/rng.c", "#include <Random123/philox.h>\nphilox4x32_ctr_t c;", False),
        ("lib/train/a.c", "#include <Random123/philox.h>", True),
        ("lib/train/a.c", "philox4x32_ctr_t c;", True),
        ("lib/model/a.c", "soxr_t s;", True),
        ("lib/model/a.c", "/* soxr_t, printf() */ char *s = \"dnnl_x abort()\"; // sf_open", False),
        ("lib/model/a.c", "printf(\"x\");", True),
        ("lib/model/a.c", "snprintf(b, 1, \"x\");", False),
        ("lib/model/a.c", "abort();", True),
        ("lib/model/a.c", "x = malloc(3);", True),
        ("lib/model/a.c", "ops->alloc(3); queue->exit(2); at_exit(3);", False),
        ("lib/base/mem.c", "x = aligned_alloc(64, 3);", False),
        ("lib/new/a.c", "int x;", True),
        ("include/ser/a.h", '#include "base/mem.h"', True),
        ("include/ser/a.h", "#include <ser/common.h>", False),
        ("tools/a.c", "#include <ser/ser.h>\n#include \"a.h\"", True),
        ("tools/a.c", "#include <ser/ser.h>\n#include \"a.c\"", False),
        ("tools/a.c", '#include "base/mem.h"', True),
        ("tools/capture/a.c", '#include "capture/a.c"\n#include <alsa/asoundlib.h>', False),
        ("tools/capture/a.c", '#include "base/mem.h"', True),
        ("tools/a.c", "#include <pulse/stream.h>\npa_stream *s;", True),
        ("tools/a.c", "snd_pcm_t *pcm;", True),
        ("examples/a.c", '#include "base/mem.h"', True),
        ("examples/a.c", "printf(\"x\"); exit(1);", False),
    ]
    failures = 0
    for path, content, wrong in cases:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, os.path.dirname(path)))
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(content + "\n")
            breaches, _ = check_tree(root)
        if bool(breaches) != wrong:
            failures += 1
            print(f"self-test: {path}: {content!r} gives {breaches}")
    print(f"self-test: {len(cases)} cases, {failures} failures")
    return failures


def main():
    if sys.argv[1:2] == ["--self-test"]:
        return 1 if self_test() else 0
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..")
    breaches, count = check_tree(root)
    for breach in breaches:
        print(breach)
    print(f"{count} files, {len(breaches)} breaches")
    return 1 if breaches or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
