#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every public header compiles alone, twice over, as C99, C11 and C++17, without a warning.

    headers.py INCLUDE_DIR C_COMPILER... [-- C++_COMPILER...]
"""

import glob
import os
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wundef", "-Werror"]


def compile_alone(compiler, language, standard, include, header):
    source = f"#include <ser/{header}>\n#include <ser/{header}>\n"
    if language == "c":
        source += "int main(void) { return 0; }\n"
    result = subprocess.run(
        [*compiler, "-x", language, f"-std={standard}", *WARNINGS, "-fsyntax-only", "-I", include,
         "-"], input=source, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(f"{header} as {standard}:\n{result.stderr}")
    return result.returncode != 0


def main():
    include, words = sys.argv[1], sys.argv[2:]
    split = words.index("--") if "--" in words else len(words)
    c_compiler, cxx_compiler = words[:split], words[split + 1:]
    headers = sorted(os.path.basename(path) for path in glob.glob(include + "/ser/*.h"))
    runs = [(c_compiler, "c", "c99"), (c_compiler, "c", "c11")]
    if cxx_compiler:
        runs.append((cxx_compiler, "c++", "c++17"))
    failures = sum(compile_alone(compiler, language, standard, include, header)
                   for header in headers for compiler, language, standard in runs)
    print(f"{len(headers)} headers, {len(runs)} standards, {failures} failures")
    return 1 if failures or len(headers) < 7 else 0


if __name__ == "__main__":
    sys.exit(main())
