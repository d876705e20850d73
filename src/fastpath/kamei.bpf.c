// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// Translation in the kernel, at the place where netfilter has its own: the source of what terminals send changes when it
// leaves by an outside interface (kamei_leaving, tc egress), the destination of what peers send when it arrives at one
// (kamei_arriving, tc ingress). So every hook, rule and shaper of this machine sees each packet once, from the real inside
// interface to the real outside interface, with the terminal's own address.
//
// The programs hold a cache of decisions and decide nothing. A flow that is not in their map, and every packet that is not
// plain, goes to user space from the same place and comes back to it (divert.h). What cannot be translated does not leave.
//
// kamei_watching looks after kamei_leaving: should another program take that one off, nothing leaves. kamei_beneath
// sits at the ports of a bridge that is an outside, kamei_returning and kamei_routed at the gateway's own device.
// kamei_shortcut and kamei_xdp are the ways past the kernel, for those who ask for them. All are loaded with
// `constants` filled in before: the verifier takes the branches out that are not needed.

#include "flows.h"
#include "divert.h"
#include "redirect.h"
#include "xdp.h"

#define VLAN_ID 0x0fff // of a tag (IEEE 802.1Q)
#define PRIORITY_TAGS 4 // that are taken off one packet; nobody sends more than one

// ICMP errors: RFC 792, RFC 4443.
static __always_inline bool is_error4(__u8 type)
{
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static __always_inline bool is_error6(__u8 type)
{
	return type >= 1 && type <= 4;
}

static __always_inline bool is_neighbour_discovery(__u8 type)
{
	return type >= 133 && type <= 137;
}

// Whether nobody outside may see an address of this kind.
static __always_inline bool is_hidden(__u32 kind)
{
	return kind == INSIDE || kind == UNCLEAR || kind == OWN_INSIDE;
}

static __always_inline struct place place_of4(__be32 address)
{
	struct prefix4 key = { .length = 32, .address = address };
	struct place *place = bpf_map_lookup_elem(&places4, &key), nowhere = {};

	return place ? *place : nowhere;
}

static __always_inline struct place place_of6(const void *address)
{
	struct prefix6 key = { .length = 128 };
	struct place *place, nowhere = {};

	__builtin_memcpy(key.address, address, sizeof(key.address));
	place = bpf_map_lookup_elem(&places6, &key);
	return place ? *place : nowhere;
}

static __always_inline bool is_exempt4(__be32 address)
{
	struct prefix4 key = { .length = 32, .address = address };

	return bpf_map_lookup_elem(&exempt4, &key);
}

static __always_inline bool is_exempt6(const void *address)
{
	struct prefix6 key = { .length = 128 };

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&exempt6, &key);
}

// The transport checksum by the kernel's own function: it alone knows whether the field holds a whole checksum, or the
// sum of the pseudo-header for a card to complete. But it takes a partial checksum for the outer header's, and in a UDP
// tunnel it may be an inner one's. So what does not look like a partial one is whole, and is mended in place, which is
// quicker too.
static __always_inline long replace(struct __sk_buff *skb, __u32 header, const struct seen *seen, __u32 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR | (seen->zero_is_none ? BPF_F_MARK_MANGLED_0 : 0);

	return bpf_l4_csum_replace(skb, constants.link_header + header + seen->checksum, 0, delta, flags);
}

static __always_inline long write4(struct __sk_buff *skb, struct iphdr *ip, void *end, const struct seen *seen,
				   const struct flow4 *flow, bool arriving)
{
	__u16 *checksum = (void *)(ip + 1) + seen->checksum, before;
	bool is_partial;

	if ((void *)(checksum + 1) > end)
		return -1;
	before = *checksum;
	is_partial = skb->gso_size || may_be_partial(before, pseudo_header4(ip, seen));
	ip->check = mended(ip->check, flow->delta);
	*(arriving ? &ip->daddr : &ip->saddr) = flow->address;
	if (!seen->checksum)
		return 0;
	if (is_partial)
		return replace(skb, sizeof(*ip), seen, flow->delta);
	mend_whole(checksum, seen, flow->delta);
	// What a card has summed up: the address cancels out with the header's checksum, this does not.
	if (*checksum != before)
		bpf_csum_update(skb, (__u16)~flow->delta);
	return 0;
}

