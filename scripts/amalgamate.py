"""Joins include/ and src/ into qkv.h and qkv.c, for scripts/amalgamate.sh.

All sources but the kernel sets follow each other, with every header once. Functions that are not of qkv.h become
static. A kernel set is compiled for its own instructions, with its own copies of what ref/ defines in headers, and all
sets give functions of one template the same names: so each of them is written out whole, and what it defines has the
set's name before it. Its macros are taken away at its end.

SPDX-License-Identifier: MIT"""
import os
import pathlib
import re
import sys

ROOT = pathlib.Path("src")
ONCE = {"src/config.h", "include/qkv.h", "src/kernels/kernels.h"}  # the same for kernel sets and all else
TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_]\w*|.""", re.S)
GUARD = re.compile(r"^#ifndef (QKV_\w*H)\n#define \1\n", re.M)
DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.M)
SPDX = re.compile(r"\n? \*\n \* SPDX-License-Identifier: MIT \*/|  SPDX-License-Identifier: MIT \*/")


def resolve(including, name):
    for folder in (including.parent, ROOT):
        path = pathlib.Path(os.path.normpath(folder / name))
        if path.exists():
            return path
    sys.exit(f"{including}: {name} is not there")


def expand(path, seen):
    """The text of a file with its own includes in it, those with a guard once; of a template again, without comments."""
    text = path.read_text()
    guard = GUARD.search(text)
    if guard:
        if path.as_posix() in seen:
            return ""
        text = text[:guard.start()] + text[guard.end():].rstrip().removesuffix("#endif")
    elif path.as_posix() in seen:
        text = re.sub(r" */\*.*?\*/", "", text, flags=re.S)
    seen.add(path.as_posix())
    text = SPDX.sub(" */", text)

    def include(match):
        return expand(resolve(path, match.group(1)), seen) if match.group(1) != "qkv.h" else ""

    return re.sub(r'^#include "([^"]+)"\n', include, text, flags=re.M)


def rename(text, change):
    """Applies change to each identifier that is not a member, in a directive of the preprocessor, text or a comment."""
    out, before, line = [], "", ""
    for token in TOKEN.findall(text):
        if "\n" in token:
            line = ""
        skipped = re.match(r"\s*#\s*(include|pragma|error|if|ifdef|ifndef|elif)\b", line)
        if re.match(r"[A-Za-z_]", token) and before not in (".", ">") and not skipped:
            out.append(change(token))
        else:
            out.append(token)
        if not token.isspace() and not token.startswith(("/*", "//")):
            before = token if len(token) == 1 and (token != ">" or before == "-") else ""
            before = "-" if token == "-" else before
        line += "" if "\n" in token else token
    return "".join(out)


def defined_in(text):
    """Names of functions, constants and types at the outermost level."""
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    names = set(re.findall(r"^(?:static|[A-Z_]*INLINE)\b[^;{}=()#]*?\b(\w+)\(", bare, re.M))
    names |= set(re.findall(r"^ *(?:static|[A-Z_]*INLINE)\b[^;{}=()#\n]*?\b(\w+)\([^\n]*\\$", bare, re.M))
    for first, rest in re.findall(r"^static [^;{}()=#]*?\b(\w+)(?:\[[^\]]*\])* = ([^;]*);", bare, re.M):
        names |= {first} | set(re.findall(r", (\w+) =", rest if "{" not in rest else ""))
    names |= set(re.findall(r"^#define \w+ ([a-z]\w+)$", bare, re.M))
    names |= set(re.findall(r"^typedef struct (\w+) \{", bare, re.M)) | set(re.findall(r"^\} (\w+);", bare, re.M))
    names |= set(re.findall(r"^typedef [^;{}()]*?\b(\w+)(?: __attribute__\(\([^;]*\)\))?;", bare, re.M))
    names |= set(re.findall(r"^static [^;{}=#]*?\(\*const (\w+)(?:\[[^\]]*\])+\)", bare, re.M))  # tables of functions
    names |= set(re.findall(r"^[A-Z][A-Z0-9_]+\((\w*[a-z]\w*)", bare, re.M))  # by a macro, which has it first
    for body in re.findall(r"^enum(?: \w+)? \{(.*?)\};", bare, re.M | re.S):
        names |= {re.match(r"\s*(\w+)", part).group(1) for part in body.split(",") if part.strip()}
    for macro, first in re.findall(r"^#define (\w+)\((\w+)[,)]", bare, re.M):  # of those that make names of an argument
        if re.search(rf"^#define {macro}\({first}\b(?:[^\n]*\\\n)*[^\n]*\b{first} *##", bare, re.M):
            names |= set(re.findall(rf"\b{macro}\(([a-z]\w*)", bare)) - {first}
    return names - {"sizeof", "if", "for", "while", "switch", "return"}


def kernel_set(path):
    name = path.stem.removeprefix("kernels_")
    text = expand(path, set(ONCE))
    own = defined_in(text)
    of_all = {name for once in ONCE for name in DEFINE.findall(pathlib.Path(once).read_text())}
    macros = sorted(set(DEFINE.findall(text)) - of_all)
    own = {word for word in own - set(macros) if not word.startswith("qkv_kernels_")}
    # What is put together from parts begins with one that ends in an underscore.
    parts = sorted(set(re.findall(r"\b[a-z]\w*_(?!\w)", re.sub(r"/\*.*?\*/", "", text, flags=re.S))))
    begins = re.compile(r"(?!\w*_t$)(?:" + "|".join(parts) + r")\w*$") if parts else re.compile(r"$.")

    def change(word):
        return f"{name}_{word}" if word in own or begins.match(word) else word

    text = rename(text, change)
    take_away = "".join(f"#undef {macro}\n" for macro in macros)
    return (f"{take_away}#if !defined(__clang__)\n#pragma GCC push_options\n#endif\n\n{text}\n"
            f"{take_away}#if !defined(__clang__)\n#pragma GCC pop_options\n#endif\n\n")


def one_header(public):
    text = (pathlib.Path("include") / "qkv.h").read_text()
    names = "".join(f"#define {name} QKV_PREFIXED({name})\n" for name in public)
    prefix = ("/* With -DQKV_PREFIX=my_ for qkv.c and for those who include this header, the linker sees my_qkv_init and so\n"
              " * on: several copies of the library live in one program. */\n#ifdef QKV_PREFIX\n"
              "#define QKV_PREFIXED(name) QKV_PREFIXED_BY_(QKV_PREFIX, name)\n"
              "#define QKV_PREFIXED_BY_(prefix, name) QKV_PREFIXED_(prefix, name)\n"
              "#define QKV_PREFIXED_(prefix, name) prefix##name\n" + names + "#endif\n\n")
    return text.replace("#include <stddef.h>\n", prefix + "#include <stddef.h>\n", 1)


def main(folder):
    header = (pathlib.Path("include") / "qkv.h").read_text()
    public = sorted(set(re.findall(r"^QKV_API [^;]*?\b(qkv_\w+)\(", header, re.M)))
    version = ".".join(re.findall(r"^#define QKV_VERSION_\w+ (\d+)", header, re.M))
    sets = sorted(ROOT.glob("kernels/*/kernels_*.c")) + [ROOT / "ref" / "ref.c"]
    sources = sorted(ROOT.glob("*.c")) + sorted((ROOT / "ops").glob("*/*.c"))

    seen, parts = {"include/qkv.h"}, []
    config = expand(ROOT / "config.h", seen)
    kernels = expand(ROOT / "kernels" / "kernels.h", seen)
    for path in sources:
        text = expand(path, seen)
        macros = [name for name in DEFINE.findall(path.read_text())]
        parts.append(text + "".join(f"#undef {macro}\n" for macro in sorted(set(macros))) + "\n")
    base = kernels + "\n" + "".join(parts)
    # Functions for all files become functions of this one.
    base = re.sub(r"^(?!QKV_API|QKV_INLINE|static|typedef|extern|return|else|struct|enum)((?:QKV_HIDDEN |QKV_NOINLINE )?)"
                  r"((?:const )?[a-z_]\w* \*?(?:const )?)((?:qkv_\w+|QKV_OP\(\w+\)))(?=\()",
                  lambda m: m.group(0) if m.group(3) in public or re.match(PUBLIC_OPERATION, m.group(3))
                  else "QKV_LOCAL " + m.group(1).replace("QKV_HIDDEN ", "") + m.group(2) + m.group(3), base, flags=re.M)
    tables = re.findall(r"\b(qkv_kernels_\w+)\b", kernels)
    names = "".join(f"#define {name} QKV_PREFIXED({name})\n" for name in sorted(set(tables)))
    top = (f"/* qkv {version}: transformer self-attention on CPUs, as one source. Made from the tree that has the tests and the\n"
           " * documentation; change things there. cc -O2 -c qkv.c is all; what may be left out stands below.\n *\n"
           " * SPDX-License-Identifier: MIT */\n")
    local = "#define QKV_LOCAL static\n\n"
    # GCC inlines no function into one for RISC-V's vectors that is not for them itself, and takes that per file.
    riscv = ("#if defined(__riscv) && !defined(__clang__) && !defined(QKV_RVV)\n#define QKV_RVV 0\n#endif\n\n")
    # GCC looks at the end of the file whether that warning is on.
    quiet = '#pragma GCC diagnostic ignored "-Wunused-function" /* what is left out is declared all the same */\n\n'
    includes = "#include <stdbool.h>\n#include <string.h>\n\n"
    text = (top + quiet + riscv + config + '\n#include "qkv.h"\n\n' + includes + local + f"#ifdef QKV_PREFIX\n{names}#endif\n\n" + base +
            "".join(kernel_set(path) for path in sets))
    text = re.sub(r"\n{3,}", "\n\n", text)
    (pathlib.Path(folder) / "qkv.c").write_text(text)
    (pathlib.Path(folder) / "qkv.h").write_text(one_header(public))
    print(f"{folder}/qkv.c, {folder}/qkv.h: {version}, {len(text) // 1024} KiB, {len(sets)} sources of kernel sets")


# Of the functions that shell.inc.h makes for each operation, those of qkv.h.
PUBLIC_OPERATION = r"QKV_OP\((plan|check|run|run_parallel|task|explain_plan|explain_run)\)"

if __name__ == "__main__":
    main(sys.argv[1])
