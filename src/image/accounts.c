/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Who the image's user is, by its own /etc/passwd and /etc/group (passwd(5), group(5)). Nothing of this host's is asked. */
#include "image/rootfs.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"

#define ID_MAX 4294967294u
#define ID_DIGITS_MAX 10u
#define FIELD_COUNT_MAX 4u

/* A decimal number that is an id. */
static bool parse_id(struct image_slice text, uint32_t *ret_id) {
    uint64_t value = 0;
    ASSERT(text.data || text.size == 0);
    ASSERT(ret_id);
    if (text.size == 0 || text.size > ID_DIGITS_MAX) {
        return false;
    }
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    if (value > ID_MAX) {
        return false;
    }
    *ret_id = (uint32_t)value;
    return true;
}

static bool slice_is(struct image_slice a, struct image_slice b) {
    ASSERT(a.data || a.size == 0);
    ASSERT(b.data || b.size == 0);
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* The first fields of a line; an empty one counts. Returns how many there are. */
static size_t split(struct image_slice line, struct image_slice fields[FIELD_COUNT_MAX]) {
    size_t count = 0;
    size_t start = 0;
    ASSERT(fields);
    for (size_t i = 0; i <= line.size && count < FIELD_COUNT_MAX; i++) {
        if (i == line.size || line.data[i] == ':') {
            fields[count++] = (struct image_slice){line.data + start, i - start};
            start = i + 1;
        }
    }
    ASSERT(count > 0);
    return count;
}

/* The account of that name, or, without one, of that number: *ret_id, and its group if it has one. */
struct account {
    struct image_slice name;
    uint32_t id;
    uint32_t group;
};

static bool find_account(struct image_slice text, bool by_id, bool has_group,
                         struct account *account) {
    struct image_slice line;
    struct image_slice fields[FIELD_COUNT_MAX];
    ASSERT(account);
    ASSERT(by_id || account->name.size > 0);
    while (image_slice_line(&text, &line)) {
        size_t count = split(line, fields);
        uint32_t id = 0;
        uint32_t group = 0;
        if (count < 3u + has_group || !parse_id(fields[2], &id) ||
            (has_group && !parse_id(fields[3], &group))) {
            continue;
        }
        if (by_id ? id == account->id : slice_is(fields[0], account->name)) {
            account->id = id;
            account->group = group;
            return true;
        }
    }
    return false;
}

/* The image's file, zero-terminated, for free(); NULL: it has none. */
static enum kelpie_status load_file(const struct image_unpack *unpack, const char *path,
                                    char **ret_data, size_t *ret_size, struct kelpie_error *err) {
    uint32_t node = 0;
    size_t size = 0;
    ASSERT(ret_data && !*ret_data);
    if (!image_tree_find(unpack->tree, path, &node)) {
        return KELPIE_OK;
    }
    const struct image_inode *inode =
        image_tree_inode(unpack->tree, image_tree_inode_of(unpack->tree, node));
    if ((inode->mode & S_IFMT) != S_IFREG) {
        return image_entry_wrong(err, path, "is not a regular file");
    }
    if (inode->size > IMAGE_ACCOUNTS_SIZE_MAX) {
        return image_entry_wrong(err, path, "is too large");
    }
    AUTO_MEM char *data = host_allocate(unpack->host, (size_t)inode->size + 1, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    if (inode->size > 0) {
        TRY(host_file_read_at(unpack->host, unpack->data_fd, data, (size_t)inode->size,
                              inode->data_offset, &size, err));
    }
    ASSERT(size <= inode->size);
    *ret_data = TAKE(data);
    *ret_size = size;
    return KELPIE_OK;
}

static enum kelpie_status unknown(struct kelpie_error *err, const char *user, const char *file) {
    ASSERT(user);
    ASSERT(file);
    return error_set_field(err, KELPIE_BAD_CONFIG, "user",
                           "the image's user is '%.64s', whom its %s does not have", user, file);
}

enum kelpie_status image_rootfs_user(const struct image_unpack *unpack, const char *user,
                                     uint32_t *ret_uid, uint32_t *ret_gid,
                                     struct kelpie_error *err) {
    AUTO_MEM char *passwd = NULL;
    AUTO_MEM char *group = NULL;
    size_t passwd_size = 0;
    size_t group_size = 0;
    size_t name_size = strcspn(user, ":");
    struct account person = {.name = {user, name_size}};
    ASSERT(ret_uid && ret_gid);
    ASSERT(unpack->tree);
    if (user[0] == '\0') {
        *ret_uid = 0;
        *ret_gid = 0;
        return KELPIE_OK;
    }
    if (name_size == 0) {
        return unknown(err, user, "/etc/passwd");
    }
    TRY(load_file(unpack, "etc/passwd", &passwd, &passwd_size, err));
    bool is_number = parse_id(person.name, &person.id);
    bool found = find_account((struct image_slice){passwd, passwd_size}, is_number, true, &person);
    if (!found && !is_number) {
        return unknown(err, user, "/etc/passwd");
    }
    const char *group_name = user[name_size] == ':' ? user + name_size + 1 : NULL;
    uint32_t gid = found ? person.group : 0;
    if (group_name) {
        struct account team = {.name = {group_name, strlen(group_name)}};
        TRY(load_file(unpack, "etc/group", &group, &group_size, err));
        if (team.name.size == 0 ||
            (!parse_id(team.name, &team.id) &&
             !find_account((struct image_slice){group, group_size}, false, false, &team))) {
            return unknown(err, user, "/etc/group");
        }
        gid = team.id;
    }
    *ret_uid = person.id;
    *ret_gid = gid;
    return KELPIE_OK;
}
