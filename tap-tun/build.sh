#!/bin/sh
# Compiles the addon with the system's C compiler: ./build.sh → build/tap_tun.node and build/ring.node. CC and CFLAGS are honoured.
set -eu
cd "$(dirname "$0")"
for headers in node_modules/node-api-headers/include ../node_modules/node-api-headers/include; do
  [ -f "$headers/node_api.h" ] && break
done
if [ ! -f "$headers/node_api.h" ]; then
  echo "tap-tun: node-api-headers is not installed. Run 'npm ci' first." >&2
  exit 1
fi
if ! command -v "${CC:-cc}" >/dev/null 2>&1; then
  echo "tap-tun: no C compiler '${CC:-cc}'. Install one: apt-get install gcc libc6-dev" >&2
  exit 1
fi
mkdir -p build
# Into a temporary name first: a process that has the old addon loaded keeps it intact.
compile() {
  target=$1
  shift
  "${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra ${CFLAGS:-} -fPIC -shared -fvisibility=hidden -pthread -isystem "$headers" \
    -o "build/$target.new" "$@"
  mv "build/$target.new" "build/$target"
}
compile ring.node src/native/ring/*.c src/native/errors.c
compile tap_tun.node src/native/*.c
