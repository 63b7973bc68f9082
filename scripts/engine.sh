# For `source`: a container engine on a machine that may have none. Packages come from Debian; a daemon that was
# started here is stopped by `stop_engine`, one that answered already is left alone.

engine_pid=
engine_log=

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    echo "Installing $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# install_missing COMMAND=PACKAGE...
install_missing() {
    local pair packages=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || packages+=("${pair##*=}")
    done
    [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
}

engine_answers() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

ensure_engine() {
    install_missing make=make bwrap=bubblewrap mmdebstrap=mmdebstrap docker=docker.io iptables=iptables ip=iproute2
    if engine_answers; then
        echo "A container engine answers already"
        return
    fi
    # A client alone may be there (from somewhere else) without its daemon.
    install_missing dockerd=docker.io
    engine_log=$(mktemp)
    # Containers inherit the daemon's limit of open files; an unlimited one makes old Pythons close a billion.
    # No function in between: what is stopped later must be the daemon itself, not a shell around it.
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" dockerd --default-ulimit nofile=20000:20000 >"$engine_log" 2>&1 &
    engine_pid=$!
    local _
    for _ in $(seq 120); do
        if engine_answers; then
            echo "Started a container engine"
            return
        fi
        kill -0 "$engine_pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "The container engine did not start; the end of its log:" >&2
    tail -n 40 "$engine_log" >&2
    return 1
}

stop_engine() {
    [ -n "$engine_pid" ] || return 0
    as_root kill "$engine_pid" 2>/dev/null || true
    wait "$engine_pid" 2>/dev/null || true
    rm -f "$engine_log"
    engine_pid=
}
