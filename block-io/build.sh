#!/bin/sh
# Compiles the addon: one compiler call, Node-API headers from the npm package node-api-headers (or $NODE_API_INCLUDE).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
include=${NODE_API_INCLUDE:-}
for candidate in "$here/../node_modules/node-api-headers/include" "$here/node_modules/node-api-headers/include"; do
  [ -n "$include" ] || { [ -f "$candidate/node_api.h" ] && include=$candidate; }
done
[ -n "$include" ] || { echo "block-io: node_api.h not found: run npm install, or set NODE_API_INCLUDE" >&2; exit 1; }
mkdir -p "$here/build"
${CC:-cc} -std=c11 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -I"$include" \
  -o "$here/build/block_io.node.new" "$here/native/block-io.c" "$here/native/crc32.c"
mv "$here/build/block_io.node.new" "$here/build/block_io.node"
