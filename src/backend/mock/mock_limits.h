/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_MOCK_MOCK_LIMITS_H
#define KELPIE_BACKEND_MOCK_MOCK_LIMITS_H

#include "protocol/protocol_limits.h"

#define MOCK_FILE_COUNT_MAX 1024
#define MOCK_FILE_BYTES_MAX 67108864ull /* the content of all files together */
#define MOCK_PATH_SIZE_MAX PROTOCOL_PATH_SIZE_MAX
#define MOCK_NAME_SIZE_MAX 255   /* bytes of one part of a path, as on Linux */
#define MOCK_PROCESS_COUNT_MAX 8 /* of one session */
#define MOCK_OUTPUT_SIZE 65536   /* of each output stream, until it is acknowledged */
#define MOCK_STDIN_SIZE (2 * PROTOCOL_WINDOW_SIZE) /* see mock_session.h, input_debt */
#define MOCK_BYTES_SIZE_MAX 134217728              /* of any growing buffer */
#define MOCK_ARGUMENT_SIZE_MAX 131071 /* Linux's MAX_ARG_STRLEN without the zero: else E2BIG */
#define MOCK_CHUNK_SIZE 16384         /* bytes that a program makes in one step */
#define MOCK_STEP_COUNT_MAX 256       /* steps of one session before the others have a turn */
#define MOCK_SHELL_DEPTH_MAX 16       /* if and while inside each other */
#define MOCK_SCRIPT_SIZE_MAX 1048576
#define MOCK_PRINT_SIZE_MAX 8192                /* one formatted message */
#define MOCK_TTY_LINE_SIZE_MAX 4096             /* as Linux's N_TTY_BUF_SIZE */
#define MOCK_SEND_SIZE 262144                   /* frames on their way to the host */
#define MOCK_SEND_RESERVE_SIZE 8192             /* kept free for the answers to one frame */
#define MOCK_STATE_SIZE_MAX MOCK_BYTES_SIZE_MAX /* of a bundle's state part */
#define MOCK_RECORD_COUNT_MAX 4096              /* in a bundle's state part */
#define MOCK_RLIMIT_NOFILE_DEFAULT 1024
#define MOCK_CONSOLE_SIZE 1024

#endif
