#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Install into a fresh place, build a ten-line program with pkg-config's flags, run it.

    install.py BUILD_DIR PROGRAM.c INCLUDE_DIR SANITIZERS C_COMPILER...

The program loads the default model from where it was installed, once linked to the shared and once
to the static library.
"""

import filecmp
import glob
import os
import shlex
import subprocess
import sys
import tempfile


def run(command, **keywords):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def find_one(root, name):
    found = glob.glob(f"{root}/**/{name}", recursive=True)
    if len(found) != 1:
        sys.exit(f"{name}: installed {len(found)} times: {found}")
    return found[0]


def pkg_config(environment, *words):
    command = ["pkg-config", "--cflags", "--libs", *(words or ["ser"])]
    return shlex.split(run(command, env=environment))


def static_flags(root, environment):
    """Our archive and other people's shared libraries, so without what only their archives need."""
    needed = run(["pkg-config", "--print-requires-private", "ser"], env=environment).split()
    deep = set(pkg_config(environment, "--static", *needed)) - set(pkg_config(environment, *needed))
    return [find_one(root, "libser.a") if flag == "-lser" else flag
            for flag in pkg_config(environment, "--static", "ser")
            if flag not in deep or flag == "-lm"]


def check_module(root, library, environment):
    """The CUDA module, where it was built, is found beside the library, wherever that is."""
    tool = glob.glob(f"{root}/**/bin/ser-predict", recursive=True)
    modules = glob.glob(f"{root}/**/libser-cuda.so", recursive=True)
    if not tool:
        return
    listed = subprocess.run([tool[0], "--list-devices", "--json"], capture_output=True, text=True,
                            env=environment, check=False).stdout
    if modules != ([f"{library}/ser/libser-cuda.so"] if modules else []):
        sys.exit(f"libser-cuda.so: installed in {modules}")
    if bool(modules) == ("libser-cuda.so is not in" in listed):
        sys.exit(f"libser-cuda.so is {'' if modules else 'not '}installed: {listed}")


def main():
    build, program, include, sanitizers, *compiler = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root:
        environment = dict(os.environ)
        environment.pop("SER_MODEL", None)
        environment.pop("SER_MODULE_PATH", None)
        environment.pop("DESTDIR", None)
        run([*shlex.split(os.environ.get("MESON", "meson")), "install", "-C", build, "--no-rebuild",
             "--quiet", "--destdir", root], env=environment)

        headers = os.path.dirname(find_one(root, "ser.h"))
        for header in glob.glob(include + "/ser/*.h"):
            if not filecmp.cmp(header, f"{headers}/{os.path.basename(header)}", shallow=False):
                sys.exit(f"{header}: not installed as it is")
        library = os.path.dirname(find_one(root, "libser.so.0"))
        environment.update(PKG_CONFIG_PATH=os.path.dirname(find_one(root, "ser.pc")),
                           PKG_CONFIG_SYSROOT_DIR=root, LD_LIBRARY_PATH=library,
                           ASAN_OPTIONS="detect_leaks=0")
        check_module(root, library, environment)
        extra = [] if sanitizers in ("", "none") else [f"-fsanitize={sanitizers}"]
        binary = f"{headers[:-len('/include/ser')]}/bin/program"  # finds the model beside it
        os.makedirs(os.path.dirname(binary), exist_ok=True)
        for static in (False, True):
            flags = static_flags(root, environment) if static else pkg_config(environment)
            run([*compiler, "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *extra,
                 program, "-o", binary, *flags], env=environment)
            version, labels, path = run([binary], env=environment).split()
            print(f"{'static' if static else 'shared'}: libser {version}, {labels} labels")
            if int(labels) < 2 or not path.endswith("ser-mini.safetensors"):
                sys.exit(f"the default model is odd: {labels} labels in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
