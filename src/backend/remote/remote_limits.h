/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Limits of the backend remote. */
#ifndef KELPIE_BACKEND_REMOTE_REMOTE_LIMITS_H
#define KELPIE_BACKEND_REMOTE_REMOTE_LIMITS_H

#define REMOTE_GREET_MS                                                                            \
    15000 /* until an owner has answered a greeting: it has then checked a config */
#define REMOTE_OPEN_MS 10000       /* of all tries to reach an owner that is just coming or going */
#define REMOTE_OPEN_PERIOD_MS 10   /* between two of them */
#define REMOTE_SEND_MS 5000        /* until an owner has taken a request */
#define REMOTE_END_MS 15000        /* until an owner that was told to end has ended */
#define REMOTE_CANCEL_MS 2000      /* until it has answered a request that was cancelled */
#define REMOTE_CANCEL_PERIOD_MS 20 /* how often a request looks whether it is cancelled */

#endif
