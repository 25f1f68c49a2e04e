/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "base/checked.h"
#include "file.h"

#define NS_PER_S 1000000000ull

/* Linux, include/uapi/linux/magic.h: what is no folder of files, and may have no end. */
static const long pseudo_types[] = {
    0x9fa0,     /* proc */
    0x62656572, /* sysfs */
    0x63677270, /* cgroup2 */
    0x1cd1,     /* devpts */
};

/* getdents64(2) */
struct dirent64 {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

static enum kelpie_status tree_create(struct session *session, struct kelpie_error *err) {
    ASSERT(!session->tree);
    struct tree *tree =
        mmap(NULL, sizeof(*tree), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tree == MAP_FAILED) {
        return error_set_os(err, errno, "allocate a tree");
    }
    tree->root_fd = -1;
    protocol_tree_reader_init(&tree->reader);
    session->tree = tree;
    return KELPIE_OK;
}

void tree_close(struct session *session) {
    ASSERT(session);
    struct tree *tree = session->tree;
    if (!tree) {
        return;
    }
    ASSERT(tree->depth <= ARRAY_SIZE(tree->levels));
    while (tree->depth > 0) {
        close(tree->levels[--tree->depth].fd);
    }
    if (tree->root_fd >= 0) {
        close(tree->root_fd);
    }
    munmap(tree, sizeof(*tree));
    session->tree = NULL;
}

/* ---- In ----------------------------------------------------------------------------------------- */

/* Makes a folder that is not there. Returns an errno or 0. */
static int folder_make(int dir_fd, const char *name, uint32_t mode) {
    ASSERT(dir_fd >= 0);
    ASSERT(mode <= 07777);
    if (mkdirat(dir_fd, name, 0700) == 0) {
        return fchmodat(dir_fd, name, mode, 0) == 0 ? 0 : errno;
    }
    struct stat info;
    int os_error = errno;
    bool is_there = os_error == EEXIST && fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                    S_ISDIR(info.st_mode);
    return is_there ? 0 : os_error;
}

/* The part of `path` that ends at `end`, as a folder in the root, made if it is missing. */
static enum kelpie_status prefix_open(struct agent *agent, const char *path, size_t end,
                                      uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    char prefix[PROTOCOL_PATH_SIZE_MAX + 1];
    ASSERT(end > 0 && end < sizeof(prefix));
    ASSERT(path[0] == '/');
    memcpy(prefix, path, end);
    prefix[end] = 0;
    int fd = file_open_in_root(agent->root_fd, prefix, O_PATH | O_DIRECTORY);
    if (fd < 0 && errno == ENOENT) {
        char *name = strrchr(prefix, '/') + 1;
        char above[PROTOCOL_PATH_SIZE_MAX + 1];
        snprintf(above, sizeof(above), "%.*s", (int)(name - prefix), prefix);
        int above_fd = file_open_in_root(agent->root_fd, above, O_PATH | O_DIRECTORY);
        int os_error = above_fd < 0 ? errno : folder_make(above_fd, name, mode);
        if (above_fd >= 0) {
            close(above_fd);
        }
        errno = os_error;
        fd = os_error == 0 ? file_open_in_root(agent->root_fd, prefix, O_PATH | O_DIRECTORY) : -1;
    }
    if (fd < 0) {
        return error_set_os(err, errno, "open the folder %.100s", prefix);
    }
    *ret_fd = fd;
    return KELPIE_OK;
}

enum kelpie_status tree_put_prepare(struct agent *agent, struct session *session,
                                    const struct protocol_file_put *put, struct kelpie_error *err) {
    ASSERT(put->mode & PROTOCOL_MODE_FOLDER);
    ASSERT(put->path[0] == '/');
    TRY(tree_create(session, err));
    size_t size = strlen(put->path);
    while (size > 1 && put->path[size - 1] == '/') {
        size--;
    }
    int fd = -1;
    for (size_t end = 1; end <= size; end++) {
        bool is_last = end == size;
        if (!is_last && (put->path[end] != '/' || put->path[end - 1] == '/')) {
            continue;
        }
        uint32_t mode = is_last ? put->mode & ~PROTOCOL_MODE_FOLDER : 0755;
        TRY(prefix_open(agent, put->path, end, mode, &fd, err));
        if (!is_last) {
            close(fd);
        }
    }
    ASSERT(fd >= 0);
    session->tree->root_fd = fd;
    return KELPIE_OK;
}

/* The folder of an entry, whose name in it becomes the session's. */
static enum kelpie_status entry_folder(struct session *session, const char *name, int *ret_fd,
                                       struct kelpie_error *err) {
    char folder[PROTOCOL_PATH_SIZE_MAX + 1];
    const char *slash = strrchr(name, '/');
    ASSERT(session->tree->root_fd >= 0);
    ASSERT(name[0] != '/');
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - name) : 1, slash ? name : ".");
    snprintf(session->file_name, sizeof(session->file_name), "%s", slash ? slash + 1 : name);
    int fd = file_open_below(session->tree->root_fd, folder, O_PATH | O_DIRECTORY);
    if (fd < 0) {
        return error_set_os(err, errno, "open the folder of %.100s", name);
    }
    *ret_fd = fd;
    return KELPIE_OK;
}

