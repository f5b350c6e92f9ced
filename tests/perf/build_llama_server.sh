#!/usr/bin/env bash
# Build llama-server and llama-bench from the sources inside the pinned llama-cpp-python sdist, for this CPU.
#   tests/perf/build_llama_server.sh FOLDER     leaves the programs in FOLDER/build/bin
set -euo pipefail
here="$(cd "$(dirname "$0")/../.." && pwd)"
target="${1:?usage: $0 FOLDER}"
pin="$(sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' "$here/pyproject.toml" | head -n 1)"
mkdir -p "$target"
cd "$target"
python3 -m pip download --no-deps --no-binary :all: --no-build-isolation --dest . "$pin" || \
    python3 -m pip download --no-deps --no-binary :all: --dest . "$pin"
tar -xzf llama_cpp_python-*.tar.gz
source="$(echo llama_cpp_python-*/vendor/llama.cpp)"
cmake -S "$source" -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON
cmake --build build --target llama-server llama-bench --parallel "$(getconf _NPROCESSORS_ONLN)"
echo "export LOCALAI_LLAMA_SERVER=$PWD/build/bin/llama-server"