static __always_inline long write6(struct __sk_buff *skb, struct ipv6hdr *ip, void *end, const struct seen *seen,
				   const struct flow6 *flow, bool arriving)
{
	__u16 *checksum = (void *)(ip + 1) + seen->checksum;
	bool is_partial;

	if ((void *)(checksum + 1) > end)
		return -1;
	is_partial = skb->gso_size || may_be_partial(*checksum, pseudo_header6(ip, seen));
	__builtin_memcpy(arriving ? &ip->daddr : &ip->saddr, flow->address, sizeof(flow->address));
	if (is_partial) {
		if (replace(skb, sizeof(*ip), seen, flow->delta))
			return -1;
		// The kernel's function takes the addresses for IPv4 ones, whose header has a checksum that cancels them.
		bpf_csum_update(skb, flow->delta);
		return 0;
	}
	// A card's sum stays: address and checksum cancel out.
	mend_whole(checksum, seen, flow->delta);
	return 0;
}

static __always_inline int refuse(__u32 why)
{
	note(why);
	return TC_ACT_SHOT;
}

static __always_inline int pass(struct __sk_buff *skb)
{
	set_mark(skb, JUDGED);
	return TC_ACT_UNSPEC;
}

// Some cards leave the headers in a page of their own.
static __always_inline void pull(struct __sk_buff *skb)
{
	__u32 least = constants.link_header + sizeof(struct ipv6hdr) + 20;

	if (skb->data_end - skb->data < least && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < least ? skb->len : least);
}

// --- leaving by an outside interface ----------------------------------------------------------------------------------

// Whether an ICMP error of the kernel's own quotes a terminal, or would show the machine's address inside.
static __always_inline bool shows_inside4(struct __sk_buff *skb, __u32 quote)
{
	__be32 ends[2];

	if (bpf_skb_load_bytes(skb, quote + offsetof(struct iphdr, saddr), ends, sizeof(ends)))
		return false;
	return is_hidden(place_of4(ends[0]).kind) || is_hidden(place_of4(ends[1]).kind);
}

static __always_inline bool shows_inside6(struct __sk_buff *skb, __u32 quote)
{
	__u32 ends[8];

	if (bpf_skb_load_bytes(skb, quote + offsetof(struct ipv6hdr, saddr), ends, sizeof(ends)))
		return false;
	return is_hidden(place_of6(ends).kind) || is_hidden(place_of6(ends + 4).kind);
}

static __always_inline struct place place_of(const __u32 *address, bool is_v4)
{
	return is_v4 ? place_of4(*address) : place_of6(address);
}

static __always_inline bool is_exempt(const __u32 *address, bool is_v4)
{
	return is_v4 ? is_exempt4(*address) : is_exempt6(address);
}

// A packet that no inside interface has brought; `is_error`: an ICMP error of the kernel's own that shows the inside.
static __always_inline int judge_other(struct __sk_buff *skb, const __u32 *source, const __u32 *peer, bool is_v4,
				       bool is_error)
{
	bool is_local = !skb->ingress_ifindex;
	struct place place = place_of(source, is_v4);

	switch (place.kind) {
	case INSIDE:
		if (is_exempt(peer, is_v4))
			return pass(skb);
		// The kernel speaks for a terminal: a reset of the firewall, an answer of a proxy.
		return is_local ? divert(skb, place.realm, false) : refuse(FOREIGN_SOURCE);
	case UNCLEAR:
		return refuse(is_local ? UNCLEAR_SOURCE : FOREIGN_SOURCE);
	case OWN_INSIDE:
		if (is_exempt(peer, is_v4))
			return pass(skb);
		return is_local && is_error ? divert(skb, 0, false) : refuse(OWN_INSIDE_SOURCE);
	default:
		// The way inside is gone, and another route leads here.
		if (is_hidden(place_of(peer, is_v4).kind))
			return refuse(INSIDE_DESTINATION);
		// Not marked: it may be another gateway's, who has marked it.
		return is_error && !is_exempt(peer, is_v4) ? divert(skb, 0, false) : TC_ACT_UNSPEC;
	}
}