/* What is in a link's way is replaced, unless it is a folder. */
static int link_make(int dir_fd, const char *name, const char *target) {
    ASSERT(dir_fd >= 0);
    ASSERT(target);
    if (symlinkat(target, dir_fd, name) == 0) {
        return 0;
    }
    bool removed = errno == EEXIST && unlinkat(dir_fd, name, 0) == 0;
    return removed && symlinkat(target, dir_fd, name) == 0 ? 0 : errno;
}

static enum kelpie_status entry_begin(struct session *session,
                                      const struct protocol_tree_entry *entry,
                                      struct kelpie_error *err) {
    ASSERT(entry->name);
    ASSERT(session->file_fd == -1 && session->dir_fd == -1);
    if (entry->kind == PROTOCOL_TREE_FILE) {
        session->file_mode = entry->mode;
        session->file_size = entry->size;
        session->file_done = 0;
        TRY(entry_folder(session, entry->name, &session->dir_fd, err));
        return file_temp_create(session, err);
    }
    int dir_fd = -1;
    TRY(entry_folder(session, entry->name, &dir_fd, err));
    int os_error = entry->kind == PROTOCOL_TREE_FOLDER
                       ? folder_make(dir_fd, session->file_name, entry->mode)
                       : link_make(dir_fd, session->file_name, entry->target);
    close(dir_fd);
    return os_error == 0 ? KELPIE_OK : error_set_os(err, os_error, "make %.100s", entry->name);
}

static void set_modified(int fd, uint64_t modified_ns) {
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_NOW},
        {.tv_sec = (time_t)(modified_ns / NS_PER_S), .tv_nsec = (long)(modified_ns % NS_PER_S)},
    };
    ASSERT(fd >= 0);
    ASSERT(times[1].tv_nsec < (long)NS_PER_S);
    if (modified_ns != 0) {
        (void)futimens(fd, times); /* a file whose time is wrong is better than none */
    }
}

static enum kelpie_status take_event(struct session *session,
                                     const struct protocol_tree_event *event,
                                     struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(!tree->ended);
    switch (event->kind) {
    case PROTOCOL_TREE_EVENT_NONE:
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_ENTRY:
        return entry_begin(session, event->entry, err);
    case PROTOCOL_TREE_EVENT_CONTENT:
        return file_temp_write(session, event->bytes, event->size, err);
    case PROTOCOL_TREE_EVENT_FILE_END:
        set_modified(session->file_fd, tree->reader.entry.modified_ns);
        TRY(file_temp_commit(session, err));
        file_fds_close(session);
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_END:
        tree->ended = true;
        return KELPIE_OK;
    case PROTOCOL_TREE_EVENT_MALFORMED:
        return error_set_os(err, EBADMSG, "read the tree that came");
    }
    UNREACHABLE();
}

enum kelpie_status tree_put_bytes(struct session *session, const struct protocol_data *data,
                                  struct kelpie_error *err) {
    struct tree *tree = session->tree;
    const uint8_t *bytes = data->bytes;
    size_t size = data->size;
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
    ASSERT(tree);
    ASSERT(session->kind == SESSION_FILE_PUT);
    /* Bounded by the bytes: only an empty file's end takes none. */
    while (!tree->ended && event.kind != PROTOCOL_TREE_EVENT_NONE) {
        protocol_tree_read(&tree->reader, &bytes, &size, &event);
        TRY(take_event(session, &event, err));
    }
    bool is_last = (data->flags & PROTOCOL_DATA_END) != 0;
    if (size > 0 || (is_last && !tree->ended)) {
        return error_set_os(err, EBADMSG, "read the tree: %s came than was said",
                            size > 0 ? "more" : "less");
    }
    return KELPIE_OK;
}

/* ---- Out ---------------------------------------------------------------------------------------- */

