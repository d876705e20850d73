// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// What the programs share: the door they are put into, the maps, and the look at a packet.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Shared with layout.rs: both change together, and LAYOUT there with them.

struct door {
	__u32 realm; // 0: outside; n + 1: inside n
	__u32 mark; // set on translated packets, cleared on all others
	__u16 control_ports[8]; // TCP ports whose text a helper looks into, network order; 0: none
	__u8 hardware[6]; // the interface's own Ethernet address
	__u8 link_header; // bytes before the IP header
	__u8 clamps; // whether TCP SYNs get another segment size
	__u8 redirects; // whether translated packets leave at once, whoever would look at them on the kernel's way
	__u8 looks; // whether this program may see who would
	__u8 unused[2];
};

struct key4 {
	__u32 realm;
	__be32 source;
	__be32 destination;
};

struct key6 {
	__u32 realm;
	__u32 source[4];
	__u32 destination[4];
};

struct carried {
	__u64 packets;
	__u64 bytes;
	__u64 opened; // TCP connection requests
};

struct flow4 {
	struct carried carried;
	__be32 address; // over the source of what comes from inside, over the destination of what comes from outside
	__u16 delta; // what that changes in any Internet checksum
	__u16 to; // the realm it goes to, numbered as in a door
	__u32 visited; // the tick of the last visit
	__u32 unused;
};

struct flow6 {
	struct carried carried;
	__u32 address[4];
	__u16 delta;
	__u16 to;
	__u32 visited;
};

struct exit {
	__u32 realm;
	__u32 takes_frames; // whether its driver sends what XDP hands it
};

// Why a packet went the slow way.
enum why { MISS, NOT_IP, NOT_FOR_US, MALFORMED, OPTIONS, FRAGMENT, LAST_HOP, PROTOCOL, CLAMPED, CONTROL, UNWRITABLE, WHYS };

const volatile struct door door = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct key4);
	__type(value, struct flow4);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct key6);
	__type(value, struct flow6);
} flows6 SEC(".maps");

// The interfaces of the gateway, by index.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct exit);
} exits SEC(".maps");

// The families whose packets are led by routing rules that are not the gateway's.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ruled SEC(".maps");

#define FOR_V4 1
#define FOR_V6 2
#define FOR_BOTH (FOR_V4 | FOR_V6)
#define FAMILY_BITS 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WHYS);
	__type(key, __u32);
	__type(value, __u64);
} slow SEC(".maps");

// What was seen of the transport header.
struct seen {
	__u32 checksum; // offset of the checksum in it; 0: it covers no addresses
	bool zero_is_none; // UDP: a checksum of zero says that there is none
	bool opens;
	__u32 header; // TCP: bytes of it
	__be16 source, destination; // ports
	__u32 length; // bytes of the packet, its IP header included
};

#define IPV4 2 // AF_INET
#define IPV6 10 // AF_INET6

#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

// Looks at the transport header, of which `length` bytes are in the packet. MISS means that the flow may be looked up.
static __always_inline enum why look(__u8 protocol, __u8 *transport, void *end, __u32 length, struct seen *seen)
{
	if (length < 8 || (void *)transport + 8 > end)
		return MALFORMED;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		seen->source = *(__u16 *)transport;
		seen->destination = *(__u16 *)(transport + 2);
	}
	switch (protocol) {
	case IPPROTO_TCP:
		if (length < 20 || (void *)transport + 20 > end)
			return MALFORMED;
		for (int i = 0; i < 8 && door.control_ports[i]; i++) {
			__u16 port = door.control_ports[i];

			if (seen->source == port || seen->destination == port)
				return CONTROL;
		}
		if (door.clamps && transport[13] & TCP_SYN)
			return CLAMPED;
		seen->opens = (transport[13] & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
		seen->checksum = 16;
		seen->header = transport[12] >> 4 << 2;
		return MISS;
	case IPPROTO_UDP:
		seen->checksum = 6;
		seen->zero_is_none = true;
		return MISS;
	case IPPROTO_ICMP: // echo reply and request; errors quote a packet and are the translator's
		return transport[0] == 0 || transport[0] == 8 ? MISS : PROTOCOL;
	case IPPROTO_ICMPV6:
		seen->checksum = 2;
		return transport[0] == 128 || transport[0] == 129 ? MISS : PROTOCOL;
	default:
		return PROTOCOL;
	}
}

