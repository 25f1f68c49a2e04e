/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/mac.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define MAC_BIT_GROUP 1u
#define MAC_BIT_LOCAL 2u

bool mac_is_host(const uint8_t mac[MAC_SIZE]) {
    static const uint8_t none[MAC_SIZE];
    ASSERT(mac);
    static_assert(sizeof(none) == 6, "all of it is compared");
    return !(mac[0] & MAC_BIT_GROUP) && memcmp(mac, none, sizeof(none)) != 0;
}

/* -1: it is no digit. */
static int digit_value(char digit) {
    static const char digits[] = "0123456789abcdefABCDEF";
    const char *place = digit != 0 ? strchr(digits, digit) : NULL;
    int value = place ? (int)(place - digits) : -1;
    ASSERT(value < (int)sizeof(digits) - 1);
    return value < 16 ? value : value - 6;
}

bool mac_parse(const char *text, uint8_t ret_mac[MAC_SIZE]) {
    ASSERT(text);
    ASSERT(ret_mac);
    uint8_t mac[MAC_SIZE];
    if (strnlen(text, MAC_TEXT_SIZE) != MAC_TEXT_SIZE - 1) {
        return false;
    }
    for (size_t i = 0; i < MAC_SIZE; i++) {
        const char *pair = text + 3 * i;
        int high = digit_value(pair[0]);
        int low = digit_value(pair[1]);
        if (high < 0 || low < 0 || pair[2] != (i + 1 < MAC_SIZE ? ':' : 0)) {
            return false;
        }
        mac[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(ret_mac, mac, MAC_SIZE);
    return true;
}

void mac_format(const uint8_t mac[MAC_SIZE], char ret_text[MAC_TEXT_SIZE]) {
    ASSERT(mac);
    ASSERT(ret_text);
    int size = snprintf(ret_text, MAC_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                        mac[2], mac[3], mac[4], mac[5]);
    ASSERT(size == MAC_TEXT_SIZE - 1);
}

void mac_make_local(uint8_t mac[MAC_SIZE]) {
    ASSERT(mac);
    mac[0] = (uint8_t)((mac[0] & ~MAC_BIT_GROUP) | MAC_BIT_LOCAL);
    ASSERT(mac_is_host(mac));
}
