#!/bin/sh
# In a development container: gives the folder that you edit the packages and jars of the
# image, and has `import lib` mean the folder's. `make setup` then has nothing to do,
# until a lock changes.
set -eu
cd "$(dirname "$0")/.."
test "$PWD" != /app || exit 0
test -e .venv || ln -s /app/.venv .venv
test -e .jars || ln -s /app/.jars .jars
rm -rf /app/lib
ln -s "$PWD/lib" /app/lib
touch .venv/.ready
