/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * types.h - integers with a byte order, for both compilers.
 *
 * Room: included first by every other header. BCC brings u8..u64 along (sdwan/io/headers.py); with the
 * host's compiler, which builds the pure headers for unit tests, they are defined here. Nothing else
 * may differ between the two.
 */
#ifndef SDWAN_TYPES_H
#define SDWAN_TYPES_H

#ifndef __KERNEL__
#include <linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#endif

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SWAP_BE16(x) __builtin_bswap16(x)
#define SWAP_BE32(x) __builtin_bswap32(x)
#define SWAP_BE64(x) __builtin_bswap64(x)
#else
#define SWAP_BE16(x) (x)
#define SWAP_BE32(x) (x)
#define SWAP_BE64(x) (x)
#endif

static __always_inline __be16 to_be16(u16 x)
{
	return (__be16)SWAP_BE16(x);
}
static __always_inline __be32 to_be32(u32 x)
{
	return (__be32)SWAP_BE32(x);
}
static __always_inline __be64 to_be64(u64 x)
{
	return (__be64)SWAP_BE64(x);
}
static __always_inline u16 from_be16(__be16 x)
{
	return SWAP_BE16((u16)x);
}
static __always_inline u32 from_be32(__be32 x)
{
	return SWAP_BE32((u32)x);
}
static __always_inline u64 from_be64(__be64 x)
{
	return SWAP_BE64((u64)x);
}

/* Loops over the eight paths are unrolled: the verifier of older kernels wants it, and it is faster. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

#endif
