/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * links.c - the entry functions of links: count what leaves, judge what arrives.
 *
 * Room: part of sdwan.c. TC passes with TC_ACT_UNSPEC, so that filters of other makers behind ours see
 * every packet. The _l3 variants serve links whose frames have no Ethernet header.
 */

/* ---- Leaving ------------------------------------------------------------------------------------ */

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

/* ---- Arriving, TC ------------------------------------------------------------------------------- */

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
static __always_inline u32 frame_bytes(struct __sk_buff *skb, enum sight sight, const struct view *v,
				       u32 link_bytes)
{
	u32 headers = sight == SIGHT_UDP ? v->udp_offset + UDP_BYTES
					 : tcp_headers(START(skb), END(skb), link_bytes, skb->protocol);

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
	is_tunnel = c && c->port && sight != SIGHT_OTHER && v.udp->dest == c->port &&
		    skb->pkt_type == 0 /* PACKET_HOST */;
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

/* ---- Arriving, XDP ------------------------------------------------------------------------------ */

static __always_inline int reflect_xdp(struct view *v, const struct frame *f, struct sdwan_header *header,
				       struct sdwan_probe *body)
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
