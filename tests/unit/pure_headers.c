/*
 * The pure headers of bpf/, made callable: plain numbers in, plain numbers out, so that the tests need no
 * twin of a C struct. Compiled with the host's compiler by test_bpf_headers.py.
 */
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "rewrite.h"
#include "steer.h"

/* ---- steer.h */

struct stride_state *stride_new(void)
{
	return calloc(1, sizeof(struct stride_state));
}

u32 stride_choose(struct stride_state *s, const u32 *inverse, u32 mask, u32 bytes)
{
	struct weights w = {};

	memcpy(w.inverse, inverse, sizeof(w.inverse));
	return choose_stride(s, &w, mask, bytes);
}

void stride_jump(struct stride_state *s, u64 by)
{
	for (int i = 0; i < SDWAN_PATHS_PER_PEER; i++)
		s->finish[i] += by;
	s->virtual_now += by;
}

u32 earliest_choose(const u64 *busy, const u32 *ns_per_kib, const u32 *delay_us, const u32 *bound_us, u32 mask,
		    u32 bytes, u64 now_ns)
{
	struct weights w = {};

	memcpy(w.ns_per_kib, ns_per_kib, sizeof(w.ns_per_kib));
	memcpy(w.delay_us, delay_us, sizeof(w.delay_us));
	memcpy(w.bound_us, bound_us, sizeof(w.bound_us));
	return choose_earliest(busy, &w, mask, bytes, now_ns);
}

u64 call_occupy(u64 *until_and_idle, u64 burst_ns, u64 now_ns)
{
	struct busy_state s = {.until_ns = until_and_idle[0], .idle_ns = until_and_idle[1]};
	u64 backlog_ns = occupy(&s, burst_ns, now_ns);

	until_and_idle[0] = s.until_ns;
	until_and_idle[1] = s.idle_ns;
	return backlog_ns;
}

u32 call_whole_us(u64 ns)
{
	return whole_us(ns);
}

u32 heaviest_choose(const u32 *inverse, u32 mask)
{
	struct weights w = {};

	memcpy(w.inverse, inverse, sizeof(w.inverse));
	return choose_heaviest(&w, mask);
}

u32 call_lowest_path(u32 mask)
{
	return lowest_path(mask);
}

u32 usable(u32 ifindex, u32 flags, u32 is_ip6)
{
	struct path p = {.ifindex = ifindex, .flags = flags};

	return path_is_usable(&p, is_ip6);
}

u32 narrow(u32 mtu, u32 packet_bytes)
{
	struct path p = {.mtu = mtu};

	return path_is_narrow(&p, packet_bytes);
}

/* ---- account.h */

struct rx_state *rx_new(void)
{
	return calloc(1, sizeof(struct rx_state));
}

int rx_note(struct rx_state *s, u32 first, u32 last, u32 count)
{
	struct arrival a = {.first = first, .last = last, .count = count};

	return note_sequence(s, &a);
}

void rx_read(const struct rx_state *s, u64 *out)
{
	u64 values[] = {s->received, s->lost, s->late, s->duplicate, s->suspect, s->next_sequence};

	memcpy(out, values, sizeof(values));
}

struct token_bucket *bucket_new(void)
{
	return calloc(1, sizeof(struct token_bucket));
}

int bucket_take(struct token_bucket *b, u32 rate, u32 tokens, u64 now_ns)
{
	return take_tokens(b, rate, tokens, now_ns);
}

u32 call_count_bits(u64 x)
{
	return count_bits(x);
}

/* ---- parse.h, rewrite.h */

int call_look(u8 *data, u32 length, u32 link_bytes, u16 protocol, u32 *udp_offset)
{
	struct view v = {};
	enum sight sight = look(data, data + length, link_bytes, protocol, &v);

	*udp_offset = sight == SIGHT_OTHER ? 0 : v.udp_offset;
	return sight;
}

u16 call_patched_sum(u16 check, u32 before, u32 after)
{
	return patched_sum(check, replace32(0, before, after));
}

/* answer - turn a probe frame into its reply, sums included, as the XDP program does; 0 = no UDP */
int answer(u8 *data, u32 length, u32 now_us)
{
	struct sdwan_header *h;
	struct view v = {};
	u64 difference;

	if (look(data, data + length, ETH_HLEN, 0, &v) != SIGHT_UDP)
		return 0;
	h = header_of(&v, data + length);
	if (!h || (u8 *)(h + 1) + sizeof(struct sdwan_probe) > data + length)
		return 0;
	difference = answer_probe(&v, h, (void *)(h + 1), now_us);
	v.udp->check = patched_sum(v.udp->check, difference);
	return 1;
}
