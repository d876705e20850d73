// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The guard against undeclared ways out, as a program of netfilter's hook "forward" (Linux 6.4). Maps are filled before
// it is attached and never change: other ways take another program.
//
// Fields of kernel structures are found by the kernel's BTF. Addresses are read only of what is not a plain packet on a
// declared way.

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define NF_DROP 0 // linux/netfilter.h
#define NF_ACCEPT 1
#define NFPROTO_IPV4 2
#define NFPROTO_IPV6 10

struct net_device {
	int ifindex;
} __attribute__((preserve_access_index));

struct nf_hook_state {
	__u8 pf;
	struct net_device *in, *out;
} __attribute__((preserve_access_index));

struct sk_buff {
	unsigned long _skb_refdst;
	unsigned char *head;
	__u16 network_header;
} __attribute__((preserve_access_index));

struct lwtunnel_state {
	__u16 flags;
} __attribute__((preserve_access_index));

struct dst_entry {
	void *xfrm;
	struct lwtunnel_state *lwtstate;
} __attribute__((preserve_access_index));

// What such programs get; the verifier knows it by offsets.
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

// The kernel's function bpf_rdonly_cast, under a number that link.rs replaces by the one it has in this kernel.
static void *(*const read_as)(unsigned long address, __u32 type) = (void *)1000000;

#define NOREF 1UL // SKB_DST_NOREF (linux/skbuff.h)

// The route itself puts the packet into a tunnel, behind this hook (net/lwtunnel.h). One that only tells a device what its
// outer header is to be does not: that device is declared, or no way.
#define OUTPUT_REDIRECT 1
#define XMIT_REDIRECT 4

// Where headers have addresses (RFC 791 §3.1, RFC 8200 §3).
#define SOURCE_V4 12
#define DESTINATION_V4 16
#define SOURCE_V6 8
#define DESTINATION_V6 24

enum reason { OWN_SOURCE, IPSEC, OTHER_REALM, UNDECLARED_WAY, FOREIGN_SOURCE, INSIDE_DESTINATION,
	      ENCAPSULATED, REASONS };

#define STEPS 8 // from the first place of an interface to its last

#define HAS_OWN_V6 1
#define HAS_EXEMPT_V4 2
#define HAS_EXEMPT_V6 4

struct interface {
	__u32 index; // 0: none
	__u32 realm; // of an inside, from 1 on; 0: every packet may leave here
	__u32 asks; // of an inside: which of the other maps are not empty
	__u32 is_others; // it can have no packet of an inside, and is no declared way
};

struct address6 {
	__u8 bytes[16];
};

struct prefix4 {
	__u32 length;
	__u8 address[4];
};

struct prefix6 {
	__u32 length;
	struct address6 address;
};

// Open addressing in an array, whose look-ups are a few instructions where those of a hash map are calls: each interface is
// in the place that the low bits of its index say, or in one of the next, with no empty one before it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct interface);
	__uint(max_entries, 1);
} interfaces SEC(".maps");

// Of an index, for those bits. Nothing else may be a variable, nor a constant in memory: the maps of those are not filled.
volatile __u32 mask;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address6);
	__type(value, __u8);
	__uint(max_entries, 1);
} own_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix4);
	__type(value, __u8);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} exempt_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix6);
	__type(value, __u8);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} exempt_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix4);
	__type(value, __u8);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} hidden_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix6);
	__type(value, __u8);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} hidden_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32); // enum reason
	__type(value, __u64);
	__uint(max_entries, REASONS);
} dropped SEC(".maps");

static __always_inline int drop(__u32 reason)
{
	__u64 *number = bpf_map_lookup_elem(&dropped, &reason);

	if (number)
		*number += 1;
	return NF_DROP;
}

static __always_inline struct interface *find(__u32 index)
{
	for (__u32 step = 0; step < STEPS; step++) {
		__u32 place = (index + step) & mask;
		struct interface *found = bpf_map_lookup_elem(&interfaces, &place);

		if (!found || !found->index)
			return NULL;
		if (found->index == index)
			return found;
	}
	return NULL;
}

