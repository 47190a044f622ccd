#!/bin/sh
# The compilers that the library must work with, and where they come from: this machine, else Debian's packages of the
# release that has them, unpacked below a cache folder, so that neither root nor that release is needed. The pinned zig
# is clang with headers and C libraries for many targets.
#
#   sh scripts/compilers.sh list         their names, the one that speed is compared with first
#   sh scripts/compilers.sh find NAME    fetches it if missing; the last line is its path; status 77: not to be had
#
# Several may run at once. A compiler from here links against the C library of this machine.
# SPDX-License-Identifier: MIT
set -u
cache=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/compilers
zig=0.16.0 # clang 21
wasmtime=50.0.1

# name and Debian release
compilers() {
    cat <<'TABLE'
gcc-12 bookworm
gcc-13 trixie
gcc-14 trixie
clang-14 bookworm
clang-17 trixie
clang-19 trixie
clang-22 trixie
zig -
TABLE
}

missing() {
    echo "$*"
    exit 77
}

# Downloads packages of another release with all they depend on, by an apt that looks into a state of its own.
unpack() { # ROOT RELEASE PACKAGE…
    root=$1 release=$2 apt=$1-apt keys=/usr/share/keyrings/debian-archive-keyring.gpg
    shift 2
    test -s $keys || { echo "the keys of Debian's archive are not installed (debian-archive-keyring)"; return 1; }
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 'Label: Debian' |
        head -n 1)
    test -n "$mirror" || { echo "this system's apt knows no mirror of Debian"; return 1; }
    rm -rf "$apt" "$root" && mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$root" || return 1
    : >"$apt/status"
    echo "deb [signed-by=$keys] $mirror $release main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
CONF
    (
        export APT_CONFIG="$apt/apt.conf"
        apt-get -qq update && apt-get -qq -y --download-only install "$@" || exit 1
        for deb in "$apt"/cache/archives/*.deb; do
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --exclude='./usr/share/*' \
                --exclude='*lto-dump*' --exclude='*/lto1' --exclude='*san.a' || exit 1
        done
    )
    status=$?
    rm -rf "$apt"
    return $status
}

# Lets its programs run here, on the C library they came with, whether that is newer than this machine's or older.
settle() { # ROOT
    lib=$1/usr/lib/x86_64-linux-gnu:$1/lib/x86_64-linux-gnu
    for loader in "$1"/usr/lib64/ld-linux-* "$1"/lib/x86_64-linux-gnu/ld-linux-*; do test ! -e "$loader" || break; done
    for file in "$1"/usr/lib/llvm-*/bin/clang "$1"/usr/bin/x86_64-linux-gnu-gcc-[0-9]* \
        "$1"/usr/lib*/gcc/x86_64-linux-gnu/*/cc1 "$1"/usr/lib*/gcc/x86_64-linux-gnu/*/collect2 \
        "$1"/usr/bin/x86_64-linux-gnu-as "$1"/usr/bin/x86_64-linux-gnu-ld.bfd; do
        test -f "$file" || continue
        option=
        test "${file##*/}" != clang || option='test "$1" = -cc1 || set -- -no-canonical-prefixes "$@"'
        mv "$file" "$file.real" && cat >"$file" <<SCRIPT && chmod +x "$file" || return 1
#!/bin/sh
$option
exec "$loader" --library-path "$lib" --argv0 "$file" "$file.real" "\$@"
SCRIPT
    done
    for folder in "$1"/usr/lib*/gcc/x86_64-linux-gnu/*; do
        test -e "$folder/cc1" || continue # GCC looks for its assembler and linker here first
        ln -sf "$1/usr/bin/x86_64-linux-gnu-as" "$folder/as" && ln -sf "$1/usr/bin/x86_64-linux-gnu-ld.bfd" "$folder/ld"
    done
}

# All compilers of a release at once: what they depend on is mostly the same.
from_debian() { # NAME RELEASE
    root=$cache/$2
    if [ ! -e "$root/ready" ]; then
        test "$(uname -s)-$(uname -m)" = Linux-x86_64 || missing "$1 is fetched for x86-64 Linux only"
        command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || missing "$1 is not installed (no apt here)"
        # shellcheck disable=SC2046  # words
        unpack "$root" "$2" $(compilers | sed -n "s/ $2\$//p") >&2 && settle "$root" >&2 ||
            missing "$1 could not be fetched from Debian's $2"
        : >"$root/ready"
    fi
    echo 'int main(void) { return 0; }' | "$root/usr/bin/$1" -O2 -x c - -o "$root/works" >&2 && "$root/works" ||
        missing "$1 of Debian's $2 does not work here"
    echo "$root/usr/bin/$1"
}

# A Python environment with the pinned zig, as a program of its own, and a runtime for WebAssembly.
from_pypi() {
    venv=$cache/zig-$zig
    if [ ! -e "$venv/ready" ]; then
        python3 -c 'import ensurepip' 2>/dev/null || missing "zig: python3 with venv is not installed"
        rm -rf "$venv" && mkdir -p "$cache" && python3 -m venv "$venv" >&2 &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
                "ziglang==$zig" "wasmtime==$wasmtime" >&2 || missing "zig $zig can't be installed by pip"
        zig_program=$("$venv/bin/python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')/zig
        printf '#!/bin/sh\nexec "%s" cc "$@"\n' "$zig_program" >"$venv/bin/zig" && chmod +x "$venv/bin/zig" &&
            "$venv/bin/zig" --version >&2 || missing "zig $zig does not run here"
        : >"$venv/ready"
    fi
    echo "$venv/bin/zig"
}

case ${1:-} in
list) compilers | cut -d ' ' -f 1 ;;
find)
    # shellcheck disable=SC2046  # words
    set -- $(compilers | grep "^${2:-none} ")
    test $# = 2 || missing "unknown compiler"
    command -v "$1" && test "$1" != zig && exit 0
    mkdir -p "$cache" || exit 1
    lock=$cache/${2#-}.lock
    until mkdir "$lock" 2>/dev/null; do # another one fetches it
        kill -0 "$(cat "$lock/pid" 2>/dev/null || echo $$)" 2>/dev/null || rm -rf "$lock"
        sleep 1
    done
    echo $$ >"$lock/pid"
    trap 'rm -rf "$lock"' EXIT
    case $1 in
    zig) from_pypi ;;
    *) from_debian "$1" "$2" ;;
    esac
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