// A packet from `realm` that is not of a known flow.
static __always_inline int judge_call(struct __sk_buff *skb, __u32 realm, const __u32 *source, const __u32 *peer,
				      bool is_v4)
{
	struct place place = place_of(source, is_v4);

	if (place.kind == INSIDE && place.realm == realm && is_exempt(peer, is_v4))
		return pass(skb);
	if (is_hidden(place_of(peer, is_v4).kind))
		return refuse(INSIDE_DESTINATION);
	if (place.kind == OWN_OUTSIDE) {
		note(MASQUERADED);
		return pass(skb);
	}
	return divert(skb, realm, false);
}

static __always_inline int leaving4(struct __sk_buff *skb, __u32 realm)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + constants.link_header;
	__u32 header, type = 0, source, peer;
	struct flow4 *flow = NULL;
	struct seen seen = {};
	bool is_error = false;
	enum why why;

	if ((void *)(ip + 1) > end)
		return realm ? refuse(UNTRANSLATED) : TC_ACT_UNSPEC;
	source = ip->saddr;
	peer = ip->daddr;
	if (realm) {
		why = find4(ip, end, skb->len - constants.link_header, skb->gso_size ? skb->len - constants.link_header : 0, realm,
			    &seen, &flow);
		if (why == WHYS) {
			if (write4(skb, ip, end, &seen, flow, false))
				return refuse(UNWRITABLE);
			count(&flow->carried, seen.length, seen.opens);
			return pass(skb);
		}
		note(why);
		return judge_call(skb, realm, &source, &peer, true);
	}
	header = constants.link_header + (ip->ihl << 2);
	if (ip->protocol == IPPROTO_ICMP && !skb->ingress_ifindex && !bpf_skb_load_bytes(skb, header, &type, 1))
		is_error = is_error4(type) && shows_inside4(skb, header + 8);
	return judge_other(skb, &source, &peer, true, is_error);
}

static __always_inline int leaving6(struct __sk_buff *skb, __u32 realm)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + constants.link_header;
	__u32 header, type = 0, source[4], peer[4];
	struct flow6 *flow = NULL;
	struct seen seen = {};
	bool is_error = false;
	enum why why;

	if ((void *)(ip + 1) > end)
		return realm ? refuse(UNTRANSLATED) : TC_ACT_UNSPEC;
	__builtin_memcpy(source, &ip->saddr, sizeof(source));
	__builtin_memcpy(peer, &ip->daddr, sizeof(peer));
	if (realm) {
		why = find6(ip, end, skb->len - constants.link_header, skb->gso_size ? skb->len - constants.link_header : 0, realm,
			    &seen, &flow);
		if (why == WHYS) {
			if (write6(skb, ip, end, &seen, flow, false))
				return refuse(UNWRITABLE);
			count(&flow->carried, seen.length, seen.opens);
			return pass(skb);
		}
		note(why);
		return judge_call(skb, realm, source, peer, false);
	}
	header = constants.link_header + sizeof(*ip);
	if (ip->nexthdr == IPPROTO_ICMPV6 && !skb->ingress_ifindex && !bpf_skb_load_bytes(skb, header, &type, 1))
		is_error = is_error6(type) && shows_inside6(skb, header + 8);
	return judge_other(skb, source, peer, false, is_error);
}

// The realm that the interface leads to by which the packet came in; 0 for others, and for packets made here.
static __always_inline __u32 realm_of(const struct __sk_buff *skb)
{
	__u32 from = skb->ingress_ifindex;
	struct interface *interface;

	if (from < LOW_INDICES) {
		interface = bpf_map_lookup_elem(&low_interfaces, &from);
		barrier(); // else the compiler makes one call of both, which the kernel cannot turn into instructions
	} else {
		interface = bpf_map_lookup_elem(&interfaces, &from);
	}
	return interface ? interface->realm : 0;
}

static __always_inline bool is_ip(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

// A frame of a VLAN, as IEEE 802.1Q has it: VLAN 0 is none, its tag says a priority.
static __always_inline bool is_of_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID;
}

