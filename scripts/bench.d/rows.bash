# What is measured: row_ROW WAY prints a number or a JSON object with a `value`. Sourced.
# shellcheck shell=bash

# TCP, bits per second. "Out" is from the terminal to the server; "in" over connections that the server opens.
row_tcp_out_1() { bulk "$1" out 1; }
row_tcp_in_1() { bulk "$1" in 1; }
row_tcp_out_4() { bulk "$1" out 4; }
row_tcp_in_4() { bulk "$1" in 4; }

bulk() { # bulk WAY out|in STREAMS
    local from=terminal1 to=$server_address
    [[ $1 != tayga ]] || to=2001:db8:64::$server_address
    [[ $2 == out ]] || { from=server1 to=$(called "$1"); }
    at "$from" iperf3 -c "$to" -t "$seconds" -P "$3" --json | jq '{value: .end.sum_received.bits_per_second, amount: .end.sum_received.bytes}'
}

# HTTP requests with a connection each, per second.
row_http_out() { connections terminal1 "$server_address"; }
row_http_in() { connections server1 "$(called "$1")"; }

connections() { # connections FROM ADDRESS
    at "$1" wrk -t 1 -c 32 -d "${seconds}s" -H 'Connection: close' "http://$2:8080/" | awk '
        / requests in / {count = $1; time = $4; unit = time; gsub(/[0-9.]/, "", unit); time = time * (unit == "m" ? 60 : unit == "ms" ? 0.001 : 1)}
        /Socket errors|Non-2xx/ {bad = bad $0}
        END {if (!count) exit 1; printf "{\"value\": %f, \"amount\": %d, \"errors\": \"%s\"}\n", count / time, count, bad}'
}

# 60-byte datagrams of one flow that arrive at the server's interface, per second of the processor that does the gateway's
# work (so that a busy machine tells the same as a quiet one). What stays in the kernel is injected on that processor, where
# the gateway's driver would hand it on, and goes its whole way in one piece. For user space the worker has it, and the
# packets come from the other, which also routes them: `both_cores` counts its time for each packet that arrived as well.
row_packets() { flood "$1" eth0 gi "$terminal_address" "$absent_address"; }

# The same between two interfaces that are neither inside nor outside: what it costs others that kamei runs.
row_transit() {
    at gateway1 sysctl -qw net.ipv4.conf.ti.forwarding=1 net.ipv4.conf.to.forwarding=1 # kamei forwards between its own
    flood "$1" transit ti "$stranger_address" "$absent_stranger_address"
}

flood() { # flood WAY INTERFACE-OF-THE-TERMINAL INTERFACE-OF-THE-GATEWAY FROM TO
    local cpu=$last_cpu options busy=("$(pgrep -x "ksoftirqd/$last_cpu")") before spent result
    options=(--from "$4" --to "$5" --from-mac "$(hardware terminal1 "$2")" --to-mac "$(hardware gateway1 "$3")")
    case ${1%"$wall"} in
        tun_alone | empty_loop) cpu=0 busy+=("${kept[0]}") ;;
        xdp) options+=(--program "$(at gateway1 ip -json -details link show "$3" | jq '.[0].xdp.prog.id')") ;; # as a driver does it
    esac
    # Whoever takes flows up sees this one, and then a quiet moment to do it in.
    injected "$cpu" "$3" 0.2 > /dev/null
    sleep 0.5
    before=$(received) spent=$(spent "${busy[@]}")
    result=$(injected "$cpu" "$3" "$seconds")
    jq -n --argjson after "$(received)" --argjson before "$before" --argjson now "$(spent "${busy[@]}")" --argjson spent "$spent" \
        --argjson run "$result" --argjson own "$((cpu == last_cpu))" \
        '($after - $before) as $amount | ($now - $spent) as $work | $run.busy as $way
            | {value: ($amount / ($work + $own * $way)), $amount, sent: $run.sent}
            + if $own == 1 then {} else {both_cores: ($amount / ($work + $way * $amount / $run.sent))} end'
}

# Processor seconds of programs so far, all their threads.
spent() {
    local pid
    for pid; do cat /proc/"$pid"/task/*/schedstat; done | awk '{sum += $1} END {printf "%.6f\n", sum / 1e9}'
}

injected() { # injected CPU INTERFACE SECONDS; `options` as flood has them
    at gateway1 taskset -c "$1" "$probe" inject "$2" "$3" "${options[@]}"
}

hardware() { at "$1" cat "/sys/class/net/$2/address"; } # hardware HOST INTERFACE
received() { at server1 sh -c 'cat /sys/class/net/*/statistics/rx_packets' | jq -s add; }

# Round-trip time of a small datagram with nothing else going on, in microseconds: the median, and the 99th percentile.
row_rtt() {
    at terminal1 "$probe" ping "$server_address:7" "$seconds" | jq '{value: .p50, p99, amount: .count, lost}'
}

# Four streams each way at once: segments that came out of order, a gigabyte, and those sent again.
row_reordering() {
    local before
    before=$(out_of_order)
    at terminal1 iperf3 -c "$server_address" -t "$seconds" -P 4 --bidir --json |
        jq --argjson before "$before" --argjson after "$(out_of_order)" '.end
            | (.sum_received.bytes + .sum_received_bidir_reverse.bytes) as $bytes
            | (.sum_sent.retransmits + .sum_sent_bidir_reverse.retransmits) as $again
            | {value: (($after - $before) / $bytes * 1e9), sent_again: ($again / $bytes * 1e9), amount: $bytes}'
}
out_of_order() {
    { at terminal1 nstat -asz TcpExtTCPOFOQueue; at server1 nstat -asz TcpExtTCPOFOQueue; } | awk '/OFO/ {sum += $2} END {print sum}'
}
