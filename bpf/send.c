/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * send.c - sdwan_steer: which path a burst takes, and what it looks like on the way out.
 *
 * Room: part of sdwan.c. In comes what a marked socket sent to a peer's virtual address; it leaves over
 * a link of one of the peer's paths, rewritten and stamped, or ends here under a reason that is counted.
 * Nothing else may leave the entry device: TC_ACT_OK is never returned.
 */

/* ---- Which path --------------------------------------------------------------------------------- */

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
	b->packet_bytes =
		skb->gso_size ? skb->gso_size + v.udp_offset + UDP_BYTES - ETH_HLEN : skb->len - ETH_HLEN;
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

/* ---- Rewrite and go ----------------------------------------------------------------------------- */

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
static __always_inline int rewrite(struct __sk_buff *skb, const struct burst *b, const struct path *p,
				   struct stamp *s)
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
	if (bpf_l4_csum_replace(skb, check_offset, 0, fold32(d.addresses),
				BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
		return -1;
	return bpf_l4_csum_replace(skb, check_offset, 0, fold32(d.rest), BPF_F_MARK_MANGLED_0);
}

/* What a burst met on its path. */
struct queued {
	u32 backlog_us;
	u32 idle_us;
};

/* queue_up - count a burst into the path's virtual queue, if its rate is known */
static __always_inline void queue_up(u32 key, const struct burst *b, const struct weights *w, u32 path,
				     u64 now_ns, struct queued *q)
{
	struct busy_state *state = busy.lookup(&key);
	u64 burst_ns = sending_ns(w, path, b->wire_bytes);

	if (!state)
		return;
	if (burst_ns)
		q->backlog_us = whole_us(occupy(state, burst_ns, now_ns));
	q->idle_us = state->idle_ns / 1000;
}

/* tell - write into the ring what was chosen; the number goes in last and makes the record valid */
static __always_inline void tell(const struct burst *b, const struct stamp *s, const struct queued *q,
				 u64 now_ns)
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
	record->backlog_us = q->backlog_us;
	record->idle_us = q->idle_us;
	record->peer = b->peer;
	record->segments = b->segments;
	record->path = s->path;
	record->type = b->type;
	record->class = b->class_flags & SDWAN_CLASS_MASK;
	*(volatile u32 *)&record->number = index + 1;
}

static __always_inline void note_sent(const struct burst *b, const struct weights *w, const struct stamp *s,
				      u64 now_ns)
{
	u32 key = b->peer * SDWAN_PATHS_PER_PEER + s->path;
	struct tx_stats *stats = tx_stats.lookup(&key);
	struct queued q = {};

	if (stats) {
		stats->bursts++;
		stats->datagrams += b->segments;
		stats->bytes += b->wire_bytes;
	}
	queue_up(key, b, w, s->path, now_ns, &q);
	tell(b, s, &q, now_ns);
}

/* dispatch - send the burst over one path, which the caller found fit */
static __always_inline int dispatch(struct __sk_buff *skb, const struct burst *b, const struct weights *w,
				    u32 number)
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
	stamp.sequence =
		__sync_fetch_and_add(&state->next_sequence, type_is_numbered(b->type) ? b->segments : 0);
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
