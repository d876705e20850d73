// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The fast path at XDP, in the driver of a network card, in front of the one at tc: a frame is all there is, and it goes
// from one driver to the other. Nothing is written until the whole way of a packet is known. Whatever cannot be done
// here goes on untouched, to tc and the kernel.

#pragma once

#include "flows.h"

// Frames for other machines may come by too.
static __always_inline bool is_for_us(const struct ethhdr *ethernet)
{
	for (int i = 0; i < ETH_ALEN; i++)
		if (ethernet->h_dest[i] != door.hardware[i])
			return false;
	return true;
}

// Whether the field may hold the sum of the pseudo-header alone, for a card to complete, as packets of this machine and
// of its containers have it. That cannot be seen in a frame. A whole checksum is the same once in 65,535 packets.
static __always_inline bool may_be_partial(__u16 field, __u64 pseudo_header)
{
	__u64 sum = pseudo_header + (__u16)~field;

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0 || sum == 0xffff;
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

// Whether the packet can leave at once, into the realm `to`: there is a way for its length, the neighbour is known, and
// the driver there takes frames.
static __always_inline bool is_open(struct xdp_md *xdp, struct bpf_fib_lookup *way, __u32 to)
{
	__u32 family = way->family == IPV4 ? FOR_V4 : FOR_V6;
	struct exit *exit;

	if (!is_led_by_main(family))
		return false;
	if (bpf_fib_lookup(xdp, way, sizeof(*way), BPF_FIB_LOOKUP_DIRECT))
		return false;
	// Back where it came from: the kernel tells the sender of a shorter way.
	if (way->ifindex == xdp->ingress_ifindex)
		return false;
	exit = bpf_map_lookup_elem(&exits, &way->ifindex);
	return exit && exit->realm == to && exit->takes_frames;
}

static __always_inline int leave_by(struct ethhdr *ethernet, const struct bpf_fib_lookup *way)
{
	__builtin_memcpy(ethernet->h_dest, way->dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, way->smac, ETH_ALEN);
	return bpf_redirect(way->ifindex, 0);
}

static __always_inline int carry4(struct xdp_md *xdp, struct ethhdr *ethernet, void *end)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct bpf_fib_lookup way;
	struct seen seen = {};
	struct flow4 *flow;
	__u16 *field;

	if (find4(ip, end, end - (void *)ip, &seen, &flow) != WHYS || is_visit_due(flow->visited))
		return XDP_PASS;
	field = (void *)(ip + 1) + seen.checksum;
	if ((void *)(field + 1) > end)
		return XDP_PASS;
	if (seen.checksum && may_be_partial(*field, (__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) +
							    bpf_htons(seen.length - sizeof(*ip))))
		return XDP_PASS;
	ask4(&way, ip, &seen, xdp->ingress_ifindex, seen.length);
	if (door.realm)
		way.ipv4_src = flow->address;
	else
		way.ipv4_dst = flow->address;
	if (!is_open(xdp, &way, flow->to))
		return XDP_PASS;

	if (door.realm)
		ip->saddr = flow->address;
	else
		ip->daddr = flow->address;
	ip->ttl--;
	// The hop limit is the high byte of a word of the header.
	ip->check = mended(mended(ip->check, flow->delta), (__u16)~bpf_htons(0x0100));
	if (seen.checksum)
		mend_whole(field, &seen, flow->delta);
	count(&flow->carried, seen.length, seen.opens);
	return leave_by(ethernet, &way);
}

static __always_inline int carry6(struct xdp_md *xdp, struct ethhdr *ethernet, void *end)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct bpf_fib_lookup way;
	struct seen seen = {};
	struct flow6 *flow;
	__u64 sum = 0;
	__u16 *field;

	if (find6(ip, end, end - (void *)ip, &seen, &flow) != WHYS || is_visit_due(flow->visited))
		return XDP_PASS;
	field = (void *)(ip + 1) + seen.checksum;
	if ((void *)(field + 1) > end)
		return XDP_PASS;
	ask6(&way, ip, &seen, xdp->ingress_ifindex, seen.length);
	for (int i = 0; i < 4; i++)
		sum += (__u64)way.ipv6_src[i] + way.ipv6_dst[i];
	if (may_be_partial(*field, sum + bpf_htons(ip->nexthdr) + bpf_htons(seen.length - sizeof(*ip))))
		return XDP_PASS;
	__builtin_memcpy(door.realm ? way.ipv6_src : way.ipv6_dst, flow->address, sizeof(flow->address));
	if (!is_open(xdp, &way, flow->to))
		return XDP_PASS;

	if (door.realm)
		__builtin_memcpy(&ip->saddr, flow->address, sizeof(flow->address));
	else
		__builtin_memcpy(&ip->daddr, flow->address, sizeof(flow->address));
	ip->hop_limit--;
	mend_whole(field, &seen, flow->delta);
	count(&flow->carried, seen.length, seen.opens);
	return leave_by(ethernet, &way);
}

SEC("xdp")
int kamei_xdp(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > end || !is_for_us(ethernet))
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return carry4(xdp, ethernet, end);
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		return carry6(xdp, ethernet, end);
	return XDP_PASS;
}
