/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * maps.c - every map, and what all programs use.
 *
 * Room: part of sdwan.c. Keys and values are described in abi.h; who writes what, in README.md.
 */

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
