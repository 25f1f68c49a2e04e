/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_KRUN_KRUN_LIMITS_H
#define KELPIE_KRUN_KRUN_LIMITS_H

#define KRUN_LINE_SIZE_MAX 9216 /* a message, with its newline: two paths and more */
#define KRUN_VERSION_SIZE_MAX 31
#define KRUN_TEXT_SIZE_MAX                                                                         \
    900 /* of a failure: it fits into an error's message with what is before it */
#define KRUN_COMMAND_LINE_SIZE_MAX 2048
#define KRUN_ARGV_COUNT 11
#define KRUN_KERNEL_SIZE_MAX 268435456ull /* bytes: of a kernel that libkrunfw has */
#define KRUN_ERROR_TEXT_SIZE 512
#define KRUN_FD_COUNT_MAX 1024 /* of its process, when the machine runs; 1.19 has about 60 */

#endif
