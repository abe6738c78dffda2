/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * rewrite.h - new addresses, new stamps, and sums that still add up.
 *
 * Room: pure. In come pointers whose bounds the caller has checked; the frame is changed in place.
 * A change of checksummed words is collected as a 64-bit difference and folded once (RFC 1624).
 * Which checksum needs which part of it:
 *
 *   one datagram      the UDP checksum covers everything changed. The kernel's helper applies the
 *                     difference, since it knows whether the sum is complete or still partial.
 *   GSO super-packet  the field holds the pseudo-header sum only, not complemented, whatever the
 *                     kernel says of it: add the difference of the addresses, by hand.
 *   zero              no checksum: stays zero.
 */
#ifndef SDWAN_REWRITE_H
#define SDWAN_REWRITE_H

#include "parse.h"

/* What happens to the checksummed words: the addresses (in the pseudo header too) and the rest. */
struct difference {
	u64 addresses;
	u64 rest;
};

static __always_inline u64 replace32(u64 sum, u32 before, u32 after)
{
	return sum + (u32)~before + after;
}

/* fold32 - one's complement sum in 32 bits, as the kernel's checksum helpers take it */
static __always_inline u32 fold32(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline u16 fold16(u64 sum)
{
	u32 half = fold32(sum);

	half = (half & 0xffff) + (half >> 16);
	return (half & 0xffff) + (half >> 16);
}

/* patched_sum - a complemented Internet checksum after a change (RFC 1624, equation 3) */
static __always_inline u16 patched_sum(u16 check, u64 difference)
{
	return ~fold16((u16)~check + (u64)fold16(difference));
}

/* set_ttl - and say how the first half of the IPv4 header's fifth word changed */
static __always_inline u64 set_ttl(struct view *v, u8 ttl)
{
	u64 difference = 0;

	if (!v->is_ip6) {
		u32 before = v->ip4->ttl, after = ttl;

		difference = replace32(0, to_be16(before << 8), to_be16(after << 8));
		v->ip4->ttl = ttl;
	} else {
		v->ip6->hop_limit = ttl;
	}
	return difference;
}

/* readdress4 - source and destination of an IPv4 packet; the header's own sum is fixed here */
static __always_inline u64 readdress4(struct iphdr *ip, __be32 source, __be32 destination, u64 other)
{
	u64 sum = replace32(replace32(0, ip->saddr, source), ip->daddr, destination);

	ip->saddr = source;
	ip->daddr = destination;
	ip->check = patched_sum(ip->check, sum + other);
	return sum;
}

static __always_inline u64 readdress6(struct ipv6hdr *ip, const __be32 *source, const __be32 *destination)
{
	__be32 *from = ip->saddr.in6_u.u6_addr32, *to = ip->daddr.in6_u.u6_addr32;
	u64 sum = 0;

	UNROLL
	for (int i = 0; i < 4; i++) {
		sum = replace32(replace32(sum, from[i], source[i]), to[i], destination[i]);
		from[i] = source[i];
		to[i] = destination[i];
	}
	return sum;
}

/**
 * redirect_to_path - give a datagram the addresses and ports of a path
 * @ttl: 0 = leave it
 */
static __always_inline void readdress(struct view *v, const struct path *path, u8 ttl, struct difference *d)
{
	u64 ttl_change = ttl ? set_ttl(v, ttl) : 0;
	u32 ports_before, ports_after;

	__builtin_memcpy(&ports_before, v->udp, sizeof(ports_before));
	if (!v->is_ip6)
		d->addresses = readdress4(v->ip4, path->source4, path->remote4, ttl_change);
	else
		d->addresses = readdress6(v->ip6, path->source6, path->remote6);
	v->udp->source = path->source_port;
	v->udp->dest = path->remote_port;
	__builtin_memcpy(&ports_after, v->udp, sizeof(ports_after));
	d->rest = replace32(0, ports_before, ports_after);
}

/* What the kernel writes into a header on the way out. */
struct stamp {
	u8 path;
	u8 type; /* decides what else is written */
	u16 peer;
	u32 sequence;
	u32 time_us;
};

/**
 * stamp_header - write path, link sequence and time
 * Return: the difference of the 24 bytes, for the checksum of a single datagram.
 */
static __always_inline u64 stamp_header(struct sdwan_header *h, const struct stamp *s)
{
	u32 before[SDWAN_HEADER_BYTES / 4], after[SDWAN_HEADER_BYTES / 4];
	u64 difference = 0;

	__builtin_memcpy(before, h, sizeof(before));
	h->path = s->path;
	if (s->type == SDWAN_TYPE_PROBE) {
		h->index = s->peer >> 8;
		h->segments = s->peer;
	}
	h->link_sequence = to_be32(s->sequence);
	h->send_time_us = to_be32(s->time_us);
	__builtin_memcpy(after, h, sizeof(after));
	UNROLL
	for (int i = 0; i < SDWAN_HEADER_BYTES / 4; i++)
		difference = replace32(difference, before[i], after[i]);
	return difference;
}

/* shift_pseudo_sum - the checksum field of a GSO super-packet after its addresses changed */
static __always_inline void shift_pseudo_sum(struct udphdr *udp, const struct difference *d)
{
	udp->check = fold16(udp->check + (u64)fold16(d->addresses));
}

static __always_inline void swap_bytes6(u8 *a, u8 *b)
{
	u16 *x = (u16 *)a, *y = (u16 *)b;

	UNROLL
	for (int i = 0; i < 3; i++) {
		u16 kept = x[i];

		x[i] = y[i];
		y[i] = kept;
	}
}

/* turn_around - swap the ends of a frame: no sum changes, sums do not know order */
static __always_inline void turn_around(struct view *v)
{
	__be16 port = v->udp->source;

	if (v->eth)
		swap_bytes6(v->eth->h_dest, v->eth->h_source);
	if (!v->is_ip6) {
		__be32 address = v->ip4->saddr;

		v->ip4->saddr = v->ip4->daddr;
		v->ip4->daddr = address;
	} else {
		__be32 *from = v->ip6->saddr.in6_u.u6_addr32, *to = v->ip6->daddr.in6_u.u6_addr32;

		UNROLL
		for (int i = 0; i < 4; i++) {
			__be32 address = from[i];

			from[i] = to[i];
			to[i] = address;
		}
	}
	v->udp->source = v->udp->dest;
	v->udp->dest = port;
}

/**
 * answer_probe - turn a probe into its reply, in place
 * @body: behind the header, bounds checked
 * @now_us: our clock
 * Return: the difference for the UDP checksum.
 */
static __always_inline u64 answer_probe(struct view *v, struct sdwan_header *h, struct sdwan_probe *body,
					u32 now_us)
{
	u32 echo_before = body->echo_time_us, reflect_before = body->reflect_time_us, type_before, type_after;
	u64 ttl_change = set_ttl(v, SDWAN_PROBE_TTL);

	__builtin_memcpy(&type_before, &h->type, sizeof(type_before));
	turn_around(v);
	if (!v->is_ip6)
		v->ip4->check = patched_sum(v->ip4->check, ttl_change);
	h->type = SDWAN_TYPE_PROBE_REPLY;
	body->echo_time_us = h->send_time_us;
	body->reflect_time_us = to_be32(now_us);
	__builtin_memcpy(&type_after, &h->type, sizeof(type_after));
	return replace32(replace32(replace32(0, type_before, type_after), echo_before, body->echo_time_us),
			 reflect_before, body->reflect_time_us);
}

#endif
