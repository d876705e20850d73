// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The fast path: rewrites packets of flows that user space has decided about, and lets the kernel forward them, or
// sends them out itself if nobody would look at them there, or `redirects` says that it does not matter.
//
// It decides nothing. A flow that is not in its map, and every packet that is not plain, goes on as if this program
// were not there: to the TUN device, where the translator reads it. It is loaded once for each interface, with `door`
// filled in before: the verifier takes the branches out that this interface does not need.
//
// Here is the program for tc ingress; xdp.h has the one for XDP, flows.h what both need. onlookers.h sees who would look.

#include "flows.h"
#include "onlookers.h"
#include "xdp.h"

// Where a translated packet goes.
struct way {
	struct bpf_fib_lookup fib;
	__u32 to;
	bool unclear; // only the kernel knows how long the packet will be on the wire
	bool is_visit;
};

// The transport checksum by the kernel's own function: it alone knows whether the field holds a whole checksum, or the
// sum of the pseudo-header for a card to complete, and what the card has summed up.
static __always_inline long mend(struct __sk_buff *skb, __u32 at, const struct seen *seen, __u32 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR | (seen->zero_is_none ? BPF_F_MARK_MANGLED_0 : 0);

	return seen->checksum ? bpf_l4_csum_replace(skb, at + seen->checksum, 0, delta, flags) : 0;
}

// Begins the look-up of the way; returns how many bytes of the packet have to fit, `header` of them its IP header.
static __always_inline __u32 prepare(struct __sk_buff *skb, struct way *way, const struct seen *seen, __u32 header)
{
	// Of a super-packet each segment has to fit. UDP may be a tunnel: what is repeated in each cannot be seen here.
	way->unclear = skb->gso_size && !seen->header;
	return skb->gso_size ? header + seen->header + skb->gso_size : seen->length;
}

// Whether this packet visits the neighbour table. Only here: what XDP leaves for it comes by.
static __always_inline bool visit(__u32 *visited)
{
	if (!is_visit_due(*visited))
		return false;
	*visited = bpf_jiffies64();
	return true;
}

// Whether a translated packet may leave without going through the kernel's forwarding.
static __always_inline bool may_leave(struct __sk_buff *skb, __u32 family)
{
	return is_led_by_main(family) && (door.redirects || (door.looks && !has_onlookers(skb, family)));
}

static __always_inline enum why translate4(struct __sk_buff *skb, struct way *way)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + door.link_header;
	struct seen seen = {};
	struct flow4 *flow;
	enum why why = find4(ip, end, skb->len - door.link_header, &seen, &flow);

	if (why != WHYS)
		return why;
	if (door.realm)
		ip->saddr = flow->address;
	else
		ip->daddr = flow->address;
	ip->check = mended(ip->check, flow->delta);
	if (may_leave(skb, FOR_V4)) {
		ask4(&way->fib, ip, &seen, skb->ifindex, prepare(skb, way, &seen, sizeof(*ip)));
		way->to = flow->to;
		way->is_visit = visit(&flow->visited);
	}
	if (mend(skb, door.link_header + sizeof(*ip), &seen, flow->delta))
		return UNWRITABLE;
	count(&flow->carried, seen.length, seen.opens);
	return WHYS;
}

static __always_inline enum why translate6(struct __sk_buff *skb, struct way *way)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + door.link_header;
	struct seen seen = {};
	struct flow6 *flow;
	enum why why = find6(ip, end, skb->len - door.link_header, &seen, &flow);

	if (why != WHYS)
		return why;
	if (door.realm)
		__builtin_memcpy(&ip->saddr, flow->address, sizeof(flow->address));
	else
		__builtin_memcpy(&ip->daddr, flow->address, sizeof(flow->address));
	if (may_leave(skb, FOR_V6)) {
		ask6(&way->fib, ip, &seen, skb->ifindex, prepare(skb, way, &seen, sizeof(*ip)));
		way->to = flow->to;
		way->is_visit = visit(&flow->visited);
	}
	if (mend(skb, door.link_header + sizeof(*ip), &seen, flow->delta))
		return UNWRITABLE;
	// The sum that a card has made of the whole packet: addresses and transport checksum cancel out in it, but mending
	// takes the first for an IPv4 address, which its own header's checksum had cancelled.
	bpf_csum_update(skb, flow->delta);
	count(&flow->carried, seen.length, seen.opens);
	return WHYS;
}

