/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Extended attributes of a tar archive's entry. Access lists, which archives have as text, become the attributes in which Linux
 * keeps them (include/uapi/linux/posix_acl_xattr.h). */
#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cursor.h"
#include "image/unpack.h"

#define ACL_VERSION 2
#define ACL_ENTRY_COUNT_MAX 1024
#define ACL_SIZE_MAX (4 + 8 * ACL_ENTRY_COUNT_MAX)
#define ACL_NO_ID UINT32_MAX
#define NAMED_COUNT_MAX 128 /* attributes of one file */

static const struct {
    int tag;
    uint16_t value;
} tags[] = {
    {ARCHIVE_ENTRY_ACL_USER_OBJ, 0x01},  {ARCHIVE_ENTRY_ACL_USER, 0x02},
    {ARCHIVE_ENTRY_ACL_GROUP_OBJ, 0x04}, {ARCHIVE_ENTRY_ACL_GROUP, 0x08},
    {ARCHIVE_ENTRY_ACL_MASK, 0x10},      {ARCHIVE_ENTRY_ACL_OTHER, 0x20},
};

struct acl_entry {
    uint16_t tag;
    uint16_t permissions;
    uint32_t id;
};

static int compare_acl(const void *a, const void *b) {
    const struct acl_entry *left = a;
    const struct acl_entry *right = b;
    ASSERT(left);
    ASSERT(right);
    if (left->tag != right->tag) {
        return left->tag < right->tag ? -1 : 1;
    }
    return left->id < right->id ? -1 : left->id > right->id;
}

static uint16_t tag_of(int tag) {
    static_assert(ARRAY_SIZE(tags) == 6, "all of POSIX.1e");
    for (size_t i = 0; i < ARRAY_SIZE(tags); i++) {
        if (tags[i].tag == tag) {
            return tags[i].value;
        }
    }
    return 0;
}

/* Reads one of an entry's two lists. False: it is none that Linux could have. */
static bool read_acl(struct archive_entry *from, int type, struct acl_entry *entries,
                     size_t *ret_count) {
    size_t count = 0;
    int kind = 0;
    int permissions = 0;
    int tag = 0;
    int id = 0;
    const char *name = NULL;
    ASSERT(entries);
    ASSERT(ret_count);
    (void)archive_entry_acl_reset(from, type);
    while (archive_entry_acl_next(from, type, &kind, &permissions, &tag, &id, &name) ==
           ARCHIVE_OK) {
        bool has_id = tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP;
        if (count == ACL_ENTRY_COUNT_MAX || tag_of(tag) == 0 || (has_id && id < 0)) {
            return false;
        }
        entries[count++] = (struct acl_entry){
            .tag = tag_of(tag),
            .permissions = (uint16_t)(permissions & 7),
            .id = has_id ? (uint32_t)id : ACL_NO_ID,
        };
    }
    *ret_count = count;
    return true;
}

static bool append_acl(struct archive_entry *from, int type, const char *name, void *buffer,
                       size_t *size) {
    struct acl_entry entries[ACL_ENTRY_COUNT_MAX];
    uint8_t value[ACL_SIZE_MAX];
    size_t count = 0;
    ASSERT(name);
    ASSERT(buffer);
    if (!(archive_entry_acl_types(from) & type)) {
        return true;
    }
    if (!read_acl(from, type, entries, &count)) {
        return false;
    }
    if (count == 0) {
        return true;
    }
    qsort(entries, count, sizeof(entries[0]), compare_acl);
    struct cursor_writer out = cursor_writer_init(value, sizeof(value));
    cursor_write_u32(&out, ACL_VERSION);
    for (size_t i = 0; i < count; i++) {
        cursor_write_u16(&out, entries[i].tag);
        cursor_write_u16(&out, entries[i].permissions);
        cursor_write_u32(&out, entries[i].id);
    }
    ASSERT(!out.failed);
    const struct image_attribute attribute = {name, strlen(name), value, out.size};
    return image_attributes_append(buffer, size, &attribute);
}

uint32_t image_unpack_mode(struct archive_entry *entry) {
    struct acl_entry entries[ACL_ENTRY_COUNT_MAX];
    size_t count = 0;
    uint32_t mode = (uint32_t)archive_entry_filetype(entry) | (uint32_t)archive_entry_perm(entry);
    ASSERT((mode & ~(uint32_t)(S_IFMT | 07777)) == 0);
    if (!(archive_entry_acl_types(entry) & ARCHIVE_ENTRY_ACL_TYPE_ACCESS) ||
        !read_acl(entry, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, entries, &count)) {
        return mode;
    }
    for (size_t i = 0; i < count; i++) {
        ASSERT(entries[i].permissions <= 7);
        if (entries[i].tag == tag_of(ARCHIVE_ENTRY_ACL_MASK)) {
            mode = (mode & ~(uint32_t)070) | (uint32_t)entries[i].permissions << 3;
        }
    }
    return mode;
}

/* Namespaces that a guest's file system can hold. An overlay's own attributes steer it, so that an image must not bring them; an
 * access list that stands beside the same as text comes once. */
static bool is_kept(const char *name) {
    static const char *const kept[] = {"user.", "trusted.", "security."};
    static const char *const left_out[] = {"trusted.overlay.", "user.overlay."};
    bool found = false;
    ASSERT(name);
    ASSERT(ARRAY_SIZE(kept) == 3);
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        size_t size = strlen(kept[i]);
        found = found || (strncmp(name, kept[i], size) == 0 && name[size] != '\0');
    }
    for (size_t i = 0; i < ARRAY_SIZE(left_out); i++) {
        found = found && strncmp(name, left_out[i], strlen(left_out[i])) != 0;
    }
    return found;
}

static int compare_attributes(const void *a, const void *b) {
    const struct image_attribute *left = a;
    const struct image_attribute *right = b;
    ASSERT(left->name);
    ASSERT(right->name);
    return strcmp(left->name, right->name);
}

bool image_unpack_attributes(struct archive_entry *entry, void *buffer, size_t *ret_size) {
    struct image_attribute named[NAMED_COUNT_MAX];
    size_t count = 0;
    size_t size = 0;
    struct image_attribute next = {0};
    ASSERT(buffer);
    ASSERT(ret_size);
    (void)archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &next.name, &next.value, &next.value_size) ==
           ARCHIVE_OK) {
        if (!next.name || !is_kept(next.name)) {
            continue;
        }
        if (count == NAMED_COUNT_MAX) {
            return false;
        }
        next.name_size = strlen(next.name);
        named[count++] = next;
    }
    qsort(named, count, sizeof(named[0]), compare_attributes);
    for (size_t i = 0; i < count; i++) {
        bool again = i > 0 && strcmp(named[i].name, named[i - 1].name) == 0;
        if (!again && !image_attributes_append(buffer, &size, &named[i])) {
            return false;
        }
    }
    if (!append_acl(entry, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, "system.posix_acl_access", buffer,
                    &size) ||
        !append_acl(entry, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, "system.posix_acl_default", buffer,
                    &size)) {
        return false;
    }
    *ret_size = size;
    return true;
}