// What would become of the packet behind this hook: the reason to drop it, or REASONS.
static __always_inline __u32 transform_of(struct sk_buff *skb)
{
	unsigned long route = skb->_skb_refdst & ~NOREF;
	struct dst_entry *entry = NULL;

	if (!route)
		return REASONS;
	entry = read_as(route, bpf_core_type_id_kernel(struct dst_entry));
	// A kernel without IPsec has no such field.
	if (bpf_core_field_exists(entry->xfrm) && entry->xfrm)
		return IPSEC;
	if (entry->lwtstate && entry->lwtstate->flags & (OUTPUT_REDIRECT | XMIT_REDIRECT))
		return ENCAPSULATED;
	return REASONS;
}

static __always_inline bool read(void *to, __u32 length, struct sk_buff *skb, __u32 offset)
{
	return !bpf_probe_read_kernel(to, length, skb->head + skb->network_header + offset);
}

static __always_inline bool is_exempt(const struct nf_hook_state *state, struct sk_buff *skb, __u32 asks)
{
	struct prefix4 prefix4;
	struct prefix6 prefix6;

	prefix4.length = 32;
	prefix6.length = 128;
	if (state->pf == NFPROTO_IPV4)
		return asks & HAS_EXEMPT_V4 && read(prefix4.address, 4, skb, DESTINATION_V4) &&
		       bpf_map_lookup_elem(&exempt_v4, &prefix4);
	return asks & HAS_EXEMPT_V6 && read(&prefix6.address, 16, skb, DESTINATION_V6) &&
	       bpf_map_lookup_elem(&exempt_v6, &prefix6);
}

// A packet of others that leaves by an interface of others: none of it shows an inside address, but to exempt peers.
static __always_inline int judge_transit4(struct sk_buff *skb)
{
	struct prefix4 source, destination;

	source.length = destination.length = 32;
	if (!read(source.address, 4, skb, SOURCE_V4) || !read(destination.address, 4, skb, DESTINATION_V4))
		return NF_ACCEPT;
	if (bpf_map_lookup_elem(&hidden_v4, &source) && !bpf_map_lookup_elem(&exempt_v4, &destination))
		return drop(FOREIGN_SOURCE);
	if (bpf_map_lookup_elem(&hidden_v4, &destination) && !bpf_map_lookup_elem(&exempt_v4, &source))
		return drop(INSIDE_DESTINATION);
	return NF_ACCEPT;
}

static __always_inline int judge_transit6(struct sk_buff *skb)
{
	struct prefix6 source, destination;

	source.length = destination.length = 128;
	if (!read(&source.address, 16, skb, SOURCE_V6) || !read(&destination.address, 16, skb, DESTINATION_V6))
		return NF_ACCEPT;
	if (bpf_map_lookup_elem(&hidden_v6, &source) && !bpf_map_lookup_elem(&exempt_v6, &destination))
		return drop(FOREIGN_SOURCE);
	if (bpf_map_lookup_elem(&hidden_v6, &destination) && !bpf_map_lookup_elem(&exempt_v6, &source))
		return drop(INSIDE_DESTINATION);
	return NF_ACCEPT;
}

// The kernel calls it a program of netfilter; the loaders that read this file know no such section.
SEC("classifier")
int kamei_guard(struct bpf_nf_ctx *hook)
{
	const struct nf_hook_state *state = hook->state;
	const struct interface *from, *to;
	struct sk_buff *skb = hook->skb;
	struct address6 source;
	__u32 transform;

	from = find(state->in->ifindex);
	if (from && from->is_others)
		return NF_ACCEPT;
	to = find(state->out->ifindex);
	if (to && to->is_others)
		to = NULL;
	if (!from || !from->realm) {
		// Its own programs look at what leaves by an outside.
		if (to)
			return NF_ACCEPT;
		return state->pf == NFPROTO_IPV4 ? judge_transit4(skb) : judge_transit6(skb);
	}
	if (from->asks & HAS_OWN_V6 && state->pf == NFPROTO_IPV6 &&
	    (!read(&source, sizeof(source), skb, SOURCE_V6) || bpf_map_lookup_elem(&own_v6, &source)))
		return drop(OWN_SOURCE);
	transform = transform_of(skb);
	if (to && transform == REASONS && (!to->realm || to->realm == from->realm))
		return NF_ACCEPT;
	if (is_exempt(state, skb, from->asks))
		return NF_ACCEPT;
	if (transform != REASONS)
		return drop(transform);
	return drop(to ? OTHER_REALM : UNDECLARED_WAY);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
