"""The ABI of qkv.h as text, and what a change of it means for programs that are built already.

    abi.py describe PREPROCESSED MACROS CC FOLDER  prints it: `cc -E -P` and `cc -E -dM` of qkv.h in that folder
    abi.py compare RECORDED NOW                    says "unchanged", "grown compatibly" or "broken", and why; exit status 1
                                                where it is broken, 3 where it has grown

A line is `function RESULT NAME(TYPES)`, `callback …`, `constant NAME VALUE`, or `struct NAME SIZE ALIGNMENT` with its
members below it, ` OFFSET SIZE TYPE NAME`. A struct that begins with `size_t size` may grow at its end, and by that
those that have it as their last member; everything else stays as it is.

SPDX-License-Identifier: MIT
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def words(text):
    return re.sub(r"\s*\*\s*", " *", " ".join(text.split())).replace("* *", "**")


def parameters(text):
    """Types of a parameter list, without names: those are no part of the ABI."""
    kept = []
    for parameter in text.split(","):
        parameter = words(parameter)
        if parameter != "void":
            parameter = re.sub(r"(?<=[ *])[A-Za-z_]\w*$", "", parameter).strip()
        kept.append(parameter)
    return ", ".join(kept)


def members(body):
    """(type, name, array) of each member: `float *a, b[4];` is two."""
    found = []
    for declaration in filter(None, (words(d) for d in body.split(";"))):
        match = re.fullmatch(r"((?:const )?(?:struct )?\w+) (.*)", declaration)
        for declarator in match[2].split(","):
            stars, name, array = re.fullmatch(r"\s*(\**)\s*(\w+)((?:\[\w+\])*)", declarator).groups()
            found.append((match[1] + (" " + stars if stars else ""), name, array))
    return found


def describe(preprocessed, macros, cc, folder):
    text = Path(preprocessed).read_text()
    functions, callbacks, structs, constants = [], [], {}, []
    for match in re.finditer(r"typedef struct (\w+) \{(.*?)\}\s*\w+\s*;", text, re.S):
        structs[match[1]] = members(match[2])
    for match in re.finditer(r"typedef enum (\w+) \{(.*?)\}\s*\w+\s*;", text, re.S):
        constants += re.findall(r"\b(QKV_\w+)\s*=", match[2])
        structs[match[1]] = []
    for result, name, types in re.findall(r"typedef ([\w ]+) \(\*(\w+)\)\((.*?)\)\s*;", text, re.S):
        callbacks.append(f"callback {result} {name}({parameters(types)})")
    rest = re.sub(r"typedef [^;{]*(\{.*?\}[^;]*)?;", "", text, flags=re.S)
    for result, name, types in re.findall(r"([\w ]+[ *]+)(qkv_\w+)\(([^)]*)\)\s*;", rest):
        functions.append(f"function {words(result)} {name}({parameters(types)})".replace("* ", "*"))
    version = ("QKV_VERSION_MAJOR", "QKV_VERSION_MINOR", "QKV_VERSION_PATCH")
    for name, value in re.findall(r"^#define (QKV_\w+) (.+)$", Path(macros).read_text(), re.M):
        if name not in version and name != "QKV_API":
            constants.append(name)
    for name in re.findall(r"^#define (QKV_\w+)\(\w+\) ", Path(macros).read_text(), re.M):
        constants += [f"{name}({i})" for i in range(4)]

    lines = ['#include <stdio.h>', '#include <qkv.h>', 'int main(void) {']
    for name in sorted(set(constants)):
        lines.append(f'printf("constant {name} %lld\\n", (long long)({name}));')
    for name, fields in sorted(structs.items()):
        kind = "struct" if fields else "enum"
        lines.append(f'printf("{kind} {name} %zu %zu\\n", sizeof({name}), _Alignof({name}));')
        for kind, field, array in fields:
            where = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            lines.append(f'printf(" %zu %zu {kind} {field}{array}\\n", {where});')
    lines.append("return 0; }")
    with tempfile.TemporaryDirectory() as work:
        source, program = Path(work, "layout.c"), Path(work, "layout")
        source.write_text("\n".join(lines))
        subprocess.run([cc, "-std=c11", f"-I{folder}", source, "-o", program], check=True)
        layout = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    print("\n".join(sorted(functions) + sorted(callbacks)) + "\n" + layout, end="")


# ------------------------------------------------------------------------------------------------------ comparison


def read(path):
    """Names of functions, callbacks and constants with what they are, and structs: (head, members)."""
    plain, structs = {}, {}
    for line in Path(path).read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        if line.startswith(" "):
            offset, size, kind = line.split(maxsplit=2)
            structs[name][1].append((int(offset), int(size), *kind.rsplit(" ", 1)))
        elif line.startswith(("struct", "enum")):
            kind, name, size, alignment = line.split()
            structs[name] = ((kind, int(size), int(alignment)), [])
        elif line.startswith("constant"):
            plain[line.split()[1]] = line.split()[2]
        else:
            plain[re.search(r"(\w+)\(", line)[1]] = line
    return plain, structs


def may_grow(structs, name):
    """It says how long it is, so the library knows the length that a program was built with."""
    fields = structs[name][1]
    return bool(fields) and fields[0][2:] == ("size_t", "size")


def changes(recorded, now):
    """(broken, grown): what a program that is built already meets, and what it will not notice."""
    broken, grown = [], []
    old, old_structs = read(recorded)
    new, new_structs = read(now)
    for name in old:
        if name not in new:
            broken.append(f"{name} is gone")
        elif old[name] != new[name]:
            broken.append(f"{name} was\n    {old[name]}\n  and is\n    {new[name]}")
    grown += [f"{name} is new" for name in new if name not in old]
    for name, (head, fields) in old_structs.items():
        if name not in new_structs:
            broken.append(f"{name} is gone")
            continue
        new_head, new_fields = new_structs[name]
        extensible = may_grow(old_structs, name) and may_grow(new_structs, name)
        for i, field in enumerate(fields):
            other = new_fields[i] if i < len(new_fields) else None
            if field == other:
                continue
            same_place = other and field[:3] == other[:3]
            if same_place and field[3].startswith("reserved"):
                grown.append(f"{name}.{field[3]}, which had to be 0, is now {other[3]}")
            elif (extensible and i + 1 == len(fields) and other and (field[0], *field[2:]) == (other[0], *other[2:]) and
                    field[2] in old_structs and may_grow(old_structs, field[2])):
                pass # the last member has grown, and says so itself
            else:
                here = "%d %d %s %s" % other if other else "gone"
                broken.append(f"{name}: member {i} was\n    %d %d %s %s\n  and is\n    {here}" % field)
                break # what follows has only moved
        else:
            for offset, _, _, field in new_fields[len(fields):]:
                if extensible and offset >= head[1]:
                    grown.append(f"{name}.{field} is new, at its end")
                elif extensible:
                    broken.append(f"{name}.{field} lies in what was padding, which programs leave as it comes")
                else:
                    broken.append(f"{name}.{field} is new in a struct without a size of its own")
        if new_head[1] != head[1] and not (extensible and new_head[1] > head[1]):
            broken.append(f"{name} had {head[1]} bytes and has {new_head[1]}")
        if (new_head[0], new_head[2]) != (head[0], head[2]):
            broken.append(f"{name} was a {head[0]} aligned to {head[2]} and is a {new_head[0]} aligned to {new_head[2]}")
    grown += [f"{name} is new" for name in new_structs if name not in old_structs]
    return broken, grown


def compare(recorded, now):
    broken, grown = changes(recorded, now)
    for line in broken:
        print("broken:", line)
    for line in grown:
        print("grown:", line)
    if broken:
        print("broken: needs a new SOVERSION")
        return 1
    print("grown compatibly" if grown else "unchanged")
    return 3 if grown else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["describe"] and len(sys.argv) == 6:
        describe(*sys.argv[2:])
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 4:
        sys.exit(compare(*sys.argv[2:]))
    else:
        sys.exit(__doc__)