// Takes priority tags off, as the kernel does before it looks at the packet. Whether none is left.
static __always_inline bool take_priority_tags_off(struct __sk_buff *skb)
{
	for (int i = 0; i < PRIORITY_TAGS && skb->vlan_present && !is_of_vlan(skb); i++)
		if (bpf_skb_vlan_pop(skb))
			return false;
	return !skb->vlan_present || is_of_vlan(skb);
}

// What is not IP any more. All that comes in by an inside interface and is forwarded is IP when it is routed; so the route
// has wrapped it (MPLS), or another program has led it past all routes. What a device on top of this one has wrapped
// was judged at that device, or by the guard.
static __always_inline int judge_wrapped(const struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_PPP_SES) || skb->protocol == bpf_htons(ETH_P_MACSEC))
		return TC_ACT_UNSPEC;
	return realm_of(skb) ? refuse(UNTRANSLATED) : TC_ACT_UNSPEC;
}

SEC("classifier")
int kamei_leaving(struct __sk_buff *skb)
{
	if (is_marked(skb, HAD)) {
		clear_mark(skb, HAD);
		return pass(skb);
	}
	if (skb->vlan_present) {
		if (!take_priority_tags_off(skb))
			return refuse(UNTRANSLATED);
		// Of a device on top of this one: judged there, or by the guard.
		if (skb->vlan_present)
			return TC_ACT_UNSPEC;
	}
	if (!is_ip(skb))
		return judge_wrapped(skb);
	pull(skb);
	return skb->protocol == bpf_htons(ETH_P_IP) ? leaving4(skb, realm_of(skb)) : leaving6(skb, realm_of(skb));
}

// --- after it ---------------------------------------------------------------------------------------------------------

static __always_inline bool shows_terminal(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *v4 = data + constants.link_header;
	struct ipv6hdr *v6 = data + constants.link_header;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (void *)(v4 + 1) > end || (is_hidden(place_of4(v4->saddr).kind) && !is_exempt4(v4->daddr));
	return (void *)(v6 + 1) > end || (is_hidden(place_of6(&v6->saddr).kind) && !is_exempt6(&v6->daddr));
}

static __always_inline int watch(struct __sk_buff *skb)
{
	pull(skb);
	return shows_terminal(skb) || realm_of(skb) ? refuse(UNTRANSLATED) : TC_ACT_UNSPEC;
}

SEC("classifier")
int kamei_watching(struct __sk_buff *skb)
{
	if (is_marked(skb, JUDGED)) {
		clear_mark(skb, JUDGED);
		return TC_ACT_UNSPEC;
	}
	if (is_of_vlan(skb))
		return TC_ACT_UNSPEC;
	return is_ip(skb) ? watch(skb) : judge_wrapped(skb);
}

// --- arriving at an outside interface ---------------------------------------------------------------------------------

static __always_inline int judge_arrival(struct __sk_buff *skb, const __u32 *peer, const __u32 *destination, bool is_v4,
					 enum why why)
{
	switch (place_of(destination, is_v4).kind) {
	case POOL:
		note(why);
		return divert(skb, 0, true);
	case INSIDE:
		return is_exempt(peer, is_v4) ? TC_ACT_UNSPEC : refuse(INSIDE_DESTINATION);
	case UNCLEAR:
	case OWN_INSIDE:
		return refuse(INSIDE_DESTINATION);
	default:
		return TC_ACT_UNSPEC;
	}
}

static __always_inline int leave4(struct __sk_buff *skb, struct iphdr *ip, void *end, struct seen *seen,
				  struct flow4 *flow)
{
	struct bpf_fib_lookup way;
	__u16 from_hop = *(__u16 *)&ip->ttl, to_hop = from_hop - bpf_htons(0x0100);

