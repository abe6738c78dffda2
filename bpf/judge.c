/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * judge.c - what becomes of a datagram that came to our port.
 *
 * Room: part of sdwan.c. TC ingress and XDP both ask `judge`, after they found the tunnel header. A
 * validated endpoint (the remote of a path of the peer that owns the receiver index) is measured and
 * passes; a stranger passes within limits, since it may be a peer that moved; what nobody could use is
 * dropped under a reason. Packets that only cross this machine are never dropped.
 */

/* One skb or XDP frame of a link. */
struct frame {
	u32 ifindex;
	u32 segments;
	u32 bytes;         /* on the wire, all segments */
	u32 payload_bytes; /* UDP payload of one segment */
};

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
static __always_inline enum outcome judge(void *ctx, const struct view *v, const struct frame *f,
					  const struct arrival *a, const struct sdwan_header *h,
					  const struct sdwan_probe *body)
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
