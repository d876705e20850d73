// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The way to user space and back. What the programs cannot do themselves goes from the place where it is (leaving by or
// arriving at an outside interface) to the gateway's device, and from there back to the same place. So nobody else on this
// machine sees it twice, and nothing is routed again.
//
// On the way its Ethernet header says where the packet was taken: the sender's address is replaced by the number of that
// way and the realm the packet comes from. The rest of the header, with the next hop, stays. User space hands the header
// back as it was, or with the number zero: then the packet is the kernel's, as if the device were a wire.

#pragma once

#include "flows.h"

// Where a packet was taken.
struct way {
	__u32 interface;
	__u32 mark;
	__u32 priority;
	__u8 sender[6]; // the Ethernet address that the number has replaced
	__u8 arriving; // whether it came in by the interface; else it was about to leave by it
	__u8 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct way);
	__type(value, __u32);
} numbers SEC(".maps");

// Of all programs of one gateway, and of its successors.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shared);
} shared SEC(".maps");

// Over the sender's address.
struct stamp {
	__u32 number;
	__u16 realm; // numbered as in a constants
} __attribute__((packed));

#define ARRIVED 0x8000 // in the realm

// Programs tell each other of a packet in its control block, under a token that nobody else knows. A packet of a wire comes
// with a control block that is not its sender's to fill.
#define HAD 0 // it is on its way from or to user space, or has been translated elsewhere
#define JUDGED 2 // the program at this interface has judged it

static __always_inline bool is_marked(const struct __sk_buff *skb, int at)
{
	return skb->cb[at] == constants.token[0] && skb->cb[at + 1] == constants.token[1];
}

static __always_inline void set_mark(struct __sk_buff *skb, int at)
{
	skb->cb[at] = constants.token[0];
	skb->cb[at + 1] = constants.token[1];
}

static __always_inline void clear_mark(struct __sk_buff *skb, int at)
{
	skb->cb[at] = 0;
	skb->cb[at + 1] = 0;
}

static __always_inline __u32 number_of(const struct way *way)
{
	__u32 only = 0, fresh, *number;
	struct shared *all;

	number = bpf_map_lookup_elem(&numbers, way);
	if (number) {
		fresh = *number;
		if (bpf_map_lookup_elem(&ways, &fresh))
			return fresh;
	} else {
		all = bpf_map_lookup_elem(&shared, &only);
		if (!all)
			return 0;
		fresh = __sync_fetch_and_add(&all->last_number, 1) + 1;
		if (!fresh)
			return 0;
		bpf_map_update_elem(&numbers, way, &fresh, BPF_ANY);
	}
	bpf_map_update_elem(&ways, &fresh, way, BPF_ANY);
	return fresh;
}

// Hands the packet to user space as one from `realm`.
static __always_inline int divert(struct __sk_buff *skb, __u32 realm, bool arriving)
{
	struct way way = { .interface = skb->ifindex, .mark = skb->mark, .priority = skb->priority, .arriving = arriving };
	struct stamp stamp = { .realm = realm | (arriving ? ARRIVED : 0) };
	struct ethhdr none = { .h_proto = skb->protocol };

	if (!constants.link_header) {
		if (bpf_skb_change_head(skb, sizeof(none), 0) || bpf_skb_store_bytes(skb, 0, &none, sizeof(none), 0))
			return TC_ACT_SHOT;
	} else if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), way.sender, sizeof(way.sender))) {
		return TC_ACT_SHOT;
	}
	stamp.number = number_of(&way);
	if (!stamp.number || bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), &stamp, sizeof(stamp), 0))
		return TC_ACT_SHOT;
	set_mark(skb, HAD);
	return bpf_redirect(constants.device, 0);
}

// What user space hands back.
static __always_inline int give_back(struct __sk_buff *skb)
{
	struct stamp stamp;
	struct way *way;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), &stamp, sizeof(stamp)))
		return TC_ACT_SHOT;
	if (!stamp.number) {
		bpf_skb_change_type(skb, PACKET_HOST);
		return TC_ACT_UNSPEC;
	}
	way = bpf_map_lookup_elem(&ways, &stamp.number);
	if (!way || bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), way->sender, sizeof(way->sender), 0)) {
		note(LOST_WAY);
		return TC_ACT_SHOT;
	}
	skb->mark = way->mark;
	skb->priority = way->priority;
	set_mark(skb, HAD);
	return bpf_redirect(way->interface, way->arriving ? BPF_F_INGRESS : 0);
}

// What the kernel routes to the gateway's device: a terminal, or the machine itself, calls a virtual IP. `realm` is where it
// comes from.
static __always_inline int take_in(struct __sk_buff *skb, __u32 realm)
{
	struct stamp stamp = { .realm = realm };

	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), &stamp, sizeof(stamp), 0))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}
