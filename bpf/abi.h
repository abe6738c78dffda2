/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * abi.h - the wire header and every map's key and value.
 *
 * Room: types and constants only; included by sdwan.c (through BCC), by the other pure headers and,
 * with the host's compiler, by tests. User space takes these layouts from BCC or BTF and keeps no
 * copies (sdwan/io/bpf.py writes them out once at attach time for processes that do not load BCC).
 *
 * Byte order is in the type: __beNN is network order, uNN is host order.
 */
#ifndef SDWAN_ABI_H
#define SDWAN_ABI_H

#include "types.h"

#define SDWAN_SCHEMA 2 /* goes up when a map's layout changes; also in the pin path */

/* ---- Specification constants (docs/wire.md) ------------------------------------------------- */

#define SDWAN_WIRE_VERSION 1
#define SDWAN_HEADER_BYTES 24
#define SDWAN_TAG_BYTES 16
#define SDWAN_PATHS_PER_PEER 8
#define SDWAN_CLASSES 8

#define SDWAN_PATH_CHOOSE 0xff /* path byte on the way into the entry device: kernel chooses */
#define SDWAN_PATH_PIN 0x80    /* ... or PIN | n: this path and no other */

#define SDWAN_CLASS_MASK 0x07
#define SDWAN_FLAG_DUPLICATE 0x20 /* byte 2: a copy on every path with a weight */

enum sdwan_type {
	SDWAN_TYPE_SUPER = 0x01,     /* sealed: one segment of a TSO/USO super-packet */
	SDWAN_TYPE_SINGLE = 0x02,    /* sealed: one whole packet */
	SDWAN_TYPE_CONTAINER = 0x03, /* sealed: several small packets */
	SDWAN_TYPE_BUNDLE = 0x04,    /* sealed: equal UDP packets of one flow */
	SDWAN_TYPE_REPAIR = 0x05,    /* sealed: redundancy over other sealed datagrams */
	SDWAN_TYPE_CONTROL = 0x20,   /* sealed: report, keepalive, challenge, ... */
	SDWAN_TYPE_PROBE = 0x10,     /* plain: reflected by the receiving kernel */
	SDWAN_TYPE_PROBE_REPLY = 0x11,
	SDWAN_TYPE_INIT = 0x30, /* Noise handshake */
	SDWAN_TYPE_RESPONSE = 0x31,
	SDWAN_TYPE_COOKIE = 0x32,
};

/* 24 bytes before the ciphertext. Naturally aligned and NOT packed: packed turns every access into
 * single bytes and costs a fifth of the GSO rate. Bytes 4..15 are the nonce. */
struct sdwan_header {
	u8 version;
	u8 path; /* kernel: the path taken */
	u8 class_flags;
	u8 reserved;
	__be32 receiver; /* index chosen by the receiver */
	u8 type;
	u8 index;    /* of this segment in its super-packet */
	u8 segments; /* in the super-packet */
	u8 template_words;
	__be32 counter;
	__be32 link_sequence; /* kernel */
	__be32 send_time_us;  /* kernel, CLOCK_MONOTONIC of the sender, wraps */
};
_Static_assert(sizeof(struct sdwan_header) == SDWAN_HEADER_BYTES, "wire header");

/* Behind the header of PROBE and PROBE_REPLY. In both, `index` and `segments` of the header hold the
 * requester's own number of the peer (high and low byte), put there by the requester's kernel on the
 * way out: the reply names the receiver of the other end, which tells the requester nothing. */
struct sdwan_probe {
	__be64 token;           /* random, chosen by the requester */
	__be32 echo_time_us;    /* reply: send_time_us of the request */
	__be32 reflect_time_us; /* reply: the reflector's clock */
};
_Static_assert(sizeof(struct sdwan_probe) == 16, "probe body");

/* Virtual peer addresses, routed into the entry device; the low 16 bits are the peer number. */
#define SDWAN_ENTRY_NET4 0xc6120000      /* 198.18.0.0/16 (RFC 2544 range, never routed); we are 198.19.0.1 */
#define SDWAN_ENTRY_NET6_HIGH 0xfd5d8a3e /* fd5d:8a3e:77c1::/64; peer p is fd5d:8a3e:77c1::p, ... */
#define SDWAN_ENTRY_NET6_LOW 0x77c10000  /* ... we are fd5d:8a3e:77c1:1::1 */

/* ---- Implementation constants --------------------------------------------------------------- */

