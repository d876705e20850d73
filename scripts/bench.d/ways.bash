# Ways through the gateways of a lab: way_on and way_off switch one on, and leave the lab as it was. Sourced.
# shellcheck shell=bash

# A way of this name is the way before the suffix, behind a firewall with connection tracking at each gateway.
readonly wall=_walled

way_on() { # way_on WAY
    [[ $1 != *"$wall" ]] || each_gateway wall_at || return
    "on_${1%"$wall"}"
}
way_off() { # way_off WAY
    "off_${1%"$wall"}"
    case $1 in *"$wall") each_gateway no_wall_at ;; esac
    case $1 in *"$wall" | nftables) each_gateway no_connections_at ;; esac
}

# As people have it. The same rules do for all, kamei among them.
wall_at() {
    at "gateway$1" nft -f - << RULES
table ip wall {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname gi oifname go accept
        iifname go oifname gi accept
    }
}
RULES
}
no_wall_at() { at "gateway$1" nft delete table ip wall; }

# A connection that the kernel has tracked goes on as it began: another way's would go untranslated.
no_connections_at() {
    at "gateway$1" python3 - << 'PROGRAM'
import socket, struct
# Of NETLINK_NETFILTER: IPCTNL_MSG_CT_DELETE of everything, with an answer (linux/netfilter/nfnetlink_conntrack.h).
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
kernel.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0))
error = -struct.unpack_from("=i", kernel.recv(4096), 16)[0]
if error:
    raise SystemExit(f"the kernel does not forget its connections: error {error}")
PROGRAM
}

# The outside calls the terminal by this address.
called() {
    case ${1%"$wall"} in
        forward) echo "$terminal_address" ;;
        nftables | stateless) echo "198.18.$gateways.11" ;;
        *) virtual_ip "$gateways" ;;
    esac
}

# What the gateway K sees of the terminal, K from 0: itself, then a virtual IP each.
seen() { if (($1 == 0)); then echo "$terminal_address"; else echo "198.18.$1.11"; fi; }

set_forwarding() { at "gateway$1" sysctl -qw net.ipv4.ip_forward="$2"; }
forwarding_on() { set_forwarding "$1" 1; }
forwarding_off() { set_forwarding "$1" 0; }

# --- the kernel's own -------------------------------------------------------------------------------------------

on_forward() {
    each_gateway forwarding_on
    ip -n "$(lab)-server1" route replace 10.0.0.0/24 via 203.0.113.1
}
off_forward() {
    ip -n "$(lab)-server1" route delete 10.0.0.0/24
    each_gateway forwarding_off
}

# One to one, like kamei: this terminal has this virtual IP.
on_nftables() { each_gateway nftables_at; }
nftables_at() {
    forwarding_on "$1"
    at "gateway$1" nft -f - << RULES
table ip bench {
    chain out { type nat hook postrouting priority srcnat; oifname go ip saddr $(seen $(($1 - 1))) snat to $(seen "$1"); }
    chain in { type nat hook prerouting priority dstnat; iifname go ip daddr $(seen "$1") dnat to $(seen $(($1 - 1))); }
}
RULES
}
off_nftables() { each_gateway tables_off; }
tables_off() {
    at "gateway$1" nft delete table ip bench
    forwarding_off "$1"
}

# As fast as nftables can be made by hand: no connection tracking, addresses by map.
on_stateless() { each_gateway stateless_at; }
stateless_at() {
    forwarding_on "$1"
    at "gateway$1" nft -f - << RULES
table ip bench {
    map virtual { type ipv4_addr : ipv4_addr; elements = { $(seen $(($1 - 1))) : $(seen "$1") }; }
    map terminals { type ipv4_addr : ipv4_addr; elements = { $(seen "$1") : $(seen $(($1 - 1))) }; }
    chain untracked { type filter hook prerouting priority raw; notrack; }
    chain out { type filter hook postrouting priority srcnat; oifname go ip saddr set ip saddr map @virtual; }
    chain in { type filter hook prerouting priority dstnat; iifname go ip daddr set ip daddr map @terminals; }
}
RULES
}
off_stateless() { each_gateway tables_off; }

# --- kamei ------------------------------------------------------------------------------------------------------

on_tun() { start_kamei off; }
off_tun() { stop_kept; }
on_tc() { start_kamei tc; }
off_tc() { stop_kept; }
# As on a host without a BPF file system: filters on clsact, and the guard is a table of nftables.
on_tc_clsact() { file_system=none start_kamei tc; }
off_tc_clsact() { stop_kept; }
on_redirect() { start_kamei redirect; }
off_redirect() { stop_kept; }

# Packets whose checksum and VLAN tag are left to the hardware cannot pass XDP: nobody may leave them.
on_xdp() {
    finished_by off
    start_kamei xdp || return 1
    keep server1 "$probe" drop eth0
}
off_xdp() {
    stop_kept
    finished_by on
}
finished_by() { # finished_by on|off: hardware
    local end
    for end in "terminal1 eth0" "server1 eth0" "gateway1 gi" "gateway1 go"; do
        at "${end% *}" ethtool -K "${end#* }" tx "$1" tx-vlan-hw-insert "$1" tx-vlan-stag-hw-insert "$1" > /dev/null
    done
}

