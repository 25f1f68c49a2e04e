/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * file.h: files in and out. A path is resolved inside the root that commands see, symbolic links
 * included. A file that comes in is written beside its place under a temporary name and renamed when all of it is
 * there, so that nobody sees half of it.
 */
#ifndef KELPIE_GUEST_FILE_H
#define KELPIE_GUEST_FILE_H

#include "session.h"

/* FILE_PUT: opens the temporary file; takes bytes (an error is kept: the session fails); puts it in place. */
void file_put_open(struct agent *agent, uint32_t id, const struct protocol_file_put *put);
void file_put_write(struct session *session, const struct protocol_data *data);

/* FILE_GET: opens it; fills the sender's ring as far as there is room. */
void file_get_open(struct agent *agent, uint32_t id, const struct protocol_file_get *get);
void file_get_fill(struct agent *agent, struct session *session);

/* Closes what is open, and removes a temporary file that was not put in place. */
void file_close(struct session *session);

/* Opens a path as if `root_fd` were "/": flags as for open(2). Returns -1 and errno. */
int file_open_in_root(int root_fd, const char *path, int flags);

#endif
