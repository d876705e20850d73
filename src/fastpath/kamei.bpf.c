// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//
// The fast path: rewrites packets of flows that user space has decided about, and lets the kernel forward them, or
// sends them out itself if `redirects` says so.
//
// It decides nothing. A flow that is not in its map, and every packet that is not plain, goes on as if this program
// were not there: to the TUN device, where the translator reads it. It is loaded once for each interface, with `door`
// filled in before: the verifier takes the branches out that this interface does not need.

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

// Shared with layout.rs: both change together, and LAYOUT there with them.

struct door {
	__u32 realm; // 0: outside; n + 1: inside n
	__u32 mark; // set on translated packets, cleared on all others
	__u16 control_ports[8]; // TCP ports whose text a helper looks into, network order; 0: none
	__u8 link_header; // bytes before the IP header
	__u8 clamps; // whether TCP SYNs get another segment size
	__u8 redirects; // whether translated packets leave at once
	__u8 unused;
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
	__u16 to; // the realm it goes to, numbered as in a door
};

struct flow6 {
	struct carried carried;
	__u32 address[4];
	__u16 delta;
	__u16 to;
	__u32 unused;
};

// Why a packet went the slow way.
enum why { MISS, NOT_IP, NOT_FOR_US, MALFORMED, OPTIONS, FRAGMENT, LAST_HOP, PROTOCOL, CLAMPED, CONTROL, UNWRITABLE, WHYS };

const volatile struct door door = {};

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

// The realm behind each interface of the gateway.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} exits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WHYS);
	__type(key, __u32);
	__type(value, __u64);
} slow SEC(".maps");

// What was seen of the transport header.
struct seen {
	__u32 checksum; // offset of the checksum in it; 0: it covers no addresses
	bool zero_is_none; // UDP: a checksum of zero says that there is none
	bool opens;
	__u32 header; // TCP: bytes of it
	__be16 source, destination; // ports
};

// Where a translated packet goes.
struct way {
	struct bpf_fib_lookup fib;
	__u32 to;
	bool unclear; // only the kernel knows how long the packet will be on the wire
};

#define IPV4 2 // AF_INET
#define IPV6 10 // AF_INET6

#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

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
		for (int i = 0; i < 8 && door.control_ports[i]; i++) {
			__u16 port = door.control_ports[i];

			if (seen->source == port || seen->destination == port)
				return CONTROL;
		}
		if (door.clamps && transport[13] & TCP_SYN)
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

// The transport checksum by the kernel's own function: it alone knows whether the field holds a whole checksum, or the
// sum of the pseudo-header for a card to complete, and what the card has summed up.
static __always_inline long mend(struct __sk_buff *skb, __u32 at, const struct seen *seen, __u32 delta)
{
	__u64 flags = BPF_F_PSEUDO_HDR | (seen->zero_is_none ? BPF_F_MARK_MANGLED_0 : 0);

	return seen->checksum ? bpf_l4_csum_replace(skb, at + seen->checksum, 0, delta, flags) : 0;
}

// Begins the look-up of the way of a packet of `length` bytes, `header` of them its IP header.
static __always_inline void prepare(struct __sk_buff *skb, struct way *way, const struct seen *seen, __u32 header,
				    __u32 length)
{
	__builtin_memset(way, 0, sizeof(*way));
	// Of a super-packet each segment has to fit. UDP may be a tunnel: what is repeated in each cannot be seen here.
	way->unclear = skb->gso_size && !seen->header;
	way->fib.tot_len = skb->gso_size ? header + seen->header + skb->gso_size : length;
	way->fib.ifindex = skb->ifindex;
	way->fib.sport = seen->source;
	way->fib.dport = seen->destination;
}

static __always_inline enum why translate4(struct __sk_buff *skb, struct way *way)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + door.link_header;
	struct seen seen = {};
	struct key4 key;
	struct flow4 *flow;
	enum why why;
	__u32 length, sum;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 4)
		return MALFORMED;
	if (ip->ihl != 5)
		return OPTIONS;
	if (ip->frag_off & bpf_htons(0x3fff))
		return FRAGMENT;
	if (ip->ttl <= 1)
		return LAST_HOP;
	length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) || length > skb->len - door.link_header)
		return MALFORMED;
	if (ip->protocol == IPPROTO_ICMPV6)
		return PROTOCOL;
	why = look(ip->protocol, (void *)(ip + 1), end, length - sizeof(*ip), &seen);
	if (why != MISS)
		return why;

	key.realm = door.realm;
	key.source = ip->saddr;
	key.destination = ip->daddr;
	flow = bpf_map_lookup_elem(&flows4, &key);
	if (!flow)
		return MISS;

	if (door.realm)
		ip->saddr = flow->address;
	else
		ip->daddr = flow->address;
	sum = (__u16)~ip->check + flow->delta;
	ip->check = ~(__u16)((sum & 0xffff) + (sum >> 16));
	if (door.redirects) {
		prepare(skb, way, &seen, sizeof(*ip), length);
		way->to = flow->to;
		way->fib.family = IPV4;
		way->fib.l4_protocol = ip->protocol;
		way->fib.tos = ip->tos;
		way->fib.ipv4_src = ip->saddr;
		way->fib.ipv4_dst = ip->daddr;
	}
	if (mend(skb, door.link_header + sizeof(*ip), &seen, flow->delta))
		return UNWRITABLE;
	count(&flow->carried, length, seen.opens);
	return WHYS;
}