static __always_inline enum why translate(struct __sk_buff *skb, struct way *way)
{
	__u32 least = door.link_header + sizeof(struct ipv6hdr) + 20;

	if (skb->pkt_type != 0 || skb->vlan_present) // 0: PACKET_HOST
		return NOT_FOR_US;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return NOT_IP;
	// Some cards leave the headers in a page of their own.
	if (skb->data_end - skb->data < least && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < least ? skb->len : least);
	return skb->protocol == bpf_htons(ETH_P_IP) ? translate4(skb, way) : translate6(skb, way);
}

// One hop less, and in the sums that cover it; and the Ethernet addresses of the next link.
static __always_inline bool address(struct __sk_buff *skb, const struct bpf_fib_lookup *next)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *v4 = data + sizeof(*ethernet);
	struct ipv6hdr *v6 = data + sizeof(*ethernet);

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((void *)(v4 + 1) > end)
			return false;
		v4->ttl--;
		// The hop limit is the high byte of a word of the header.
		v4->check = mended(v4->check, (__u16)~bpf_htons(0x0100));
	} else {
		if ((void *)(v6 + 1) > end)
			return false;
		v6->hop_limit--;
	}
	__builtin_memcpy(ethernet->h_dest, next->dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, next->smac, ETH_ALEN);
	// What a card has summed up; in IPv4 the header's own checksum cancels the hop.
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		bpf_csum_update(skb, (__u16)~bpf_htons(1));
	return true;
}

// Sends a translated packet out at once. Whatever is not plain about its way (no route, a neighbour not known yet, too
// narrow a link, another realm) is the kernel's: it forwards the packet by its rules, and answers if it cannot.
static __always_inline int leave(struct __sk_buff *skb, struct way *way)
{
	struct bpf_redir_neigh next = {};
	struct exit *exit;

	if (way->unclear)
		return TC_ACT_UNSPEC;
	if (bpf_fib_lookup(skb, &way->fib, sizeof(way->fib), BPF_FIB_LOOKUP_DIRECT))
		return TC_ACT_UNSPEC;
	// Back where it came from: the kernel tells the sender of a shorter way.
	if (way->fib.ifindex == skb->ifindex)
		return TC_ACT_UNSPEC;
	exit = bpf_map_lookup_elem(&exits, &way->fib.ifindex);
	if (!exit || exit->realm != way->to || !address(skb, &way->fib))
		return TC_ACT_UNSPEC;
	if (!way->is_visit)
		return bpf_redirect(way->fib.ifindex, 0);
	next.nh_family = way->fib.family;
	__builtin_memcpy(next.ipv6_nh, way->fib.ipv6_dst, sizeof(next.ipv6_nh));
	return bpf_redirect_neigh(way->fib.ifindex, &next, sizeof(next), 0);
}

SEC("classifier")
int kamei_tc(struct __sk_buff *skb)
{
	struct way way = {};
	__u32 why = translate(skb, &way);
	__u64 *number;

	if (why == WHYS) {
		skb->mark |= door.mark;
		return way.fib.family ? leave(skb, &way) : TC_ACT_UNSPEC;
	}
	// Half rewritten: the slow path would not know it again.
	if (why == UNWRITABLE)
		return TC_ACT_SHOT;
	// Nobody but this program may lead a packet round the translator.
	if (skb->mark & door.mark)
		skb->mark &= ~door.mark;
	number = bpf_map_lookup_elem(&slow, &why);
	if (number)
		*number += 1;
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
