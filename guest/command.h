/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* command.h: the part of a session that runs a command: its start, its signals, its end. */
#ifndef KELPIE_GUEST_COMMAND_H
#define KELPIE_GUEST_COMMAND_H

#include "session.h"

/* Kills everything that the session started. */
void command_kill(struct session *session);

/* The main process and both streams have ended: so has the session. */
void command_settle(struct agent *agent, struct session *session);

#endif
