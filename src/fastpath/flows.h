// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// What the programs share: the constants they are put into, the maps, and the look at a packet.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Shared with layout.rs: both change together, and LAYOUT there with them.

struct constants {
	__u32 realm; // 0: outside; n + 1: inside n
	__u32 device; // index of the gateway's device, the way to user space
	__u32 token[2]; // in the control block of a packet: the gateway has had it
	__u16 control_ports[8]; // TCP ports whose text a helper looks into, network order; 0: none
	__u8 hardware[6]; // the interface's own Ethernet address
	__u8 link_header; // bytes before the IP header: of Ethernet, or none
	__u8 clamps; // whether TCP SYNs get another segment size
	__u8 carries; // whether known flows are translated here
	__u8 redirects; // whether they leave at once, past netfilter and all else on the kernel's way
	__u8 strips; // whether TCP SYNs lose the options of Multipath TCP
	__u8 unused;
};

struct shared {
	__u32 last_number; // given to a way; none means two ways, but after four thousand million of them
	__u32 token[2]; // as in every program
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
	__u16 to; // the realm it goes to, numbered as in a constants
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

struct interface {
	__u32 realm; // numbered as in a constants
	__u32 takes_frames; // whether its driver sends what XDP hands it
};

struct prefix4 {
	__u32 length;
	__be32 address;
};

struct prefix6 {
	__u32 length;
	__u32 address[4];
};

// What is at an address.
enum kind {
	NOWHERE, // none of the gateway's business
	POOL, // a virtual IP
	INSIDE, // a terminal of one inside
	UNCLEAR, // a terminal, but two insides have the address
	OWN_OUTSIDE, // this machine, as peers know it
	OWN_INSIDE, // this machine, as terminals know it
	EXEMPT, // a peer that sees terminals as they are
};

struct place {
	__u32 kind;
	__u32 realm; // of INSIDE, numbered as in a constants
};

// Why the program that carries known flows has left a packet to user space.
enum why { MISS, MALFORMED, OPTIONS, FRAGMENT, PROTOCOL, CLAMPED, CONTROL, OFF, WHYS };

// What else the programs count: packets that they drop, and those they let pass because netfilter has translated them.
enum noted {
	UNWRITABLE = WHYS, // a known flow that could not be rewritten
	FOREIGN_SOURCE, // a terminal's address that came in by an interface that is not of its inside
	UNCLEAR_SOURCE, // the machine itself sends with a terminal's address, and two insides have it
	OWN_INSIDE_SOURCE, // the machine itself sends with its address inside
	INSIDE_DESTINATION, // for an inside address, where nobody outside may see one
	UNTRANSLATED, // nobody has translated it: a program was taken off
	LOST_WAY, // user space has kept it for too long
	MASQUERADED, // passed: netfilter has given it the machine's own address
	COUNTERS,
};

const volatile struct constants constants = {};

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
	__type(value, struct interface);
} interfaces SEC(".maps");

// Those of them that have a low index, as on most machines, by it: a look-up here is a few instructions. Zeros: none.
#define LOW_INDICES 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOW_INDICES);
	__type(key, __u32);
	__type(value, struct interface);
} low_interfaces SEC(".maps");

#define PREFIXES(name, prefix)                                                                                         \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__uint(max_entries, 1 << 20);                                                                          \
		__type(key, struct prefix);                                                                            \
		__type(value, struct place);                                                                           \
	} name SEC(".maps")

PREFIXES(places4, prefix4);
PREFIXES(places6, prefix6);
PREFIXES(exempt4, prefix4);
PREFIXES(exempt6, prefix6);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void note(__u32 what)
{
	__u64 *number = bpf_map_lookup_elem(&counters, &what);

	if (number)
		*number += 1;
}

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

#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_MULTIPATH 30
#define OPTIONS_READ 12 // of a SYN; a sender writes fewer

// Whether a TCP header may have an option of Multipath TCP: user space takes it out.
static __always_inline bool may_be_multipath(__u8 *transport, void *end)
{
	__u32 header = transport[12] >> 4 << 2, at = 20;

	for (int i = 0; i < OPTIONS_READ; i++) {
		__u8 *option = transport + (at & 63);

		if (at + 1 >= header)
			return false;
		if ((void *)option + 2 > end)
			return true;
		if (option[0] == OPTION_MULTIPATH)
			return true;
		if (option[0] == OPTION_END)
			return false;
		at += option[0] == OPTION_NOTHING ? 1 : option[1] < 2 ? 64 : option[1];
	}
	return true;
}

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
		for (int i = 0; i < 8 && constants.control_ports[i]; i++) {
			__u16 port = constants.control_ports[i];

			if (seen->source == port || seen->destination == port)
				return CONTROL;
		}
		if (constants.clamps && transport[13] & TCP_SYN)
			return CLAMPED;
		if (constants.strips && transport[13] & TCP_SYN && may_be_multipath(transport, end))
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

