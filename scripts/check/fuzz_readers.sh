#!/bin/sh
# The examples' readers of files (GGUF, safetensors, vocab.txt, JSON) under libFuzzer, AddressSanitizer and
# UndefinedBehaviorSanitizer: no crash, hang or leak (fuzz_reader.h counts), and no memory far larger than the file.
#   sh scripts/check/fuzz_readers.sh [SECONDS]      for GGUF, default 60; a quarter for each of the others, which are
#                                                   much smaller and find nothing new by then
# SPDX-License-Identifier: MIT
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-60} dir=build/fuzz-readers
mkdir -p $dir && rm -rf "$dir"/crash-* "$dir"/corpus-* || exit 1
# shellcheck source=libfuzzer.sh
. scripts/check/libfuzzer.sh
pkg-config --exists libcjson libutf8proc || { echo "libcjson or libutf8proc is not installed"; exit 77; }

# The environment of the examples' tests, if there is one, has NumPy.
python=${XDG_CACHE_HOME:-$HOME/.cache}/qkv/test-venv/bin/python
test -x "$python" || python=python3

# Small files that are whole, to begin with.
seed() { # TARGET
    mkdir -p "$dir/corpus-$1"
    case $1 in
    gguf) # a model without weights
        PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/generate "$python" - "$dir/corpus-$1/seed" <<'E' 2>/dev/null ||
import sys
import gguf_file, tiny_decoder
for kind in ("llama", "gemma3"):
    with open(sys.argv[1] + kind, "wb") as file:
        file.write(gguf_file.pack(tiny_decoder.values(kind), {}))
E
            echo "skipped: a whole GGUF file to begin with: $python has no NumPy"
        ;;
    safetensors)
        header='{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        header=$header'"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}'
        printf "\\$(printf '%o' ${#header})\\0\\0\\0\\0\\0\\0\\0%s%032d" "$header" 0 >"$dir/corpus-safetensors/seed"
        ;;
    vocabulary) printf '[UNK]\nthe\n##ing\nZ\303\274rich\r\n' >"$dir/corpus-vocabulary/seed" ;;
    json) echo '{"bool": true, "string": "x\u00e9", "number": 1.5e-5, "integer": 7, "more": [null, {"a": {}}]}' \
        >"$dir/corpus-json/seed" ;;
    esac
}

# The examples with exit, memory and files as fuzz_reader.h has them.
names=
for name in exit malloc calloc realloc aligned_alloc free fopen fclose; do names="$names -D$name=fuzz_$name"; done
flags="-std=c11 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
flags="$flags $names -Iinclude -Iadapters/pthreads"
flags="$flags -Iexamples/common -Iexamples/generate -Iexamples/encoder -Itests/fuzz"
flags="$flags $(pkg-config --cflags libcjson libutf8proc)"
fuzz() { # TARGET SOURCE…
    target=$1
    shift
    seed "$target"
    objects=
    for source in tests/fuzz/fuzz_"$target".c examples/common/support.c examples/common/text.c "$@"; do
        object=$dir/$target-$(basename "$source" .c).o
        # shellcheck disable=SC2086  # words
        $clang $flags -c "$source" -o "$object" || return 1
        objects="$objects $object"
    done
    # shellcheck disable=SC2046,SC2086  # words
    $clang -fsanitize=fuzzer,address,undefined $objects build/release/libqkv.a \
        $(pkg-config --libs libcjson libutf8proc) -lpthread -lm -o "$dir/fuzz_$target" || return 1
    longest=2048 time=$((seconds / 4))
    test "$target" != gguf || longest=16384 time=$seconds
    "$dir/fuzz_$target" -max_total_time=$time -seed=1 -max_len=$longest -timeout=20 -rss_limit_mb=1024 \
        -detect_leaks=0 -artifact_prefix="$dir/crash-$target-" "$dir/corpus-$target" >"$dir/$target.log" 2>&1 &
    process=$!
    wait $process
    status=$?
    rm -f /dev/shm/qkv-fuzz-$process
    test $status = 0 || tail -n 40 "$dir/$target.log"
    echo "$target: $(grep -aE '^Done|^stat::number|ERROR' "$dir/$target.log" | tail -n 1)"
    return $status
}

failed=0
g=examples/generate e=examples/encoder
fuzz gguf $g/gguf.c $g/lexicon.c $g/merges.c $g/pieces.c $g/text_tokens.c $g/decoder_config.c &
first=$!
fuzz safetensors $e/safetensors.c $e/json.c || failed=1
fuzz vocabulary $e/vocabulary.c $e/unicode.c || failed=1
fuzz json $e/json.c || failed=1
wait $first || failed=1
exit $failed