/* The folder, whose name is the path in hand, is listed next. */
static enum kelpie_status level_push(struct tree *tree, int fd, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(tree->depth <= ARRAY_SIZE(tree->levels));
    if (tree->depth == ARRAY_SIZE(tree->levels)) {
        close(fd);
        return error_set_os(err, ELOOP, "list %.100s: it lies too deep", tree->path);
    }
    struct tree_level *level = &tree->levels[tree->depth++];
    level->fd = fd;
    level->path_size = strlen(tree->path);
    level->names_size = 0;
    level->names_at = 0;
    return KELPIE_OK;
}

enum kelpie_status tree_get_prepare(struct session *session, int folder_fd,
                                    struct kelpie_error *err) {
    ASSERT(folder_fd >= 0);
    enum kelpie_status status = tree_create(session, err);
    if (status != KELPIE_OK) {
        close(folder_fd);
        return status;
    }
    ASSERT(session->tree->path[0] == 0);
    return level_push(session->tree, folder_fd, err);
}

static void send_entry(struct agent *agent, struct session *session,
                       const struct protocol_tree_entry *entry) {
    struct cursor_writer writer = cursor_writer_init(agent->scratch, sizeof(agent->scratch));
    static_assert(sizeof(agent->scratch) >= PROTOCOL_TREE_ENTRY_SIZE_MAX, "an entry fits");
    protocol_encode_tree_entry(&writer, entry);
    ASSERT(!writer.failed);
    size_t written =
        protocol_sender_write(&session->outputs[0].sender, agent->scratch, writer.size);
    ASSERT(written == writer.size);
}

static uint64_t modified_ns(const struct stat *info) {
    ASSERT(info);
    ASSERT(info->st_mtim.tv_nsec >= 0);
    return info->st_mtim.tv_sec < 0
               ? 0
               : (uint64_t)info->st_mtim.tv_sec * NS_PER_S + (uint64_t)info->st_mtim.tv_nsec;
}

static void skip(struct tree *tree) {
    ASSERT(tree->path[0] != 0);
    ASSERT(tree->skipped_count < UINT64_MAX);
    if (tree->skipped_count++ == 0) {
        memcpy(tree->skipped, tree->path, strlen(tree->path) + 1);
    }
}

static enum kelpie_status send_file(struct agent *agent, struct session *session, int fd,
                                    struct kelpie_error *err) {
    struct tree *tree = session->tree;
    struct stat info;
    ASSERT(session->file_fd == -1);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return error_set_os(err, EIO, "read %.100s: it changed meanwhile", tree->path);
    }
    ASSERT(info.st_size >= 0);
    session->file_fd = fd;
    session->file_size = (uint64_t)info.st_size;
    session->file_done = 0;
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_FILE,
                                             .name = tree->path,
                                             .mode = info.st_mode & 07777,
                                             .size = session->file_size,
                                             .modified_ns = modified_ns(&info)});
    return KELPIE_OK;
}

static bool is_pseudo(int fd) {
    struct statfs info;
    ASSERT(fd >= 0);
    if (fstatfs(fd, &info) != 0) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(pseudo_types); i++) {
        if ((long)info.f_type == pseudo_types[i]) {
            return true;
        }
    }
    return false;
}

static enum kelpie_status send_folder(struct agent *agent, struct session *session, int fd,
                                      const struct stat *info, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(fd >= 0);
    ASSERT(S_ISDIR(info->st_mode));
    if (is_pseudo(fd)) {
        close(fd);
        skip(tree);
        return KELPIE_OK;
    }
    if (tree->depth == ARRAY_SIZE(tree->levels)) {
        return level_push(tree, fd, err); /* which says why not */
    }
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_FOLDER,
                                             .name = tree->path,
                                             .mode = info->st_mode & 07777,
                                             .modified_ns = modified_ns(info)});
    return level_push(tree, fd, err);
}

static enum kelpie_status send_link(struct agent *agent, struct session *session, int dir_fd,
                                    const char *name, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(dir_fd >= 0);
    ASSERT(name[0] != 0);
    ssize_t size = readlinkat(dir_fd, name, tree->target, sizeof(tree->target));
    if (size <= 0 || (size_t)size >= sizeof(tree->target)) {
        return error_set_os(err, size < 0 ? errno : ENAMETOOLONG, "read the link %.100s",
                            tree->path);
    }
    tree->target[size] = 0;
    send_entry(agent, session,
               &(struct protocol_tree_entry){
                   .kind = PROTOCOL_TREE_LINK, .name = tree->path, .target = tree->target});
    return KELPIE_OK;
}

