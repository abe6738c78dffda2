/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * parse.h - where things are in a frame.
 *
 * Room: pure. In come the first and the last byte of a frame, out goes a `view` of pointers into it,
 * each checked against the end. Judges form only, never meaning. Used by all three hooks.
 */
#ifndef SDWAN_PARSE_H
#define SDWAN_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "abi.h"

#define IP4_BYTES 20
#define IP6_BYTES 40
#define UDP_BYTES 8
#define IP4_MORE_OR_OFFSET 0x3fff /* of frag_off: more fragments, or not the first one */
#define IP4_OFFSET 0x1fff

/* What a frame turned out to be. */
enum sight {
	SIGHT_OTHER,  /* not UDP, or not readable: none of our business */
	SIGHT_UDP,    /* ip and udp are set */
	SIGHT_BROKEN, /* UDP that is fragmented or carries IP options: udp is set, we never send such */
};

struct view {
	struct ethhdr *eth; /* NULL on links without one */
	struct iphdr *ip4;  /* one of the two; is_ip6 says which, since a verifier cannot tell from NULL */
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	u32 udp_offset;
	u32 is_ip6;
};

/**
 * look_ip4 - find UDP behind an IPv4 header
 * @l3: the IPv4 header, not yet checked
 */
static __always_inline enum sight look_ip4(void *l3, void *end, u32 l3_offset, struct view *v)
{
	struct iphdr *ip = l3;
	u32 ip_bytes;

	if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || ip->frag_off & to_be16(IP4_OFFSET))
		return SIGHT_OTHER;
	v->ip4 = ip;
	v->ip6 = 0;
	v->is_ip6 = 0;
	ip_bytes = (*(u8 *)ip & 0x0f) * 4;
	if (*(u8 *)ip == 0x45 && !(ip->frag_off & to_be16(IP4_MORE_OR_OFFSET))) {
		v->udp = l3 + IP4_BYTES;
		v->udp_offset = l3_offset + IP4_BYTES;
		return (void *)(v->udp + 1) > end ? SIGHT_OTHER : SIGHT_UDP;
	}
	if (ip_bytes < IP4_BYTES)
		return SIGHT_OTHER;
	v->udp = l3 + ip_bytes;
	v->udp_offset = l3_offset + ip_bytes;
	return (void *)(v->udp + 1) > end ? SIGHT_OTHER : SIGHT_BROKEN;
}

/* look_ip6 - find UDP behind an IPv6 header; extension headers are none of our business */
static __always_inline enum sight look_ip6(void *l3, void *end, u32 l3_offset, struct view *v)
{
	struct ipv6hdr *ip = l3;

	if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
		return SIGHT_OTHER;
	v->ip4 = 0;
	v->ip6 = ip;
	v->is_ip6 = 1;
	v->udp = l3 + IP6_BYTES;
	v->udp_offset = l3_offset + IP6_BYTES;
	return (void *)(v->udp + 1) > end ? SIGHT_OTHER : SIGHT_UDP;
}

/**
 * look - find UDP in a frame
 * @link_bytes: length of the link header: 14, or 0 on links without one
 * @protocol: EtherType, where there is no link header to read it from
 */
static __always_inline enum sight look(void *data, void *end, u32 link_bytes, __be16 protocol, struct view *v)
{
	v->eth = 0;
	if (link_bytes) {
		v->eth = data;
		if ((void *)(v->eth + 1) > end)
			return SIGHT_OTHER;
		protocol = v->eth->h_proto;
	}
	if (protocol == to_be16(ETH_P_IP))
		return look_ip4(data + link_bytes, end, link_bytes, v);
	if (protocol == to_be16(ETH_P_IPV6))
		return look_ip6(data + link_bytes, end, link_bytes, v);
	return SIGHT_OTHER;
}

/* tcp_headers - bytes before the payload of a coalesced TCP packet: what GRO took away from all but the first
 */
static __always_inline u32 tcp_headers(void *data, void *end, u32 link_bytes, __be16 protocol)
{
	u32 ip_bytes = protocol == to_be16(ETH_P_IPV6) ? IP6_BYTES : IP4_BYTES;
	u8 *data_offset = data + link_bytes + ip_bytes + 12;

	if ((void *)(data_offset + 1) > end)
		return link_bytes + ip_bytes;
	return link_bytes + ip_bytes + (*data_offset >> 4) * 4;
}

/* header_of - the tunnel header behind a UDP header, or NULL if the frame ends before it does */
static __always_inline struct sdwan_header *header_of(struct view *v, void *end)
{
	struct sdwan_header *header = (void *)(v->udp + 1);

	return (void *)(header + 1) > end ? 0 : header;
}

/* header_is_ours - what every datagram of this version begins with */
static __always_inline int header_is_ours(const struct sdwan_header *header)
{
	return header->version == SDWAN_WIRE_VERSION && header->reserved == 0;
}

static __always_inline int type_is_sealed(u8 type)
{
	return (type >= SDWAN_TYPE_SUPER && type <= SDWAN_TYPE_REPAIR) || type == SDWAN_TYPE_CONTROL;
}

static __always_inline int type_is_handshake(u8 type)
{
	return type >= SDWAN_TYPE_INIT && type <= SDWAN_TYPE_COOKIE;
}

/* Only what the far kernel can attribute to a path takes a link sequence; a gap is then a loss. */
static __always_inline int type_is_numbered(u8 type)
{
	return type_is_sealed(type) || type == SDWAN_TYPE_PROBE;
}

#endif