#define SDWAN_LINKS_MAX 64       /* interfaces one machine may attach */
#define SDWAN_RECEIVERS_MAX 4096 /* live receiver indices: a few epochs per peer */
#define SDWAN_SOURCES_MAX 4096   /* LRU of unvalidated source addresses */
#define SDWAN_RING_RECORDS 8192  /* tx_ring; 1 s at 8,192 bursts a second */
#define SDWAN_PROBE_SLOTS 8      /* outstanding probes per path */
#ifndef SDWAN_PEERS_MAX
#define SDWAN_PEERS_MAX 256 /* from the configuration: -DSDWAN_PEERS_MAX=n */
#endif

/* TTL of probes and replies. GRO joins datagrams of one flow only if their TTL is the same, and a
 * probe joined to the tail of user data would escape the reflector. */
#define SDWAN_PROBE_TTL 63

#define SDWAN_SEQUENCE_JUMP_MAX 65536 /* a link sequence further away is suspect */
#define SDWAN_RESYNC_RUN 64           /* ... unless this many in a row agree: the peer started anew */
#define SDWAN_HANDSHAKE_PRICE 8 /* tokens: one handshake costs the responder ~0.2 ms of Diffie-Hellman */

#define SDWAN_STRIDE_ONE 1024u         /* `inverse` of the path with the largest weight */
#define SDWAN_STRIDE_MAX (1024u << 10) /* ... and of one with a thousandth of it */

#define SDWAN_DROP_REASONS 32
/* The same numbers as sdwan.model.DropReason. */
enum drop_reason {
	DROP_MALFORMED = 1,
	DROP_UNKNOWN_RECEIVER = 2,
	DROP_FLOOD_SOURCE = 3,
	DROP_FLOOD_GLOBAL = 4,
	DROP_PROBE_LIMIT = 5,
	DROP_PROBE_STALE = 6,
	DROP_UNMARKED = 8,
	DROP_NOT_TUNNEL = 9,
	DROP_LOOP = 10,
	DROP_NO_PATH = 11,
	DROP_MTU_EXCEEDED = 12,
	DROP_PIN_INVALID = 13,
	DROP_REWRITE_FAILED = 14,
};

enum steer_mode { STEER_STRIDE = 0, STEER_EARLIEST = 1, STEER_PIN = 2, STEER_DUPLICATE = 3 };

#define PATH_FLAG_UP 1   /* local link has carrier and an address; cleared by netlink watcher */
#define PATH_FLAG_IPV6 2 /* outer IPv6: source6/remote6 count, else source4/remote4 */

/* cfg[0], mmapable */
struct sdwan_config {
	u32 schema;
	u32 bank; /* which half of `weights` readers use: flip after writing the other */
	u32 mark; /* SO_MARK a socket needs to be steered; 0 = steering is off */
	u32 peers_max;
	__be16 port; /* our UDP port, 0 = no tunnel: count only */
	u16 pad;
	u32 probe_rate;  /* probes reflected per second for one unvalidated source; 0 = none */
	u32 source_rate; /* datagrams passed per second from one unvalidated source; 0 = none */
	u32 global_rate; /* ... and from all of them together */
};
_Static_assert(sizeof(struct sdwan_config) == 32, "abi");

/* paths[peer * 8 + path], mmapable: wanted. Written by the control process only. Host-wide, 64 bytes. */
struct path {
	u32 ifindex; /* 0 = unused */
	u32 flags;
	u32 mtu; /* largest IP packet this path takes, bytes */
	__be16 source_port;
	__be16 remote_port;
	__be32 source4;
	__be32 remote4;
	__be32 source6[4];
	__be32 remote6[4];
	u32 generation; /* goes up with every write: tells readers an endpoint moved */
	u32 pad;
};
_Static_assert(sizeof(struct path) == 64, "abi");

/* weights[(bank * peers_max + peer) * 8 + class], mmapable: wanted. */
struct weights {
	u32 mode;                             /* enum steer_mode */
	u32 inverse[SDWAN_PATHS_PER_PEER];    /* 1024 * largest weight / weight; 0 = excluded, in all modes */
	u32 ns_per_kib[SDWAN_PATHS_PER_PEER]; /* earliest: time to send 1024 bytes; 0 = not known */
	u32 delay_us[SDWAN_PATHS_PER_PEER];   /* earliest: one-way delay; only differences matter */
	u32 bound_us[SDWAN_PATHS_PER_PEER];   /* earliest: a path with a longer backlog rests; 0 = never */
	u32 pad;
};
_Static_assert(sizeof(struct weights) == 136, "abi");

/* stride[peer * 8 + class], per CPU */
struct stride_state {
	u64 finish[SDWAN_PATHS_PER_PEER];
	u64 virtual_now;
	u64 burst_bytes; /* the longest of late; fades by a 64th of what is sent after it */
};
_Static_assert(sizeof(struct stride_state) == 80, "abi");

