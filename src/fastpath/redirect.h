// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The short way past the kernel: a known flow that arrives is translated and sent out by the interface that the main table
// names. Nothing is written until the whole way of the packet is known. Whatever cannot be done here goes on untouched.

#pragma once

#include "divert.h"

// Packets that leave past the kernel tell it nothing of their neighbour, and it would never ask whether that is still
// there. So one of each flow now and then, every 0.3 to 2.6 seconds, is a visit: it goes by the kernel.
#define VISITING_TICKS 256

static __always_inline bool is_visit_due(__u32 visited)
{
	return (__u32)bpf_jiffies64() - visited >= VISITING_TICKS;
}

// Whether this packet is one. The first packets of a flow have gone by the kernel before it was known here.
static __always_inline bool visits(__u32 *visited)
{
	bool is_new = !*visited;

	if (!is_new && !is_visit_due(*visited))
		return false;
	*visited = bpf_jiffies64();
	return !is_new;
}

// The families whose packets are led by routing rules other than the kernel's own.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ruled SEC(".maps");

#define FOR_V4 1
#define FOR_V6 2

// Whether the main table alone says where packets of `family` go.
static __always_inline bool is_led_by_main(__u32 family)
{
	__u32 only = 0, *families = bpf_map_lookup_elem(&ruled, &only);

	return families && !(*families & (family == IPV4 ? FOR_V4 : FOR_V6));
}

// Begins to ask for the way of a packet that came in by `from` and of which `longest` bytes have to fit.
static __always_inline void ask4(struct bpf_fib_lookup *way, const struct iphdr *ip, const struct seen *seen,
				 __u32 from, __u32 longest)
{
	__builtin_memset(way, 0, sizeof(*way));
	way->family = IPV4;
	way->l4_protocol = ip->protocol;
	way->sport = seen->source;
	way->dport = seen->destination;
	way->tot_len = longest;
	way->ifindex = from;
	way->tos = ip->tos;
	way->ipv4_src = ip->saddr;
	way->ipv4_dst = ip->daddr;
}

static __always_inline void ask6(struct bpf_fib_lookup *way, const struct ipv6hdr *ip, const struct seen *seen,
				 __u32 from, __u32 longest)
{
	__builtin_memset(way, 0, sizeof(*way));
	way->family = IPV6;
	way->l4_protocol = ip->nexthdr;
	way->sport = seen->source;
	way->dport = seen->destination;
	way->tot_len = longest;
	way->ifindex = from;
	way->flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
	__builtin_memcpy(way->ipv6_src, &ip->saddr, sizeof(way->ipv6_src));
	__builtin_memcpy(way->ipv6_dst, &ip->daddr, sizeof(way->ipv6_dst));
}

// Whether the packet can leave at once, into the realm `to`: the main table has a way for its length, and the neighbour is
// known. Back where it came from it cannot: the kernel tells the sender of a shorter way.
static __always_inline struct interface *way_out(void *packet, struct bpf_fib_lookup *way, __u32 to)
{
	__u32 from = way->ifindex;
	struct interface *exit;

	if (!is_led_by_main(way->family))
		return NULL;
	if (bpf_fib_lookup(packet, way, sizeof(*way), BPF_FIB_LOOKUP_DIRECT) || way->ifindex == from)
		return NULL;
	exit = bpf_map_lookup_elem(&interfaces, &way->ifindex);
	return exit && exit->realm == to ? exit : NULL;
}

// Of a super-packet each segment has to fit. UDP may be a tunnel: what is repeated in each cannot be seen here.
static __always_inline bool is_unclear(const struct __sk_buff *skb, const struct seen *seen)
{
	return skb->gso_size && !seen->header;
}

static __always_inline __u32 longest(const struct __sk_buff *skb, const struct seen *seen, __u32 header)
{
	return skb->gso_size ? header + seen->header + skb->gso_size : seen->length;
}

// What follows the IP packet in its frame: not the sender's to send on.
static __always_inline bool has_trailer(const struct __sk_buff *skb, const struct seen *seen)
{
	return skb->len - constants.link_header != seen->length;
}

static __always_inline int leave_by(struct __sk_buff *skb, const struct bpf_fib_lookup *way)
{
	if (bpf_skb_store_bytes(skb, 0, way->dmac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, way->smac, ETH_ALEN, 0))
		return TC_ACT_SHOT;
	set_mark(skb, HAD);
	return bpf_redirect(way->ifindex, 0);
}