	if (visits(&flow->visited) || ip->ttl <= 1 || !is_header_whole(ip) || has_trailer(skb, seen) ||
	    is_unclear(skb, seen))
		return TC_ACT_UNSPEC;
	ask4(&way, ip, seen, skb->ifindex, longest(skb, seen, sizeof(*ip)));
	if (constants.realm)
		way.ipv4_src = flow->address;
	else
		way.ipv4_dst = flow->address;
	if (!way_out(skb, &way, flow->to))
		return TC_ACT_UNSPEC;
	if (write4(skb, ip, end, seen, flow, !constants.realm))
		return refuse(UNWRITABLE);
	// The hop limit is the high byte of a word of the header.
	if (bpf_l3_csum_replace(skb, constants.link_header + offsetof(struct iphdr, check), from_hop, to_hop, 2) ||
	    bpf_skb_store_bytes(skb, constants.link_header + offsetof(struct iphdr, ttl), &to_hop, 1, 0))
		return refuse(UNWRITABLE);
	count(&flow->carried, seen->length, seen->opens);
	return leave_by(skb, &way);
}

static __always_inline int leave6(struct __sk_buff *skb, struct ipv6hdr *ip, void *end, struct seen *seen,
				  struct flow6 *flow)
{
	struct bpf_fib_lookup way;
	__u8 hops = ip->hop_limit - 1;

	if (visits(&flow->visited) || ip->hop_limit <= 1 || has_trailer(skb, seen) || is_unclear(skb, seen))
		return TC_ACT_UNSPEC;
	ask6(&way, ip, seen, skb->ifindex, longest(skb, seen, sizeof(*ip)));
	__builtin_memcpy(constants.realm ? way.ipv6_src : way.ipv6_dst, flow->address, sizeof(flow->address));
	if (!way_out(skb, &way, flow->to))
		return TC_ACT_UNSPEC;
	if (write6(skb, ip, end, seen, flow, !constants.realm) ||
	    bpf_skb_store_bytes(skb, constants.link_header + offsetof(struct ipv6hdr, hop_limit), &hops, sizeof(hops), 0))
		return refuse(UNWRITABLE);
	// What a card has summed up has one hop less.
	bpf_csum_update(skb, (__u16)~bpf_htons(1));
	count(&flow->carried, seen->length, seen->opens);
	return leave_by(skb, &way);
}

static __always_inline int arriving4(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + constants.link_header;
	struct flow4 *flow = NULL;
	__u32 peer, destination;
	struct seen seen = {};
	enum why why;

	why = find4(ip, end, skb->len - constants.link_header, skb->gso_size ? skb->len - constants.link_header : 0, 0, &seen, &flow);
	if (why == WHYS) {
		if (constants.redirects) {
			int left = leave4(skb, ip, end, &seen, flow);

			if (left != TC_ACT_UNSPEC)
				return left;
			// The look may have moved the headers, in the eyes of the verifier.
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
			ip = data + constants.link_header;
			if ((void *)(ip + 1) > end)
				return TC_ACT_UNSPEC;
		}
		if (write4(skb, ip, end, &seen, flow, true))
			return refuse(UNWRITABLE);
		count(&flow->carried, seen.length, seen.opens);
		return TC_ACT_UNSPEC;
	}
	if ((void *)(ip + 1) > end)
		return TC_ACT_UNSPEC;
	peer = ip->saddr;
	destination = ip->daddr;
	return judge_arrival(skb, &peer, &destination, true, why);
}

static __always_inline int arriving6(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + constants.link_header;
	struct flow6 *flow = NULL;
	__u32 peer[4], destination[4];
	struct seen seen = {};
	enum why why;

	why = find6(ip, end, skb->len - constants.link_header, skb->gso_size ? skb->len - constants.link_header : 0, 0, &seen, &flow);
	if (why == WHYS) {
		if (constants.redirects) {
			int left = leave6(skb, ip, end, &seen, flow);

			if (left != TC_ACT_UNSPEC)
				return left;
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
			ip = data + constants.link_header;
			if ((void *)(ip + 1) > end)
				return TC_ACT_UNSPEC;
		}
		if (write6(skb, ip, end, &seen, flow, true))
			return refuse(UNWRITABLE);
		count(&flow->carried, seen.length, seen.opens);
		return TC_ACT_UNSPEC;
	}
	if ((void *)(ip + 1) > end)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(peer, &ip->saddr, sizeof(peer));
	__builtin_memcpy(destination, &ip->daddr, sizeof(destination));
	// The kernel answers for itself, and for virtual IPs that are its proxy neighbours. Nobody asks for inside addresses.
	if (ip->nexthdr == IPPROTO_ICMPV6 && (void *)(ip + 1) + 1 <= end &&
	    is_neighbour_discovery(*(__u8 *)(ip + 1)) && !is_hidden(place_of6(destination).kind))
		return TC_ACT_UNSPEC;
	return judge_arrival(skb, peer, destination, false, why);
}

