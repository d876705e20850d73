// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// Whether anybody would look at a packet on its way through the kernel's forwarding: netfilter (firewall, connection
// tracking, load balancing) or IPsec. If nobody would, a translated packet can leave at once and nothing is different.
//
// Read from the kernel's own structures, where its BTF says that they are; a kernel that was built without a part of them
// has nobody there. Asked once a tick on each interface: a new rule of the firewall holds for known flows from the next
// tick on (1 to 10 ms). What cannot be read is taken for somebody.

#pragma once

#include "flows.h"
#include <bpf/bpf_core_read.h>

struct nf_hook_entries;

struct netns_nf {
	struct nf_hook_entries *hooks_ipv4[5], *hooks_ipv6[5]; // by enum nf_inet_hooks
} __attribute__((preserve_access_index));

struct netns_xfrm {
	unsigned int policy_count[6]; // in, out, forward; then those of sockets
	__u8 policy_default[3];
} __attribute__((preserve_access_index));

struct net {
	struct netns_nf nf;
	struct netns_xfrm xfrm;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	possible_net_t nd_net;
	struct nf_hook_entries *nf_hooks_ingress;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
} __attribute__((preserve_access_index));

#define PREROUTING 0 // enum nf_inet_hooks
#define FORWARD 2
#define POSTROUTING 4

#define IPSEC_OUT 1 // XFRM_POLICY_OUT
#define IPSEC_FORWARD 2 // XFRM_POLICY_FWD
#define IPSEC_BLOCK 1 // XFRM_USERPOLICY_BLOCK

// The tick of the last look; in the lowest bits the families that somebody looks at.
static __u64 onlookers;

#define READ(to, from) (!bpf_probe_read_kernel(&(to), sizeof(to), &(from)))

static __always_inline bool has_ipsec(struct net *net)
{
	unsigned int policies[6];
	__u8 otherwise[3];

	if (!bpf_core_field_exists(net->xfrm))
		return false;
	if (!READ(policies, net->xfrm.policy_count) || policies[IPSEC_OUT] || policies[IPSEC_FORWARD])
		return true;
	if (!bpf_core_field_exists(net->xfrm.policy_default))
		return false;
	return !READ(otherwise, net->xfrm.policy_default) || otherwise[IPSEC_OUT] == IPSEC_BLOCK ||
	       otherwise[IPSEC_FORWARD] == IPSEC_BLOCK;
}

static __always_inline bool has_any(struct nf_hook_entries *const hooks[5])
{
	return hooks[PREROUTING] || hooks[FORWARD] || hooks[POSTROUTING];
}

static __noinline __u64 look_round(struct __sk_buff *skb)
{
	struct sk_buff *packet = (void *)skb;
	struct nf_hook_entries *hooks[5];
	struct net_device *device;
	struct net *net;
	__u64 found = 0;

	if (!READ(device, packet->dev) || !READ(net, device->nd_net.net) || has_ipsec(net))
		return FOR_BOTH;
	if (bpf_core_field_exists(device->nf_hooks_ingress) && (!READ(hooks[0], device->nf_hooks_ingress) || hooks[0]))
		return FOR_BOTH;
	if (bpf_core_field_exists(net->nf)) {
		if (!READ(hooks, net->nf.hooks_ipv4) || has_any(hooks))
			found |= FOR_V4;
		if (!READ(hooks, net->nf.hooks_ipv6) || has_any(hooks))
			found |= FOR_V6;
	}
	return found;
}

static __always_inline bool has_onlookers(struct __sk_buff *skb, __u32 family)
{
	__u64 tick = bpf_jiffies64() << FAMILY_BITS, known = *(volatile __u64 *)&onlookers;

	if (known >> FAMILY_BITS << FAMILY_BITS != tick) {
		known = tick | look_round(skb);
		*(volatile __u64 *)&onlookers = known;
	}
	return known & family;
}
