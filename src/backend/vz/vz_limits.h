/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_VZ_VZ_LIMITS_H
#define KELPIE_BACKEND_VZ_VZ_LIMITS_H

#define VZ_IDENTIFIER_SIZE_MAX 512 /* bytes, of a machine's identifier as text */
#define VZ_COMMAND_LINE_SIZE_MAX 2048
#define VZ_TEXT_SIZE 256
#if !defined(VZ_END_TIMEOUT_MS) /* a test does not wait so long */
#define VZ_END_TIMEOUT_MS 5000  /* from stopping a machine to its end */
#endif

#endif