SEC("classifier")
int kamei_arriving(struct __sk_buff *skb)
{
	if (is_marked(skb, HAD)) {
		clear_mark(skb, HAD);
		// It was for this machine, perhaps by another hardware address than this interface's: that of a bridge's port.
		bpf_skb_change_type(skb, PACKET_HOST);
		return TC_ACT_UNSPEC;
	}
	if (skb->vlan_present) {
		if (!take_priority_tags_off(skb))
			return TC_ACT_SHOT;
		// Of a device on top of this one, or nobody's.
		if (skb->vlan_present)
			return TC_ACT_UNSPEC;
	}
	if (!is_ip(skb) || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	pull(skb);
	return skb->protocol == bpf_htons(ETH_P_IP) ? arriving4(skb) : arriving6(skb);
}

// --- arriving at an inside interface, for those who want to go past the kernel ----------------------------------------

SEC("classifier")
int kamei_shortcut(struct __sk_buff *skb)
{
	__u32 room = skb->len - constants.link_header, whole = skb->gso_size ? room : 0;
	struct seen seen = {};
	void *data, *end;

	if (skb->vlan_present || !is_ip(skb) || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	pull(skb);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + constants.link_header;
		struct flow4 *flow = NULL;

		if (find4(ip, end, room, whole, constants.realm, &seen, &flow) != WHYS)
			return TC_ACT_UNSPEC;
		return leave4(skb, ip, end, &seen, flow);
	} else {
		struct ipv6hdr *ip = data + constants.link_header;
		struct flow6 *flow = NULL;

		if (find6(ip, end, room, whole, constants.realm, &seen, &flow) != WHYS)
			return TC_ACT_UNSPEC;
		return leave6(skb, ip, end, &seen, flow);
	}
}

// --- at the gateway's own device --------------------------------------------------------------------------------------

SEC("classifier")
int kamei_returning(struct __sk_buff *skb)
{
	return give_back(skb);
}

SEC("classifier")
int kamei_routed(struct __sk_buff *skb)
{
	__u32 v4, v6[4];
	__u32 kind;

	if (is_marked(skb, HAD)) {
		clear_mark(skb, HAD);
		return TC_ACT_UNSPEC;
	}
	// What the kernel says on any link (router solicitations, multicast reports) is for nobody here.
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &v4, sizeof(v4)))
			return TC_ACT_SHOT;
		kind = place_of4(v4).kind;
	} else {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), v6, sizeof(v6)))
			return TC_ACT_SHOT;
		kind = place_of6(v6).kind;
	}
	return kind == POOL ? take_in(skb, realm_of(skb)) : TC_ACT_SHOT;
}

// --- leaving by a port of a bridge that is an outside -----------------------------------------------------------------

// The kernel's flowtable sends out by the port what it has learnt of the bridge, past the bridge's programs and past the
// guard. All else that a port sends has passed them, or is not of this machine's making.

SEC("classifier")
int kamei_beneath(struct __sk_buff *skb)
{
	__u32 realm = realm_of(skb);
	int judged;

	if (is_marked(skb, HAD)) {
		clear_mark(skb, HAD);
		return TC_ACT_UNSPEC;
	}
	if (!realm || !is_ip(skb))
		return TC_ACT_UNSPEC;
	pull(skb);
	if (!shows_terminal(skb))
		return TC_ACT_UNSPEC;
	// User space would give it back without its tag.
	if (skb->vlan_present)
		return refuse(UNTRANSLATED);
	judged = skb->protocol == bpf_htons(ETH_P_IP) ? leaving4(skb, realm) : leaving6(skb, realm);
	// Nobody watches here, and the next may be another gateway's.
	clear_mark(skb, JUDGED);
	return judged;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
