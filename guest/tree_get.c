/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders on their way out. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "base/checked.h"
#include "file.h"
#include "names.h"
#include "tree.h"

#define NS_PER_S 1000000000ull

/* So much room in the ring is waited for before an entry of an exact tree, and what is said of it before. */
#define EXACT_ENTRIES_SIZE_MAX (PROTOCOL_WINDOW_SIZE / 2)

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
    struct stat info;
    if (session->exact && (fstat(folder_fd, &info) != 0 || tree_is_pseudo(folder_fd))) {
        close(folder_fd);
        return error_set_os(err, EINVAL, "list a folder that has no files of its own");
    }
    if (session->exact) {
        session->tree->exact.device = info.st_dev;
        session->tree->exact.root_due = true;
    }
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

static enum kelpie_status send_attribute(struct agent *agent, struct session *session, int fd,
                                         const char *name, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(fd >= 0);
    ASSERT(name[0] != 0);
    ssize_t size = fgetxattr(fd, name, tree->target, PROTOCOL_TREE_ATTRIBUTE_SIZE_MAX);
    if (size < 0) {
        return error_set_os(err, errno, "read the attribute %.60s of %.100s", name, tree->path);
    }
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_ATTRIBUTE,
                                             .name = name,
                                             .target = tree->target,
                                             .target_size = (size_t)size});
    return KELPIE_OK;
}

/* What an exact tree says of the entry that follows. */
static enum kelpie_status send_meta(struct agent *agent, struct session *session, int fd,
                                    const struct stat *info, struct kelpie_error *err) {
    char names[GUEST_ATTRIBUTES_COUNT_MAX * (PROTOCOL_NAME_SIZE_MAX + 1)];
    uint64_t number = S_ISREG(info->st_mode) ? exact_link_number(info) : 0;
    ASSERT(session->exact);
    if (info->st_uid != 0 || info->st_gid != 0 || number != 0) {
        send_entry(agent, session,
                   &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_OWNER,
                                                 .name = "",
                                                 .size = (uint64_t)info->st_uid |
                                                         (uint64_t)info->st_gid << 32,
                                                 .modified_ns = number});
    }
    if (fd < 0) {
        return KELPIE_OK;
    }
    ssize_t size = flistxattr(fd, names, sizeof(names));
    if (size < 0 && errno == EOPNOTSUPP) {
        return KELPIE_OK;
    }
    if (size < 0) {
        return error_set_os(err, errno, "list the attributes of %.100s", session->tree->path);
    }
    size_t count = 0;
    for (const char *name = names; name < names + size; name += strlen(name) + 1) {
        if (protocol_sender_room(&session->outputs[0].sender) < 2 * PROTOCOL_TREE_ENTRY_SIZE_MAX ||
            ++count > GUEST_ATTRIBUTES_COUNT_MAX) {
            return error_set_os(err, E2BIG, "keep the attributes of %.100s", session->tree->path);
        }
        TRY(send_attribute(agent, session, fd, name, err));
    }
    return KELPIE_OK;
}

/* An exact tree tells where a file has no holes. */
static void send_file_entry(struct agent *agent, struct session *session, const struct stat *info) {
    struct exact *exact = &session->tree->exact;
    ASSERT(session->file_fd >= 0);
    ASSERT(info->st_size >= 0);
    exact->sparse = session->exact && info->st_blocks * 512 < info->st_size;
    exact->extent_end = 0;
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = exact->sparse ? PROTOCOL_TREE_SPARSE
                                                                   : PROTOCOL_TREE_FILE,
                                             .name = session->tree->path,
                                             .mode = info->st_mode & 07777,
                                             .size = session->file_size,
                                             .modified_ns = modified_ns(info)});
}

