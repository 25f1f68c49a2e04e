/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Limits of an owner and of what is said to it. */
#ifndef KELPIE_SUPERVISE_SUPERVISE_LIMITS_H
#define KELPIE_SUPERVISE_SUPERVISE_LIMITS_H

#define CONTROL_MESSAGE_SIZE_MAX 8388608 /* bytes of JSON: a config with all its secrets */
#define CONTROL_FD_COUNT_MAX 4           /* that came and were not yet announced */
#define CONTROL_CHANNEL_FD 3             /* what an owner is started with */

#define SUPERVISE_CONNECTION_COUNT_MAX 64
#define SUPERVISE_REQUEST_COUNT_MAX 16 /* under way on one connection */
#define SUPERVISE_SEND_MS 1000         /* an answer; who takes longer to read it is dropped */
#define SUPERVISE_TELL_MS 200          /* what was not asked for */
#define SUPERVISE_GREET_MS 10000       /* until a new connection has said what it wants */
#define SUPERVISE_TICK_MS 500          /* between two looks at clocks and connections that ended */
#define SUPERVISE_PAUSE_MS 20          /* after a connection that could not be taken */
#define SUPERVISE_CANCEL_MS 10         /* between two cancels of the watcher at the end */
#define SUPERVISE_WATCH_MS 3600000     /* of one wait for the VM's state to change */
#define SUPERVISE_GONE_MS                                                                          \
    1000 /* that who stopped a VM may still ask about it before it is removed */
#define SUPERVISE_READ_MS                                                                          \
    10000 /* that who is attached to a command which ends its VM has to read to the end */
#define SUPERVISE_FORK_THREAD_COUNT_MAX 4

#endif
