/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
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

enum kelpie_status tree_create(struct session *session, struct kelpie_error *err) {
    ASSERT(!session->tree);
    struct tree *tree =
        mmap(NULL, sizeof(*tree), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tree == MAP_FAILED) {
        return error_set_os(err, errno, "allocate a tree");
    }
    tree->root_fd = -1;
    tree->exact.place_fd = -1;
    protocol_tree_reader_init(&tree->reader);
    tree->reader.exact = session->exact;
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
    exact_close(&tree->exact);
    munmap(tree, sizeof(*tree));
    session->tree = NULL;
}

bool tree_is_pseudo(int fd) {
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

/* The folder is there; no link leads to it. What comes goes beside what is in it. */
static enum kelpie_status begin_exact(struct agent *agent, struct session *session,
                                      const char *path, struct kelpie_error *err) {
    ASSERT(session->exact);
    ASSERT(session->tree->root_fd == -1);
    int fd = file_open_plain(agent->root_fd, path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) {
        return error_set_os(err, errno, "open the folder %.100s", path);
    }
    if (tree_is_pseudo(fd)) {
        close(fd);
        return error_set_os(err, EINVAL, "write to %.100s, which has no files of its own", path);
    }
    return exact_begin(&session->tree->exact, fd, &session->tree->root_fd, err);
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
    if (session->exact) {
        close(fd);
        return begin_exact(agent, session, put->path, err);
    }
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

/* One more name for a file of this tree. */
static int hard_link_make(struct session *session, int dir_fd, const char *target) {
    char folder[PROTOCOL_PATH_SIZE_MAX + 1];
    const char *slash = strrchr(target, '/');
    ASSERT(session->exact);
    ASSERT(target[0] != '/');
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - target) : 1,
             slash ? target : ".");
    int target_fd = file_open_below(session->tree->root_fd, folder, O_PATH | O_DIRECTORY);
    if (target_fd < 0) {
        return errno;
    }
    bool made = linkat(target_fd, slash ? slash + 1 : target, dir_fd, session->file_name, 0) == 0;
    int os_error = made ? 0 : errno;
    close(target_fd);
    return os_error;
}

/* What an exact tree says of a folder or link that was just made. */
static int apply_exact(struct session *session, int dir_fd,
                       const struct protocol_tree_entry *entry) {
    const struct exact_meta *meta = &session->tree->exact.next;
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_NOW},
        {.tv_sec = (time_t)(entry->modified_ns / NS_PER_S),
         .tv_nsec = (long)(entry->modified_ns % NS_PER_S)},
    };
    ASSERT(session->exact);
    ASSERT(dir_fd >= 0);
    if (entry->kind == PROTOCOL_TREE_LINK) {
        bool done =
            fchownat(dir_fd, session->file_name, meta->uid, meta->gid, AT_SYMLINK_NOFOLLOW) == 0 &&
            (entry->modified_ns == 0 ||
             utimensat(dir_fd, session->file_name, times, AT_SYMLINK_NOFOLLOW) == 0);
        return done ? 0 : errno;
    }
    int fd = openat(dir_fd, session->file_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int os_error = fd < 0 ? errno : exact_apply(fd, meta, entry->mode, entry->modified_ns);
    if (fd >= 0) {
        close(fd);
    }
    return os_error;
}

static enum kelpie_status file_begin(struct session *session,
                                     const struct protocol_tree_entry *entry,
                                     struct kelpie_error *err) {
    ASSERT(session->file_fd == -1 && session->dir_fd == -1);
    ASSERT(entry->name[0] != 0);
    session->file_mode = entry->mode;
    session->file_size = entry->size;
    session->file_done = 0;
    session->tree->exact.modified_ns = entry->modified_ns;
    session->tree->exact.in_pieces = entry->kind == PROTOCOL_TREE_SPARSE;
    TRY(entry_folder(session, entry->name, &session->dir_fd, err));
    return file_temp_create(session, err);
}

/* What is said of the entry that follows, and of the folder itself. */
static enum kelpie_status take_meta(struct exact *exact, const struct protocol_tree_entry *entry,
                                    struct kelpie_error *err) {
    ASSERT(entry->kind > PROTOCOL_TREE_END);
    ASSERT(!exact->in_pieces);
    if (entry->kind == PROTOCOL_TREE_OWNER) {
        exact->next.uid = (uint32_t)entry->size;
        exact->next.gid = (uint32_t)(entry->size >> 32);
        return KELPIE_OK;
    }
    if (entry->kind == PROTOCOL_TREE_ATTRIBUTE) {
        return exact_add_attribute(&exact->next, entry->name, entry->target, entry->target_size,
                                   err);
    }
    ASSERT(entry->kind == PROTOCOL_TREE_ROOT);
    exact->root_given = true;
    exact->root_mode = entry->mode;
    exact->root_modified_ns = entry->modified_ns;
    exact->root = exact->next;
    exact_meta_clear(&exact->next);
    return KELPIE_OK;
}

