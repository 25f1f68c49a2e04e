/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "base/checked.h"
#include "tree.h"

/* Linux, include/uapi/linux/openat2.h. */
#define RESOLVE_IN_ROOT_FLAG 0x10ull
#define RESOLVE_BENEATH_FLAG 0x08ull
#define RESOLVE_NO_SYMLINKS_FLAG 0x04ull
struct openat2_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};

static int open_resolved(int root_fd, const char *path, int flags, uint64_t resolve) {
    ASSERT(root_fd >= 0);
    ASSERT(path);
    struct openat2_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = (flags & O_CREAT) != 0 ? 0644 : 0,
        .resolve = resolve,
    };
    return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
}

int file_open_in_root(int root_fd, const char *path, int flags) {
    return open_resolved(root_fd, path, flags, RESOLVE_IN_ROOT_FLAG);
}

int file_open_plain(int root_fd, const char *path, int flags) {
    ASSERT(path[0] == '/');
    ASSERT((flags & O_CREAT) == 0);
    return open_resolved(root_fd, path, flags, RESOLVE_IN_ROOT_FLAG | RESOLVE_NO_SYMLINKS_FLAG);
}

int file_open_below(int folder_fd, const char *name, int flags) {
    return open_resolved(folder_fd, name, flags, RESOLVE_BENEATH_FLAG | RESOLVE_NO_SYMLINKS_FLAG);
}

/* ---- In ----------------------------------------------------------------------------------------- */

