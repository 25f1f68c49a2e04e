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

/* Closes what is open, and removes a temporary file that was not put in place. fds: of the file alone, not of its tree. */
void file_close(struct session *session);
void file_fds_close(struct session *session);

/* A fresh file in the session's folder, under a name of its own; bytes of it; its place, mode and name, when it has its size. */
KELPIE_CHECKED enum kelpie_status file_temp_create(struct session *session,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status file_temp_write(struct session *session, const uint8_t *bytes,
                                                  size_t size, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status file_temp_commit(struct session *session,
                                                   struct kelpie_error *err);

/* Opens a relative name, following no link, as open(2) does with `folder_fd` as the current folder. Returns -1 and errno. */
int file_open_below(int folder_fd, const char *name, int flags);

/* The same, but a link anywhere in it is an error (ELOOP). */
int file_open_plain(int root_fd, const char *path, int flags);

/* Opens a path as if `root_fd` were "/": flags as for open(2). Returns -1 and errno. */
int file_open_in_root(int root_fd, const char *path, int flags);

#endif
