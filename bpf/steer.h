/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * steer.h - which path a datagram takes.
 *
 * Room: pure. In come the wanted weights of (peer, class), the state the mode keeps, and a mask of the
 * eligible paths; out goes a path number, and the state moved on. Every mode obeys the mask, and a
 * path without weight never stands in it. A burst (one skb) is never split: its whole length is
 * charged to the path that takes it.
 */
#ifndef SDWAN_STEER_H
#define SDWAN_STEER_H

#include "abi.h"

#define NO_PATH_FITS SDWAN_PATHS_PER_PEER

/* is_zero - 1 if x is 0, else 0, without a branch: branches multiply what the verifier has to walk */
static __always_inline u32 is_zero(u32 x)
{
	return ((u64)x - 1) >> 63;
}

/* path_is_usable - 1 if the path exists, its link is up and it speaks the burst's address family, else 0 */
static __always_inline u32 path_is_usable(const struct path *p, u32 is_ip6)
{
	u32 other_family = (p->flags / PATH_FLAG_IPV6 ^ is_ip6) & 1;

	return p->flags & PATH_FLAG_UP & ~other_family & ~is_zero(p->ifindex);
}

/* path_is_narrow - 1 if an IP packet of this length is too long for the path, else 0 */
static __always_inline u32 path_is_narrow(const struct path *p, u32 packet_bytes)
{
	return ((u64)p->mtu - packet_bytes) >> 63;
}

/* lowest_path - the lowest path number in a mask that holds one */
static __always_inline u32 lowest_path(u32 mask)
{
	u32 bit = mask & -mask, number = 0;

	UNROLL
	for (u32 i = 1; i < SDWAN_PATHS_PER_PEER; i++)
		number += i * (bit >> i & 1);
	return number;
}

/* fade_burst - how much a path may lag behind: the longest burst of late, less a 64th of what was sent since
 */
static __always_inline u64 fade_burst(struct stride_state *s, u32 bytes)
{
	u64 fade = bytes >> 6;

	s->burst_bytes = s->burst_bytes > bytes + fade ? s->burst_bytes - fade : bytes;
	return s->burst_bytes;
}

/**
 * choose_stride - byte-fair weighted shares
 *
 * Each path has a virtual finish time that grows by bytes * inverse weight when it is used; the one
 * that would finish first is taken (weighted fair queueing). A path of low weight rightly starts up to
 * one burst behind the present, so a path that was away may come back with that much credit and no more:
 * clamped to the present, low weights starve; not clamped, it would take everything until it caught up.
 * Times are compared by difference: they wrap.
 */
static __always_inline u32 choose_stride(struct stride_state *s, const struct weights *w, u32 mask, u32 bytes)
{
	u64 best_finish = 0, best_start = 0, lag_bytes = fade_burst(s, bytes);
	u32 best = NO_PATH_FITS;

	UNROLL
	for (u32 i = 0; i < SDWAN_PATHS_PER_PEER; i++) {
		u64 credit = w->inverse[i] * lag_bytes;
		u64 start = s->finish[i], finish;

		if (!(mask & 1 << i))
			continue;
		if ((s64)(s->virtual_now - start - credit) > 0) {
			start = s->virtual_now - credit;
			s->finish[i] = start;
		}
		finish = start + (u64)w->inverse[i] * bytes;
		if (best == NO_PATH_FITS || (s64)(finish - best_finish) < 0) {
			best = i;
			best_finish = finish;
			best_start = start;
		}
	}
	if (best < SDWAN_PATHS_PER_PEER) {
		s->finish[best] = best_finish;
		if ((s64)(best_start - s->virtual_now) >
		    0) /* never back: a path would get its credit twice */
			s->virtual_now = best_start;
	}
	return best;
}

/* sending_ns - how long a path is busy with so many bytes */
static __always_inline u64 sending_ns(const struct weights *w, u32 path, u32 bytes)
{
	return (u64)w->ns_per_kib[path & (SDWAN_PATHS_PER_PEER - 1)] * bytes >> 10;
}

/* later - the later of two moments of CLOCK_MONOTONIC */
static __always_inline u64 later(u64 a, u64 b)
{
	return a > b ? a : b;
}

#define BEYOND_BOUND (1ull << 63) /* later than any moment of CLOCK_MONOTONIC */

/**
 * delivery_cost - when a path would deliver so many bytes, or, beyond its bound, by how much it is
 *
 * One number, compared once: any path within its bound costs less than every path beyond. Masks instead
 * of branches, for eight of these are unrolled (see is_zero).
 */
static __always_inline u64 delivery_cost(const struct weights *w, u32 path, u64 busy_until, u32 bytes,
					 u64 now_ns)
{
	u64 start_ns = later(busy_until, now_ns), bound_ns = (u64)w->bound_us[path] * 1000;
	u64 arrival_ns = start_ns + sending_ns(w, path, bytes) + (u64)w->delay_us[path] * 1000;
	u64 room_ns = bound_ns - (start_ns - now_ns);
	u64 is_beyond = -((room_ns >> 63) & ~(u64)is_zero(w->bound_us[path]));

	return (arrival_ns & ~is_beyond) | ((-room_ns | BEYOND_BOUND) & is_beyond);
}

/**
 * choose_earliest - the path that delivers first among those whose backlog is within their bound
 * @busy_until: per path, when it will have sent all it was given
 *
 * A bound on each path and not on the sum: else a fast path's queue would grow by the whole difference of
 * the delays before a slow one is taken. Where all are beyond, the least: the sender was to wait, and what
 * it sent all the same (another class, a control message) is not dropped.
 */
static __always_inline u32 choose_earliest(const u64 *busy_until, const struct weights *w, u32 mask,
					   u32 bytes, u64 now_ns)
{
	u64 best_cost = 0;
	u32 best = NO_PATH_FITS;

	UNROLL
	for (u32 i = 0; i < SDWAN_PATHS_PER_PEER; i++) {
		u64 cost = delivery_cost(w, i, busy_until[i], bytes, now_ns);

		if (!(mask & 1 << i))
			continue;
		if (best == NO_PATH_FITS || cost < best_cost) {
			best = i;
			best_cost = cost;
		}
	}
	return best;
}

/* occupy - queue a burst behind what the path was given before; returns how long that still takes */
static __always_inline u64 occupy(struct busy_state *s, u64 burst_ns, u64 now_ns)
{
	u64 until_ns = s->until_ns, start_ns = later(until_ns, now_ns);

	if (until_ns)
		s->idle_ns += start_ns - until_ns;
	s->until_ns = start_ns + burst_ns;
	return start_ns - now_ns;
}

/* whole_us - microseconds, at most what 32 bits hold */
static __always_inline u32 whole_us(u64 ns)
{
	u64 us = ns / 1000;

	return us >> 32 ? ~0u : us;
}

/* choose_heaviest - the path with the largest weight; the lowest number among equals */
static __always_inline u32 choose_heaviest(const struct weights *w, u32 mask)
{
	u32 best = NO_PATH_FITS, best_inverse = ~0u;

	UNROLL
	for (u32 i = 0; i < SDWAN_PATHS_PER_PEER; i++) {
		if (mask & 1 << i && w->inverse[i] < best_inverse) {
			best = i;
			best_inverse = w->inverse[i];
		}
	}
	return best;
}

#endif
