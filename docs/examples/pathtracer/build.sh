#!/bin/sh
# Builds tracer.wasm, the module that p2pnode carries for its demo, from tracer/src.
#
# Needs a Rust compiler with the standard library for WASI preview 1. On Debian 12:
#
#     apt-get install rustc libstd-rust-dev-wasm32 lld-14
#
# which brings rustc 1.63 and the linker it wants. Another compiler: WASM_RUSTC=/path/to/rustc (its wasm32-wasi or
# wasm32-wasip1 target must be installed; newer ones know only the second name).
#
#     ./build.sh          writes tracer.wasm
#     ./build.sh --check  builds aside and compares: fails if the committed module is not what the sources give
#
# The same sources and the same compiler give the same bytes: no paths, no times and no debug information get in.
set -eu
cd "$(dirname "$0")"

rustc=${WASM_RUSTC:-/usr/bin/rustc}
if ! "$rustc" --version >/dev/null 2>&1; then
    echo "build.sh: $rustc does not run; install the packages rustc and libstd-rust-dev-wasm32, or set WASM_RUSTC" >&2
    exit 1
fi
target=
for t in wasm32-wasi wasm32-wasip1; do
    # A target the compiler does not know, or whose library is missing, has no libstd to show.
    dir=$("$rustc" --print target-libdir --target "$t" 2>/dev/null) || continue
    if ls "$dir"/libstd-*.rlib >/dev/null 2>&1; then
        target=$t
        break
    fi
done
if [ -z "$target" ]; then
    echo "build.sh: $rustc has no standard library for WASI; install libstd-rust-dev-wasm32" >&2
    exit 1
fi

out=tracer.wasm
if [ "${1:-}" = --check ]; then
    out=$(mktemp)
    trap 'rm -f "$out"' EXIT
fi
"$rustc" --edition 2021 --crate-name tracer --crate-type bin --target "$target" \
    -C opt-level=3 -C lto=fat -C codegen-units=1 -C panic=abort -C strip=symbols -C link-arg=--compress-relocations \
    --remap-path-prefix "$PWD"=. -o "$out" tracer/src/main.rs

if [ "$out" != tracer.wasm ]; then
    cmp "$out" tracer.wasm || { echo "build.sh: tracer.wasm is not what $("$rustc" --version) makes of the sources" >&2; exit 1; }
    echo "tracer.wasm is what the sources give"
else
    echo "tracer.wasm: $(wc -c <tracer.wasm) bytes, by $("$rustc" --version), for $target"
fi