// Several processors may carry packets between the same two addresses.
static __always_inline void count(struct carried *carried, __u32 bytes, bool opens)
{
	__sync_fetch_and_add(&carried->packets, 1);
	__sync_fetch_and_add(&carried->bytes, bytes);
	if (opens)
		__sync_fetch_and_add(&carried->opened, 1);
}

// Packets that leave past the kernel tell it nothing of their neighbour, and it would never ask whether that is still
// there. So one of each flow now and then, every 0.3 to 2.6 seconds, is a visit: it goes by the kernel's neighbour table.
#define VISITING_TICKS 256

static __always_inline bool is_visit_due(__u32 visited)
{
	return (__u32)bpf_jiffies64() - visited >= VISITING_TICKS;
}

// Looks an IPv4 packet up, for which there are `room` bytes. WHYS means that it can be carried.
static __always_inline enum why find4(struct iphdr *ip, void *end, __u32 room, struct seen *seen, struct flow4 **flow)
{
	struct key4 key;
	enum why why;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 4)
		return MALFORMED;
	if (ip->ihl != 5)
		return OPTIONS;
	if (ip->frag_off & bpf_htons(0x3fff))
		return FRAGMENT;
	if (ip->ttl <= 1)
		return LAST_HOP;
	seen->length = bpf_ntohs(ip->tot_len);
	if (seen->length < sizeof(*ip) || seen->length > room)
		return MALFORMED;
	if (ip->protocol == IPPROTO_ICMPV6)
		return PROTOCOL;
	why = look(ip->protocol, (void *)(ip + 1), end, seen->length - sizeof(*ip), seen);
	if (why != MISS)
		return why;

	key.realm = door.realm;
	key.source = ip->saddr;
	key.destination = ip->daddr;
	*flow = bpf_map_lookup_elem(&flows4, &key);
	return *flow ? WHYS : MISS;
}

static __always_inline enum why find6(struct ipv6hdr *ip, void *end, __u32 room, struct seen *seen, struct flow6 **flow)
{
	struct key6 key;
	enum why why;
	__u32 length;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 6)
		return MALFORMED;
	if (ip->hop_limit <= 1)
		return LAST_HOP;
	length = bpf_ntohs(ip->payload_len);
	seen->length = length + sizeof(*ip);
	if (seen->length > room)
		return MALFORMED;
	if (ip->nexthdr == IPPROTO_ICMP)
		return PROTOCOL;
	why = look(ip->nexthdr, (void *)(ip + 1), end, length, seen);
	if (why != MISS)
		return why;

	key.realm = door.realm;
	__builtin_memcpy(key.source, &ip->saddr, sizeof(key.source));
	__builtin_memcpy(key.destination, &ip->daddr, sizeof(key.destination));
	*flow = bpf_map_lookup_elem(&flows6, &key);
	return *flow ? WHYS : MISS;
}

// Whether the main table alone says where packets of `family` go.
static __always_inline bool is_led_by_main(__u32 family)
{
	__u32 only = 0, *families = bpf_map_lookup_elem(&ruled, &only);

	return families && !(*families & family);
}

// Begins to ask for the way of a packet that came in by `interface` and of which `longest` bytes have to fit.
static __always_inline void ask4(struct bpf_fib_lookup *way, const struct iphdr *ip, const struct seen *seen,
				 __u32 interface, __u32 longest)
{
	__builtin_memset(way, 0, sizeof(*way));
	way->family = IPV4;
	way->l4_protocol = ip->protocol;
	way->sport = seen->source;
	way->dport = seen->destination;
	way->tot_len = longest;
	way->ifindex = interface;
	way->tos = ip->tos;
	way->ipv4_src = ip->saddr;
	way->ipv4_dst = ip->daddr;
}

static __always_inline void ask6(struct bpf_fib_lookup *way, const struct ipv6hdr *ip, const struct seen *seen,
				 __u32 interface, __u32 longest)
{
	__builtin_memset(way, 0, sizeof(*way));
	way->family = IPV6;
	way->l4_protocol = ip->nexthdr;
	way->sport = seen->source;
	way->dport = seen->destination;
	way->tot_len = longest;
	way->ifindex = interface;
	way->flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
	__builtin_memcpy(way->ipv6_src, &ip->saddr, sizeof(way->ipv6_src));
	__builtin_memcpy(way->ipv6_dst, &ip->daddr, sizeof(way->ipv6_dst));
}

// What a change of `delta` in what it covers makes of an Internet checksum.
static __always_inline __u16 mended(__u16 checksum, __u32 delta)
{
	__u32 sum = (__u16)~checksum + delta;

	return ~(__u16)((sum & 0xffff) + (sum >> 16));
}
