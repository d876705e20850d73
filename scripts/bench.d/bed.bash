# The bed the measurements lie in: labs, endpoints, programs. Sourced by scripts/bench and scripts/profile.
# shellcheck shell=bash

readonly terminal_address=10.0.0.11 server_address=203.0.113.11 absent_address=203.0.113.99
# Of two networks that kamei has nothing to do with, behind two more interfaces of the first gateway.
readonly stranger_address=192.0.2.11 absent_stranger_address=192.0.2.199
readonly absent_hardware=02:00:00:00:00:63
readonly prefix=bench$$
# The lab that is measured now: so many gateways in a row. All ways share it, so none may leave routing rules: a namespace
# that once had one forwards slower for good (fib_has_custom_rules in net/ipv4/fib_rules.c).
gateways=1

lab() { echo "$prefix-$gateways"; }
at() { # at HOST COMMAND...
    local host=$1
    shift
    ip netns exec "$(lab)-$host" "$@"
}

each_gateway() { # each_gateway FUNCTION: FUNCTION K, for every gateway from the inside out
    local k
    for ((k = 1; k <= gateways; k++)); do "$1" "$k"; done
}

note() { if [[ -t 2 ]]; then printf '\r\e[K%s' "$*" >&2; fi; }

install_tools() { "$root/scripts/setup" --bench; }

# Builds kamei (or takes $KAMEI) and the probe.
build() {
    [[ -d $HOME/.cargo/bin ]] && PATH=$PATH:$HOME/.cargo/bin
    [[ -n ${KAMEI:-} ]] || (cd "$root" && cargo build --release --quiet --bin kamei)
    kamei=${KAMEI:-${CARGO_TARGET_DIR:-$root/target}/release/kamei}
    probe=$(cd "$root" && cargo build --release --quiet --bench probe --message-format json |
        jq -r 'select(.target.name == "probe" and .executable != null).executable')
}

# make_bed GATEWAYS...: labs for each number of gateways in a row, with servers at both ends.
make_bed() {
    work=$(mktemp -d)
    mkdir -p /run/kamei
    trap take_down EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    for gateways in "$@"; do
        labs+=("$(lab)")
        "$root/scripts/lab" up --prefix "$(lab)" --gateways "$gateways" --terminals 1 --ipv6 --no-kamei > /dev/null
        each_gateway prepare_gateway
        prepare_end terminal1
        prepare_end server1
        prepare_transit
        # Injected frames go to a hardware address that nobody has: they are counted, and end at the first look.
        ip -n "$(lab)-gateway$gateways" neighbour add "$absent_address" dev go lladdr "$absent_hardware" nud permanent
        serve terminal1
        serve server1
    done
    gateways=$1
    servers=("${kept[@]}") kept=()
}
labs=() servers=() kept=()

prepare_end() {
    at "$1" sysctl -qw net.ipv4.ip_local_port_range="1024 65535"
    # The terminal sees callbacks from one address by all ways, the server calls another one by each, and its timestamps
    # would start elsewhere for each: a SYN from a port of the way before would look old, and cost a second.
    at "$1" sysctl -qw net.ipv4.tcp_timestamps=2
}

prepare_gateway() {
    at "gateway$1" sysctl -qw net.ipv4.ip_forward=0
    # No reverse-path filter of the machine's own: all ways are measured without.
    at "gateway$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
}

# Two more networks at the first gateway: ti leads to terminal1, to leads to server1.
prepare_transit() {
    local gateway
    gateway=$(lab)-gateway1
    ip -n "$gateway" link add ti type veth peer name transit netns "$(lab)-terminal1"
    ip -n "$gateway" link add to type veth peer name transit netns "$(lab)-server1"
    ip -n "$(lab)-terminal1" link set transit up
    ip -n "$(lab)-server1" link set transit up
    ip -n "$gateway" link set ti up
    ip -n "$gateway" link set to up
    ip -n "$gateway" address add 192.0.2.1/25 dev ti
    ip -n "$gateway" address add 192.0.2.129/25 dev to
    ip -n "$gateway" neighbour add "$absent_stranger_address" dev to lladdr "$absent_hardware" nud permanent
}

# serve HOST: what is called there. All listen before anything is measured.
serve() {
    local site
    site=$work/$(lab)-$1
    mkdir -p "$site"
    cat > "$site/nginx.conf" << CONF
worker_processes $(nproc);
pid $site/pid;
error_log $site/error.log;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_timeout 0;
    client_body_temp_path $site/body; proxy_temp_path $site/proxy; fastcgi_temp_path $site/fastcgi;
    uwsgi_temp_path $site/uwsgi; scgi_temp_path $site/scgi;
    server { listen 8080 reuseport backlog=4096; location / { return 200 "here"; } }
}
CONF
    keep "$1" nginx -c "$site/nginx.conf" -g 'daemon off;' 2> "$site/error.log"
    keep "$1" iperf3 -s > /dev/null 2>&1
    keep "$1" "$probe" echo 0.0.0.0:7
    until [[ $(at "$1" ss -Hltn 'sport = 5201 or sport = 8080' | wc -l) -ge 2 ]]; do sleep 0.05; done
}

take_down() {
    local status=$? name
    # A program that is ended before it has begun is still a copy of this shell, traps and all.
    ((BASHPID == $$)) || exit
    trap - EXIT
    kept+=("${servers[@]}")
    stop_kept
    for name in "${labs[@]}"; do "$root/scripts/lab" down --prefix "$name"; done
    rm -rf "$work" /run/kamei/"$prefix"-*
    exit "$status"
}

# keep HOST COMMAND...: runs in the background until stop_kept.
keep() {
    local host=$1
    shift
    ip netns exec "$(lab)-$host" "$@" &
    kept+=($!)
}
stop_kept() {
    ((${#kept[@]})) || return 0
    kill -TERM "${kept[@]}" 2> /dev/null || true
    wait "${kept[@]}" 2> /dev/null || true
    kept=()
}