/* busy[peer * 8 + path], mmapable: the path's virtual queue, over all classes and modes. Kept while
 * `ns_per_kib` is known; control corrects `until_ns` by what it measures. */
struct busy_state {
	u64 until_ns; /* CLOCK_MONOTONIC when the path will have sent all it was given; 0 = never used */
	u64 idle_ns;  /* time it had nothing to send, ever; counted when the next datagram comes */
};
_Static_assert(sizeof(struct busy_state) == 16, "abi");

/* tx_state[peer * 8 + path], mmapable: survives every restart. */
struct tx_state {
	u64 next_sequence; /* low 32 bits go on the wire */
	u64 last_ns;       /* CLOCK_MONOTONIC of the newest datagram */
};
_Static_assert(sizeof(struct tx_state) == 16, "abi");

/* tx_stats[peer * 8 + path], per CPU */
struct tx_stats {
	u64 bursts; /* skbs */
	u64 datagrams;
	u64 bytes;  /* on the wire, with every segment's headers */
	u64 copies; /* of the datagrams: duplicates made by us */
};
_Static_assert(sizeof(struct tx_stats) == 32, "abi");

/* rx_stats[peer * 8 + path], per CPU: datagrams with a known receiver from the validated endpoint */
struct rx_stats {
	u64 datagrams;
	u64 bytes;
	u64 moved;  /* known receiver, unexpected source: passed up for validation */
	u64 probes; /* requests reflected */
};
_Static_assert(sizeof(struct rx_stats) == 32, "abi");

/* rx_state[peer * 8 + path], mmapable: what the link did to the datagrams of this path. */
struct rx_state {
	u64 next_sequence; /* expected, reconstructed to 64 bits; 0 until the first */
	u64 seen_window;   /* bit i: next_sequence - 1 - i was seen */
	u64 received;
	u64 lost;
	u64 late; /* came after its successor: was counted lost, is not any more */
	u64 duplicate;
	u64 suspect; /* jumps of more than 2^16: ignored */
	u64 last_ns;
	u32 delay_last_us; /* receive clock - send stamp, modulo 2^32: differences between paths are exact */
	u32 delay_min_us;  /* since control last set it to 0xffffffff */
	u32 jitter_us16;   /* RFC 3550, in 1/16 us */
	u32 suspect_next;  /* a suspect run goes on if this comes */
	u32 suspect_run;   /* datagrams in that run */
	u32 pad;
};
_Static_assert(sizeof(struct rx_state) == 88, "abi");

/* probes[peer * 8 + path], mmapable. Control writes `token`, the kernel the rest. */
struct probe_slot {
	u64 token;  /* the number the wire holds in network order; 0 = free */
	u32 rtt_us; /* 0 = no reply yet */
	u32 reflect_time_us;
};
struct probe_state {
	struct probe_slot slot[SDWAN_PROBE_SLOTS]; /* slot = token & 7 */
};
_Static_assert(sizeof(struct probe_state) == 128, "abi");

/* receivers[receiver index, network order] */
struct receiver {
	u32 peer;
	u32 pad;
};

/* sources[address]: token bucket; also sources_global[0] and reflector[address] */
struct source_key {
	__be32 address[4]; /* IPv4: ::ffff:a.b.c.d */
};
struct token_bucket {
	u64 last_ns;
	u64 tokens_ns; /* tokens times their price in ns: refilled by time itself */
};

/* drops[enum drop_reason], per CPU: datagrams (u64) */

/* link_stats[ifindex], per CPU hash: every frame that crosses an attached interface, ours or not, as
 * on the wire: segments counted one by one, bytes with link header and without checksum trailer */
struct link_stats {
	u64 tx_packets, tx_bytes, tx_tunnel_packets, tx_tunnel_bytes;
	u64 rx_packets, rx_bytes, rx_tunnel_packets, rx_tunnel_bytes;
};
_Static_assert(sizeof(struct link_stats) == 64, "abi");

/* tx_ring[number % SDWAN_RING_RECORDS], mmapable, and tx_ring_head[0] (u64, mmapable: records ever
 * written). A record is valid when its `number` equals the low 32 bits of the index read + 1:
 * the writer stores it last. */
struct tx_record {
	u32 number;
	__be32 first_counter;
	u64 time_ns;
	u32 first_sequence; /* low 32 bits of the link sequence */
	u32 size_bytes;     /* on the wire */
	u32 backlog_us;     /* what the path still had to send when this came */
	u32 idle_us;        /* low 32 bits of the path's idle time until then */
	u16 peer;
	u16 segments;
	u8 path;
	u8 type;
	u8 class;
	u8 pad;
};
_Static_assert(sizeof(struct tx_record) == 40, "abi");

#endif
