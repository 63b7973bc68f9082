#!/usr/bin/env bash
# Makes the virtual environment that the Makefile works in: `make_venv.sh DIRECTORY`.
# PYTHON names the interpreter; without it the newest one of at least 3.11 is taken. A fresh Debian has Python but
# no `ensurepip`: root gets the package installed, everyone else the command to run.
set -euo pipefail

venv=$1
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
    local name
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$name" -c "$new_enough" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

install_venv_package() {
    local package
    package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    else
        echo "Python's venv module is incomplete here. Run: sudo apt-get install $package" >&2
        exit 1
    fi
}

python=$(find_python) || {
    echo "Python 3.11 or newer is needed and none was found. Set PYTHON to one, or: sudo apt-get install python3" >&2
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_package
"$python" -m venv "$venv"
echo "Made $venv with $("$python" -V)"