/* Where the next piece of a file with holes lies; behind the last one comes an empty one, at the file's end. */
static enum kelpie_status send_extent(struct agent *agent, struct session *session,
                                      struct kelpie_error *err) {
    struct exact *exact = &session->tree->exact;
    off_t start = (off_t)session->file_size;
    off_t end = start;
    ASSERT(exact->sparse);
    ASSERT(session->file_done == exact->extent_end);
    if (session->file_done < session->file_size) {
        start = lseek(session->file_fd, (off_t)session->file_done, SEEK_DATA);
        if (start < 0 && errno != ENXIO) {
            return error_set_os(err, errno, "look for holes in %.100s", session->tree->path);
        }
        start = start < 0 ? (off_t)session->file_size : start;
        end = (uint64_t)start < session->file_size ? lseek(session->file_fd, start, SEEK_HOLE)
                                                   : start;
    }
    if (end < start || (uint64_t)end > session->file_size ||
        lseek(session->file_fd, start, SEEK_SET) != start) {
        return error_set_os(err, EIO, "read %.100s: it changed meanwhile", session->tree->path);
    }
    session->file_done = (uint64_t)start;
    exact->extent_end = (uint64_t)end;
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_EXTENT,
                                             .name = "",
                                             .size = (uint64_t)(end - start),
                                             .modified_ns = (uint64_t)start});
    if (start == end) {
        file_fds_close(session);
    }
    return KELPIE_OK;
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
    if (session->exact) {
        TRY(send_meta(agent, session, fd, &info, err)); /* the session closes the file */
    }
    send_file_entry(agent, session, &info);
    return KELPIE_OK;
}

static enum kelpie_status send_folder(struct agent *agent, struct session *session, int fd,
                                      const struct stat *info, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    ASSERT(fd >= 0);
    ASSERT(S_ISDIR(info->st_mode));
    if (session->exact && info->st_dev != tree->exact.device) {
        close(fd);
        return error_set_os(err, EBUSY, "keep %.100s: something is mounted there", tree->path);
    }
    if (tree_is_pseudo(fd)) {
        close(fd);
        skip(tree);
        return KELPIE_OK;
    }
    if (session->exact) {
        enum kelpie_status status = send_meta(agent, session, fd, info, err);
        if (status != KELPIE_OK) {
            close(fd);
            return status;
        }
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

static enum kelpie_status send_link(struct agent *agent, struct session *session, const char *name,
                                    const struct stat *info, struct kelpie_error *err) {
    struct tree *tree = session->tree;
    int dir_fd = tree->levels[tree->depth - 1].fd;
    ASSERT(dir_fd >= 0);
    ASSERT(name[0] != 0);
    if (session->exact) {
        TRY(send_meta(agent, session, -1, info, err));
    }
    ssize_t size = readlinkat(dir_fd, name, tree->target, sizeof(tree->target));
    if (size <= 0 || (size_t)size >= sizeof(tree->target)) {
        return error_set_os(err, size < 0 ? errno : ENAMETOOLONG, "read the link %.100s",
                            tree->path);
    }
    tree->target[size] = 0;
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_LINK,
                                             .name = tree->path,
                                             .modified_ns = session->exact ? modified_ns(info) : 0,
                                             .target = tree->target});
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
        return send_link(agent, session, name, &info, err);
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
    const struct exact *exact = &session->tree->exact;
    uint64_t end = exact->sparse ? exact->extent_end : session->file_size;
    size_t wanted =
        (size_t)min_u64(min_size(room, sizeof(agent->scratch)), end - session->file_done);
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
    if (session->file_done == session->file_size && !exact->sparse) {
        file_fds_close(session);
    }
    return KELPIE_OK;
}

/* The folder itself. */
static enum kelpie_status send_root(struct agent *agent, struct session *session,
                                    struct kelpie_error *err) {
    struct tree *tree = session->tree;
    struct stat info;
    ASSERT(tree->depth == 1);
    ASSERT(tree->exact.root_due);
    tree->exact.root_due = false;
    if (fstat(tree->levels[0].fd, &info) != 0) {
        return error_set_os(err, errno, "look at the folder");
    }
    TRY(send_meta(agent, session, tree->levels[0].fd, &info, err));
    send_entry(agent, session,
               &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_ROOT,
                                             .name = "",
                                             .mode = info.st_mode & 07777,
                                             .modified_ns = modified_ns(&info)});
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
        bool in_file = session->file_fd >= 0;
        bool extent_due =
            in_file && tree->exact.sparse && session->file_done == tree->exact.extent_end;
        size_t entries = session->exact ? EXACT_ENTRIES_SIZE_MAX : PROTOCOL_TREE_ENTRY_SIZE_MAX;
        if (room < (in_file ? (extent_due ? PROTOCOL_TREE_HEADER_SIZE : 1) : entries)) {
            break;
        }
        if (tree->exact.root_due) {
            TRY(send_root(agent, session, err));
            continue;
        }
        if (extent_due) {
            TRY(send_extent(agent, session, err));
            continue;
        }
        if (in_file) {
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
