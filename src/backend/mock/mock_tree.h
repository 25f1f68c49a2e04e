/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulated guest's folders as trees (protocol/tree.h). Functions return 0 or an errno. */
#ifndef KELPIE_BACKEND_MOCK_MOCK_TREE_H
#define KELPIE_BACKEND_MOCK_MOCK_TREE_H

#include "backend/mock/mock_files.h"

/* Makes the folder and those above it, as far as they are missing. */
int mock_tree_make_folder(struct mock_files *files, const char *path, uint32_t mode);

/* Appends the folder's tree: devices and programs are left out. Without memory the bytes have failed. */
void mock_tree_pack(const struct mock_files *files, const char *path, bool exact,
                    struct mock_bytes *bytes);

/* Puts what is in the tree below the folder. exact: in the place of what is there. Owners and attributes are forgotten, and each name of
 * a file gets a file of its own. */
int mock_tree_unpack(struct mock_files *files, const char *path, bool exact,
                     const struct mock_bytes *bytes);

#endif
