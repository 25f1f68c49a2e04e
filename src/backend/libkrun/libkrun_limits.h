/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_LIMITS_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_LIMITS_H

#define LIBKRUN_PROBE_TIMEOUT_MS 10000 /* to load it and to say what it is */
#define LIBKRUN_ANSWERS_OWED_MAX 16    /* late answers that are still awaited */
#define LIBKRUN_LINE_COUNT_MAX 64      /* lines that are read for one answer */

#define LIBKRUN_INSTALL_HINT                                                                       \
    "install libkrun 1.17 or later and libkrunfw 5 (Fedora: dnf install libkrun; else from their " \
    "sources), or set KELPIE_LIBKRUN and KELPIE_KRUNFW to their paths"

#endif
