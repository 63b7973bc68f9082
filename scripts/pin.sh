#!/usr/bin/env bash
# Compiles requirements/*.txt: exact pins with hashes, without a word about where packages come from.
# Run it after a change in pyproject.toml or requirements/*.in; `--upgrade` as argument moves every pin.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-.venv/bin/uv}

compile() {
    local target=requirements/$1
    shift
    "$uv" pip compile "$@" --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate --output-file "$target"
}

compile base.txt "$@" pyproject.toml requirements/build.in
compile demo.txt "$@" pyproject.toml requirements/build.in --extra demo --constraint requirements/base.txt
compile dev.txt "$@" pyproject.toml requirements/build.in --extra demo --group dev --constraint requirements/demo.txt
# Each environment that tests make for themselves (build.in belongs to the three above).
for environment in requirements/*.in; do
    [ "$environment" = requirements/build.in ] || compile "$(basename "$environment" .in).txt" "$@" "$environment"
done
