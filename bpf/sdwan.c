/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * sdwan.c - the one translation unit: maps, lookups, short entry functions.
 *
 *   sdwan_steer        TC egress of the entry device   chooses the path, rewrites, stamps, redirects
 *   sdwan_count        TC egress of a link             counts, changes nothing
 *   sdwan_account      TC ingress of a link            counts, measures, drops what is hostile to the
 *   sdwan_account_xdp  XDP of a link                   tunnel, answers probes; other traffic passes
 *   ..._l3             the same for links without Ethernet header (PPP, raw-IP modems, TUN)
 *
 * Judgements stand in the pure headers; BCC only rewrites map lookups of this file, so every lookup
 * does. Compiled by sdwan/io/bpf.py with -DSDWAN_PEERS_MAX=n and, where the maps are pinned already,
 * -DSDWAN_PINS="directory": then they are adopted instead of created, and nothing counted is lost.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"
#include "account.h"
#include "parse.h"
#include "rewrite.h"
#include "steer.h"

/* ---- Maps --------------------------------------------------------------------------------------- */

#ifdef SDWAN_PINS
#define TABLE(type, key, leaf, name, size, flags) \
	BPF_F_TABLE(type ":" SDWAN_PINS "/" #name, key, leaf, name, size, flags)
#else
#define TABLE(type, key, leaf, name, size, flags) BPF_F_TABLE(type, key, leaf, name, size, flags)
#endif

#define PATH_ROWS (SDWAN_PEERS_MAX * SDWAN_PATHS_PER_PEER)
#define CLASS_ROWS (SDWAN_PEERS_MAX * SDWAN_CLASSES)

TABLE("array", u32, struct sdwan_config, cfg, 1, BPF_F_MMAPABLE);
TABLE("array", u32, struct path, paths, PATH_ROWS, BPF_F_MMAPABLE);
TABLE("array", u32, struct weights, weights, 2 * CLASS_ROWS, BPF_F_MMAPABLE);
TABLE("percpu_array", u32, struct stride_state, stride, CLASS_ROWS, 0);
TABLE("array", u32, struct busy_state, busy, PATH_ROWS, BPF_F_MMAPABLE);
TABLE("array", u32, struct tx_state, tx_state, PATH_ROWS, BPF_F_MMAPABLE);
TABLE("percpu_array", u32, struct tx_stats, tx_stats, PATH_ROWS, 0);
TABLE("percpu_array", u32, struct rx_stats, rx_stats, PATH_ROWS, 0);
TABLE("array", u32, struct rx_state, rx_state, PATH_ROWS, BPF_F_MMAPABLE);
TABLE("array", u32, struct probe_state, probes, PATH_ROWS, BPF_F_MMAPABLE);
TABLE("hash", __be32, struct receiver, receivers, SDWAN_RECEIVERS_MAX, 0);
TABLE("lru_hash", struct source_key, struct token_bucket, sources, SDWAN_SOURCES_MAX, 0);
TABLE("array", u32, struct token_bucket, sources_global, 1, 0);
TABLE("lru_hash", struct source_key, struct token_bucket, reflector, SDWAN_SOURCES_MAX, 0);
TABLE("percpu_array", u32, u64, drops, SDWAN_DROP_REASONS, 0);
TABLE("percpu_hash", u32, struct link_stats, link_stats, SDWAN_LINKS_MAX, 0);
TABLE("array", u32, struct tx_record, tx_ring, SDWAN_RING_RECORDS, BPF_F_MMAPABLE);
TABLE("array", u32, u64, tx_ring_head, 1, BPF_F_MMAPABLE);

/* BCC declares the first with one argument too few and some releases lack the second. */
static long (*redirect_neigh)(u32 ifindex, void *nexthop, int size, u64 flags) = (void *)152;
static long (*check_mtu)(void *ctx, u32 ifindex, u32 *mtu, s32 difference, u64 flags) = (void *)163;

static __always_inline struct sdwan_config *config(void)
{
	u32 zero = 0;

	return cfg.lookup(&zero);
}

static __always_inline void count_drop(u32 reason, u32 datagrams)
{
	u64 *counter = drops.lookup(&reason);

	if (counter)
		*counter += datagrams;
}

static __always_inline u32 segments_of(struct __sk_buff *skb)
{
	return skb->gso_size && skb->gso_segs ? skb->gso_segs : 1;
}

/* readable - have `bytes` of the frame at hand, if it is that long */
static __always_inline void readable(struct __sk_buff *skb, u32 bytes)
{
	u32 linear = skb->data_end - skb->data;

	if (linear < bytes && linear < skb->len)
		bpf_skb_pull_data(skb, bytes < skb->len ? bytes : skb->len);
}

#define START(ctx) ((void *)(long)(ctx)->data)
#define END(ctx) ((void *)(long)(ctx)->data_end)

/* ---- Send: which path ----------------------------------------------------------------------------- */

/* One skb on its way out: a datagram, or a GSO super-packet of several. */
struct burst {
	u32 peer;
	u32 segments;
	u32 packet_bytes; /* IP packet of one segment */
	u32 wire_bytes;   /* frames of all segments */
	u32 is_ip6;
	u32 udp_offset;
	__be32 first_counter;
	u8 version;
	u8 path_byte;
	u8 class_flags;
	u8 type;
};

static __always_inline int refuse(u32 reason, const struct burst *b)
{
	count_drop(reason, b->segments);
	return TC_ACT_SHOT;
}

/* peer_of - the peer number in a virtual destination; 0 = none */
static __always_inline u32 peer_of(const struct view *v)
{
	const __be32 *to;
	u32 last;

	if (!v->is_ip6) {
		last = from_be32(v->ip4->daddr);
		return (last & 0xffff0000) == SDWAN_ENTRY_NET4 ? last & 0xffff : 0;
	}
	to = v->ip6->daddr.in6_u.u6_addr32;
	last = from_be32(to[3]);
	if (to[0] != to_be32(SDWAN_ENTRY_NET6_HIGH) || to[1] != to_be32(SDWAN_ENTRY_NET6_LOW) || to[2])
		return 0;
	return last <= 0xffff ? last : 0;
}

/* read_burst - everything the choice needs, or the reason for a drop */
static __always_inline u32 read_burst(struct __sk_buff *skb, struct burst *b)
{
	struct sdwan_header *header;
	struct view v;

	readable(skb, ETH_HLEN + IP6_BYTES + UDP_BYTES + SDWAN_HEADER_BYTES);
	if (look(START(skb), END(skb), ETH_HLEN, 0, &v) != SIGHT_UDP)
		return DROP_NOT_TUNNEL;
	header = header_of(&v, END(skb));
	b->peer = peer_of(&v);
	if (!header || !header_is_ours(header) || !b->peer || b->peer >= SDWAN_PEERS_MAX)
		return DROP_NOT_TUNNEL;
	b->is_ip6 = v.is_ip6;
	b->udp_offset = v.udp_offset;
	b->packet_bytes = skb->gso_size ? skb->gso_size + v.udp_offset + UDP_BYTES - ETH_HLEN : skb->len - ETH_HLEN;
	b->first_counter = header->counter;
	b->version = header->version;
	b->path_byte = header->path;
	b->class_flags = header->class_flags;
	b->type = header->type;
	return 0;
}

static __always_inline struct weights *weights_of(const struct sdwan_config *c, const struct burst *b)
{
	u32 key = (c->bank & 1) * CLASS_ROWS + b->peer * SDWAN_CLASSES + (b->class_flags & SDWAN_CLASS_MASK);

	return weights.lookup(&key);
}

/* Which paths take a burst, as masks of path numbers. */
struct eligible {
	u32 paths;
	u32 too_narrow; /* would, were the burst shorter */
};

static __always_inline void find_eligible(const struct burst *b, const struct weights *w, struct eligible *e)
{
	UNROLL
	for (u32 i = 0; i < SDWAN_PATHS_PER_PEER; i++) {
		u32 key = b->peer * SDWAN_PATHS_PER_PEER + i, usable, narrow;
		struct path *p = paths.lookup(&key);

		if (!p)
			continue;
		usable = path_is_usable(p, b->is_ip6) & ~is_zero(w->inverse[i]);
		narrow = path_is_narrow(p, b->packet_bytes);
		e->paths |= (usable & ~narrow) << i;
		e->too_narrow |= (usable & narrow) << i;
	}
}

static __always_inline u32 earliest_path(const struct burst *b, const struct weights *w, u32 mask)
{
	u64 until[SDWAN_PATHS_PER_PEER];

	UNROLL
	for (u32 i = 0; i < SDWAN_PATHS_PER_PEER; i++) {
		u32 key = b->peer * SDWAN_PATHS_PER_PEER + i;
		struct busy_state *state = busy.lookup(&key);

		until[i] = state ? state->until_ns : 0;
	}
	return choose_earliest(until, w, mask, b->wire_bytes, bpf_ktime_get_ns());
}

/* choose - one of the paths in the mask, which holds one */
static __always_inline u32 choose(const struct burst *b, const struct weights *w, u32 mask)
{
	u32 key = b->peer * SDWAN_CLASSES + (b->class_flags & SDWAN_CLASS_MASK);
	struct stride_state *state;

	if (w->mode == STEER_EARLIEST)
		return earliest_path(b, w, mask);
	if (w->mode == STEER_PIN)
		return choose_heaviest(w, mask);
	state = stride.lookup(&key);
	return state ? choose_stride(state, w, mask, b->wire_bytes) : lowest_path(mask);
}

/* ---- Send: rewrite and go --------------------------------------------------------------------------- */

/* stamp_segments - the headers of a GSO super-packet behind the first one */
static __always_inline void stamp_segments(struct __sk_buff *skb, const struct burst *b, struct stamp *stamp)
{
	u32 offset = b->udp_offset + UDP_BYTES, step = skb->gso_size & 0xffff;
	void *data = START(skb), *end = END(skb);

	for (u32 i = 1; i < 128; i++) { /* UDP_MAX_SEGMENTS */
		struct sdwan_header *header;

		offset += step;
		asm volatile("" : "+r"(offset)); /* the verifier must see the very number that was compared */
		if (i >= b->segments || offset > 0xff00)
			break;
		header = data + offset;
		if ((void *)(header + 1) > end)
			break;
		header->path = stamp->path;
		header->link_sequence = to_be32(stamp->sequence + i);
		header->send_time_us = to_be32(stamp->time_us);
	}
}

/* rewrite - addresses, ports, stamps and sums for one path; the whole burst must be linear */
static __always_inline int rewrite(struct __sk_buff *skb, const struct burst *b, const struct path *p, struct stamp *s)
{
	u32 check_offset = b->udp_offset + offsetof(struct udphdr, check);
	u8 ttl = b->type == SDWAN_TYPE_PROBE ? SDWAN_PROBE_TTL : 0;
	struct sdwan_header *header;
	struct difference d;
	struct view v;

	if (look(START(skb), END(skb), ETH_HLEN, 0, &v) != SIGHT_UDP)
		return -1;
	header = header_of(&v, END(skb));
	if (!header)
		return -1;
	readdress(&v, p, ttl, &d);
	d.rest += stamp_header(header, s);
	if (!v.udp->check)
		check_offset = 0;
	if (skb->gso_size) {
		if (check_offset)
			shift_pseudo_sum(v.udp, &d);
		stamp_segments(skb, b, s);
		return 0;
	}
	if (!check_offset)
		return 0;
	if (bpf_l4_csum_replace(skb, check_offset, 0, fold32(d.addresses), BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -1;
	return bpf_l4_csum_replace(skb, check_offset, 0, fold32(d.rest), BPF_F_MARK_MANGLED_0);
}

/* tell - write into the ring what was chosen; the number goes in last and makes the record valid */
static __always_inline void tell(const struct burst *b, const struct stamp *s, u64 now_ns)
{
	u32 zero = 0, slot;
	u64 *head = tx_ring_head.lookup(&zero), index;
	struct tx_record *record;

	if (!head)
		return;
	index = __sync_fetch_and_add(head, 1);
	slot = index & (SDWAN_RING_RECORDS - 1);
	record = tx_ring.lookup(&slot);
	if (!record)
		return;
	*(volatile u32 *)&record->number = 0;
	record->first_counter = b->first_counter;
	record->time_ns = now_ns;
	record->first_sequence = s->sequence;
	record->size_bytes = b->wire_bytes;
	record->peer = b->peer;
	record->segments = b->segments;
	record->path = s->path;
	record->type = b->type;
	*(volatile u32 *)&record->number = index + 1;
}

static __always_inline void note_sent(const struct burst *b, const struct weights *w, const struct stamp *s, u64 now_ns)
{
	u32 key = b->peer * SDWAN_PATHS_PER_PEER + s->path;
	struct tx_stats *stats = tx_stats.lookup(&key);
	struct busy_state *state;

	if (stats) {
		stats->bursts++;
		stats->datagrams += b->segments;
		stats->bytes += b->wire_bytes;
	}
	if (w->ns_per_kib[s->path & (SDWAN_PATHS_PER_PEER - 1)]) {
		state = busy.lookup(&key);
		if (state)
			state->until_ns = later(state->until_ns, now_ns) + sending_ns(w, s->path, b->wire_bytes);
	}
	tell(b, s, now_ns);
}

/* dispatch - send the burst over one path, which the caller found fit */
static __always_inline int dispatch(struct __sk_buff *skb, const struct burst *b, const struct weights *w, u32 number)
{
	u32 key = b->peer * SDWAN_PATHS_PER_PEER + number;
	struct tx_state *state = tx_state.lookup(&key);
	struct path *p = paths.lookup(&key);
	struct stamp stamp = {};
	u64 now_ns = bpf_ktime_get_ns();

	if (!state || !p)
		return refuse(DROP_NO_PATH, b);
	if (b->segments > 1 && bpf_skb_pull_data(skb, skb->len))
		return refuse(DROP_REWRITE_FAILED, b);
	stamp.path = number;
	stamp.type = b->type;
	stamp.peer = b->peer;
	stamp.time_us = now_ns / 1000;
	stamp.sequence = __sync_fetch_and_add(&state->next_sequence, type_is_numbered(b->type) ? b->segments : 0);
	state->last_ns = now_ns;
	if (rewrite(skb, b, p, &stamp))
		return refuse(DROP_REWRITE_FAILED, b);
	note_sent(b, w, &stamp, now_ns);
	return redirect_neigh(p->ifindex, 0, 0, 0);
}

/**
 * send_copy - send a clone over one path, by way of the entry
 *
 * The clone enters this program again, pinned, and is rewritten there: so one place rewrites, and each
 * copy finds its own link's neighbour. A pinned datagram is never duplicated, so that ends.
 */
static __always_inline void send_copy(struct __sk_buff *skb, struct burst *b, u32 number)
{
	u32 key = b->peer * SDWAN_PATHS_PER_PEER + number;
	u32 header_offset = b->udp_offset + UDP_BYTES;
	u8 pin = SDWAN_PATH_PIN | number;
	struct tx_stats *stats;

	if (bpf_skb_store_bytes(skb, header_offset + offsetof(struct sdwan_header, path), &pin, 1, 0))
		return;
	if (!skb->gso_size)
		bpf_l4_csum_replace(skb, b->udp_offset + offsetof(struct udphdr, check),
				    to_be16(b->version << 8 | b->path_byte), to_be16(b->version << 8 | pin),
				    BPF_F_MARK_MANGLED_0 | sizeof(u16));
	b->path_byte = pin;
	stats = tx_stats.lookup(&key);
	if (!bpf_clone_redirect(skb, skb->ifindex, 0) && stats)
		stats->copies += b->segments;
}

/* send_copies - over all paths of the mask but the last, which is returned */
static __always_inline u32 send_copies(struct __sk_buff *skb, struct burst *b, u32 mask)
{
	for (u32 i = 1; i < SDWAN_PATHS_PER_PEER; i++) {
		u32 others = mask & (mask - 1);

		if (!others)
			break;
		send_copy(skb, b, lowest_path(mask));
		mask = others;
	}
	return lowest_path(mask);
}

/* check_pinned - may the burst go on the path it is pinned to; a reason, or 0
 *
 * What measures a path (probes, control messages) may be as long as the link itself allows.
 */
static __always_inline u32 check_pinned(struct __sk_buff *skb, const struct burst *b, u32 number)
{
	u32 key = b->peer * SDWAN_PATHS_PER_PEER + number, mtu = b->packet_bytes;
	struct path *p = paths.lookup(&key);

	if (number >= SDWAN_PATHS_PER_PEER || !p || !path_is_usable(p, b->is_ip6))
		return DROP_PIN_INVALID;
	if (type_is_sealed(b->type) && b->type != SDWAN_TYPE_CONTROL)
		return path_is_narrow(p, b->packet_bytes) ? DROP_MTU_EXCEEDED : 0;
	return check_mtu(skb, p->ifindex, &mtu, 0, 0) ? DROP_MTU_EXCEEDED : 0;
}

int sdwan_steer(struct __sk_buff *skb)
{
	struct sdwan_config *c = config();
	struct eligible e = {};
	struct burst b = {};
	struct weights *w;
	u32 reason, number;

	b.segments = segments_of(skb);
	b.wire_bytes = skb->wire_len;
	if (!c || !c->mark || skb->mark != c->mark)
		return refuse(DROP_UNMARKED, &b);
	reason = read_burst(skb, &b);
	w = reason ? 0 : weights_of(c, &b);
	if (!w)
		return refuse(reason ? reason : DROP_NO_PATH, &b);
	number = b.path_byte & ~SDWAN_PATH_PIN;
	if (b.path_byte != SDWAN_PATH_CHOOSE) {
		reason = b.path_byte & SDWAN_PATH_PIN ? check_pinned(skb, &b, number) : DROP_LOOP;
	} else {
		find_eligible(&b, w, &e);
		if (!e.paths)
			reason = e.too_narrow ? DROP_MTU_EXCEEDED : DROP_NO_PATH;
		else if (w->mode == STEER_DUPLICATE || b.class_flags & SDWAN_FLAG_DUPLICATE)
			number = send_copies(skb, &b, e.paths);
		else
			number = choose(&b, w, e.paths);
	}
	return reason ? refuse(reason, &b) : dispatch(skb, &b, w, number & (SDWAN_PATHS_PER_PEER - 1));
}

/* ---- Links: counting ---------------------------------------------------------------------------------- */

/* One skb or XDP frame of a link. */
struct frame {
	u32 ifindex;
	u32 segments;
	u32 bytes;         /* on the wire, all segments */
	u32 payload_bytes; /* UDP payload of one segment */
};

static __always_inline void count_out(const struct frame *f, int is_tunnel)
{
	u32 ifindex = f->ifindex;
	struct link_stats *s = link_stats.lookup(&ifindex);

	if (!s)
		return;
	s->tx_packets += f->segments;
	s->tx_bytes += f->bytes;
	if (is_tunnel) {
		s->tx_tunnel_packets += f->segments;
		s->tx_tunnel_bytes += f->bytes;
	}
}

static __always_inline void count_in(const struct frame *f, int is_tunnel)
{
	u32 ifindex = f->ifindex;
	struct link_stats *s = link_stats.lookup(&ifindex);

	if (!s)
		return;
	s->rx_packets += f->segments;
	s->rx_bytes += f->bytes;
	if (is_tunnel) {
		s->rx_tunnel_packets += f->segments;
		s->rx_tunnel_bytes += f->bytes;
	}
}

static __always_inline int count_egress(struct __sk_buff *skb, u32 link_bytes)
{
	struct sdwan_config *c = config();
	struct frame f = {};
	struct view v;
	int is_tunnel;

	f.ifindex = skb->ifindex;
	f.segments = segments_of(skb);
	f.bytes = skb->wire_len;
	is_tunnel = c && c->port && look(START(skb), END(skb), link_bytes, skb->protocol, &v) == SIGHT_UDP &&
		    v.udp->source == c->port;
	count_out(&f, is_tunnel);
	return TC_ACT_UNSPEC;
}

int sdwan_count(struct __sk_buff *skb)
{
	return count_egress(skb, ETH_HLEN);
}

int sdwan_count_l3(struct __sk_buff *skb)
{
	return count_egress(skb, 0);
}

/* ---- Receive: judge ------------------------------------------------------------------------------------- */

enum outcome {
	OUTCOME_PASS,
	OUTCOME_DROP,
	OUTCOME_REFLECT,
};

/* is_for_us - does this machine own the destination, or would it only pass the packet on */
static __always_inline int is_for_us(void *ctx, const struct view *v, u32 ifindex)
{
	struct bpf_fib_lookup route = {};
	int result;

	route.ifindex = ifindex;
	if (!v->is_ip6) {
		route.family = 2; /* AF_INET */
		route.ipv4_src = v->ip4->saddr;
		route.ipv4_dst = v->ip4->daddr;
	} else {
		route.family = 10; /* AF_INET6 */
		__builtin_memcpy(route.ipv6_src, &v->ip6->saddr, sizeof(route.ipv6_src));
		__builtin_memcpy(route.ipv6_dst, &v->ip6->daddr, sizeof(route.ipv6_dst));
	}
	result = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	return result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* reject - drop what is ours to drop; traffic that only crosses this machine passes */
static __always_inline enum outcome reject(void *ctx, const struct view *v, const struct frame *f, u32 reason)
{
	if (!is_for_us(ctx, v, f->ifindex))
		return OUTCOME_PASS;
	count_drop(reason, f->segments);
	return OUTCOME_DROP;
}

static __always_inline struct token_bucket *bucket_of(struct source_key *key)
{
	struct token_bucket *b = sources.lookup(key), full = {};

	if (b)
		return b;
	sources.update(key, &full);
	return sources.lookup(key);
}

/* ration - the reason for not letting an unvalidated source have so many tokens, or 0 */
static __always_inline u32 ration(const struct view *v, const struct sdwan_config *c, u32 tokens)
{
	u64 now_ns = bpf_ktime_get_ns();
	struct token_bucket *own, *shared;
	struct source_key key;
	u32 zero = 0;

	source_of(v, &key);
	own = bucket_of(&key);
	if (!own || !take_tokens(own, c->source_rate, tokens, now_ns))
		return DROP_FLOOD_SOURCE;
	shared = sources_global.lookup(&zero);
	return shared && take_tokens(shared, c->global_rate, tokens, now_ns) ? 0 : DROP_FLOOD_GLOBAL;
}

static __always_inline u32 ration_probe(const struct view *v, const struct sdwan_config *c)
{
	u64 now_ns = bpf_ktime_get_ns();
	struct token_bucket *own, *shared, full = {};
	struct source_key key;
	u32 zero = 0;

	source_of(v, &key);
	own = reflector.lookup(&key);
	if (!own) {
		reflector.update(&key, &full);
		own = reflector.lookup(&key);
	}
	if (!own || !take_tokens(own, c->probe_rate, 1, now_ns))
		return DROP_PROBE_LIMIT;
	shared = sources_global.lookup(&zero);
	return shared && take_tokens(shared, c->global_rate, 1, now_ns) ? 0 : DROP_FLOOD_GLOBAL;
}

/* take_reply - match a probe reply with the probe it answers; 0 = not asked for */
static __always_inline int take_reply(const struct sdwan_header *h, const struct sdwan_probe *body)
{
	u32 peer = h->index << 8 | h->segments, key = peer * SDWAN_PATHS_PER_PEER + h->path;
	u64 token = from_be64(body->token), now_ns = bpf_ktime_get_ns();
	struct probe_state *state;
	struct probe_slot *slot;
	u32 rtt_us;

	if (h->path >= SDWAN_PATHS_PER_PEER || !token)
		return 0;
	state = probes.lookup(&key);
	if (!state)
		return 0;
	slot = &state->slot[token & (SDWAN_PROBE_SLOTS - 1)];
	if (slot->token != token || slot->rtt_us)
		return 0;
	rtt_us = (u32)(now_ns / 1000) - from_be32(body->echo_time_us);
	slot->reflect_time_us = from_be32(body->reflect_time_us);
	*(volatile u32 *)&slot->rtt_us = rtt_us ? rtt_us : 1;
	return 1;
}

/* note - a datagram of a validated endpoint: what the link did to it */
static __always_inline void note(u32 key, const struct frame *f, const struct arrival *a, u8 type)
{
	struct rx_stats *stats = rx_stats.lookup(&key);
	struct rx_state *state = rx_state.lookup(&key);

	if (stats) {
		stats->datagrams += f->segments;
		stats->bytes += f->bytes;
		stats->probes += type == SDWAN_TYPE_PROBE;
	}
	if (state && note_sequence(state, a))
		note_delay(state, a->send_time_us, bpf_ktime_get_ns());
}

/* judge_stranger - not from a validated endpoint: within limits it may try to become one */
static __always_inline enum outcome judge_stranger(void *ctx, const struct view *v, const struct frame *f,
						   const struct sdwan_config *c, u8 type, const u32 *peer_key)
{
	struct rx_stats *stats;
	u32 reason;

	if (type == SDWAN_TYPE_PROBE) {
		if (!is_for_us(ctx, v, f->ifindex))
			return OUTCOME_PASS;
		reason = f->segments > 1 ? DROP_PROBE_LIMIT : ration_probe(v, c);
		if (!reason)
			return OUTCOME_REFLECT;
		count_drop(reason, f->segments);
		return OUTCOME_DROP;
	}
	if (type_is_sealed(type)) {
		if (!peer_key)
			return reject(ctx, v, f, DROP_UNKNOWN_RECEIVER);
		stats = rx_stats.lookup((u32 *)peer_key);
		if (stats)
			stats->moved += f->segments;
	}
	reason = ration(v, c, type_is_handshake(type) ? SDWAN_HANDSHAKE_PRICE : f->segments);
	return reason ? reject(ctx, v, f, reason) : OUTCOME_PASS;
}

/**
 * judge - what becomes of a datagram to our port
 * @h: its header, or NULL if it is too short for one
 * @body: behind the header, or NULL if too short
 */
static __always_inline enum outcome judge(void *ctx, const struct view *v, const struct frame *f, const struct arrival *a,
					  const struct sdwan_header *h, const struct sdwan_probe *body)
{
	struct sdwan_config *c = config();
	struct receiver *receiver;
	struct path *p;
	__be32 index;
	u32 key;

	if (!c || !h || !header_is_ours(h) || !length_is_right(h->type, f->payload_bytes))
		return reject(ctx, v, f, DROP_MALFORMED);
	if (h->type == SDWAN_TYPE_PROBE_REPLY) {
		if (!body)
			return reject(ctx, v, f, DROP_MALFORMED);
		return take_reply(h, body) ? OUTCOME_DROP : reject(ctx, v, f, DROP_PROBE_STALE);
	}
	if (type_is_handshake(h->type))
		return judge_stranger(ctx, v, f, c, h->type, 0);
	index = h->receiver;
	receiver = receivers.lookup(&index);
	if (!receiver || receiver->peer >= SDWAN_PEERS_MAX)
		return judge_stranger(ctx, v, f, c, h->type, 0);
	key = receiver->peer * SDWAN_PATHS_PER_PEER + (h->path & (SDWAN_PATHS_PER_PEER - 1));
	p = paths.lookup(&key);
	if (!p || h->path >= SDWAN_PATHS_PER_PEER || !endpoint_matches(p, v))
		return judge_stranger(ctx, v, f, c, h->type, &key);
	note(key, f, a, h->type);
	if (h->type != SDWAN_TYPE_PROBE)
		return OUTCOME_PASS;
	if (f->segments == 1)
		return OUTCOME_REFLECT;
	count_drop(DROP_PROBE_LIMIT, f->segments);
	return OUTCOME_DROP;
}

/* ---- Receive: TC ingress ---------------------------------------------------------------------------------- */

/* payload_of - bytes behind the UDP header of one datagram, by its own word */
static __always_inline u32 payload_of(const struct view *v)
{
	u32 bytes = from_be16(v->udp->len);

	return bytes < UDP_BYTES ? 0 : bytes - UDP_BYTES;
}

/* read_arrival - the stamps of the first and of the last datagram of an skb */
static __always_inline void read_arrival(struct __sk_buff *skb, const struct view *v, const struct frame *f,
					 const struct sdwan_header *h, struct arrival *a)
{
	struct {
		__be32 link_sequence;
		__be32 send_time_us;
	} last = {};
	u32 offset = v->udp_offset + UDP_BYTES + offsetof(struct sdwan_header, link_sequence);

	a->count = f->segments;
	a->first = from_be32(h->link_sequence);
	a->last = a->first;
	a->send_time_us = from_be32(h->send_time_us);
	if (f->segments == 1)
		return;
	offset += (f->segments - 1) * (skb->gso_size & 0xffff);
	if (bpf_skb_load_bytes(skb, offset, &last, sizeof(last)))
		return;
	a->last = from_be32(last.link_sequence);
	a->send_time_us = from_be32(last.send_time_us);
}

static __always_inline int reflect(struct __sk_buff *skb, u32 link_bytes)
{
	struct sdwan_header *header;
	struct sdwan_probe *body;
	struct view v;
	u64 difference;

	if (look(START(skb), END(skb), link_bytes, skb->protocol, &v) != SIGHT_UDP)
		return TC_ACT_SHOT;
	header = header_of(&v, END(skb));
	body = (void *)(header + 1);
	if (!header || (void *)(body + 1) > END(skb))
		return TC_ACT_SHOT;
	difference = answer_probe(&v, header, body, bpf_ktime_get_ns() / 1000);
	if (v.udp->check)
		bpf_l4_csum_replace(skb, v.udp_offset + offsetof(struct udphdr, check), 0, fold32(difference),
				    BPF_F_MARK_MANGLED_0);
	return bpf_redirect(skb->ifindex, 0);
}

/* frame_bytes - on the wire; a coalesced skb had these headers once per segment */
static __always_inline u32 frame_bytes(struct __sk_buff *skb, enum sight sight, const struct view *v, u32 link_bytes)
{
	u32 headers = sight == SIGHT_UDP ? v->udp_offset + UDP_BYTES : tcp_headers(START(skb), END(skb), link_bytes, skb->protocol);

	return skb->len + (segments_of(skb) - 1) * headers;
}

static __always_inline int account(struct __sk_buff *skb, u32 link_bytes)
{
	struct sdwan_config *c = config();
	struct sdwan_header *header;
	struct sdwan_probe *body;
	struct arrival a = {};
	struct frame f = {};
	struct view v = {};
	enum outcome outcome;
	enum sight sight;
	int is_tunnel;

	readable(skb, link_bytes + IP6_BYTES + UDP_BYTES + SDWAN_HEADER_BYTES + sizeof(struct sdwan_probe));
	sight = look(START(skb), END(skb), link_bytes, skb->protocol, &v);
	is_tunnel = c && c->port && sight != SIGHT_OTHER && v.udp->dest == c->port && skb->pkt_type == 0 /* PACKET_HOST */;
	f.ifindex = skb->ifindex;
	f.segments = segments_of(skb);
	f.bytes = frame_bytes(skb, sight, &v, link_bytes);
	count_in(&f, is_tunnel);
	if (!is_tunnel)
		return TC_ACT_UNSPEC;
	f.payload_bytes = skb->gso_size ? skb->gso_size : payload_of(&v);
	header = sight == SIGHT_UDP ? header_of(&v, END(skb)) : 0;
	body = header ? (void *)(header + 1) : 0;
	if (body && (void *)(body + 1) > END(skb))
		body = 0;
	if (header)
		read_arrival(skb, &v, &f, header, &a);
	outcome = judge(skb, &v, &f, &a, header, body);
	if (outcome == OUTCOME_REFLECT)
		return reflect(skb, link_bytes);
	return outcome == OUTCOME_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int sdwan_account(struct __sk_buff *skb)
{
	return account(skb, ETH_HLEN);
}

int sdwan_account_l3(struct __sk_buff *skb)
{
	return account(skb, 0);
}

/* ---- Receive: XDP ----------------------------------------------------------------------------------------- */

static __always_inline int reflect_xdp(struct view *v, const struct frame *f, struct sdwan_header *header, struct sdwan_probe *body)
{
	u64 difference;
	u16 sum;

	if (!header || !body)
		return XDP_DROP;
	difference = answer_probe(v, header, body, bpf_ktime_get_ns() / 1000);
	if (v->udp->check) {
		sum = patched_sum(v->udp->check, difference);
		v->udp->check = sum ? sum : 0xffff;
	}
	count_out(f, 1);
	return XDP_TX;
}

int sdwan_account_xdp(struct xdp_md *ctx)
{
	struct sdwan_config *c = config();
	struct sdwan_header *header;
	struct sdwan_probe *body;
	struct arrival a = {};
	struct frame f = {};
	struct view v = {};
	enum outcome outcome;
	enum sight sight;
	int is_tunnel;

	sight = look(START(ctx), END(ctx), ETH_HLEN, 0, &v);
	is_tunnel = c && c->port && sight != SIGHT_OTHER && v.udp->dest == c->port && !(v.eth->h_dest[0] & 1);
	f.ifindex = ctx->ingress_ifindex;
	f.segments = 1;
	f.bytes = END(ctx) - START(ctx);
	count_in(&f, is_tunnel);
	if (!is_tunnel)
		return XDP_PASS;
	f.payload_bytes = payload_of(&v);
	header = sight == SIGHT_UDP ? header_of(&v, END(ctx)) : 0;
	body = header ? (void *)(header + 1) : 0;
	if (body && (void *)(body + 1) > END(ctx))
		body = 0;
	a.count = 1;
	if (header) {
		a.first = a.last = from_be32(header->link_sequence);
		a.send_time_us = from_be32(header->send_time_us);
	}
	outcome = judge(ctx, &v, &f, &a, header, body);
	if (outcome == OUTCOME_REFLECT)
		return reflect_xdp(&v, &f, header, body);
	return outcome == OUTCOME_DROP ? XDP_DROP : XDP_PASS;
}
