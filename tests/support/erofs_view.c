/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "erofs_view.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096u

static uint64_t number(const struct erofs_view *view, uint64_t offset, size_t width) {
    uint64_t value = 0;
    assert(offset <= view->size && width <= view->size - offset);
    memcpy(&value, view->data + offset, width);
    return value;
}

struct erofs_view erofs_view_open(int fd) {
    struct stat info;
    struct erofs_view view;
    assert(fstat(fd, &info) == 0 && info.st_size % BLOCK == 0 && info.st_size > 0);
    view.size = (size_t)info.st_size;
    view.data = malloc(view.size);
    assert(view.data);
    for (size_t done = 0; done < view.size;) {
        ssize_t count = pread(fd, view.data + done, view.size - done, (off_t)done);
        assert(count > 0);
        done += (size_t)count;
    }
    assert(number(&view, 1024, 4) == 0xe0f5e1e2u);
    assert(number(&view, 1024 + 12, 1) == 12);
    assert(number(&view, 1024 + 36, 4) * BLOCK == view.size);
    assert(number(&view, 1024 + 80, 4) == 0); /* no incompatible feature */
    return view;
}

void erofs_view_close(struct erofs_view *view) {
    free(view->data);
    view->data = NULL;
}

static struct erofs_view_inode inode_at(const struct erofs_view *view, uint64_t nid) {
    uint64_t offset = number(view, 1024 + 40, 4) * BLOCK + nid * 32;
    uint64_t format = number(view, offset, 2);
    uint64_t words = number(view, offset + 2, 2);
    assert((format & 1) == 1); /* all have times */
    assert((format >> 1) == 0 || (format >> 1) == 2);
    assert(offset % BLOCK + 64 <= BLOCK);
    return (struct erofs_view_inode){
        .offset = offset,
        .mode = (uint32_t)number(view, offset + 4, 2),
        .size = number(view, offset + 8, 8),
        .raw = (uint32_t)number(view, offset + 16, 4),
        .uid = (uint32_t)number(view, offset + 24, 4),
        .gid = (uint32_t)number(view, offset + 28, 4),
        .modified = (int64_t)number(view, offset + 32, 8),
        .link_count = (uint32_t)number(view, offset + 44, 4),
        .is_inline = (format >> 1) == 2,
        .attributes_size = words ? (uint32_t)(12 + 4 * (words - 1)) : 0,
    };
}

char *erofs_view_read(const struct erofs_view *view, const struct erofs_view_inode *inode) {
    uint64_t tail = inode->is_inline ? inode->size % BLOCK : 0;
    uint64_t whole = inode->size - tail;
    uint64_t from = (uint64_t)inode->raw * BLOCK;
    uint64_t inline_at = inode->offset + 64 + inode->attributes_size;
    char *data = calloc(1, (size_t)inode->size + 1);
    assert(data);
    if (whole > 0) {
        assert(from > 0 && from + whole <= view->size);
        memcpy(data, view->data + from, (size_t)whole);
    }
    if (tail > 0) {
        assert(inline_at % BLOCK + tail <= BLOCK ||
               inline_at / BLOCK == (inline_at + tail - 1) / BLOCK);
        assert(inline_at + tail <= view->size);
        memcpy(data + whole, view->data + inline_at, (size_t)tail);
    }
    return data;
}

/* Goes over a folder's entries. name NULL: counts them; else *ret_nid is that of the name. */
static size_t scan(const struct erofs_view *view, const struct erofs_view_inode *folder,
                   const char *name, uint64_t *ret_nid) {
    char *data = erofs_view_read(view, folder);
    char last[256] = "";
    size_t total = 0;
    size_t found = 0;
    for (uint64_t block = 0; block < folder->size; block += BLOCK) {
        size_t size = folder->size - block < BLOCK ? (size_t)(folder->size - block) : BLOCK;
        uint16_t first = 0;
        memcpy(&first, data + block + 8, 2);
        size_t count = first / 12;
        assert(count > 0 && first % 12 == 0 && first < size);
        for (size_t i = 0; i < count; i++) {
            uint16_t start = 0;
            uint16_t end = (uint16_t)size;
            char text[257] = "";
            memcpy(&start, data + block + i * 12 + 8, 2);
            if (i + 1 < count) {
                memcpy(&end, data + block + (i + 1) * 12 + 8, 2);
            }
            assert(start < end && end <= size && end - start <= 4096);
            size_t length = strnlen(data + block + start, end - start);
            assert(length > 0 && length < 256);
            memcpy(text, data + block + start, length);
            assert(strcmp(last, text) < 0);
            memcpy(last, text, sizeof(last));
            total++;
            if (name && strcmp(text, name) == 0) {
                memcpy(ret_nid, data + block + i * 12, 8);
                found = 1;
            }
        }
    }
    free(data);
    return name ? found : total;
}

size_t erofs_view_count(const struct erofs_view *view, const struct erofs_view_inode *folder) {
    return scan(view, folder, NULL, NULL);
}

bool erofs_view_find(const struct erofs_view *view, const char *path,
                     struct erofs_view_inode *ret_inode) {
    struct erofs_view_inode inode = inode_at(view, number(view, 1024 + 14, 2));
    while (*path) {
        char name[256] = "";
        uint64_t nid = 0;
        size_t size = strcspn(path, "/");
        assert(size > 0 && size < sizeof(name));
        memcpy(name, path, size);
        path += size + (path[size] == '/');
        if (!S_ISDIR(inode.mode) || scan(view, &inode, name, &nid) == 0) {
            return false;
        }
        inode = inode_at(view, nid);
    }
    *ret_inode = inode;
    return true;
}

const uint8_t *erofs_view_attribute(const struct erofs_view *view,
                                    const struct erofs_view_inode *inode, unsigned space,
                                    const char *name, size_t *ret_size) {
    uint64_t offset = inode->offset + 64 + 12;
    uint64_t end = inode->offset + 64 + inode->attributes_size;
    while (inode->attributes_size > 0 && offset < end) {
        size_t name_size = (size_t)number(view, offset, 1);
        size_t value_size = (size_t)number(view, offset + 2, 2);
        const uint8_t *text = view->data + offset + 4;
        assert(offset + 4 + name_size + value_size <= end);
        if (number(view, offset + 1, 1) == space && name_size == strlen(name) &&
            memcmp(text, name, name_size) == 0) {
            *ret_size = value_size;
            return text + name_size;
        }
        offset = (offset + 4 + name_size + value_size + 3) / 4 * 4;
    }
    return NULL;
}
