/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_SIM_LIMITS_H
#define KELPIE_SIM_SIM_LIMITS_H

#if defined(__SANITIZE_ADDRESS__)
#define SIM_WITH_SANITIZER 1 /* gcc's */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_WITH_SANITIZER 1 /* clang's */
#endif
#endif

#if defined(SIM_WITH_SANITIZER)
#define SIM_STACK_SIZE (1024u * 1024u) /* its frames are larger */
#else
#define SIM_STACK_SIZE (256u * 1024u)
#endif
#define SIM_STACK_CACHE_COUNT_MAX 64 /* stacks kept for the next fiber */

#define SIM_MACHINE_COUNT_MAX 8
#define SIM_FD_COUNT_MAX 1024 /* descriptors of one process */
#define SIM_FIBER_COUNT_MAX 4096
#define SIM_NAME_SIZE_MAX 31
#define SIM_PROGRAM_SIZE_MAX 255 /* bytes of a path or name of a program */
#define SIM_REASON_SIZE_MAX 511

#define SIM_STREAM_CAPACITY_MIN 16384u /* bytes under way in one direction, at least */
#define SIM_STREAM_CAPACITY_MAX 212992u
#define SIM_STREAM_FD_COUNT_MAX 64      /* descriptors under way in one direction */
#define SIM_STREAM_SEGMENT_COUNT_MAX 64 /* pieces of different delay under way */
#define SIM_BACKLOG_COUNT_MAX 64        /* connections not yet accepted */

#define SIM_EVENT_NS_MAX 2048u         /* that one event takes; a power of two */
#define SIM_STEP_NS 50000000ull        /* between two looks at what happens to a world by itself */
#define SIM_DELAY_NS_MAX 2000000000ull /* of bytes */
#define SIM_STARVE_NS_MAX 300000000ull /* of a thread */
#define SIM_SLOW_START_NS_MAX 5000000000ull
#define SIM_CUT_NS_MAX 20000000000ull /* of a network */
#define SIM_CLOCK_JUMP_NS_MAX 86400000000000ull
#define SIM_SKEW_PPM_MAX 10000

#define SIM_EVENT_COUNT_DEFAULT 20000000ull /* of a run, before it is given up */

#endif