static __always_inline enum why translate6(struct __sk_buff *skb, struct way *way)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + door.link_header;
	struct seen seen = {};
	struct key6 key;
	struct flow6 *flow;
	enum why why;
	__u32 length;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	if (ip->version != 6)
		return MALFORMED;
	if (ip->hop_limit <= 1)
		return LAST_HOP;
	length = bpf_ntohs(ip->payload_len);
	if (length + sizeof(*ip) > skb->len - door.link_header)
		return MALFORMED;
	if (ip->nexthdr == IPPROTO_ICMP)
		return PROTOCOL;
	why = look(ip->nexthdr, (void *)(ip + 1), end, length, &seen);
	if (why != MISS)
		return why;

	key.realm = door.realm;
	__builtin_memcpy(key.source, &ip->saddr, sizeof(key.source));
	__builtin_memcpy(key.destination, &ip->daddr, sizeof(key.destination));
	flow = bpf_map_lookup_elem(&flows6, &key);
	if (!flow)
		return MISS;

	if (door.realm)
		__builtin_memcpy(&ip->saddr, flow->address, sizeof(flow->address));
	else
		__builtin_memcpy(&ip->daddr, flow->address, sizeof(flow->address));
	if (door.redirects) {
		prepare(skb, way, &seen, sizeof(*ip), length + sizeof(*ip));
		way->to = flow->to;
		way->fib.family = IPV6;
		way->fib.l4_protocol = ip->nexthdr;
		way->fib.flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
		__builtin_memcpy(way->fib.ipv6_src, &ip->saddr, sizeof(way->fib.ipv6_src));
		__builtin_memcpy(way->fib.ipv6_dst, &ip->daddr, sizeof(way->fib.ipv6_dst));
	}
	if (mend(skb, door.link_header + sizeof(*ip), &seen, flow->delta))
		return UNWRITABLE;
	// The sum that a card has made of the whole packet: addresses and transport checksum cancel out in it, but mending
	// takes the first for an IPv4 address, which its own header's checksum had cancelled.
	bpf_csum_update(skb, flow->delta);
	count(&flow->carried, length + sizeof(*ip), seen.opens);
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

// One hop less, and in the sums that cover it.
static __always_inline bool age(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *v4 = data + door.link_header;
	struct ipv6hdr *v6 = data + door.link_header;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		__u32 sum;

		if ((void *)(v4 + 1) > end)
			return false;
		v4->ttl--;
		sum = v4->check + bpf_htons(0x0100);
		v4->check = sum + (sum >= 0xffff);
		return true;
	}
	if ((void *)(v6 + 1) > end)
		return false;
	v6->hop_limit--;
	bpf_csum_update(skb, (__u16)~bpf_htons(1)); // what a card has summed up; in IPv4 the header's own checksum cancels it
	return true;
}

// Sends a translated packet out at once. Whatever is not plain about its way (no route, too narrow a link, another realm)
// is the kernel's: it forwards the packet by its rules, and answers if it cannot.
static __always_inline int leave(struct __sk_buff *skb, struct way *way)
{
	struct bpf_redir_neigh next = {};
	__u32 *realm;

	if (way->unclear)
		return TC_ACT_UNSPEC;
	if (bpf_fib_lookup(skb, &way->fib, sizeof(way->fib), BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_SKIP_NEIGH))
		return TC_ACT_UNSPEC;
	realm = bpf_map_lookup_elem(&exits, &way->fib.ifindex);
	if (!realm || *realm != way->to || !age(skb))
		return TC_ACT_UNSPEC;
	next.nh_family = way->fib.family;
	__builtin_memcpy(next.ipv6_nh, way->fib.ipv6_dst, sizeof(next.ipv6_nh));
	return bpf_redirect_neigh(way->fib.ifindex, &next, sizeof(next), 0);
}

SEC("classifier")
int kamei_tc(struct __sk_buff *skb)
{
	struct way way;
	__u32 why = translate(skb, &way);
	__u64 *number;

	if (why == WHYS) {
		skb->mark |= door.mark;
		return door.redirects ? leave(skb, &way) : TC_ACT_UNSPEC;
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