// Looks an IPv4 packet up, for which there are `room` bytes; `whole` is what it says its length is when that is more than
// a header can say (a super-packet). WHYS means that it can be carried.
static __always_inline enum why find4(struct iphdr *ip, void *end, __u32 room, __u32 whole, __u32 realm,
				      struct seen *seen, struct flow4 **flow)
{
	struct key4 key;
	enum why why;

	if (!constants.carries)
		return OFF;
	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 4)
		return MALFORMED;
	if (ip->ihl != 5)
		return OPTIONS;
	if (ip->frag_off & bpf_htons(0x3fff))
		return FRAGMENT;
	seen->length = ip->tot_len ? bpf_ntohs(ip->tot_len) : whole;
	if (seen->length < sizeof(*ip) || seen->length > room)
		return MALFORMED;
	if (ip->protocol == IPPROTO_ICMPV6)
		return PROTOCOL;
	why = look(ip->protocol, (void *)(ip + 1), end, seen->length - sizeof(*ip), seen);
	if (why != MISS)
		return why;

	key.realm = realm;
	key.source = ip->saddr;
	key.destination = ip->daddr;
	*flow = bpf_map_lookup_elem(&flows4, &key);
	return *flow ? WHYS : MISS;
}

static __always_inline enum why find6(struct ipv6hdr *ip, void *end, __u32 room, __u32 whole, __u32 realm,
				      struct seen *seen, struct flow6 **flow)
{
	struct key6 key;
	enum why why;
	__u32 length;

	if (!constants.carries)
		return OFF;
	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 6)
		return MALFORMED;
	seen->length = ip->payload_len || !whole ? bpf_ntohs(ip->payload_len) + sizeof(*ip) : whole;
	if (seen->length > room || seen->length < sizeof(*ip))
		return MALFORMED;
	length = seen->length - sizeof(*ip);
	if (ip->nexthdr == IPPROTO_ICMP)
		return PROTOCOL;
	why = look(ip->nexthdr, (void *)(ip + 1), end, length, seen);
	if (why != MISS)
		return why;

	key.realm = realm;
	__builtin_memcpy(key.source, &ip->saddr, sizeof(key.source));
	__builtin_memcpy(key.destination, &ip->daddr, sizeof(key.destination));
	*flow = bpf_map_lookup_elem(&flows6, &key);
	return *flow ? WHYS : MISS;
}

// What a change of `delta` in what it covers makes of an Internet checksum.
static __always_inline __u16 mended(__u16 checksum, __u32 delta)
{
	__u32 sum = (__u16)~checksum + delta;

	return ~(__u16)((sum & 0xffff) + (sum >> 16));
}

// Whether the field may hold the sum of the pseudo-header alone, for a card to complete. A whole checksum is the same once
// in 65,535 packets.
static __always_inline bool may_be_partial(__u16 field, __u64 pseudo_header)
{
	__u64 sum = pseudo_header + (__u16)~field;

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0 || sum == 0xffff;
}

static __always_inline __u64 pseudo_header4(const struct iphdr *ip, const struct seen *seen)
{
	return (__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) + bpf_htons(seen->length - sizeof(*ip));
}

static __always_inline __u64 pseudo_header6(const struct ipv6hdr *ip, const struct seen *seen)
{
	__u64 sum = bpf_htons(ip->nexthdr) + bpf_htons(seen->length - sizeof(*ip));

	for (int i = 0; i < 4; i++)
		sum += (__u64)ip->saddr.in6_u.u6_addr32[i] + ip->daddr.in6_u.u6_addr32[i];
	return sum;
}

// The transport checksum, which is whole and may be absent.
static __always_inline void mend_whole(__u16 *field, const struct seen *seen, __u32 delta)
{
	if (seen->zero_is_none && !*field)
		return;
	*field = mended(*field, delta);
	if (seen->zero_is_none && !*field)
		*field = 0xffff;
}

// Whether the checksum of an IPv4 header without options is right.
static __always_inline bool is_header_whole(const struct iphdr *ip)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = 0;

	for (int i = 0; i < 5; i++)
		sum += word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}