/* A fresh file beside the target, with a name that nobody else uses. */
enum kelpie_status file_temp_create(struct session *session, struct kelpie_error *err) {
    ASSERT(session->dir_fd >= 0);
    ASSERT(session->file_fd == -1);
    for (uint32_t i = 0; i < GUEST_TEMP_TRY_COUNT_MAX; i++) {
        uint32_t number = 0;
        if (getrandom(&number, sizeof(number), GRND_NONBLOCK) != sizeof(number)) {
            number = session->id + i;
        }
        snprintf(session->temp_name, sizeof(session->temp_name), ".kelpie-%08x", number);
        session->file_fd = openat(session->dir_fd, session->temp_name,
                                  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (session->file_fd >= 0) {
            return KELPIE_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    session->temp_name[0] = 0;
    return error_set_os(err, errno, "make a file beside %.100s", session->file_name);
}

static enum kelpie_status put_prepare(struct agent *agent, struct session *session,
                                      const struct protocol_file_put *put,
                                      struct kelpie_error *err) {
    ASSERT(put->path[0] == '/');
    const char *name = strrchr(put->path, '/') + 1;
    size_t dir_size = (size_t)(name - put->path);
    ASSERT(dir_size <= PROTOCOL_PATH_SIZE_MAX);
    if (name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return error_set_os(err, EISDIR, "write %.100s", put->path);
    }
    if (strlen(name) > NAME_MAX) {
        return error_set_os(err, ENAMETOOLONG, "write %.100s", put->path);
    }
    char dir[PROTOCOL_PATH_SIZE_MAX + 1];
    memcpy(dir, put->path, dir_size);
    dir[dir_size] = 0;
    memcpy(session->file_name, name, strlen(name) + 1);
    session->dir_fd = file_open_in_root(agent->root_fd, dir, O_PATH | O_DIRECTORY);
    if (session->dir_fd < 0) {
        return error_set_os(err, errno, "open the folder %.100s", dir);
    }
    struct stat info;
    if (fstatat(session->dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode)) {
        return error_set_os(err, EISDIR, "write %.100s", put->path);
    }
    return file_temp_create(session, err);
}

void file_put_open(struct agent *agent, uint32_t id, const struct protocol_file_put *put) {
    ASSERT(put->path);
    struct session *session = session_open(agent, id, SESSION_FILE_PUT);
    if (!session) {
        return;
    }
    ASSERT(session->kind == SESSION_FILE_PUT);
    session->file_mode = put->mode;
    session->file_size = put->size;
    struct kelpie_error err;
    enum kelpie_status status = put->mode & PROTOCOL_MODE_FOLDER
                                    ? tree_put_prepare(agent, session, put, &err)
                                    : put_prepare(agent, session, put, &err);
    if (status != KELPIE_OK) {
        session_fail(session, &err);
    }
}

enum kelpie_status file_temp_write(struct session *session, const uint8_t *bytes, size_t size,
                                   struct kelpie_error *err) {
    ASSERT(session->file_fd >= 0);
    ASSERT(session->file_done <= session->file_size);
    if (size > session->file_size - session->file_done) {
        return error_set_os(err, EFBIG, "write %.100s: more came than was said",
                            session->file_name);
    }
    size_t done = 0;
    while (done < size) {
        ssize_t count = write(session->file_fd, bytes + done, size - done);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return error_set_os(err, count < 0 ? errno : EIO, "write %.100s", session->file_name);
        }
        done += (size_t)count;
    }
    session->file_done += done;
    return KELPIE_OK;
}

enum kelpie_status file_temp_commit(struct session *session, struct kelpie_error *err) {
    ASSERT(session->file_fd >= 0);
    ASSERT(session->temp_name[0] != 0);
    if (session->file_done != session->file_size) {
        return error_set_os(err, EIO, "write %.100s: less came than was said", session->file_name);
    }
    if (fchmod(session->file_fd, session->file_mode) != 0) {
        return error_set_os(err, errno, "set the mode of %.100s", session->file_name);
    }
    if (renameat(session->dir_fd, session->temp_name, session->dir_fd, session->file_name) != 0) {
        return error_set_os(err, errno, "put %.100s in its place", session->file_name);
    }
    session->temp_name[0] = 0;
    return KELPIE_OK;
}

void file_put_write(struct session *session, const struct protocol_data *data) {
    ASSERT(session->kind == SESSION_FILE_PUT);
    ASSERT(data->size <= PROTOCOL_DATA_SIZE_MAX);
    if (session->over) {
        return; /* it failed before: what still comes is dropped */
    }
    struct kelpie_error err;
    bool is_last = (data->flags & PROTOCOL_DATA_END) != 0;
    enum kelpie_status status = session->tree
                                    ? tree_put_bytes(session, data, &err)
                                    : file_temp_write(session, data->bytes, data->size, &err);
    if (status == KELPIE_OK && is_last && !session->tree) {
        status = file_temp_commit(session, &err);
    }
    if (status != KELPIE_OK) {
        session_fail(session, &err);
        return;
    }
    if (is_last) {
        file_close(session);
        session->over = true;
    }
}

/* ---- Out ---------------------------------------------------------------------------------------- */

static enum kelpie_status get_prepare(struct agent *agent, struct session *session,
                                      const struct protocol_file_get *get,
                                      struct kelpie_error *err) {
    ASSERT(session->file_fd == -1);
    ASSERT(get->path[0] == '/');
    const int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY;
    session->file_fd = session->exact ? file_open_plain(agent->root_fd, get->path, flags)
                                      : file_open_in_root(agent->root_fd, get->path, flags);
    if (session->file_fd < 0) {
        return error_set_os(err, errno, "open %.100s", get->path);
    }
    struct stat info;
    if (fstat(session->file_fd, &info) != 0) {
        return error_set_os(err, errno, "look at %.100s", get->path);
    }
    if (S_ISDIR(info.st_mode)) {
        session->started.mode = (info.st_mode & 07777) | PROTOCOL_MODE_FOLDER;
        int folder_fd = session->file_fd;
        session->file_fd = -1;
        return tree_get_prepare(session, folder_fd, err);
    }
    if (!S_ISREG(info.st_mode)) {
        return error_set_os(err, EINVAL, "read %.100s: it is no regular file", get->path);
    }
    session->started.mode = info.st_mode & 07777;
    session->started.size = (uint64_t)info.st_size;
    session->file_size = (uint64_t)info.st_size;
    return KELPIE_OK;
}

void file_get_open(struct agent *agent, uint32_t id, const struct protocol_file_get *get) {
    ASSERT(get->path);
    struct session *session = session_open(agent, id, SESSION_FILE_GET);
    if (!session) {
        return;
    }
    ASSERT(session->kind == SESSION_FILE_GET);
    protocol_sender_end(&session->outputs[1].sender);
    struct kelpie_error err;
    if (get_prepare(agent, session, get, &err) != KELPIE_OK) {
        session_fail(session, &err);
    }
}

/* The next piece of the file. *ret_done: there is none any more, or no room. */
static enum kelpie_status get_piece(struct agent *agent, struct session *session, bool *ret_done,
                                    struct kelpie_error *err) {
    struct protocol_sender *sender = &session->outputs[0].sender;
    ASSERT(session->file_done <= session->file_size);
    ASSERT(ret_done);
    size_t room = min_size(protocol_sender_room(sender), sizeof(agent->scratch));
    size_t wanted = (size_t)min_u64(room, session->file_size - session->file_done);
    if (wanted == 0) {
        *ret_done = true;
        return KELPIE_OK;
    }
    ssize_t count = read(session->file_fd, agent->scratch, wanted);
    if (count < 0 && errno == EINTR) {
        return KELPIE_OK;
    }
    if (count <= 0) {
        return error_set_os(err, count < 0 ? errno : EIO, "read the file%s",
                            count < 0 ? "" : ": it became shorter meanwhile");
    }
    (void)protocol_sender_write(sender, agent->scratch, (size_t)count);
    session->file_done += (size_t)count;
    return KELPIE_OK;
}

void file_get_fill(struct agent *agent, struct session *session) {
    ASSERT(session->kind == SESSION_FILE_GET);
    ASSERT(!session->over);
    struct kelpie_error err;
    enum kelpie_status status = KELPIE_OK;
    bool whole = false;
    if (session->tree) {
        status = tree_get_fill(agent, session, &whole, &err);
    } else {
        for (bool done = false; status == KELPIE_OK && !done;) {
            status = get_piece(agent, session, &done, &err);
        }
        whole = session->file_done == session->file_size;
    }
    if (status != KELPIE_OK) {
        session_fail(session, &err);
    } else if (whole) {
        protocol_sender_end(&session->outputs[0].sender);
        file_close(session);
        session->over = true;
    }
}

void file_close(struct session *session) {
    tree_close(session);
    file_fds_close(session);
    ASSERT(!session->tree);
    ASSERT(session->file_fd == -1);
}

void file_fds_close(struct session *session) {
    ASSERT(session->temp_name[0] == 0 || session->dir_fd >= 0);
    if (session->temp_name[0] != 0) {
        (void)unlinkat(session->dir_fd, session->temp_name, 0); /* all that can be done about it */
        session->temp_name[0] = 0;
    }
    if (session->file_fd >= 0) {
        close(session->file_fd);
        session->file_fd = -1;
    }
    if (session->dir_fd >= 0) {
        close(session->dir_fd);
        session->dir_fd = -1;
    }
    ASSERT(session->file_fd == -1);
}
