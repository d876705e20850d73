// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The wires of `kamei test`. A terminal and a peer of its own sit in namespaces, each behind a pair of devices whose near end
// is in the gateway's namespace. kamei_bring takes what they send from there to where an inside or outside interface
// receives; kamei_catch takes what such an interface would send to them away from it, behind all that the gateway does
// there. So the machine sees their packets as any others, and none gets to the card. All else passes untouched.

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

#define ADDRESSES 2

// Shared with detour.rs.
struct detour {
	__u32 to; // index of the device to go to
	__be32 addresses4[ADDRESSES]; // of the host at the far end; zero: none
	__u32 addresses6[ADDRESSES][4];
	__u8 hardware[6]; // Ethernet address of who is to take it
	__u8 link_header; // bytes before the IP header where the packet is
	__u8 unused;
};

const volatile struct detour detour = {};

// In an ARP message for IPv4 (RFC 826), behind the Ethernet header.
#define ARP_SENDER (8 + ETH_ALEN)
#define ARP_TARGET (8 + ETH_ALEN + 4 + ETH_ALEN)
#define NEIGHBOUR_SOLICITATION 135 // RFC 4861
#define NEIGHBOUR_TARGET 8 // in it

static __always_inline bool is_host4(struct __sk_buff *skb, __u32 at)
{
	__be32 address;

	if (bpf_skb_load_bytes(skb, detour.link_header + at, &address, sizeof(address)) || !address)
		return false;
	return address == detour.addresses4[0] || address == detour.addresses4[1];
}

static __always_inline bool is_same6(const __u32 *one, int which)
{
	return one[0] == detour.addresses6[which][0] && one[1] == detour.addresses6[which][1] &&
	       one[2] == detour.addresses6[which][2] && one[3] == detour.addresses6[which][3];
}

static __always_inline bool is_host6(struct __sk_buff *skb, __u32 at)
{
	__u32 address[4];

	if (bpf_skb_load_bytes(skb, detour.link_header + at, address, sizeof(address)) || !address[0])
		return false;
	return is_same6(address, 0) || is_same6(address, 1);
}

static __always_inline bool asks_for_host(struct __sk_buff *skb)
{
	__u8 next, type;

	if (bpf_skb_load_bytes(skb, detour.link_header + offsetof(struct ipv6hdr, nexthdr), &next, 1) ||
	    next != IPPROTO_ICMPV6 ||
	    bpf_skb_load_bytes(skb, detour.link_header + sizeof(struct ipv6hdr), &type, 1) ||
	    type != NEIGHBOUR_SOLICITATION)
		return false;
	return is_host6(skb, sizeof(struct ipv6hdr) + NEIGHBOUR_TARGET);
}

static __always_inline bool is_to_host(struct __sk_buff *skb)
{
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		return is_host4(skb, offsetof(struct iphdr, daddr));
	case ETH_P_IPV6:
		return is_host6(skb, offsetof(struct ipv6hdr, daddr)) || asks_for_host(skb);
	case ETH_P_ARP:
		return is_host4(skb, ARP_TARGET);
	default:
		return false;
	}
}

static __always_inline bool is_from_host(struct __sk_buff *skb)
{
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		return is_host4(skb, offsetof(struct iphdr, saddr));
	case ETH_P_IPV6:
		return is_host6(skb, offsetof(struct ipv6hdr, saddr));
	case ETH_P_ARP:
		return is_host4(skb, ARP_SENDER);
	default:
		return false;
	}
}

// The host that is to take it would leave a frame for another hardware address alone.
static __always_inline long address_frame(struct __sk_buff *skb)
{
	__u8 hardware[6];

	// Byte by byte: a copy of all would be one of the zeros that stand there before it is loaded.
	for (int i = 0; i < 6; i++)
		hardware[i] = detour.hardware[i];
	return bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), hardware, sizeof(hardware), 0);
}

SEC("classifier")
int kamei_catch(struct __sk_buff *skb)
{
	struct ethhdr frame = { .h_proto = skb->protocol };

	if (!is_to_host(skb))
		return TC_ACT_UNSPEC;
	if (!detour.link_header && (bpf_skb_change_head(skb, sizeof(frame), 0) ||
				    bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0)))
		return TC_ACT_SHOT;
	if (address_frame(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(detour.to, 0);
}

SEC("classifier")
int kamei_bring(struct __sk_buff *skb)
{
	// What a kernel says of itself on any link is for nobody here.
	if (!is_from_host(skb) || address_frame(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(detour.to, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