/* The entry `name` of the top folder; its path is the one in hand. What is gone again is left out. */
static enum kelpie_status send_name(struct agent *agent, struct session *session, const char *name,
                                    struct kelpie_error *err) {
    struct tree *tree = session->tree;
    int dir_fd = tree->levels[tree->depth - 1].fd;
    struct stat info;
    ASSERT(tree->depth > 0);
    if (fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return errno == ENOENT ? KELPIE_OK : error_set_os(err, errno, "look at %.100s", tree->path);
    }
    if (S_ISLNK(info.st_mode)) {
        return send_link(agent, session, dir_fd, name, err);
    }
    if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
        skip(tree);
        return KELPIE_OK;
    }
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    int fd = openat(dir_fd, name, flags | (S_ISDIR(info.st_mode) ? O_DIRECTORY : 0));
    if (fd < 0) {
        return errno == ENOENT ? KELPIE_OK : error_set_os(err, errno, "open %.100s", tree->path);
    }
    ASSERT(name[0] != 0);
    return S_ISDIR(info.st_mode) ? send_folder(agent, session, fd, &info, err)
                                 : send_file(agent, session, fd, err);
}

/* The next name of the top folder, whose path becomes the one in hand; *ret_name NULL: there is none any more. */
static enum kelpie_status next_name(struct tree *tree, const char **ret_name,
                                    struct kelpie_error *err) {
    struct tree_level *level = &tree->levels[tree->depth - 1];
    ASSERT(tree->depth > 0);
    ASSERT(ret_name);
    for (;;) {
        if (level->names_at == level->names_size) {
            tree->path[level->path_size] = 0;
            long size = syscall(SYS_getdents64, level->fd, level->names, sizeof(level->names));
            if (size < 0) {
                return error_set_os(err, errno, "list %.100s", tree->path);
            }
            level->names_size = (size_t)size;
            level->names_at = 0;
        }
        if (level->names_size == 0) {
            *ret_name = NULL;
            return KELPIE_OK;
        }
        const struct dirent64 *entry = (const void *)(level->names + level->names_at);
        level->names_at += entry->size;
        if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0) {
            continue;
        }
        size_t room = sizeof(tree->path) - level->path_size;
        int length = snprintf(tree->path + level->path_size, room, "%s%s",
                              level->path_size > 0 ? "/" : "", entry->name);
        if (length < 0 || (size_t)length >= room) {
            return error_set_os(err, ENAMETOOLONG, "list %.100s", tree->path);
        }
        *ret_name = entry->name;
        return KELPIE_OK;
    }
}

static enum kelpie_status send_content(struct agent *agent, struct session *session, size_t room,
                                       struct kelpie_error *err) {
    ASSERT(session->file_done <= session->file_size);
    ASSERT(room > 0);
    size_t wanted = (size_t)min_u64(min_size(room, sizeof(agent->scratch)),
                                    session->file_size - session->file_done);
    ssize_t count = wanted > 0 ? read(session->file_fd, agent->scratch, wanted) : 0;
    if (count < 0 && errno == EINTR) {
        return KELPIE_OK;
    }
    if (count <= 0 && wanted > 0) {
        return error_set_os(err, count < 0 ? errno : EIO, "read %.100s%s", session->tree->path,
                            count < 0 ? "" : ": it became shorter meanwhile");
    }
    (void)protocol_sender_write(&session->outputs[0].sender, agent->scratch, (size_t)count);
    session->file_done += (size_t)count;
    if (session->file_done == session->file_size) {
        file_fds_close(session);
    }
    return KELPIE_OK;
}

/* The folder is done; behind the first comes the END. */
static void level_pop(struct agent *agent, struct session *session) {
    struct tree *tree = session->tree;
    ASSERT(tree->depth > 0);
    ASSERT(!tree->ended);
    close(tree->levels[--tree->depth].fd);
    if (tree->depth == 0) {
        tree->ended = true;
        send_entry(agent, session,
                   &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_END,
                                                 .name = tree->skipped,
                                                 .size = tree->skipped_count});
    }
}

enum kelpie_status tree_get_fill(struct agent *agent, struct session *session, bool *ret_done,
                                 struct kelpie_error *err) {
    struct tree *tree = session->tree;
    struct protocol_sender *sender = &session->outputs[0].sender;
    ASSERT(tree);
    ASSERT(ret_done);
    while (!tree->ended) {
        size_t room = protocol_sender_room(sender);
        if (room < (session->file_fd >= 0 ? 1 : PROTOCOL_TREE_ENTRY_SIZE_MAX)) {
            break;
        }
        if (session->file_fd >= 0) {
            TRY(send_content(agent, session, room, err));
            continue;
        }
        const char *name = NULL;
        TRY(next_name(tree, &name, err));
        if (name) {
            TRY(send_name(agent, session, name, err));
        } else {
            level_pop(agent, session);
        }
    }
    *ret_done = tree->ended;
    return KELPIE_OK;
}
