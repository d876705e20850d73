// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The fast path at XDP, in the driver of a network card, in front of those at tc: a frame is all there is, and it goes
// from one driver to the other. Nothing is written until the whole way of a packet is known. Whatever cannot be done
// here goes on untouched, to tc and the kernel.

#pragma once

#include "redirect.h"

// Frames for other machines may come by too.
static __always_inline bool is_for_us(const struct ethhdr *ethernet)
{
	for (int i = 0; i < ETH_ALEN; i++)
		if (ethernet->h_dest[i] != constants.hardware[i])
			return false;
	return true;
}

// Whether the packet can leave at once, into the realm `to`, and the driver there takes frames.
static __always_inline bool is_open(struct xdp_md *xdp, struct bpf_fib_lookup *way, __u32 to)
{
	struct interface *exit = way_out(xdp, way, to);

	return exit && exit->takes_frames;
}

// What follows the IP packet in its frame, padding mostly, is not the sender's to send on.
static __always_inline int send_by(struct xdp_md *xdp, struct ethhdr *ethernet, const struct bpf_fib_lookup *way,
				   long trailer)
{
	__builtin_memcpy(ethernet->h_dest, way->dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, way->smac, ETH_ALEN);
	if (trailer && bpf_xdp_adjust_tail(xdp, -trailer))
		return XDP_DROP; // rewritten already: the slow way would not know it again
	return bpf_redirect(way->ifindex, 0);
}

static __always_inline int carry4(struct xdp_md *xdp, struct ethhdr *ethernet, void *end)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct bpf_fib_lookup way;
	struct seen seen = {};
	struct flow4 *flow = NULL;
	long trailer;
	__u16 *field;

	if (find4(ip, end, end - (void *)ip, 0, constants.realm, &seen, &flow) != WHYS || is_visit_due(flow->visited))
		return XDP_PASS;
	field = (void *)(ip + 1) + seen.checksum;
	if ((void *)(field + 1) > end || ip->ttl <= 1 || !is_header_whole(ip))
		return XDP_PASS;
	if (seen.checksum && may_be_partial(*field, pseudo_header4(ip, &seen)))
		return XDP_PASS;
	ask4(&way, ip, &seen, xdp->ingress_ifindex, seen.length);
	if (constants.realm)
		way.ipv4_src = flow->address;
	else
		way.ipv4_dst = flow->address;
	if (!is_open(xdp, &way, flow->to))
		return XDP_PASS;
	trailer = end - (void *)ip - seen.length;

	if (constants.realm)
		ip->saddr = flow->address;
	else
		ip->daddr = flow->address;
	ip->ttl--;
	// The hop limit is the high byte of a word of the header.
	ip->check = mended(mended(ip->check, flow->delta), (__u16)~bpf_htons(0x0100));
	if (seen.checksum)
		mend_whole(field, &seen, flow->delta);
	count(&flow->carried, seen.length, seen.opens);
	return send_by(xdp, ethernet, &way, trailer);
}

static __always_inline int carry6(struct xdp_md *xdp, struct ethhdr *ethernet, void *end)
{
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct bpf_fib_lookup way;
	struct seen seen = {};
	struct flow6 *flow = NULL;
	long trailer;
	__u16 *field;

	if (find6(ip, end, end - (void *)ip, 0, constants.realm, &seen, &flow) != WHYS || is_visit_due(flow->visited))
		return XDP_PASS;
	field = (void *)(ip + 1) + seen.checksum;
	if ((void *)(field + 1) > end || ip->hop_limit <= 1 || may_be_partial(*field, pseudo_header6(ip, &seen)))
		return XDP_PASS;
	ask6(&way, ip, &seen, xdp->ingress_ifindex, seen.length);
	__builtin_memcpy(constants.realm ? way.ipv6_src : way.ipv6_dst, flow->address, sizeof(flow->address));
	if (!is_open(xdp, &way, flow->to))
		return XDP_PASS;
	trailer = end - (void *)ip - seen.length;

	if (constants.realm)
		__builtin_memcpy(&ip->saddr, flow->address, sizeof(flow->address));
	else
		__builtin_memcpy(&ip->daddr, flow->address, sizeof(flow->address));
	ip->hop_limit--;
	mend_whole(field, &seen, flow->delta);
	count(&flow->carried, seen.length, seen.opens);
	return send_by(xdp, ethernet, &way, trailer);
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