/* The next piece of a file with holes. */
static enum kelpie_status extent_begin(struct session *session,
                                       const struct protocol_tree_entry *entry,
                                       struct kelpie_error *err) {
    uint64_t offset = entry->modified_ns;
    ASSERT(session->exact);
    if (!session->tree->exact.in_pieces || offset < session->file_done ||
        offset > session->file_size || entry->size > session->file_size - offset) {
        return error_set_os(err, EBADMSG, "read the tree: a piece of no file");
    }
    ASSERT(session->file_fd >= 0);
    if (lseek(session->file_fd, (off_t)offset, SEEK_SET) < 0) {
        return error_set_os(err, errno, "write %.100s", session->file_name);
    }
    session->file_done = offset;
    return KELPIE_OK;
}

static enum kelpie_status entry_begin(struct session *session,
                                      const struct protocol_tree_entry *entry,
                                      struct kelpie_error *err) {
    ASSERT(entry->name);
    if (entry->kind == PROTOCOL_TREE_EXTENT) {
        return extent_begin(session, entry, err);
    }
    if (session->tree->exact.in_pieces) {
        return error_set_os(err, EBADMSG, "read the tree: a file's last piece is missing");
    }
    if (entry->kind == PROTOCOL_TREE_OWNER || entry->kind == PROTOCOL_TREE_ATTRIBUTE ||
        entry->kind == PROTOCOL_TREE_ROOT) {
        return take_meta(&session->tree->exact, entry, err);
    }
    if (entry->kind == PROTOCOL_TREE_FILE || entry->kind == PROTOCOL_TREE_SPARSE) {
        return file_begin(session, entry, err);
    }
    int dir_fd = -1;
    TRY(entry_folder(session, entry->name, &dir_fd, err));
    int os_error =
        entry->kind == PROTOCOL_TREE_FOLDER ? folder_make(dir_fd, session->file_name, entry->mode)
        : entry->kind == PROTOCOL_TREE_LINK ? link_make(dir_fd, session->file_name, entry->target)
                                            : hard_link_make(session, dir_fd, entry->target);
    if (os_error == 0 && session->exact && entry->kind != PROTOCOL_TREE_HARD_LINK) {
        os_error = apply_exact(session, dir_fd, entry);
    }
    exact_meta_clear(&session->tree->exact.next);
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

/* A file, or a piece of one, has come. */
static enum kelpie_status file_end(struct session *session, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    struct exact *exact = &tree->exact;
    const struct protocol_tree_entry *entry = &tree->reader.entry;
    ASSERT(session->file_fd >= 0);
    ASSERT(session->file_done <= session->file_size);
    if (exact->in_pieces && (entry->size > 0 || session->file_done != session->file_size)) {
        return KELPIE_OK; /* the last one is empty, and at the end */
    }
    if (exact->in_pieces && ftruncate(session->file_fd, (off_t)session->file_size) != 0) {
        return error_set_os(err, errno, "write %.100s", session->file_name);
    }
    exact->in_pieces = false;
    if (session->exact) {
        int os_error =
            exact_apply(session->file_fd, &exact->next, session->file_mode, exact->modified_ns);
        exact_meta_clear(&exact->next);
        if (os_error != 0) {
            return error_set_os(err, os_error, "set the attributes of %.100s", session->file_name);
        }
    } else {
        set_modified(session->file_fd, entry->modified_ns);
    }
    TRY(file_temp_commit(session, err));
    file_fds_close(session);
    return KELPIE_OK;
}

/* All has come. */
static enum kelpie_status tree_end(struct session *session, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(!tree->ended);
    ASSERT(tree->root_fd >= 0);
    if (tree->exact.in_pieces) {
        return error_set_os(err, EBADMSG, "read the tree: a file's last piece is missing");
    }
    tree->ended = true;
    return session->exact ? exact_finish(&tree->exact, tree->root_fd, err) : KELPIE_OK;
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
        return file_end(session, err);
    case PROTOCOL_TREE_EVENT_END:
        return tree_end(session, err);
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
