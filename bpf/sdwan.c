/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * sdwan.c - the one translation unit.
 *
 *   sdwan_steer        TC egress of the entry device   chooses the path, rewrites, stamps, redirects
 *   sdwan_count        TC egress of a link             counts, changes nothing
 *   sdwan_account      TC ingress of a link            counts, measures, drops what is hostile to the
 *   sdwan_account_xdp  XDP of a link                   tunnel, answers probes; other traffic passes
 *   ..._l3             the same for links without Ethernet header (PPP, raw-IP modems, TUN)
 *
 * Judgements stand in the pure headers, which know no maps and no helpers. Map lookups stand in the .c
 * files included below, which sdwan/io/bpf.py joins into one text first, because BCC translates lookups
 * of the main file only. It compiles with -DSDWAN_PEERS_MAX=n and, where the maps are pinned already,
 * -DSDWAN_PINS="directory": then they are adopted instead of created, and nothing counted is lost.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"
#include "account.h"
#include "parse.h"
#include "rewrite.h"
#include "steer.h"

#include "maps.c"

#include "send.c"

#include "judge.c"

#include "links.c"