# kamei as if the kernel had no offloads for TUN: one packet a read.
on_one_packet() { start_kamei off 'offload = "off"'; }
off_one_packet() { stop_kept; }

# Four workers, each on a processor of its own choice, or wherever the scheduler puts it.
on_pinned() { start_kamei off 'workers = 4'; }
off_pinned() { stop_kept; }
on_unpinned() {
    start_kamei off 'workers = 4' || return 1
    local task
    for task in /proc/"${kept[-1]}"/task/*; do taskset -cp "0-$(($(nproc) - 1))" "${task##*/}" > /dev/null; done
}
off_unpinned() { stop_kept; }

# One worker, on the last processor.
on_tun_alone() { start_kamei off 'workers = 1' taskset -c "$last_cpu"; }
off_tun_alone() { stop_kept; }
readonly last_cpu=$(($(nproc) - 1))

control() { echo "/run/kamei/$(lab)-$1.sock"; }

# start_kamei FAST-PATH [LINE-OF-CONFIGURATION [WRAPPER...]]: at every gateway, with a binding for the terminal. On hosts
# with systemd a BPF file system is mounted; here it is, unless file_system=none, in the namespace that `ip netns exec` makes
# for mounts, so that what is pinned there goes with it.
start_kamei() {
    local fast_path=$1 k mounting
    # shellcheck disable=SC2016 # expanded by the inner shell
    case ${file_system:-bpf} in
        bpf) mounting='mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf || exit; exec "$@"' ;;
        none) mounting='! mountpoint -q /sys/fs/bpf || umount /sys/fs/bpf || exit; exec "$@"' ;;
    esac
    echo "${2:-}" > "$work/kamei.toml"
    shift $(($# < 2 ? $# : 2))
    for ((k = 1; k <= gateways; k++)); do
        keep "gateway$k" sh -c "$mounting" sh "$@" "$kamei" gateway --inside gi --outside go --pool "198.18.$k.0/24" \
            --fast-path "$fast_path" --config "$work/kamei.toml" --control "$(control "$k")" \
            --state-dir "$work/state/$(lab)-$k" &> "$work/kamei.log"
        "$kamei" status --wait 5 --control "$(control "$k")" > /dev/null 2>&1 || { tail -n 3 "$work/kamei.log" >&2; return 1; }
    done
    # The call that makes the bindings, and allows the server to call back; long enough for the fast path to take it up.
    at terminal1 ping -c 3 -i 0.25 -W 5 "$server_address" > /dev/null
}

# virtual_ip K: the terminal's, at gateway K.
virtual_ip() {
    local k address=$terminal_address
    for ((k = 1; k <= $1; k++)); do
        address=$("$kamei" bindings show "$address" --json --control "$(control "$k")" | jq -er 'first(.. | .virtual_ip? // empty)')
    done
    echo "$address"
}

# --- others -----------------------------------------------------------------------------------------------------

# What kamei's way through user space costs at least: its device, read and written, nothing between. The kernel hands over
# what leaves by go, and what comes back leaves by the next interface, where no filter takes it again.
on_empty_loop() {
    local gateway
    gateway=$(lab)-gateway1
    forwarding_on 1
    keep gateway1 taskset -c "$last_cpu" "$probe" loop loop0
    until ip -n "$gateway" link set loop0 up 2> /dev/null; do kill -0 "${kept[-1]}" || return; sleep 0.05; done
    tc -n "$gateway" qdisc add dev go clsact
    tc -n "$gateway" qdisc add dev loop0 clsact
    tc -n "$gateway" filter add dev go egress protocol ip u32 match u32 0 0 action mirred egress redirect dev loop0
    tc -n "$gateway" filter add dev loop0 ingress protocol ip u32 match u32 0 0 action mirred egress redirect dev to
}
off_empty_loop() {
    tc -n "$(lab)-gateway1" qdisc delete dev go clsact
    stop_kept
    forwarding_off 1
}

# TAYGA, NAT64 on TUN: the terminal has IPv6, the server IPv4.
on_tayga() {
    printf '%s\n' 'tun-device nat64' 'ipv4-addr 198.18.1.1' 'prefix 2001:db8:64::/96' 'dynamic-pool 198.18.1.0/24' \
        "data-dir $work/tayga" > "$work/tayga.conf"
    mkdir -p "$work/tayga"
    forwarding_on 1
    at gateway1 tayga -c "$work/tayga.conf" --mktun > /dev/null
    ip -n "$(lab)-gateway1" link set nat64 up
    ip -n "$(lab)-gateway1" route add 198.18.1.0/24 dev nat64
    ip -n "$(lab)-gateway1" route add 2001:db8:64::/96 dev nat64
    keep gateway1 tayga -c "$work/tayga.conf" -d &> "$work/tayga.log"
    until at terminal1 ping -c 1 -W 1 "2001:db8:64::$server_address" > /dev/null; do kill -0 "${kept[-1]}" || return; done
}
off_tayga() {
    stop_kept
    at gateway1 tayga -c "$work/tayga.conf" --rmtun > /dev/null
    forwarding_off 1
}
