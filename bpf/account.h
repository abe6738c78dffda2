/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * account.h - what arrived, what is missing, and who asks too often.
 *
 * Room: pure. In come the state of one path, or one token bucket, and the numbers a datagram carries;
 * the state is moved on. Nothing here decides about security: the stamps are not authenticated, so
 * they only measure, and a number far off is ignored (docs/wire.md).
 */
#ifndef SDWAN_ACCOUNT_H
#define SDWAN_ACCOUNT_H

#include "parse.h"

#define SECOND_NS 1000000000ull
#define WINDOW_BITS 64

/* A run of datagrams that came as one skb; a single datagram is a run of one. */
struct arrival {
	u32 first; /* link sequences */
	u32 last;
	u32 count;
	u32 send_time_us; /* of the last */
};

/* endpoint_matches - did this come from where the path's remote is */
static __always_inline int endpoint_matches(const struct path *p, const struct view *v)
{
	const __be32 *from;

	if (p->remote_port != v->udp->source || !(p->flags & PATH_FLAG_IPV6) != !v->is_ip6)
		return 0;
	if (!v->is_ip6)
		return p->remote4 == v->ip4->saddr;
	from = v->ip6->saddr.in6_u.u6_addr32;
	return p->remote6[0] == from[0] && p->remote6[1] == from[1] && p->remote6[2] == from[2] &&
	       p->remote6[3] == from[3];
}

/* source_of - the key of a token bucket */
static __always_inline void source_of(const struct view *v, struct source_key *key)
{
	if (!v->is_ip6) {
		key->address[0] = 0;
		key->address[1] = 0;
		key->address[2] = to_be32(0xffff);
		key->address[3] = v->ip4->saddr;
	} else {
		const __be32 *from = v->ip6->saddr.in6_u.u6_addr32;

		UNROLL
		for (int i = 0; i < 4; i++)
			key->address[i] = from[i];
	}
}

/**
 * take_tokens - may so many more pass now
 * @rate: tokens a second; the bucket holds one second's worth
 *
 * Tokens are kept as the time they are worth, so that refilling is one subtraction. A full bucket has
 * last_ns = 0: `now` lies more than a second after it.
 */
static __always_inline int take_tokens(struct token_bucket *b, u32 rate, u32 tokens, u64 now_ns)
{
	u64 price, have;

	if (!rate)
		return 0;
	price = SECOND_NS / rate * tokens;
	have = b->tokens_ns + (now_ns - b->last_ns);
	if (have > SECOND_NS)
		have = SECOND_NS;
	b->last_ns = now_ns;
	b->tokens_ns = have < price ? have : have - price;
	return have >= price;
}

static __always_inline u32 count_bits(u64 x)
{
	x = x - (x >> 1 & 0x5555555555555555ull);
	x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return x * 0x0101010101010101ull >> 56;
}

/* low_bits - a mask of the n lowest bits, n from 0 to 64 */
static __always_inline u64 low_bits(u64 n)
{
	return n >= WINDOW_BITS ? ~0ull : (1ull << n) - 1;
}

/* note_old - `count` datagrams came after their successor, the newest of them `age` before next_sequence */
static __always_inline void note_old(struct rx_state *s, u64 age, u64 count)
{
	u64 fresh = count, bits;

	if (age < WINDOW_BITS) {
		bits = low_bits(count) << age;
		fresh = count_bits(bits & ~s->seen_window);
		if (age + count > WINDOW_BITS) /* the oldest lie behind the window: taken as fresh */
			fresh += age + count - WINDOW_BITS;
		s->seen_window |= bits;
	}
	s->late += fresh;
	s->duplicate += count - fresh;
	s->lost -= fresh < s->lost ? fresh : s->lost;
}

/* note_new - `span` sequence numbers from next_sequence + gap on, of which `count` came */
static __always_inline void note_new(struct rx_state *s, u64 gap, u64 span, u64 count)
{
	u64 moved = gap + span;

	s->lost += moved - count;
	s->seen_window = moved >= WINDOW_BITS ? 0 : s->seen_window << moved;
	s->seen_window |= low_bits(span); /* holes inside one skb are invisible: taken as seen */
	s->next_sequence += moved;
}

/* is_suspect - too far away to be believed; a long agreeing run means that the peer started anew */
static __always_inline int is_suspect(struct rx_state *s, const struct arrival *a, s32 ahead)
{
	if (ahead <= SDWAN_SEQUENCE_JUMP_MAX && ahead >= -SDWAN_SEQUENCE_JUMP_MAX &&
	    a->last - a->first < SDWAN_SEQUENCE_JUMP_MAX)
		return 0;
	s->suspect += a->count;
	s->suspect_run = a->first == s->suspect_next ? s->suspect_run + a->count : a->count;
	s->suspect_next = a->last + 1;
	if (s->suspect_run < SDWAN_RESYNC_RUN)
		return 1;
	s->suspect_run = 0;
	s->next_sequence = 0;
	return 0;
}

/**
 * note_sequence - account for the link sequences of one skb
 * Return: whether they were believed.
 */
static __always_inline int note_sequence(struct rx_state *s, const struct arrival *a)
{
	s32 ahead = (s32)(a->first - (u32)s->next_sequence);
	u64 span = (u64)(a->last - a->first) + 1, old;

	if (s->next_sequence && is_suspect(s, a, ahead))
		return 0;
	if (!s->next_sequence) { /* 2^32 more than the first: late ones have room below it */
		s->next_sequence = (1ull << 32) + a->first;
		s->seen_window = 0;
		ahead = 0;
	}
	if (span < a->count) /* reordered inside one skb: only the bounds are known */
		span = a->count;
	s->received += a->count;
	if (ahead >= 0) {
		note_new(s, ahead, span, a->count);
	} else if ((u64) - (s64)ahead >= span) {
		note_old(s, -(s64)ahead - span, a->count);
	} else { /* begins among the old, ends among the new */
		old = -(s64)ahead < a->count ? -(s64)ahead : a->count;
		note_old(s, 0, old);
		note_new(s, 0, span - old, a->count > old ? a->count - old : 0);
	}
	return 1;
}

/* note_delay - one-way delay up to the unknown offset of the clocks, and its jitter (RFC 3550, A.8) */
static __always_inline void note_delay(struct rx_state *s, u32 send_time_us, u64 now_ns)
{
	u32 delay = (u32)(now_ns / 1000) - send_time_us;
	s32 change = (s32)(delay - s->delay_last_us);

	if (s->last_ns)
		s->jitter_us16 += (change < 0 ? -change : change) - ((s->jitter_us16 + 8) >> 4);
	if (!s->last_ns || s->delay_min_us == ~0u || (s32)(delay - s->delay_min_us) < 0)
		s->delay_min_us = delay;
	s->delay_last_us = delay;
	s->last_ns = now_ns;
}

/* length_is_right - can a datagram of this type be so long (UDP payload of one segment) */
static __always_inline int length_is_right(u8 type, u32 payload_bytes)
{
	if (type_is_sealed(type))
		return payload_bytes >= SDWAN_HEADER_BYTES + SDWAN_TAG_BYTES;
	if (type == SDWAN_TYPE_PROBE || type == SDWAN_TYPE_PROBE_REPLY)
		return payload_bytes >= SDWAN_HEADER_BYTES + sizeof(struct sdwan_probe);
	return type_is_handshake(type);
}

#endif
