"""Reads BUILD.bazel and MODULE.bazel where Bazel is not: Starlark is Python's syntax, and the rules are calls. Every
file that they name exists, the library has CMake's sources, and the version is the header's, in docs/integration.md too.
    read_build_files.py ROOT PAGE
SPDX-License-Identifier: MIT
"""

import pathlib
import re
import sys

root, page = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
targets, modules, dependencies, loaded = {}, {}, {}, []


def glob(include, exclude=()):
    found = {str(path.relative_to(root)) for pattern in include for path in root.glob(pattern)}
    return sorted(found - {str(path.relative_to(root)) for pattern in exclude for path in root.glob(pattern)})


def rule(kind):
    def call(name, **attributes):
        if name in targets:
            raise SystemExit(f"two targets are called {name}")
        targets[name] = (kind, attributes)
    return call


def load(file, *names):
    loaded.append(file)
    rules.update({name: rule(name) for name in names})


rules = {
    "load": load,
    "glob": glob,
    "select": lambda choices: choices["//conditions:default"],
    "package": lambda **_: None,
    "licenses": lambda _: None,
    "config_setting": rule("config_setting"),
    "module": lambda name, version=None, **_: modules.update({name: version}),
    "bazel_dep": lambda name, version=None, **_: dependencies.update({name: version}),
    "local_path_override": lambda **_: None,
}


def run(text, name):
    tree = compile(text, name, "exec")
    exec(tree, rules)  # calls only: names that are not above are errors


failures = []


def expect(true, what):
    if not true:
        failures.append(what)


run((root / "MODULE.bazel").read_text(encoding="utf-8"), "MODULE.bazel")
run((root / "BUILD.bazel").read_text(encoding="utf-8"), "BUILD.bazel")
header = (root / "include/qkv.h").read_text(encoding="utf-8")
version = ".".join(re.findall(r"(?m)^#define QKV_VERSION_[A-Z]+ (\d+)$", header))
expect(modules == {"qkv": version}, f"MODULE.bazel says {modules}, the header {version}")
expect({file[1:].partition("//")[0] for file in loaded} == set(dependencies), f"{loaded} need {dependencies}")

kind, library = targets["qkv"]
expect(kind == "cc_library" and library["linkstatic"], "qkv is a library that is linked statically, as it is hidden")
expect("-O3" in library["copts"], "qkv optimises itself")
expect([source for source in library["srcs"] if source.endswith(".c")] == glob(["src/**/*.c"]), "every source is there")
files = set(library["srcs"] + library["hdrs"] + library["textual_hdrs"])
expect(files >= set(glob(["src/**/*.h", "include/*.h", "adapters/*/qkv/*.h"])), "every header is there")
kind, tool = targets["qkv-info"]
expect(set(tool["srcs"]) == set(glob(["tools/*.c", "tools/*.h"])), "qkv-info is the files of tools")
for name in files | set(tool["srcs"]) | set(library["includes"]):
    expect((root / name).exists(), f"{name} is not there")

targets.clear(), modules.clear(), dependencies.clear()
for name, text in re.findall(r"(?ms)^```starlark (\S+)\n(.*?)^```$", page.read_text(encoding="utf-8")):
    run(text, name)
expect(dependencies.get("qkv") == version, f"the page asks for qkv {dependencies.get('qkv')}, which is {version}")
expect(targets.get("own", [None])[0] == "cc_binary", "the page has a cc_binary")
for failure in failures:
    print(failure)
print(f"{len(files)} files of the library, qkv {version}")
sys.exit(bool(failures))
